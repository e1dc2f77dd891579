//! Backups as files that people have tools for, and back: `pg_dump | gzip` of a PostgreSQL database, an SQLite file, a tar of a directory.
//!
//! These speak of files of this machine. So no policy can call them, and they stand in no contract: only the command line does.

#[cfg(test)]
mod tests;
mod unfinished;

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::bindings::Source;
use crate::catalog::{self, Backup, manifests};
use crate::context::StepContext;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::identifier::{check_id, now_ms, shown, utc};
use crate::manifest::{FORMAT, Manifest};
use crate::real::{RealHost, blocking};
use crate::sources::PlainFile;
use crate::stores::ObjectStore;
use crate::upload::require_readable;
use crate::work::{GRACE, Work};
use crate::{Finding, disk, dump};

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

    /// Makes a backup of plain dumps, one of every source of the service. Each is looked at before anything is made, then loaded into a place
    /// whose name is generated from `id`, backed up from there as ever, and removed, whatever happened.
    async fn import(&self, cx: &StepContext, id: &str, import: &Import) -> Result<Backup>;
}

/// What is imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Import {
    /// The service it is of.
    pub service: String,
    /// Where the backup goes.
    pub store: String,
    /// The file of each source.
    pub from: BTreeMap<String, PathBuf>,
    /// When it was dumped, Unix milliseconds; otherwise when the oldest of the files was last changed.
    pub taken_at_ms: Option<u64>,
}

/// The label of what was imported.
const IMPORTED: &str = "imported";

#[async_trait]
impl Plain for RealHost {
    async fn export(&self, cx: &StepContext, backup: &Backup, source: Option<&str>, to: &Path) -> Result<Exported> {
        let (work, store) = (self.work(&backup.service)?, self.store(cx, &backup.store)?);
        let (cx, backup, source, to) = (cx.clone(), backup.clone(), source.map(str::to_owned), to.to_owned());
        blocking(move || export(&work, &cx, &store, &backup, source.as_deref(), &to)).await
    }

    async fn import(&self, cx: &StepContext, id: &str, import: &Import) -> Result<Backup> {
        let (work, store) = (self.work(&import.service)?, self.store(cx, &import.store)?);
        let (cx, id, wanted) = (cx.clone(), id.to_owned(), import.clone());
        blocking(move || self::import(&work, &cx, &store, &id, &wanted)).await
    }
}

