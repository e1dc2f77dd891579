//! Looking at an environment's world without changing it: what `lifeboat check` asks of sources, stores, services and endpoints.
//!
//! | module | what is looked at |
//! | --- | --- |
//! | `bucket` | what a bucket has set, against what is expected of it |
//! | `seen` | what a look gives: a level, words, measures |
//! | `service` | control, commands, secrets, TLS files, endpoints, readiness |
//! | `stores` | reaching a store, its space, the backups in it |
//! | [`crate::sources`] | each driver's own aspects |
//!
//! Nothing here takes a lock, writes a file, or starts anything but tools that ask. A look that hangs must not keep the others from their
//! answers, so nothing is opened before its own look: [`Looker`] holds plain data.

mod bucket;
mod seen;
mod service;
mod stores;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use crate::Finding;
use crate::bindings::{Service, Source, Store};
use crate::catalog::index::Index;
use crate::catalog::{Backup, stock};
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::real::{RealHost, blocking};
use crate::signing::Signing;
use crate::sources::{SourceDriver, files::FilesDriver, postgres::PostgresDriver, sqlite::SqliteDriver};
use crate::upload::{Depth, Upload};

pub use crate::catalog::Stocked;
pub use bucket::BucketAspect;
pub use seen::{Bound, Level, Measure, Seen, offset};

/// Says the time in Unix milliseconds; a test has one of its own.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// What can be looked at of a source, where its kind has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// It is there and answers.
    Reachable,
    /// The tools are there, and fit the server.
    Tools,
    /// All of it can be read: tables, sequences, files; no row security hides rows.
    MayRead,
    /// A backup can be restored: databases can be made, for the roles that own what is in them.
    MayRestore,
    /// A candidate can take its place: renaming, ending sessions, writing where it lies.
    MayPromote,
    /// There is room for a candidate where candidates lie.
    Space,
    /// Its server's clock is ours.
    Clock,
    /// Where its backups are restored for a drill: what is needed there is there.
    Drill,
}

impl Aspect {
    /// The last part of the check's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Reachable => "reachable",
            Self::Tools => "tools",
            Self::MayRead => "may-read",
            Self::MayRestore => "may-restore",
            Self::MayPromote => "may-promote",
            Self::Space => "space",
            Self::Clock => "clock",
            Self::Drill => "drill",
        }
    }
}

/// One thing to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A source of a service.
    Source(String, String, Aspect),
    /// A store: whether it is there.
    StoreReachable(String),
    /// A store: whether it takes objects from us, as far as that shows without writing one.
    StoreWritable(String),
    /// A store: who may do what there, and whether the secrets for it can be read.
    StoreIdentities(String),
    /// A store somewhere else: its clock is ours.
    StoreClock(String),
    /// A store: what its bucket has set.
    StoreBucket(String, BucketAspect),
    /// A service's manager answers.
    Control(String),
    /// The live service runs.
    Running(String),
    /// The programs that its commands begin with are there.
    Commands(String),
    /// Its secrets can be read, and not by everybody.
    Secrets(String),
    /// The files that TLS needs can be read.
    TlsFiles(String),
    /// An endpoint of a service answers.
    Endpoint(String, String),
    /// The service says that it is ready, and is the one that is meant.
    Ready(String),
}

impl Subject {
    /// The check's name, the same in every environment: `source.db.reachable`.
    pub fn name(&self) -> String {
        match self {
            Self::Source(_, source, aspect) => format!("source.{source}.{}", aspect.word()),
            Self::StoreReachable(store) => format!("store.{store}.reachable"),
            Self::StoreWritable(store) => format!("store.{store}.writable"),
            Self::StoreIdentities(store) => format!("store.{store}.identities"),
            Self::StoreClock(store) => format!("store.{store}.clock"),
            Self::StoreBucket(store, aspect) => format!("store.{store}.{}", aspect.word()),
            Self::Control(_) => "service.control".into(),
            Self::Running(_) => "service.running".into(),
            Self::Commands(_) => "service.commands".into(),
            Self::Secrets(_) => "service.secrets".into(),
            Self::TlsFiles(_) => "service.tls-files".into(),
            Self::Endpoint(_, endpoint) => format!("endpoint.{endpoint}.reachable"),
            Self::Ready(_) => "service.ready".into(),
        }
    }

