//! `lifeboat policy export|import`: modules with their signatures, carried to a site without a network in one file.

use std::collections::BTreeSet;
use std::path::Path;

use engine::config::{Environment, PolicyBinding};
use engine::error::{Error, Kind};
use engine::policy::bundle::{BUNDLE_BYTES_MAX, Carried, decode, encode};
use engine::policy::difference::{Difference, Direction};
use engine::policy::lock::{Lock, Pin};
use engine::policy::{inspect, put_in_place, read_bounded, signatures};
use engine::{Result, run};
use host_api::identifier::shown;
use serde_json::{Value, json};

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

/// What an import does with one module.
struct Placed {
    carried: Carried,
    binding: PolicyBinding,
    lines: Vec<String>,
    /// What has to be typed before it is run; none: it is what was accepted.
    pin: Option<String>,
}

/// Puts the modules of a bundle in place.
pub fn import(global: &Global, file: &Path, dry_run: bool) -> Result<u8> {
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let bytes = read_bounded(file, BUNDLE_BYTES_MAX)?;
    let carried = decode(&bytes).map_err(|e| e.context(file.display()))?;
    let lock = Lock::read(&config.lock_path())?.unwrap_or_default();
    let pinned = environment.binding.modules.pinned || lock.covers(&environment.name);
    // All of them are looked at before any is written.
    let placed = carried
        .into_iter()
        .map(|carried| looked_at(&environment, carried, &lock, pinned))
        .collect::<Result<Vec<Placed>>>()?;
    let mut taken = BTreeSet::new();
    for one in &placed {
        if !taken.insert(&one.binding.module) {
            let name = one.binding.module.display();
            return Err(Error::new(Kind::PolicyRefused, format!("{name} is the module of two policies of the bundle")));
        }
    }
    if !dry_run {
        // Signatures first: whoever needs them refuses the old module with the new ones, and is never given a new one without.
        for one in &placed {
            for (name, text) in &one.carried.signatures {
                put_in_place(&signatures::file_of(&one.binding.module, name), text)?;
            }
            put_in_place(&one.binding.module, &one.carried.module)?;
        }
    }
    if global.json {
        let modules: Vec<Value> = placed
            .iter()
            .map(|one| {
                json!({"policy": one.carried.policy, "module": one.binding.module, "sha256": one.carried.pin.sha256,
                "different": one.lines, "to-accept": one.pin})
            })
            .collect();
        output::json(&json!({"imported": !dry_run, "modules": modules}))?;
        return Ok(0);
    }
    for one in &placed {
        output::line(&format!("{}: {}", one.carried.policy, one.binding.module.display()))?;
        one.lines.iter().try_for_each(|line| output::line(&format!("  {}", shown(line))))?;
        output::line(&match &one.pin {
            Some(words) => format!("  not accepted yet; to accept it: {words}"),
            None if pinned => "  it is what was accepted".to_owned(),
            None => "  nothing is pinned in this environment: it is run from now on".to_owned(),
        })?;
    }
    if dry_run {
        output::line("nothing was written")?;
    }
    Ok(0)
}

/// Whether the environment would let a module run, and how it differs from what is there and what was accepted.
fn looked_at(environment: &Environment<'_>, carried: Carried, lock: &Lock, pinned: bool) -> Result<Placed> {
    let policy = carried.policy.clone();
    let binding = environment.policy(&policy).map_err(|e| {
        let place = format!("[environment.{}.policy.{policy}]", environment.name);
        Error { kind: Kind::PolicyRefused, ..e }.hint(format!("it needs module, world and grants in {place}"))
    })?;
    let failed = |e: std::io::Error| Error::new(Kind::Failed, format!("a private folder: {e}"));
    // Judged where nobody else can write, as it would be judged where it goes.
    let folder = tempfile::tempdir().map_err(failed)?;
    let module = folder.path().join("module.wasm");
    std::fs::write(&module, &carried.module).map_err(failed)?;
    for (name, text) in &carried.signatures {
        std::fs::write(signatures::file_of(&module, name), text).map_err(failed)?;
    }
    let there = PolicyBinding { module, ..binding.clone() };
    let admitted = environment.examine(&policy, &there).map_err(|e| e.context(format!("policy {policy}")))?;
    run::check_world(admitted.inspected(), &policy, binding.world.get_ref())?;

    let mut lines = Vec::new();
    // What is there now may be anything, or nothing.
    match read_bounded(&binding.module, engine::policy::BYTES_MAX as u64).and_then(|bytes| inspect(&bytes)) {
        Err(_) => lines.push("there is no module yet".to_owned()),
        Ok(before) => {
            let difference = Difference::between(&before, admitted.inspected());
            lines.push(
                match (difference.same_bytes, difference.direction) {
                    (true, _) => "the module that is there already",
                    (_, Direction::Same) => "it can do the same as the module that is there",
                    (_, Direction::Narrowed) => "it can do less than the module that is there",
                    (_, Direction::Widened) => "it can do MORE than the module that is there",
                }
                .to_owned(),
            );
            let texts = difference.description.iter();
            lines.extend(texts.map(|(what, was, is)| format!("{what}: {was} → {is}")));
            lines.extend(difference.imports_added.iter().map(|call| format!("+ imports {call}")));
            lines.extend(difference.imports_removed.iter().map(|call| format!("- imports {call}")));
        }
    }
    let now = &admitted.pin;
    lines.extend(
        carried
            .pin
            .grants
            .difference(&now.grants)
            .map(|grant| format!("granted where it comes from, not here: {grant}")),
    );
    let pin = match lock.pin(&environment.name, &policy) {
        Some(_) if lock.check(&environment.name, &policy, now).is_ok() => None,
        Some(accepted) => Some(pin_words(environment, &policy, !now.more_than(accepted).is_empty())),
        None if pinned => Some(pin_words(environment, &policy, lock.covers(&environment.name))),
        None => None,
    };
    if let Some(accepted) = lock.pin(&environment.name, &policy) {
        lines.extend(Pin::more_than(now, accepted).into_iter().map(|more| format!("MORE than was accepted: {more}")));
    }
    Ok(Placed { carried, binding, lines, pin })
}

fn pin_words(environment: &Environment<'_>, policy: &str, accept: bool) -> String {
    let more = if accept { " --accept" } else { "" };
    format!("lifeboat --env {} policy pin {policy}{more}", environment.name)
}
