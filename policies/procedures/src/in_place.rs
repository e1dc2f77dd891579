//! A proven backup put in place of the live data, with a person's consent, and the way back if the service does not hold on it.

use lifeboat_policy::{Backup, Outcome, Record, Result, confirm, promote, restore, step};

use crate::beside::{How, with_candidate};
use crate::checks::Checks;
use crate::live::{Live, held};
use crate::{choose, undo};

/// What is put in place, and how it is served.
#[derive(Debug)]
pub struct InPlace<'a> {
    /// The service.
    pub service: &'a str,
    /// As it was found.
    pub live: &'a Live<'a>,
    /// The backup.
    pub backup: &'a Backup,
    /// The version that is to serve it, where that is not the one that was found.
    pub version: Option<&'a str>,
    /// What the service must answer on it.
    pub checks: Checks<'a>,
    /// Why, for whoever is asked.
    pub why: &'a str,
    /// Whether what would run again is parked before anybody is asked.
    pub park: bool,
    /// How the candidate is made.
    pub how: How,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The service runs on the backup; what was there before is kept.
    Holds,
    /// The stored bytes are not those of the manifest; nothing was changed.
    Damaged,
    /// It did not pass after its restore; nothing was changed.
    NotVerified,
    /// The service did not hold on it; version and data from before are back in place.
    TakenBack,
    /// The service does not hold on it, and it stays in place.
    DoesNotHold,
}

impl InPlace<'_> {
    /// Reads the backup back, restores it beside the live data, compares, asks for consent, swaps, installs, starts and checks; if that does
    /// not hold, it asks whether to take it back, and reinstalls. The install comes after the swap: if it is interrupted, it is the restored
    /// copy that meets the wrong version, and not the only data that hold what was written since. It is given as an act, so that a policy
    /// which never installs does not import the call.
    ///
    /// # Errors
    ///
    /// If a step fails, or nobody consents; before the swap everything is then as it was found.
    pub fn put(
        &self,
        record: &mut Record,
        install: impl FnOnce() -> Result<()>,
        reinstall: impl FnOnce() -> Result<()>,
    ) -> Result<Put> {
        if !choose::is_whole(self.backup, record)? {
            return Ok(Put::Damaged);
        }
        let promotion = with_candidate(self.backup, self.how, record, |candidate, record| {
            if self.park {
                step(format!("park what would run again on candidate {}", candidate.id()), || {
                    restore::park(candidate)
                })?;
            }
            let approval = step("ask whether to put it in service", || confirm::request_promote(candidate, self.why))?;
            let what = format!("put candidate {} in service", candidate.id());
            self.live.stopped(record, || step(what, || promote::promote(candidate, approval)))
        })?;
        let Some(promotion) = promotion else { return Ok(Put::NotVerified) };
        record.fact("promotion", promotion.id());
        undo::note_previous(&promotion);

        let holds = install().and_then(|()| self.live.start_and_check(self.checks, Some(self.backup), record));
        if held(holds, record) {
            return Ok(Put::Holds);
        }
        let why = format!("{} does not hold on backup {}: see the findings of the run", self.on(), self.backup.id());
        Ok(match undo::offer(&promotion, self.live, &why, record, reinstall)? {
            true => Put::TakenBack,
            false => Put::DoesNotHold,
        })
    }

    /// The outcome in words.
    pub fn outcome(&self, put: Put) -> Outcome {
        let (on, id, store) = (self.on(), self.backup.id(), self.backup.store());
        let rows = if self.how.data_only { "the rows of " } else { "" };
        match put {
            Put::Holds => Outcome::ok(format!(
                "{} runs{} on {rows}backup {id}; the data from before are kept",
                self.service,
                self.version()
            )),
            Put::Damaged => {
                Outcome::verification_failed(format!("backup {id} in {store} is damaged; nothing was changed"))
            }
            Put::NotVerified => Outcome::verification_failed(format!(
                "backup {id} did not pass after its restore; the live data were not touched"
            )),
            Put::TakenBack => Outcome::verification_failed(format!(
                "{on} did not hold on backup {id}; what was there before is back in place"
            )),
            Put::DoesNotHold => {
                Outcome::verification_failed(format!("{on} does not hold on backup {id}, which stays in place"))
            }
        }
    }

    fn on(&self) -> String {
        format!("{}{}", self.service, self.version())
    }

    fn version(&self) -> String {
        self.version.map(|version| format!(" {version}")).unwrap_or_default()
    }
}
