//! Looks at the catalog so many times, one note each: a run that can be interrupted and resumed at every step, and measured.

use lifeboat_policy::{Outcome, Record, Result, catalog, note, policy};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    store: String,
    #[serde(default = "ten")]
    times: u32,
}

fn ten() -> u32 {
    10
}

policy!(run);

fn run(p: Parameters, record: &mut Record) -> Result<Outcome> {
    let mut seen = 0;
    for turn in 1..=p.times {
        seen += u32::from(catalog::latest(&p.service, &p.store, false)?.is_some());
        note(format!("{turn} of {}", p.times));
    }
    record.fact("seen", seen);
    Ok(Outcome::ok(format!("looked {} times", p.times)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("counts", include_str!("../policy.toml"));
    }
}
