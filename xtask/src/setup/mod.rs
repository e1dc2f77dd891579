//! What has to be on the machine: a compiler for guests, PostgreSQL, stock tools, the reference service, what makes
//! policies of other languages, an S3 and an Azure Blob Storage for tests.

mod azurite;
mod debian;
pub mod guests;
mod kneo;
pub mod languages;
mod moto;
mod node;
mod postgres;
mod python;
mod s3s;
mod stamp;
mod tools;

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::Result;

use crate::command::Run;
use crate::workspace::Workspace;

/// The services tests run against.
pub struct Services {
    postgres: postgres::Postgres,
    newer_postgres: Option<PathBuf>,
    kneo: kneo::Kneo,
    moto: Option<PathBuf>,
    azurite: Option<PathBuf>,
    languages: Vec<(&'static str, OsString)>,
    languages_skipped: Vec<&'static str>,
}

/// Finds or installs the services.
///
/// # Errors
///
/// If PostgreSQL, a stock tool or a package of the reference service can't be had. A missing Python for the
/// reference service is no error: see [`Services::skipped`].
pub fn services(workspace: &Workspace) -> Result<Services> {
    tools::find_or_install()?;
    let postgres = postgres::find_or_install(workspace)?;
    let newer_postgres = postgres::find_newer(workspace, &postgres);
    let languages = languages::find_or_install(workspace)?;
    Ok(Services {
        postgres,
        newer_postgres,
        kneo: kneo::find_or_install(workspace)?,
        moto: moto::find_or_install(workspace)?,
        azurite: azurite::find_or_install(workspace)?,
        languages: languages.variables(workspace),
        languages_skipped: languages.skipped(),
    })
}

/// PostgreSQL alone.
///
/// # Errors
///
/// If it can't be had.
pub fn postgres(workspace: &Workspace) -> Result<postgres::Postgres> {
    postgres::find_or_install(workspace)
}

/// The program of an S3 for measuring.
///
/// # Errors
///
/// If it can't be had.
pub fn s3s(workspace: &Workspace) -> Result<PathBuf> {
    s3s::find_or_install(workspace)
}

impl Services {
    /// The variables by which tests find the services.
    pub fn variables(&self) -> Vec<(&'static str, OsString)> {
        let mut variables = vec![("LIFEBOAT_PG_BIN", self.postgres.bin.clone().into())];
        if let Some(bin) = &self.newer_postgres {
            variables.push(("LIFEBOAT_PG_BIN_NEWER", bin.into()));
        }
        if let Some(user) = &self.postgres.user {
            variables.push(("LIFEBOAT_PG_USER", user.into()));
        }
        if let kneo::Kneo::At(folder) = &self.kneo {
            variables.push(("LIFEBOAT_KNEO", folder.into()));
        }
        if let Some(folder) = &self.moto {
            variables.push(("LIFEBOAT_MOTO", folder.into()));
        }
        if let Some(folder) = &self.azurite {
            variables.push(("LIFEBOAT_AZURITE", folder.into()));
        }
        variables.extend(self.languages.iter().cloned());
        variables
    }

    /// What can't be tested here, and why.
    pub fn skipped(&self) -> Vec<&'static str> {
        let kneo = matches!(self.kneo, kneo::Kneo::NoPython).then_some(kneo::NO_PYTHON);
        let moto = self.moto.is_none().then_some(moto::NO_PYTHON);
        let azurite = self.azurite.is_none().then_some(azurite::NO_NODE);
        kneo.into_iter().chain(moto).chain(azurite).chain(self.languages_skipped.iter().copied()).collect()
    }

    /// Prints the variables as lines for a shell: `eval "$(cargo xtask setup)"`.
    pub fn print(&self) {
        for (key, value) in self.variables() {
            println!("export {key}='{}'", value.display());
        }
    }
}

/// Whether packages may be installed and PostgreSQL refuses to run as us.
fn is_root() -> Result<bool> {
    Ok(Run::new("id").arg("-u").output()? == "0")
}
