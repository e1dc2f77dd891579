//! The archive: tar as GNU and POSIX know it, so that `tar -xpf` restores it by hand.
//!
//! Names over 99 bytes go into GNU `L` and `K` entries, which hold any byte; fractions of seconds into a POSIX `x` entry. The reader takes
//! only what this writer makes: whatever else stands in an archive is a reason to stop, not to interpret.

use std::io::{Read, Write};

use tar::{EntryType, Header};

use super::index::{Line, Type, kept_mode};
use super::walk::ROOT;
use crate::error::{Context, Error, Result};

const BLOCK_BYTES: usize = 512;
/// Names that fit into a header with the NUL after them.
const NAME_BYTES_MAX: usize = 99;
/// More than any name or time needs.
const EXTENSION_BYTES_MAX: u64 = 16 * 1024;

/// Owner by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner {
    pub uid: u32,
    pub gid: u32,
}

/// Writes the header of an entry; `line.size` bytes and [`pad`] must follow for a file.
pub(super) fn write_header(out: &mut dyn Write, line: &Line, owner: Owner) -> Result<()> {
    let path = line.path()?;
    let target = if line.kind == Type::Symlink { line.target()? } else { Vec::new() };
    let mtime = line.mtime_ns()?;
    let seconds = mtime.div_euclid(1_000_000_000);
    if mtime < 0 || mtime % 1_000_000_000 != 0 {
        extension(out, EntryType::XHeader, &pax_record("mtime", &decimal_seconds(mtime)))?;
    }
    let name = match line.kind {
        Type::Dir => [path.as_slice(), b"/"].concat(),
        Type::File | Type::Symlink => path,
    };
    for (kind, long) in [(EntryType::GNULongName, &name), (EntryType::GNULongLink, &target)] {
        if long.len() > NAME_BYTES_MAX {
            extension(out, kind, &[long.as_slice(), b"\0"].concat())?;
        }
    }
    let kind = match line.kind {
        Type::File => EntryType::Regular,
        Type::Dir => EntryType::Directory,
        Type::Symlink => EntryType::Symlink,
    };
    let mut header = header(kind, line.size, &name, &target);
    header.set_mode(kept_mode(line.kind, line.mode()?));
    header.set_uid(owner.uid.into());
    header.set_gid(owner.gid.into());
    header.set_mtime(u64::try_from(seconds).unwrap_or(0));
    put(out, header)
}

/// Fills the last block of a file's content.
pub(super) fn pad(out: &mut dyn Write, size: u64) -> Result<()> {
    out.write_all(&[0; BLOCK_BYTES][..padding(size)]).doing(writing)
}

/// Ends the archive.
pub(super) fn finish(out: &mut dyn Write) -> Result<()> {
    out.write_all(&[0; 2 * BLOCK_BYTES]).doing(writing)
}

fn writing() -> String {
    "writing the archive".into()
}

fn padding(size: u64) -> usize {
    // Below 512, so it fits.
    (size.wrapping_neg() % BLOCK_BYTES as u64) as usize
}

fn header(kind: EntryType, size: u64, name: &[u8], target: &[u8]) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    if let Some(gnu) = header.as_gnu_mut() {
        let name = &name[..name.len().min(NAME_BYTES_MAX)];
        gnu.name[..name.len()].copy_from_slice(name);
        let target = &target[..target.len().min(NAME_BYTES_MAX)];
        gnu.linkname[..target.len()].copy_from_slice(target);
    }
    header
}

fn extension(out: &mut dyn Write, kind: EntryType, content: &[u8]) -> Result<()> {
    let mut header = header(kind, content.len() as u64, b"././@LongLink", b"");
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    put(out, header)?;
    out.write_all(content).doing(writing)?;
    pad(out, content.len() as u64)
}

fn put(out: &mut dyn Write, mut header: Header) -> Result<()> {
    header.set_cksum();
    out.write_all(header.as_bytes()).doing(writing)
}

/// `LENGTH key=value\n`, where the length counts itself.
fn pax_record(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len();
    while length != rest.len() + length.to_string().len() {
        length = rest.len() + length.to_string().len();
    }
    format!("{length}{rest}").into_bytes()
}

