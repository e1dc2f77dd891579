//! Lifeboat's primitives: what a host can do to back up and recover a service, with no WASM in sight.
//!
//! Each interface of the contract in `wit/` has a module of the same name here with one trait; [`Host`] holds one implementation of each,
//! and [`real::RealHost`] is the one of all that touches real databases, files, stores and services. The engine reaches a primitive only
//! through these, so a simulated world, or a single primitive of another program's own, is a drop-in.
//!
//! | layer | modules |
//! | --- | --- |
//! | the contract's traits and values | [`catalog`], [`dump`], [`upload`], [`restore`], [`scratch`], [`service`], [`promote`], [`delete`], [`http_check`], [`query`] |
//! | which backups go | [`retention`] |
//! | deciding a step in doubt | [`probe`] |
//! | looking without changing anything | [`checks`] |
//! | what they stand on | [`sources`] (postgres, sqlite, files), [`stores`], [`manifest`], [`note`], [`signing`], [`encryption`], [`pipeline`], [`child`], [`control`], [`versions`] |
//! | words | [`bindings`] (what an environment says), [`context`], [`error`], [`identifier`] |

pub mod bindings;
pub mod calendar;
pub mod catalog;
pub mod checks;
pub mod child;
pub mod context;
pub mod control;
pub mod delete;
mod disk;
pub mod dump;
pub mod encryption;
pub mod error;
pub mod globals;
pub mod http_check;
pub mod identifier;
mod leftovers;
pub mod manifest;
pub mod note;
pub mod notification;
pub mod pipeline;
pub mod plain;
pub mod probe;
pub mod promote;
pub mod query;
mod questions;
pub mod real;
mod reference;
pub mod restore;
pub mod retention;
pub mod schedule;
pub mod scratch;
pub mod service;
pub mod signing;
pub mod sources;
pub mod stores;
pub mod sweep;
#[cfg(test)]
mod testing;
pub mod upload;
pub mod versions;
mod work;

pub use context::StepContext;
pub use error::{Error, ErrorKind, Result};

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A whole world, real or simulated: whatever implements all of the contract's traits.
pub trait Primitives:
    catalog::Catalog
    + dump::Dump
    + upload::Upload
    + restore::Restore
    + scratch::Scratch
    + service::ServiceControl
    + promote::Promote
    + delete::Delete
    + sweep::Sweep
    + http_check::HttpCheck
    + query::Query
    + schedule::Schedule
    + plain::Plain
    + probe::Probe
{
}

impl<T> Primitives for T where
    T: catalog::Catalog
        + dump::Dump
        + upload::Upload
        + restore::Restore
        + scratch::Scratch
        + service::ServiceControl
        + promote::Promote
        + delete::Delete
        + sweep::Sweep
        + http_check::HttpCheck
        + query::Query
        + schedule::Schedule
        + plain::Plain
        + probe::Probe
{
}

/// What the engine works with: every primitive, each of which a program that embeds the engine may put its own in place of.
///
/// ```
/// # use std::sync::Arc;
/// # fn with(world: Arc<host_api::real::RealHost>, mine: Arc<dyn host_api::http_check::HttpCheck>) -> host_api::Host {
/// let mut host = host_api::Host::of(world);
/// host.http_check = mine;
/// # host
/// # }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Host {
    /// Backups that exist.
    pub catalog: Arc<dyn catalog::Catalog>,
    /// Taking backups.
    pub dump: Arc<dyn dump::Dump>,
    /// Copies, and looking at what is stored.
    pub upload: Arc<dyn upload::Upload>,
    /// Candidates.
    pub restore: Arc<dyn restore::Restore>,
    /// Services started on candidates.
    pub scratch: Arc<dyn scratch::Scratch>,
    /// The live service.
    pub service: Arc<dyn service::ServiceControl>,
    /// Putting a candidate in service, and taking that back.
    pub promote: Arc<dyn promote::Promote>,
    /// Removing backups.
    pub delete: Arc<dyn delete::Delete>,
    /// Removing objects of no backup.
    pub sweep: Arc<dyn sweep::Sweep>,
    /// Asking services.
    pub http_check: Arc<dyn http_check::HttpCheck>,
    /// Asking databases.
    pub query: Arc<dyn query::Query>,
    /// What a cadence may know.
    pub schedule: Arc<dyn schedule::Schedule>,
    /// Files that need no Lifeboat.
    pub plain: Arc<dyn plain::Plain>,
    /// Deciding a step in doubt.
    pub probe: Arc<dyn probe::Probe>,
}

impl Host {
    /// All of one world.
    pub fn of(world: Arc<impl Primitives + 'static>) -> Self {
        Self {
            catalog: world.clone(),
            dump: world.clone(),
            upload: world.clone(),
            restore: world.clone(),
            scratch: world.clone(),
            service: world.clone(),
            promote: world.clone(),
            delete: world.clone(),
            sweep: world.clone(),
            http_check: world.clone(),
            query: world.clone(),
            schedule: world.clone(),
            plain: world.clone(),
            probe: world,
        }
    }
}

/// Something a person should know about data or a procedure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which rule found it: a documented, growing set (`row-count`, `reference`, …).
    pub rule: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub message: String,
    /// What to do about it; may be empty.
    pub fix: String,
}

/// How bad a finding is. A verification with an error has not passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth knowing.
    Info,
    /// Should be looked at.
    Warning,
    /// The data or procedure is not what it must be.
    Error,
}

impl Finding {
    /// A finding of severity error.
    pub fn error(rule: &str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(rule, Severity::Error, message, fix)
    }

    /// A finding of severity warning.
    pub fn warning(rule: &str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::new(rule, Severity::Warning, message, fix)
    }

    /// A finding of severity info.
    pub fn info(rule: &str, message: impl Into<String>) -> Self {
        Self::new(rule, Severity::Info, message, "")
    }

    fn new(rule: &str, severity: Severity, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { rule: rule.into(), severity, message: message.into(), fix: fix.into() }
    }
}
