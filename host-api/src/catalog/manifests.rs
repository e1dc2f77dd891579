//! Manifests in a store: `SERVICE/manifests/BACKUP.SHA256.json`.

use std::collections::{BTreeMap, BTreeSet};

use super::records::tombstoned;
use super::{Backup, sent};
use crate::bindings::Right;
use crate::context::StepContext;
use crate::encryption::Sealed;
use crate::error::{Error, Result};
use crate::identifier::{check_id, check_name, shown};
use crate::manifest::{FORMAT, Manifest};
use crate::note::{Note, Signer};
use crate::signing::{Signature, Signing};
use crate::stores::{Listed, ObjectStore, Put, check_key};

/// Largest manifest that is read, bytes: facts of some hundred thousand tables.
const MANIFEST_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// A manifest's key.
pub(crate) fn key(service: &str, backup: &str, digest: &str) -> String {
    format!("{service}/manifests/{backup}.{digest}.json")
}

/// Prefix of all objects that a backup may have.
pub(crate) fn objects_prefix(service: &str, backup: &str) -> String {
    format!("{service}/objects/{backup}/")
}

/// Checks a SHA-256 in hexadecimal.
pub(crate) fn check_digest(digest: &str) -> Result<()> {
    if digest.len() == 64 && digest.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        Ok(())
    } else {
        Err(Error::invalid(format!("`{}` is no SHA-256 in hexadecimal", shown(digest))))
    }
}

/// Digests of the manifests of all backups that exist, by id: sorted by time. What is not a manifest's key, or is a second one of the
/// same backup, is an error: a list that leaves something out would not be noticed.
pub(crate) fn present(store: &ObjectStore, service: &str) -> Result<BTreeMap<String, String>> {
    Ok(listed(store, service)?.into_iter().map(|(id, listed)| (id, listed.digest)).collect())
}

/// A manifest as a listing has it.
pub(crate) struct Present {
    pub(crate) digest: String,
    /// When the store took it, by the store's clock; none where it does not say.
    pub(crate) stored_at_ms: Option<u64>,
    /// Its size.
    pub(crate) bytes: u64,
}

/// As [`present`], with the times at which the store took them.
pub(crate) fn listed(store: &ObjectStore, service: &str) -> Result<BTreeMap<String, Present>> {
    check_name("service", service)?;
    let prefix = format!("{service}/manifests/");
    let mut found: BTreeMap<String, Present> = BTreeMap::new();
    for Listed { key, stored_at_ms, bytes } in store.list_with_times(&prefix)? {
        let (id, digest) = parse(&key[prefix.len()..]).ok_or_else(|| {
            Error::failed(format!("store {}: {key} is no manifest's key", store.name()))
                .hint("nothing but manifests belongs there: look at who put it there, then move it away")
        })?;
        let present = Present { digest: digest.to_owned(), stored_at_ms, bytes };
        if let Some(other) = found.insert(id.to_owned(), present) {
            return Err(Error::failed(format!(
                "store {}: backup {id} of service {service} has two manifests, {} and {digest}",
                store.name(),
                other.digest
            ))
            .hint("one of them was forged or misplaced: compare both with another copy of this backup"));
        }
    }
    // Looked for after the manifests: a tombstone comes before its manifest goes.
    let removed = tombstoned(store, service)?;
    found.retain(|id, _| !removed.contains(id));
    Ok(found)
}

/// Ids of all backups of a service that have a manifest, also of those that a tombstone hides.
pub(crate) fn all(store: &ObjectStore, service: &str) -> Result<BTreeSet<String>> {
    check_name("service", service)?;
    let prefix = format!("{service}/manifests/");
    // Whatever begins with a backup's id is taken for its manifest: here the safe side is to see one too many.
    Ok(store.list(&prefix)?.iter().filter_map(|key| Some(key[prefix.len()..].split_once('.')?.0.to_owned())).collect())
}

fn parse(name: &str) -> Option<(&str, &str)> {
    let (id, digest) = name.strip_suffix(".json")?.split_once('.')?;
    (check_id("backup", id).is_ok() && check_digest(digest).is_ok()).then_some((id, digest))
}

/// A manifest as it lies in a store.
pub(crate) struct Stored {
    pub(crate) manifest: Manifest,
    note: Option<Note>,
    /// The whole object, with its signature.
    bytes: Vec<u8>,
}

impl Stored {
    /// Who signed it.
    pub(crate) fn signature(&self, signing: &Signing) -> Signature {
        signing.judge(self.note.as_ref(), FORMAT)
    }

    /// The same, unless nothing of the backup may be used here.
    pub(crate) fn usable(self, signing: &Signing, store: &ObjectStore) -> Result<Self> {
        match self.signature(signing).refused {
            None => Ok(self),
            Some(why) => Err(Error::refused(format!(
                "store {}: the manifest of backup {} is refused: {why}",
                store.name(),
                self.manifest.id
            ))
            .hint(
                "`lifeboat backups list` says whose each backup is: use one that is trusted; if this one is known to be good, \
                 the line of its key belongs into the trust of [environment.E.signing]",
            )),
        }
    }
}

