//! One service with its drivers, owned: what a primitive takes along to the thread that does its work. Tests put other drivers in.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::bindings::{NamedQuery, Service};
use crate::context::StepContext;
use crate::encryption::{Encryption, Key};
use crate::error::{Error, Result};
use crate::manifest::Manifest;
use crate::pipeline::StoreSource;
use crate::real::RealHost;
use crate::signing::Signing;
use crate::sources::{Member, Row, SourceDriver};
use crate::stores::ObjectStore;

/// Time for taking back what a failed step had done: its own deadline may be why it failed.
pub(crate) const GRACE: Duration = Duration::from_secs(120);

/// A service, its drivers, what its backups are signed with, and the engine's private space.
#[derive(Clone)]
pub(crate) struct Work {
    pub(crate) name: String,
    pub(crate) service: Service,
    pub(crate) drivers: BTreeMap<String, Arc<dyn SourceDriver>>,
    pub(crate) signing: Arc<Signing>,
    pub(crate) encryption: Arc<Encryption>,
    pub(crate) state_dir: PathBuf,
}

impl RealHost {
    /// A service's work, with the real drivers.
    pub(crate) fn work(&self, service: &str) -> Result<Work> {
        let binding = self.service(service)?;
        let drivers = binding
            .source
            .keys()
            .map(|source| Ok((source.clone(), self.driver(service, source)?)))
            .collect::<Result<_>>()?;
        Ok(Work {
            name: service.to_owned(),
            service: binding.clone(),
            drivers,
            signing: self.signing.clone(),
            encryption: self.encryption.clone(),
            state_dir: self.state_dir.clone(),
        })
    }
}

impl Work {
    /// The driver of a source.
    pub(crate) fn driver(&self, source: &str) -> Result<&dyn SourceDriver> {
        self.drivers
            .get(source)
            .map(|driver| &**driver)
            .ok_or_else(|| Error::unknown("source", source, self.drivers.keys()))
    }

    /// The key that opens a backup's objects; none where they are not encrypted. An error before anything is made, if there is none here.
    pub(crate) fn key(&self, manifest: &Manifest) -> Result<Option<Key>> {
        self.encryption.key(manifest.encryption.as_ref()).map_err(|e| e.context(format!("backup {}", manifest.id)))
    }

    /// Where objects are read from for this work, and with which key.
    pub(crate) fn objects(&self, store: &Arc<ObjectStore>, key: Option<Key>) -> StoreSource {
        StoreSource { store: store.clone(), spool_dir: self.state_dir.join("spool"), key }
    }

    /// A scratch candidate's directory.
    pub(crate) fn candidate_dir(&self, candidate: &str) -> PathBuf {
        self.state_dir.join("candidates").join(candidate)
    }

    /// The file that says that a service was started on a candidate.
    pub(crate) fn started_marker(&self, candidate: &str) -> PathBuf {
        self.state_dir.join("candidates").join(format!("{candidate}.started"))
    }

    /// True if a service was ever started on this candidate; an error if that can't be told.
    pub(crate) fn was_started(&self, candidate: &str) -> Result<bool> {
        let marker = self.started_marker(candidate);
        marker.try_exists().map_err(|e| Error::failed(format!("can't tell whether {} is there: {e}", marker.display())))
    }

    /// Members in the order of a dump: databases first.
    pub(crate) fn in_order<'m>(&self, members: &'m [Member]) -> Result<Vec<&'m Member>> {
        let order = self.service.dump_order();
        let place = |member: &Member| order.iter().position(|name| **name == member.source);
        if let Some(stranger) = members.iter().find(|member| place(member).is_none()) {
            return Err(Error::unknown("source", &stranger.source, self.service.source.keys()));
        }
        let mut sorted: Vec<&Member> = members.iter().collect();
        sorted.sort_by_key(|member| place(member));
        Ok(sorted)
    }

    /// One row of a query of the environment: on these members, or on the live data.
    pub(crate) fn ask(
        &self,
        cx: &StepContext,
        name: &str,
        query: &NamedQuery,
        members: Option<&[Member]>,
    ) -> Result<Row> {
        let member = match members {
            None => None,
            Some(members) => Some(members.iter().find(|member| member.source == query.source).ok_or_else(|| {
                Error::invalid(format!(
                    "query {name} asks source {}, of which the candidate has no member",
                    query.source
                ))
            })?),
        };
        let rows = self.driver(&query.source)?.query(cx, member, &crate::questions::one(name, query))?;
        crate::query::bounded(name, rows)
    }
}
