//! Removing backups: what is due, what must stay, and the removal itself.
//!
//! A removal has three moves, each durable before the next: the tombstones (from here on the backups do not count), then for each its manifest
//! and its objects. Whatever ends it half-way, the same call again completes it. What must stay ([`crate::retention`]) is looked at before
//! the first move, and again after it: of two hosts that remove at the same moment, each then sees what the other does.
#[cfg(test)]
pub(crate) mod tests;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::bindings::{Retention, Right};
use crate::catalog::index::Index;
use crate::catalog::{self, Backup, Stocked, manifests, records, stock};
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::identifier::{now_ms, taken_at_ms, utc};
use crate::real::{RealHost, blocking};
use crate::retention::{self, Held, Now, Planned, Seen};
use crate::signing::Signing;
use crate::stores::ObjectStore;
use crate::work::GRACE;

/// Most backups of one removal: as many as a person can look through who is asked.
pub const AT_ONCE_MAX: usize = 500;

/// How far this machine's clock may be ahead of a store's: a removal is not so urgent that it could not wait for a clock that is right.
const CLOCK_AHEAD_MS_MAX: u64 = 5 * 60 * 1000;

/// What a removal has to regard beside what stands in the store.
#[derive(Debug, Clone, Default)]
pub struct Regard {
    /// Backups that something uses, by id, in words.
    pub in_use: BTreeMap<String, String>,
    /// A person has said that those may go whose own time and store's time disagree.
    pub despite_times: bool,
}

/// One backup in a plan.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Entry {
    /// The backup.
    pub backup: Backup,
    /// When its store took it, Unix milliseconds; none where the store does not say.
    pub stored_at_ms: Option<u64>,
    /// What becomes of it, and why.
    #[serde(flatten)]
    pub planned: Planned,
}

/// Removing backups.
#[async_trait]
pub trait Delete: Send + Sync {
    /// What the environment's rules would keep and remove of a service in a store, oldest first. Nothing is removed.
    async fn removal_plan(&self, cx: &StepContext, service: &str, store: &str, regard: &Regard) -> Result<Vec<Entry>>;
    /// An error that says why, unless all of these may go, together.
    async fn may_go(&self, cx: &StepContext, backups: &[Backup], regard: &Regard) -> Result<()>;
    /// Removes backups: tombstones with the intent's digest first, then each manifest and its objects. One that must stay refuses all.
    async fn apply(&self, cx: &StepContext, backups: &[Backup], intent_sha256: &str, regard: &Regard) -> Result<()>;
}

#[async_trait]
impl Delete for RealHost {
    async fn removal_plan(&self, cx: &StepContext, service: &str, store: &str, regard: &Regard) -> Result<Vec<Entry>> {
        self.service(service)?;
        let place = self.place(cx, service, store)?;
        let regard = regard.clone();
        blocking(move || place.plan(&regard)).await
    }

    async fn may_go(&self, cx: &StepContext, backups: &[Backup], regard: &Regard) -> Result<()> {
        let places = self.places(cx, backups)?;
        let (backups, regard) = (backups.to_vec(), regard.clone());
        blocking(move || places.iter().try_for_each(|place| place.may_go(&backups, &regard))).await
    }

    async fn apply(&self, cx: &StepContext, backups: &[Backup], intent_sha256: &str, regard: &Regard) -> Result<()> {
        let mut named = Vec::new();
        for backup in backups {
            named.push((self.store(cx, &backup.store)?, backup.clone()));
        }
        let places = self.places(cx, backups)?;
        let (cx, intent, backups, regard) = (cx.clone(), intent_sha256.to_owned(), backups.to_vec(), regard.clone());
        blocking(move || {
            let may = || places.iter().try_for_each(|place| place.may_go(&backups, &regard));
            apply(&cx, &named, &intent, &may, &|| places.iter().try_for_each(Place::still_stands))
        })
        .await
    }
}

