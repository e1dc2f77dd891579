//! Attachments: one file a note, written whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes `text` as `directory/name`, readable by the service's user only.
pub(crate) fn write(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(".")
        .suffix(".tmp")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(directory.join(name))?;
    File::open(directory)?.sync_all()
}

/// Reads the attachment `name`; an absent file is an error, because a row says it exists.
pub(crate) fn read(directory: &Path, name: &str) -> io::Result<String> {
    fs::read_to_string(directory.join(name))
}
