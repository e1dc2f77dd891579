//! The index: one JSON line an entry, sorted by bytes of the path, the root (`.`) first.
//!
//! ```text
//! {"path":"a/b.json","type":"file","size":3,"mode":"0600","mtime-ns":"1700000000123456789","sha256":"ba78…"}
//! {"path":"link","type":"symlink","size":0,"mode":"0777","mtime-ns":"…","target":"a/b.json"}
//! ```
//!
//! A name that is not UTF-8 has its bytes in hexadecimal in `path-bytes` (`target-bytes`), and in `path` a reading for people. Set-user-id
//! never leaves a host by a backup, set-group-id only on directories. The hash of a directory is the sum modulo 2^128 of xxh3-128 of each
//! line, without its line feed.

use std::io::BufRead;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::walk::ROOT;
use crate::error::{Context, Error, Result};
use crate::manifest::FilesFacts;

/// A path of 4,096 bytes and a target of as many, each byte escaped and in hexadecimal.
const LINE_BYTES_MAX: u64 = 128 * 1024;
/// The longest path Linux takes.
const PATH_BYTES_MAX: usize = 4095;

/// What sort of entry it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Type {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
}

/// One entry. The order of the fields is the order in the line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Line {
    path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    #[serde(rename = "type")]
    pub kind: Type,
    /// Bytes of a file; 0 for the others.
    pub size: u64,
    mode: String,
    mtime_ns: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_bytes: Option<String>,
}

impl Line {
    /// A line; `sha256` of a file, `target` of a link.
    pub fn new(
        path: &[u8],
        kind: Type,
        size: u64,
        mode: u32,
        mtime_ns: i128,
        sha256: Option<String>,
        target: Option<&[u8]>,
    ) -> Self {
        let (path, path_bytes) = written(path);
        let (target, target_bytes) = target.map(written).map_or((None, None), |(t, b)| (Some(t), b));
        let mode = format!("{:04o}", kept_mode(kind, mode));
        Self { path, path_bytes, kind, size, mode, mtime_ns: mtime_ns.to_string(), sha256, target, target_bytes }
    }

    /// The line's text, without a line feed.
    pub fn encode(&self) -> Result<String> {
        serde_json::to_string(self).doing(|| "writing an index line".into())
    }

    /// The path for people.
    pub fn shown(&self) -> String {
        crate::identifier::shown(&self.path)
    }

    /// The path's bytes.
    pub fn path(&self) -> Result<Vec<u8>> {
        read(&self.path, self.path_bytes.as_deref())
    }

    /// The target's bytes.
    pub fn target(&self) -> Result<Vec<u8>> {
        read(self.target.as_deref().unwrap_or_default(), self.target_bytes.as_deref())
    }

    /// Permission bits.
    pub fn mode(&self) -> Result<u32> {
        u32::from_str_radix(&self.mode, 8).doing(|| format!("mode of {}", self.shown()))
    }

    /// Time of the last change, nanoseconds since 1970.
    pub fn mtime_ns(&self) -> Result<i128> {
        self.mtime_ns.parse().doing(|| format!("time of {}", self.shown()))
    }

    /// Checks everything about a line that came out of a backup; `before` is the path of the line before it.
    fn check(&self, before: Option<&[u8]>) -> Result<Vec<u8>> {
        let path = self.path()?;
        let refuse = |why: &str| Err(Error::refused(format!("index: {} {why}", self.shown())));
        match before {
            None if path != ROOT || self.kind != Type::Dir => return refuse("stands where the root should"),
            Some(_) if !is_below(&path) => return refuse("is not a path below the root"),
            // Sorted without equals: nothing comes twice.
            Some(before) if before != ROOT && before >= path.as_slice() => return refuse("is doubled or out of order"),
            _ => {}
        }
        let whole = match self.kind {
            Type::File => self.sha256.is_some() && self.target.is_none(),
            Type::Dir => self.size == 0 && self.sha256.is_none() && self.target.is_none(),
            Type::Symlink => self.size == 0 && self.sha256.is_none() && self.target.is_some(),
        };
        if !whole {
            return refuse("has fields that don't fit its type");
        }
        let mode = self.mode()?;
        if mode != kept_mode(self.kind, mode) {
            return refuse("has a mode that no backup holds");
        }
        self.mtime_ns()?;
        if self.kind == Type::Symlink {
            let target = self.target()?;
            if target.is_empty() || target.contains(&0) || target.len() > PATH_BYTES_MAX {
                return refuse("has a target that no link can have");
            }
        }
        Ok(path)
    }
}

fn is_below(path: &[u8]) -> bool {
    !path.is_empty()
        && path.len() <= PATH_BYTES_MAX
        && !path.contains(&0)
        && path.split(|b| *b == b'/').all(|c| !c.is_empty() && c.len() <= 255 && c != b"." && c != b"..")
}

/// The bits of a mode that a backup keeps.
pub(super) fn kept_mode(kind: Type, mode: u32) -> u32 {
    mode & match kind {
        Type::Dir => 0o3777,
        Type::File | Type::Symlink => 0o1777,
    }
}

fn written(bytes: &[u8]) -> (String, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (text.to_owned(), None),
        Err(_) => (String::from_utf8_lossy(bytes).into_owned(), Some(hex::encode(bytes))),
    }
}

fn read(text: &str, bytes: Option<&str>) -> Result<Vec<u8>> {
    match bytes {
        None => Ok(text.as_bytes().to_vec()),
        Some(digits) => hex::decode(digits).doing(|| "bytes of a name".into()),
    }
}

/// Facts being summed up.
#[derive(Debug, Default)]
pub(super) struct Sum {
    entries: u64,
    files: u64,
    bytes: u64,
    hash: u128,
}

impl Sum {
    /// Adds an entry by its line.
    pub fn add(&mut self, line: &Line, text: &str) {
        self.entries += 1;
        self.files += u64::from(line.kind == Type::File);
        self.bytes = self.bytes.saturating_add(line.size);
        self.hash = self.hash.wrapping_add(xxh3_128(text.as_bytes()));
    }

    /// The facts.
    pub fn facts(&self) -> FilesFacts {
        FilesFacts { entries: self.entries, files: self.files, bytes: self.bytes, hash: format!("{:032x}", self.hash) }
    }
}

/// Reads and checks an index, a line at a time.
pub(super) struct Lines<R> {
    input: R,
    before: Option<Vec<u8>>,
}

impl<R: BufRead> Lines<R> {
    /// Over this input.
    pub fn new(input: R) -> Self {
        Self { input, before: None }
    }

    /// The next line, its text and its path; none at the end.
    pub fn next(&mut self) -> Result<Option<(Line, String, Vec<u8>)>> {
        let mut text = Vec::new();
        let mut limited = std::io::Read::take(&mut self.input, LINE_BYTES_MAX);
        limited.read_until(b'\n', &mut text).doing(|| "reading the index".into())?;
        if text.is_empty() {
            return Ok(None);
        }
        if text.pop() != Some(b'\n') {
            return Err(Error::failed("index: a line has no end"));
        }
        let text = String::from_utf8(text).doing(|| "index".into())?;
        let line: Line = serde_json::from_str(&text).doing(|| "index".into())?;
        // The hash of the directory that this line leads to is taken over the line we would write.
        if line.encode()? != text {
            return Err(Error::failed(format!(
                "index: the line of {} is not in the form it is written in",
                line.shown()
            )));
        }
        let path = line.check(self.before.as_deref())?;
        self.before = Some(path.clone());
        Ok(Some((line, text, path)))
    }
}
