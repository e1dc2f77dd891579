//! A verified candidate next to the live data.

use lifeboat_policy::{Backup, Candidate, Error, ErrorKind, Record, Result, promote, restore, step};

use crate::checks::cleaned;
use crate::drill::verified;

/// How a candidate is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// Parallel jobs for the restore.
    pub jobs: Option<u32>,
    /// Of databases only the rows, in the structure that the live ones have.
    pub data_only: bool,
}

/// Restores a backup beside the live data, compares it with its manifest, proves that it can be promoted, and hands it to `act`, which
/// promotes it. If anything fails, `act` included, the candidate is discarded and the live data are as they were. None: the backup did
/// not pass; the findings say why.
///
/// # Errors
///
/// If a step fails, or the host sees a reason against the promotion.
pub fn with_candidate<T>(
    backup: &Backup,
    how: How,
    record: &mut Record,
    act: impl FnOnce(&Candidate, &mut Record) -> Result<T>,
) -> Result<Option<T>> {
    let options = restore::Options::new();
    if let Some(jobs) = how.jobs {
        options.set_jobs(jobs);
    }
    if how.data_only {
        options.set_data_only(true);
        record.fact("data-only", true);
    }
    let rows = if how.data_only { "the rows of " } else { "" };
    let what = format!("stage {rows}backup {} beside the live data", backup.id());
    let candidate = step(what, || restore::stage(backup, "beside", &options))?;
    let result = proven(&candidate, record).and_then(|proven| match proven {
        true => act(&candidate, record).map(Some),
        false => Ok(None),
    });
    if !matches!(result, Ok(Some(_))) {
        let id = candidate.id();
        let discarded = step(format!("discard candidate {id}"), || restore::discard(&candidate));
        cleaned(discarded, "teardown", format!("lifeboat candidates discard {id}"), record);
    }
    result
}

fn proven(candidate: &Candidate, record: &mut Record) -> Result<bool> {
    let what = format!("compare candidate {} with the manifest", candidate.id());
    let verification = step(what, || restore::verify(candidate))?;
    if !verified(&verification, record) {
        return Ok(false);
    }
    let what = format!("prove that candidate {} can be promoted", candidate.id());
    let findings = step(what, || promote::preflight(candidate))?;
    let reasons: Vec<_> = findings.iter().filter(|f| f.is_error()).map(|f| f.message.clone()).collect();
    if record.passes(findings) {
        return Ok(true);
    }
    Err(Error::new(ErrorKind::Refused, format!("the candidate can't be promoted: {}", reasons.join("; "))))
}
