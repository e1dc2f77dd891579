//! Looking at the place where candidates lie beside live files and directories: its room, and what an exchange needs.

use std::path::Path;

use rustix::fs::Access;

use super::exchange::{is_mount_point, live_place, parent};
use crate::Finding;
use crate::checks::Seen;
use crate::disk;
use crate::error::Result;

/// Room for a candidate of so many bytes.
pub(super) fn space(configured: &Path, bytes: u64) -> Result<Seen> {
    let live = live_place(configured)?;
    let directory = parent(&live)?;
    let free = disk::free_bytes(directory)?;
    Ok(Seen::space(&directory.display().to_string(), free, bytes, "a candidate beside the live data needs"))
}

/// What would stop an exchange, as far as that shows without making a file.
pub(super) fn may_promote(configured: &Path) -> Result<Seen> {
    let live = live_place(configured)?;
    let directory = parent(&live)?;
    let mut findings = Vec::new();
    if let Err(e) = rustix::fs::access(directory, Access::WRITE_OK | Access::EXEC_OK) {
        findings.push(Finding::error(
            "rights",
            format!("nothing can be made in {}: {e}", directory.display()),
            "give the engine's user write permission on this directory",
        ));
    }
    if let Some(current) = disk::look(&live)?
        && is_mount_point(&live, &current)?
    {
        findings.push(Finding::error(
            "mount-point",
            format!("{} is a mount point and can't be exchanged", live.display()),
            "configure a directory below the mount point",
        ));
    }
    Ok(Seen::of_findings(&findings, format!("a candidate can take its place in {}", directory.display())))
}