fn decimal_seconds(ns: i128) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let ns = ns.unsigned_abs();
    format!("{sign}{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000)
}

/// An entry as read; its content comes next in the reader's input.
#[derive(Debug)]
pub(super) struct Entry {
    pub path: Vec<u8>,
    pub kind: Type,
    pub size: u64,
    pub target: Vec<u8>,
    pub owner: Owner,
}

/// Reads the next entry; none at the archive's end.
pub(super) fn read_header(input: &mut dyn Read) -> Result<Option<Entry>> {
    let (mut long_name, mut long_target) = (None, None);
    loop {
        let mut block = [0; BLOCK_BYTES];
        input.read_exact(&mut block).doing(|| "the archive ends too early".into())?;
        if block.iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let header = Header::from_byte_slice(&block);
        // The checksum's own eight bytes count as spaces.
        let sum: u32 =
            block.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
        if header.cksum().doing(reading)? != sum {
            return Err(Error::failed("the archive is damaged: a header's checksum is wrong"));
        }
        let size = header.entry_size().doing(reading)?;
        let path = || header.path_bytes().into_owned();
        let kind = match header.entry_type() {
            EntryType::Regular => Type::File,
            EntryType::Directory => Type::Dir,
            EntryType::Symlink => Type::Symlink,
            EntryType::GNULongName => {
                long_name = Some(read_extension(input, size)?);
                continue;
            }
            EntryType::GNULongLink => {
                long_target = Some(read_extension(input, size)?);
                continue;
            }
            // Times: the index has them.
            EntryType::XHeader => {
                read_extension(input, size)?;
                continue;
            }
            other => {
                return Err(Error::refused(format!(
                    "the archive holds {} of a type that no backup has ({:?})",
                    crate::identifier::shown(&String::from_utf8_lossy(&path())),
                    other
                )));
            }
        };
        let mut path = long_name.unwrap_or_else(path);
        if kind == Type::Dir && path.last() == Some(&b'/') {
            path.pop();
        }
        let target =
            long_target.unwrap_or_else(|| header.link_name_bytes().map(|n| n.into_owned()).unwrap_or_default());
        let number = |n: std::io::Result<u64>| n.doing(reading).and_then(|n| u32::try_from(n).doing(reading));
        let owner = Owner { uid: number(header.uid())?, gid: number(header.gid())? };
        return Ok(Some(Entry { path, kind, size, target, owner }));
    }
}

/// Skips what fills the last block of a file's content.
pub(super) fn skip_padding(input: &mut dyn Read, size: u64) -> Result<()> {
    input.read_exact(&mut [0; BLOCK_BYTES][..padding(size)]).doing(|| "the archive ends too early".into())
}

fn reading() -> String {
    "reading the archive".into()
}

fn read_extension(input: &mut dyn Read, size: u64) -> Result<Vec<u8>> {
    if size > EXTENSION_BYTES_MAX {
        return Err(Error::refused(format!("the archive claims a name of {size} bytes")));
    }
    let mut content = vec![0; usize::try_from(size).doing(reading)?];
    input.read_exact(&mut content).doing(|| "the archive ends too early".into())?;
    skip_padding(input, size)?;
    if content.last() == Some(&0) {
        content.pop();
    }
    Ok(content)
}

impl Entry {
    /// An error unless an entry is the one that the index has at this point.
    pub fn require(&self, line: &Line, path: &[u8]) -> Result<()> {
        let target = if line.kind == Type::Symlink { line.target()? } else { Vec::new() };
        if self.path == path && self.kind == line.kind && self.size == line.size && self.target == target {
            return Ok(());
        }
        let root = if path == ROOT { " (the root)" } else { "" };
        Err(Error::refused(format!(
            "archive and index differ: the index has {}{root} with {} bytes, the archive {} with {}",
            line.shown(),
            line.size,
            crate::identifier::shown(&String::from_utf8_lossy(&self.path)),
            self.size
        ))
        .hint("the backup is not as it was written: use another copy of it"))
    }
}
