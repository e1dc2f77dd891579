//! Everything that a store tells of a service to whoever has nothing but the store.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::index::Index;
use super::stock::Survey;
use super::{manifests, records, sent, stock};
use crate::bindings::Right;
use crate::context::StepContext;
use crate::error::Result;
use crate::identifier::now_ms;
use crate::signing::Signing;
use crate::stores::ObjectStore;
use crate::sweep::{self, Guard};

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Holdings {
    /// Digests of the manifests of all backups, by id.
    pub backups: BTreeMap<String, String>,
    /// Those of them that a hold keeps now.
    pub held: Vec<String>,
    /// Those that a restored copy proved.
    pub verified: Vec<String>,
    /// Those of the verified whose verification does not say that it was from this store: it is of before they said it.
    #[serde(default)]
    pub proven_somewhere: Vec<String>,
    /// Those beside which lie verifications or checks of another store, which count for nothing here.
    #[serde(default)]
    pub proven_elsewhere: Vec<String>,
    /// Those whose stored bytes were read and found whole.
    pub checked: Vec<String>,
    /// Those whose signature is refused here, and why.
    pub refused: BTreeMap<String, String>,
    /// Those that can't be read, and why.
    pub unreadable: BTreeMap<String, String>,
    /// Ids that were removed: a tombstone is there, and no manifest.
    pub removed: Vec<String>,
    /// Ids whose manifest is there, and hidden by a tombstone: a removal was cut off, or somebody hides them.
    pub hidden: Vec<String>,
    /// Ids whose manifests this machine has sent there, as far as it remembers, and that are not there; where the store may not be read, all it
    /// remembers.
    pub sent: Vec<String>,
    /// The store may not be read from here, so nothing else is known.
    pub unseen: bool,
    /// Objects that belong to no backup.
    pub leftovers: u64,
    /// And their size.
    pub leftover_bytes: u64,
}

/// Reads all of it anew: what an index had is forgotten first.
pub(crate) fn read(
    cx: &StepContext,
    store: &Arc<ObjectStore>,
    signing: &Signing,
    service: &str,
    index: &Index,
    state_dir: &Path,
) -> Result<Holdings> {
    let sent = sent::remembered(state_dir, store, service)?;
    if !store.may(Right::Read) {
        return Ok(Holdings { sent: sent.into_keys().collect(), unseen: true, ..Holdings::default() });
    }
    index.forget(store.place(), service);
    let Survey { stock, failures } = stock::survey(cx, store, signing, service, index)?;
    let with_manifest = manifests::all(store, service)?;
    let (hidden, removed) = records::tombstoned(store, service)?.into_iter().partition(|id| with_manifest.contains(id));
    let mut found = Holdings { hidden, removed, ..Holdings::default() };
    let gone = |id: &String| !with_manifest.contains(id) && !found.removed.contains(id);
    found.sent = sent.into_keys().filter(gone).collect();
    let now_ms = now_ms();
    for stocked in stock {
        let (id, state) = (stocked.backup.id, stocked.state);
        if state.held_until_ms.is_some_and(|until_ms| until_ms > now_ms) {
            found.held.push(id.clone());
        }
        if state.verified_at_ms.is_some() {
            found.verified.push(id.clone());
            if !state.proven_here {
                found.proven_somewhere.push(id.clone());
            }
        }
        if state.proven_elsewhere {
            found.proven_elsewhere.push(id.clone());
        }
        if state.checked_at_ms.is_some() {
            found.checked.push(id.clone());
        }
        if let Some(why) = state.signature.refused {
            found.refused.insert(id.clone(), why);
        }
        found.backups.insert(id, stocked.backup.digest);
    }
    found.unreadable = failures.into_iter().map(|(id, error)| (id, error.message)).collect();
    for leftover in sweep::leftovers(store, service, &Guard::default(), now_ms)? {
        found.leftovers += 1;
        found.leftover_bytes = found.leftover_bytes.saturating_add(leftover.bytes);
    }
    Ok(found)
}
