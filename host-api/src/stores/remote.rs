//! Stores behind opendal's own reader and writer: memory, S3, Azure Blob, Google Cloud Storage.

mod pool;
mod words;
mod writer;

use std::io::Read;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures::{FutureExt, TryStreamExt};
use opendal::Operator;

use super::bucket::Asking;
use super::clock::StoreClock;
use super::pace::Pace;
use super::parts::{Limits, Parts};
use super::secrets::Held;
use super::thaw::Thawing;
use super::{StoreWriter, wait};
use crate::bindings::Right;
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};
use pool::Pool;
use words::{about_us, said, taken};
use writer::{RemoteWriter, Seen};

/// How much is asked for at once.
const CHUNK_BYTES: u64 = 8 * 1024 * 1024;
/// Most objects that are listed below a prefix: far more than a service has. A store that never ends to list must not fill our memory.
const LISTED_MAX: usize = if cfg!(test) { 1_000 } else { 1_000_000 };
/// Most bytes of names in one listing: twice what a million of ours have.
const LISTED_BYTES_MAX: usize = if cfg!(test) { 1024 * 1024 } else { 256 * 1024 * 1024 };
/// How long a listing may go on without naming another object: pages with nothing in them and another one behind them have no other end.
const LISTING_IDLE_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 300 });
/// And how long in all: a million objects are a thousand requests.
const LISTING_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 10 } else { 4 * 3600 });
/// How often a wait looks whether its step should end.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A store somewhere else.
pub(super) struct Remote {
    name: String,
    /// What all its keys begin with in the bucket: empty, or ending with `/`. Put before a key, and taken off what is listed, by us: opendal would take
    /// the store's word for it that a name begins so, and cut it into pieces wherever it ends.
    prefix: String,
    pub(super) operators: Operators,
    retried: Retried,
    clock: StoreClock,
    pace: Option<Pace>,
    limits: Limits,
    parts_at_once: usize,
    /// Where the bucket itself can be asked, by whoever may read.
    pub(super) asking: Option<Asking>,
    /// What to do about archived objects, where the environment says it.
    pub(super) thawing: Option<Thawing>,
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

    pub(super) fn count(&self) -> u64 {
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
        (name, prefix): (&str, &str),
        operators: Operators,
        bytes_per_s_max: Option<u64>,
        limits: Limits,
        parts_at_once: usize,
    ) -> Self {
        let pace = bytes_per_s_max.map(Pace::new);
        Self {
            name: name.to_owned(),
            prefix: if prefix.is_empty() { String::new() } else { format!("{prefix}/") },
            operators,
            retried: Retried::default(),
            clock: StoreClock::default(),
            pace,
            limits,
            parts_at_once,
            asking: None,
            thawing: None,
        }
    }

    pub(super) fn memory(name: &str) -> Result<Self> {
        let operator = Operator::new(opendal::services::Memory::default())
            .map_err(|e| Error::failed(format!("store {name}: {e}")))?;
        let mut operators = Operators::default();
        Right::ALL.into_iter().for_each(|right| operators.set(right, operator.clone(), None));
        Ok(Self::new((name, ""), operators, None, Limits::PIECES, 1))
    }

    pub(super) fn retried(&self) -> Retried {
        self.retried.clone()
    }

    /// What time it is there.
    pub(super) fn clock(&self) -> StoreClock {
        self.clock.clone()
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

    /// Its name in the environment.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// One request of our own as whoever reads, given up when the step should end.
    pub(super) fn asked<T>(
        &self,
        cx: &StepContext,
        what: &str,
        call: impl Future<Output = opendal::Result<T>>,
    ) -> Result<T> {
        until(Some(cx), Duration::ZERO, call)?.map_err(|failure| self.error(Right::Read, "asking for", what, failure))
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
            let root = if self.prefix.is_empty() { "/" } else { &self.prefix };
            return self.call(cx, Right::Read, "listing", "", |operator| async move {
                let mut listed = operator.lister_with(root).limit(1).await?;
                match listed.try_next().await {
                    Err(e) if e.kind() != opendal::ErrorKind::NotFound => Err(e),
                    _ => Ok(()),
                }
            });
        }
        // Whoever may only put can't look without leaving something there. What can be told is whether there are secrets to do it with.
        match self.identity(Right::Write).or_else(|_| self.identity(Right::Delete))?.held.as_ref() {
            Some(held) => held.read().map(drop).map_err(|e| about_us(e).context(format!("store {}", self.name))),
            None => Ok(()),
        }
    }

