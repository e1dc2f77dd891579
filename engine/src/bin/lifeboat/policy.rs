//! `lifeboat policy`: modules, without running them.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use engine::Result;
use engine::calls::Class;
use engine::config::PolicyBinding;
use engine::error::{Error, Kind};
use engine::policy::{Inspected, inspect, pack};
use host_api::identifier;
use serde_json::{Value, json};

use crate::{Global, output};

/// Verbs of `policy`.
#[derive(Subcommand)]
pub enum Verb {
    /// The environment's policies.
    List,
    /// What a module says of itself, imports and is granted; nothing of it is run.
    Inspect {
        /// A file, or a policy's name in the environment.
        module: String,
    },
    /// Make a policy: a component with its description.
    Pack {
        /// A core module or a component.
        module: PathBuf,
        /// The description, policy.toml.
        #[arg(long, value_name = "FILE")]
        description: PathBuf,
        /// Where to write it.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
}

/// Runs the verb.
pub fn run(global: &Global, verb: Verb) -> Result<u8> {
    match verb {
        Verb::List => {
            let config = global.load()?;
            let environment = config.environment(global.env.as_deref())?;
            let mut rows = Vec::new();
            for (name, binding) in &environment.binding.policy {
                let state = binding.read_module().and_then(|bytes| inspect(&bytes));
                rows.push(match &state {
                    Ok(found) => vec![
                        name.clone(),
                        binding.world.get_ref().clone(),
                        found.description.version.clone(),
                        found.sha256[..12].to_owned(),
                        found.description.summary.clone(),
                    ],
                    Err(error) => vec![
                        name.clone(),
                        binding.world.get_ref().clone(),
                        "-".into(),
                        "-".into(),
                        format!("REFUSED: {}", error.message),
                    ],
                });
            }
            if global.json {
                let rows = rows
                    .iter()
                    .map(|r| json!({"policy": r[0], "world": r[1], "version": r[2], "sha256": r[3], "summary": r[4]}));
                output::json(&rows.collect())?;
            } else {
                output::table(&["policy", "world", "version", "sha256", "summary"], &rows)?;
            }
        }
        Verb::Inspect { module } => {
            // A name of the environment, unless a file is named.
            let (bytes, binding) = if Path::new(&module).is_file() {
                let bytes = std::fs::read(&module).map_err(|e| Error::new(Kind::Usage, format!("{module}: {e}")))?;
                (bytes, None)
            } else if module.contains(['/', '.']) {
                return Err(Error::new(Kind::PolicyRefused, format!("{}: no such file", identifier::shown(&module))));
            } else {
                let config = global.load()?;
                let environment = config.environment(global.env.as_deref())?;
                let binding = environment.policy(&module)?;
                (binding.read_module()?, Some(binding))
            };
            show(global, &inspect(&bytes)?, binding.as_ref())?;
        }
        Verb::Pack { module, description, output: path } => {
            let read = |path: &Path| {
                std::fs::read(path).map_err(|e| Error::new(Kind::Usage, format!("{}: {e}", path.display())))
            };
            let text = String::from_utf8(read(&description)?)
                .map_err(|_| Error::new(Kind::Configuration, format!("{} is not UTF-8", description.display())))?;
            let (component, inspected) = pack(&read(&module)?, &text).map_err(|e| e.context(module.display()))?;
            std::fs::write(&path, &component)
                .map_err(|e| Error::new(Kind::Failed, format!("{}: {e}", path.display())))?;
            let said = json!({"file": path, "sha256": inspected.sha256, "bytes": inspected.bytes, "policy": inspected.description.name});
            if global.json {
                output::json(&said)?;
            } else {
                output::line(&format!(
                    "{} {} {}",
                    path.display(),
                    output::bytes(inspected.bytes as u64),
                    inspected.sha256
                ))?;
            }
        }
    }
    Ok(0)
}

fn show(global: &Global, found: &Inspected, binding: Option<&PolicyBinding>) -> Result<()> {
    let description = &found.description;
    let grants: Vec<&str> = binding.iter().flat_map(|b| b.grants.iter().map(|g| g.get_ref().as_str())).collect();
    let granted = |call: &str| {
        let (interface, function) = call.split_once('.').unwrap_or_default();
        let parsed = grants.iter().filter_map(|line| engine::grants::Grant::parse(line).ok());
        parsed.into_iter().any(|g| g.interface == interface && (g.function == "*" || g.function == function))
    };
    if global.json {
        let imports: Vec<Value> = found
            .imports
            .iter()
            .map(|i| json!({
                "call": i.name, "destructive": i.destructive, "declared": description.capabilities.contains(&i.name),
                "granted": binding.is_some().then(|| granted(&i.name)),
            }))
            .collect();
        return output::json(&json!({
            "sha256": found.sha256, "bytes": found.bytes, "description": description, "imports": imports,
            "grants": binding.is_some().then_some(&grants), "limits": binding.map(|b| &b.limits),
        }));
    }
    output::line(&format!(
        "{} {} · world {} · {}",
        description.name,
        description.version,
        description.world,
        output::bytes(found.bytes as u64)
    ))?;
    output::line(&format!("sha256 {}", found.sha256))?;
    output::line(&identifier::shown_long(&description.summary))?;
    output::line("\nit can call (nothing else reaches it: no files, sockets, clock, environment or randomness):")?;
    let rows: Vec<_> = found
        .imports
        .iter()
        .map(|i| {
            let pure = engine::calls::find(&i.name).is_some_and(|c| c.class == Class::Pure);
            vec![
                format!("  {}", i.name),
                if i.destructive { "DESTRUCTIVE, takes an approval" } else { "" }.into(),
                match binding {
                    _ if pure => "harmless, always allowed".into(),
                    Some(_) if granted(&i.name) => "granted".into(),
                    Some(_) => "not granted: denied".into(),
                    None => String::new(),
                },
            ]
        })
        .collect();
    output::table(&["  call", "", if binding.is_some() { "here" } else { "" }], &rows)?;
    let unused: Vec<_> =
        description.capabilities.iter().filter(|c| !found.imports.iter().any(|i| i.name == **c)).collect();
    for capability in unused {
        output::line(&format!("  {capability} is declared, but not imported"))?;
    }
    if binding.is_some() {
        output::line("\ngrants:")?;
        for line in &grants {
            output::line(&format!("  {line}"))?;
        }
    }
    Ok(())
}
