//! Backups that exist: those whose manifest is in the store.

pub(crate) mod holdings;
pub(crate) mod index;
pub(crate) mod manifests;
pub(crate) mod records;
pub(crate) mod sent;
pub(crate) mod stock;
#[cfg(test)]
mod tests;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Finding;
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};
use crate::identifier::{check_id, check_name};
use crate::note::Note;
use crate::real::{RealHost, blocking};
use crate::signing::{CHECKED, Signature, Signing, VERIFIED};
use crate::stores::ObjectStore;
use crate::upload::Depth;

pub use holdings::Holdings;
use index::Index;
pub use stock::{Stocked, Survey};

/// A backup as policies and people see it: the contract's `types.backup`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Backup {
    /// Sortable id, UTC first.
    pub id: String,
    /// The service it is of.
    pub service: String,
    /// The store this copy lies in.
    pub store: String,
    /// SHA-256 of the manifest, hexadecimal.
    pub digest: String,
    /// A word for people.
    pub label: Option<String>,
    /// When the first source's snapshot was taken, Unix milliseconds, UTC.
    pub taken_at_ms: u64,
    /// When the last source had been read to its end.
    pub completed_at_ms: u64,
    /// Time of the newest record, where known.
    pub newest_at_ms: Option<u64>,
    /// Version of the service then installed, where known.
    pub version: Option<String>,
    /// Stored size of all objects, bytes.
    pub stored_bytes: u64,
    /// Names of the sources, databases first.
    pub sources: Vec<String>,
    /// What was noticed while it was taken.
    pub findings: Vec<Finding>,
    /// Known records by name.
    pub known: Vec<(String, String)>,
}

/// What of a backup may change: what stands beside its manifest, and what this environment thinks of who signed it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BackupState {
    /// Latest end of the holds that are not ended, Unix milliseconds.
    pub held_until_ms: Option<u64>,
    /// When the oldest of these was put, Unix milliseconds.
    #[serde(default)]
    pub held_since_ms: Option<u64>,
    /// Why it is held, the newest hold's words.
    pub held_because: Option<String>,
    /// When a restored copy of it last passed a verification that counts here, Unix milliseconds.
    pub verified_at_ms: Option<u64>,
    /// The key that signed that verification; none: it is not signed.
    pub verified_by: Option<String>,
    /// One that counts names this very store. Otherwise those that count are of before verifications named one: such a backup may be used, and
    /// may have been proven elsewhere, so nothing is let go because of it.
    #[serde(default)]
    pub proven_here: bool,
    /// Beside it lie verifications or checks that name another store: of this copy they say nothing.
    #[serde(default)]
    pub proven_elsewhere: bool,
    /// When its stored objects were last read and found whole, of what is on record and counts here, Unix milliseconds.
    pub checked_at_ms: Option<u64>,
    /// How deep that was.
    pub checked_depth: Option<Depth>,
    /// The key that signed that.
    pub checked_by: Option<String>,
    /// Who signed the manifest.
    pub signature: Signature,
}

/// Reading the catalog, and holding backups.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// All backups of a service in a store, oldest first. A manifest that can't be read is an error, not a shorter list.
    async fn list(&self, cx: &StepContext, service: &str, store: &str) -> Result<Vec<Backup>>;
    /// One backup.
    async fn get(&self, cx: &StepContext, service: &str, store: &str, id: &str) -> Result<Backup>;
    /// The newest one; with `verified`, the newest that a restored copy of passed verification, both as the environment's trust has it.
    async fn latest(&self, cx: &StepContext, service: &str, store: &str, verified: bool) -> Result<Option<Backup>>;
    /// Holds and verifications of a backup, and who signed it.
    async fn state(&self, cx: &StepContext, backup: &Backup) -> Result<BackupState>;
    /// Keeps a backup from deletion until a time.
    async fn hold(&self, cx: &StepContext, backup: &Backup, until_ms: u64, why: &str) -> Result<()>;
    /// Ends its holds.
    async fn unhold(&self, cx: &StepContext, backup: &Backup, why: &str) -> Result<()>;
    /// All backups of a service in a store, oldest first, with their states and the times at which the store took them.
    /// What can't be read is named beside the rest.
    async fn survey(&self, cx: &StepContext, service: &str, store: &str) -> Result<Survey>;
    /// Everything that a store tells of a service, read anew.
    async fn reindex(&self, cx: &StepContext, service: &str, store: &str) -> Result<Holdings>;
}

/// Longest reason for a hold, bytes.
const WHY_BYTES_MAX: usize = 500;

#[async_trait]
impl Catalog for RealHost {
    async fn list(&self, cx: &StepContext, service: &str, store: &str) -> Result<Vec<Backup>> {
        self.service(service)?;
        let (cx, service, store) = (cx.clone(), service.to_owned(), self.store(cx, store)?);
        blocking(move || list(&cx, &store, &service)).await
    }

