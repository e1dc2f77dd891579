//! Manifests that were put into stores which this environment may not read: `sent/STORE/ATTEMPT.SHA256` in the engine's private space.
//!
//! Such a store can't be asked what became of a backup whose engine died. So its manifest is on disk here, synced, before it is put there. Where
//! one of an attempt is found, all its objects were stored: the manifest is put again, which changes nothing if it is there. Where there is
//! none, the attempt never came so far, and no backup of it exists.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::Backup;
use super::manifests;
use crate::context::StepContext;
use crate::error::{Context, Error, Result};
use crate::manifest::Manifest;
use crate::stores::ObjectStore;

/// How many are kept of each store: more than there are runs that wait to be gone on with. Without its own, a backup is taken again.
const KEPT: usize = 64;

/// Keeps what is about to be put.
pub(crate) fn keep(state_dir: &Path, store: &ObjectStore, attempt: &str, digest: &str, bytes: &[u8]) -> Result<()> {
    let directory = directory(state_dir, store);
    crate::disk::private_dir(&directory)?;
    let doing = || format!("keeping a manifest in {}", directory.display());
    let mut file = tempfile::NamedTempFile::new_in(&directory).doing(doing)?;
    std::io::Write::write_all(&mut file, bytes).doing(doing)?;
    file.as_file().sync_all().doing(doing)?;
    file.persist(directory.join(format!("{attempt}.{digest}"))).doing(doing)?;
    crate::disk::sync_directory(&directory)?;
    forget_old(&directory);
    Ok(())
}

/// A sweep leaves objects alone that are younger than this, and some hours more.
const SWEPT_AFTER_MS: u64 = 24 * 3_600_000;

/// The backup that an attempt made there, made complete if its manifest did not arrive; none where it never came so far.
pub(crate) fn complete(
    state_dir: &Path,
    cx: &StepContext,
    store: &ObjectStore,
    service: &str,
    attempt: &str,
) -> Result<Option<Backup>> {
    for path in files(&directory(state_dir, store))? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(digest) = name.strip_prefix(attempt).and_then(|rest| rest.strip_prefix('.')) else { continue };
        let bytes = std::fs::read(&path).doing(|| format!("reading {}", path.display()))?;
        let (manifest, _) = Manifest::decode(&bytes, digest)?;
        if manifest.attempt != attempt || manifest.service != service {
            return Err(Error::failed(format!("{} is of another attempt or service", path.display())));
        }
        let backup = manifests::backup(&manifest, digest, store.name());
        // Objects without a manifest are swept after a while, and whether they are still there can't be looked at from here.
        let age_ms = crate::identifier::now_ms().saturating_sub(backup.taken_at_ms);
        if age_ms > SWEPT_AFTER_MS {
            return Err(Error::failed(format!(
                "the objects of backup {} are older than a day: they may have been swept, and nobody can tell from here",
                backup.id
            ))
            .hint("look where the store can be read; `lifeboat runs resolve RUN --step N --as failed` ends the doubt"));
        }
        manifests::put(cx, store, &manifest, &bytes, digest)?;
        return Ok(Some(backup));
    }
    Ok(None)
}

/// What lies in a directory; nothing where it is not there.
fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let looking = || format!("looking into {}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.doing(looking)?,
    };
    entries.map(|entry| Ok(entry.doing(looking)?.path())).collect()
}

/// Backups of a service whose manifests were sent there, as far as they are remembered: ids, with the digests of their manifests. One that can't
/// be read is left out: it decides nothing.
pub(crate) fn remembered(state_dir: &Path, store: &ObjectStore, service: &str) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for path in files(&directory(state_dir, store))? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some((_, digest)) = name.rsplit_once('.') else { continue };
        let Ok(bytes) = std::fs::read(&path) else { continue };
        if let Ok((manifest, _)) = Manifest::decode(&bytes, digest)
            && manifest.service == service
        {
            found.insert(manifest.id, digest.to_owned());
        }
    }
    Ok(found)
}

fn directory(state_dir: &Path, store: &ObjectStore) -> PathBuf {
    state_dir.join("sent").join(store.name())
}

/// Removes all but the newest so many. What can't be removed takes room, and decides nothing.
pub(crate) fn forget_old(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    let mut found: Vec<_> =
        entries.flatten().filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    found.sort();
    for (_, path) in found.iter().rev().skip(KEPT) {
        let _ = std::fs::remove_file(path);
    }
}
