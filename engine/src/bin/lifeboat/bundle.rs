//! `lifeboat policy export|import`: modules with their signatures, carried to a site without a network in one file.

use std::collections::BTreeSet;
use std::path::Path;

use engine::Result;
use engine::policy::bundle::{BUNDLE_BYTES_MAX, Carried, decode, encode};
use engine::policy::{put_in_place, read_bounded, signatures};
use serde_json::{Value, json};

use crate::placing::{self, Brought, Manner};
use crate::{Global, output};

/// Writes a bundle.
pub fn export(global: &Global, policies: &[String], file: &Path) -> Result<u8> {
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let mut carried = Vec::new();
    for policy in policies.iter().collect::<BTreeSet<_>>() {
        let binding = environment.policy(policy)?;
        // What may not be run here is not handed on.
        let admitted = environment.admit(policy, &binding)?;
        let signatures = signatures::beside(&binding.module)?;
        carried.push(Carried {
            policy: policy.clone(),
            module: admitted.bytes().to_vec(),
            signatures,
            pin: admitted.pin,
        });
    }
    let bytes = encode(&carried)?;
    put_in_place(file, &bytes)?;
    if global.json {
        let modules: Vec<Value> = carried.iter().map(|c| json!({"policy": c.policy, "sha256": c.pin.sha256})).collect();
        output::json(&json!({"file": file, "bytes": bytes.len(), "modules": modules}))?;
    } else {
        for c in &carried {
            output::line(&format!(
                "{} {} {}, signatures: {}",
                c.policy,
                c.pin.version,
                &c.pin.sha256[..12],
                c.signatures.len()
            ))?;
        }
        output::line(&format!("{} {}", file.display(), output::bytes(bytes.len() as u64)))?;
    }
    Ok(0)
}

/// Puts the modules of a bundle in place.
pub async fn import(global: &Global, file: &Path, manner: Manner) -> Result<u8> {
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let bytes = read_bounded(file, BUNDLE_BYTES_MAX)?;
    let carried = decode(&bytes).map_err(|e| e.context(file.display()))?;
    let brought = carried.into_iter().map(|carried| Brought {
        policy: carried.policy,
        module: carried.module,
        signatures: carried.signatures,
        granted_there: carried.pin.grants,
    });
    let placed = placing::place(&config, &environment, brought.collect(), manner).await?;
    if global.json {
        return output::json(&json!({"imported": !manner.dry_run, "modules": placed.json()})).map(|()| 0);
    }
    placed.tell()?;
    if manner.dry_run {
        output::line("nothing was written")?;
    }
    Ok(0)
}
