//! Objects that belong to no backup: of attempts that a crash ended before their manifest was put, and of removals that were cut off.
//!
//! Only what has our own names, below a service of the environment, is looked at: `SERVICE/objects/BACKUP/RUN-STEP-ATTEMPT/NAME`. It goes if
//! no manifest of its backup is there, hidden by a tombstone or not; if no run that is not over made it or has named its backup; and if it is
//! older, by the store's own time, than any run can be. A tombstone alone lets nothing go whose manifest is there: whoever may write could put one.
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::bindings::Right;
use crate::catalog::{manifests, records};
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::identifier::{check_id, now_ms, shown, utc};
use crate::real::{RealHost, blocking};
use crate::stores::{Listed, ObjectStore};

/// What is younger is never swept: longer than a run lasts where nothing is configured, and a day on top for clocks and for engines that
/// nobody here knows of.
pub const AGE_MS_MIN: u64 = 28 * 3600 * 1000;
/// Most objects of one sweep.
pub const AT_ONCE_MAX: usize = 1_000;

/// What a sweep must know of what is at work.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    /// Runs that are not over.
    pub runs: BTreeSet<String>,
    /// Backups that something uses, by id, in words.
    pub in_use: BTreeMap<String, String>,
    /// Only what is older goes, milliseconds; at least [`AGE_MS_MIN`].
    pub age_ms: u64,
}

/// Why an object without a manifest stays or goes; stable words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Because {
    /// It goes: its attempt never became a backup.
    NoManifest,
    /// It goes: its backup was removed.
    Removed,
    /// It stays: the store took it not long enough ago, or does not say when.
    Young,
    /// It stays: its run is not over, or one that is not over named its backup.
    InUse,
    /// It stays: it has not our names.
    NotOurs,
    /// It stays: there is not a single manifest or tombstone of the service, and another bucket, or a list that fails, looks like that.
    NothingElse,
}

/// An object that belongs to no backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Leftover {
    /// Its key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// When the store took it, Unix milliseconds; none where it does not say.
    pub stored_at_ms: Option<u64>,
    /// Whether it goes.
    pub goes: bool,
    /// Why.
    pub because: Because,
}

/// Sweeping stores.
#[async_trait]
pub trait Sweep: Send + Sync {
    /// Objects of a service in a store that belong to no backup, by key. Removes nothing.
    async fn leftovers(&self, cx: &StepContext, service: &str, store: &str, guard: &Guard) -> Result<Vec<Leftover>>;
    /// Removes some of them. One that must stay by now refuses all.
    async fn sweep(&self, cx: &StepContext, service: &str, store: &str, keys: &[String], guard: &Guard) -> Result<()>;
}

#[async_trait]
impl Sweep for RealHost {
    async fn leftovers(&self, cx: &StepContext, service: &str, store: &str, guard: &Guard) -> Result<Vec<Leftover>> {
        self.service(service)?;
        let (store, service, guard) = (self.store(cx, store)?, service.to_owned(), guard.clone());
        blocking(move || leftovers(&store, &service, &guard, now_ms())).await
    }

    async fn sweep(&self, cx: &StepContext, service: &str, store: &str, keys: &[String], guard: &Guard) -> Result<()> {
        self.service(service)?;
        let (cx, store, service) = (cx.clone(), self.store(cx, store)?, service.to_owned());
        let (keys, guard) = (keys.to_vec(), guard.clone());
        blocking(move || sweep(&cx, &store, &service, &keys, &guard, now_ms())).await
    }
}

