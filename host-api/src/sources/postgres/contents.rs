//! An archive's table of contents entry by entry, and the archive with only some of them.
//!
//! `pg_restore --use-list` does the same with a file, which it would not see behind a prefix. Here the chosen entries go through its standard
//! input instead, with the data of all: it passes over data whose entry it does not have.

use std::fs::File;
use std::io::{Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use super::archive::{self, Summary};
use crate::error::{Context, Error, Result};

/// Most of the table of contents that is written anew. Entries of data are short; whoever has a million tables has 200 MB of them.
const HEAD_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// The number of entries ends the header: a sign, and four bytes.
const COUNT_BYTES: u64 = 5;

/// One entry, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its id in this archive.
    pub id: u32,
    /// `TABLE DATA`, `SEQUENCE SET`, …
    pub kind: String,
    /// The schema's name, not quoted; empty where there is none.
    pub schema: String,
    /// Name, not quoted, of what it is about.
    pub tag: String,
    /// The COPY statement of a table's data.
    pub copy: String,
    /// Where in the entry that begins, with its length in front, bytes.
    pub copy_at: usize,
    /// Where it begins, bytes.
    pub at: u64,
    /// How long it is, bytes.
    pub bytes: u64,
}

impl Entry {
    /// Whether it makes a large object, fills it, or says something of it.
    pub fn is_of_large_objects(&self) -> bool {
        let says = matches!(self.kind.as_str(), "COMMENT" | "ACL" | "SECURITY LABEL");
        matches!(self.kind.as_str(), "BLOB" | "BLOB METADATA" | "BLOBS")
            || (says && self.tag.starts_with("LARGE OBJECT"))
    }

    /// Whether it says how the others are to be read.
    fn is_setting(&self) -> bool {
        matches!(self.kind.as_str(), "ENCODING" | "STDSTRINGS" | "SEARCHPATH")
    }
}

/// What an archive's head holds.
pub(super) struct Contents {
    /// As every reader sees it, without rows.
    pub summary: Summary,
    /// Its entries, in its order.
    pub entries: Vec<Entry>,
    header_bytes: u64,
    head_bytes: u64,
}

impl Contents {
    /// Reads the head of an archive in a file.
    pub fn read(path: &Path) -> Result<Self> {
        let file = File::open(path).doing(|| "opening the archive".into())?;
        let (summary, entries, header_bytes, head_bytes) = archive::read_entries(file)?;
        Ok(Self { summary, entries, header_bytes, head_bytes })
    }

    /// Entries of table data.
    pub fn tables(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| entry.kind == "TABLE DATA")
    }

    /// The archive in this file, whose head this is, as if it had only these entries; and how they are to be read.
    pub fn only(&self, path: &Path, wanted: impl Fn(&Entry) -> bool) -> Result<Box<dyn Read + Send>> {
        let chosen: Vec<&Entry> = self.entries.iter().filter(|entry| entry.is_setting() || wanted(entry)).collect();
        let bytes = chosen.iter().fold(self.header_bytes, |sum, entry| sum.saturating_add(entry.bytes));
        let count = u32::try_from(chosen.len()).unwrap_or(u32::MAX);
        if bytes > HEAD_BYTES_MAX || self.header_bytes < COUNT_BYTES {
            return Err(Error::failed(format!(
                "the archive's table of contents has {bytes} bytes, too many to choose from"
            )));
        }
        let mut file = File::open(path).doing(|| "opening the archive".into())?;
        let mut read = |at: u64, bytes: u64, into: &mut Vec<u8>| -> std::io::Result<()> {
            file.seek(SeekFrom::Start(at))?;
            match (&mut file).take(bytes).read_to_end(into)? as u64 {
                all if all == bytes => Ok(()),
                _ => Err(std::io::ErrorKind::UnexpectedEof.into()),
            }
        };
        let mut head = Vec::new();
        let mut read_all = || -> std::io::Result<()> {
            read(0, self.header_bytes - COUNT_BYTES, &mut head)?;
            head.push(0);
            head.extend_from_slice(&count.to_le_bytes());
            chosen.iter().try_for_each(|entry| read(entry.at, entry.bytes, &mut head))
        };
        read_all().doing(|| "reading the archive".into())?;
        file.seek(SeekFrom::Start(self.head_bytes)).doing(|| "reading the archive".into())?;
        Ok(Box::new(Cursor::new(head).chain(file)))
    }
}
