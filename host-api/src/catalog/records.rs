//! What may change about a backup, as small objects beside its manifest, each written once: `SERVICE/records/BACKUP/KIND-ID.json` and
//! `SERVICE/tombstones/BACKUP.json`. So holds and verifications survive the loss of the engine's state, and need no lock.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Backup;
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};
use crate::identifier::{check_id, now_ms};
use crate::note::{Note, Signer};
use crate::restore::Candidate;
use crate::signing::{self, CHECKED, VERIFIED};
use crate::stores::{ObjectStore, Put};
use crate::upload::Depth;

/// Largest record that is read, bytes: a tombstone lists a backup's keys.
const RECORD_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The `format` field of each kind.
const HOLD: &str = "lifeboat/hold/1";
const UNHOLD: &str = "lifeboat/unhold/1";
const TOMBSTONE: &str = "lifeboat/tombstone/1";

/// Keeps a backup until a time.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Hold {
    format: String,
    backup: String,
    pub(crate) until_ms: u64,
    pub(crate) why: String,
    run: String,
    pub(crate) at_ms: u64,
}

/// Ends holds, by their records' names: clocks of different machines need not agree on an order.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Unhold {
    format: String,
    backup: String,
    holds: Vec<String>,
    why: String,
    run: String,
    at_ms: u64,
}

/// A restored copy passed verification.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Verified {
    format: String,
    backup: String,
    pub(crate) digest: String,
    candidate: String,
    /// Which store the copy was restored from, [`ObjectStore::own_name`]; none in records of before they said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<String>,
    run: String,
    rows: u64,
    files: u64,
    pub(crate) at_ms: u64,
}

/// The stored objects were read, and are those of the manifest.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Checked {
    format: String,
    backup: String,
    pub(crate) digest: String,
    pub(crate) depth: Depth,
    objects: u64,
    /// Which store was read, as in a verification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<String>,
    stored_bytes: u64,
    run: String,
    pub(crate) at_ms: u64,
}

/// A backup is being removed, or was.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Tombstone {
    format: String,
    backup: String,
    /// The manifest's.
    pub(crate) digest: String,
    pub(crate) intent_sha256: String,
    /// Keys of the objects to remove: the manifest goes before they do.
    pub(crate) objects: Vec<String>,
    run: String,
    at_ms: u64,
}

impl Hold {
    pub(crate) fn new(cx: &StepContext, backup: &Backup, until_ms: u64, why: &str) -> Self {
        Self {
            format: HOLD.into(),
            backup: backup.id.clone(),
            until_ms,
            why: why.into(),
            run: cx.run.clone(),
            at_ms: now_ms(),
        }
    }
}

impl Unhold {
    pub(crate) fn new(cx: &StepContext, backup: &Backup, holds: Vec<String>, why: &str) -> Self {
        let (backup, run) = (backup.id.clone(), cx.run.clone());
        Self { format: UNHOLD.into(), backup, holds, why: why.into(), run, at_ms: now_ms() }
    }
}

impl Verified {
    /// Of a candidate, and so of the store that this was restored from.
    pub(crate) fn new(cx: &StepContext, candidate: &Candidate, (rows, files): (u64, u64)) -> Self {
        Self {
            format: VERIFIED.into(),
            backup: candidate.backup.clone(),
            digest: candidate.digest.clone(),
            candidate: candidate.id.clone(),
            store: candidate.read_from.clone(),
            run: cx.run.clone(),
            rows,
            files,
            at_ms: now_ms(),
        }
    }
}

impl Checked {
    /// Of what was read in this store.
    pub(crate) fn new(
        cx: &StepContext,
        store: &ObjectStore,
        backup: &Backup,
        depth: Depth,
        objects: u64,
    ) -> Result<Self> {
        Ok(Self {
            format: CHECKED.into(),
            backup: backup.id.clone(),
            digest: backup.digest.clone(),
            depth,
            objects,
            store: Some(store.own_name()?),
            stored_bytes: backup.stored_bytes,
            run: cx.run.clone(),
            at_ms: now_ms(),
        })
    }
}

