//! `lifeboat policy inspect`: everything that can be said of a module without running it, and what it did when it was run.

use std::collections::BTreeSet;
use std::path::Path;

use engine::calls::is_pure;
use engine::config::{Environment, PolicyBinding};
use engine::grants::Grant;
use engine::journal::PastRun;
use engine::policy::lock::Lock;
use engine::policy::origin::{Origin, wit};
use engine::policy::{Inspected, inspect};
use engine::{Result, config::Config};
use host_api::identifier::{shown, shown_long, utc};
use serde_json::{Value, json};

use crate::modules::{is_file, read_file};
use crate::{Global, output};

/// How many of its runs are looked through.
const RUNS: u32 = 20;

/// A module in an environment.
struct Here<'c> {
    environment: Environment<'c>,
    name: String,
    binding: PolicyBinding,
    grants: Vec<Grant>,
    /// Whether it may be run, and why not.
    admitted: std::result::Result<BTreeSet<String>, String>,
    pinned: bool,
    runs: Vec<PastRun>,
    /// Calls that it made in those.
    used: BTreeSet<String>,
}

impl Here<'_> {
    fn granted(&self, call: &str) -> bool {
        self.grants.iter().any(|grant| grant.speaks_of(call))
    }

    /// What it may have removed without anybody's consent.
    fn unasked(&self, found: &Inspected) -> Vec<String> {
        let removes = found.imports.iter().any(|import| import.name == "delete.apply") && self.granted("delete.apply");
        let retention = self.environment.binding.retention.iter().filter(|_| removes);
        let stores = retention.flat_map(|(service, of)| of.store.iter().map(move |of| (service, of)));
        let words = stores.filter_map(|(service, (store, rules))| {
            let most = rules.without_consent_at_most?;
            Some(format!("of {service} from {store}, what its rules let go, at most {most} in a run"))
        });
        words.collect()
    }

    /// Grants that nothing it imports could use.
    fn idle(&self, found: &Inspected) -> Vec<&str> {
        let lines = self.binding.grants.iter().map(|line| line.get_ref().as_str());
        let idle = |(_, grant): &(&str, &Grant)| !found.imports.iter().any(|import| grant.speaks_of(&import.name));
        lines.zip(&self.grants).filter(idle).map(|(line, _)| line).collect()
    }

    /// Granted calls that it did not make in any of the runs that were looked through.
    fn unused(&self, found: &Inspected) -> Vec<String> {
        if self.runs.is_empty() {
            return Vec::new();
        }
        let names = found.imports.iter().map(|import| &import.name);
        names.filter(|name| !is_pure(name) && self.granted(name) && !self.used.contains(*name)).cloned().collect()
    }
}

/// Shows it. `named`: a file, or a policy's name in the environment. `interface`: only its interface, as WIT.
pub async fn run(global: &Global, named: &str, interface: bool) -> Result<u8> {
    let config;
    let (bytes, binding) = if is_file(named)? {
        (read_file(Path::new(named))?, None)
    } else {
        config = global.load()?;
        let environment = config.environment(global.env.as_deref())?;
        let binding = environment.policy(named)?;
        (binding.read_module()?, Some((environment, binding)))
    };
    let found = inspect(&bytes)?;
    if interface {
        output::line(wit(&bytes)?.trim_end())?;
        return Ok(0);
    }
    let here = match binding {
        Some((environment, binding)) => Some(here(global, named, environment, binding).await?),
        None => None,
    };
    let origin = Origin::of(&bytes);
    match global.json {
        true => output::json(&as_json(&found, &origin, here.as_ref()))?,
        false => show(&found, &origin, here.as_ref())?,
    }
    Ok(0)
}

async fn here<'c>(
    global: &Global,
    name: &str,
    environment: Environment<'c>,
    binding: PolicyBinding,
) -> Result<Here<'c>> {
    let grants = binding.grants.iter().map(|line| Grant::parse(line.get_ref())).collect::<Result<Vec<_>>>()?;
    let config = global.load()?;
    let lock = Lock::read(&config.lock_path())?;
    let admitted = environment.admit(name, &binding).map(|admitted| admitted.pin.signers).map_err(|e| e.message);
    let pinned = lock.is_some_and(|lock| lock.pin(&environment.name, name).is_some());
    let (runs, used) = past(&config, &environment.name, name).await?;
    Ok(Here { environment, name: name.to_owned(), binding, grants, admitted, pinned, runs, used })
}

/// Its newest runs, and the calls that it made in them.
async fn past(config: &Config, environment: &str, policy: &str) -> Result<(Vec<PastRun>, BTreeSet<String>)> {
    let Some(state) = config.state_to_look_at().await? else { return Ok(Default::default()) };
    let runs = state.past_runs(environment, policy, None, RUNS).await?;
    let mut used = BTreeSet::new();
    for run in &runs {
        for record in state.records(&run.id).await? {
            used.extend(record.body["request"]["call"].as_str().map(str::to_owned));
        }
    }
    Ok((runs, used))
}

