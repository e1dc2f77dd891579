//! What the file's form can't say: names that must be names, references that must lead somewhere.

use host_api::bindings::{NamedQuery, ScratchPostgres, Service, Source, Store};
use host_api::identifier::check_name;

use super::{Config, EnvironmentBinding, PolicyBinding};
use crate::contract::contract;
use crate::error::{Error, Kind, Result};
use crate::grants::Grant;
use crate::policy::Reference;

/// A shorter lease is over before an act can have begun, a longer one is none.
const LEASE_S: std::ops::RangeInclusive<u64> = 10..=86_400;

impl Config {
    pub(super) fn check(&self) -> Result<()> {
        if self.file.environment.is_empty() {
            return Err(Error::new(Kind::Configuration, "no environment is configured")
                .hint("begin with [environment.NAME]; examples/ has some to copy"));
        }
        if let Some(name) = &self.file.default_environment
            && !self.file.environment.contains_key(name)
        {
            return Err(Error::unknown("environment", name, self.environments()).context("default-environment"));
        }
        self.check_state_database()?;
        if let Some(store) = &self.file.audit.checkpoint_store {
            let wrong = |e: host_api::Error| Error { kind: Kind::Configuration, ..e.into() };
            store.check().map_err(|e| wrong(e).context("audit: checkpoint-store"))?;
        }
        for (name, environment) in &self.file.environment {
            named("environment", name)?;
            environment.check().map_err(|e| e.context(format!("environment {name}")))?;
            self.check_places(environment).map_err(|e| e.context(format!("environment {name}")))?;
        }
        self.check_shared_stores()
    }