impl Tombstone {
    pub(crate) fn new(cx: &StepContext, backup: &Backup, intent_sha256: &str, objects: Vec<String>) -> Self {
        Self {
            format: TOMBSTONE.into(),
            backup: backup.id.clone(),
            digest: backup.digest.clone(),
            intent_sha256: intent_sha256.into(),
            objects,
            run: cx.run.clone(),
            at_ms: now_ms(),
        }
    }
}

/// All records of one backup.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// By name, which sorts by the run that wrote it.
    holds: BTreeMap<String, Hold>,
    ended: BTreeSet<String>,
    /// With the note that each stands in if it is signed; whose signature that is, is not asked.
    pub(crate) verified: Vec<(Verified, Option<Note>)>,
    pub(crate) checked: Vec<(Checked, Option<Note>)>,
}

impl Records {
    /// Holds that no later record ends, oldest first; their time may have passed.
    pub(crate) fn holds_in_force(&self) -> impl Iterator<Item = (&String, &Hold)> {
        self.holds.iter().filter(|(name, _)| !self.ended.contains(*name))
    }

    /// A hold that keeps the backup now: the one with the latest end.
    pub(crate) fn held(&self) -> Option<&Hold> {
        let now = now_ms();
        self.holds_in_force().map(|(_, hold)| hold).filter(|hold| hold.until_ms > now).max_by_key(|hold| hold.until_ms)
    }
}

/// Reads every record of a backup. One that can't be read is an error: it may be a hold.
pub(crate) fn read_all(store: &ObjectStore, service: &str, backup: &str) -> Result<Records> {
    let prefix = format!("{service}/records/{backup}/");
    let mut records = Records::default();
    for key in store.list(&prefix)? {
        let name = &key[prefix.len()..];
        match name.split_once('-').map(|(kind, _)| kind) {
            Some("hold") => {
                let hold: Hold = read(store, &key, HOLD, backup)?;
                records.holds.insert(name.to_owned(), hold);
            }
            Some("unhold") => records.ended.extend(read::<Unhold>(store, &key, UNHOLD, backup)?.holds),
            Some("verified") => records.verified.push(read_signed(store, &key, VERIFIED, backup)?),
            Some("checked") => records.checked.push(read_signed(store, &key, CHECKED, backup)?),
            _ => {
                return Err(Error::failed(format!("store {}: {key} is no record of a known kind", store.name()))
                    .hint("a newer lifeboat wrote it: use that version"));
            }
        }
    }
    Ok(records)
}

/// Writes a step's record. Its name is the step's, so that another attempt at the step finds it there, and changes nothing.
pub(crate) fn write(
    cx: &StepContext,
    store: &ObjectStore,
    service: &str,
    backup: &str,
    kind: &str,
    record: &impl Serialize,
) -> Result<()> {
    put(cx, store, &key(cx, service, backup, kind), encode(record)?.as_bytes())
}

/// Writes a step's record of a verification, signed if there is a key.
pub(crate) fn write_verified(
    cx: &StepContext,
    store: &ObjectStore,
    service: &str,
    verified: &Verified,
    signer: Option<&Signer>,
) -> Result<()> {
    let bytes = signing::encode(VERIFIED, &encode(verified)?, signer);
    put(cx, store, &key(cx, service, &verified.backup, "verified"), &bytes)
}

/// Writes a step's record of a check of what is stored; always signed.
pub(crate) fn write_checked(
    cx: &StepContext,
    store: &ObjectStore,
    service: &str,
    checked: &Checked,
    signer: &Signer,
) -> Result<()> {
    let bytes = signing::encode(CHECKED, &encode(checked)?, Some(signer));
    put(cx, store, &key(cx, service, &checked.backup, "checked"), &bytes)
}

fn key(cx: &StepContext, service: &str, backup: &str, kind: &str) -> String {
    format!("{service}/records/{backup}/{kind}-{}.json", cx.record_id())
}

fn put(cx: &StepContext, store: &ObjectStore, key: &str, bytes: &[u8]) -> Result<()> {
    match store.put_in_time(cx, key, bytes)? {
        Put::Created | Put::Exists => Ok(()),
    }
}

