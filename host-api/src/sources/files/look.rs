//! Looking at a directory without reading its files: how much there is, and what of it we may not read.

use std::path::Path;

use rustix::fs::{Access, AtFlags, FileType, accessat};

use super::walk::{Found, ROOT, Visitor, walk};
use crate::checks::Seen;
use crate::context::StepContext;
use crate::error::Result;
use crate::identifier::shown;

/// Names that are told; the rest is counted.
const NAMES_MAX: usize = 5;

/// What a walk over a directory found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// Bytes in regular files.
    pub(super) bytes: u64,
    /// Files, directories and links.
    pub(super) entries: u64,
    unreadable: u64,
    names: Vec<String>,
    device: Option<u64>,
}

impl Visitor for Walked {
    fn entry(&mut self, found: &Found<'_>) -> Result<bool> {
        // What is mounted below is not part of the source.
        if *self.device.get_or_insert(found.stat.st_dev) != found.stat.st_dev {
            return Ok(false);
        }
        self.entries += 1;
        if found.kind() == FileType::RegularFile {
            self.bytes = self.bytes.saturating_add(u64::try_from(found.stat.st_size).unwrap_or(0));
            // As whom files would be opened.
            if accessat(found.directory, found.name, Access::READ_OK, AtFlags::EACCESS).is_err() {
                self.unreadable += 1;
                if self.names.len() < NAMES_MAX && found.path != ROOT {
                    self.names.push(shown(&String::from_utf8_lossy(found.path)));
                }
            }
        }
        Ok(true)
    }

    fn vanished(&mut self, _path: &[u8]) {}
}

impl Walked {
    /// Whether all of it can be read.
    pub(super) fn readable(&self) -> Seen {
        if self.unreadable == 0 {
            return Seen::ok(format!("entries: {}, and every file may be read", self.entries));
        }
        let more = if self.unreadable > self.names.len() as u64 { ", …" } else { "" };
        Seen::critical(
            format!("files that may not be read: {} ({}{more})", self.unreadable, self.names.join(", ")),
            "give the engine's user read permission, or run it as the files' owner",
        )
    }
}

/// Walks a directory.
pub(super) fn walked(cx: &StepContext, path: &Path) -> Result<Walked> {
    let mut walked = Walked::default();
    walk(cx, path, &mut walked)?;
    Ok(walked)
}