    async fn get(&self, cx: &StepContext, service: &str, store: &str, id: &str) -> Result<Backup> {
        self.service(service)?;
        let (cx, service, store, id) = (cx.clone(), service.to_owned(), self.store(cx, store)?, id.to_owned());
        blocking(move || get(&cx, &store, &service, &id)).await
    }

    async fn latest(&self, cx: &StepContext, service: &str, store: &str, verified: bool) -> Result<Option<Backup>> {
        self.service(service)?;
        let (cx, service, store) = (cx.clone(), service.to_owned(), self.store(cx, store)?);
        let signing = self.signing.clone();
        blocking(move || latest(&cx, &store, &signing, &service, verified)).await
    }

    async fn state(&self, cx: &StepContext, backup: &Backup) -> Result<BackupState> {
        let (cx, store, backup) = (cx.clone(), self.store(cx, &backup.store)?, backup.clone());
        let signing = self.signing.clone();
        blocking(move || state(&cx, &store, &signing, &backup)).await
    }

    async fn hold(&self, cx: &StepContext, backup: &Backup, until_ms: u64, why: &str) -> Result<()> {
        let (cx, store, backup, why) = (cx.clone(), self.store(cx, &backup.store)?, backup.clone(), why.to_owned());
        blocking(move || hold(&cx, &store, &backup, until_ms, &why)).await
    }

    async fn unhold(&self, cx: &StepContext, backup: &Backup, why: &str) -> Result<()> {
        let (cx, store, backup, why) = (cx.clone(), self.store(cx, &backup.store)?, backup.clone(), why.to_owned());
        blocking(move || unhold(&cx, &store, &backup, &why)).await
    }

    async fn survey(&self, cx: &StepContext, service: &str, store: &str) -> Result<Survey> {
        self.service(service)?;
        let (cx, service, store) = (cx.clone(), service.to_owned(), self.store(cx, store)?);
        let (signing, index) = (self.signing.clone(), self.index());
        blocking(move || stock::survey(&cx, &store, &signing, &service, &index)).await
    }

    async fn reindex(&self, cx: &StepContext, service: &str, store: &str) -> Result<Holdings> {
        self.service(service)?;
        let (cx, service, store) = (cx.clone(), service.to_owned(), self.store(cx, store)?);
        let (signing, index, state_dir) = (self.signing.clone(), self.index(), self.state_dir.clone());
        blocking(move || holdings::read(&cx, &store, &signing, &service, &index, &state_dir)).await
    }
}

impl RealHost {
    pub(crate) fn index(&self) -> Index {
        Index::of(&self.state_dir, true)
    }
}

fn list(cx: &StepContext, store: &ObjectStore, service: &str) -> Result<Vec<Backup>> {
    let mut backups = Vec::new();
    for (id, digest) in manifests::present(store, service)? {
        cx.check()?;
        let manifest = manifests::read(store, service, &id, &digest)?;
        backups.push(manifests::backup(&manifest, &digest, store.name()));
    }
    backups.sort_by(|a, b| (a.taken_at_ms, &a.id).cmp(&(b.taken_at_ms, &b.id)));
    Ok(backups)
}

fn get(cx: &StepContext, store: &ObjectStore, service: &str, id: &str) -> Result<Backup> {
    cx.check()?;
    check_id("backup", id)?;
    let present = manifests::present(store, service)?;
    let digest = present.get(id).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("store {}: service {service} has no backup {id}", store.name()))
            .hint("`lifeboat backups list` shows those there are")
    })?;
    Ok(manifests::backup(&manifests::read(store, service, id, digest)?, digest, store.name()))
}

pub(crate) fn latest(
    cx: &StepContext,
    store: &ObjectStore,
    signing: &Signing,
    service: &str,
    verified: bool,
) -> Result<Option<Backup>> {
    let mut refused = None;
    for backup in list(cx, store, service)?.into_iter().rev() {
        cx.check()?;
        // Who may put objects there must not be able to hide the newest good one, or to make a backup look taken that was not.
        if let Some(why) = manifests::stored(store, service, &backup.id, &backup.digest)?.signature(signing).refused {
            refused.get_or_insert((backup.id, why));
            continue;
        }
        if !verified || state(cx, store, signing, &backup)?.verified_at_ms.is_some() {
            return Ok(Some(backup));
        }
    }
    match refused {
        Some((id, why)) if !verified => Err(Error::refused(format!(
            "store {}: every backup of {service} there is refused; of the newest, {id}: {why}",
            store.name()
        ))
        .hint("`lifeboat backups list` shows who signed what; take a backup with a key that is trusted here")),
        _ => Ok(None),
    }
}

/// Holds and verifications of a backup, and who signed it.
pub(crate) fn state(cx: &StepContext, store: &ObjectStore, signing: &Signing, backup: &Backup) -> Result<BackupState> {
    check(backup)?;
    let signature = manifests::stored(store, &backup.service, &backup.id, &backup.digest)?.signature(signing);
    state_of(cx, store, signing, backup, signature)
}

