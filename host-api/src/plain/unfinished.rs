//! The file that an export is written to until it is whole, `.lifeboat-export-…` beside its target. Whoever writes it holds a lock on it, which
//! ends with its process: one that nobody holds was left by an engine that died.

use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, OFlags, flock};
use tempfile::NamedTempFile;

use crate::disk;
use crate::error::{Context, Result};

/// What their names begin with.
const PREFIX: &str = ".lifeboat-export-";

/// Makes one in a directory, of mode 0600, and removes those that were left there. Dropped, it goes away.
pub(super) fn make(folder: &Path) -> Result<NamedTempFile> {
    sweep(folder)?;
    let doing = || format!("making a file in {}", folder.display());
    loop {
        let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder).doing(doing)?;
        // Where there are no locks, none is had by a sweep either, and all stay.
        let _ = flock(&file, FlockOperation::LockExclusive);
        // Between its making and its lock, another export may have taken it for one that was left.
        if file.as_file().metadata().doing(doing)?.nlink() > 0 {
            return Ok(file);
        }
    }
}

/// Removes those that nobody writes. The directory may be anybody's: what has such a name and is no file of ours stays.
fn sweep(folder: &Path) -> Result<()> {
    // Who may only write there can't see what was left.
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX)) {
            remove_left(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_left(path: &Path) -> Result<()> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    // Gone, a link, or not ours to open.
    let Ok(file) = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path) else {
        return Ok(());
    };
    let metadata = file.metadata().doing(|| format!("looking at {}", path.display()))?;
    let is_ours = metadata.is_file() && metadata.uid() == rustix::process::geteuid().as_raw();
    // Held until it is removed: its writer, if it has just been made, waits for that and sees it.
    if is_ours && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
        disk::remove_file(path)?;
    }
    Ok(())
}