fn as_json(found: &Inspected, origin: &Origin, here: Option<&Here<'_>>) -> Value {
    let description = &found.description;
    let imports: Vec<Value> = found
        .imports
        .iter()
        .map(|import| {
            json!({
                "call": import.name, "destructive": import.destructive, "pure": is_pure(&import.name),
                "declared": description.capabilities.contains(&import.name),
                "granted": here.map(|here| here.granted(&import.name)),
                "used": here.filter(|here| !here.runs.is_empty()).map(|here| here.used.contains(&import.name)),
            })
        })
        .collect();
    let lines = |here: &Here<'_>| here.binding.grants.iter().map(|line| line.get_ref().clone()).collect::<Vec<_>>();
    json!({
        "sha256": found.sha256, "bytes": found.bytes, "wasi": found.wasi, "memory-bytes-min": found.memory_bytes_min,
        "wasi-allowed": here.map(|here| here.binding.wasi), "description": description, "imports": imports,
        "producers": origin.producers, "sections": origin.sections,
        "grants": here.map(lines), "limits": here.map(|here| &here.binding.limits),
        "idle-grants": here.map(|here| here.idle(found)), "unused-calls": here.map(|here| here.unused(found)),
        "without-consent": here.map(|here| here.unasked(found)),
        "runs": here.map(|here| here.runs.iter().map(|run| json!({"run": run.id, "status": run.status, "started-ms": run.started_ms})).collect::<Vec<_>>()),
        "pinned": here.map(|here| here.pinned),
        "signers": here.and_then(|here| here.admitted.as_ref().ok()),
        "refused": here.and_then(|here| here.admitted.as_ref().err()),
    })
}

fn show(found: &Inspected, origin: &Origin, here: Option<&Here<'_>>) -> Result<()> {
    let description = &found.description;
    output::line(&format!(
        "{} {} · world {} · {}",
        description.name,
        description.version,
        description.world,
        output::bytes(found.bytes as u64)
    ))?;
    output::line(&format!("sha256 {}", found.sha256))?;
    output::line(&shown_long(&description.summary))?;
    output::line(&format!("needs {} of memory", output::bytes(found.memory_bytes_min)))?;
    output::line("\nit can call (nothing else reaches it: no files, sockets, clock, environment or randomness):")?;
    let rows: Vec<_> = found
        .imports
        .iter()
        .map(|import| {
            vec![
                format!("  {}", import.name),
                if import.destructive { "DESTRUCTIVE, takes an approval" } else { "" }.into(),
                match here {
                    _ if is_pure(&import.name) => "harmless, always allowed".into(),
                    Some(here) if here.granted(&import.name) => "granted".into(),
                    Some(_) => "not granted: denied".into(),
                    None => String::new(),
                },
            ]
        })
        .collect();
    output::table(&["  call", "", if here.is_some() { "here" } else { "" }], &rows)?;
    for capability in description.capabilities.iter().filter(|c| !found.imports.iter().any(|i| i.name == **c)) {
        output::line(&format!("  {capability} is declared, but not imported"))?;
    }
    if !found.wasi.is_empty() {
        let allowed = match here {
            Some(here) if here.binding.wasi => ", which is allowed here",
            Some(_) => ", which is NOT ALLOWED here: it is not run",
            None => ", which an environment has to allow",
        };
        let all = Vec::from_iter(found.wasi.iter().map(|name| shown(name))).join(", ");
        output::line(&format!(
            "  and it imports WASI{allowed}; it finds it empty, its clocks stand, its randomness is the run's id: {all}"
        ))?;
    }
    let parameters: Vec<String> =
        description.parameters["properties"].as_object().into_iter().flatten().map(|(name, _)| shown(name)).collect();
    output::line(&format!(
        "\nparameters: {}",
        if parameters.is_empty() { "none".into() } else { parameters.join(", ") }
    ))?;
    if !origin.producers.is_empty() {
        output::line(&format!(
            "made with: {}",
            Vec::from_iter(origin.producers.iter().map(String::as_str)).join("; ")
        ))?;
    }
    here.map_or(Ok(()), |here| show_here(found, here))
}

fn show_here(found: &Inspected, here: &Here<'_>) -> Result<()> {
    output::line(&format!("\nin environment {}:", here.environment.name))?;
    output::line(&match &here.admitted {
        Err(why) => format!("  REFUSED, it is not run: {}", shown_long(why)),
        Ok(signers) if signers.is_empty() => "  signed by nobody, and nobody has to".into(),
        Ok(signers) => format!("  signed by {}", Vec::from_iter(signers.iter().map(String::as_str)).join(", ")),
    })?;
    output::line(match (here.pinned, &here.admitted) {
        (true, Ok(_)) => "  accepted as it is (lifeboat.lock)",
        (true, Err(_)) => "  something else was accepted (lifeboat.lock)",
        (false, Ok(_)) => "  not pinned: whatever the file holds is run",
        (false, Err(_)) => "  not pinned",
    })?;
    output::line("  grants:")?;
    for line in &here.binding.grants {
        output::line(&format!("    {}", line.get_ref()))?;
    }
    for words in here.unasked(found) {
        output::line(&format!("  removes WITHOUT ASKING ANYBODY: {words}"))?;
    }
    for line in here.idle(found) {
        output::line(&format!("  nothing that it imports can use: {line}"))?;
    }
    match here.runs.first() {
        None => output::line("  no run of it is on record"),
        Some(newest) => {
            output::line(&format!(
                "  runs looked through: {}; the newest, {}, of {}, is {}",
                here.runs.len(),
                newest.id,
                utc(newest.started_ms),
                newest.status
            ))?;
            match here.unused(found) {
                unused if unused.is_empty() => output::line("  it used everything that it is granted"),
                unused => output::line(&format!("  granted, and not used in any of them: {}", unused.join(", "))),
            }
        }
    }?;
    output::line(&format!("  what it did: lifeboat runs list --policy {}; lifeboat runs show RUN", here.name))
}
