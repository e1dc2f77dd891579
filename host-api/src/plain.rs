//! Backups as files that people have tools for, and back: `pg_dump | gzip` of a PostgreSQL database, an SQLite file, a tar of a directory.
//!
//! These speak of files of this machine. So no policy can call them, and they stand in no contract: only the command line does.

#[cfg(test)]
mod tests;

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bindings::Source;
use crate::catalog::{self, Backup, manifests};
use crate::context::StepContext;
use crate::disk;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::manifest::Manifest;
use crate::real::{RealHost, blocking};
use crate::stores::ObjectStore;
use crate::upload::require_objects;
use crate::work::Work;

/// How much is written at a time, bytes.
const WRITE_BYTES: usize = 1024 * 1024;

/// A file that a backup was exported to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Exported {
    /// The source it is of.
    pub source: String,
    /// What it is: `sql.gz`, `sqlite`, `tar`.
    pub format: String,
    /// Where it is.
    pub file: PathBuf,
    /// Its size, bytes.
    pub bytes: u64,
    /// Its SHA-256, hexadecimal.
    pub sha256: String,
}

/// Exporting and importing.
#[async_trait]
pub trait Plain: Send + Sync {
    /// Writes one source of a backup into a new file of mode 0600; it has its name when it is whole and on disk. `source`: which one; needed
    /// where the backup has several.
    async fn export(&self, cx: &StepContext, backup: &Backup, source: Option<&str>, to: &Path) -> Result<Exported>;
}

#[async_trait]
impl Plain for RealHost {
    async fn export(&self, cx: &StepContext, backup: &Backup, source: Option<&str>, to: &Path) -> Result<Exported> {
        let (work, store) = (self.work(&backup.service)?, self.store(&backup.store)?);
        let (cx, backup, source, to) = (cx.clone(), backup.clone(), source.map(str::to_owned), to.to_owned());
        blocking(move || export(&work, &cx, &store, &backup, source.as_deref(), &to)).await
    }
}

fn export(
    work: &Work,
    cx: &StepContext,
    store: &std::sync::Arc<ObjectStore>,
    backup: &Backup,
    source: Option<&str>,
    to: &Path,
) -> Result<Exported> {
    cx.check()?;
    let folder = check_new(to)?;
    catalog::require(store, backup)?;
    // An archive is code: whose it is, is settled before a byte of it is read.
    let manifest = manifests::usable(store, &work.signing, &backup.service, &backup.id, &backup.digest)?;
    require_objects(cx, store, &manifest)?;
    let source = chosen(&manifest, source)?;
    let format = match work.service.source.get(source) {
        Some(Source::Postgres(_)) => "sql.gz",
        Some(Source::Sqlite(_)) => "sqlite",
        Some(Source::Files(_)) => "tar",
        None => return Err(Error::unknown("source", source, work.service.source.keys())),
    };

    // Made with mode 0600. Whatever fails, it goes away.
    let file = tempfile::Builder::new()
        .prefix(".lifeboat-export-")
        .tempfile_in(folder)
        .doing(|| format!("making a file in {}", folder.display()))?;
    let out = file.reopen().doing(|| format!("writing {}", to.display()))?;
    let mut into = Counted { into: BufWriter::with_capacity(WRITE_BYTES, out), hash: Sha256::new(), bytes: 0 };
    work.driver(source)?
        .export(cx, manifest.source(source)?, &work.objects(store), &mut into)
        .and_then(|()| into.flush().doing(|| format!("writing {}", to.display())))
        .map_err(|e| e.context(format!("export {}/{source}", work.name)))?;
    let (bytes, sha256) = (into.bytes, hex::encode(into.hash.finalize()));
    cx.check()?;
    file.as_file().sync_all().doing(|| format!("writing {}", to.display()))?;
    cx.at("exported");
    file.persist_noclobber(to).map_err(|e| match e.error.kind() {
        std::io::ErrorKind::AlreadyExists => there_already(to),
        _ => Error::failed(format!("naming {}: {}", to.display(), e.error)),
    })?;
    disk::sync_directory(folder)?;
    Ok(Exported { source: source.to_owned(), format: format.into(), file: to.to_owned(), bytes, sha256 })
}

/// The directory of a file that does not exist yet.
fn check_new(to: &Path) -> Result<&Path> {
    if disk::exists(to)? {
        return Err(there_already(to));
    }
    match (to.parent(), to.file_name()) {
        (Some(folder), Some(_)) if folder.is_dir() => Ok(folder),
        _ => Err(Error::new(ErrorKind::NotFound, format!("{} lies in no directory", to.display()))
            .hint("make its directory first: one that is missing may be a mount that is missing")),
    }
}

fn there_already(to: &Path) -> Error {
    Error::conflict(format!("{} is there already", to.display()))
        .hint("nothing is overwritten: give another name, or move it away")
}

/// The one source that is meant.
fn chosen<'m>(manifest: &'m Manifest, source: Option<&str>) -> Result<&'m str> {
    match (source, manifest.sources.as_slice()) {
        (Some(name), _) => manifest.source(name).map(|source| source.name.as_str()),
        (None, [only]) => Ok(&only.name),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|source| source.name.as_str()).collect();
            Err(Error::invalid(format!("backup {} has {} sources, and a file holds one", manifest.id, names.len()))
                .hint(format!("--source is one of: {}", names.join(", "))))
        }
    }
}

/// Counts and hashes what is written.
struct Counted<W: Write> {
    into: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.into.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.into.flush()
    }
}
