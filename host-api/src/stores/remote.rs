//! Stores behind opendal's own reader and writer: memory, S3, Azure Blob, Google Cloud Storage.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use opendal::Operator;
use xxhash_rust::xxh3::Xxh3;

use super::pace::Pace;
use super::parts::{Limits, Parts};
use super::secrets::Held;
use super::{Put, StoreWriter, wait};
use crate::bindings::Right;
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};

/// How much is asked for at once.
const CHUNK_BYTES: u64 = 8 * 1024 * 1024;
/// How often a wait looks whether its step should end.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How long the last request of an upload may still take once its step should end: cut off, nobody knows what became of it.
const CLOSE_GRACE: Duration = Duration::from_secs(10);

/// A store somewhere else.
pub(super) struct Remote {
    name: String,
    pub(super) operators: Operators,
    retried: Retried,
    pace: Option<Pace>,
    limits: Limits,
    parts_at_once: usize,
}

/// Whoever may do what, as far as anybody may.
#[derive(Default)]
pub(super) struct Operators {
    write: Option<Identity>,
    read: Option<Identity>,
    delete: Option<Identity>,
}

struct Identity {
    operator: Operator,
    /// None where the identity needs no secrets of ours.
    held: Option<Arc<Held>>,
}

impl Operators {
    pub(super) fn set(&mut self, right: Right, operator: Operator, held: Option<Arc<Held>>) {
        let identity = Some(Identity { operator, held });
        match right {
            Right::Write => self.write = identity,
            Right::Read => self.read = identity,
            Right::Delete => self.delete = identity,
        }
    }

    fn get(&self, right: Right) -> Option<&Identity> {
        match right {
            Right::Write => self.write.as_ref(),
            Right::Read => self.read.as_ref(),
            Right::Delete => self.delete.as_ref(),
        }
    }
}

/// How many requests were sent again, of the whole store: one that was may have taken effect twice, or have been refused because of itself.
#[derive(Clone, Default)]
pub(super) struct Retried(Arc<AtomicU64>);

impl Retried {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A call that did not succeed.
enum Failure {
    /// The step should end.
    Step(Error),
    Store(opendal::Error),
}

impl Remote {
    pub(super) fn new(
        name: &str,
        operators: Operators,
        bytes_per_s_max: Option<u64>,
        limits: Limits,
        parts_at_once: usize,
    ) -> Self {
        let pace = bytes_per_s_max.map(Pace::new);
        Self { name: name.to_owned(), operators, retried: Retried::default(), pace, limits, parts_at_once }
    }

    pub(super) fn memory(name: &str) -> Result<Self> {
        let operator = Operator::new(opendal::services::Memory::default())
            .map_err(|e| Error::failed(format!("store {name}: {e}")))?;
        let mut operators = Operators::default();
        Right::ALL.into_iter().for_each(|right| operators.set(right, operator.clone(), None));
        Ok(Self::new(name, operators, None, Limits::PIECES, 1))
    }

    pub(super) fn retried(&self) -> Retried {
        self.retried.clone()
    }

    /// Whether somebody may do this here.
    pub(super) fn may(&self, right: Right) -> bool {
        self.operators.get(right).is_some()
    }

    pub(super) fn require(&self, right: Right) -> Result<()> {
        self.identity(right).map(drop)
    }

    fn identity(&self, right: Right) -> Result<&Identity> {
        self.operators.get(right).ok_or_else(|| {
            let (what, hint) = match right {
                Right::Write => ("put anything there", "a host that only restores or removes needs none"),
                Right::Read => (
                    "list or read there",
                    "a host that only takes backups needs none; list, verify, restore and remove on a host that has one",
                ),
                Right::Delete => ("remove anything there", "keep it away from hosts that take backups"),
            };
            Error::refused(format!("store {}: this environment has no identity that may {what}", self.name))
                .hint(format!("[environment.E.store.{}.identity.{}]: {hint}", self.name, right.word()))
        })
    }