/// Ids of all backups of a service that are removed or being removed.
pub(crate) fn tombstoned(store: &ObjectStore, service: &str) -> Result<BTreeSet<String>> {
    let prefix = format!("{service}/tombstones/");
    let keys = store.list(&prefix)?;
    Ok(keys.iter().filter_map(|key| key[prefix.len()..].strip_suffix(".json")).map(str::to_owned).collect())
}

/// A backup's tombstone, if there is one.
pub(crate) fn read_tombstone(store: &ObjectStore, service: &str, backup: &str) -> Result<Option<Tombstone>> {
    match read(store, &tombstone_key(service, backup), TOMBSTONE, backup) {
        Ok(tombstone) => Ok(Some(tombstone)),
        Err(e) if e.kind == ErrorKind::NotFound => store.check().map(|()| None),
        Err(e) => Err(e),
    }
}

/// Whether a backup has a tombstone; a store that is not there has none.
pub(crate) fn has_tombstone(store: &ObjectStore, service: &str, backup: &str) -> Result<bool> {
    check_id("backup", backup)?;
    store.size(&tombstone_key(service, backup)).map(|size| size.is_some())
}

/// Writes a backup's tombstone; false if there is one already.
pub(crate) fn write_tombstone(
    cx: &StepContext,
    store: &ObjectStore,
    service: &str,
    tombstone: &Tombstone,
) -> Result<bool> {
    let key = tombstone_key(service, &tombstone.backup);
    Ok(store.put_in_time(cx, &key, encode(tombstone)?.as_bytes())? == Put::Created)
}

/// Takes a tombstone back; only right while nothing else was removed.
pub(crate) fn remove_tombstone(store: &ObjectStore, service: &str, backup: &str) -> Result<()> {
    store.delete(&tombstone_key(service, backup))
}

fn tombstone_key(service: &str, backup: &str) -> String {
    format!("{service}/tombstones/{backup}.json")
}

/// Canonical JSON.
fn encode(record: &impl Serialize) -> Result<String> {
    // Through `Value`, whose maps are sorted: one text for one content.
    serde_json::to_value(record)
        .and_then(|value| serde_json::to_string(&value))
        .map_err(|e| Error::failed(format!("a record can't be written down: {e}")))
}

fn read<T: DeserializeOwned>(store: &ObjectStore, key: &str, format: &str, backup: &str) -> Result<T> {
    check_id("backup", backup)?;
    parse(store, key, format, backup, &store.read(key, RECORD_BYTES_MAX)?)
}

/// Reads a record that may be signed, with the note that it stands in. What is signed must be the one text of its content.
fn read_signed<T: DeserializeOwned + Serialize>(
    store: &ObjectStore,
    key: &str,
    format: &str,
    backup: &str,
) -> Result<(T, Option<Note>)> {
    check_id("backup", backup)?;
    let bad = |what: &str| Error::failed(format!("store {}: {key} can't be read: {what}", store.name()));
    let bytes = store.read(key, RECORD_BYTES_MAX)?;
    let (json, note) = signing::decode(&bytes, format).map_err(|flaw| bad(&flaw))?;
    let record: T = parse(store, key, format, backup, json)?;
    if note.is_some() && encode(&record)?.as_bytes() != json {
        return Err(bad("it is signed, and its JSON is not canonical"));
    }
    Ok((record, note))
}

fn parse<T: DeserializeOwned>(store: &ObjectStore, key: &str, format: &str, backup: &str, json: &[u8]) -> Result<T> {
    let bad = |what: String| Error::failed(format!("store {}: {key} can't be read: {what}", store.name()));
    let value: serde_json::Value = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
    let found = value["format"].as_str().unwrap_or_default();
    if found != format {
        return Err(bad(format!("its format is `{}`, not `{format}`", crate::identifier::shown(found)))
            .hint("a newer lifeboat wrote it: use that version"));
    }
    if value["backup"].as_str() != Some(backup) {
        return Err(bad("it is a record of another backup".into()));
    }
    serde_json::from_value(value).map_err(|e| bad(e.to_string()))
}
