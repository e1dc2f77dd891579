//! What a store that may only be written to has told a step of copying: `copied/STORE/RUN-STEP` in the engine's private space, a key a line.
//!
//! Such a store can't be asked whose an object is that has a key already. But when it says that an object was created, and not that there was one,
//! it was this step's. That is kept here before the next object is sent, so that a later attempt takes for ours what the store has called ours, and
//! nothing else. Of the one that arrived in the moment in which the engine died, nobody can tell.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::catalog::sent;
use crate::context::StepContext;
use crate::error::{Context, Error, Result};
use crate::stores::ObjectStore;

/// What one step was told.
pub(super) struct Told {
    path: PathBuf,
    created: BTreeSet<String>,
}

impl Told {
    /// As far as this machine remembers it.
    pub(super) fn of(state_dir: &Path, store: &ObjectStore, cx: &StepContext) -> Result<Self> {
        let path = state_dir.join("copied").join(store.name()).join(cx.record_id());
        let text = match std::fs::read_to_string(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.doing(|| format!("reading {}", path.display()))?,
        };
        // What has no end was cut off: it was not on disk when the engine died.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(Self { created: whole.lines().map(str::to_owned).collect(), path })
    }

    /// Keeps that an object of this key was created.
    pub(super) fn keep(&mut self, key: &str) -> Result<()> {
        let doing = || format!("keeping what was copied in {}", self.path.display());
        let directory = self.path.parent().ok_or_else(|| Error::failed("a bug: it has no directory"))?;
        crate::disk::private_dir(directory)?;
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path).doing(doing)?;
        // On a line of its own, also behind one that was cut off.
        file.write_all(format!("\n{key}\n").as_bytes()).doing(doing)?;
        file.sync_all().doing(doing)?;
        if self.created.is_empty() {
            crate::disk::sync_directory(directory)?;
            sent::forget_old(directory);
        }
        self.created.insert(key.to_owned());
        Ok(())
    }

    /// An error unless the store has said of this key, which is taken, that it was this step's object.
    pub(super) fn require(&self, store: &ObjectStore, key: &str) -> Result<()> {
        if self.created.contains(key) {
            return Ok(());
        }
        Err(Error::conflict(format!("there is such an object already: {key}")).hint(format!(
            "store {} can't be read from here, so nobody can tell whose it is and what it holds: copy this backup where it can be read, or take a new one",
            store.name()
        )))
    }

    /// The copy is complete: its manifest names what it needs. What can't be removed takes room, and decides nothing.
    pub(super) fn forget(self) {
        let _ = std::fs::remove_file(self.path);
    }
}
