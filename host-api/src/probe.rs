//! Deciding a step in doubt: one that was started, and whose engine died before its end was on record.
//!
//! Most effects decide themselves when they are asked again, because what lies where tells how far they came: a service that is stopped,
//! a record that has its name already, databases by OID, files by inode. What is here is for the others, and for what must be ended before
//! anything is looked at: children and sessions of an attempt may outlive the engine that started them.

use std::path::Path;

use async_trait::async_trait;

use crate::bindings::Right;
use crate::catalog::{Backup, manifests, sent};
use crate::context::StepContext;
use crate::control::unfinished;
use crate::error::{Context, Error, Result};
use crate::leftovers;
use crate::real::{RealHost, blocking};
use crate::versions;

#[cfg(test)]
mod tests;

/// Looking at what an attempt at a step did. `attempt` is its [`StepContext::attempt_key`].
#[async_trait]
pub trait Probe: Send + Sync {
    /// Ends whatever earlier attempts at this step left running: local children, and sessions in the databases of a service. Nothing of
    /// them is left when this answers, nor, as far as it can be removed, of what their run had in the engine's scratch space, and of installs
    /// of this service that were cut off.
    async fn end_attempts(&self, cx: &StepContext, service: Option<&str>) -> Result<()>;
    /// Removes what a run has in the engine's scratch space, whichever of its steps made it: copies of somebody's data. For a run whose end is
    /// about to be on record, or that is about to be taken up again; never while its steps are at work. The error names what stays: it
    /// takes room, and decides nothing.
    async fn clear_spool(&self, run: &str) -> Result<()>;
    /// The backup that an attempt made, if it came so far. Where the store can't be read, its manifest is put again if it was about to be.
    async fn backup_of_attempt(
        &self,
        cx: &StepContext,
        service: &str,
        store: &str,
        attempt: &str,
    ) -> Result<Option<Backup>>;
    /// Whether a version that this attempt installed is in service.
    async fn installed_by_attempt(&self, service: &str, version: &str, attempt: &str) -> Result<bool>;
    /// Whether a request that changes something may be sent to an endpoint again: to a service in quarantine, or to one that knows the
    /// `Idempotency-Key`.
    fn repeatable(&self, endpoint: &str) -> Result<bool>;
}

fn clear_spool(spool: &Path, run: &str) -> Result<()> {
    let mut left = Vec::new();
    for entry in std::fs::read_dir(spool).doing(|| format!("looking into {}", spool.display()))? {
        let path = entry.doing(|| format!("looking into {}", spool.display()))?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if StepContext::spooled_by(name) == Some(run)
            && let Err(e) = std::fs::remove_file(&path)
            && e.kind() != std::io::ErrorKind::NotFound
        {
            left.push(format!("{}: {e}", path.display()));
        }
    }
    if left.is_empty() {
        return Ok(());
    }
    Err(Error::failed(format!("copies of data are left in the scratch space: {}", left.join("; ")))
        .hint("remove them by hand"))
}

#[async_trait]
impl Probe for RealHost {
    async fn end_attempts(&self, cx: &StepContext, service: Option<&str>) -> Result<()> {
        let work = service.map(|service| self.work(service)).transpose()?;
        let (cx, spool) = (cx.clone(), self.spool_dir());
        blocking(move || {
            leftovers::end_step(&cx.run, cx.step)?;
            // An install that was cut off: what it left is of no attempt that goes on.
            if let Some(install) = work.as_ref().and_then(|work| work.service.install.as_ref()) {
                unfinished::sweep(install);
            }
            // Decides nothing; whoever ends the run is told.
            let _ = clear_spool(&spool, &cx.run);
            for (source, driver) in work.iter().flat_map(|work| &work.drivers) {
                driver.end_attempts(&cx).map_err(|e| e.context(source))?;
            }
            Ok(())
        })
        .await
    }

    async fn clear_spool(&self, run: &str) -> Result<()> {
        let (spool, run) = (self.spool_dir(), run.to_owned());
        blocking(move || clear_spool(&spool, &run)).await
    }

    async fn backup_of_attempt(
        &self,
        cx: &StepContext,
        service: &str,
        store: &str,
        attempt: &str,
    ) -> Result<Option<Backup>> {
        self.service(service)?;
        let (cx, service, store, attempt) =
            (cx.clone(), service.to_owned(), self.store(cx, store)?, attempt.to_owned());
        let (signing, state_dir) = (self.signing.clone(), self.state_dir.clone());
        blocking(move || {
            if !store.may(Right::Read) {
                return sent::complete(&state_dir, &cx, &store, &service, &attempt);
            }
            for (id, digest) in manifests::present(&store, &service)?.into_iter().rev() {
                cx.check()?;
                let stored = manifests::stored(&store, &service, &id, &digest)?;
                // One that would be refused is not what the attempt made: anybody can write down whose it is.
                if stored.manifest.attempt == attempt && stored.signature(&signing).refused.is_none() {
                    return Ok(Some(manifests::backup(&stored.manifest, &digest, store.name())));
                }
            }
            Ok(None)
        })
        .await
    }

    async fn installed_by_attempt(&self, service: &str, version: &str, attempt: &str) -> Result<bool> {
        versions::check_version(version)?;
        let binding = self.service(service)?;
        let install = binding.install.as_ref().ok_or_else(|| {
            Error::invalid(format!("the environment does not say how versions of `{service}` are installed"))
        })?;
        let wanted = install.directory.join(format!("{version}@{attempt}"));
        Ok(versions::current(install).is_some_and(|(_, current)| current == wanted))
    }

    fn repeatable(&self, endpoint: &str) -> Result<bool> {
        let resolved = self.resolve(endpoint)?;
        Ok(resolved.instance.is_some() || resolved.endpoint.idempotency_key)
    }
}
