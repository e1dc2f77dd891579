//! `lifeboat policy add|update`: a module from a registry of OCI artifacts, where the environment has its policy. Nothing else asks a registry.

use std::path::{Path, PathBuf};

use clap::Args;
use engine::Result;
use engine::config::{Environment, PolicyBinding};
use engine::error::{Error, Kind};
use engine::policy::Reference;
use host_api::identifier::shown;
use serde_json::json;

use crate::placing::{self, Brought};
use crate::{Global, output};

/// What is asked for.
#[derive(Args)]
pub struct Asked {
    /// The policy's name in the environment.
    policy: String,
    /// oci://HOST/REPOSITORY@sha256:DIGEST; without it, the policy's `source` in the configuration.
    reference: Option<String>,
    /// Names and passwords of registries: a config.json as `docker login`, `podman login` and `oras login` write it. Without it nobody is told who asks.
    #[arg(long, value_name = "FILE", env = "REGISTRY_AUTH_FILE")]
    auth_file: Option<PathBuf>,
    #[command(flatten)]
    manner: placing::Manner,
}

/// Fetches it and puts it in place; `replaces`: of a module that is there.
pub async fn run(global: &Global, asked: &Asked, replaces: bool) -> Result<u8> {
    if !cfg!(feature = "oci") {
        return Err(Error::new(Kind::Usage, "this build of lifeboat can't ask registries").hint(
            "one that can: cargo build --release --package lifeboat-engine --features oci; or bring the file: `lifeboat policy import`",
        ));
    }
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let binding = placing::binding(&environment, &asked.policy)?;
    let reference = chosen(&environment, asked, &binding)?;
    let module = binding.module.display();
    // Also a link that leads nowhere: something put it there.
    match (std::fs::symlink_metadata(&binding.module).is_ok(), replaces) {
        (true, false) => {
            let error = Error::new(Kind::Usage, format!("there is a module already: {module}"));
            return Err(error.hint(format!("in its place: lifeboat policy update {}", asked.policy)));
        }
        (false, true) => {
            let error = Error::new(Kind::Usage, format!("there is no module yet: {module}"));
            return Err(error.hint(format!("lifeboat policy add {}", asked.policy)));
        }
        _ => {}
    }
    let brought = fetched(asked.policy.clone(), &reference, asked.auth_file.as_deref()).await?;
    let placed = placing::place(&config, &environment, vec![brought], asked.manner).await?;
    let source = reference.to_string();
    if global.json {
        return output::json(&json!({"placed": !asked.manner.dry_run, "source": source, "modules": placed.json()}))
            .map(|()| 0);
    }
    placed.tell()?;
    if binding.source.is_none() {
        let place = format!("[environment.{}.policy.{}]", environment.name, asked.policy);
        output::line(&format!("  where it is from is kept nowhere; to keep it, in {place}: source = \"{source}\""))?;
    }
    if asked.manner.dry_run {
        output::line("nothing was written")?;
    }
    Ok(0)
}

/// What was typed, or what the configuration says; both only if they say the same.
fn chosen(environment: &Environment<'_>, asked: &Asked, binding: &PolicyBinding) -> Result<Reference> {
    let place = format!("[environment.{}.policy.{}]", environment.name, asked.policy);
    let configured = binding.source.as_deref().map(Reference::parse).transpose()?;
    let typed = asked.reference.as_deref().map(Reference::parse).transpose()?;
    match (typed, configured) {
        (Some(typed), Some(configured)) if typed != configured => Err(Error::new(
            Kind::Usage,
            format!("the configuration says another one: {}", shown(&configured.to_string())),
        )
        .hint(format!("change source in {place} first: what is there should be what it says"))),
        (Some(reference), _) | (None, Some(reference)) => Ok(reference),
        (None, None) => Err(Error::new(Kind::Usage, "which one?")
            .hint(format!("oci://HOST/REPOSITORY@sha256:DIGEST, here or as source in {place}"))),
    }
}

#[cfg(feature = "oci")]
async fn fetched(policy: String, reference: &Reference, auth_file: Option<&Path>) -> Result<Brought> {
    use engine::registry::{Login, PATIENCE, fetch};
    let login = auth_file.map(|file| Login::read(file, reference)).transpose()?;
    let artifact = fetch(reference, login, PATIENCE).await?;
    Ok(Brought { policy, module: artifact.module, signatures: artifact.signatures, granted_there: Default::default() })
}

/// Nobody comes here: without the feature nothing is asked for.
#[cfg(not(feature = "oci"))]
async fn fetched(_: String, _: &Reference, _: Option<&Path>) -> Result<Brought> {
    Err(Error::new(Kind::Usage, "this build of lifeboat can't ask registries"))
}