    /// One call of opendal's, given up when the step should end.
    pub(super) fn call<T, F>(
        &self,
        cx: Option<&StepContext>,
        right: Right,
        doing: &str,
        key: &str,
        call: impl Fn(Operator) -> F,
    ) -> Result<T>
    where
        F: Future<Output = opendal::Result<T>>,
    {
        let identity = self.identity(right)?;
        until(cx, Duration::ZERO, call(identity.operator.clone()))?
            .map_err(|failure| self.error(right, doing, key, failure))
    }

    fn error(&self, right: Right, doing: &str, key: &str, failure: Failure) -> Error {
        let e = match failure {
            Failure::Step(e) => return e.context(format!("store {}: {doing} {key}", self.name)),
            Failure::Store(e) => e,
        };
        if let Some(unreadable) = self.operators.get(right).and_then(|i| i.held.as_ref()).and_then(|h| h.take_failure())
        {
            return about_us(unreadable).context(format!("store {}: identity.{}", self.name, right.word()));
        }
        said(&self.name, right, doing, key, &e)
    }

    pub(super) fn check(&self, cx: Option<&StepContext>) -> Result<()> {
        if self.may(Right::Read) {
            return self.call(cx, Right::Read, "listing", "", |operator| async move { operator.check().await });
        }
        // Whoever may only put can't look without leaving something there. What can be told is whether there are secrets to do it with.
        match self.identity(Right::Write).or_else(|_| self.identity(Right::Delete))?.held.as_ref() {
            Some(held) => held.read().map(drop).map_err(|e| about_us(e).context(format!("store {}", self.name))),
            None => Ok(()),
        }
    }

    pub(super) fn size(&self, cx: Option<&StepContext>, key: &str) -> Result<Option<u64>> {
        let found = self.call(cx, Right::Read, "looking at", key, |operator| async move {
            operator.stat(key).await.map(|meta| meta.is_file().then(|| meta.content_length()))
        });
        match found {
            Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
            other => other,
        }
    }

    pub(super) fn list(&self, cx: Option<&StepContext>, prefix: &str) -> Result<Vec<opendal::Entry>> {
        self.call(cx, Right::Read, "listing", prefix, |operator| async move {
            operator.list_with(prefix).recursive(true).await
        })
    }

    pub(super) fn delete(&self, cx: Option<&StepContext>, key: &str) -> Result<()> {
        self.call(cx, Right::Delete, "removing", key, |operator| async move { operator.delete(key).await })
    }

    pub(super) fn open(self: &Arc<Self>, cx: Option<&StepContext>, key: &str) -> Result<Box<dyn Read + Send>> {
        let (reader, size) = self.call(cx, Right::Read, "reading", key, |operator| async move {
            let size = operator.stat(key).await?.content_length();
            Ok((operator.reader(key).await?, size))
        })?;
        let (remote, cx, key) = (self.clone(), cx.cloned(), key.to_owned());
        Ok(Box::new(RemoteReader { remote, cx, key, reader, size, offset: 0, chunk: bytes::Bytes::new() }))
    }

    pub(super) fn writer(
        self: &Arc<Self>,
        cx: Option<&StepContext>,
        key: &str,
        expected_bytes: Option<u64>,
        is_own: bool,
    ) -> Result<Box<dyn StoreWriter>> {
        let parts = Parts::of(self.limits, expected_bytes, self.parts_at_once);
        let at_once = parts.at_once();
        let identity = self.identity(Right::Write)?;
        let writer = async { identity.operator.writer_with(key).if_not_exists(true).concurrent(at_once).await };
        Ok(Box::new(RemoteWriter {
            remote: self.clone(),
            cx: cx.cloned(),
            key: key.to_owned(),
            is_own,
            // A backend that can look before it writes says so here already.
            writer: match until(cx, Duration::ZERO, writer)? {
                Ok(writer) => Some(writer),
                Err(Failure::Store(e)) if taken(&e) => None,
                Err(e) => return Err(self.error(Right::Write, "writing", key, e)),
            },
            parts,
            number: 0,
            part: Vec::new(),
            seen: Seen::default(),
            finished: false,
        }))
    }