    /// The service it is of, if it is of one.
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::StoreReachable(_)
            | Self::StoreWritable(_)
            | Self::StoreIdentities(_)
            | Self::StoreClock(_)
            | Self::StoreBucket(..) => None,
            Self::Source(service, ..)
            | Self::Control(service)
            | Self::Running(service)
            | Self::Commands(service)
            | Self::Secrets(service)
            | Self::TlsFiles(service)
            | Self::Endpoint(service, _)
            | Self::Ready(service) => Some(service),
        }
    }

    /// What it means that looking failed: that it is not as it must be, or only that nobody could ask.
    fn failure(&self) -> Level {
        match self {
            Self::Source(_, _, Aspect::Reachable | Aspect::Tools)
            | Self::StoreReachable(_)
            | Self::StoreWritable(_)
            | Self::StoreIdentities(_)
            | Self::Control(_)
            | Self::Commands(_)
            | Self::Secrets(_)
            | Self::TlsFiles(_)
            | Self::Endpoint(..)
            | Self::Ready(_) => Level::Critical,
            Self::Source(..) | Self::StoreClock(_) | Self::StoreBucket(..) | Self::Running(_) => Level::Unknown,
        }
    }

    /// What it means that there was no answer in time: what is to be reached and does not answer is not reachable; of anything else
    /// nothing is known.
    pub fn silence(&self) -> Level {
        match self {
            Self::Source(_, _, Aspect::Reachable)
            | Self::StoreReachable(_)
            | Self::Control(_)
            | Self::Endpoint(..)
            | Self::Ready(_) => Level::Critical,
            _ => Level::Unknown,
        }
    }
}

/// Looking at a world. Not among [`crate::Primitives`]: no policy calls it, and no step comes of it.
#[async_trait]
pub trait Checks: Send + Sync {
    /// Everything there is to look at, in the order in which it is shown.
    fn subjects(&self) -> Vec<Subject>;
    /// Looks at one thing.
    async fn look(&self, cx: &StepContext, subject: &Subject) -> Seen;
    /// All backups of a service in a store, oldest first, with what stands beside their manifests.
    async fn backups(&self, cx: &StepContext, service: &str, store: &str) -> Result<Vec<Stocked>>;
    /// Whether a stored backup's objects are there, with their sizes. No finding: they are.
    async fn objects(&self, cx: &StepContext, backup: &Backup) -> Result<Vec<Finding>>;
    /// Bytes free for us where a store keeps its objects; none where the store has no such number.
    async fn store_space(&self, cx: &StepContext, store: &str) -> Result<Option<u64>>;
    /// The file system that a store lies on, where it lies on one of this machine.
    async fn store_device(&self, cx: &StepContext, store: &str) -> Result<Option<u64>>;
    /// Bytes free for us in the engine's private space, or where it will be made.
    async fn state_space(&self, cx: &StepContext) -> Result<u64>;
}

/// Looks at real services and stores.
pub struct Looker {
    services: BTreeMap<String, Service>,
    stores: BTreeMap<String, Store>,
    state_dir: PathBuf,
    clock: Clock,
    signing: Arc<Signing>,
}

impl Looker {
    /// Over these services and stores; with `signing`, what is not signed as it asks is told from the rest. Nothing is looked at, opened or made yet.
    pub fn new(
        services: BTreeMap<String, Service>,
        stores: BTreeMap<String, Store>,
        state_dir: &Path,
        clock: Clock,
        signing: Arc<Signing>,
    ) -> Self {
        Self { services, stores, state_dir: state_dir.to_owned(), clock, signing }
    }

