//! All that a store holds of a service, with what stands beside the manifests.

use std::collections::BTreeSet;

use super::index::{From, Index, Parsed};
use super::{Backup, BackupState, manifests};
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::signing::Signing;
use crate::stores::ObjectStore;

/// A backup in a store.
#[derive(Debug, Clone, PartialEq)]
pub struct Stocked {
    /// The backup.
    pub backup: Backup,
    /// Holds and verifications.
    pub state: BackupState,
    /// Size of all content, bytes: what a restored copy takes at least.
    pub plain_bytes: u64,
    /// When the store took its manifest, by the store's clock, Unix milliseconds; none where it does not say.
    pub stored_at_ms: Option<u64>,
}

/// All that can be read of a service in a store, and what can't.
#[derive(Debug, Default)]
pub struct Survey {
    /// Backups, oldest first.
    pub stock: Vec<Stocked>,
    /// Of each backup that can't be read: its id, and why.
    pub failures: Vec<(String, Error)>,
}

impl Stocked {
    /// Why this environment uses nothing of it; none: it does.
    pub fn refused(&self) -> Option<&str> {
        self.state.signature.refused.as_deref()
    }
}

/// All backups, oldest first. What can't be read is an error, not a shorter list.
pub(crate) fn backups(
    cx: &StepContext,
    store: &ObjectStore,
    signing: &Signing,
    service: &str,
    index: &Index,
) -> Result<Vec<Stocked>> {
    let survey = survey(cx, store, signing, service, index)?;
    match survey.failures.into_iter().next() {
        Some((_, error)) => Err(error),
        None => Ok(survey.stock),
    }
}

/// All that can be read. An error: what there is can't even be listed.
pub(crate) fn survey(
    cx: &StepContext,
    store: &ObjectStore,
    signing: &Signing,
    service: &str,
    index: &Index,
) -> Result<Survey> {
    let (place, trust) = (store.place(), signing.fingerprint());
    // Records are only looked for where there are any: a store may hold thousands of backups.
    let prefix = format!("{service}/records/");
    // Two things that take about as long where the store is a directory; where it is not, the first costs nothing.
    let (known, listed, with_records) = std::thread::scope(|scope| {
        let known = scope.spawn(|| index.known(place, service));
        let listed = manifests::listed(store, service);
        let records = store.list(&prefix);
        (known.join(), listed, records)
    });
    // What panicked is without an index, as what can't be read.
    let (mut known, listed) = (known.unwrap_or_default(), listed?);
    let with_records: BTreeSet<String> =
        with_records?.iter().filter_map(|key| Some(key[prefix.len()..].split_once('/')?.0.to_owned())).collect();
    let (mut survey, mut read) = (Survey::default(), Vec::new());
    for (id, present) in listed {
        cx.check()?;
        let key = manifests::key(service, &id, &present.digest);
        let from = From { bytes: present.bytes, stored_at_ms: present.stored_at_ms, trust: trust.clone() };
        let known = known.remove(&key).filter(|known| known.from == from);
        let parsed = match known.and_then(|known| known.parsed) {
            Some(mut parsed) => {
                // A place may have had another name.
                store.name().clone_into(&mut parsed.backup.store);
                Ok(parsed)
            }
            None => parse(store, signing, service, &id, &present.digest)
                .inspect(|parsed| read.push((key, from, parsed.clone()))),
        };
        let stocked = parsed.and_then(|Parsed { backup, plain_bytes, signature }| {
            let state = match with_records.contains(&id) {
                true => super::state_of(cx, store, signing, &backup, signature)?,
                false => BackupState { signature, ..BackupState::default() },
            };
            Ok(Stocked { backup, state, plain_bytes, stored_at_ms: present.stored_at_ms })
        });
        match stocked {
            Ok(stocked) => survey.stock.push(stocked),
            Err(error) => survey.failures.push((id, error)),
        }
    }
    index.keep(place, service, &read, &Vec::from_iter(known.into_keys()));
    survey.stock.sort_by(|a, b| (a.backup.taken_at_ms, &a.backup.id).cmp(&(b.backup.taken_at_ms, &b.backup.id)));
    Ok(survey)
}

/// Reads these again from the store, whatever an index said: an error unless they are as they were told.
pub(crate) fn confirm<'s>(
    store: &ObjectStore,
    signing: &Signing,
    stock: impl Iterator<Item = &'s Stocked>,
) -> Result<()> {
    for told in stock {
        let (service, id, digest) = (&told.backup.service, &told.backup.id, &told.backup.digest);
        let parsed = parse(store, signing, service, id, digest)?;
        if parsed.backup != told.backup || parsed.signature != told.state.signature {
            return Err(Error::failed(format!("store {}: backup {id} is not what the index says of it", store.name()))
                .hint("remove catalog-index.sqlite from the state directory, and find out who changed it"));
        }
    }
    Ok(())
}

fn parse(store: &ObjectStore, signing: &Signing, service: &str, id: &str, digest: &str) -> Result<Parsed> {
    let stored = manifests::stored(store, service, id, digest)?;
    Ok(Parsed {
        backup: manifests::backup(&stored.manifest, digest, store.name()),
        plain_bytes: stored.manifest.objects().fold(0, |sum: u64, object| sum.saturating_add(object.plain_bytes)),
        signature: stored.signature(signing),
    })
}