impl RealHost {
    fn place(&self, cx: &StepContext, service: &str, store: &str) -> Result<Place> {
        Ok(Place {
            cx: cx.clone(),
            service: service.to_owned(),
            store: self.store(cx, store)?,
            signing: self.signing.clone(),
            index: self.index(),
            rules: self.retention.get(service).map(|rules| rules.of_store(store).clone()).unwrap_or_default(),
            takes_proven: Cell::new(false),
        })
    }

    fn places(&self, cx: &StepContext, backups: &[Backup]) -> Result<Vec<Place>> {
        let named: BTreeSet<(&str, &str)> = backups.iter().map(|b| (b.service.as_str(), b.store.as_str())).collect();
        named.into_iter().map(|(service, store)| self.place(cx, service, store)).collect()
    }
}

/// The backups of one service in one store, and the rules for them.
struct Place {
    cx: StepContext,
    service: String,
    store: Arc<ObjectStore>,
    signing: Arc<Signing>,
    index: Index,
    rules: Retention,
    /// Whether a proven one is, or may be, among those that were asked for last.
    takes_proven: Cell<bool>,
}

impl Place {
    fn stock(&self) -> Result<Vec<Stocked>> {
        stock::backups(&self.cx, &self.store, &self.signing, &self.service, &self.index)
    }

    /// What holds and windows are held against: refused where this machine's clock is ahead of the store's, by which they would end early.
    fn now(&self) -> Result<Now> {
        let now_ms = now_ms();
        let ahead_ms = self.store.clock_ms().map_or(0, |theirs_ms| now_ms.saturating_sub(theirs_ms));
        if ahead_ms > CLOCK_AHEAD_MS_MAX {
            return Err(Error::refused(format!(
                "store {}: by this machine's clock it is {}, and by the store's {} s less: holds and windows would end before their time",
                self.store.name(),
                utc(now_ms),
                ahead_ms / 1000
            ))
            .hint("nothing was removed; set this machine's clock, and look whether anybody else did"));
        }
        let removed = records::tombstoned(&self.store, &self.service)?;
        Ok(Now { ms: now_ms, removed_ms: removed.iter().filter_map(|id| taken_at_ms(id)).collect() })
    }

    fn plan(&self, regard: &Regard) -> Result<Vec<Entry>> {
        let stock = self.stock()?;
        let planned = retention::plan(&seen(&stock, regard), &self.rules, self.now()?)?;
        let entries = stock.into_iter().zip(planned).map(|(stocked, planned)| Entry {
            backup: stocked.backup,
            stored_at_ms: stocked.stored_at_ms,
            planned,
        });
        Ok(entries.collect())
    }

    /// An error unless every one of these that lies here may go.
    fn may_go(&self, backups: &[Backup], regard: &Regard) -> Result<()> {
        let here = |backup: &&Backup| backup.service == self.service && backup.store == self.store.name();
        let named: BTreeSet<&str> = backups.iter().filter(here).map(|backup| backup.id.as_str()).collect();
        if named.len() > AT_ONCE_MAX {
            return Err(Error::invalid(format!("{} backups in one removal; at most {AT_ONCE_MAX}", named.len())));
        }
        let stock = self.stock()?;
        retention::refuse(&seen(&stock, regard), &named, &self.rules, self.now()?, regard.despite_times)
            .map_err(|e| e.context(format!("store {}", self.store.name())))?;
        // What this rests on was read now: those that go, and those that make it right that they go.
        let goes = |stocked: &&Stocked| named.contains(stocked.backup.id.as_str());
        // What an earlier attempt hid is not among them: it may have been proven.
        let hidden = stock.iter().filter(goes).count() < named.len();
        self.takes_proven.set(hidden || stock.iter().filter(goes).any(is_proven));
        let proven =
            stock.iter().rev().filter(|stocked| stocked.state.proven_here && is_proven(stocked) && !goes(stocked));
        let proven = proven.take(usize::try_from(self.rules.verified_at_least).unwrap_or(usize::MAX));
        let newest = stock.iter().rev().filter(|stocked| stocked.refused().is_none()).take(1);
        stock::confirm(&self.store, &self.signing, stock.iter().filter(goes).chain(proven).chain(newest))
    }

