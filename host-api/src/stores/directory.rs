//! A directory as a store.
//!
//! An object appears under its key whole or not at all: it is written under a dot name beside its place, synced, then *linked* to its
//! key, which fails where the key is taken; then every directory on the way is synced. A process that dies before leaves a dot name,
//! which no list shows. Every part of a key is opened below the root's own descriptor and never through a symbolic link.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{AtFlags, Mode, OFlags, RenameFlags, StatxFlags};
use rustix::io::Errno;

use super::{Listed, Put, StoreWriter, no_object};
use crate::error::{Context, Error, ErrorKind, Result};

// A backup holds all that its service holds: nobody but the store's owner reads it unless they change that.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o700);
const OPEN_FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

pub(super) struct Directory {
    name: String,
    path: PathBuf,
    /// Device and inode as first seen: a mount that went away leaves another directory in its place.
    pinned: OnceLock<(u64, u64)>,
    operator: OnceLock<opendal::Operator>,
}

impl Directory {
    pub(super) fn new(name: &str, path: &Path) -> Self {
        let this =
            Self { name: name.to_owned(), path: path.to_owned(), pinned: OnceLock::new(), operator: OnceLock::new() };
        // Pins what is there now, if anything is; otherwise the first operation does.
        let _ = this.root();
        this
    }

    /// The root, opened anew: an error where it is gone, or is not the one it was.
    pub(super) fn root(&self) -> Result<OwnedFd> {
        let shown = self.path.display();
        // The root itself may be reached through a link: that is the operator's choice.
        let root = rustix::fs::open(&self.path, OPEN_FOLDER.difference(OFlags::NOFOLLOW), Mode::empty()).map_err(|e| {
            // Never «not found»: that is said of a backup in a store that can be read.
            let kind = ErrorKind::Failed;
            Error::new(kind, format!("store {}: its directory {shown} can't be opened: {e}", self.name))
                .hint("mount it, or create it once by hand: a store's directory is never made for you, so that a missing mount is noticed")
        })?;
        let stat = rustix::fs::fstat(&root).doing(|| format!("store {}: looking at {shown}", self.name))?;
        let found = (stat.st_dev, stat.st_ino);
        if *self.pinned.get_or_init(|| found) != found {
            return Err(Error::failed(format!("store {}: {shown} is not the directory it was before", self.name))
                .hint("a mount went away or another came in its place; restart lifeboat if that is meant"));
        }
        Ok(root)
    }

    /// `directory/INODE@BORN`: which directory it is, wherever it is mounted and whatever its path. A copy of it, however made, is another one
    /// (but for an image of the whole file system). None where the file system does not say when it was made (NFS, FUSE, old kernels): inodes
    /// alone are given to others after it.
    pub(super) fn own_name(&self) -> Result<Option<String>> {
        let looked = rustix::fs::statx(self.root()?, "", AtFlags::EMPTY_PATH, StatxFlags::INO | StatxFlags::BTIME);
        let stat = match looked {
            Ok(stat) => stat,
            Err(Errno::NOSYS) => return Ok(None),
            Err(e) => return Err(self.io("its directory", e)),
        };
        let is_told = StatxFlags::from_bits_retain(stat.stx_mask).contains(StatxFlags::INO | StatxFlags::BTIME);
        let born = (stat.stx_btime.tv_sec, stat.stx_btime.tv_nsec);
        Ok(is_told.then(|| format!("directory/{}@{}.{:09}", stat.stx_ino, born.0, born.1)))
    }

    /// opendal over the root. Only called with the root there: opendal would make it.
    pub(super) fn operator(&self) -> Result<&opendal::Operator> {
        if let Some(operator) = self.operator.get() {
            return Ok(operator);
        }
        let root = self.path.to_str().ok_or_else(|| {
            Error::invalid(format!("store {}: its directory's path {} is no UTF-8", self.name, self.path.display()))
        })?;
        let operator = opendal::Operator::new(opendal::services::Fs::default().root(root))
            .map_err(|e| Error::failed(format!("store {}: {e}", self.name)))?;
        Ok(self.operator.get_or_init(|| operator))
    }

