//! What of an instance is on disk, so that an engine after this one finds it again: `candidates/INSTANCE.instance.json`.
//!
//! It is written before the process is started, with the facts as they were then: another attempt at the same start compares with these,
//! and not with what a first, short-lived process may have made of them.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Answers, Instance};
use crate::disk::write_private;
use crate::error::{Context, Error, Result};
use crate::restore::Candidate;

/// Ends the name of such a file.
const SUFFIX: &str = ".instance.json";

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Kept {
    pub(super) candidate: Candidate,
    pub(super) version: Option<String>,
    /// Answers to the configured facts before the first start.
    pub(super) before: Answers,
    /// Its process, once it was seen to run.
    pub(super) running: Option<Instance>,
}

fn path(candidates: &Path, instance: &str) -> PathBuf {
    candidates.join(format!("{instance}{SUFFIX}"))
}

impl Kept {
    /// What is on disk of an instance; none where nothing is.
    pub(super) fn read(candidates: &Path, instance: &str) -> Result<Option<Self>> {
        let path = path(candidates, instance);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).doing(|| format!("reading {}", path.display())),
        };
        serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|e| Error::failed(format!("{} can't be read: {e}", path.display())))
    }

    /// Writes it, on disk when this answers.
    pub(super) fn write(&self, candidates: &Path, instance: &str) -> Result<()> {
        let path = path(candidates, instance);
        let text = serde_json::to_vec(self).doing(|| format!("writing {}", path.display()))?;
        write_private(&path, &text)
    }
}

/// Forgets the instances of a candidate that is removed. One that can't be read is of no use to anyone.
pub(super) fn forget(candidates: &Path, candidate: &str) {
    for entry in std::fs::read_dir(candidates).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(instance) = name.to_str().and_then(|name| name.strip_suffix(SUFFIX)) else { continue };
        if !matches!(Kept::read(candidates, instance), Ok(Some(kept)) if kept.candidate.id != candidate) {
            // One that stays names a candidate that is gone, which is noticed when it is used.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
