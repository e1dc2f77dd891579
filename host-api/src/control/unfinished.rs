//! Installs that were cut off: what they left is told from versions that were in service, and removed.
//!
//! | beside the directory `NAME` | it is |
//! | --- | --- |
//! | `.NAME.unfinished` | not complete |
//! | `.current.NAME`, a link to it | complete, and never in service: the link was not renamed over `current` |
//! | neither | a version that is in service, or was: it stays |
//!
//! Only names that end in an attempt are looked at. Whoever installs holds a lock on the directory, so that what is found by someone who has
//! it is of no attempt that goes on.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::bindings::Install;
use crate::disk;
use crate::error::{Context, Error, Result};
use crate::versions::{is_of_attempt, pending, unfinished};

/// Kept as long as an install works in its directory; the kernel lets go of it, however that ends.
pub(super) struct Alone {
    /// None where the file system knows no locks: then nothing is removed either.
    lock: Option<File>,
}

impl Alone {
    /// Keeps other installs out of a directory, whichever engine they are of; a conflict where one is under way.
    pub(super) fn take(install: &Install) -> Result<Self> {
        let doing = || format!("opening {}", install.directory.display());
        let dir = File::options()
            .read(true)
            .custom_flags(OFlags::DIRECTORY.bits().cast_signed())
            .open(&install.directory)
            .doing(doing)?;
        match rustix::fs::flock(&dir, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { lock: Some(dir) }),
            Err(Errno::WOULDBLOCK) => {
                Err(Error::conflict(format!("another install is under way in {}", install.directory.display()))
                    .hint("try again when it is over"))
            }
            Err(_) => Ok(Self { lock: None }),
        }
    }

    /// Removes what installs that were cut off left here. What can't be removed stays marked, for the next one.
    pub(super) fn sweep(&self, install: &Install) {
        if self.lock.is_none() {
            return;
        }
        for name in left(install) {
            if let Err(error) = remove(install, &name) {
                tracing::warn!(directory = name, %error, "an install that was cut off left it, and it can't be removed");
            }
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        if let Some(dir) = &self.lock {
            // Closing it would do, were there no child of another thread that has a copy of it between its fork and its exec. Where it fails, the
            // lock goes with that child's exec.
            let _ = rustix::fs::flock(dir, FlockOperation::Unlock);
        }
    }
}

/// Removes what was cut off, for whoever installs nothing: does nothing where an install is under way, or there is none.
pub(crate) fn sweep(install: &Install) {
    if let Ok(alone) = Alone::take(install) {
        alone.sweep(install);
    }
}

/// Names of the directories that never were in service, by their marks.
fn left(install: &Install) -> Vec<String> {
    let entries = std::fs::read_dir(&install.directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            let mark = entry.file_name().into_string().ok()?;
            let name = mark
                .strip_prefix('.')?
                .strip_suffix(".unfinished")
                .or_else(|| mark.strip_prefix(".current.").filter(|name| leads_to(&entry.path(), name)))?;
            is_of_attempt(name).then(|| name.to_owned())
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

/// Removes an install that did not come to its end, its marks last, so that what is removed by half is still known for what it is. What is
/// in service stays, whatever its marks say.
pub(super) fn remove(install: &Install, name: &str) -> Result<()> {
    let current = install.directory.join("current");
    if disk::exists(&current)? && leads_to(&current, name) {
        return Err(Error::refused(format!("{name} is in service")));
    }
    disk::remove_tree(&install.directory.join(name))?;
    disk::sync_directory(&install.directory)?;
    let marks: [PathBuf; 2] = [pending(install, name), unfinished(install, name)];
    marks.iter().try_for_each(|mark| disk::remove_file(mark))
}

fn leads_to(link: &Path, name: &str) -> bool {
    std::fs::read_link(link).is_ok_and(|to| to == Path::new(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn place() -> (tempfile::TempDir, Install) {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("versions");
        std::fs::create_dir(&directory).unwrap();
        (
            dir,
            Install {
                directory,
                installable: vec![],
                prepare: vec![],
                command: vec![],
                check: vec![],
                files: Default::default(),
                timeout_s: 60,
            },
        )
    }

    fn make(install: &Install, name: &str) {
        let dir = install.directory.join(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("file"), "").unwrap();
    }

    fn mark(install: &Install, name: &str) {
        std::fs::write(unfinished(install, name), "").unwrap();
    }

    fn names(install: &Install) -> Vec<String> {
        let entries = std::fs::read_dir(&install.directory).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn what_never_was_in_service_goes_and_everything_else_stays() {
        let (_dir, install) = place();
        // In service now, and the one before it.
        for kept in ["1.0@r1-4-1", "2.0@r2-4-1", "1.0@by-hand", "notes", "3.0@r3-4-1.old"] {
            make(&install, kept);
        }
        symlink("2.0@r2-4-1", install.directory.join("current")).unwrap();
        // Marks that lead to nothing of ours, or are none.
        mark(&install, "1.0@by-hand");
        mark(&install, "notes");
        symlink("1.0@r1-4-1", install.directory.join(".current.9.0@r9-4-1")).unwrap();
        std::fs::write(install.directory.join(".current.1.0@r1-4-1"), "no link").unwrap();
        let kept = names(&install);

        // Cut off at each place: before the directory, while it was filled, before the mark went, before the switch.
        mark(&install, "3.0@r3-4-1");
        make(&install, "3.0@r3-4-2");
        mark(&install, "3.0@r3-4-2");
        for (name, marked) in [("3.0@r4-9-1", true), ("3.0@r5-9-1", false)] {
            make(&install, name);
            symlink(name, pending(&install, name)).unwrap();
            if marked {
                mark(&install, name);
            }
        }
        sweep(&install);
        assert_eq!(names(&install), kept);
        sweep(&install);
        assert_eq!(names(&install), kept);
    }

    #[test]
    fn what_is_in_service_stays_whatever_its_marks_say() {
        let (_dir, install) = place();
        make(&install, "1.0@r1-4-1");
        mark(&install, "1.0@r1-4-1");
        symlink("1.0@r1-4-1", install.directory.join("current")).unwrap();
        sweep(&install);
        assert!(install.directory.join("1.0@r1-4-1/file").exists());
        assert_eq!(remove(&install, "1.0@r1-4-1").unwrap_err().kind, crate::ErrorKind::Refused);
    }

    #[test]
    fn an_install_that_is_under_way_is_left_alone_and_keeps_others_out() {
        let (_dir, install) = place();
        let alone = Alone::take(&install).unwrap();
        make(&install, "3.0@r3-4-1");
        mark(&install, "3.0@r3-4-1");
        assert_eq!(Alone::take(&install).err().unwrap().kind, crate::ErrorKind::Conflict);
        sweep(&install);
        assert!(install.directory.join("3.0@r3-4-1/file").exists());
        drop(alone);
        sweep(&install);
        assert_eq!(names(&install), Vec::<String>::new());
    }

    #[test]
    fn what_can_not_be_removed_stays_marked() {
        let (_dir, install) = place();
        // A file in the directory's place is nothing that an install makes.
        std::fs::write(install.directory.join("3.0@r3-4-1"), "").unwrap();
        mark(&install, "3.0@r3-4-1");
        make(&install, "3.0@r4-4-1");
        mark(&install, "3.0@r4-4-1");
        sweep(&install);
        assert_eq!(names(&install), [".3.0@r3-4-1.unfinished", "3.0@r3-4-1"]);
    }
}
