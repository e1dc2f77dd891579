//! Modules that come from elsewhere, put where the environment has its policies: judged first, signatures before modules, nothing accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use engine::config::{Config, Environment, PolicyBinding};
use engine::error::{Error, Kind};
use engine::policy::difference::{Difference, Direction};
use engine::policy::lock::{Lock, Pin};
use engine::policy::{Ready, inspect, read_bounded, signatures};
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
    /// Signatures of the module that is there now, which go with it.
    stale: Vec<PathBuf>,
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

/// How they are put in place.
#[derive(clap::Args, Debug, Clone, Copy)]
pub struct Manner {
    /// Only show what is different.
    #[arg(long)]
    pub dry_run: bool,
    /// Also where other environments have the same file: they get the new one too.
    #[arg(long)]
    pub shared: bool,
}

/// Judges all of them, and puts them in place if all are good.
pub async fn place(
    config: &Config,
    environment: &Environment<'_>,
    brought: Vec<Brought>,
    manner: Manner,
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
        if !taken.insert(place_of(&one.binding.module)) {
            let name = one.binding.module.display();
            return Err(Error::new(Kind::PolicyRefused, format!("{name} is the module of two policies of the bundle")));
        }
    }
    for one in all.iter().filter(|one| one.before.as_ref() != Some(&one.sha256)) {
        not_of_others(config, environment, one, manner.shared)?;
        not_in_use(config, one).await?;
    }
    if !manner.dry_run {
        put(&all)?;
    }
    Ok(Placed { all, pinned })
}

/// All of them are written before any is put in its place: a full disk changes nothing.
fn put(all: &[One]) -> Result<()> {
    let mut ready = Vec::new();
    for one in all {
        // Signatures first: whoever needs them refuses the old module with the new ones, and is never given a new one without.
        for (name, text) in &one.brought.signatures {
            ready.push(Ready::write(&signatures::file_of(&one.binding.module, name), text)?);
        }
        ready.push(Ready::write(&one.binding.module, &one.brought.module)?);
    }
    let mut there = Vec::new();
    for file in ready {
        let name = file.path().display().to_string();
        file.put().map_err(|e| match there.is_empty() {
            true => e,
            false => e.hint(format!("in place already: {}; the rest is as it was: do it again", there.join(", "))),
        })?;
        there.push(name);
    }
    for file in all.iter().flat_map(|one| &one.stale) {
        std::fs::remove_file(file).map_err(|e| {
            Error::new(Kind::Failed, format!("{}: {e}", file.display()))
                .hint("everything is in place; this signature is of the module that was there before: remove it")
        })?;
    }
    Ok(())
}

/// One path for one file, however it is written, also where there is no such file yet.
fn place_of(module: &Path) -> PathBuf {
    std::fs::canonicalize(module).unwrap_or_else(|_| match (module.parent(), module.file_name()) {
        (Some(folder), Some(name)) => {
            std::fs::canonicalize(folder).map_or_else(|_| module.to_owned(), |f| f.join(name))
        }
        _ => module.to_owned(),
    })
}

/// Policies of an environment that have this file.
fn having<'a>(environment: &'a Environment<'_>, module: &Path) -> Vec<&'a str> {
    let module = place_of(module);
    let policies = environment.binding.policy.iter().filter(|(_, binding)| place_of(&binding.module) == module);
    policies.map(|(name, _)| name.as_str()).collect()
}

/// An error if another environment has the same file, unless that is wanted: what it accepted would be gone.
fn not_of_others(config: &Config, environment: &Environment<'_>, one: &One, shared: bool) -> Result<()> {
    for name in config.environments().filter(|name| !shared && *name != environment.name) {
        let other = config.environment(Some(name))?;
        if let [policy, ..] = having(&other, &one.binding.module)[..] {
            let module = one.binding.module.display();
            return Err(Error::new(
                Kind::PolicyRefused,
                format!("{module} is also the module of policy {policy} of environment {name}, which would have the new one too"),
            )
            .hint(format!(
                "give environment {} a file of its own, or say that both are to have it: --shared",
                environment.name
            )));
        }
    }
    Ok(())
}

/// An error if a run that is not over began with a module that another one would take the place of: it could not go on.
async fn not_in_use(config: &Config, one: &One) -> Result<()> {
    let (Some(before), Some(state)) = (&one.before, config.state_to_look_at().await?) else { return Ok(()) };
    for name in config.environments() {
        let environment = config.environment(Some(name))?;
        let policies = having(&environment, &one.binding.module);
        if let Some(run) = in_use::run_of_module(&state, name, &policies, before).await? {
            let module = one.binding.module.display();
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
    run::check_world(admitted.inspected(), &policy, binding.world.get_ref())?;

    let mut lines = Vec::new();
    let mut before_sha256 = None;
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
    // They are of other bytes.
    let mut stale = Vec::new();
    if before_sha256.as_ref().is_some_and(|before| *before != sha256) {
        for name in signatures::beside(&binding.module)?.into_keys() {
            if !brought.signatures.contains_key(&name) {
                let file = signatures::file_of(&binding.module, &name);
                lines.push(format!("{} is of the module that is there, and goes with it", file.display()));
                stale.push(file);
            }
        }
    }
    Ok(One { brought, binding, sha256, before: before_sha256, lines, stale, pin })
}

fn pin_words(environment: &Environment<'_>, policy: &str, accept: bool) -> String {
    let more = if accept { " --accept" } else { "" };
    format!("lifeboat --env {} policy pin {policy}{more}", environment.name)
}
