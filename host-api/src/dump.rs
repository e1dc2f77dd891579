//! Taking backups.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::Finding;
use crate::bindings::Right;
use crate::catalog::{Backup, manifests};
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::identifier::{fresh, fresh_at, now_ms};
use crate::manifest::{FORMAT, Manifest, SourceFacts, SourceManifest};
use crate::pipeline::StoreSink;
use crate::real::{RealHost, blocking};
use crate::reference::SharedIndex;
use crate::sources::Answers;
use crate::stores::{ObjectStore, check_key};
use crate::work::Work;
use crate::{questions, reference, versions};

/// Longest label, bytes.
const LABEL_BYTES_MAX: usize = 64;

/// How to take one: the contract's `dump.options`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Options {
    /// A word for people; at most 64 bytes.
    pub label: Option<String>,
}

/// Taking backups.
#[async_trait]
pub trait Dump: Send + Sync {
    /// Takes one backup of all sources of a service, databases first, files after. It exists when this answers, and not before.
    async fn take(&self, cx: &StepContext, service: &str, store: &str, options: &Options) -> Result<Backup>;
}

#[async_trait]
impl Dump for RealHost {
    async fn take(&self, cx: &StepContext, service: &str, store: &str, options: &Options) -> Result<Backup> {
        let (work, store, cx, options) = (self.work(service)?, self.store(cx, store)?, cx.clone(), options.clone());
        blocking(move || take(&work, &cx, &store, &options)).await
    }
}

/// Takes a backup. Whatever fails, no manifest was written: what was stored so far counts for nothing, and a sweep removes it.
pub(crate) fn take(work: &Work, cx: &StepContext, store: &Arc<ObjectStore>, options: &Options) -> Result<Backup> {
    take_of(work, cx, store, options, None)
}

/// What is backed up was not live now: since when it is what it is, and what to say of it.
pub(crate) struct Imported {
    /// Unix milliseconds; the backup sorts by it.
    pub(crate) taken_at_ms: u64,
    /// Findings that the manifest begins with.
    pub(crate) findings: Vec<Finding>,
}

/// The same, of live data or of what was imported.
pub(crate) fn take_of(
    work: &Work,
    cx: &StepContext,
    store: &Arc<ObjectStore>,
    options: &Options,
    imported: Option<Imported>,
) -> Result<Backup> {
    cx.check()?;
    check_label(options.label.as_deref())?;
    questions::check(&work.service)?;
    check_key(&cx.attempt_key())?;
    let order = work.service.dump_order();
    if order.is_empty() {
        return Err(Error::invalid(format!("service {} has no sources", work.name)));
    }
    // All of them before any of them: a dump of hours should not end at the second source's missing tool, or at a key that can't be read.
    let signer = work.signing.signer(FORMAT)?;
    store.require(Right::Write)?;
    store.check()?;
    for source in &order {
        work.driver(source)?.check(cx).map_err(|e| e.context(format!("{}/{source}", work.name)))?;
    }

    let id = imported.as_ref().map_or_else(fresh, |imported| fresh_at(imported.taken_at_ms));
    // Which version wrote what was imported, nobody knows.
    let version = match &imported {
        Some(_) => None,
        None => work.service.install.as_ref().and_then(versions::current).map(|(version, _)| version),
    };
    let taken_at_ms = imported.as_ref().map(|imported| imported.taken_at_ms);
    let mut findings = imported.map(|imported| imported.findings).unwrap_or_default();
    let (mut sources, mut answers) = (Vec::new(), Answers::new());
    let mut indexes = BTreeMap::new();
    for source in order {
        // Names of files are kept in memory only where something is compared with them.
        let index = work.service.reference.values().any(|of| of.files == *source).then(SharedIndex::default);
        let (manifest, answered, found) = dump_source(work, cx, store, &id, source, index.as_ref())
            .map_err(|e| e.context(format!("dump {}/{source}", work.name)))?;
        indexes.extend(index.map(|index| (source.clone(), index)));
        cx.at(&format!("dumped {source}"));
        sources.push(manifest);
        answers.extend(answered);
        findings.extend(found);
    }

    let (known, newest_at_ms) = read_answers(work, &answers, &mut findings);
    check_references(work, &indexes, &answers, &mut findings)?;
    check_emptiness(work, &sources, &mut findings);
    let manifest = Manifest {
        format: FORMAT.into(),
        id,
        service: work.name.clone(),
        label: options.label.clone(),
        tool: concat!("lifeboat ", env!("CARGO_PKG_VERSION")).into(),
        attempt: cx.attempt_key(),
        taken_at_ms: taken_at_ms
            .or_else(|| sources.iter().map(|source| source.started_at_ms).min())
            .unwrap_or_default(),
        completed_at_ms: sources.iter().map(|source| source.completed_at_ms).max().unwrap_or_default(),
        newest_at_ms,
        version,
        encryption: work.encryption.sealed(),
        sources,
        known,
        findings,
    };
    cx.at("before the manifest");
    let digest = manifests::write(cx, store, &manifest, signer.as_ref(), &work.state_dir)?;
    cx.at("manifest written");
    Ok(manifests::backup(&manifest, &digest, store.name()))
}

