//! Reading a directory: for the archive and its index, or (to compare) for the index alone.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;

use rustix::fs::{FileType, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;
use sha2::{Digest, Sha256};

use super::archive::{self, Owner};
use super::index::{Line, Sum, Type, kept_mode};
use super::walk::{Found, ROOT, Visitor};
use crate::Finding;
use crate::context::StepContext;
use crate::error::{Context, Error, Result};

/// Files up to this size are read into memory whole before anything of them is written, and again if they change meanwhile.
const SMALL_BYTES_MAX: u64 = 1024 * 1024;
/// How often a small file is read again.
const READS_MAX: u32 = 5;
const CHUNK_BYTES: usize = 256 * 1024;

/// How many, and a few names.
#[derive(Debug, Default)]
struct Tally {
    count: u64,
    names: Vec<String>,
}

impl Tally {
    fn add(&mut self, path: &[u8]) {
        self.count += 1;
        if self.names.len() < 5 {
            self.names.push(crate::identifier::shown(&String::from_utf8_lossy(path)));
        }
    }

    fn words(&self) -> String {
        let more = if self.count > self.names.len() as u64 { ", …" } else { "" };
        format!("{}: {}{more}", self.count, self.names.join(", "))
    }
}

/// Reads what the walk finds.
pub(super) struct Reader<'a> {
    cx: &'a StepContext,
    what: String,
    /// Where the archive goes, if one is made.
    archive: Option<&'a mut dyn Write>,
    /// Where the index goes, if one is made.
    index: Option<&'a mut dyn Write>,
    sum: Sum,
    done_bytes: u64,
    device: Option<u64>,
    special: Tally,
    vanished: Tally,
    changed: Tally,
    masked: Tally,
    mounts: Tally,
    ours: Tally,
}

/// Content in memory, or an open file of this many bytes still to be read.
enum Content {
    Whole(Vec<u8>),
    Open(File, u64),
}

impl<'a> Reader<'a> {
    /// A reader that sums up, and writes archive and index where asked.
    pub fn new(
        cx: &'a StepContext,
        what: String,
        archive: Option<&'a mut dyn Write>,
        index: Option<&'a mut dyn Write>,
    ) -> Self {
        Self {
            cx,
            what,
            archive,
            index,
            sum: Sum::default(),
            done_bytes: 0,
            device: None,
            special: Tally::default(),
            vanished: Tally::default(),
            changed: Tally::default(),
            masked: Tally::default(),
            mounts: Tally::default(),
            ours: Tally::default(),
        }
    }

    /// Ends the archive; gives the facts and what was noticed.
    pub fn finish(self) -> Result<(crate::manifest::FilesFacts, Vec<Finding>)> {
        if let Some(out) = self.archive {
            archive::finish(out)?;
        }
        let mut findings = Vec::new();
        let mut note = |tally: &Tally, finding: &dyn Fn(String) -> Finding| {
            if tally.count > 0 {
                findings.push(finding(tally.words()));
            }
        };
        note(&self.special, &|words| {
            Finding::warning(
                "special-file",
                format!("sockets, pipes and devices are not part of a backup; {words}"),
                "have the service make them again when it starts",
            )
        });
        note(&self.changed, &|words| {
            Finding::warning(
                "changed-while-read",
                format!("files that were being written as they were read, so they may be torn; {words}"),
                "write files by a temporary name and a rename, or back up in a quiet window",
            )
        });
        note(&self.mounts, &|words| {
            Finding::warning(
                "mount",
                format!("other file systems are mounted below, their files are part of the backup; {words}"),
                "a promotion puts plain directories in their place: make each a source of its own",
            )
        });
        note(&self.vanished, &|words| {
            Finding::info("vanished", format!("removed while the directory was read; {words}"))
        });
        note(&self.masked, &|words| {
            Finding::info("set-id", format!("set-user-id and set-group-id bits are not kept; {words}"))
        });
        note(&self.ours, &|words| {
            Finding::info(
                "candidate",
                format!("candidates and previous data of promotions are not part of a backup; {words}"),
            )
        });
        Ok((self.sum.facts(), findings))
    }

    fn record(&mut self, line: &Line) -> Result<()> {
        let mut text = line.encode()?;
        self.sum.add(line, &text);
        if let Some(index) = &mut self.index {
            text.push('\n');
            index.write_all(text.as_bytes()).doing(|| "writing the index".into())?;
        }
        Ok(())
    }

    fn header(&mut self, line: &Line, owner: Owner) -> Result<()> {
        match &mut self.archive {
            Some(out) => archive::write_header(*out, line, owner),
            None => Ok(()),
        }
    }

