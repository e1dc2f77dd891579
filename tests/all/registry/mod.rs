//! Modules from a registry of OCI artifacts: what a hostile one may try, who is told a password, and the whole way by the command line.

mod login;
mod placed;
mod real;
mod refused;

use std::time::Duration;

use engine::Result;
use engine::policy::Reference;
use engine::registry::{Artifact as Fetched, Login, fetch};

use crate::support::registry::{Answer, Artifact, Asked, Registry};

/// Longer than any of these takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// Fetches an artifact as the library does for the command line.
fn fetched(registry: &Registry, sha256: &str, login: Option<Login>, patience: Duration) -> Result<Fetched> {
    let reference = Reference::parse(&registry.reference(sha256))?;
    tokio::runtime::Runtime::new().unwrap().block_on(fetch(&reference, login, patience))
}

/// An artifact that is fetched is what was pushed.
fn artifact() -> Artifact {
    Artifact::new(b"a module", &[(".minisig", b"one signature"), (".security.minisig", b"another signature")])
}

/// A registry that answers some things otherwise than an honest one.
fn otherwise(artifact: &Artifact, answer: impl Fn(&Asked) -> Option<Answer> + Send + Sync + 'static) -> Registry {
    let honest = artifact.clone();
    Registry::start(move |asked| answer(asked).unwrap_or_else(|| honest.answer(asked)))
}
