//! What a policy says: to people (notes, findings, evidence, an outcome), and of the time to come (what is due, when to wake it). Kept with the
//! next record, shown at once.

use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use host_api::{Finding, identifier};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result};
use crate::journal::Record;
use crate::observe::{Event, Observer};
use crate::schedule::Due;

/// What an item takes beside its words: also an empty note is written down.
const ITEM_BYTES: usize = 64;
/// What a file takes beside its content: a block, and three calls that wait for the disk.
const FILE_BYTES: usize = 64 << 10;

/// Everything said in a run.
#[derive(Debug, Default)]
pub(crate) struct Said {
    /// Since the last record, told or not.
    pending: Vec<Item>,
    /// How many of those the observer has heard.
    told: usize,
    bytes: usize,
    /// All findings of the run.
    pub(crate) findings: Vec<Finding>,
    /// The outcome, once said.
    pub(crate) outcome: Option<(String, String)>,
    /// All that was said to be due.
    pub(crate) due: Vec<Due>,
    /// The earliest time to wake it, Unix milliseconds, if one was said.
    pub(crate) wake_at_ms: Option<u64>,
}

#[derive(Debug)]
enum Item {
    Note(String),
    Finding(Finding),
    Evidence(String, String),
    Due(Due),
    WakeAt(u64),
}

impl Said {
    pub(crate) fn note(&mut self, text: &str) {
        self.bytes += text.len() + ITEM_BYTES;
        self.pending.push(Item::Note(text.to_owned()));
    }

    pub(crate) fn finding(&mut self, finding: Finding) {
        self.bytes += finding.rule.len() + finding.message.len() + finding.fix.len() + ITEM_BYTES;
        self.findings.push(finding.clone());
        self.pending.push(Item::Finding(finding));
    }

    pub(crate) fn evidence(&mut self, name: &str, json: &str) {
        self.bytes += name.len() + json.len() + FILE_BYTES;
        self.pending.push(Item::Evidence(name.to_owned(), json.to_owned()));
    }

    pub(crate) fn outcome(&mut self, code: &str, summary: &str) {
        self.bytes += summary.len() + ITEM_BYTES;
        self.outcome = Some((code.to_owned(), summary.to_owned()));
    }

    pub(crate) fn due(&mut self, due: Due) {
        self.bytes += due.duty.len() + due.policy.len() + due.parameters.len() + due.why.len() + ITEM_BYTES;
        self.due.push(due.clone());
        self.pending.push(Item::Due(due));
    }

    pub(crate) fn wake_at(&mut self, time_ms: u64) {
        self.bytes += ITEM_BYTES;
        self.wake_at_ms = Some(self.wake_at_ms.map_or(time_ms, |earlier| earlier.min(time_ms)));
        self.pending.push(Item::WakeAt(time_ms));
    }

    /// Bytes said in the whole run.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Tells the observer what it has not heard.
    pub(crate) fn tell(&mut self, observer: &dyn Observer, run: &str) {
        for item in &self.pending[self.told..] {
            match item {
                Item::Note(text) => observer.event(run, &Event::Note(text.clone())),
                Item::Finding(finding) => observer.event(run, &Event::Finding(finding.clone())),
                Item::Due(due) => observer.event(run, &Event::Due(due.clone())),
                Item::Evidence(..) | Item::WakeAt(_) => {}
            }
        }
        self.told = self.pending.len();
    }

    /// Reads the findings of a run from its records, where its policy is not called again.
    pub(crate) fn recall(&mut self, records: &[Record]) {
        let said = records.iter().flat_map(|r| r.body["said"].as_array().into_iter().flatten());
        self.findings.extend(said.filter_map(|item| serde_json::from_value(item["finding"].clone()).ok()));
    }

    /// Drops what stands in the journal. Findings and outcome are kept: the run's end needs them.
    pub(crate) fn forget_pending(&mut self) {
        self.pending.clear();
        self.told = 0;
    }

    /// What goes with the next record; evidence is on disk when this answers.
    pub(crate) fn pending(&self, state_directory: &Path, run: &str) -> Result<Vec<Value>> {
        let mut items = Vec::with_capacity(self.pending.len());
        for item in &self.pending {
            items.push(match item {
                Item::Note(text) => json!({"note": text}),
                Item::Finding(finding) => json!({"finding": finding}),
                Item::Due(due) => json!({"due": due}),
                Item::WakeAt(time_ms) => json!({"wake-at-ms": time_ms}),
                Item::Evidence(name, json) => {
                    // The host's own files at the run's end have these names.
                    let name = match name.as_str() {
                        JOURNAL => "policy-journal.json",
                        CHECKPOINT_FILE => "policy-checkpoint.txt",
                        name => name,
                    };
                    let path = write_evidence(state_directory, run, name, json.as_bytes())?;
                    let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
                    json!({"evidence": name, "sha256": hex::encode(Sha256::digest(json.as_bytes()))})
                }
            });
        }
        Ok(items)
    }
}

/// The run's own records, in its evidence.
pub(crate) const JOURNAL: &str = "journal.jsonl";
/// A signed checkpoint of the log, in the evidence of the run at whose end it was made.
pub(crate) const CHECKPOINT_FILE: &str = "checkpoint.txt";

/// Where a run's evidence lies.
pub fn evidence_directory(state_directory: &Path, run: &str) -> PathBuf {
    state_directory.join("evidence").join(run)
}

/// Writes a file of a run's evidence: temporary name, fsync, rename, fsync of the directory. The name is a guest's: only letters, digits,
/// `-`, `_` and `.` are kept.
pub(crate) fn write_evidence(state_directory: &Path, run: &str, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    let mut safe: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')).take(64).collect();
    if safe.trim_start_matches('.').is_empty() || safe.starts_with('.') {
        safe = format!("evidence-{}", identifier::fresh());
    }
    let directory = evidence_directory(state_directory, run);
    let path = directory.join(&safe);
    let write = || -> std::io::Result<()> {
        use std::io::Write;
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        let temporary = directory.join(format!(".{safe}.tmp"));
        let mut file =
            std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        std::fs::File::open(&directory)?.sync_all()
    };
    write().map_err(|e| Error::new(Kind::Journal, format!("evidence {}: {e}", path.display())))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guests_file_name_stays_in_the_evidence_directory() {
        let state = tempfile::tempdir().unwrap();
        for name in ["../../etc/passwd", "..", "", "a/b", ".hidden", "\u{1b}[2J.json"] {
            let path = write_evidence(state.path(), "r1", name, b"{}").unwrap();
            assert_eq!(path.parent().unwrap(), evidence_directory(state.path(), "r1"), "{name:?}");
        }
        assert!(write_evidence(state.path(), "r1", "drill.json", b"{}").unwrap().ends_with("drill.json"));
    }

    #[test]
    fn a_policy_can_not_write_what_the_host_writes_at_a_runs_end() {
        let state = tempfile::tempdir().unwrap();
        let mut said = Said::default();
        [JOURNAL, CHECKPOINT_FILE].iter().for_each(|name| said.evidence(name, "{}"));
        let items = said.pending(state.path(), "r1").unwrap();
        let names: Vec<&str> = items.iter().filter_map(|item| item["evidence"].as_str()).collect();
        assert_eq!(names, ["policy-journal.json", "policy-checkpoint.txt"]);
    }
}
