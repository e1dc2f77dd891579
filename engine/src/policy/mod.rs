//! Policies as files: what a module says of itself, what it wants, and how it is made.

pub mod bundle;
mod description;
pub mod difference;
mod facts;
pub mod lock;
mod module;
pub mod origin;
mod pack;
mod parameters;
pub mod project;
pub mod signatures;
mod size;

pub use description::{Description, SECTION};
pub(crate) use module::inspect_kept;
pub use module::{BYTES_MAX, Import, Inspected, Module, inspect};
pub use pack::pack;
pub use parameters::{from_words, validate, validate_partial};

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::error::{Error, Kind, Result};

/// The bytes of a file of at most so many. Whatever else has its name (a pipe, a device) is refused: reading it might have no end.
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let refused = |why: String| Error::new(Kind::PolicyRefused, format!("{}: {why}", path.display()));
    let found = std::fs::metadata(path).map_err(|e| refused(e.to_string()))?;
    if !found.is_file() {
        return Err(refused("it is no regular file".into()));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| refused(e.to_string()))?;
    file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes).map_err(|e| refused(e.to_string()))?;
    match bytes.len() as u64 > bytes_max {
        true => Err(refused(format!("it has more than {bytes_max} bytes"))),
        false => Ok(bytes),
    }
}

/// Writes a file in the place of whatever is there: a temporary one, flushed, in its place at once. Modules, signatures and pins are no secret, and
/// other users' engines may have to read them.
pub fn put_in_place(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |e: std::io::Error| Error::new(Kind::Failed, format!("{}: {e}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new()
        .prefix(".lifeboat-")
        .permissions(std::fs::Permissions::from_mode(0o644))
        .tempfile_in(folder)
        .map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}