    /// A state that is restored with what it is to restore would forget what it does in the middle of it.
    fn check_state_database(&self) -> Result<()> {
        let Some(state) = &self.file.state_database else { return Ok(()) };
        let wrong = |why: String| Err(Error::new(Kind::Configuration, format!("state-database: {why}")));
        if !LEASE_S.contains(&state.lease_s) {
            return wrong(format!(
                "lease-s is {} to {} seconds, not {}",
                LEASE_S.start(),
                LEASE_S.end(),
                state.lease_s
            ));
        }
        for (environment, binding) in &self.file.environment {
            for (service, binding) in &binding.service {
                for (name, source) in &binding.source {
                    let Source::Postgres(source) = source else { continue };
                    if (&source.host, source.port, &source.database) == (&state.host, state.port, &state.database) {
                        return wrong(format!(
                            "{} is source {service}/{name} of environment {environment}; give the state a database of its own",
                            state.database
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    /// A source inside another, or inside what is ours, would be backed up twice and swapped away under itself.
    fn check_places(&self, environment: &EnvironmentBinding) -> Result<()> {
        let mut sources = Vec::new();
        let mut others = vec![("the state directory".to_owned(), self.file.state_directory.clone())];
        for (service, binding) in &environment.service {
            for (name, source) in &binding.source {
                match source {
                    Source::Sqlite(sqlite) => sources.push((format!("source {service}/{name}"), sqlite.path.clone())),
                    Source::Files(files) => sources.push((format!("source {service}/{name}"), files.path.clone())),
                    Source::Postgres(postgres) => {
                        if let Some(ScratchPostgres::Cluster(private)) = &postgres.scratch {
                            others.push((format!("private servers of {service}/{name}"), private.directory.clone()));
                        }
                    }
                }
            }
            if let Some(install) = &binding.install {
                others.push((format!("the versions of {service}"), install.directory.clone()));
            }
        }
        for (name, store) in &environment.store {
            others.extend(store.directory().map(|path| (format!("store {name}"), path.to_owned())));
        }
        if let Some(path) = self.file.audit.checkpoint_store.as_ref().and_then(Store::directory) {
            others.push(("the checkpoint store".to_owned(), path.to_owned()));
        }
        // As they are on disk, where they are there: a link may lead one into another.
        let real = |path: &std::path::Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        for (index, (what, path)) in sources.iter().enumerate() {
            let rest = sources[index + 1..].iter().chain(&others);
            for (other, other_path) in rest {
                let (path, other_path) = (real(path), real(other_path));
                if path.starts_with(&other_path) || other_path.starts_with(&path) {
                    return Err(Error::new(
                        Kind::Configuration,
                        format!(
                            "{what} and {other} lie in one another: {} and {}",
                            path.display(),
                            other_path.display()
                        ),
                    )
                    .hint("give each a place of its own"));
                }
            }
        }
        Ok(())
    }

    /// Backups lie under their service's name: two environments that share both could restore each other's.
    fn check_shared_stores(&self) -> Result<()> {
        let mut seen: Vec<(&str, &str, String)> = Vec::new();
        for (environment, binding) in &self.file.environment {
            for store in binding.store.values() {
                let place = store.place();
                for service in binding.service.keys() {
                    let shared = seen.iter().find(|(e, s, p)| e != environment && s == service && *p == place);
                    if let Some((other, ..)) = shared {
                        return Err(Error::new(
                            Kind::Configuration,
                            format!(
                                "environments {other} and {environment} keep backups of `{service}` in one place, {place}"
                            ),
                        )
                        .hint("one could restore the other's data: give each environment a directory or prefix of its own"));
                    }
                    seen.push((environment, service, place.clone()));
                }
            }
        }
        Ok(())
    }
}

impl EnvironmentBinding {
    fn check(&self) -> Result<()> {
        for (name, service) in &self.service {
            named("service", name)?;
            // `scratch/ENDPOINT` in a grant means instances in quarantine.
            if name == "scratch" {
                return Err(Error::new(Kind::Configuration, "a service can't be named `scratch`")
                    .hint("in grants, scratch/ENDPOINT stands for services in quarantine: choose another name"));
            }
            check_service(service).map_err(|e| e.context(format!("service {name}")))?;
        }
        for (name, store) in &self.store {
            named("store", name)?;
            let wrong = |e: host_api::Error| Error { kind: Kind::Configuration, ..e.into() };
            store.check().map_err(|e| wrong(e).context(format!("store {name}")))?;
        }
        self.check_same_stores()?;
        self.approval_rules()?;
        self.signing()?;
        self.encryption()?;
        self.modules.rule()?;
        for (service, rules) in &self.retention {
            if !self.service.contains_key(service) {
                return Err(
                    Error::unknown("service", service, self.service.keys().map(String::as_str)).context("retention")
                );
            }
            if let Some(store) = rules.store.keys().find(|store| !self.store.contains_key(*store)) {
                let stores = self.store.keys().map(String::as_str);
                return Err(Error::unknown("store", store, stores).context(format!("retention {service}")));
            }
            let wrong = |e: host_api::Error| Error { kind: Kind::Configuration, ..e.into() };
            rules.check().map_err(|e| wrong(e).context(format!("retention {service}")))?;
        }
        if let Some((place, _)) = self.kept.iter().find(|(_, words)| words.trim().is_empty()) {
            return Err(Error::new(Kind::Configuration, format!("kept: nothing is said of {place}"))
                .hint("say where it is kept besides, in words for whoever looks for it; or leave it out"));
        }
        for (name, policy) in &self.policy {
            named("policy", name)?;
            self.check_policy(policy).map_err(|e| e.context(format!("policy {name}")))?;
        }
        self.serve.check(&self.policy)
    }

    /// Two names for one place would pass for two copies of a backup, and there would be one.
    fn check_same_stores(&self) -> Result<()> {
        let mut seen: Vec<(&str, String)> = Vec::new();
        for (name, store) in &self.store {
            let place = store.place();
            if let Some((other, _)) = seen.iter().find(|(_, p)| *p == place) {
                return Err(Error::new(Kind::Configuration, format!("stores {other} and {name} are one place, {place}"))
                    .hint("what lies there is one copy, under whichever name: take one of them out, or give it a place of its own"));
            }
            seen.push((name, place));
        }
        Ok(())
    }

    fn check_policy(&self, policy: &PolicyBinding) -> Result<()> {
        let worlds = &contract().worlds;
        let world = policy.world.get_ref();
        let interfaces = worlds
            .get(world)
            .ok_or_else(|| Error::unknown("world", world, worlds.keys().map(String::as_str)).at(policy.world.span()))?;
        for line in &policy.grants {
            self.check_grant(line.get_ref(), world, interfaces).map_err(|e| e.at(line.span()))?;
        }
        if let Some(source) = &policy.source {
            let wrong = |e: Error| Error { kind: Kind::Configuration, ..e }.context("source");
            Reference::parse(source).map_err(wrong)?;
        }
        Ok(())
    }

    fn check_grant(&self, line: &str, world: &str, interfaces: &std::collections::BTreeSet<String>) -> Result<()> {
        let grant = Grant::parse(line)?;
        if !interfaces.contains(&grant.interface) {
            return Err(Error::new(
                Kind::Configuration,
                format!("grant `{line}`: world `{world}` does not hold {}", grant.interface),
            )
            .hint("remove the grant, or give the policy another world"));
        }
        let known = |what: &str, name: Option<&str>, valid: Vec<&str>| match name {
            Some(name) if !valid.contains(&name) => {
                Err(Error::unknown(what, name, valid).context(format!("grant `{line}`")))
            }
            _ => Ok(()),
        };
        known("service", grant.named("service"), self.service.keys().map(String::as_str).collect())?;
        let stores: Vec<&str> = self.store.keys().map(String::as_str).collect();
        known("store", grant.named("store"), stores.clone())?;
        known("store", grant.named("to"), stores)?;
        known("target", grant.named("target"), vec!["scratch", "beside"])?;
        known("method", grant.named("method"), vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"])?;
        let mut endpoints = Vec::new();
        for (service, binding) in &self.service {
            for name in binding.endpoint.keys() {
                endpoints.push(format!("{service}/{name}"));
                endpoints.push(format!("scratch/{name}"));
            }
        }
        known("endpoint", grant.named("endpoint"), endpoints.iter().map(String::as_str).collect())?;
        let mut queries: Vec<&str> = self.service.values().flat_map(|s| s.query.keys().map(String::as_str)).collect();
        queries.sort_unstable();
        queries.dedup();
        known("query", grant.named("query"), queries)?;
        known("policy", grant.named("policy"), self.policy.keys().map(String::as_str).collect())
    }
}

fn check_service(service: &Service) -> Result<()> {
    if service.source.is_empty() {
        return Err(Error::new(Kind::Configuration, "has no source: nothing of it would be backed up")
            .hint("add [environment.E.service.S.source.NAME] with kind = \"postgres\", \"sqlite\" or \"files\""));
    }
    for name in service.source.keys() {
        named("source", name)?;
    }
    service.check().map_err(|e| Error { kind: Kind::Configuration, ..e.into() })?;
    let database = |what: &str, source: &str| {
        let databases: Vec<&str> = service
            .source
            .iter()
            .filter(|(_, s)| !matches!(s, Source::Files(_)))
            .map(|(name, _)| name.as_str())
            .collect();
        match databases.contains(&source) {
            true => Ok(()),
            false => Err(Error::unknown("database source", source, databases).context(what.to_owned())),
        }
    };
    let queries: [(&str, &std::collections::BTreeMap<String, NamedQuery>); 3] =
        [("query", &service.query), ("known", &service.known), ("rerun", &service.rerun)];
    for (what, named_queries) in queries {
        for (name, query) in named_queries {
            named(what, name)?;
            database(&format!("{what} {name}"), &query.source)?;
        }
    }
    if let Some(newest) = &service.newest {
        database("newest", &newest.source)?;
    }
    for source in service.park.keys() {
        database("park", source)?;
    }
    for (name, reference) in &service.reference {
        named("reference", name)?;
        database(&format!("reference {name}"), &reference.source)?;
        if !matches!(service.source.get(&reference.files), Some(Source::Files(_))) {
            let files = service.source.iter().filter(|(_, s)| matches!(s, Source::Files(_))).map(|(n, _)| n.as_str());
            return Err(Error::unknown("files source", &reference.files, files).context(format!("reference {name}")));
        }
    }
    for name in service.endpoint.keys() {
        named("endpoint", name)?;
    }
    if let Some(ready) = &service.ready
        && !service.endpoint.contains_key(&ready.endpoint)
    {
        return Err(
            Error::unknown("endpoint", &ready.endpoint, service.endpoint.keys().map(String::as_str)).context("ready")
        );
    }
    if let Some(scratch) = &service.scratch {
        let sources = || service.source.keys().map(String::as_str);
        for source in scratch.layout.keys() {
            if !service.source.contains_key(source) {
                return Err(Error::unknown("source", source, sources()).context("scratch layout"));
            }
        }
        for path in scratch.layout.values() {
            let inside = path.components().all(|c| matches!(c, std::path::Component::Normal(_)));
            if !inside || path.as_os_str().is_empty() {
                return Err(Error::new(
                    Kind::Configuration,
                    format!("scratch layout: {} is not a plain relative path", path.display()),
                ));
            }
        }
        for source in scratch.quarantine.keys() {
            database("scratch quarantine", source)?;
        }
        for (name, query) in &scratch.unchanged {
            database(&format!("scratch unchanged {name}"), &query.source)?;
        }
    }
    Ok(())
}

fn named(what: &str, name: &str) -> Result<()> {
    check_name(what, name).map_err(|e| Error { kind: Kind::Configuration, ..e.into() })
}