    /// Waits for a turn of so many bytes.
    fn pace(&self, cx: Option<&StepContext>, bytes: u64) -> Result<()> {
        let Some(pace) = &self.pace else { return Ok(()) };
        let turn = pace.turn(bytes);
        while Instant::now() < turn {
            cx.map_or(Ok(()), StepContext::check)?;
            std::thread::sleep(LOOK_INTERVAL.min(turn.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }

    /// Whether what lies there is what was sent.
    fn is_ours(self: &Arc<Self>, cx: Option<&StepContext>, key: &str, sent: &Seen) -> Result<bool> {
        let mut found = Seen::default();
        let mut reader = match self.open(cx, key) {
            Ok(reader) => reader,
            Err(e) if e.kind == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match reader.read(&mut chunk) {
                Ok(0) => return Ok(found.is(sent)),
                Ok(count) => found.add(&chunk[..count]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(crate::pipeline::error_of(e)),
            }
        }
    }
}

/// Runs a call to its end, unless the step should end before; then it may take so much longer.
fn until<T>(
    cx: Option<&StepContext>,
    grace: Duration,
    call: impl Future<Output = opendal::Result<T>>,
) -> Result<std::result::Result<T, Failure>> {
    wait(async {
        let mut call = std::pin::pin!(call);
        let mut over: Option<Instant> = None;
        loop {
            match tokio::time::timeout(LOOK_INTERVAL, &mut call).await {
                Ok(result) => return result.map_err(Failure::Store),
                Err(_) => {
                    if let Some(Err(e)) = cx.map(StepContext::check)
                        && over.get_or_insert_with(Instant::now).elapsed() >= grace
                    {
                        return Err(Failure::Step(e));
                    }
                }
            }
        }
    })
}

fn taken(e: &opendal::Error) -> bool {
    matches!(e.kind(), opendal::ErrorKind::ConditionNotMatch | opendal::ErrorKind::AlreadyExists)
}

/// What opendal says, in our words: its own name hosts and URLs.
fn said(store: &str, right: Right, doing: &str, key: &str, e: &opendal::Error) -> Error {
    use opendal::ErrorKind as Of;
    tracing::debug!(store, doing, key, "{e}");
    let words = match e.kind() {
        Of::NotFound => return super::no_object(store, key),
        Of::PermissionDenied => "the store refuses it to this identity",
        Of::ConfigInvalid => "there is no such bucket, or the store is configured wrongly",
        Of::RateLimited => "the store takes no more requests for now",
        Of::Unsupported => "the store can't do this",
        _ if e.is_temporary() || error_code(&e.to_string()).is_none() => "no usable answer from the store",
        _ => "the store answered with an error",
    };
    let text = e.to_string();
    let code = error_code(&text);
    if code == Some("InvalidObjectState") {
        return archived(store, doing, key);
    }
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    let error = Error::failed(format!("store {store}: {doing} {key}: {words}{code}"));
    match e.kind() {
        Of::PermissionDenied => error.hint(format!(
            "look at the secrets of identity.{} (or credentials) in [environment.E.store.{store}], and at what the store allows it",
            right.word()
        )),
        Of::ConfigInvalid => error.hint(format!("look at bucket, region and endpoint of [environment.E.store.{store}]")),
        _ => error,
    }
}

/// An object in a storage class from which nothing is read before it was thawed.
fn archived(store: &str, doing: &str, key: &str) -> Error {
    Error::failed(format!(
        "store {store}: {doing} {key}: it lies in an archived storage class (GLACIER, DEEP_ARCHIVE or a tier like them) and must be thawed before it can be read"
    ))
    .hint(
        "ask the store to restore all objects of this backup, for more days than the recovery may take (`aws s3api restore-object`), wait and try \
         again: minutes (Expedited, GLACIER alone), 3 to 5 hours (Standard), 5 to 12 hours (Bulk), 12 to 48 hours from DEEP_ARCHIVE; another copy of the backup may be nearer",
    )
}

/// The protocol's own word for what is wrong, `SlowDown`.
fn error_code(text: &str) -> Option<&str> {
    let after = text.split_once("code: \"")?.1;
    let code = after.split_once('"')?.0;
    (!code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(code)
}

/// Length and hash of what goes by: guards against error; whoever means harm is found by the signed digests.
#[derive(Default)]
struct Seen {
    bytes: u64,
    hash: Xxh3,
}

impl Seen {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        self.hash.update(bytes);
    }

    fn is(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.hash.digest128() == other.hash.digest128()
    }
}

/// A secret that is not there is no object that is not there.
fn about_us(error: Error) -> Error {
    match error.kind {
        ErrorKind::NotFound => Error { kind: ErrorKind::Failed, ..error },
        _ => error,
    }
}

struct RemoteWriter {
    remote: Arc<Remote>,
    cx: Option<StepContext>,
    key: String,
    /// Nobody but us writes this key.
    is_own: bool,
    /// None once the key is known to be taken: the rest is swallowed.
    writer: Option<opendal::Writer>,
    parts: Parts,
    /// Of the part that is being filled.
    number: u64,
    part: Vec<u8>,
    /// What was given to us, for the case that nobody can tell whether it arrived.
    seen: Seen,
    finished: bool,
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
        let part = std::mem::take(&mut self.part);
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
        let put = identity.operator.write_with(&self.key, opendal::Buffer::new()).if_not_exists(true);
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

struct RemoteReader {
    remote: Arc<Remote>,
    cx: Option<StepContext>,
    key: String,
    reader: opendal::Reader,
    size: u64,
    offset: u64,
    chunk: bytes::Bytes,
}

impl RemoteReader {
    fn next(&mut self) -> Result<()> {
        let end = self.size.min(self.offset + CHUNK_BYTES);
        self.remote.pace(self.cx.as_ref(), end - self.offset)?;
        let read = |reader: opendal::Reader, from: u64| async move { reader.read(from..end).await };
        let found = until(self.cx.as_ref(), Duration::ZERO, read(self.reader.clone(), self.offset))?;
        let chunk = found.map_err(|e| self.remote.error(Right::Read, "reading", &self.key, e))?.to_bytes();
        if chunk.is_empty() {
            return Err(Error::failed(format!(
                "store {}: reading {}: it ended at {} of {} bytes",
                self.remote.name, self.key, self.offset, self.size
            )));
        }
        self.offset += chunk.len() as u64;
        self.chunk = chunk;
        Ok(())
    }
}

impl Read for RemoteReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.chunk.is_empty() && self.offset < self.size {
            self.next().map_err(std::io::Error::other)?;
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_own_word_is_shown_and_nothing_else_of_it() {
        let text = r#"Unexpected at write => S3Error { code: "SlowDown", message: "http://10.0.0.1/", resource: "" }"#;
        assert_eq!(error_code(text), Some("SlowDown"));
        assert_eq!(error_code(r#"code: "a b""#), None);
        assert_eq!(error_code("nothing"), None);
    }

    #[test]
    fn a_call_ends_with_its_step() {
        let cx = StepContext::detached("test", Duration::from_secs(60));
        cx.cancelled.store(true, Ordering::Relaxed);
        let never = std::future::pending::<opendal::Result<()>>();
        match until(Some(&cx), Duration::ZERO, never).unwrap() {
            Err(Failure::Step(e)) => assert_eq!(e.kind, ErrorKind::Cancelled),
            _ => panic!("it should have ended"),
        }
        assert!(until(Some(&cx), Duration::ZERO, async { Ok(7) }).unwrap().is_ok_and(|seven| seven == 7));
    }
}
