//! Files and directories, as everything here handles them: no link is followed, what is gone already is fine, and what must survive a crash
//! is flushed.

use std::fs::{File, Metadata};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use crate::error::{Context, Error, Result};

/// Metadata of what lies at a path, symbolic links not followed; none where nothing does.
pub(crate) fn look(path: &Path) -> Result<Option<Metadata>> {
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).doing(|| format!("looking at {}", path.display())),
    }
}

/// True if something lies there, even a dangling link.
pub(crate) fn exists(path: &Path) -> Result<bool> {
    Ok(look(path)?.is_some())
}

/// Flushes a directory, so that the names in it survive a crash.
pub(crate) fn sync_directory(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).doing(|| format!("syncing directory {}", path.display()))
}

/// A directory of mode 0700, made if absent, with those above it.
pub(crate) fn private_dir(dir: &Path) -> Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).doing(|| format!("creating {}", dir.display()))
}

/// Puts a small file of mode 0600 in place, whole or not at all; on disk when this answers.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> Result<()> {
    let doing = || format!("writing {}", path.display());
    let temporary = path.with_extension("new");
    let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&temporary).doing(doing)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).doing(doing)?;
    std::fs::rename(&temporary, path).doing(doing)?;
    sync_directory(path.parent().unwrap_or(Path::new("/")))
}

/// Removes a file if it is there.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e).doing(|| format!("removing {}", path.display())),
        _ => Ok(()),
    }
}

/// Removes a tree without following links; gone already is fine. A link in its place is not ours.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match look(path)? {
        None => return Ok(()),
        Some(m) if m.is_dir() => {}
        Some(_) => return Err(Error::conflict(format!("{} is not a directory", path.display()))),
    }
    let removed = std::fs::remove_dir_all(path).or_else(|e| {
        // Directories that their owner made read-only. Root never comes here, so this touches nothing that is not our user's.
        if e.kind() != std::io::ErrorKind::PermissionDenied || rustix::process::geteuid().is_root() {
            return Err(e);
        }
        make_writable(path)?;
        std::fs::remove_dir_all(path)
    });
    removed.map_err(|e| {
        Error::failed(format!("removing {}: {e}", path.display()))
            .hint("part of it may be gone; call again with the rights to remove the rest")
    })
}

fn make_writable(directory: &Path) -> std::io::Result<()> {
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700))?;
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        // The entry's own type: a link to a directory is no directory.
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

/// Bytes that are free for us on the file system of a directory.
pub(crate) fn free_bytes(directory: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(directory).doing(|| format!("looking for space in {}", directory.display()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Bytes that all files on the file system of a directory take together.
pub(crate) fn used_bytes(directory: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(directory).doing(|| format!("looking for space in {}", directory.display()))?;
    Ok(stat.f_blocks.saturating_sub(stat.f_bfree).saturating_mul(stat.f_frsize))
}

/// An error if less space than this is free for us on the file system of a directory.
pub(crate) fn require_space(directory: &Path, bytes: u64) -> Result<()> {
    let free = free_bytes(directory)?;
    if free >= bytes {
        return Ok(());
    }
    Err(Error::failed(format!("{} has {free} bytes free, {bytes} are needed", directory.display()))
        .hint("make room, or configure another place"))
}
