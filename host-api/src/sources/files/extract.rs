//! Extraction: what index and archive agree on, into a new directory, and nothing else.
//!
//! The index decides, the archive must follow it entry by entry. While files are written there is no symbolic link in the tree: each stands
//! there as an empty file until the end, so a path through a link leads nowhere. Directories get their modes and times last, deepest first.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, chmodat, chownat, fchmod, fchown, futimens, mkdirat, openat,
    symlinkat, unlinkat, utimensat,
};
use sha2::{Digest, Sha256};

use super::archive::{self, Owner};
use super::index::{Line, Lines, Sum, Type};
use super::walk::ROOT;
use crate::context::StepContext;
use crate::error::{Context, Error, Result};
use crate::manifest::FilesFacts;

const CHUNK_BYTES: usize = 256 * 1024;

/// Checks a whole index against the manifest, before anything is made of it.
pub(super) fn check_index(index: &Path, expected: &FilesFacts) -> Result<()> {
    let mut lines = open(index)?;
    let mut sum = Sum::default();
    while let Some((line, text, _)) = lines.next()? {
        sum.add(&line, &text);
    }
    let found = sum.facts();
    if found == *expected {
        return Ok(());
    }
    Err(Error::refused(format!("the index is not the manifest's: {expected:?} expected, {found:?} found"))
        .hint("the backup is not as it was written: use another copy of it"))
}

fn open(index: &Path) -> Result<Lines<BufReader<File>>> {
    Ok(Lines::new(BufReader::new(File::open(index).doing(|| "reading the index".into())?)))
}

/// Extracts an archive, read to its end, into an empty directory that is ours alone; everything is on disk when this answers.
pub(super) fn extract(cx: &StepContext, what: &str, index: &Path, archive: &mut dyn Read, root: &Path) -> Result<()> {
    let root = File::open(root).map(OwnedFd::from).doing(|| format!("opening {}", root.display()))?;
    let mut tree = Tree { cx, what, root, own: rustix::process::geteuid().is_root(), done_bytes: 0 };
    let mut lines = open(index)?;
    // Only directories and links are kept in memory, for what must wait.
    let (mut directories, mut links) = (Vec::new(), Vec::new());
    while let Some((line, _, path)) = lines.next()? {
        cx.check()?;
        let entry = archive::read_header(archive)?
            .ok_or_else(|| Error::refused(format!("the archive ends before {}", line.shown())))?;
        entry.require(&line, &path)?;
        match line.kind {
            Type::File => tree.file(&line, &path, entry.owner, archive)?,
            Type::Dir => {
                tree.directory(&line, &path)?;
                directories.push((line, path, entry.owner));
            }
            Type::Symlink => {
                tree.placeholder(&line, &path)?;
                links.push((line, path, entry.owner));
            }
        }
    }
    if let Some(more) = archive::read_header(archive)? {
        let path = String::from_utf8_lossy(&more.path).into_owned();
        return Err(Error::refused(format!(
            "the archive holds {}, the index does not",
            crate::identifier::shown(&path)
        )));
    }
    // To the end: only there its digest is compared.
    std::io::copy(archive, &mut std::io::sink()).doing(|| "reading the archive's end".into())?;
    for (line, path, owner) in &links {
        tree.link(line, path, *owner)?;
    }
    for (line, path, owner) in directories.iter().rev() {
        cx.check()?;
        tree.finish_directory(line, path, *owner)?;
    }
    rustix::fs::syncfs(&tree.root).doing(|| "flushing the restored files".into())
}

struct Tree<'a> {
    cx: &'a StepContext,
    what: &'a str,
    root: OwnedFd,
    /// Only root may give files to their owner.
    own: bool,
    done_bytes: u64,
}

impl Tree<'_> {
    fn file(&mut self, line: &Line, path: &[u8], owner: Owner, archive: &mut dyn Read) -> Result<()> {
        let making = || format!("making {}", line.shown());
        let mut out = self.create(path).doing(making)?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; CHUNK_BYTES.min(usize::try_from(line.size).unwrap_or(CHUNK_BYTES)).max(1)];
        let mut left = line.size;
        while left > 0 {
            self.cx.check()?;
            let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = archive.read(&mut buffer[..wanted]).doing(|| "reading the archive".into())?;
            if read == 0 {
                return Err(Error::failed(format!("the archive ends in the middle of {}", line.shown())));
            }
            digest.update(&buffer[..read]);
            out.write_all(&buffer[..read]).doing(making)?;
            left -= read as u64;
            self.done_bytes += read as u64;
        }
        archive::skip_padding(archive, line.size)?;
        self.cx.report(self.what, self.done_bytes, None);
        if Some(hex::encode(digest.finalize())) != line.sha256 {
            return Err(Error::failed(format!("{} does not have the content that the index says", line.shown()))
                .hint("the backup is not as it was written: use another copy of it"));
        }
        if self.own {
            let (uid, gid) = ids(owner);
            fchown(&out, Some(uid), Some(gid)).doing(making)?;
        }
        fchmod(&out, Mode::from_raw_mode(line.mode()?)).doing(making)?;
        futimens(&out, &times(line)?).doing(making)
    }

    fn directory(&self, line: &Line, path: &[u8]) -> Result<()> {
        if path == ROOT {
            return Ok(());
        }
        // A parent that the index does not have, or has as a file or link, is an error of the file system here.
        mkdirat(&self.root, path, Mode::RWXU).doing(|| format!("making directory {}", line.shown()))
    }

    fn placeholder(&self, line: &Line, path: &[u8]) -> Result<()> {
        self.create(path).map(drop).doing(|| format!("making {}", line.shown()))
    }

    fn create(&self, path: &[u8]) -> rustix::io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&self.root, path, flags, Mode::RUSR | Mode::WUSR).map(File::from)
    }

    fn link(&self, line: &Line, path: &[u8], owner: Owner) -> Result<()> {
        let making = || format!("making link {}", line.shown());
        // Every parent of it was made as a directory and is one still: links only take the place of their own empty files.
        unlinkat(&self.root, path, AtFlags::empty()).doing(making)?;
        symlinkat(line.target()?, &self.root, path).doing(making)?;
        if self.own {
            let (uid, gid) = ids(owner);
            chownat(&self.root, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).doing(making)?;
        }
        utimensat(&self.root, path, &times(line)?, AtFlags::SYMLINK_NOFOLLOW).doing(making)
    }

    fn finish_directory(&self, line: &Line, path: &[u8], owner: Owner) -> Result<()> {
        let finishing = || format!("finishing directory {}", line.shown());
        if self.own {
            let (uid, gid) = ids(owner);
            chownat(&self.root, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).doing(finishing)?;
        }
        utimensat(&self.root, path, &times(line)?, AtFlags::SYMLINK_NOFOLLOW).doing(finishing)?;
        chmodat(&self.root, path, Mode::from_raw_mode(line.mode()?), AtFlags::empty()).doing(finishing)
    }
}

fn ids(owner: Owner) -> (Uid, Gid) {
    (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid))
}

fn times(line: &Line) -> Result<Timestamps> {
    let ns = line.mtime_ns()?;
    let time = Timespec {
        tv_sec: i64::try_from(ns.div_euclid(1_000_000_000)).doing(|| format!("time of {}", line.shown()))?,
        // Below 10^9, so it fits.
        tv_nsec: ns.rem_euclid(1_000_000_000) as _,
    };
    Ok(Timestamps { last_access: time, last_modification: time })
}
