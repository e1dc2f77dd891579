//! Marks a finished folder.
//!
//! The mark is written last and taken away before any change, so a set-up that was interrupted is
//! done again. It holds what the folder was made from: other contents, and it is done again, too.
//! Of two set-ups at the same time one waits for the other.

use std::fs::{self, File};
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
        Self { folder: folder.to_owned(), made_from }
    }

    /// Whether the folder is finished and up to date.
    pub fn is_there(&self) -> bool {
        fs::read_to_string(self.folder.join(NAME)).is_ok_and(|found| found == self.made_from)
    }

    /// Makes the folder anew: removed if it is there, made by `make`, marked. If another process
    /// has just done so, that is all.
    ///
    /// # Errors
    ///
    /// If the folder can't be written, and those of `make`.
    pub fn make(&self, make: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let folder = &self.folder;
        // Held until this function returns.
        let _lock = self.lock().with_context(|| format!("{} can't be locked", folder.display()))?;
        if self.is_there() {
            return Ok(());
        }
        remove(folder).with_context(|| format!("{} can't be removed", folder.display()))?;
        fs::create_dir_all(folder).with_context(|| format!("{} can't be made", folder.display()))?;
        make(folder)?;
        fs::write(folder.join(NAME), &self.made_from)
            .with_context(|| format!("{} can't be marked as done", folder.display()))
    }

    /// The lock stands beside the folder, which is removed while it is held.
    fn lock(&self) -> std::io::Result<File> {
        let mut path = self.folder.clone().into_os_string();
        path.push(".lock");
        if let Some(parent) = self.folder.parent() {
            fs::create_dir_all(parent)?;
        }
        let lock = File::create(path)?;
        lock.lock()?;
        Ok(lock)
    }
}

fn remove(folder: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::{Result, Stamp, fs};

    #[test]
    fn only_a_finished_folder_is_kept() -> Result<()> {
        let parent = std::env::temp_dir().join(format!("lifeboat-stamp-{}", std::process::id()));
        let folder = parent.join("made");
        let old = Stamp::new(&folder, "old");

        let interrupted = old.make(|folder| {
            fs::write(folder.join("half"), "")?;
            anyhow::bail!("interrupted")
        });
        assert!(interrupted.is_err() && !old.is_there());

        old.make(|folder| Ok(fs::write(folder.join("whole"), "")?))?;
        assert!(old.is_there() && folder.join("whole").exists());
        assert!(!folder.join("half").exists(), "what was half made is gone");

        old.make(|_| anyhow::bail!("a finished folder is not made again"))?;
        assert!(!Stamp::new(&folder, "new").is_there());
        Ok(fs::remove_dir_all(parent)?)
    }
}