    /// A host that knows the services and no store: for looking where a promotion stands. It makes nothing.
    pub fn host(&self) -> RealHost {
        RealHost::over(self.services.clone(), BTreeMap::new(), &self.state_dir)
    }

    /// The same with one store, which is looked at here.
    fn host_with(&self, store: &str) -> Result<RealHost> {
        let binding = self.stores.get(store).ok_or_else(|| Error::unknown("store", store, self.stores.keys()))?;
        let opened = Arc::new(crate::stores::ObjectStore::open(store, binding)?);
        Ok(RealHost::over(self.services.clone(), BTreeMap::from([(store.to_owned(), opened)]), &self.state_dir))
    }

    fn service(&self, name: &str) -> Result<&Service> {
        self.services.get(name).ok_or_else(|| Error::unknown("service", name, self.services.keys()))
    }

    fn copy(&self) -> Self {
        Self::new(self.services.clone(), self.stores.clone(), &self.state_dir, self.clock.clone(), self.signing.clone())
    }

    fn driver(&self, service: &str, source: &str) -> Result<Box<dyn SourceDriver>> {
        let sources = &self.service(service)?.source;
        let binding = sources.get(source).ok_or_else(|| Error::unknown("source", source, sources.keys()))?;
        Ok(match binding {
            Source::Postgres(postgres) => Box::new(PostgresDriver::new(source, postgres.clone())),
            Source::Sqlite(sqlite) => Box::new(SqliteDriver::new(source, sqlite.clone())),
            Source::Files(files) => Box::new(FilesDriver::new(source, files.clone())),
        })
    }

    async fn seen(&self, cx: &StepContext, subject: &Subject) -> Result<Seen> {
        match subject {
            Subject::Endpoint(service, endpoint) => return service::endpoint(self, cx, service, endpoint).await,
            Subject::Ready(service) => return service::ready(self, cx, service).await,
            _ => {}
        }
        let (this, cx, subject) = (self.copy(), cx.clone(), subject.clone());
        blocking(move || this.seen_blocking(&cx, &subject)).await
    }

    fn seen_blocking(&self, cx: &StepContext, subject: &Subject) -> Result<Seen> {
        cx.check()?;
        match subject {
            Subject::Source(service, source, aspect) => self.driver(service, source)?.look(cx, *aspect, &*self.clock),
            Subject::StoreReachable(store) => stores::reachable(&*self.host_with(store)?.store(cx, store)?),
            Subject::StoreWritable(store) => {
                stores::writable(self.stores.get(store).ok_or_else(|| Error::invalid("no such store"))?)
            }
            Subject::StoreIdentities(store) => {
                stores::identities(self.stores.get(store).ok_or_else(|| Error::invalid("no such store"))?)
            }
            Subject::StoreClock(store) => stores::clock(&*self.host_with(store)?.store(cx, store)?, &*self.clock),
            Subject::StoreBucket(store, aspect) => match self.stores.get(store) {
                Some(Store::S3(s3)) => bucket::look(cx, &*self.host_with(store)?.store(cx, store)?, s3, *aspect),
                _ => Err(Error::failed("a bug: only buckets of S3 are asked")),
            },
            Subject::Control(service) => service::control(self, cx, service),
            Subject::Running(service) => service::running(self, cx, service),
            Subject::Commands(service) => service::commands(self.service(service)?),
            Subject::Secrets(service) => Ok(service::secrets(self.service(service)?)),
            Subject::TlsFiles(service) => Ok(service::tls_files(self.service(service)?)),
            Subject::Endpoint(..) | Subject::Ready(_) => Err(Error::failed("a bug: this is asked elsewhere")),
        }
    }
}

