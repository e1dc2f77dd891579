//! Policies as files: what a module says of itself, what it wants, and how it is made.

pub mod bundle;
mod description;
pub mod difference;
mod digest;
mod facts;
pub mod lock;
mod module;
pub mod origin;
mod pack;
mod parameters;
pub mod project;
mod put;
pub(crate) mod reference;
pub mod signatures;
pub(crate) mod size;

pub use description::{Description, SECTION};
pub(crate) use module::inspect_kept;
pub use module::{BYTES_MAX, Import, Inspected, Module, inspect};
pub use pack::pack;
pub use parameters::{from_words, validate, validate_partial};
pub use put::{Ready, put_in_place};
pub use reference::Reference;

use std::io::Read;
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
