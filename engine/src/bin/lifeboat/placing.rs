//! Modules that come from elsewhere, put where the environment has its policies: judged first, signatures before modules, nothing accepted.

use std::collections::{BTreeMap, BTreeSet};

use engine::config::{Config, Environment, PolicyBinding};
use engine::error::{Error, Kind};
use engine::policy::difference::{Difference, Direction};
use engine::policy::lock::{Lock, Pin};
use engine::policy::{inspect, put_in_place, read_bounded, signatures};
use engine::{Result, in_use, run};
use host_api::identifier::shown;
use serde_json::{Value, json};

use crate::output;

/// A module that comes from elsewhere.
pub struct Brought {
    /// The policy that it is to be here.
    pub policy: String,
    /// The component.
    pub module: Vec<u8>,
    /// By whose they are.
    pub signatures: BTreeMap<String, Vec<u8>>,
    /// What it was granted where it comes from, if that is known; told, and never accepted.
    pub granted_there: BTreeSet<String>,
}

/// What was done with each.
pub struct Placed {
    all: Vec<One>,
    pinned: bool,
}

struct One {
    brought: Brought,
    binding: PolicyBinding,
    sha256: String,
    /// SHA-256 of the module that is there now, if one is.
    before: Option<String>,
    lines: Vec<String>,
    /// What has to be typed before it is run; none: it is what was accepted.
    pin: Option<String>,
}

impl Placed {
    /// For programs.
    pub fn json(&self) -> Vec<Value> {
        let one = |one: &One| {
            json!({"policy": one.brought.policy, "module": one.binding.module, "sha256": one.sha256,
            "different": one.lines, "to-accept": one.pin})
        };
        self.all.iter().map(one).collect()
    }

    /// For people.
    pub fn tell(&self) -> Result<()> {
        for one in &self.all {
            output::line(&format!("{}: {}", one.brought.policy, one.binding.module.display()))?;
            one.lines.iter().try_for_each(|line| output::line(&format!("  {}", shown(line))))?;
            output::line(&match &one.pin {
                Some(words) => format!("  not accepted yet; to accept it: {words}"),
                None if self.pinned => "  it is what was accepted".to_owned(),
                None => "  nothing is pinned in this environment: it is run from now on".to_owned(),
            })?;
        }
        Ok(())
    }
}

/// A policy that a module may be brought for.
pub fn binding(environment: &Environment<'_>, policy: &str) -> Result<PolicyBinding> {
    environment.policy(policy).map_err(|e| {
        let place = format!("[environment.{}.policy.{}]", environment.name, shown(policy));
        Error { kind: Kind::PolicyRefused, ..e }.hint(format!("it needs module, world and grants in {place}"))
    })
}

/// Judges all of them, and puts them in place if all are good.
pub async fn place(
    config: &Config,
    environment: &Environment<'_>,
    brought: Vec<Brought>,
    dry_run: bool,
) -> Result<Placed> {
    let lock = Lock::read(&config.lock_path())?.unwrap_or_default();
    let pinned = environment.binding.modules.pinned || lock.covers(&environment.name);
    // All of them are looked at before any is written.
    let all = brought
        .into_iter()
        .map(|brought| looked_at(environment, brought, &lock, pinned))
        .collect::<Result<Vec<One>>>()?;
    let mut taken = BTreeSet::new();
    for one in &all {
        if !taken.insert(&one.binding.module) {
            let name = one.binding.module.display();
            return Err(Error::new(Kind::PolicyRefused, format!("{name} is the module of two policies of the bundle")));
        }
    }
    not_in_use(config, environment, &all).await?;
    if !dry_run {
        // Signatures first: whoever needs them refuses the old module with the new ones, and is never given a new one without.
        for one in &all {
            for (name, text) in &one.brought.signatures {
                put_in_place(&signatures::file_of(&one.binding.module, name), text)?;
            }
            put_in_place(&one.binding.module, &one.brought.module)?;
        }
    }
    Ok(Placed { all, pinned })
}

/// An error if a run that is not over began with a module that another one would take the place of: it could not go on.
async fn not_in_use(config: &Config, environment: &Environment<'_>, all: &[One]) -> Result<()> {
    let Some(state) = config.state_to_look_at().await? else { return Ok(()) };
    for one in all {
        let Some(before) = one.before.as_ref().filter(|before| **before != one.sha256) else { continue };
        let module = &one.binding.module;
        // Several policies may have one file.
        let having = environment.binding.policy.iter().filter(|(_, binding)| binding.module == *module);
        let policies: Vec<&str> = having.map(|(name, _)| name.as_str()).collect();
        if let Some(run) = in_use::run_of_module(&state, &environment.name, &policies, before).await? {
            let module = module.display();
            return Err(Error::new(
                Kind::LockHeld,
                format!("run {run} is not over, and goes on with {module} as it is or not at all"),
            )
            .hint(format!("wait for it, or: lifeboat runs resume {run}, lifeboat runs abandon {run} --reason WHY")));
        }
    }
    Ok(())
}

/// Whether the environment would let a module run, and how it differs from what is there and what was accepted.
fn looked_at(environment: &Environment<'_>, brought: Brought, lock: &Lock, pinned: bool) -> Result<One> {
    let policy = brought.policy.clone();
    let binding = binding(environment, &policy)?;
    let failed = |e: std::io::Error| Error::new(Kind::Failed, format!("a private folder: {e}"));
    // Judged where nobody else can write, as it would be judged where it goes.
    let folder = tempfile::tempdir().map_err(failed)?;
    let module = folder.path().join("module.wasm");
    std::fs::write(&module, &brought.module).map_err(failed)?;
    for (name, text) in &brought.signatures {
        std::fs::write(signatures::file_of(&module, name), text).map_err(failed)?;
    }
    let there = PolicyBinding { module, ..binding.clone() };
    let admitted = environment.examine(&policy, &there).map_err(|e| e.context(format!("policy {policy}")))?;
    run::check_world(&admitted.inspected, &policy, binding.world.get_ref())?;

    let mut lines = Vec::new();
    let mut before_sha256 = None;
    // What is there now may be anything, or nothing.
    match read_bounded(&binding.module, engine::policy::BYTES_MAX as u64).and_then(|bytes| inspect(&bytes)) {
        Err(_) => lines.push("there is no module yet".to_owned()),
        Ok(before) => {
            let difference = Difference::between(&before, &admitted.inspected);
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
            before_sha256 = Some(before.sha256);
        }
    }
    let now = &admitted.pin;
    lines.extend(
        brought
            .granted_there
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
    let sha256 = admitted.pin.sha256;
    Ok(One { brought, binding, sha256, before: before_sha256, lines, pin })
}

fn pin_words(environment: &Environment<'_>, policy: &str, accept: bool) -> String {
    let more = if accept { " --accept" } else { "" };
    format!("lifeboat --env {} policy pin {policy}{more}", environment.name)
}
