//! Looking into stores.

use rustix::fs::Access;

use super::seen::offset;
use super::{Level, Seen};
use crate::bindings::{Right, Store};
use crate::error::{Error, Result};
use crate::stores::ObjectStore;

pub(super) fn reachable(store: &ObjectStore) -> Result<Seen> {
    store.check()?;
    if !store.may(Right::Read) {
        return Ok(Seen::unknown(
            format!("store {} can't be looked at: this environment may not read there", store.name()),
            "run `lifeboat check` where the store may be read as well",
        ));
    }
    Ok(Seen::ok(format!("store {} is there", store.name())))
}

/// The store's clock, as the answer to a look at it says: ages and the ends of holds are reckoned with both.
pub(super) fn clock(store: &ObjectStore, ours: &(dyn Fn() -> u64 + Send + Sync)) -> Result<Seen> {
    if !store.may(Right::Read) {
        return Ok(Seen::unknown(
            format!("the clock of store {} shows in answers to who reads there", store.name()),
            "",
        ));
    }
    let before_ms = ours();
    store.check()?;
    Ok(match store.clock_ms() {
        // It says whole seconds, and means any moment of that one.
        Some(theirs_ms) => {
            offset(&format!("store {}", store.name()), theirs_ms, before_ms.saturating_sub(1_000), ours())
        }
        None => Seen::unknown(format!("store {} does not say what time it is there", store.name()), ""),
    })
}

/// What its file system says of our right to write; nothing is written.
pub(super) fn writable(store: &Store) -> Result<Seen> {
    match store {
        Store::Directory(directory) => {
            let shown = directory.path.display();
            rustix::fs::access(&directory.path, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| {
                Error::failed(format!("nothing can be written to {shown}: {e}"))
                    .hint("give the engine's user the right to write there, and look whether it is mounted read-only")
            })?;
            Ok(Seen::ok(format!("the file system lets us write to {shown}; nothing was written")))
        }
        _ => Err(Error::failed("a bug: whether a bucket takes what we put shows by putting alone")),
    }
}

/// Who may do what in a store, and whether the secrets for it can be read.
pub(super) fn identities(store: &Store) -> Result<Seen> {
    if matches!(store, Store::Directory(_)) {
        return Ok(Seen::ok("the file system's rights are all there is"));
    }
    let mut open = Vec::new();
    for (what, secret) in store.secrets() {
        secret.read().map_err(|e| e.context(what.clone()))?;
        if let Some(file) = secret.file.as_deref().filter(|file| super::service::others_read(file)) {
            open.push(format!("{what}: everybody on this machine may read {}", file.display()));
        }
    }
    if !open.is_empty() {
        return Ok(Seen::warning(open.join("; "), "chmod o-rwx on the file"));
    }
    let Some(rights) = store.rights() else {
        return Ok(Seen::new(
            Level::Ok,
            "one identity for everything: whoever takes over this host can remove the backups there",
            "give hosts that take backups identity.write alone, and keep identity.delete elsewhere",
        ));
    };
    let given: Vec<_> = rights.into_iter().map(Right::word).collect();
    Ok(Seen::ok(format!("this environment may: {}", given.join(", "))))
}
