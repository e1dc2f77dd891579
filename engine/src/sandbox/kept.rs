//! A private directory of files that can be made again: a module's digest, what reading it found, and what it was compiled to.
//!
//! Nothing here is a reason for a run to fail. A directory or a file that is not ours alone, that is damaged, or that can't be read or written
//! is passed over, with a warning, and what it would have held is made anew. What is in here is trusted as the engine's own memory is: whoever
//! can write as the engine's user could as well change the engine. So a file is only ever taken from a directory that belongs to our
//! user and that nobody else may write to; and against damage, not against forgery, each file ends with a seal:
//!
//! ```text
//! content | "lifeboat-kept/1\n" | key, 32 bytes | checksum, 16 bytes
//! ```
//!
//! The checksum is the XXH3-128 of the XXH3-128s of the content's blocks of 1 MiB, then text and key; all big-endian. Blocks, so that several threads
//! can read a large file.
//!
//! A file is written under a temporary name, flushed, and renamed; it is never changed afterwards, only removed. So two processes may write
//! the same one, and one that somebody has mapped stays whole for him when it goes.

use std::fs::{File, FileTimes};
use std::io::{self, Write};
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

/// What all files may take together, bytes, before those go that were not used for the longest time. A policy in Rust takes half a MB, one
/// with the runtime of a language some forty.
pub(crate) const BYTES_MAX: u64 = 1 << 30;

const MAGIC: &[u8; 16] = b"lifeboat-kept/1\n";
const SEAL_BYTES: usize = MAGIC.len() + 32 + 16;
/// What one checksum is of.
const BLOCK_BYTES: usize = 1 << 20;
/// How much is read at a time: as much as stays in a processor's second cache.
const CHUNK_BYTES: usize = 256 << 10;
/// Threads that read one file, at most, and blocks that each reads at least: starting one takes as long as reading a tenth of a block.
const READERS_MAX: usize = 4;
const READER_BLOCKS_MIN: usize = 4;
/// A temporary file that is older was left by a crash: no file takes as long to write.
const LEFT_AFTER: Duration = Duration::from_secs(3600);
/// How exactly it is known when a file was last used: each use would be a write otherwise.
const USED_EVERY: Duration = Duration::from_secs(60);
const TEMPORARY: &str = ".new-";

/// What a file's name and seal say it is of: a digest over everything that decides its content.
pub(crate) type Key = [u8; 32];

/// The directory, held open: whatever its path leads to later, the files are those of the one that was looked at.
pub(crate) struct Kept {
    directory: OwnedFd,
    path: PathBuf,
    bytes_max: u64,
}

/// What there is under a name.
pub(crate) enum Found {
    /// A file that is what it was when it was written.
    Whole(Whole),
    /// None.
    Absent,
    /// One that is not to be used, and why.
    Unusable(String),
}

/// A file whose seal was good.
pub(crate) struct Whole {
    file: File,
    content_bytes: usize,
    key: Key,
}

impl Whole {
    /// The file, open. Its seal follows the content.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Notes that it was used. Only which file goes first hangs on it.
    pub(crate) fn used(&self) {
        let now = SystemTime::now();
        let fresh = |then: SystemTime| now.duration_since(then).is_ok_and(|ago| ago < USED_EVERY);
        if !self.file.metadata().and_then(|found| found.modified()).is_ok_and(fresh) {
            // A directory that may only be read keeps what it has anyway.
            let _ = self.file.set_times(FileTimes::new().set_modified(now));
        }
    }

    /// The content, read into memory; what was read has been held against the seal.
    pub(crate) fn content(&self) -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; self.content_bytes + SEAL_BYTES];
        self.file.read_exact_at(&mut bytes, 0).map_err(|e| e.to_string())?;
        let (content, seal) = bytes.split_at(self.content_bytes);
        check_seal(&sums_of(content), seal, &self.key)?;
        bytes.truncate(self.content_bytes);
        Ok(bytes)
    }
}

