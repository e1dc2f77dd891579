//! Marks a finished folder.
//!
//! The mark is written last and taken away before any change, so a set-up that was interrupted is
//! done again. It holds what the folder was made from: other contents, and it is done again, too.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

const NAME: &str = ".lifeboat-stamp";

/// The mark of one folder.
pub struct Stamp {
    folder: PathBuf,
    made_from: String,
}

impl Stamp {
    /// The mark `folder` has once it is made from `made_from`.
    pub fn new(folder: &Path, made_from: &str) -> Self {
        // Both virtual environments and compiler folders hold absolute paths: one that was moved
        // or copied is not the same any more.
        let made_from = format!("{}\n{made_from}", folder.display());
        Self {
            folder: folder.to_owned(),
            made_from,
        }
    }

    /// Whether the folder is finished and up to date.
    pub fn is_there(&self) -> bool {
        fs::read_to_string(self.folder.join(NAME)).is_ok_and(|found| found == self.made_from)
    }

    /// Makes the folder anew: removed if it is there, made by `make`, marked.
    ///
    /// # Errors
    ///
    /// If the folder can't be written, and those of `make`.
    pub fn make(&self, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let folder = &self.folder;
        match fs::remove_dir_all(folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("{} can't be removed", folder.display()))?;
            }
            _ => {}
        }
        fs::create_dir_all(folder)
            .with_context(|| format!("{} can't be made", folder.display()))?;
        make(folder)?;
        fs::write(folder.join(NAME), &self.made_from)
            .with_context(|| format!("{} can't be marked as done", folder.display()))
    }
}
