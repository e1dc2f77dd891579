//! What the templates of commands, environments and readiness stand for.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::bindings::{PostgresSource, Secret, Service, Source, fill};
use crate::child::Spec;
use crate::error::Result;
use crate::restore::Candidate;
use crate::sources::postgres::elsewhere;

/// Values by name, for [`fill`].
pub(crate) type Values = BTreeMap<String, String>;

/// Of the live service: `{version}` and `{current}` where a version is installed, `{place.SOURCE}`, and of a database on a server
/// `{host.SOURCE}`, `{port.SOURCE}` and `{user.SOURCE}`.
pub(crate) fn live(service: &Service) -> Values {
    let mut values = Values::new();
    if let Some((version, dir)) = service.install.as_ref().and_then(crate::versions::current) {
        values.insert("version".into(), version);
        values.insert("current".into(), dir.display().to_string());
    }
    for (name, source) in &service.source {
        let place = match source {
            Source::Postgres(pg) => pg.database.clone(),
            Source::Sqlite(sqlite) => sqlite.path.display().to_string(),
            Source::Files(files) => files.path.display().to_string(),
        };
        values.insert(format!("place.{name}"), place);
        if let Source::Postgres(postgres) = source {
            server(&mut values, name, postgres);
        }
    }
    values
}

fn server(values: &mut Values, name: &str, at: &PostgresSource) {
    values.insert(format!("host.{name}"), at.host.clone());
    values.insert(format!("port.{name}"), at.port.to_string());
    values.insert(format!("user.{name}"), at.user.clone());
}

/// Of an instance on a candidate, all but `{port}`: `{scratch}`, `{place.SOURCE}` and where its server is, and `{version}` and `{current}` where
/// a version is installed. `version`: an installed one; none: the live one.
pub(crate) fn scratch(
    service: &Service,
    candidate: &Candidate,
    directory: &std::path::Path,
    version: Option<&str>,
) -> Result<Values> {
    let mut values = Values::from([("scratch".to_owned(), directory.display().to_string())]);
    let installed = match (&service.install, version) {
        (Some(install), Some(version)) => {
            crate::versions::check_version(version)?;
            Some((version.to_owned(), crate::versions::directory(install, version)?))
        }
        (Some(install), None) => crate::versions::current(install),
        (None, Some(_)) => {
            return Err(crate::Error::invalid("this service has no versions to choose from")
                .hint("configure `install`, or start it without a version"));
        }
        (None, None) => None,
    };
    if let Some((version, dir)) = installed {
        values.insert("version".into(), version);
        values.insert("current".into(), dir.display().to_string());
    }
    for member in &candidate.members {
        values.insert(format!("place.{}", member.source), member.place.clone());
        if let Some(Source::Postgres(postgres)) = service.source.get(&member.source) {
            server(&mut values, &member.source, &elsewhere::of(postgres, member));
        }
    }
    Ok(values)
}

/// A command with its templates filled.
pub(crate) fn command(arguments: &[String], values: &Values) -> Result<Spec> {
    Ok(Spec::new(arguments.iter().map(|a| fill(a, values)).collect::<Result<Vec<_>>>()?))
}

/// A service's process: command and environment with their templates filled, and its secrets, read now.
pub(crate) fn process(
    arguments: &[String],
    environment: &BTreeMap<String, String>,
    secrets: &BTreeMap<String, Secret>,
    directory: Option<PathBuf>,
    values: &Values,
) -> Result<Spec> {
    let mut spec = command(arguments, values)?;
    spec.directory = directory;
    for (name, text) in environment {
        spec = spec.env(name, fill(text, values)?);
    }
    for (name, secret) in secrets {
        spec = spec.env(name, secret.read().map_err(|e| e.context(format!("secret {name}")))?);
    }
    Ok(spec)
}
