//! Removing backups.
//!
//! Each in three moves, each durable before the next: the tombstone (from here on the backup does not count), the manifest, the objects.
//! Whatever ends it half-way, the same call again completes it.
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;

use crate::bindings::Right;
use crate::catalog::{self, Backup, manifests, records};
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::identifier::utc;
use crate::real::{RealHost, blocking};
use crate::stores::ObjectStore;

/// Removing backups.
#[async_trait]
pub trait Delete: Send + Sync {
    /// Removes backups: tombstone with the intent's digest first, then the manifest, then the objects. A held one refuses all.
    async fn apply(&self, cx: &StepContext, backups: &[Backup], intent_sha256: &str) -> Result<()>;
}

#[async_trait]
impl Delete for RealHost {
    async fn apply(&self, cx: &StepContext, backups: &[Backup], intent_sha256: &str) -> Result<()> {
        let mut named = Vec::new();
        for backup in backups {
            named.push((self.store(cx, &backup.store)?, backup.clone()));
        }
        let (cx, intent) = (cx.clone(), intent_sha256.to_owned());
        blocking(move || apply(&cx, &named, &intent)).await
    }
}

fn apply(cx: &StepContext, backups: &[(Arc<ObjectStore>, Backup)], intent_sha256: &str) -> Result<()> {
    manifests::check_digest(intent_sha256)?;
    // All are looked at before any is touched.
    for (store, backup) in backups {
        cx.check()?;
        catalog::check(backup)?;
        // A tombstone hides a backup: none is put by whoever can't go on from there.
        Right::ALL.into_iter().try_for_each(|right| store.require(right))?;
        refuse_held(store, backup)?;
    }
    for (store, backup) in backups {
        cx.check()?;
        remove(cx, store, backup, intent_sha256).map_err(|e| {
            e.context(format!("removing backup {} of {} from {}", backup.id, backup.service, store.name()))
        })?;
    }
    Ok(())
}

fn refuse_held(store: &ObjectStore, backup: &Backup) -> Result<()> {
    let records = records::read_all(store, &backup.service, &backup.id)?;
    match records.held() {
        Some(hold) => Err(Error::refused(format!(
            "backup {} in store {} is held until {}: {}",
            backup.id,
            store.name(),
            utc(hold.until_ms),
            crate::identifier::shown(&hold.why)
        ))
        .hint("nothing was removed; end the hold with `lifeboat backups unhold`, or leave this backup out")),
        None => Ok(()),
    }
}

fn remove(cx: &StepContext, store: &ObjectStore, backup: &Backup, intent_sha256: &str) -> Result<()> {
    let manifest_key = manifests::key(&backup.service, &backup.id, &backup.digest);
    let objects = match records::read_tombstone(store, &backup.service, &backup.id)? {
        Some(tombstone) if tombstone.digest == backup.digest => tombstone.objects,
        Some(tombstone) => {
            return Err(Error::conflict(format!(
                "its tombstone is for the manifest {}, not {}",
                tombstone.digest, backup.digest
            )));
        }
        None => {
            let manifest = manifests::read(store, &backup.service, &backup.id, &backup.digest)?;
            let objects: Vec<String> = manifest.objects().map(|object| object.key.clone()).collect();
            let tombstone = records::Tombstone::new(cx, backup, intent_sha256, objects.clone());
            if !records::write_tombstone(cx, store, &backup.service, &tombstone)? {
                return Err(Error::conflict("somebody else began to remove it at the same moment").hint("try again"));
            }
            // A hold that was written between our look and the tombstone; see `catalog::hold`.
            if let Err(held) = refuse_held(store, backup) {
                records::remove_tombstone(store, &backup.service, &backup.id)?;
                return Err(held);
            }
            cx.at("tombstone written");
            objects
        }
    };
    let prefix = manifests::objects_prefix(&backup.service, &backup.id);
    // A tombstone is as hostile as a manifest.
    if let Some(stranger) = objects.iter().find(|key| !key.starts_with(&prefix)) {
        return Err(Error::failed(format!(
            "its tombstone names `{}`, which is no object of it",
            crate::identifier::shown(stranger)
        )));
    }
    cx.check()?;
    store.delete(&manifest_key)?;
    cx.at("manifest removed");
    for key in &objects {
        cx.check()?;
        store.delete(key)?;
        cx.at("object removed");
    }
    Ok(())
}
