//! A restore into scratch that proves a backup: staged, read back row by row, served in quarantine, asked, thrown away.

use lifeboat_policy::objectives::{Objectives, RecoveryPoint, recovery_time};
use lifeboat_policy::restore::Verification;
use lifeboat_policy::{Backup, Candidate, Finding, Record, Result, clock, note, restore, scratch, step, time};
use serde::Serialize;

use crate::checks::{Checks, as_finding, cleaned};

/// How to drill.
#[derive(Debug)]
pub struct Drill<'a> {
    /// Version to serve it with; the live one if not given.
    pub version: Option<&'a str>,
    /// What the service must answer on it.
    pub checks: Checks<'a>,
    /// What was promised.
    pub objectives: &'a Objectives,
    /// Parallel jobs for the restore.
    pub jobs: Option<u32>,
}

/// A recovery's time and its parts, milliseconds.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct RecoveryTime {
    stage_ms: u64,
    verify_ms: u64,
    start_to_ready_ms: u64,
    stage_to_ready_ms: u64,
}

impl Drill<'_> {
    /// Drills a backup; everything that is wrong with it is an error finding in the record. The scratch is always cleaned up; what
    /// could not be cleaned is a finding too.
    ///
    /// # Errors
    ///
    /// If a part of it could not run.
    pub fn run(&self, backup: &Backup, record: &mut Record) -> Result<()> {
        let started_ms = clock::now();
        let options = restore::Options::new();
        if let Some(jobs) = self.jobs {
            options.set_jobs(jobs);
        }
        let staged =
            step(format!("stage backup {} in scratch", backup.id()), || restore::stage(backup, "scratch", &options));
        let Some(candidate) = as_finding(staged, "stage", record)? else { return Ok(()) };
        let result = self.on(&candidate, backup, started_ms, record);
        let discarded = step(format!("discard candidate {}", candidate.id()), || restore::discard(&candidate));
        cleaned(discarded, "teardown", format!("lifeboat candidates discard {}", candidate.id()), record);
        result
    }

    fn on(&self, candidate: &Candidate, backup: &Backup, started_ms: u64, record: &mut Record) -> Result<()> {
        let verification =
            step(format!("compare candidate {} with the manifest", candidate.id()), || restore::verify(candidate))?;
        verified(&verification, record);
        let point = RecoveryPoint::measure(backup, verification.newest_at_ms(), started_ms);
        note(format!("recovery point: {}", point.words()));
        record.passes(point.findings(self.objectives));
        record.fact("recovery-point", &point);

        // Also after a failed comparison: a drill finds as much as it can.
        let version = self.version.map(|version| format!(" with version {version}")).unwrap_or_default();
        let started =
            step(format!("start the service in quarantine{version}"), || scratch::start(candidate, self.version));
        let Some(instance) = as_finding(started, "start", record)? else { return Ok(()) };
        let result = self.ask(&instance, candidate, &verification, backup, started_ms, record);
        match step(format!("stop {} and prove its quarantine", instance.id()), || scratch::stop(&instance)) {
            Ok(findings) => _ = record.passes(findings),
            failed => {
                cleaned(failed.map(drop), "teardown", "see that no process of the scratch instance is left", record)
            }
        }
        result
    }

    fn ask(
        &self,
        instance: &scratch::Instance,
        candidate: &Candidate,
        verification: &Verification,
        backup: &Backup,
        started_ms: u64,
        record: &mut Record,
    ) -> Result<()> {
        let ready = step("wait until it is ready", || scratch::wait_ready(instance));
        let Some(start_to_ready_ms) = as_finding(ready, "not-ready", record)? else { return Ok(()) };
        let stage_to_ready_ms = clock::now().saturating_sub(started_ms);
        note(format!(
            "recovery time: {} from the start of the restore to a ready service",
            time::words(stage_to_ready_ms)
        ));
        recovery_time(stage_to_ready_ms, self.objectives).into_iter().for_each(|finding| record.finding(finding));
        record.fact(
            "recovery-time",
            RecoveryTime {
                stage_ms: candidate.elapsed_ms(),
                verify_ms: verification.elapsed_ms(),
                start_to_ready_ms,
                stage_to_ready_ms,
            },
        );
        self.checks.run(&instance.id(), Some(backup), record)?;
        Ok(())
    }
}

/// Records what reading a candidate back found; answers whether it passed.
pub(crate) fn verified(verification: &Verification, record: &mut Record) -> bool {
    let (rows, files) = (verification.rows(), verification.files());
    note(format!("{rows} rows and {files} files compared"));
    record.fact("rows-compared", rows);
    record.fact("files-compared", files);
    let passes = record.passes(verification.findings());
    if passes && !verification.passed() {
        record.finding(Finding::error("verification", "the comparison did not pass and names no reason"));
    }
    passes && verification.passed()
}