    /// After tombstones were put: whether enough is left though somebody else may have removed others at the same moment. Counted as the floors
    /// count.
    fn still_stands(&self) -> Result<()> {
        let left = retention::verified(&seen(&self.stock()?, &Regard::default()), &self.rules, now_ms());
        let needed = self.rules.verified_at_least;
        if self.takes_proven.get() && left < needed {
            return Err(Error::conflict(format!(
                "store {}: {left} verified backups would be left, and {needed} must stay: somebody else removed others at the same moment",
                self.store.name()
            ))
            .hint("nothing was removed; try again"));
        }
        Ok(())
    }
}

fn is_proven(stocked: &Stocked) -> bool {
    stocked.state.verified_at_ms.is_some() && stocked.refused().is_none()
}

/// The backups as the rules see them.
fn seen(stock: &[Stocked], regard: &Regard) -> Vec<Seen> {
    let of = |stocked: &Stocked| Seen {
        id: stocked.backup.id.clone(),
        taken_at_ms: stocked.backup.taken_at_ms,
        completed_at_ms: stocked.backup.completed_at_ms,
        stored_at_ms: stocked.stored_at_ms,
        verified: is_proven(stocked),
        proven_here: is_proven(stocked) && stocked.state.proven_here,
        held: stocked.state.held_until_ms.map(|until_ms| Held {
            since_ms: stocked.state.held_since_ms.unwrap_or(0),
            until_ms,
            why: stocked.state.held_because.clone().unwrap_or_default(),
        }),
        refused: stocked.refused().map(str::to_owned),
        in_use: regard.in_use.get(&stocked.backup.id).cloned(),
    };
    stock.iter().map(of).collect()
}

/// Puts all tombstones, looks once more, and removes. `may`: an error unless all of them may go; `still`: unless enough is left. Where either says
/// no, no tombstone of this intent hides what is whole, also not one of an earlier attempt.
fn apply(
    cx: &StepContext,
    backups: &[(Arc<ObjectStore>, Backup)],
    intent_sha256: &str,
    may: &dyn Fn() -> Result<()>,
    still: &dyn Fn() -> Result<()>,
) -> Result<()> {
    manifests::check_digest(intent_sha256)?;
    for (store, backup) in backups {
        catalog::check(backup)?;
        // A tombstone hides a backup: none is put by whoever can't go on from there.
        Right::ALL.into_iter().try_for_each(|right| store.require(right))?;
    }
    let mut begun = Begun::default();
    begun.find(cx, backups, intent_sha256)?;
    // All are looked at before any is touched.
    let looked = may().and_then(|()| {
        backups.iter().try_for_each(|(store, backup)| cx.check().and_then(|()| refuse_held(store, backup)))
    });
    if let Err(e) = looked {
        return Err(begun.take_back(cx, e));
    }
    let removing = |store: &ObjectStore, backup: &Backup| {
        format!("removing backup {} of {} from {}", backup.id, backup.service, store.name())
    };
    for (store, backup) in backups {
        let put = cx.check().and_then(|()| begun.put(cx, store, backup, intent_sha256));
        if let Err(e) = put {
            return Err(begun.take_back(cx, e.context(removing(store, backup))));
        }
    }
    if let Err(e) = if begun.fresh.is_empty() { Ok(()) } else { cx.check().and_then(|()| still()) } {
        return Err(begun.take_back(cx, e));
    }
    for ((store, backup), objects) in backups.iter().zip(&begun.objects) {
        if let Err(e) = remove(cx, store, backup, objects) {
            // Those whose turn had not come are whole: nothing would go on with this call, and nobody could name what it hides.
            let mut whole = Begun::default();
            // Also where what ended it is a cancellation.
            let found = whole.find(&cx.taking_back(GRACE), backups, intent_sha256);
            let e = whole.take_back(cx, e.context(removing(store, backup)));
            return Err(match found {
                Ok(()) => e,
                Err(unread) => {
                    e.hint_more(&format!("which others a tombstone hides can't be told: {}", unread.message))
                }
            });
        }
    }
    Ok(())
}

