//! `lifeboat config`.

use clap::Subcommand;
use engine::Result;

use crate::{Global, output};

/// Verbs of `config`.
#[derive(Subcommand)]
pub enum Verb {
    /// Check the file and the modules it names.
    Validate,
    /// The configuration as it is understood: absolute paths, defaults filled in. Holds no secrets, as the file holds none.
    Show,
}

/// Runs the verb.
pub fn run(global: &Global, verb: Verb) -> Result<u8> {
    let config = global.load()?;
    match verb {
        Verb::Show => output::json(&config.shown()?)?,
        Verb::Validate => {
            for name in config.environments().map(str::to_owned).collect::<Vec<_>>() {
                let environment = config.environment(Some(&name))?;
                for (policy, binding) in &environment.binding.policy {
                    let context = format!("environment {name}: policy {policy}");
                    let admitted = environment.admit(policy, binding).map_err(|e| e.context(&context))?;
                    let found = admitted.inspected();
                    engine::run::check_world(found, policy, binding.world.get_ref())
                        .map_err(|e| e.context(&context))?;
                    engine::policy::validate_partial(&found.description, &binding.parameters)
                        .map_err(|e| e.context(&context))?;
                }
                environment.host()?;
                environment.check_signing()?;
                environment.check_encryption()?;
            }
            if global.json {
                output::json(&serde_json::json!({"valid": true, "file": config.path()}))?;
            } else {
                output::line(&format!("{}: valid", config.path().display()))?;
            }
        }
    }
    Ok(0)
}
