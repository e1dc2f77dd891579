//! Takes a backup, reads it back from the store, and copies it to other stores, where it is read back as well.
//!
//! A copy that failed leaves the run partly done: the backup exists.

use lifeboat_policy::{
    Backup, Error, ErrorKind, Finding, Outcome, Record, Result, dump, note, policy, step, time, upload,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    store: String,
    #[serde(default)]
    copy_to: Vec<String>,
    #[serde(default)]
    verify: Depth,
    #[serde(default)]
    not_read: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    label: Option<String>,
}

/// How deep a stored backup is read back.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Depth {
    Exists,
    #[default]
    Checksum,
    Content,
}

impl Depth {
    fn word(self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::Checksum => "checksum",
            Self::Content => "content",
        }
    }
}

policy!(run);

fn run(p: Parameters, record: &mut Record) -> Result<Outcome> {
    let options = dump::Options::new();
    if let Some(label) = &p.label {
        options.set_label(label);
    }
    let backup = step(format!("take a backup of {} into {}", p.service, p.store), || {
        dump::take(&p.service, &p.store, &options)
    })?;
    let id = backup.id();
    note(format!("backup {id}: {} bytes of {}", backup.stored_bytes(), backup.sources().join(", ")));
    if let Some(newest_ms) = backup.newest_at_ms() {
        note(format!(
            "newest record: {} before the backup",
            time::words(backup.taken_at_ms().saturating_sub(newest_ms))
        ));
    }
    record.backup(&backup);
    let mut sound = record.passes(backup.findings());
    sound &= read_back(&backup, &p, record)?;

    let mut copied = vec![p.store.as_str()];
    let mut failed = Vec::new();
    for store in &p.copy_to {
        let copy = step(format!("copy backup {id} to {store}"), || upload::copy(&backup, store));
        match copy.and_then(|copy| read_back(&copy, &p, record)) {
            Ok(whole) => {
                sound &= whole;
                copied.push(store);
            }
            Err(error) => failed.push((store.as_str(), not_cancelled(error)?)),
        }
    }
    record.fact("copies", &copied);
    for (store, error) in &failed {
        let fix = format!("run it again, or copy by hand: there is no copy of this backup in {store} yet");
        record.finding(Finding::error("copy", error.to_string()).fix(fix));
    }
    let unread: Vec<_> = copied.iter().copied().filter(|store| p.not_read.iter().any(|not| not == store)).collect();
    let mut stores = copied.join(", ");
    if !unread.is_empty() {
        stores = format!("{stores} (not read back from {})", unread.join(", "));
    }
    Ok(if !sound {
        Outcome::verification_failed(format!("backup {id} was taken, but must not be relied on: see the findings"))
    } else if !failed.is_empty() {
        let missing = failed.iter().map(|(store, _)| *store).collect::<Vec<_>>().join(", ");
        Outcome::partly_done(format!("backup {id} is in {stores}, but not in {missing}"))
    } else {
        Outcome::ok(format!("backup {id} is in {stores}"))
    })
}

/// Looks at a backup where it lies, if it can be read there; answers whether it is whole, as far as that is known.
fn read_back(backup: &Backup, p: &Parameters, record: &mut Record) -> Result<bool> {
    let (store, depth) = (backup.store(), p.verify);
    if p.not_read.contains(&store) {
        note(format!("backup {} is not read back from {store}: do it where that store can be read", backup.id()));
        return Ok(true);
    }
    let what = format!("read backup {} back from {} ({})", backup.id(), backup.store(), depth.word());
    let findings = step(what, || upload::verify(backup, depth.word()))?;
    Ok(record.passes(findings))
}

/// Once the run is cancelled, the other stores need not be tried.
fn not_cancelled(error: Error) -> Result<Error> {
    if error.kind() == ErrorKind::Cancelled { Err(error) } else { Ok(error) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("backup", include_str!("../policy.toml"));
    }
}