    /// An error where a folder's name is taken by something else; no folder at all is fine.
    pub(super) fn check_folder(&self, folder: &str) -> Result<()> {
        match self.folders(folder.split('/'), false) {
            Err(e) if e.kind == ErrorKind::NotFound => self.root().map(drop),
            other => other.map(drop),
        }
    }

    /// Everything below a folder that is no folder itself, in no order, with its size and the time of its last change; no folder at all is fine.
    /// One descriptor a folder, and no link is followed.
    pub(super) fn walk(&self, folder: &str) -> Result<Vec<Listed>> {
        let mut found = Vec::new();
        let start = match self.folders(folder.split('/'), false) {
            Ok(mut folders) => folders.pop(),
            Err(e) if e.kind == ErrorKind::NotFound => None,
            Err(e) => return Err(e),
        };
        let mut open: Vec<(String, OwnedFd)> = start.into_iter().map(|fd| (folder.to_owned(), fd)).collect();
        while let Some((path, fd)) = open.pop() {
            for entry in rustix::fs::Dir::read_from(&fd).map_err(|e| self.io(&path, e))? {
                let entry = entry.map_err(|e| self.io(&path, e))?;
                // What is no UTF-8 is no key.
                let Some(name) = entry.file_name().to_str().ok().filter(|name| !name.starts_with('.')) else {
                    continue;
                };
                let key = format!("{path}/{name}");
                let stat = match rustix::fs::statat(&fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(stat) => stat,
                    // Removed meanwhile.
                    Err(Errno::NOENT) => continue,
                    Err(e) => return Err(self.io(&key, e)),
                };
                if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
                    let below =
                        rustix::fs::openat(&fd, name, OPEN_FOLDER, Mode::empty()).map_err(|e| self.io(&key, e))?;
                    open.push((key, below));
                    continue;
                }
                let ms = i128::from(stat.st_mtime) * 1000 + i128::from(stat.st_mtime_nsec) / 1_000_000;
                let bytes = u64::try_from(stat.st_size).unwrap_or(0);
                found.push(Listed { key, stored_at_ms: u64::try_from(ms).ok(), bytes });
            }
        }
        // A root that vanished half-way is no empty folder.
        self.root()?;
        Ok(found)
    }

    pub(super) fn open(&self, key: &str) -> Result<Box<dyn Read + Send>> {
        let (folders, name) = self.parent(key, false)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(last(&folders), name, flags, Mode::empty()).map_err(|e| self.io(key, e))?;
        let stat = rustix::fs::fstat(&file).map_err(|e| self.io(key, e))?;
        if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
            return Err(Error::failed(format!("store {}: {key} is not a regular file", self.name)));
        }
        Ok(Box::new(File::from(file)))
    }

    pub(super) fn writer(&self, key: &str) -> Result<Box<dyn StoreWriter>> {
        let (folders, name) = self.parent(key, true)?;
        let temporary = format!(".lifeboat-{}.part", ulid::Ulid::new().to_string().to_lowercase());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(last(&folders), &temporary, flags, FILE_MODE).map_err(|e| self.io(key, e))?;
        Ok(Box::new(DirectoryWriter {
            // A directory of its own: the writer outlives the borrow, and looks at the root again before it publishes.
            store: Self {
                name: self.name.clone(),
                path: self.path.clone(),
                pinned: self.pinned.clone(),
                operator: OnceLock::new(),
            },
            key: key.to_owned(),
            name: name.to_owned(),
            folders,
            temporary: Some(temporary),
            file: File::from(file),
            bytes: 0,
        }))
    }

    /// Makes a removal durable.
    pub(super) fn sync_parent(&self, key: &str) -> Result<()> {
        match self.parent(key, false) {
            Ok((folders, _)) => rustix::fs::fsync(last(&folders)).map_err(|e| self.io(key, e)),
            Err(e) if e.kind == ErrorKind::NotFound => self.root().map(drop),
            Err(e) => Err(e),
        }
    }

    /// Descriptors of the root and every folder on the way to a key, and the key's last part.
    fn parent<'k>(&self, key: &'k str, create: bool) -> Result<(Vec<OwnedFd>, &'k str)> {
        let (folder, name) = key.rsplit_once('/').map_or((None, key), |(folder, name)| (Some(folder), name));
        Ok((self.folders(folder.into_iter().flat_map(|f| f.split('/')), create)?, name))
    }

    fn folders<'k>(&self, parts: impl Iterator<Item = &'k str>, create: bool) -> Result<Vec<OwnedFd>> {
        let mut folders = vec![self.root()?];
        for part in parts {
            let parent = last(&folders);
            if create {
                match rustix::fs::mkdirat(parent, part, FOLDER_MODE) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(self.io(part, e)),
                }
            }
            let folder = rustix::fs::openat(parent, part, OPEN_FOLDER, Mode::empty()).map_err(|e| self.io(part, e))?;
            folders.push(folder);
        }
        Ok(folders)
    }

    fn io(&self, key: &str, e: Errno) -> Error {
        match e {
            Errno::NOENT => no_object(&self.name, key),
            Errno::LOOP | Errno::NOTDIR => Error::failed(format!(
                "store {}: {key} leads through something that is neither a directory nor a file of ours: {e}",
                self.name
            ))
            .hint("lifeboat follows no symbolic links inside a store"),
            _ => Error::failed(format!("store {}: {key}: {e}", self.name)),
        }
    }
}

