//! Says if the newest verified backup is too old.

wit_bindgen::generate!({ world: "policy", path: "wit", generate_all });

use lifeboat::recovery::report::{self, Finding};
use lifeboat::recovery::{catalog, clock, types};
use serde::Deserialize;

/// As policy.toml describes them; the engine has checked them against that.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    store: String,
    hours_max: u64,
}

struct Policy;

impl Guest for Policy {
    fn run(parameters: String) -> Result<(), String> {
        let p: Parameters = serde_json::from_str(&parameters).map_err(|e| format!("parameters: {e}"))?;
        let newest = catalog::latest(&p.service, &p.store, true).map_err(|e| words("catalog.latest", &e))?;
        let wrong = match newest {
            None => Some(format!("{} holds no verified backup of {}", p.store, p.service)),
            Some(backup) => {
                let hours = clock::now().saturating_sub(backup.taken_at_ms()) / 3_600_000;
                report::note(&format!("backup {} is {hours} h old", backup.id()));
                (hours >= p.hours_max).then(|| format!("the newest verified backup is {hours} h old"))
            }
        };
        match wrong {
            None => report::outcome("ok", "the newest verified backup is young enough"),
            Some(message) => {
                report::outcome("verification-failed", &message);
                let fix = "see why none was taken since".into();
                report::add_finding(&Finding { rule: "age".into(), severity: "error".into(), message, fix });
            }
        }
        Ok(())
    }
}

/// The words of an error, for whoever reads how the run ended.
fn words(call: &str, error: &types::Error) -> String {
    use types::Error::*;
    match error {
        Denied(text) | Invalid(text) | NotFound(text) | Conflict(text) | Refused(text) | Rejected(text)
        | Expired(text) | Failed(text) | TimedOut(text) | Other(text) => format!("{call}: {text}"),
        Cancelled => format!("{call}: cancelled"),
    }
}

export!(Policy);
