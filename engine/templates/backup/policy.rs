//! Takes a backup, reads it back from the store, and says what is off.

wit_bindgen::generate!({ world: "policy", path: "wit", generate_all });

use lifeboat::recovery::report::{self, Finding};
use lifeboat::recovery::{dump, types, upload};
use serde::Deserialize;

/// As policy.toml describes them; the engine has checked them against that.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    store: String,
    depth: String,
    bytes_min: u64,
}

struct Policy;

impl Guest for Policy {
    fn run(parameters: String) -> Result<(), String> {
        let p: Parameters = serde_json::from_str(&parameters).map_err(|e| format!("parameters: {e}"))?;
        let backup = dump::take(&p.service, &p.store, &dump::Options::new()).map_err(|e| words("dump.take", &e))?;
        let (id, bytes) = (backup.id(), backup.stored_bytes());
        report::note(&format!("backup {id}: {bytes} bytes"));

        let mut sound = true;
        for finding in upload::verify(&backup, &p.depth).map_err(|e| words("upload.verify", &e))? {
            sound &= finding.severity != "error";
            report::add_finding(&finding);
        }
        if bytes < p.bytes_min {
            sound = false;
            report::add_finding(&Finding {
                rule: "small".into(),
                severity: "error".into(),
                message: format!("backup {id} has {bytes} bytes, fewer than {}", p.bytes_min),
                fix: "see whether the service still has its data".into(),
            });
        }
        if sound {
            report::outcome("ok", &format!("backup {id} is in {}", p.store));
        } else {
            report::outcome("verification-failed", &format!("backup {id} was taken, but must not be relied on"));
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