/// Reads a manifest, checks it against its digest, and everything in it that will become a path, a key or a name. For looking at it: who
/// signed it is not asked.
pub(crate) fn read(store: &ObjectStore, service: &str, id: &str, digest: &str) -> Result<Manifest> {
    stored(store, service, id, digest).map(|stored| stored.manifest)
}

/// As [`read`], and refused unless the content of the backup may be used here. Before this, no byte of it reaches a tool.
pub(crate) fn usable(
    store: &ObjectStore,
    signing: &Signing,
    service: &str,
    id: &str,
    digest: &str,
) -> Result<Manifest> {
    stored(store, service, id, digest)?.usable(signing, store).map(|stored| stored.manifest)
}

/// As [`read`], with what tells who signed it.
pub(crate) fn stored(store: &ObjectStore, service: &str, id: &str, digest: &str) -> Result<Stored> {
    let key = key(service, id, digest);
    let bytes = store.read(&key, MANIFEST_BYTES_MAX)?;
    let (manifest, note) = Manifest::decode(&bytes, digest)
        .and_then(|(manifest, note)| validate(&manifest, service, id).map(|()| (manifest, note)))
        .map_err(|e| e.context(format!("store {}: {key}", store.name())))?;
    Ok(Stored { manifest, note, bytes })
}

/// Writes a manifest, signed if there is a key (and first into `state_dir`, where it could not be looked for later), unless the step is late: from here on, the backup exists.
pub(crate) fn write(
    cx: &StepContext,
    store: &ObjectStore,
    manifest: &Manifest,
    signer: Option<&Signer>,
    state_dir: &std::path::Path,
) -> Result<String> {
    validate(manifest, &manifest.service, &manifest.id)?;
    let (bytes, digest) = manifest.encode(signer)?;
    if !store.may(Right::Read) {
        // What is kept is put, sooner or later.
        cx.check()?;
        sent::keep(state_dir, store, &manifest.attempt, &digest, &bytes)?;
        cx.at("manifest kept");
    }
    put(cx, store, manifest, &bytes, &digest)?;
    Ok(digest)
}

/// Writes a manifest as it lies in another store, with the signature that it has there.
pub(crate) fn write_copy(cx: &StepContext, store: &ObjectStore, stored: &Stored, digest: &str) -> Result<()> {
    put(cx, store, &stored.manifest, &stored.bytes, digest)
}

/// One that is there already has the same digest, so it is the same; whoever may not read there leaves it to its readers to look.
pub(super) fn put(
    cx: &StepContext,
    store: &ObjectStore,
    manifest: &Manifest,
    bytes: &[u8],
    digest: &str,
) -> Result<()> {
    let key = key(&manifest.service, &manifest.id, digest);
    match store.put_in_time(cx, &key, bytes)? {
        Put::Created => Ok(()),
        Put::Exists if !store.may(Right::Read) => Ok(()),
        Put::Exists => read(store, &manifest.service, &manifest.id, digest).map(drop),
    }
}

/// A digest only says that nobody changed the text since it was written, not that an honest tool wrote it.
fn validate(manifest: &Manifest, service: &str, id: &str) -> Result<()> {
    let bad = |what: String| Err(Error::failed(format!("the manifest is not sound: {what}")));
    if (manifest.service.as_str(), manifest.id.as_str()) != (service, id) {
        return bad(format!("it is of backup {} of service {}", shown(&manifest.id), shown(&manifest.service)));
    }
    if manifest.sources.is_empty() {
        return bad("it has no source".into());
    }
    manifest.encryption.as_ref().map_or(Ok(()), Sealed::check)?;
    let mut names = BTreeSet::new();
    for source in &manifest.sources {
        check_name("source", &source.name)?;
        if !names.insert(&source.name) {
            return bad(format!("source {} stands in it twice", source.name));
        }
        if source.objects.is_empty() {
            return bad(format!("source {} has no object", source.name));
        }
    }
    let prefix = objects_prefix(service, id);
    let mut keys = BTreeSet::new();
    for object in manifest.objects() {
        check_key(&object.key)?;
        check_digest(&object.stored_sha256)?;
        check_digest(&object.plain_sha256)?;
        // Otherwise removing this backup would remove another's objects.
        if !object.key.starts_with(&prefix) {
            return bad(format!("object {} is not below {prefix}", object.key));
        }
        if !keys.insert(&object.key) {
            return bad(format!("object {} stands in it twice", object.key));
        }
    }
    Ok(())
}

/// What policies and people see of a manifest.
pub(crate) fn backup(manifest: &Manifest, digest: &str, store: &str) -> Backup {
    Backup {
        id: manifest.id.clone(),
        service: manifest.service.clone(),
        store: store.to_owned(),
        digest: digest.to_owned(),
        label: manifest.label.clone(),
        taken_at_ms: manifest.taken_at_ms,
        completed_at_ms: manifest.completed_at_ms,
        newest_at_ms: manifest.newest_at_ms,
        version: manifest.version.clone(),
        stored_bytes: manifest.objects().fold(0, |sum, object| sum.saturating_add(object.stored_bytes)),
        sources: manifest.sources.iter().map(|source| source.name.clone()).collect(),
        findings: manifest.findings.clone(),
        known: manifest.known.clone().into_iter().collect(),
    }
}
