//! Which backup, and whether its bytes are whole.

use lifeboat_policy::{Backup, Error, ErrorKind, Record, Result, catalog, note, step, time, upload};

/// The newest backup for `latest`, otherwise the one of this id. It goes into the record.
///
/// # Errors
///
/// If there is none.
pub fn backup(service: &str, store: &str, which: &str, record: &mut Record) -> Result<Backup> {
    let backup = match which {
        "latest" => step(format!("look for the newest backup of {service} in {store}"), || {
            catalog::latest(service, store, false)?.ok_or_else(|| none(service, store))
        })?,
        id => step(format!("look for backup {id} of {service} in {store}"), || catalog::get(service, store, id))?,
    };
    Ok(chosen(backup, record))
}

/// The newest backup that an upgrade took before it left this version; without one, the newest that was taken while this version was
/// installed, or if no backup says its version, the newest. The word of the upgrade comes first because a version that was put back by
/// hand takes backups of migrated data under its own name.
///
/// # Errors
///
/// If there is none: a backup of another version is not a way back to this one.
pub fn of_version(service: &str, store: &str, version: &str, record: &mut Record) -> Result<Backup> {
    let backup = step(format!("look for the newest backup of {service} {version} in {store}"), || {
        let mut backups = catalog::list(service, store)?;
        if backups.is_empty() {
            return Err(none(service, store));
        }
        if backups.iter().any(|backup| backup.version().is_some()) {
            backups.retain(|backup| backup.version().as_deref() == Some(version));
        }
        if backups.iter().any(|backup| backup.label().as_deref() == Some(PRE_UPGRADE)) {
            backups.retain(|backup| backup.label().as_deref() == Some(PRE_UPGRADE));
        }
        backups.pop().ok_or_else(|| {
            let message =
                format!("no backup of {service} {version} in {store}; to use another, name it: --param backup=ID");
            Error::new(ErrorKind::NotFound, message)
        })
    })?;
    Ok(chosen(backup, record))
}

/// The word that an upgrade puts on the backup it takes first.
pub const PRE_UPGRADE: &str = "pre-upgrade";

/// Reads every stored byte of a backup; answers whether all are what the manifest says.
///
/// # Errors
///
/// If it could not be read.
pub fn is_whole(backup: &Backup, record: &mut Record) -> Result<bool> {
    let what = format!("read backup {} in {} and compare every checksum", backup.id(), backup.store());
    let findings = step(what, || upload::verify(backup, "checksum"))?;
    Ok(record.passes(findings))
}

fn chosen(backup: Backup, record: &mut Record) -> Backup {
    let version = backup.version().map(|version| format!(", version {version}")).unwrap_or_default();
    note(format!("chosen: backup {}, taken {}{version}", backup.id(), time::iso8601(backup.taken_at_ms())));
    record.backup(&backup);
    backup
}

fn none(service: &str, store: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no backup of {service} in {store}"))
}
