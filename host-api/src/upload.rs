//! Copies of backups in other stores.

#[cfg(test)]
mod tests;
mod told;

use std::io::Write;
use std::path::Path;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Finding;
use crate::bindings::Right;
use crate::catalog::{self, Backup, manifests};
use crate::context::StepContext;
use crate::encryption::Encryption;
use crate::error::{Error, Result};
use crate::manifest::ObjectEntry;
use crate::pipeline::{Fault, check_content, check_size, check_stored};
use crate::real::{RealHost, blocking};
use crate::signing::{CHECKED, Signing};
use crate::stores::{ObjectStore, Put};
use told::Told;

/// How deep to look at a stored backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Depth {
    /// Objects there, sizes right.
    Exists,
    /// Every stored byte read and hashed.
    Checksum,
    /// Decrypted, where it is encrypted, decompressed and hashed as well.
    Content,
}

/// Copying and looking.
#[async_trait]
pub trait Upload: Send + Sync {
    /// Copies a backup to another store, hashing every object on the way.
    async fn copy(&self, cx: &StepContext, backup: &Backup, store: &str) -> Result<Backup>;
    /// Looks at a backup where it lies. No finding: whole. A check that could not run is an error.
    async fn verify(&self, cx: &StepContext, backup: &Backup, depth: Depth) -> Result<Vec<Finding>>;
    /// The same, for depths at which bytes are read; without a finding, a signed record of it is beside the manifest when this answers.
    async fn attest(&self, cx: &StepContext, backup: &Backup, depth: Depth) -> Result<Vec<Finding>>;
}

#[async_trait]
impl Upload for RealHost {
    async fn copy(&self, cx: &StepContext, backup: &Backup, store: &str) -> Result<Backup> {
        let (from, to) = (self.store(cx, &backup.store)?, self.store(cx, store)?);
        let (cx, backup, signing, state_dir) =
            (cx.clone(), backup.clone(), self.signing.clone(), self.state_dir.clone());
        blocking(move || copy(&cx, &from, &to, (&signing, &state_dir), &backup)).await
    }

    async fn verify(&self, cx: &StepContext, backup: &Backup, depth: Depth) -> Result<Vec<Finding>> {
        let (cx, store, backup) = (cx.clone(), self.store(cx, &backup.store)?, backup.clone());
        let signing = self.signing.clone();
        let encryption = self.encryption.clone();
        blocking(move || verify(&cx, &store, (&signing, &encryption), &backup, depth)).await
    }

    async fn attest(&self, cx: &StepContext, backup: &Backup, depth: Depth) -> Result<Vec<Finding>> {
        let (cx, store, backup) = (cx.clone(), self.store(cx, &backup.store)?, backup.clone());
        let signing = self.signing.clone();
        let encryption = self.encryption.clone();
        blocking(move || attest(&cx, &store, (&signing, &encryption), &backup, depth)).await
    }
}

/// Copies the objects, then the manifest. An object that is in the target already counts only after its bytes there were read and
/// compared: a copy is a copy, not a name.
fn copy(
    cx: &StepContext,
    from: &ObjectStore,
    to: &ObjectStore,
    (signing, state_dir): (&Signing, &Path),
    backup: &Backup,
) -> Result<Backup> {
    catalog::require(from, backup)?;
    if from.name() == to.name() {
        return Err(Error::invalid(format!("backup {} lies in store {} already", backup.id, to.name())));
    }
    to.require(Right::Write)?;
    refuse_removed(to, backup)?;
    let stored = manifests::stored(from, &backup.service, &backup.id, &backup.digest)?.usable(signing, from)?;
    from.thaw(cx, &keys(stored.manifest.objects()))?;
    let mut told = Told::of(state_dir, to, cx)?;
    for entry in stored.manifest.objects() {
        copy_object(cx, from, to, entry, &mut told)
            .map_err(|e| e.context(format!("copy {} to {}", backup.id, to.name())))?;
        cx.at("object copied");
    }
    cx.check()?;
    // Removed meanwhile, here or there: then it must not come back.
    catalog::require(from, backup)?;
    refuse_removed(to, backup)?;
    // As it is, with its signature: a copy is by whoever took the backup.
    manifests::write_copy(cx, to, &stored, &backup.digest)?;
    cx.at("manifest copied");
    told.forget();
    Ok(manifests::backup(&stored.manifest, &backup.digest, to.name()))
}

fn refuse_removed(to: &ObjectStore, backup: &Backup) -> Result<()> {
    // Whoever may not look there leaves it to its readers: to them, what has a tombstone is not there, whatever was put.
    if !to.may(Right::Read) {
        return Ok(());
    }
    match catalog::records::read_tombstone(to, &backup.service, &backup.id)? {
        Some(_) => Err(Error::conflict(format!("backup {} was removed from store {}", backup.id, to.name()))
            .hint("what was removed on purpose does not come back; take a new backup")),
        None => Ok(()),
    }
}