impl Kept {
    /// Opens the directory, and makes it if it is not there. The error says why it is not to be used.
    pub(crate) fn open(path: &Path) -> Result<Self, String> {
        match std::os::unix::fs::DirBuilderExt::mode(&mut std::fs::DirBuilder::new(), 0o700).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e.to_string()),
            _ => {}
        }
        Self::to_look(path)?.ok_or_else(|| "it went away".into())
    }

    /// The same, where nothing may be made: none, if it is not there.
    pub(crate) fn to_look(path: &Path) -> Result<Option<Self>, String> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            // Which of the two it is depends on the file system.
            Err(rustix::io::Errno::LOOP | rustix::io::Errno::NOTDIR) => {
                return Err("it is no directory, or a symbolic link".into());
            }
            Err(e) => return Err(e.to_string()),
        };
        let stat = rustix::fs::fstat(&directory).map_err(|e| e.to_string())?;
        check_ours(stat.st_uid, stat.st_mode)?;
        Ok(Some(Self { directory, path: path.to_owned(), bytes_max: BYTES_MAX }))
    }

    /// With another bound.
    #[cfg(test)]
    pub(crate) fn at_most(self, bytes_max: u64) -> Self {
        Self { bytes_max, ..self }
    }

    /// Looks for a file, and reads it through: only one whose every byte is as it was written is whole.
    pub(crate) fn find(&self, ending: &str, key: &Key) -> Found {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = match rustix::fs::openat(&self.directory, name_of(key, ending), flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return Found::Absent,
            Err(rustix::io::Errno::LOOP) => return Found::Unusable("it is a symbolic link".into()),
            Err(e) => return Found::Unusable(e.to_string()),
        };
        match read_through(&file, key) {
            Ok(content_bytes) => Found::Whole(Whole { file, content_bytes, key: *key }),
            Err(why) => Found::Unusable(why),
        }
    }

    /// The content of a file, read into memory; none if it is not there, or is not to be used, which is said. `what`: it holds, for people.
    pub(crate) fn content(&self, ending: &str, key: &Key, what: &str) -> Option<Vec<u8>> {
        let content = match self.find(ending, key) {
            Found::Absent => return None,
            Found::Unusable(why) => Err(why),
            Found::Whole(whole) => whole.content(),
        };
        content.inspect_err(|why| self.pass_over(what, why)).ok()
    }

    /// Says that something here is not used: damaged, or not ours alone.
    pub(crate) fn pass_over(&self, what: &str, why: &str) {
        tracing::warn!("compile cache {}: {what} is not used: {why}; it is made anew", self.path.display());
    }

    /// Says that something could not be kept.
    pub(crate) fn not_kept(&self, what: &str, why: &str) {
        tracing::warn!(
            "compile cache {}: {what} can't be kept: {why}; it is made again the next time",
            self.path.display()
        );
    }

    /// Puts a file in its place, or says why that could not be done. `what`: it holds, for people.
    pub(crate) fn keep_or_say(&self, ending: &str, key: &Key, content: &[u8], what: &str) {
        if let Err(e) = self.keep(ending, key, content) {
            self.not_kept(what, &e.to_string());
        }
    }

    /// Puts a file in its place; then lets go of what has not been used for the longest time, if it is too much together.
    pub(crate) fn keep(&self, ending: &str, key: &Key, content: &[u8]) -> io::Result<()> {
        let bytes = (content.len() + SEAL_BYTES) as u64;
        if bytes > self.bytes_max {
            return Err(io::Error::other(format!(
                "it has {bytes} bytes, and all may have {} together",
                self.bytes_max
            )));
        }
        let name = name_of(key, ending);
        let temporary = format!("{TEMPORARY}{}", host_api::identifier::fresh());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let mut file = File::from(rustix::fs::openat(&self.directory, &temporary, flags, mode)?);
        let written = write_sealed(&mut file, key, content).and_then(|()| {
            rustix::fs::renameat(&self.directory, &temporary, &self.directory, &name)?;
            Ok(rustix::fs::fsync(&self.directory)?)
        });
        if written.is_err() {
            self.remove(&temporary);
        }
        written?;
        self.bound(&name)
    }

    /// Removes the file of a key, if it is there.
    pub(crate) fn drop_file(&self, ending: &str, key: &Key) {
        self.remove(&name_of(key, ending));
    }

    fn remove(&self, name: &str) {
        // Gone already, or a directory that does not let us: whatever stays is never taken.
        let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
    }

    /// Removes those that were used least recently until the rest is few enough, and what crashes left. Never the one that was just written. Whoever
    /// has one mapped keeps what he has.
    fn bound(&self, written: &str) -> io::Result<()> {
        let mut all = Vec::new();
        for entry in Dir::read_from(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            // Another process may have removed it by now.
            let Ok(stat) = rustix::fs::statat(self.directory.as_fd(), &*name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() || name == written {
                continue;
            }
            let modified = SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
            if !name.starts_with(TEMPORARY) {
                all.push((modified, stat.st_mtime_nsec, name, u64::try_from(stat.st_size).unwrap_or(0)));
            } else if SystemTime::now().duration_since(modified).is_ok_and(|age| age > LEFT_AFTER) {
                self.remove(&name);
            }
        }
        let written = rustix::fs::statat(self.directory.as_fd(), written, AtFlags::SYMLINK_NOFOLLOW)
            .map_or(0, |stat| u64::try_from(stat.st_size).unwrap_or(0));
        let mut together = all.iter().map(|(.., bytes)| bytes).sum::<u64>() + written;
        all.sort();
        for (.., name, bytes) in all {
            if together <= self.bytes_max {
                break;
            }
            self.remove(&name);
            together -= bytes;
        }
        Ok(())
    }
}

