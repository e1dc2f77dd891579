//! Every kind of state of an environment with its mechanism and newest backup, and what must be there though no backup holds it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use host_api::bindings::{Secret, Source};
use host_api::checks::{Measure, Seen, Stocked};
use serde::Serialize;

use super::around::Around;
use crate::error::{Error, Kind, Result};

/// Everything.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Inventory {
    /// What is backed up.
    pub sources: Vec<SourceItem>,
    /// What is not, and must be there.
    pub outside: Vec<OutsideItem>,
}

/// A source of a service.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SourceItem {
    /// The service.
    pub service: String,
    /// The source.
    pub source: String,
    /// How it is backed up.
    pub mechanism: &'static str,
    /// The newest backup that holds it, if one does.
    pub newest: Option<Newest>,
    /// Whether the newest backup of the service holds it; none where no store could be read.
    pub covered: Option<bool>,
}

/// A backup.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Newest {
    /// Its id.
    pub backup: String,
    /// Stores that have it.
    pub stores: Vec<String>,
    /// When, Unix milliseconds.
    pub taken_at_ms: u64,
}

/// Something that no backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OutsideItem {
    /// What it is.
    pub what: String,
    /// The service that needs it; none: the environment as a whole.
    pub service: Option<String>,
    /// Where it is: a path, `$NAME` for a variable, `role NAME` for what a server has of a role.
    pub place: String,
    /// Whether it is there; none where that can't be seen from here.
    pub there: Option<bool>,
    /// Where it is kept besides, by the environment's `kept`.
    pub kept: Option<String>,
}

fn mechanism(source: &Source) -> &'static str {
    match source {
        Source::Postgres(_) => "pg_dump of one snapshot, every table locked",
        Source::Sqlite(_) => "SQLite's backup API",
        Source::Files(_) => "tar, after the databases",
    }
}

/// The whole inventory. What hangs is an error: half an inventory would pass for one.
pub(super) async fn take(around: &Arc<Around>) -> Result<Inventory> {
    let mut sources = Vec::new();
    for service in around.binding().service.keys() {
        sources.extend(sources_of(around, service).await);
    }
    let this = around.clone();
    let outside = tokio::task::spawn_blocking(move || outside_items(&this));
    let outside = tokio::time::timeout(around.limit, outside).await;
    let late = |why: &str| Error::new(Kind::Failed, format!("what no backup holds can't be listed: {why}"));
    let outside = outside.map_err(|_| late("a path does not answer"))?.map_err(|_| late("a bug"))?;
    Ok(Inventory { sources, outside })
}

async fn sources_of(around: &Around, service: &str) -> Vec<SourceItem> {
    let stock = around.stock(service).await;
    let known = stock.unread().len() < stock.stores.len();
    let newest = stock.newest();
    let holds = |stocked: &&Stocked, source: &String| stocked.backup.sources.contains(source);
    let Ok(binding) = around.service(service) else { return Vec::new() };
    binding
        .source
        .iter()
        .map(|(source, of)| {
            let with_it = stock.all().filter(|s| holds(s, source)).max_by_key(|s| (s.backup.taken_at_ms, &s.backup.id));
            let newest_of = with_it.map(|with_it| Newest {
                backup: with_it.backup.id.clone(),
                stores: stock
                    .all()
                    .filter(|s| s.backup.id == with_it.backup.id)
                    .map(|s| s.backup.store.clone())
                    .collect(),
                taken_at_ms: with_it.backup.taken_at_ms,
            });
            SourceItem {
                service: service.to_owned(),
                source: source.clone(),
                mechanism: mechanism(of),
                newest: newest_of,
                covered: known.then(|| newest.is_some_and(|newest| holds(&newest, source))),
            }
        })
        .collect()
}

/// The newest backup holds every source that is configured: one that was added since is in none.
pub(super) async fn sources(around: &Around, service: &str) -> Seen {
    of_sources(&sources_of(around, service).await)
}

pub(super) fn of_sources(items: &[SourceItem]) -> Seen {
    let missing: Vec<&str> = items.iter().filter(|i| i.covered == Some(false)).map(|i| i.source.as_str()).collect();
    if !missing.is_empty() {
        return Seen::critical(
            format!("not in the newest backup: source {}", missing.join(", ")),
            "take a new backup: a set with a source missing can't be restored",
        );
    }
    match items.iter().any(|item| item.covered.is_none()) {
        true => Seen::unknown("no store could be read", "see backup.catalog"),
        false => Seen::ok(format!("sources in the newest backup: {}, all", items.len())),
    }
}

/// What must be there though no backup holds it is there, and somebody has said where it is kept besides.
pub(super) async fn outside(around: &Arc<Around>) -> Seen {
    let this = around.clone();
    match tokio::task::spawn_blocking(move || outside_items(&this)).await {
        Ok(items) => of_outside(&items),
        Err(_) => Seen::unknown("a bug: the inventory came to no end", "report it"),
    }
}

pub(super) fn of_outside(items: &[OutsideItem]) -> Seen {
    let named = |item: &OutsideItem| format!("{} ({})", item.what, item.place);
    let missing: Vec<String> = items.iter().filter(|item| item.there == Some(false)).map(named).collect();
    let uncovered: Vec<String> = items.iter().filter(|item| item.kept.is_none()).map(named).collect();
    let measures =
        [Measure::new("missing", missing.len() as f64, ""), Measure::new("uncovered", uncovered.len() as f64, "")];
    let kept =
        "say where each is kept besides in [environment.E.kept], or keep it; `lifeboat check --inventory` lists all";
    let seen = match (missing.is_empty(), uncovered.is_empty()) {
        (false, _) => Seen::critical(
            format!("must be there, no backup holds it, and is missing: {}", missing.join("; ")),
            "put it back from where it is kept",
        ),
        (true, false) => Seen::warning(
            format!("no backup holds these, and nothing says where else they are kept: {}", uncovered.join("; ")),
            kept,
        ),
        (true, true) => Seen::ok(format!("what no backup holds is there, and kept elsewhere as well: {}", items.len())),
    };
    measures.into_iter().fold(seen, Seen::with)
}

