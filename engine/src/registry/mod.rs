//! Modules from a registry of OCI artifacts, by digest: what a person asks for by `policy add` and `policy update`, and nothing else does.
//!
//! | file | what |
//! | --- | --- |
//! | `client.rs` | requests: where they may go, how long an answer may be, who is told the password |
//! | `challenge.rs` | what a registry says of how to log in |
//! | `login.rs` | names and passwords as the file of Docker, Podman and ORAS holds them |
//! | `manifest.rs` | which blobs an artifact has, and whether it is one of a module |
//!
//! Nothing that a registry answers is believed: the manifest must have the digest that was asked for, each blob the digest and size that the
//! manifest says, and whoever signed the module is judged where every other module is judged.

mod challenge;
mod client;
mod login;
mod manifest;

use std::collections::BTreeMap;
use std::time::Duration;

pub use login::Login;
pub use manifest::{MODULE_TYPE, SIGNATURE_TYPE};

use crate::error::{Error, Kind, Result};
use crate::policy::Reference;

/// A module of the largest size over a slow line, and a registry that never ends.
pub const PATIENCE: Duration = Duration::from_secs(15 * 60);

/// A module as a registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// The component.
    pub module: Vec<u8>,
    /// Signatures by whose they are: empty for `MODULE.minisig`, `NAME` for `MODULE.NAME.minisig`.
    pub signatures: BTreeMap<String, Vec<u8>>,
}

/// Fetches an artifact. `login`: whom the registry knows us as, if anyone; `patience`: how long all of it may take.
///
/// # Errors
///
/// [`Kind::Failed`] where the registry can't be reached or does not let us in, [`Kind::PolicyRefused`] where what it answers is not what was asked for.
pub async fn fetch(reference: &Reference, login: Option<Login>, patience: Duration) -> Result<Artifact> {
    let work = async {
        let mut registry = client::Registry::new(reference, login)?;
        let contents = manifest::read(&registry.manifest().await?)?;
        let module = registry.blob("the module", &contents.module).await?;
        let mut signatures = BTreeMap::new();
        for (name, blob) in &contents.signatures {
            signatures.insert(name.clone(), registry.blob("a signature", blob).await?);
        }
        Ok(Artifact { module, signatures })
    };
    let late = || Error::new(Kind::Failed, format!("it was not over within {} s", patience.as_secs()));
    tokio::time::timeout(patience, work)
        .await
        .unwrap_or_else(|_| Err(late()))
        .map_err(|e| e.context(format!("{}/{}", reference.host, reference.repository)))
}

/// What a registry answered is not taken.
fn refused(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::PolicyRefused, format!("the registry's answer is refused: {why}"))
}