    fn file(&mut self, found: &Found<'_>) -> Result<bool> {
        let shown = || crate::identifier::shown(&String::from_utf8_lossy(found.path));
        let reading = || format!("reading {}", shown());
        // Without waiting: the name may have become a pipe since the walk saw it.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut file = match openat(found.directory, found.name, flags, Mode::empty()) {
            Ok(fd) => File::from(fd),
            Err(Errno::NOENT | Errno::LOOP) => {
                self.vanished.add(found.path);
                return Ok(false);
            }
            Err(e) => {
                return Err(Error::failed(format!("opening {}: {e}", shown()))
                    .hint("give the engine's user read permission, or run it as the directory's owner"));
            }
        };
        let mut metadata = file.metadata().doing(reading)?;
        if !metadata.is_file() {
            self.special.add(found.path);
            return Ok(false);
        }
        let mut content = None;
        let mut reads = 0;
        while metadata.len() <= SMALL_BYTES_MAX {
            let mut bytes = Vec::new();
            file.rewind().and_then(|()| (&file).take(SMALL_BYTES_MAX + 1).read_to_end(&mut bytes)).doing(reading)?;
            reads += 1;
            let after = file.metadata().doing(reading)?;
            let stable = bytes.len() as u64 == after.len() && same(&metadata, &after);
            if stable || (reads >= READS_MAX && bytes.len() as u64 <= SMALL_BYTES_MAX) {
                if !stable {
                    self.changed.add(found.path);
                }
                content = Some(Content::Whole(bytes));
                break;
            }
            metadata = after;
        }
        // Grown out of small, or large from the start.
        let content = match content {
            Some(content) => content,
            None => {
                file.rewind().doing(reading)?;
                Content::Open(file, metadata.len())
            }
        };
        let size = match &content {
            Content::Whole(bytes) => bytes.len() as u64,
            Content::Open(_, size) => *size,
        };
        let mtime_ns = i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec());
        let mut line = Line::new(found.path, Type::File, size, metadata.mode(), mtime_ns, None, None);
        self.header(&line, Owner { uid: metadata.uid(), gid: metadata.gid() })?;
        line.sha256 = Some(match content {
            Content::Whole(bytes) => {
                self.put(&bytes)?;
                hex::encode(Sha256::digest(&bytes))
            }
            Content::Open(file, size) => self.large(&file, size, &metadata, found)?,
        });
        if let Some(out) = &mut self.archive {
            archive::pad(*out, size)?;
        }
        if kept_mode(Type::File, metadata.mode()) != metadata.mode() & 0o7777 {
            self.masked.add(found.path);
        }
        self.record(&line)?;
        Ok(true)
    }

    /// Reads exactly the size that stands in the header already.
    fn large(&mut self, file: &File, size: u64, before: &std::fs::Metadata, found: &Found<'_>) -> Result<String> {
        let reading = || format!("reading {}", crate::identifier::shown(&String::from_utf8_lossy(found.path)));
        let mut digest = Sha256::new();
        let mut input = file.take(size);
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut left = size;
        while left > 0 {
            self.cx.check()?;
            let read = input.read(&mut buffer).doing(reading)?;
            if read == 0 {
                return Err(Error::failed(format!("{}: it lost {left} of {size} bytes while it was read", reading()))
                    .hint("take the backup again when nothing cuts files short there"));
            }
            digest.update(&buffer[..read]);
            self.put(&buffer[..read])?;
            left -= read as u64;
        }
        if !same(before, &file.metadata().doing(reading)?) {
            self.changed.add(found.path);
        }
        Ok(hex::encode(digest.finalize()))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(out) = &mut self.archive {
            out.write_all(bytes).doing(|| "writing the archive".into())?;
        }
        self.done_bytes += bytes.len() as u64;
        self.cx.report(&self.what, self.done_bytes, None);
        Ok(())
    }
}

fn same(a: &std::fs::Metadata, b: &std::fs::Metadata) -> bool {
    let facts = |m: &std::fs::Metadata| (m.len(), m.mtime(), m.mtime_nsec(), m.ctime(), m.ctime_nsec());
    facts(a) == facts(b)
}

/// True for names that [`crate::sources::exchange::beside`] makes, with whatever is appended to them.
fn is_generated(name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let Some((_, rest)) = name.strip_prefix('.').and_then(|n| n.rsplit_once(".lifeboat-")) else { return false };
    let id = rest.split('.').next().unwrap_or_default();
    crate::identifier::check_id("candidate", id).is_ok()
}

impl Visitor for Reader<'_> {
    fn entry(&mut self, found: &Found<'_>) -> Result<bool> {
        let stat = &found.stat;
        if is_generated(found.name.to_bytes()) && found.path != ROOT {
            self.ours.add(found.path);
            return Ok(false);
        }
        let mtime_ns = i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec);
        let owner = Owner { uid: stat.st_uid, gid: stat.st_gid };
        let line = match found.kind() {
            FileType::RegularFile => return self.file(found),
            FileType::Directory => {
                if *self.device.get_or_insert(stat.st_dev) != stat.st_dev {
                    self.mounts.add(found.path);
                }
                Line::new(found.path, Type::Dir, 0, stat.st_mode, mtime_ns, None, None)
            }
            FileType::Symlink => {
                let target = match readlinkat(found.directory, found.name, Vec::new()) {
                    Ok(target) => target,
                    Err(Errno::NOENT | Errno::INVAL) => {
                        self.vanished.add(found.path);
                        return Ok(false);
                    }
                    Err(e) => return Err(e).doing(|| "reading a link".into()),
                };
                Line::new(found.path, Type::Symlink, 0, 0o777, mtime_ns, None, Some(target.as_bytes()))
            }
            _ => {
                self.special.add(found.path);
                return Ok(false);
            }
        };
        self.header(&line, owner)?;
        self.record(&line)?;
        Ok(true)
    }

    fn vanished(&mut self, path: &[u8]) {
        self.vanished.add(path);
    }
}
