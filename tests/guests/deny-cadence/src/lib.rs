//! As `deny-all`, for the calls of the world `cadence`; and says that something is due, as it is told to.

use lifeboat_policy::{Backup, Error, ErrorKind, Outcome, Record, Result, catalog, clock, policy, schedule};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    call: String,
    service: String,
    store: String,
    #[serde(default = "backup")]
    policy: String,
    #[serde(default = "nothing")]
    parameters: String,
    #[serde(default = "once")]
    times: u64,
}

fn backup() -> String {
    "backup".into()
}

fn nothing() -> String {
    "{}".into()
}

fn once() -> u64 {
    1
}

policy!(run);

fn run(p: Parameters, _: &mut Record) -> Result<Outcome> {
    match p.make() {
        Ok(()) => Ok(Outcome::ok(format!("{} was allowed", p.call))),
        Err(error) => Err(error.clone().context(error.kind().word())),
    }
}

const WHY: &str = "a test of denials";

impl Parameters {
    fn make(&self) -> Result<()> {
        let Self { service, store, policy, .. } = self;
        match self.call.as_str() {
            "catalog.list" => drop(catalog::list(service, store)?),
            "catalog.get" => drop(catalog::get(service, store, &self.oldest()?.id())?),
            "catalog.latest" => drop(catalog::latest(service, store, false)?),
            "schedule.terms-of" => drop(schedule::terms_of(service)?),
            "schedule.runs" => drop(schedule::runs(policy, None)?),
            "schedule.previous-time" => drop(schedule::previous_time("0 3 * * *", "UTC", clock::now())?),
            "schedule.next-time" => drop(schedule::next_time("0 3 * * *", "UTC", clock::now())?),
            "schedule.due" => {
                for n in 0..self.times {
                    schedule::due(&format!("{service}/{n}"), policy, &self.parameters, n, WHY);
                }
                schedule::wake_at(clock::now() + 1);
            }
            other => return Err(Error::new(ErrorKind::Invalid, format!("`{other}` is no call of this policy"))),
        }
        Ok(())
    }

    fn oldest(&self) -> Result<Backup> {
        let first = catalog::list(&self.service, &self.store)?.into_iter().next();
        first.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no backup of {} to begin with", self.service)))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("deny-cadence", include_str!("../policy.toml"));
    }
}