/// The innermost folder; the list starts with the root, so there is one.
fn last(folders: &[OwnedFd]) -> &OwnedFd {
    &folders[folders.len() - 1]
}

struct DirectoryWriter {
    store: Directory,
    key: String,
    name: String,
    folders: Vec<OwnedFd>,
    /// None once it is gone.
    temporary: Option<String>,
    file: File,
    bytes: u64,
}

impl Write for DirectoryWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl StoreWriter for DirectoryWriter {
    fn finish(mut self: Box<Self>, may: &dyn Fn() -> Result<()>) -> Result<Put> {
        let (store, key) = (self.store.name.clone(), self.key.clone());
        let doing = |what: &str| format!("store {store}: {what} {key}");
        self.file.sync_all().doing(|| doing("syncing"))?;
        let size = self.file.metadata().doing(|| doing("looking at"))?.len();
        if size != self.bytes {
            return Err(Error::failed(format!("{}: {} bytes written, {size} on disk", doing("writing"), self.bytes)));
        }
        // Descriptors still work below a root that was unmounted or moved away; nobody would find the object there.
        self.store.root()?;
        let folder = last(&self.folders);
        let temporary = self.temporary.as_deref().unwrap_or_default();
        may()?;
        let put = match rustix::fs::linkat(folder, temporary, folder, &self.name, AtFlags::empty()) {
            Ok(()) => Put::Created,
            Err(Errno::EXIST) => Put::Exists,
            // File systems without hard links.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK) => {
                match rustix::fs::renameat_with(folder, temporary, folder, &self.name, RenameFlags::NOREPLACE) {
                    Ok(()) => Put::Created,
                    Err(Errno::EXIST) => Put::Exists,
                    Err(e) => {
                        return Err(self
                            .store
                            .io(&self.key, e)
                            .hint("a directory store needs a file system with hard links or RENAME_NOREPLACE"));
                    }
                }
            }
            Err(e) => return Err(self.store.io(&self.key, e)),
        };
        self.remove_temporary();
        // The whole way up: another writer may have made a folder on it, and not have synced it yet.
        for folder in self.folders.iter().rev() {
            rustix::fs::fsync(folder).doing(|| doing("syncing the directory of"))?;
        }
        Ok(put)
    }
}

impl DirectoryWriter {
    fn remove_temporary(&mut self) {
        if let Some(temporary) = self.temporary.take() {
            // One that stays is a dot name, which no list shows.
            let _ = rustix::fs::unlinkat(last(&self.folders), temporary, AtFlags::empty());
        }
    }
}

impl Drop for DirectoryWriter {
    fn drop(&mut self) {
        self.remove_temporary();
    }
}