    pub(super) fn size(&self, cx: Option<&StepContext>, key: &str) -> Result<Option<u64>> {
        let path = &self.path(key);
        let found = self.call(cx, Right::Read, "looking at", key, |operator| async move {
            operator.stat(path).await.map(|meta| meta.is_file().then(|| meta.content_length()))
        });
        match found {
            Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
            other => other,
        }
    }

    /// All that the store names below a prefix, with keys as we have them. However the store goes on, this ends.
    pub(super) fn list(&self, cx: Option<&StepContext>, prefix: &str) -> Result<Vec<(String, opendal::Metadata)>> {
        let below = &self.path(prefix);
        let began = Instant::now();
        let found = self.call(cx, Right::Read, "listing", prefix, |operator| async move {
            let mut pages = operator.lister_with(below).recursive(true).await?;
            let (mut found, mut name_bytes) = (Vec::new(), 0);
            loop {
                let left = LISTING_LIMIT.saturating_sub(began.elapsed()).min(LISTING_IDLE_LIMIT);
                // opendal panics at a name of more than 64 KiB; a bucket's are at most 1 KiB.
                let next = AssertUnwindSafe(pages.try_next()).catch_unwind();
                let entry = match tokio::time::timeout(left, next).await {
                    Ok(Ok(entry)) => entry?,
                    Ok(Err(_)) => return Ok(Err(Unlisted::Unreadable)),
                    Err(_) => return Ok(Err(Unlisted::Time)),
                };
                let Some(entry) = entry else { return Ok(Ok(found)) };
                let (path, metadata) = entry.into_parts();
                name_bytes += path.len();
                if found.len() == LISTED_MAX || name_bytes > LISTED_BYTES_MAX {
                    return Ok(Err(Unlisted::Objects));
                }
                // Asked for `a/`, a store says `a/` of the folder itself.
                match path.strip_prefix(&self.prefix).filter(|_| path.starts_with(below)) {
                    Some(key) => found.push((key.to_owned(), metadata)),
                    None => return Ok(Err(Unlisted::Foreign(path))),
                }
            }
        })?;
        found.map_err(|why| why.of(&self.name, prefix))
    }

    /// A key as the bucket has it.
    fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    pub(super) fn delete(&self, cx: Option<&StepContext>, key: &str) -> Result<()> {
        let path = &self.path(key);
        self.call(cx, Right::Delete, "removing", key, |operator| async move { operator.delete(path).await })
    }

    pub(super) fn open(self: &Arc<Self>, cx: Option<&StepContext>, key: &str) -> Result<Box<dyn Read + Send>> {
        let path = &self.path(key);
        let (reader, size) = self.call(cx, Right::Read, "reading", key, |operator| async move {
            let size = operator.stat(path).await?.content_length();
            Ok((operator.reader(path).await?, size))
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
        let path = self.path(key);
        let writer = async { identity.operator.writer_with(&path).if_not_exists(true).concurrent(at_once).await };
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
            pool: Pool::default(),
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
                // However it goes on, it is another one.
                Ok(count) if found.bytes() + count as u64 > sent.bytes() => return Ok(false),
                Ok(count) => found.add(&chunk[..count]),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(crate::pipeline::error_of(e)),
            }
        }
    }
}

/// Why a listing is given up.
enum Unlisted {
    Objects,
    Time,
    Unreadable,
    /// It names what was not asked for.
    Foreign(String),
}

impl Unlisted {
    fn of(self, store: &str, prefix: &str) -> Error {
        let error = |what: String| Error::failed(format!("store {store}: listing {prefix}: {what}"));
        match self {
            Self::Objects => error(format!("there are more than {LISTED_MAX} objects"))
                .hint("that is no store of Lifeboat's alone: give it a prefix of its own, or look at who fills it"),
            Self::Time => error("it comes to no end".into())
                .hint("the store answers with page after page and no object in them: look at what stands between it and this machine"),
            Self::Unreadable => error("an answer of the store can't be read: it names an object with a name that no object has".into())
                .hint("what answers there is no store, or means harm: look at its endpoint"),
            Self::Foreign(path) => {
                error(format!("the store names {}, which was not asked for", crate::identifier::shown(&path)))
                    .hint("what answers there is no store, or means harm: look at its endpoint")
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