pub(crate) fn leftovers(store: &Arc<ObjectStore>, service: &str, guard: &Guard, now_ms: u64) -> Result<Vec<Leftover>> {
    // The objects first: a backup that is made meanwhile has its manifest by then.
    let prefix = format!("{service}/objects/");
    let objects = store.list_with_times(&prefix)?;
    let backups = manifests::all(store, service)?;
    let removed = records::tombstoned(store, service)?;
    // Ages are counted back from the newest object, if that is before this machine's now: a clock that jumped makes nothing old.
    let newest_ms = objects.iter().filter_map(|object| object.stored_at_ms).max().unwrap_or(0).min(now_ms);
    let age_ms = guard.age_ms.max(AGE_MS_MIN);
    let because = |object: &Listed| {
        let below = &object.key[prefix.len()..];
        if below.split('/').next().is_some_and(|backup| backups.contains(backup)) {
            return None;
        }
        let Some((backup, run)) = ours(below) else { return Some(Because::NotOurs) };
        let old = object.stored_at_ms.is_some_and(|stored_ms| stored_ms.saturating_add(age_ms) < newest_ms);
        Some(match () {
            () if guard.runs.contains(run) || guard.in_use.contains_key(backup) => Because::InUse,
            () if !old => Because::Young,
            () if removed.contains(backup) => Because::Removed,
            // The newest backup never goes: where there is none at all, manifests were lost, and nothing tells what they named.
            () if backups.is_empty() => Because::NothingElse,
            () => Because::NoManifest,
        })
    };
    let found = objects.into_iter().filter_map(|object| {
        let because = because(&object)?;
        let goes = matches!(because, Because::NoManifest | Because::Removed);
        Some(Leftover { goes, because, key: object.key, bytes: object.bytes, stored_at_ms: object.stored_at_ms })
    });
    Ok(found.collect())
}

/// Backup and run of an object, by its key below `SERVICE/objects/`.
fn ours(below: &str) -> Option<(&str, &str)> {
    let mut parts = below.split('/');
    let (backup, attempt, name) = (parts.next()?, parts.next()?, parts.next()?);
    let run = StepContext::run_of(attempt)?;
    let named = parts.next().is_none() && (name.ends_with(".zst") || name.ends_with(".zst.age"));
    (named && check_id("backup", backup).is_ok() && check_id("run", run).is_ok()).then_some((backup, run))
}

fn sweep(
    cx: &StepContext,
    store: &Arc<ObjectStore>,
    service: &str,
    keys: &[String],
    guard: &Guard,
    now_ms: u64,
) -> Result<()> {
    [Right::Read, Right::Delete].into_iter().try_for_each(|right| store.require(right))?;
    if keys.len() > AT_ONCE_MAX {
        return Err(Error::invalid(format!("{} objects in one sweep; at most {AT_ONCE_MAX}", keys.len())));
    }
    let found = leftovers(store, service, guard, now_ms)?;
    let goes: BTreeSet<&str> = found.iter().filter(|of| of.goes).map(|of| of.key.as_str()).collect();
    // One that is gone meanwhile is no reason to stop: a sweep that was cut off is asked for again.
    let stays = |key: &&String| !goes.contains(key.as_str()) && found.iter().any(|of| of.key == **key);
    let strange = |key: &&String| key.strip_prefix(&format!("{service}/objects/")).and_then(ours).is_none();
    if let Some(key) = keys.iter().find(|key| stays(key) || strange(key)) {
        return Err(Error::refused(format!("store {}: {} must stay", store.name(), shown(key)))
            .hint("nothing was removed; look again: lifeboat backups sweep --dry-run"));
    }
    for key in keys.iter().filter(|key| goes.contains(key.as_str())) {
        cx.check()?;
        store.delete(key)?;
        cx.at("leftover removed");
    }
    Ok(())
}

impl Leftover {
    /// For people.
    pub fn words(&self) -> &'static str {
        match self.because {
            Because::NoManifest => "of an attempt that never became a backup",
            Because::Removed => "of a backup that was removed",
            Because::Young => "not old enough, or the store does not say how old",
            Because::InUse => "a run that is not over made it, or uses its backup",
            Because::NotOurs => "not of a name that lifeboat gives",
            Because::NothingElse => "no manifest and no tombstone of the service is there: is this the right place?",
        }
    }

    /// When its store took it, for people.
    pub fn stored(&self) -> String {
        self.stored_at_ms.map_or_else(|| "-".into(), utc)
    }
}