fn export(
    work: &Work,
    cx: &StepContext,
    store: &Arc<ObjectStore>,
    backup: &Backup,
    source: Option<&str>,
    to: &Path,
) -> Result<Exported> {
    cx.check()?;
    let folder = check_new(to)?;
    catalog::require(store, backup)?;
    // An archive is code: whose it is, is settled before a byte of it is read.
    let manifest = manifests::usable(store, &work.signing, &backup.service, &backup.id, &backup.digest)?;
    let key = work.key(&manifest)?;
    let source = chosen(&manifest, source)?;
    // What is not exported is not asked back: that has its price.
    require_readable(cx, store, manifest.source(source)?.objects.iter())?;
    let format = match work.service.source.get(source) {
        Some(Source::Postgres(_)) => "sql.gz",
        Some(Source::Sqlite(_)) => "sqlite",
        Some(Source::Files(_)) => "tar",
        None => return Err(Error::unknown("source", source, work.service.source.keys())),
    };

    // Whatever fails, it goes away.
    let file = unfinished::make(folder)?;
    let out = file.reopen().doing(|| format!("writing {}", to.display()))?;
    let mut into = Counted { into: BufWriter::with_capacity(WRITE_BYTES, out), hash: Sha256::new(), bytes: 0 };
    work.driver(source)?
        .export(cx, manifest.source(source)?, &work.objects(store, key), &mut into)
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

fn import(work: &Work, cx: &StepContext, store: &Arc<ObjectStore>, id: &str, import: &Import) -> Result<Backup> {
    cx.check()?;
    check_id("candidate", id)?;
    check_sources(work, import)?;
    store.check()?;
    work.signing.signer(FORMAT)?;
    // All of them before any of them.
    let mut files = BTreeMap::new();
    for (source, path) in &import.from {
        let file =
            work.driver(source)?.inspect_plain(cx, path).map_err(|e| e.context(format!("{}/{source}", work.name)))?;
        files.insert(source.as_str(), file);
    }
    let (taken_at_ms, how_known) = taken_at(import)?;
    let mut findings: Vec<Finding> = files
        .iter()
        .map(|(source, file)| {
            let PlainFile { file, bytes, sha256, server, dump } = file;
            let (file, server, dump) = (shown(file), shown(server), shown(dump));
            Finding::info(
                IMPORTED,
                format!(
                    "source {source} was imported from {file}, {bytes} bytes, sha256 {sha256}: dumped from PostgreSQL {server} by pg_dump {dump}; \
                     taken at {}, {how_known}",
                    utc(taken_at_ms)
                ),
            )
        })
        .collect();

    let made = (|| {
        let mut loaded = work.clone();
        for (source, path) in &import.from {
            cx.check()?;
            let label = format!("load {}/{source}", work.name);
            let file = &files[source.as_str()];
            let of_source = work.driver(source)?.load_plain(cx, id, path, file).map_err(|e| e.context(label))?;
            findings.extend(of_source.findings);
            loaded.drivers.insert(source.clone(), of_source.driver);
        }
        let options = dump::Options { label: Some(IMPORTED.into()) };
        dump::take_of(
            &loaded,
            cx,
            store,
            &options,
            Some(dump::Imported { taken_at_ms, findings: std::mem::take(&mut findings) }),
        )
    })();
    // A text that was loaded is of no use to anybody, and takes room. The deadline may be what failed: taking back has its own.
    let removing = cx.taking_back(GRACE);
    let mut left = Vec::new();
    for source in import.from.keys().filter(|_| cx.may_take_back()) {
        if let Err(e) = work.driver(source)?.clear(&removing, id) {
            left.push(format!("{source}: {}", e.message));
        }
    }
    match (made, left.is_empty()) {
        (made, true) => made,
        (Ok(backup), false) => Err(Error::failed(format!(
            "backup {} is there, and what was loaded for it could not be removed: {}",
            backup.id,
            left.join("; ")
        ))
        .hint(format!("once the cause is gone: lifeboat candidates discard {id}"))),
        (Err(e), false) => Err(Error {
            message: format!("{}; and what was loaded could not be removed: {}", e.message, left.join("; ")),
            ..e.hint(format!("once the cause is gone: lifeboat candidates discard {id}"))
        }),
    }
}

/// A backup is one manifest over all sources of a service: one that is left out would be missed on the day.
fn check_sources(work: &Work, import: &Import) -> Result<()> {
    let sources = &work.service.source;
    if let Some(stranger) = import.from.keys().find(|name| !sources.contains_key(*name)) {
        return Err(Error::unknown("source", stranger, sources.keys()));
    }
    for (name, binding) in sources {
        if !matches!(binding, Source::Postgres(_)) {
            return Err(Error::refused(format!(
                "service {} has source {name}, which is no PostgreSQL database: it can't be imported",
                work.name
            ))
            .hint("import works for services whose sources are all PostgreSQL databases; put files in their place by hand, and take a backup"));
        }
    }
    let left_out: Vec<&str> =
        sources.keys().filter(|name| !import.from.contains_key(*name)).map(String::as_str).collect();
    if left_out.is_empty() {
        return Ok(());
    }
    Err(Error::refused(format!(
        "a backup is of all sources of a service, and these are left out: {}",
        left_out.join(", ")
    ))
    .hint("give each its file: --from SOURCE=FILE"))
}

/// When the data were what they are, and how that is known: a text does not say it.
fn taken_at(import: &Import) -> Result<(u64, &'static str)> {
    let now_ms = now_ms();
    let (at_ms, how) = match import.taken_at_ms {
        Some(at_ms) => (at_ms, "as whoever imported it said"),
        None => {
            let mut oldest_ms = now_ms;
            for path in import.from.values() {
                let changed = std::fs::metadata(path)
                    .and_then(|m| m.modified())
                    .doing(|| format!("looking at {}", path.display()))?;
                let ms = changed
                    .duration_since(std::time::UNIX_EPOCH)
                    .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
                oldest_ms = oldest_ms.min(ms);
            }
            (oldest_ms, "when the file was last changed")
        }
    };
    if at_ms > now_ms {
        return Err(Error::invalid(format!("it can't have been taken at {}, which is to come", utc(at_ms))));
    }
    Ok((at_ms, how))
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
