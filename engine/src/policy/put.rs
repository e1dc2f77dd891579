//! Files that take the place of others at once: modules, signatures, pins, bundles.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::error::{Error, Kind, Result};

/// A file that is written and flushed, and not yet in its place.
pub struct Ready {
    file: NamedTempFile,
    path: PathBuf,
}

impl Ready {
    /// Writes it beside its place. What is there may be a regular file, or a link to one, which stays a link; nothing else is replaced: a device
    /// or a pipe would be gone for everybody.
    pub fn write(path: &Path, bytes: &[u8]) -> Result<Self> {
        let failed = |e: std::io::Error| Error::new(Kind::Failed, format!("{}: {e}", path.display()));
        let place = match fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => fs::canonicalize(path).map_err(failed)?,
            Ok(_) => path.to_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => path.to_owned(),
            Err(e) => return Err(failed(e)),
        };
        if fs::metadata(&place).is_ok_and(|found| !found.is_file()) {
            return Err(Error::new(
                Kind::Failed,
                format!("{}: it is no regular file, and is not replaced", path.display()),
            ));
        }
        // Modules, signatures and pins are no secret, and other users' engines may have to read them.
        let mut file = tempfile::Builder::new()
            .prefix(".lifeboat-")
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(folder(&place))
            .map_err(failed)?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        Ok(Self { file, path: place })
    }

    /// Puts it there, in the place of whatever is there.
    pub fn put(self) -> Result<()> {
        let Self { file, path } = self;
        let failed = |e: std::io::Error| Error::new(Kind::Failed, format!("{}: {e}", path.display()));
        file.persist(&path).map_err(|e| failed(e.error))?;
        File::open(folder(&path)).and_then(|folder| folder.sync_all()).map_err(failed)
    }

    /// Where it goes.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Writes a file and puts it in its place.
pub fn put_in_place(path: &Path, bytes: &[u8]) -> Result<()> {
    Ready::write(path, bytes)?.put()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_stays_a_link_and_what_is_no_file_stays_what_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::write(at("file"), "old").unwrap();
        std::os::unix::fs::symlink("file", at("link")).unwrap();
        put_in_place(&at("link"), b"new").unwrap();
        assert_eq!(fs::read_to_string(at("file")).unwrap(), "new");
        assert!(fs::symlink_metadata(at("link")).unwrap().is_symlink());

        std::os::unix::fs::symlink("nowhere", at("dangling")).unwrap();
        std::os::unix::fs::symlink("/dev/null", at("device")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        fs::create_dir(at("directory")).unwrap();
        for name in ["dangling", "device", "socket", "directory"] {
            let before = fs::symlink_metadata(at(name)).unwrap().file_type();
            assert!(put_in_place(&at(name), b"new").is_err(), "{name}");
            assert_eq!(fs::symlink_metadata(at(name)).unwrap().file_type(), before, "{name}");
        }
        let left = fs::read_dir(folder.path())
            .unwrap()
            .filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().starts_with(".lifeboat-"));
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn what_is_not_put_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        drop(Ready::write(&path, b"new").unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
