//! As `deny-all`, for the calls of the world `retention`. It asks for the deletion of the oldest backup.

use lifeboat_policy::{Backup, Error, ErrorKind, Outcome, Record, Result, catalog, clock, confirm, delete, policy};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    call: String,
    service: String,
    store: String,
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
        let Self { service, store, .. } = self;
        match self.call.as_str() {
            "catalog.list" => drop(catalog::list(service, store)?),
            "catalog.get" => drop(catalog::get(service, store, &self.oldest()?.id())?),
            "catalog.latest" => drop(catalog::latest(service, store, false)?),
            "catalog.hold" => catalog::hold(&self.oldest()?, clock::now() + 60_000, WHY)?,
            "catalog.unhold" => catalog::unhold(&self.oldest()?, WHY)?,
            "delete.plan" => drop(delete::plan(service, store)?),
            "confirm.request-delete" => drop(confirm::request_delete(&[&self.oldest()?], WHY)?),
            "delete.apply" => {
                let oldest = self.oldest()?;
                delete::apply(&[&oldest], confirm::request_delete(&[&oldest], WHY)?)?;
            }
            "clock.sleep-until" => clock::sleep_until(clock::now())?,
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
        lifeboat_policy::description::assert_fits::<super::Parameters>("deny-delete", include_str!("../policy.toml"));
    }
}
