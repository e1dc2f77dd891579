//! What a running service must answer, live or in quarantine.

use lifeboat_policy::smoke::{Smoke, Step};
use lifeboat_policy::template::Values;
use lifeboat_policy::{Backup, Error, ErrorKind, Finding, Record, Result, step};

/// An endpoint and what it must answer.
#[derive(Debug, Clone, Copy)]
pub struct Checks<'a> {
    /// The environment's name for the endpoint.
    pub endpoint: &'a str,
    /// Requests that must work, before and after the smoke test.
    pub lists: &'a [Step],
    /// The smoke test.
    pub smoke: &'a [Step],
}

impl Checks<'_> {
    /// Takes all of them: the lists, the smoke test, and the lists again, because a service can break by what the test made it write.
    /// `owner`: id of a scratch instance, or name of the live service. `backup`: whose known records and time the steps may name; without
    /// one, they may name none. Answers whether all held.
    ///
    /// # Errors
    ///
    /// If a request could not be made.
    pub fn run(&self, owner: &str, backup: Option<&Backup>, record: &mut Record) -> Result<bool> {
        self.ask(owner, backup, record, |finding, record| record.finding(finding))
    }

    /// The same, with each finding given to `found`: what is wrong with a service that is only looked at is no failure of the procedure.
    ///
    /// # Errors
    ///
    /// If a request could not be made.
    pub fn ask(
        &self,
        owner: &str,
        backup: Option<&Backup>,
        record: &mut Record,
        mut found: impl FnMut(Finding, &mut Record),
    ) -> Result<bool> {
        if self.lists.is_empty() && self.smoke.is_empty() {
            let message = "nothing was asked beyond readiness, and a service can be ready on an empty database";
            record.finding(Finding::warning("no-smoke", message).fix("give `lists` and `smoke`"));
        }
        let mut test = Smoke::new(format!("{owner}/{}", self.endpoint), backup.map(Values::of).unwrap_or_default());
        let mut part = |words: &str, rule: &str, steps: &[Step]| -> Result<bool> {
            if steps.is_empty() {
                return Ok(true);
            }
            let findings = step(format!("{words} on {owner}, {} requests", steps.len()), || test.run(rule, steps));
            record.fact("checks", test.observed());
            let findings = findings?;
            let passed = findings.is_empty();
            findings.into_iter().for_each(|finding| found(finding, record));
            Ok(passed)
        };
        let listed = part("lists", "list", self.lists)?;
        let passed = part("smoke test", "smoke", self.smoke)?;
        let again = !listed || self.smoke.is_empty() || part("lists after the smoke test", "list", self.lists)?;
        Ok(listed && passed && again)
    }
}

/// A failure that says something about the backup or the service becomes an error finding, and the answer is none; one that says that
/// the check could not run stays an error.
///
/// # Errors
///
/// The given one, if it is not about the subject.
pub fn as_finding<T>(result: Result<T>, rule: &str, record: &mut Record) -> Result<Option<T>, Error> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_about_the_subject() => {
            record.finding(Finding::error(rule, error.to_string()));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What could not be cleaned up is an error finding, so that it does not hide why a run ended. After a cancellation the host cleans up.
pub fn cleaned(result: Result<()>, rule: &str, fix: impl Into<String>, record: &mut Record) {
    if let Err(error) = result
        && error.kind() != ErrorKind::Cancelled
    {
        record.finding(Finding::error(rule, error.to_string()).fix(fix));
    }
}
