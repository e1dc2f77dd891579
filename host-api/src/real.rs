//! The host that touches real databases, files, stores and services.
//!
//! Each interface's module holds its trait and, below it, this host's implementation of it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::bindings::{Retention, Service, Source, Store};
use crate::context::StepContext;
use crate::encryption::Encryption;
use crate::error::{Error, Result};
use crate::signing::Signing;
use crate::sources::{SourceDriver, files::FilesDriver, postgres::PostgresDriver, sqlite::SqliteDriver};

/// Real services and stores, by the names that an environment gives them.
pub struct RealHost {
    /// Services by name.
    pub(crate) services: BTreeMap<String, Service>,
    /// Stores by name.
    pub(crate) stores: BTreeMap<String, Arc<crate::stores::ObjectStore>>,
    /// What is signed with, and whose signatures are taken.
    pub(crate) signing: Arc<Signing>,
    /// Whom backups are encrypted for, and the key to read them with.
    pub(crate) encryption: Arc<Encryption>,
    /// Which backups go, by service.
    pub(crate) retention: BTreeMap<String, Retention>,
    /// Private space of the engine (0700): `spool/` for objects on their way, `candidates/ID` for scratch candidates, `serve.sock`.
    pub(crate) state_dir: PathBuf,
    /// Services started in quarantine by this process; they end with it.
    pub(crate) instances: Mutex<BTreeMap<String, crate::scratch::Running>>,
    /// HTTP clients, one an endpoint.
    pub(crate) http: crate::http_check::Clients,
}

impl RealHost {
    /// A host over these services and stores. `state_dir` is made if absent, with mode 0700.
    pub fn new(
        services: BTreeMap<String, Service>,
        stores: &BTreeMap<String, Store>,
        state_dir: &Path,
    ) -> Result<Self> {
        crate::disk::private_dir(&state_dir.join("spool"))?;
        let stores = stores
            .iter()
            .map(|(name, store)| Ok((name.clone(), Arc::new(crate::stores::ObjectStore::open(name, store)?))))
            .collect::<Result<_>>()?;
        Ok(Self::over(services, stores, state_dir))
    }

    /// A host over what there is: nothing is made, so it can only look.
    pub(crate) fn over(
        services: BTreeMap<String, Service>,
        stores: BTreeMap<String, Arc<crate::stores::ObjectStore>>,
        state_dir: &Path,
    ) -> Self {
        Self {
            services,
            stores,
            signing: Arc::default(),
            encryption: Arc::default(),
            retention: BTreeMap::new(),
            state_dir: state_dir.to_owned(),
            instances: Mutex::default(),
            http: Default::default(),
        }
    }

    /// The same host, with a key to sign with, or keys that it trusts.
    #[must_use]
    pub fn with_signing(mut self, signing: Signing) -> Self {
        self.signing = Arc::new(signing);
        self
    }

    /// The same host, with keys to encrypt for, or one to read with.
    #[must_use]
    pub fn with_encryption(mut self, encryption: Encryption) -> Self {
        self.encryption = Arc::new(encryption);
        self
    }

    /// The same host, with rules for what goes, by service.
    #[must_use]
    pub fn with_retention(mut self, retention: BTreeMap<String, Retention>) -> Self {
        self.retention = retention;
        self
    }

    /// Where objects lie on their way; private.
    pub(crate) fn spool_dir(&self) -> PathBuf {
        self.state_dir.join("spool")
    }

    /// A service by name.
    pub(crate) fn service(&self, name: &str) -> Result<&Service> {
        self.services.get(name).ok_or_else(|| Error::unknown("service", name, self.services.keys()))
    }

    /// A store by name, for a step.
    pub(crate) fn store(&self, cx: &StepContext, name: &str) -> Result<Arc<crate::stores::ObjectStore>> {
        let store = self.stores.get(name).ok_or_else(|| Error::unknown("store", name, self.stores.keys()))?;
        Ok(Arc::new(store.in_step(cx)))
    }

    /// The driver of a service's source.
    pub(crate) fn driver(&self, service: &str, source: &str) -> Result<Arc<dyn SourceDriver>> {
        let sources = &self.service(service)?.source;
        let binding = sources.get(source).ok_or_else(|| Error::unknown("source", source, sources.keys()))?;
        Ok(match binding {
            Source::Postgres(pg) => Arc::new(PostgresDriver::new(source, pg.clone())),
            Source::Sqlite(sqlite) => Arc::new(SqliteDriver::new(source, sqlite.clone()).with_spool(&self.spool_dir())),
            Source::Files(files) => Arc::new(FilesDriver::new(source, files.clone()).with_spool(&self.spool_dir())),
        })
    }
}

/// Runs blocking work on a thread made for it.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| {
        let what = if e.is_panic() { "a bug: the step's thread panicked" } else { "the step's thread was stopped" };
        Err(Error::failed(what))
    })
}
