//! `lifeboat policy`: modules, without running them.

use std::path::PathBuf;

use clap::Subcommand;
use engine::Result;
use engine::error::{Error, Kind};
use engine::policy::pack;
use serde_json::json;

use crate::placing::Manner;
use crate::{Global, bundle, inspect, modules, output, project, registry, rehearsal};

/// Verbs of `policy`.
#[derive(Subcommand)]
pub enum Verb {
    /// The environment's policies.
    List,
    /// What a module says of itself, imports and is granted, who signed it, and what it used when it was run; nothing of it is run now.
    Inspect {
        /// A file, or a policy's name in the environment.
        module: String,
        /// Only its interface, as WIT.
        #[arg(long, conflicts_with = "json")]
        wit: bool,
    },
    /// What one module can do that another can't; nothing of either is run. Exit codes: 0 the same, 3 less, 12 more.
    Diff {
        /// A file, or a policy's name in the environment.
        before: String,
        /// The other.
        after: String,
    },
    /// Run a module on scenarios: answers that are written down, with no world behind it. Exit code 5: it came to something else.
    Test {
        /// The packed module.
        module: PathBuf,
        /// Scenarios: TOML with `parameters`, a `[[call]]` for each call with its `answer` or `error`, and what to `expect`.
        #[arg(required = true)]
        scenarios: Vec<PathBuf>,
    },
    /// Write what a run on record asked and was answered as a scenario, to be changed and tested with.
    Scenario {
        /// The run.
        run: String,
    },
    /// Run a module over what earlier runs were answered, and show where it would have gone another way. Exit code 5: it would.
    Replay {
        /// The packed module.
        module: PathBuf,
        /// The policy whose runs they are; otherwise the one of the module's own name.
        #[arg(long)]
        policy: Option<String>,
        /// These runs; otherwise the newest.
        #[arg(long, num_args = 1.., value_name = "RUN")]
        runs: Vec<String>,
        /// At most so many of the newest.
        #[arg(long, default_value_t = 10)]
        limit: u32,
    },
    /// Whether a module fits an environment: its world, its parameters there, its signatures. Exit code 12: it does not.
    Check {
        /// The packed module.
        module: PathBuf,
        /// The policy that it would be; otherwise the one of its own name.
        #[arg(long)]
        policy: Option<String>,
    },
    /// Make a key that modules are signed with: FILE, which has no password, and FILE.pub. `minisign -G` makes such keys too.
    Key {
        /// The secret key's file; made with mode 0600.
        file: PathBuf,
    },
    /// Sign a module, in minisign's format: MODULE.minisig, or MODULE.NAME.minisig for a further signature.
    Sign {
        /// The packed module.
        module: PathBuf,
        /// A secret key of minisign.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// A file with the key's password, if it has one.
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
        /// Whose signature it is, where there are several.
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Who has signed a module, and whether that is enough here.
    Verify {
        /// A file, or a policy's name in the environment.
        module: String,
    },
    /// Accept modules and grants as they are now: from then on the environment runs these and no others. What needs more than was accepted
    /// takes --accept. On record.
    Pin {
        /// Policies; all of the environment, if none is named.
        policies: Vec<String>,
        /// Accept also what needs more than before.
        #[arg(long)]
        accept: bool,
    },
    /// Write modules, their signatures and what was accepted of them into one file, for a site without a network. The same modules are the same
    /// bytes.
    Export {
        /// Policies of the environment.
        #[arg(required = true)]
        policies: Vec<String>,
        /// Where to write it; a file that is there is replaced.
        #[arg(long, short, value_name = "FILE")]
        output: PathBuf,
    },
    /// Put the modules of a bundle, with their signatures, where the environment has its policies of the same names, if it would let them run.
    /// Accepts nothing: shows what is different, and what to type.
    Import {
        /// The bundle.
        file: PathBuf,
        #[command(flatten)]
        manner: Manner,
    },
    /// Fetch a policy's module and its signatures from a registry, and put them where the environment has it, if it would let it run: there is no
    /// module there yet. Accepts nothing, as `import`. Only in builds with the feature `oci`.
    Add(registry::Asked),
    /// The same in the place of a module that is there. A module that a run under way began with stays.
    Update(registry::Asked),
    /// Make a project: a small policy that works, its test, and the contract that it is written against.
    New(project::New),
    /// Print the contract; or write it beside a description (wit/), narrowed to the calls that the description declares.
    Wit {
        /// The description, policy.toml.
        description: Option<PathBuf>,
        /// Write C bindings too (bindings/).
        #[arg(long, requires = "description")]
        c: bool,
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
pub async fn run(global: &Global, verb: Verb) -> Result<u8> {
    match verb {
        Verb::Inspect { module, wit } => return inspect::run(global, &module, wit).await,
        Verb::Diff { before, after } => return modules::diff(global, &before, &after),
        Verb::Test { module, scenarios } => return rehearsal::test(global, &module, &scenarios).await,
        Verb::Scenario { run } => return rehearsal::scenario(global, &run).await,
        Verb::Replay { module, policy, runs, limit } => {
            return rehearsal::replay(global, &module, policy.as_deref(), &runs, limit).await;
        }
        Verb::Check { module, policy } => return rehearsal::check(global, &module, policy.as_deref()),
        Verb::Export { policies, output } => return bundle::export(global, &policies, &output),
        Verb::Import { file, manner } => return bundle::import(global, &file, manner).await,
        Verb::Add(asked) => return registry::run(global, &asked, false).await,
        Verb::Update(asked) => return registry::run(global, &asked, true).await,
        Verb::New(new) => return project::new(global, &new),
        Verb::Wit { description, c } => return project::wit(description.as_deref(), c),
        Verb::Key { file } => return modules::key(global, &file),
        Verb::Sign { module, key, password_file, name } => {
            return modules::sign(global, &module, &key, password_file.as_deref(), name.as_deref());
        }
        Verb::Verify { module } => return modules::verify(global, &module),
        Verb::Pin { policies, accept } => return modules::pin(global, policies, accept).await,
        Verb::List => {
            let config = global.load()?;
            let environment = config.environment(global.env.as_deref())?;
            let mut rows = Vec::new();
            for (name, binding) in &environment.binding.policy {
                let state = environment.admit(name, binding).map(|admitted| admitted.inspected().clone());
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
        Verb::Pack { module, description, output: path } => {
            let text = String::from_utf8(modules::read_file(&description)?)
                .map_err(|_| Error::new(Kind::Configuration, format!("{} is not UTF-8", description.display())))?;
            let (component, inspected) =
                pack(&modules::read_file(&module)?, &text).map_err(|e| e.context(module.display()))?;
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
