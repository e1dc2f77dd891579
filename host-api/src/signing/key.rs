//! Private keys in files: made once, whole or not at all, and read only where nobody else can.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use ring::rand::SecureRandom;

use super::FAMILY;
use crate::disk;
use crate::error::{Context, Error, Result};
use crate::note::{Signer, Verifier};

/// A private key is one line of some hundred bytes.
const KEY_BYTES_MAX: u64 = 4096;

/// Makes a private key in a file of mode 0600 that is not there yet; on disk when this answers. Gives its public half.
pub fn make_key(path: &Path, name: &str) -> Result<Verifier> {
    FAMILY.names.check(name).map_err(Error::invalid)?;
    let mut seed = [0; 32];
    ring::rand::SystemRandom::new().fill(&mut seed).map_err(|_| Error::failed("the system gives no randomness"))?;
    let signer = Signer::new(name, &seed, FAMILY.names).map_err(Error::failed)?;
    let doing = || format!("writing {}", path.display());
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Its mode is 0600 from the beginning.
    let mut file = tempfile::NamedTempFile::new_in(directory).doing(doing)?;
    file.write_all(signer.private(&seed).as_bytes()).doing(doing)?;
    file.as_file().sync_all().doing(doing)?;
    file.persist_noclobber(path).map_err(|e| match e.error.kind() {
        ErrorKind::AlreadyExists => Error::conflict(format!("{} is there already", path.display()))
            .hint("a key is never written over: name another file"),
        _ => Error::failed(format!("{}: {}", doing(), e.error)),
    })?;
    disk::sync_directory(directory)?;
    Ok(signer.verifier)
}

/// Reads a private key; refused if others may read the file.
pub fn read_key(path: &Path) -> Result<Signer> {
    let doing = || format!("signing key {}", path.display());
    let file = File::open(path).doing(doing)?;
    let metadata = file.metadata().doing(doing)?;
    if !metadata.is_file() {
        return Err(Error::failed(format!("{}: it is no file", doing())));
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        return Err(Error::refused(format!("{}: others may read it", doing()))
            .hint(format!("chmod 600 {}; if others could read it, make another key", path.display())));
    }
    let mut text = String::new();
    // Not said what is wrong with it: a part of it could be quoted.
    let read = file.take(KEY_BYTES_MAX).read_to_string(&mut text).ok();
    read.and_then(|_| Signer::from_private(&text, FAMILY.names)).ok_or_else(|| {
        Error::failed(format!("{}: it is no private key for backups", doing()))
            .hint("`lifeboat keys make FILE --name NAME` makes one; the log's keys sign nothing else")
    })
}