/// The same of one whose signature is known.
fn state_of(
    cx: &StepContext,
    store: &ObjectStore,
    signing: &Signing,
    backup: &Backup,
    signature: Signature,
) -> Result<BackupState> {
    cx.check()?;
    check(backup)?;
    let records = records::read_all(store, &backup.service, &backup.id)?;
    let here = store.own_name()?;
    let elsewhere = |named: &Option<String>| named.as_ref().is_some_and(|named| *named != here);
    let held: Vec<_> = records.holds_in_force().map(|(_, hold)| hold).collect();
    // What was verified are these bytes, not this name. Of a manifest that is refused, nothing counts.
    let counts = |digest: &str, named: &Option<String>, note: &Option<Note>, kind| {
        let by = signing.judge(note.as_ref(), kind);
        let is_good = digest == backup.digest && signature.refused.is_none() && by.refused.is_none();
        (is_good && !elsewhere(named)).then_some(by.signer)
    };
    let verified: Vec<_> = records
        .verified
        .iter()
        .filter_map(|(verified, note)| Some((verified, counts(&verified.digest, &verified.store, note, VERIFIED)?)))
        .collect();
    let proven_here = verified.iter().any(|(verified, _)| verified.store.is_some());
    let verified = verified.into_iter().map(|(verified, by)| (verified.at_ms, by)).max();
    let checked = records
        .checked
        .iter()
        .filter_map(|(checked, note)| Some((checked, counts(&checked.digest, &checked.store, note, CHECKED)?)))
        .max_by_key(|(checked, _)| checked.at_ms);
    let mut stores =
        records.verified.iter().map(|(of, _)| &of.store).chain(records.checked.iter().map(|(of, _)| &of.store));
    let proven_elsewhere = stores.any(elsewhere);
    Ok(BackupState {
        held_until_ms: held.iter().map(|hold| hold.until_ms).max(),
        held_since_ms: held.iter().map(|hold| hold.at_ms).min(),
        held_because: held.last().map(|hold| hold.why.clone()),
        verified_at_ms: verified.as_ref().map(|(at_ms, _)| *at_ms),
        verified_by: verified.and_then(|(_, by)| by),
        proven_here,
        proven_elsewhere,
        checked_at_ms: checked.as_ref().map(|(checked, _)| checked.at_ms),
        checked_depth: checked.as_ref().map(|(checked, _)| checked.depth),
        checked_by: checked.and_then(|(_, by)| by),
        signature,
    })
}

fn hold(cx: &StepContext, store: &ObjectStore, backup: &Backup, until_ms: u64, why: &str) -> Result<()> {
    cx.check()?;
    check_words(why)?;
    let now = crate::identifier::now_ms();
    if until_ms <= now {
        return Err(Error::invalid(format!("a hold until {} ends before it begins", crate::identifier::utc(until_ms)))
            .hint("times are Unix milliseconds"));
    }
    require(store, backup)?;
    let record = records::Hold::new(cx, backup, until_ms, why);
    records::write(cx, store, &backup.service, &backup.id, "hold", &record)?;
    cx.at("hold written");
    // A deletion writes its tombstone and then looks for holds; a hold is written and then looks for a tombstone. So at least one of the
    // two sees the other.
    require(store, backup).map_err(|e| e.context("the hold came too late"))
}

fn unhold(cx: &StepContext, store: &ObjectStore, backup: &Backup, why: &str) -> Result<()> {
    cx.check()?;
    check_words(why)?;
    check(backup)?;
    let records = records::read_all(store, &backup.service, &backup.id)?;
    let ended: Vec<String> = records.holds_in_force().map(|(name, _)| name.clone()).collect();
    if ended.is_empty() {
        return Ok(());
    }
    records::write(cx, store, &backup.service, &backup.id, "unhold", &records::Unhold::new(cx, backup, ended, why))
}

/// An error unless the backup's manifest is there and the backup is not being removed.
pub(crate) fn require(store: &ObjectStore, backup: &Backup) -> Result<()> {
    check(backup)?;
    let key = manifests::key(&backup.service, &backup.id, &backup.digest);
    // In this order: a tombstone comes before its manifest goes.
    let present = store.size(&key)?.is_some();
    let removed = records::has_tombstone(store, &backup.service, &backup.id)?;
    if !present && !removed {
        // Or it is the store that is not there. One that has either is.
        store.check()?;
    }
    if removed || !present {
        let what = if removed { "was removed, or is being removed" } else { "is not there" };
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("store {}: backup {} of service {} {what}", store.name(), backup.id, backup.service),
        ));
    }
    Ok(())
}

/// Checks what becomes part of object keys.
pub(crate) fn check(backup: &Backup) -> Result<()> {
    check_name("service", &backup.service)?;
    check_id("backup", &backup.id)?;
    manifests::check_digest(&backup.digest)
}

fn check_words(why: &str) -> Result<()> {
    if why.is_empty() || why.len() > WHY_BYTES_MAX || why.chars().any(char::is_control) {
        return Err(Error::invalid(format!(
            "a reason is 1 to {WHY_BYTES_MAX} bytes of text without control characters"
        )));
    }
    Ok(())
}