fn copy_object(
    cx: &StepContext,
    from: &ObjectStore,
    to: &ObjectStore,
    entry: &ObjectEntry,
    told: &mut Told,
) -> Result<()> {
    cx.check()?;
    let unseen = !to.may(Right::Read);
    if unseen || to.size(&entry.key)?.is_none() {
        let mut writer = to.writer_of(&entry.key, Some(entry.stored_bytes))?;
        // The writer is dropped on any failure: nothing of it appears.
        check_stored(cx, from, entry, "copy", &mut writer as &mut dyn Write).map_err(Fault::into_error)?;
        match writer.finish(&|| cx.check())? {
            Put::Created if unseen => return told.keep(&entry.key),
            Put::Created => return Ok(()),
            // An upload appears whole, or not at all.
            Put::Exists if unseen => return told.require(to, &entry.key),
            Put::Exists => {}
        }
    }
    check_stored(cx, to, entry, "check", &mut std::io::sink()).map_err(Fault::into_error)
}

pub(crate) fn verify(
    cx: &StepContext,
    store: &ObjectStore,
    (signing, encryption): (&Signing, &Encryption),
    backup: &Backup,
    depth: Depth,
) -> Result<Vec<Finding>> {
    catalog::require(store, backup)?;
    let stored = match manifests::stored(store, &backup.service, &backup.id, &backup.digest) {
        Ok(stored) => stored,
        Err(e) => {
            // A store that went away says nothing about the backup.
            store.check()?;
            return Ok(vec![finding(e)]);
        }
    };
    let mut findings = Vec::new();
    let manifest = match stored.usable(signing, store) {
        Ok(stored) => stored.manifest,
        Err(e) => {
            // Its objects say nothing: they are compared with what it says of them.
            return Ok(vec![Finding::error("signature", e.message, e.hint.unwrap_or_default())]);
        }
    };
    // Without a key the check can't run, which says nothing about the backup.
    let key = match depth {
        Depth::Content => encryption.key(manifest.encryption.as_ref()).map_err(|e| {
            e.context(format!("backup {}", backup.id))
                .hint_more("--depth checksum needs no key: it reads every byte as it is stored")
        })?,
        Depth::Exists | Depth::Checksum => None,
    };
    if depth != Depth::Exists {
        store.thaw(cx, &keys(manifest.objects()))?;
    }
    for entry in manifest.objects() {
        cx.check()?;
        let looked = match depth {
            Depth::Exists => check_size(store, entry),
            Depth::Checksum => check_stored(cx, store, entry, "check", &mut std::io::sink()),
            Depth::Content => check_content(cx, store, entry, key.as_ref()),
        };
        match looked {
            Ok(()) => {}
            Err(Fault::Damaged(e)) => findings.push(finding(e)),
            Err(Fault::Unreadable(e)) => return Err(e),
        }
    }
    Ok(findings)
}

fn attest(
    cx: &StepContext,
    store: &ObjectStore,
    (signing, encryption): (&Signing, &Encryption),
    backup: &Backup,
    depth: Depth,
) -> Result<Vec<Finding>> {
    if depth == Depth::Exists {
        return Err(Error::invalid("that objects exist is nothing to put on record: none was read")
            .hint("depths: checksum, content"));
    }
    // Before hours of reading.
    let signer = signing.signer(CHECKED)?.ok_or_else(|| {
        Error::refused("this environment has no key to sign with: what was found would be recorded by nobody")
            .hint("`lifeboat keys make FILE --name NAME`, and key = \"FILE\" in [environment.E.signing]")
    })?;
    let findings = verify(cx, store, (signing, encryption), backup, depth)?;
    if findings.is_empty() {
        cx.at("looked");
        let manifest = manifests::usable(store, signing, &backup.service, &backup.id, &backup.digest)?;
        let backup = manifests::backup(&manifest, &backup.digest, store.name());
        let objects = manifest.objects().count() as u64;
        let checked = catalog::records::Checked::new(cx, store, &backup, depth, objects)?;
        catalog::records::write_checked(cx, store, &backup.service, &checked, &signer)?;
        cx.at("check recorded");
    }
    Ok(findings)
}

fn finding(e: Error) -> Finding {
    Finding::error("stored-object", e.message, e.hint.unwrap_or_default())
}

fn keys<'a>(objects: impl Iterator<Item = &'a ObjectEntry>) -> Vec<&'a str> {
    objects.map(|object| object.key.as_str()).collect()
}

/// An error unless these objects of a backup are there with the right size, and can be read: archived ones are asked back, and waited for, where
/// the environment says that they may be.
pub(crate) fn require_readable<'a>(
    cx: &StepContext,
    store: &ObjectStore,
    objects: impl Iterator<Item = &'a ObjectEntry> + Clone,
) -> Result<()> {
    require_objects(cx, store, objects.clone())?;
    store.thaw(cx, &keys(objects))
}

/// An error unless these objects of a backup are there with the right size.
pub(crate) fn require_objects<'a>(
    cx: &StepContext,
    store: &ObjectStore,
    objects: impl Iterator<Item = &'a ObjectEntry>,
) -> Result<()> {
    for entry in objects {
        cx.check()?;
        check_size(store, entry).map_err(Fault::into_error)?;
    }
    Ok(())
}