/// What no backup of the environment holds, each once.
fn outside_items(around: &Around) -> Vec<OutsideItem> {
    let binding = around.binding();
    let mut items = Items { kept: &binding.kept, found: Vec::new() };
    items.path("the configuration", None, around.config.path());
    for (name, policy) in &binding.policy {
        items.path(&format!("module of policy {name}"), None, &policy.module);
    }
    for (name, approver) in &binding.approver {
        if let Some(file) = &approver.key_file {
            items.path(&format!("public key of approver {name}"), None, file.get_ref());
        }
    }
    let directory = around.config.state_directory();
    match around.config.state_database() {
        Some(state) => {
            let place = format!("database {} on {}:{}", state.database, state.host, state.port);
            items.add("the log and the state of runs".into(), None, place, None);
            items.role(None, &state.user, &format!("{}:{}", state.host, state.port));
            if let Some(password) = &state.password {
                items.secret("state-database: password", None, password);
            }
            if let Some(roots) = &state.ssl_root_cert {
                items.path("state-database: TLS roots", None, roots);
            }
        }
        // Before the first run there is none, and nothing to lose.
        None if !directory.join("state.sqlite").exists() => {}
        None => items.path("the log and the state of runs", None, &directory.join("state.sqlite")),
    }
    if directory.join("keys").exists() {
        items.path("signing keys of the log", None, &directory.join("keys"));
    }
    if let Some(encryption) = &binding.encryption {
        if let Some(identity) = &encryption.identity {
            items.secret("private key of backups", None, identity);
        }
        for recipient in &encryption.recipients {
            let what = "private key of backups, of this public one".to_owned();
            items.add(what, None, recipient.get_ref().clone(), None);
        }
    }
    for (name, store) in &binding.store {
        for (what, secret) in store.secrets() {
            items.secret(&format!("store {name}: {what}"), None, secret);
        }
        if let Some(roots) = store.ca_file() {
            items.path(&format!("store {name}: TLS roots"), None, roots);
        }
    }
    for (name, service) in &binding.service {
        for (what, secret) in service.secrets() {
            items.secret(&what, Some(name), secret);
        }
        for (what, path) in service.tls_files() {
            items.path(&what, Some(name), path);
        }
        for source in service.source.values() {
            if let Source::Postgres(postgres) = source {
                items.role(Some(name), &postgres.user, &format!("{}:{}", postgres.host, postgres.port));
            }
        }
        if let Some(install) = &service.install {
            items.path("installed versions", Some(name), &install.directory);
        }
    }
    let known: Vec<String> = items.found.iter().map(|item| item.place.clone()).collect();
    for place in binding.kept.keys() {
        // What only the environment's own list names: modules of a service, specifications, its configuration.
        let covers = |known: &String| known == place || Path::new(known).starts_with(place);
        if place.starts_with('/') && !known.iter().any(covers) {
            items.path("named in `kept`", None, Path::new(place));
        }
    }
    items.found
}

struct Items<'a> {
    kept: &'a BTreeMap<String, String>,
    found: Vec<OutsideItem>,
}

impl Items<'_> {
    fn add(&mut self, what: String, service: Option<&String>, place: String, there: Option<bool>) {
        // The nearest that covers it.
        let covering = |key: &&String| **key == place || key.starts_with('/') && Path::new(&place).starts_with(key);
        let kept = self.kept.keys().filter(covering).max_by_key(|key| key.len()).and_then(|key| self.kept.get(key));
        let item = OutsideItem { what, service: service.cloned(), place, there, kept: kept.cloned() };
        let same = |other: &OutsideItem| other.place == item.place && other.service == item.service;
        match self.found.iter_mut().find(|other| same(other)) {
            Some(other) => other.what = format!("{}, {}", other.what, item.what),
            None => self.found.push(item),
        }
    }

    fn path(&mut self, what: &str, service: Option<&String>, path: &Path) {
        let there = std::fs::metadata(path).is_ok();
        self.add(what.to_owned(), service, path.display().to_string(), Some(there));
    }

    fn secret(&mut self, what: &str, service: Option<&String>, secret: &Secret) {
        match (&secret.file, &secret.env) {
            (Some(file), _) => self.path(what, service, file),
            (None, Some(name)) => {
                let there = std::env::var_os(name).is_some();
                self.add(what.to_owned(), service, format!("${name}"), Some(there));
            }
            // What the command asks is where it is kept; the command itself is among what must be there.
            (None, None) => {
                if let Some(program) = secret.command.iter().flatten().next() {
                    self.add(what.to_owned(), service, program.clone(), None);
                }
            }
        }
    }

    /// A dump has the names of roles and nothing else of them. Whether a role is there shows when it connects.
    fn role(&mut self, service: Option<&String>, user: &str, server: &str) {
        self.add(format!("role, its password and rights on {server}"), service, format!("role {user}"), None);
    }
}

/// Keys of `kept` as they are compared: paths absolute, the others as they are.
pub(crate) fn anchored(kept: &BTreeMap<String, String>, base: &Path) -> BTreeMap<String, String> {
    let place = |key: &str| match key.starts_with('$') || key.starts_with("role ") || key.starts_with("database ") {
        true => key.to_owned(),
        false => plain(&base.join(key)).display().to_string(),
    };
    kept.iter().map(|(key, words)| (place(key), words.clone())).collect()
}

/// Without `.` in it and without a slash at its end.
fn plain(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
}