#[async_trait]
impl Checks for Looker {
    fn subjects(&self) -> Vec<Subject> {
        let mut subjects = Vec::new();
        for (store, binding) in &self.stores {
            subjects.push(Subject::StoreReachable(store.clone()));
            subjects.push(match binding {
                Store::Directory(_) => Subject::StoreWritable(store.clone()),
                // Whether a bucket takes what we put shows by putting alone.
                _ => Subject::StoreIdentities(store.clone()),
            });
            if binding.directory().is_none() {
                subjects.push(Subject::StoreClock(store.clone()));
            }
            if matches!(binding, Store::S3(s3) if s3.expect.is_some()) {
                subjects.extend(BucketAspect::ALL.map(|aspect| Subject::StoreBucket(store.clone(), aspect)));
            }
        }
        for (name, service) in &self.services {
            for source in service.source.keys() {
                let aspects = self.driver(name, source).map(|driver| driver.aspects()).unwrap_or_default();
                let of = |aspect: &Aspect| Subject::Source(name.clone(), source.clone(), *aspect);
                subjects.extend(aspects.iter().map(of));
            }
            if service.control.is_some() {
                subjects.extend([Subject::Control(name.clone()), Subject::Running(name.clone())]);
            }
            subjects.extend([
                Subject::Commands(name.clone()),
                Subject::Secrets(name.clone()),
                Subject::TlsFiles(name.clone()),
            ]);
            subjects.extend(service.endpoint.keys().map(|endpoint| Subject::Endpoint(name.clone(), endpoint.clone())));
            if service.ready.is_some() {
                subjects.push(Subject::Ready(name.clone()));
            }
        }
        subjects
    }

    async fn look(&self, cx: &StepContext, subject: &Subject) -> Seen {
        self.seen(cx, subject).await.unwrap_or_else(|error| Seen::of(&error, subject.silence(), subject.failure()))
    }

    async fn backups(&self, cx: &StepContext, service: &str, store: &str) -> Result<Vec<Stocked>> {
        let (this, cx, service, store) = (self.copy(), cx.clone(), service.to_owned(), store.to_owned());
        blocking(move || {
            let of = this.host_with(&store)?.store(&cx, &store)?;
            stock::backups(&cx, &of, &this.signing, &service, &Index::of(&this.state_dir, false))
        })
        .await
    }

    async fn objects(&self, cx: &StepContext, backup: &Backup) -> Result<Vec<Finding>> {
        let (this, store) = (self.copy(), backup.store.clone());
        let host = blocking(move || this.host_with(&store)).await?;
        host.verify(cx, backup, Depth::Exists).await
    }

    async fn store_space(&self, cx: &StepContext, store: &str) -> Result<Option<u64>> {
        let (binding, cx) = (self.stores.get(store).cloned(), cx.clone());
        blocking(move || {
            cx.check()?;
            match binding {
                Some(Store::Directory(directory)) => crate::disk::free_bytes(&directory.path).map(Some),
                Some(_) => Ok(None),
                None => Err(Error::invalid("no such store")),
            }
        })
        .await
    }

    async fn store_device(&self, cx: &StepContext, store: &str) -> Result<Option<u64>> {
        use std::os::unix::fs::MetadataExt;
        let (binding, cx) = (self.stores.get(store).cloned(), cx.clone());
        blocking(move || {
            cx.check()?;
            match binding {
                Some(Store::Directory(directory)) => Ok(std::fs::metadata(directory.path).ok().map(|m| m.dev())),
                _ => Ok(None),
            }
        })
        .await
    }

    async fn state_space(&self, cx: &StepContext) -> Result<u64> {
        let (directory, cx) = (self.state_dir.clone(), cx.clone());
        blocking(move || {
            cx.check()?;
            // Before the first run it is not there: it will be made below the next directory that is.
            let there = directory.ancestors().find(|path| path.is_dir()).unwrap_or(Path::new("/"));
            crate::disk::free_bytes(there)
        })
        .await
    }
}
