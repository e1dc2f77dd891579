//! Makes one call and answers with its error, so that a test can deny every call of the contract in turn. Calls it needs to get there (a
//! backup for a copy, a candidate to verify) have to be granted; `report` and `clock.now` are never denied.
//!
//! What it opened on the way, it does not close: that is the host's, and part of the test.

use lifeboat_policy::{
    Backup, Candidate, Error, ErrorKind, Outcome, Promotion, Record, Result, catalog, clock, confirm, dump, http_check,
    policy, promote, query, restore, scratch, service, upload,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    call: String,
    service: String,
    store: String,
    #[serde(default = "copy")]
    copy: String,
    #[serde(default = "beside")]
    target: String,
    #[serde(default = "name")]
    name: String,
    #[serde(default = "version")]
    version: String,
    #[serde(default = "endpoint")]
    endpoint: String,
    #[serde(default = "method")]
    method: String,
    #[serde(default = "path")]
    path: String,
}

fn copy() -> String {
    "offsite".into()
}

fn beside() -> String {
    "beside".into()
}

fn name() -> String {
    "count".into()
}

fn version() -> String {
    "1.0.0".into()
}

fn endpoint() -> String {
    "notes/api".into()
}

fn method() -> String {
    "GET".into()
}

fn path() -> String {
    "/readyz".into()
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
        let Self { service, store, copy, name, version, endpoint, .. } = self;
        match self.call.as_str() {
            "catalog.list" => drop(catalog::list(service, store)?),
            "catalog.get" => drop(catalog::get(service, store, &self.backup()?.id())?),
            "catalog.latest" => drop(catalog::latest(service, store, false)?),
            "catalog.hold" => catalog::hold(&self.backup()?, clock::now() + 60_000, WHY)?,
            "catalog.unhold" => catalog::unhold(&self.backup()?, WHY)?,
            "dump.take" => drop(dump::take(service, store, &dump::Options::new())?),
            "upload.copy" => drop(upload::copy(&self.backup()?, copy)?),
            "upload.attest" => drop(upload::attest(&self.backup()?, "checksum")?),
            "upload.verify" => drop(upload::verify(&self.backup()?, "checksum")?),
            "restore.stage" => drop(self.candidate(&self.target)?),
            "restore.verify" => drop(restore::verify(&self.candidate(&self.target)?)?),
            "restore.park" => restore::park(&self.candidate(&self.target)?)?,
            "restore.query" => drop(restore::query(&self.candidate(&self.target)?, name)?),
            "restore.discard" => restore::discard(&self.candidate(&self.target)?)?,
            "scratch.start" => drop(self.instance()?),
            "scratch.wait-ready" => drop(scratch::wait_ready(&self.instance()?)?),
            "scratch.stop" => drop(scratch::stop(&self.instance()?)?),
            "service.get-status" => drop(service::get_status(service)?),
            "service.stop" => service::stop(service, "start")?,
            "service.start" => service::start(service)?,
            "service.wait-ready" => drop(service::wait_ready(service)?),
            "service.installable" => service::installable(service, version)?,
            "service.install" => service::install(service, version)?,
            "query.run" => drop(query::run(service, name)?),
            "http-check.check" => {
                let request = http_check::Request::new(&self.method, &self.path);
                drop(http_check::check(endpoint, &request)?);
            }
            "confirm.request-promote" => drop(confirm::request_promote(&self.candidate("beside")?, WHY)?),
            "confirm.request-undo" => drop(confirm::request_undo(&self.promotion()?, WHY)?),
            "confirm.request-drop-previous" => drop(confirm::request_drop_previous(&self.promotion()?, WHY)?),
            "promote.preflight" => drop(promote::preflight(&self.candidate("beside")?)?),
            "promote.promote" => {
                let candidate = self.candidate("beside")?;
                restore::verify(&candidate)?;
                let approval = confirm::request_promote(&candidate, WHY)?;
                service::stop(service, "start")?;
                drop(promote::promote(&candidate, approval)?);
            }
            "promote.undo" => {
                let promotion = self.promotion()?;
                let approval = confirm::request_undo(&promotion, WHY)?;
                service::stop(service, "start")?;
                promote::undo(&promotion, approval)?;
            }
            "promote.drop-previous" => {
                let promotion = self.promotion()?;
                promote::drop_previous(&promotion, confirm::request_drop_previous(&promotion, WHY)?)?;
            }
            "promote.latest" => drop(promote::latest(service)?),
            "clock.sleep-until" => clock::sleep_until(clock::now())?,
            other => return Err(Error::new(ErrorKind::Invalid, format!("`{other}` is no call of this policy"))),
        }
        Ok(())
    }

    fn backup(&self) -> Result<Backup> {
        self.there(catalog::latest(&self.service, &self.store, false)?, "backup")
    }

    fn candidate(&self, target: &str) -> Result<Candidate> {
        Ok(restore::stage(&self.backup()?, target, &restore::Options::new())?)
    }

    fn instance(&self) -> Result<scratch::Instance> {
        Ok(scratch::start(&self.candidate("scratch")?, None)?)
    }

    fn promotion(&self) -> Result<Promotion> {
        self.there(promote::latest(&self.service)?, "promotion")
    }

    fn there<T>(&self, found: Option<T>, what: &str) -> Result<T> {
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("no {what} of {} to begin with", self.service)))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("deny-all", include_str!("../policy.toml"));
    }
}