/// Tombstones that are there.
#[derive(Default)]
struct Begun<'b> {
    /// Keys of the objects of each backup, in the order of the call.
    objects: Vec<Vec<String>>,
    /// Those of this intent whose backup is whole: nothing of it was removed yet.
    fresh: Vec<(&'b ObjectStore, &'b Backup)>,
}

impl<'b> Begun<'b> {
    /// Tombstones that an earlier attempt put, and went no further.
    fn find(&mut self, cx: &StepContext, backups: &'b [(Arc<ObjectStore>, Backup)], intent_sha256: &str) -> Result<()> {
        for (store, backup) in backups {
            let reached = store.in_step(cx);
            let Some(tombstone) = records::read_tombstone(&reached, &backup.service, &backup.id)? else { continue };
            let prefix = manifests::objects_prefix(&backup.service, &backup.id);
            let sound =
                tombstone.digest == backup.digest && tombstone.objects.iter().all(|key| key.starts_with(&prefix));
            let manifest = manifests::key(&backup.service, &backup.id, &backup.digest);
            // The manifest goes first: where it is, the objects are.
            if sound && tombstone.intent_sha256 == intent_sha256 && reached.size(&manifest)?.is_some() {
                self.fresh.push((&**store, backup));
            }
        }
        Ok(())
    }

    fn put(&mut self, cx: &StepContext, store: &'b ObjectStore, backup: &'b Backup, intent_sha256: &str) -> Result<()> {
        let objects = match records::read_tombstone(store, &backup.service, &backup.id)? {
            // Of a call that nobody here consented to, or that is about to take it back: its backup is whole, and has floors and holds.
            Some(tombstone)
                if tombstone.intent_sha256 != intent_sha256
                    && store.size(&manifests::key(&backup.service, &backup.id, &backup.digest))?.is_some() =>
            {
                return Err(Error::conflict("another removal hides it, and has not begun to remove it")
                    .hint("`lifeboat backups reindex --store STORE` says what to do"));
            }
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
                    return Err(
                        Error::conflict("somebody else began to remove it at the same moment").hint("try again")
                    );
                }
                self.fresh.push((store, backup));
                // A hold that was written between our look and the tombstone; see `catalog::hold`.
                refuse_held(store, backup)?;
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
        self.objects.push(objects);
        Ok(())
    }

    /// Takes the tombstones of this call back, and says so where that can't be done: those backups stay hidden until somebody does.
    fn take_back(&self, cx: &StepContext, why: Error) -> Error {
        let cx = cx.taking_back(GRACE);
        let mut hidden = Vec::new();
        for (store, backup) in &self.fresh {
            if let Err(e) = records::remove_tombstone(&store.in_step(&cx), &backup.service, &backup.id) {
                hidden.push(format!("{} in {} ({})", backup.id, store.name(), e.message));
            }
        }
        match hidden.is_empty() {
            true => why,
            false => why.hint_more(&format!("these are whole, and hidden by a tombstone: {}", hidden.join(", "))),
        }
    }
}

/// Removes a backup whose tombstone is there.
fn remove(cx: &StepContext, store: &ObjectStore, backup: &Backup, objects: &[String]) -> Result<()> {
    cx.check()?;
    store.delete(&manifests::key(&backup.service, &backup.id, &backup.digest))?;
    cx.at("manifest removed");
    for key in objects {
        cx.check()?;
        store.delete(key)?;
        cx.at("object removed");
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
