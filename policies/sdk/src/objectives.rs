//! How much data a recovery loses (recovery point) and how long it takes (recovery time), measured and held against objectives.

use serde::{Deserialize, Serialize};

use crate::bindings::lifeboat::recovery::types::Backup;
use crate::{Finding, time};

/// What an operator promised. Without a number, nothing is compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Objectives {
    /// At most so many seconds between the newest record in the backup and now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo_s: Option<u64>,
    /// At most so many seconds from the start of the restore to a ready service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_s: Option<u64>,
}

/// What would be lost if the data were lost now, milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RecoveryPoint {
    /// Age of the newest record when the backup was taken, where the environment says how to find that record.
    pub newest_to_taken_ms: Option<u64>,
    /// Age of the newest record now.
    pub newest_to_now_ms: Option<u64>,
    /// Age of the backup now.
    pub taken_to_now_ms: u64,
}

impl RecoveryPoint {
    /// Measured from a backup, and from the newest record that was read back from it where that is known.
    pub fn measure(backup: &Backup, newest_at_ms: Option<u64>, now_ms: u64) -> Self {
        Self::between(newest_at_ms.or_else(|| backup.newest_at_ms()), backup.taken_at_ms(), now_ms)
    }

    fn between(newest_at_ms: Option<u64>, taken_at_ms: u64, now_ms: u64) -> Self {
        Self {
            newest_to_taken_ms: newest_at_ms.map(|newest| taken_at_ms.saturating_sub(newest)),
            newest_to_now_ms: newest_at_ms.map(|newest| now_ms.saturating_sub(newest)),
            taken_to_now_ms: now_ms.saturating_sub(taken_at_ms),
        }
    }

    /// In words.
    pub fn words(&self) -> String {
        let taken = time::words(self.taken_to_now_ms);
        match self.newest_to_now_ms {
            Some(newest) => format!("newest record {} old, backup {taken} old", time::words(newest)),
            None => format!("backup {taken} old, newest record not known"),
        }
    }

    /// An error finding `rpo` if it is older than the objective; a warning if only the backup's own age could be compared.
    pub fn findings(&self, objectives: &Objectives) -> Vec<Finding> {
        let Some(limit_ms) = objectives.rpo_s.map(|limit_s| limit_s.saturating_mul(1_000)) else { return Vec::new() };
        let age_ms = self.newest_to_now_ms.unwrap_or(self.taken_to_now_ms);
        let mut findings = Vec::new();
        if self.newest_to_now_ms.is_none() {
            let message = "the newest record is not known; the objective was compared with the backup's own age";
            findings.push(Finding::warning("rpo", message).fix("configure `newest` for the service"));
        }
        if age_ms > limit_ms {
            let message = format!("{}; the objective is {}", self.words(), time::words(limit_ms));
            findings.push(Finding::error("rpo", message).fix("take backups more often, or find out why they stopped"));
        }
        findings
    }
}

/// An error finding `rto` if a recovery took longer than the objective.
pub fn recovery_time(took_ms: u64, objectives: &Objectives) -> Option<Finding> {
    let limit_ms = objectives.rto_s?.saturating_mul(1_000);
    (took_ms > limit_ms).then(|| {
        let (took, limit) = (time::words(took_ms), time::words(limit_ms));
        Finding::error("rto", format!("restore to ready took {took}; the objective is {limit}"))
            .fix("restore with more jobs, or on a faster disk")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rpo(rpo_s: u64) -> Objectives {
        Objectives { rpo_s: Some(rpo_s), rto_s: None }
    }

    #[test]
    fn a_record_older_than_the_objective_is_found() {
        let point = RecoveryPoint::between(Some(1_000), 3_000, 61_001);
        assert_eq!(point.newest_to_taken_ms, Some(2_000));
        assert_eq!(point.findings(&rpo(60)).len(), 1);
        assert!(point.findings(&rpo(61)).is_empty());
        assert!(point.findings(&Objectives::default()).is_empty());
    }

    #[test]
    fn without_a_newest_record_the_backups_age_counts_and_that_is_said() {
        let point = RecoveryPoint::between(None, 3_000, 63_001);
        let findings = point.findings(&rpo(60));
        assert_eq!(findings.iter().map(Finding::is_error).collect::<Vec<_>>(), [false, true]);
        assert_eq!(point.findings(&rpo(3_600)).len(), 1);
    }

    #[test]
    fn a_clock_behind_the_data_is_no_underflow() {
        let point = RecoveryPoint::between(Some(5_000), 4_000, 3_000);
        assert_eq!(point, RecoveryPoint { newest_to_taken_ms: Some(0), newest_to_now_ms: Some(0), taken_to_now_ms: 0 });
    }

    #[test]
    fn recovery_time_is_held_against_its_objective() {
        let objectives = Objectives { rpo_s: None, rto_s: Some(2) };
        assert!(recovery_time(2_000, &objectives).is_none());
        assert!(recovery_time(2_001, &objectives).unwrap().is_error());
        assert!(recovery_time(9_000, &Objectives::default()).is_none());
    }
}
