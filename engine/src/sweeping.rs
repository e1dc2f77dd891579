//! The engine's side of sweeping a store: what a person is asked, and what must be left alone.

use std::collections::BTreeMap;

use host_api::promote::Description;
use host_api::sweep::{Guard, Leftover};
use host_api::{Error as HostError, identifier};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::approvals::Subject;
use crate::dispatch::get;
use crate::in_use::sweep_guard;
use crate::step::Stepper;

/// Backups of which a person is told one by one; the rest is counted.
const LINES_MAX: usize = 100;

/// What is asked for.
pub(crate) struct Sweeping {
    pub(crate) service: String,
    pub(crate) store: String,
    /// Keys of the objects.
    pub(crate) keys: Vec<String>,
}

impl Sweeping {
    pub(crate) fn of(full: &Value) -> Result<Self, HostError> {
        Ok(Self { service: get(full, "service")?, store: get(full, "store")?, keys: get(full, "keys")? })
    }
}

impl Stepper {
    pub(crate) async fn sweep_guard(&self, full: &Value) -> Result<Guard, HostError> {
        let guard = sweep_guard(&self.around.state, &self.run.environment, get(full, "age-ms")?).await;
        guard.map_err(|e| HostError::failed(e.to_string()))
    }
}

/// The intent of a sweep: its objects are bound by their keys. One that must stay is refused before anyone is asked.
pub(crate) fn sweep_subject<'a>(
    sweeping: &'a Sweeping,
    found: &[Leftover],
    why: &'a str,
) -> Result<Subject<'a>, HostError> {
    let of: BTreeMap<&str, &Leftover> = found.iter().map(|leftover| (leftover.key.as_str(), leftover)).collect();
    let mut sizes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for key in &sweeping.keys {
        let leftover = of.get(key.as_str()).filter(|leftover| leftover.goes).ok_or_else(|| {
            HostError::refused(format!("{} is nothing that goes now", identifier::shown(key)))
                .hint("look again: lifeboat backups sweep --dry-run")
        })?;
        let (count, bytes) = sizes.entry(key.split('/').nth(2).unwrap_or_default()).or_default();
        (*count, *bytes) = (*count + 1, bytes.saturating_add(leftover.bytes));
    }
    let mut consequence: Vec<String> = sizes
        .iter()
        .take(LINES_MAX)
        .map(|(id, (count, bytes))| {
            format!(
                "{count} objects ({bytes} bytes) of {id}, which is no backup, are removed from store {} for good",
                sweeping.store
            )
        })
        .collect();
    if sizes.len() > LINES_MAX {
        consequence.push(format!("and those of {} more", sizes.len() - LINES_MAX));
    }
    let mut keys = sweeping.keys.clone();
    keys.sort_unstable();
    Ok(Subject {
        action: "delete",
        service: &sweeping.service,
        object: json!({
            "sweep": sweeping.store, "objects": keys.len(), "keys-sha256": hex::encode(Sha256::digest(keys.join("\n"))),
        }),
        description: Description { identities: Default::default(), consequence },
        why,
    })
}

#[cfg(test)]
mod tests {
    use host_api::sweep::Because;

    use super::*;

    #[test]
    fn what_is_asked_binds_every_key_and_asks_for_nothing_that_stays() {
        let key = |n: u32, goes| Leftover {
            key: format!("notes/objects/b{n}/r-1-1/db.data.zst"),
            bytes: 10,
            stored_at_ms: Some(1),
            goes,
            because: Because::NoManifest,
        };
        let found = [key(1, true), key(2, true), key(3, false)];
        let of = |numbers: &[usize]| Sweeping {
            service: "notes".into(),
            store: "local".into(),
            keys: numbers.iter().map(|n| found[*n].key.clone()).collect(),
        };
        let (both, turned, one) = (of(&[0, 1]), of(&[1, 0]), of(&[0]));
        let object = |sweeping: &Sweeping| sweep_subject(sweeping, &found, "").unwrap().object;
        assert_eq!(object(&both), object(&turned));
        assert_ne!(object(&both), object(&one));
        let told = sweep_subject(&both, &found, "").unwrap().description.consequence;
        assert!(told.len() == 2 && told[0].contains("1 objects (10 bytes) of b1"), "{told:?}");
        assert!(sweep_subject(&of(&[2]), &found, "").is_err());
    }
}