fn check_label(label: Option<&str>) -> Result<()> {
    match label {
        Some(label) if label.is_empty() || label.len() > LABEL_BYTES_MAX || label.chars().any(char::is_control) => {
            Err(Error::invalid(format!("a label is 1 to {LABEL_BYTES_MAX} bytes of text without control characters")))
        }
        _ => Ok(()),
    }
}

fn dump_source(
    work: &Work,
    cx: &StepContext,
    store: &Arc<ObjectStore>,
    backup: &str,
    source: &str,
    index: Option<&SharedIndex>,
) -> Result<(SourceManifest, Answers, Vec<Finding>)> {
    cx.check()?;
    let sink = StoreSink {
        store: store.clone(),
        prefix: format!("{}{}", manifests::objects_prefix(&work.name, backup), cx.attempt_key()),
        source: source.to_owned(),
        cx: cx.clone(),
        index: index.cloned(),
        encryption: work.encryption.clone(),
    };
    let dumped = work.driver(source)?.dump(cx, &sink, &questions::of_source(&work.service, source))?;
    if dumped.objects.is_empty() {
        return Err(Error::failed("a bug: the driver stored nothing"));
    }
    let manifest = SourceManifest {
        name: source.to_owned(),
        started_at_ms: dumped.started_at_ms,
        completed_at_ms: now_ms(),
        objects: dumped.objects,
        facts: dumped.facts,
    };
    Ok((manifest, dumped.answers, dumped.findings))
}

/// Known records and the newest record's time. What can't be read is a finding: a backup is worth more than a query.
fn read_answers(
    work: &Work,
    answers: &Answers,
    findings: &mut Vec<Finding>,
) -> (BTreeMap<String, String>, Option<u64>) {
    let mut known = BTreeMap::new();
    for name in work.service.known.keys() {
        match questions::known(answers, name) {
            Ok(value) => drop(known.insert(name.clone(), value)),
            Err(finding) => findings.push(finding),
        }
    }
    let newest = work
        .service
        .newest
        .as_ref()
        .and_then(|_| questions::newest(answers).map_err(|finding| findings.push(finding)).ok());
    (known, newest)
}

fn check_references(
    work: &Work,
    indexes: &BTreeMap<String, SharedIndex>,
    answers: &Answers,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    for (name, reference) in &work.service.reference {
        let rows = answers.get(&questions::reference_key(name)).ok_or_else(|| {
            Error::failed(format!("a bug: reference {name} was not asked of source {}", reference.source))
        })?;
        let index = indexes
            .get(&reference.files)
            .ok_or_else(|| Error::unknown("source", &reference.files, work.service.source.keys()))?;
        let compared = index.read(|files| reference::compare(name, reference, rows, files));
        findings.extend(compared.map_err(|e| e.context(format!("the index of source {}", reference.files)))?);
    }
    Ok(())
}

fn check_emptiness(work: &Work, sources: &[SourceManifest], findings: &mut Vec<Finding>) {
    for source in sources {
        if content(&source.facts) == 0 {
            findings.push(Finding::warning(
                "empty-source",
                format!("source {} holds no row and no file", source.name),
                "check that the configuration names the right one",
            ));
        }
    }
    if sources.iter().all(|source| content(&source.facts) == 0) {
        findings.push(Finding::warning(
            "empty-backup",
            format!("nothing at all was found in the sources of service {}", work.name),
            "check that the configuration names the right ones: this backup proves nothing",
        ));
    }
}

/// Rows and files in a source.
pub(crate) fn content(facts: &SourceFacts) -> u64 {
    let rows = |tables: &[crate::manifest::TableFacts]| tables.iter().fold(0, |sum: u64, t| sum.saturating_add(t.rows));
    match facts {
        SourceFacts::Postgres(facts) => rows(&facts.tables).saturating_add(facts.large_objects.rows),
        SourceFacts::Sqlite(facts) => rows(&facts.tables),
        SourceFacts::Files(facts) => facts.files,
    }
}
