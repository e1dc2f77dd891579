//! The walk: every entry below a directory, by bytes of the relative path, never through a symbolic link.
//!
//! Directories are opened one from the other, so nobody who swaps a name for a link meanwhile can lead the walk outside.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;

use crate::context::StepContext;
use crate::error::{Context, Error, Result};

/// The root's own path in index and archive.
pub(super) const ROOT: &[u8] = b".";
/// Each level keeps a descriptor open; this many leave most of the usual limit of 1024 to the rest of the engine.
const DEPTH_MAX: usize = 200;

/// An entry as the walk found it.
pub(super) struct Found<'a> {
    /// Relative to the root, without `./`; the root itself is [`ROOT`].
    pub path: &'a [u8],
    /// The directory it lies in.
    pub directory: BorrowedFd<'a>,
    /// Its name in there.
    pub name: &'a CStr,
    /// Its status; links not followed.
    pub stat: Stat,
}

impl Found<'_> {
    /// File, directory, link or something else.
    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// Who is told of what the walk finds.
pub(super) trait Visitor {
    /// An entry. False: it is not part of the source, do not go into it.
    fn entry(&mut self, found: &Found<'_>) -> Result<bool>;
    /// A name that was there a moment ago.
    fn vanished(&mut self, path: &[u8]);
}

/// Walks a directory.
pub(super) fn walk(cx: &StepContext, root: &Path, visitor: &mut dyn Visitor) -> Result<()> {
    let doing = || format!("opening {}", root.display());
    // The root may be named through links: it is what the configuration says. Nothing below it may.
    let directory =
        openat(CWD, root, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    let stat = rustix::fs::fstat(&directory).doing(doing)?;
    if visitor.entry(&Found { path: ROOT, directory: directory.as_fd(), name: c".", stat })? {
        level(cx, &directory, &mut Vec::new(), 1, visitor)?;
    }
    Ok(())
}

fn level(
    cx: &StepContext,
    directory: &OwnedFd,
    prefix: &mut Vec<u8>,
    depth: usize,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    let shown = |path: &[u8]| crate::identifier::shown(&String::from_utf8_lossy(path));
    if depth > DEPTH_MAX {
        return Err(Error::failed(format!("{}: more than {DEPTH_MAX} directories deep", shown(prefix))));
    }
    let reading = || format!("reading directory {}", shown(prefix));
    // In the order of whole paths `a` comes before `a.txt`, and that before `a/b`: a directory and what is in it are two events.
    let mut events = Vec::new();
    for entry in Dir::read_from(directory).doing(reading)? {
        let entry = entry.doing(reading)?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        events.push(name.to_vec());
        // Unknown on some file systems: whether there is anything to enter shows when its turn comes.
        if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
            events.push([name, b"/"].concat());
        }
    }
    events.sort_unstable();
    let mut enter = BTreeSet::new();
    let base = prefix.len();
    for event in events {
        cx.check()?;
        let (name, into) = match event.strip_suffix(b"/") {
            Some(name) => (name, true),
            None => (&event[..], false),
        };
        let c_name = std::ffi::CString::new(name).doing(|| "a name".into())?;
        prefix.truncate(base);
        prefix.extend_from_slice(name);
        if !into {
            match statat(directory, &c_name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    let found = Found { path: prefix, directory: directory.as_fd(), name: &c_name, stat };
                    if visitor.entry(&found)? && found.kind() == FileType::Directory {
                        enter.insert(name.to_vec());
                    }
                }
                Err(Errno::NOENT) => visitor.vanished(prefix),
                Err(e) => return Err(e).doing(|| format!("looking at {}", shown(prefix))),
            }
        } else if enter.remove(name) {
            let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
            match openat(directory, &c_name, flags, Mode::empty()) {
                Ok(below) => {
                    prefix.push(b'/');
                    level(cx, &below, prefix, depth + 1, visitor)?;
                }
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => visitor.vanished(prefix),
                Err(e) => {
                    return Err(Error::failed(format!("opening directory {}: {e}", shown(prefix)))
                        .hint("give the engine's user read permission, or run it as the directory's owner"));
                }
            }
        }
    }
    prefix.truncate(base);
    Ok(())
}