fn name_of(key: &Key, ending: &str) -> String {
    format!("{}.{ending}", hex::encode(key))
}

/// Whether only our user may change it.
fn check_ours(owner: u32, mode: u32) -> Result<(), String> {
    let us = rustix::process::geteuid().as_raw();
    if owner != us {
        return Err(format!("it belongs to user {owner}, and this is user {us}"));
    }
    if mode & 0o022 != 0 {
        return Err(format!("others than its owner may write to it (mode {:04o})", mode & 0o7777));
    }
    Ok(())
}

/// Holds every byte of a file against its seal; how many bytes the content has.
fn read_through(file: &File, key: &Key) -> Result<usize, String> {
    let found = file.metadata().map_err(|e| e.to_string())?;
    if !found.is_file() {
        return Err("it is no regular file".into());
    }
    check_ours(found.uid(), found.mode())?;
    let all = usize::try_from(found.len()).map_err(|e| e.to_string())?;
    let Some(content_bytes) = all.checked_sub(SEAL_BYTES) else { return Err("it is cut off".into()) };
    let mut seal = [0; SEAL_BYTES];
    file.read_exact_at(&mut seal, content_bytes as u64).map_err(|e| e.to_string())?;
    let sums = read_sums(file, content_bytes).map_err(|e| e.to_string())?;
    check_seal(&sums, &seal, key)?;
    Ok(content_bytes)
}

/// Checksums of a file's blocks, read by several threads if there are many.
fn read_sums(file: &File, content_bytes: usize) -> io::Result<Vec<u128>> {
    let blocks = content_bytes.div_ceil(BLOCK_BYTES);
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let readers = processors.min(READERS_MAX).min(blocks / READER_BLOCKS_MIN).max(1);
    let each = blocks.div_ceil(readers).max(1);
    std::thread::scope(|scope| {
        let begun: Vec<_> = (1..readers)
            .map(|reader| {
                let range = (reader * each).min(blocks)..((reader + 1) * each).min(blocks);
                let read = {
                    let range = range.clone();
                    move || read_blocks(file, content_bytes, range)
                };
                (range, std::thread::Builder::new().spawn_scoped(scope, read))
            })
            .collect();
        let mut sums = read_blocks(file, content_bytes, 0..each.min(blocks))?;
        for (range, thread) in begun {
            sums.extend(match thread {
                Ok(thread) => thread.join().map_err(|_| io::Error::other("a reading thread panicked"))??,
                // No more threads may be had: one can do it all.
                Err(_) => read_blocks(file, content_bytes, range)?,
            });
        }
        Ok(sums)
    })
}

fn read_blocks(file: &File, content_bytes: usize, blocks: Range<usize>) -> io::Result<Vec<u128>> {
    let mut chunk = vec![0; CHUNK_BYTES.min(content_bytes)];
    blocks
        .map(|block| {
            let (mut at, end) = (block * BLOCK_BYTES, ((block + 1) * BLOCK_BYTES).min(content_bytes));
            let mut sum = Xxh3Default::new();
            while at < end {
                let part = &mut chunk[..CHUNK_BYTES.min(end - at)];
                file.read_exact_at(part, at as u64)?;
                sum.update(part);
                at += part.len();
            }
            Ok(sum.digest128())
        })
        .collect()
}

fn sums_of(content: &[u8]) -> Vec<u128> {
    content.chunks(BLOCK_BYTES).map(xxh3_128).collect()
}

/// The seal of a content whose blocks have these checksums.
fn seal_of(sums: &[u128], key: &Key) -> Vec<u8> {
    let mut sum = Xxh3Default::new();
    sums.iter().for_each(|block| sum.update(&block.to_be_bytes()));
    sum.update(MAGIC);
    sum.update(key);
    [&MAGIC[..], key, &sum.digest128().to_be_bytes()].concat()
}

fn check_seal(sums: &[u128], seal: &[u8], key: &Key) -> Result<(), String> {
    let (magic, rest) = seal.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err("it has no seal: cut off, or of another version".into());
    }
    let of = rest.first_chunk::<32>().ok_or("it is cut off")?;
    if seal_of(sums, of) != seal {
        return Err("its checksum is another: it is damaged".into());
    }
    if of != key {
        return Err("it is of another module or of another engine".into());
    }
    Ok(())
}

fn write_sealed(file: &mut File, key: &Key, content: &[u8]) -> io::Result<()> {
    file.write_all(content)?;
    file.write_all(&seal_of(&sums_of(content), key))?;
    file.sync_all()
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
