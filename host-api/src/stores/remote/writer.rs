//! An upload in parts, and what became of it.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::Xxh3;

use super::pool::Pool;
use super::words::taken;
use super::{Failure, Remote, until};
use crate::bindings::Right;
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::stores::parts::Parts;
use crate::stores::{Put, StoreWriter, wait};

/// How long the last request of an upload may still take once its step should end: cut off, nobody knows what became of it.
const CLOSE_GRACE: Duration = Duration::from_secs(10);

/// Length and hash of what goes by: guards against error; whoever means harm is found by the signed digests.
#[derive(Default)]
pub(super) struct Seen {
    bytes: u64,
    hash: Xxh3,
}

impl Seen {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.hash.digest128() == other.hash.digest128()
    }
}

/// An upload.
pub(super) struct RemoteWriter {
    pub(super) remote: Arc<Remote>,
    pub(super) cx: Option<StepContext>,
    pub(super) key: String,
    /// Nobody but us writes this key.
    pub(super) is_own: bool,
    /// None once the key is known to be taken: the rest is swallowed.
    pub(super) writer: Option<opendal::Writer>,
    pub(super) parts: Parts,
    /// Of the part that is being filled.
    pub(super) number: u64,
    pub(super) part: Vec<u8>,
    pub(super) pool: Pool,
    /// What was given to us, for the case that nobody can tell whether it arrived.
    pub(super) seen: Seen,
    pub(super) finished: bool,
}

impl RemoteWriter {
    fn too_large(&self) -> Error {
        let fits: u64 = (0..self.number).filter_map(|number| self.parts.bytes(number)).fold(0, u64::saturating_add);
        Error::failed(format!(
            "store {}: writing {}: it is larger than {fits} bytes, far more than its source said, and has no room in the parts that were chosen for it",
            self.remote.name, self.key
        ))
        .hint(format!(
            "parts-at-once = 1 in [environment.E.store.{}]: with fewer parts on their way, memory bears larger ones",
            self.remote.name
        ))
    }

    fn send(&mut self) -> Result<()> {
        let part = self.pool.lend(std::mem::take(&mut self.part));
        self.number += 1;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        self.remote.pace(self.cx.as_ref(), part.len() as u64)?;
        match until(self.cx.as_ref(), Duration::ZERO, writer.write(part))? {
            Ok(()) => Ok(()),
            Err(Failure::Store(e)) if taken(&e) => {
                self.abort();
                Ok(())
            }
            Err(e) => Err(self.remote.error(Right::Write, "writing", &self.key, e)),
        }
    }

    /// What can't be aborted is not visible either: an upload that was not completed is no object.
    fn abort(&mut self) {
        if let Some(mut writer) = self.writer.take() {
            // The step may be over: this has some time of its own.
            let _ = wait(async { tokio::time::timeout(CLOSE_GRACE, writer.abort()).await });
        }
    }

    /// What became of an upload whose last answer is missing, or is no: the answer to a first request may have been lost, and that to a
    /// second be about the first.
    fn decide(&mut self, failure: Failure) -> Result<Put> {
        use opendal::ErrorKind as Of;
        let Failure::Store(e) = &failure else {
            self.abort();
            return Err(self.remote.error(Right::Write, "writing", &self.key, failure));
        };
        let (is_taken, is_gone) = (taken(e), e.kind() == Of::NotFound);
        // A refusal may be of a second request, after one whose answer was lost; these two never are.
        let is_sure = matches!(e.kind(), Of::ConfigInvalid | Of::Unsupported);
        let error = match is_gone {
            // Not of an object that somebody asked for.
            true => Error::failed(format!(
                "store {}: writing {}: the upload is no more, and nobody can tell whether it was completed",
                self.remote.name, self.key
            )),
            false => self.remote.error(Right::Write, "writing", &self.key, failure),
        };
        let arrived = match (is_sure, self.remote.may(Right::Read)) {
            (true, _) => false,
            (false, true) => self.remote.is_ours(self.cx.as_ref(), &self.key, &self.seen).map_err(|unseen| {
                error.clone().context(format!(
                    "what became of it can't be told, because it can't be looked at ({})",
                    unseen.message
                ))
            })?,
            (false, false) => self.must_be_ours(is_taken, is_gone),
        };
        if arrived {
            return Ok(Put::Created);
        }
        self.abort();
        if is_taken { Ok(Put::Exists) } else { Err(error) }
    }

    /// Whether an upload that was asked to end has arrived, where only putting is allowed; yes only where it can't be otherwise.
    ///
    /// An object appears under its key whole or not at all, and under a key that only this attempt writes nobody else's is. So it has arrived if
    /// the store says that the key is taken. If it says that there is no such upload any more, that one was either completed or taken away by
    /// somebody: then whether the key is taken is asked for, by putting nothing there if it is free. What that leaves under the key where
    /// the upload was lost is named by no manifest. Of keys that others may write as well (copies) nothing of this can be told.
    fn must_be_ours(&self, is_taken: bool, is_gone: bool) -> bool {
        self.is_own && (is_taken || is_gone && self.is_there())
    }

    fn is_there(&self) -> bool {
        let before = self.remote.retried.count();
        let Ok(identity) = self.remote.identity(Right::Write) else { return false };
        let path = self.remote.path(&self.key);
        let put = identity.operator.write_with(&path, opendal::Buffer::new()).if_not_exists(true);
        match until(self.cx.as_ref(), CLOSE_GRACE, async { put.await }) {
            // Asked once: a second request could have been told of the first.
            Ok(Err(Failure::Store(e))) => taken(&e) && self.remote.retried.count() == before,
            _ => false,
        }
    }
}

impl Write for RemoteWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let size = self.parts.bytes(self.number).ok_or_else(|| std::io::Error::other(self.too_large()))?;
        let size = usize::try_from(size).map_err(std::io::Error::other)?;
        if self.part.is_empty() {
            self.part = self.pool.take(size);
        }
        let count = bytes.len().min(size - self.part.len());
        self.part.extend_from_slice(&bytes[..count]);
        self.seen.add(&bytes[..count]);
        if self.part.len() == size {
            self.send().map_err(std::io::Error::other)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl StoreWriter for RemoteWriter {
    fn finish(mut self: Box<Self>, may: &dyn Fn() -> Result<()>) -> Result<Put> {
        if !self.part.is_empty() {
            self.send()?;
        }
        may()?;
        let before = self.remote.retried.count();
        let Some(writer) = &mut self.writer else { return Ok(Put::Exists) };
        let closed = until(self.cx.as_ref(), CLOSE_GRACE, writer.close())?;
        self.finished = true;
        match closed {
            Ok(_) => Ok(Put::Created),
            // Asked once, and answered.
            Err(Failure::Store(e)) if taken(&e) && self.remote.retried.count() == before => {
                self.abort();
                Ok(Put::Exists)
            }
            Err(failure) => self.decide(failure),
        }
    }
}

impl Drop for RemoteWriter {
    fn drop(&mut self) {
        if !self.finished {
            self.abort();
        }
    }
}
