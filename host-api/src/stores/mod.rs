//! Stores: named places for backups, behind one blocking interface.
//!
//! | backend | writes | reads | list, size, delete |
//! | --- | --- | --- | --- |
//! | [`directory`] | ours: temporary name, fsync, `link`, fsync of the directories | ours, never through a symbolic link | opendal |
//! | [`remote`] (memory, [`s3`], [`azure`], [`gcs`]) | opendal's writer with `if-not-exists`, in parts | opendal | opendal |
//!
//! Every method blocks, so all are called from threads made for blocking work (`real::blocking`, a pipeline's own threads). What
//! opendal does asynchronously runs on one small runtime of this module, so that a caller's runtime, however busy or single-threaded,
//! is never what a store waits for. Calling from an asynchronous task directly is a bug, and tokio answers it with a panic.

mod answer;
mod azure;
pub(crate) mod bucket;
mod client;
mod clock;
mod directory;
#[cfg(test)]
mod fault_tests;
#[cfg(test)]
mod full_tests;
mod gcs;
mod key;
mod pace;
mod parts;
mod remote;
mod s3;
#[cfg(test)]
mod s3_tests;
mod secrets;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod thaw;
#[cfg(test)]
mod thaw_tests;
mod transport;

use std::io::{Read, Write};
use std::sync::{Arc, LazyLock};

use crate::bindings::{self, Right};
use crate::context::StepContext;
use crate::error::{Context, Error, ErrorKind, Result};

pub use client::http_client;
pub(crate) use client::roots as trusted_roots;
pub use key::check_key;

/// A named place for objects. Objects are written once, whole, and never changed.
#[derive(Clone)]
pub struct ObjectStore {
    name: String,
    /// Where it is, whatever its name.
    place: Arc<str>,
    backend: Backend,
    /// The step it is used for: what is far away is not waited for beyond it.
    cx: Option<StepContext>,
}

#[derive(Clone)]
enum Backend {
    Directory(Arc<directory::Directory>),
    Remote(Arc<remote::Remote>),
}

/// What a put-if-absent did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is there now, and durable.
    Created,
    /// There is an object of this key; it was left as it is.
    Exists,
}

/// An object as a listing has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: String,
    /// When the store took it, by the store's own clock, Unix milliseconds; none where it does not say.
    pub stored_at_ms: Option<u64>,
    /// Its size.
    pub bytes: u64,
}

/// An object being written. Dropped without [`StoreWriter::finish`], nothing of it is in the store.
pub trait StoreWriter: Write + Send {
    /// Makes the object visible, whole and durable, unless its key is taken. `may` is asked right before it becomes visible, when all of it
    /// is on disk: with its error, nothing appears.
    fn finish(self: Box<Self>, may: &dyn Fn() -> Result<()>) -> Result<Put>;
}

impl ObjectStore {
    /// A store as the environment describes it. Looks at nothing yet: a store that is not reachable must not keep the others from
    /// being used; every operation notices, and says so.
    pub fn open(name: &str, binding: &bindings::Store) -> Result<Self> {
        crate::identifier::check_name("store", name)?;
        let backend = match binding {
            bindings::Store::Directory(dir) => Backend::Directory(Arc::new(directory::Directory::new(name, &dir.path))),
            bindings::Store::S3(s3) => Backend::Remote(Arc::new(s3::open(name, s3)?)),
            bindings::Store::Azure(azure) => Backend::Remote(Arc::new(azure::open(name, azure)?)),
            bindings::Store::Gcs(gcs) => Backend::Remote(Arc::new(gcs::open(name, gcs)?)),
        };
        Ok(Self { name: name.to_owned(), place: binding.place().into(), backend, cx: None })
    }

    /// A store that lives and ends with this value: for tests and simulations.
    pub fn memory(name: &str) -> Result<Self> {
        let backend = Backend::Remote(Arc::new(remote::Remote::memory(name)?));
        Ok(Self { name: name.to_owned(), place: format!("memory/{name}").into(), backend, cx: None })
    }

    /// The same store for one step: no request to somewhere else is waited for, or sent again, once the step should end.
    #[must_use]
    pub fn in_step(&self, cx: &StepContext) -> Self {
        Self { cx: Some(cx.clone()), ..self.clone() }
    }

    /// Whether this environment has an identity that may do this there.
    pub fn may(&self, right: Right) -> bool {
        match &self.backend {
            Backend::Directory(_) => true,
            Backend::Remote(remote) => remote.may(right),
        }
    }

    /// Where it is: one text for one place, whatever its name.
    pub(crate) fn place(&self) -> &str {
        &self.place
    }

    /// Which store it is, in a text that stays the same when the configuration gives it another name, and on another machine: of a bucket or
    /// container where it is; of a directory which one it is to its file system ([`directory`]). Not of what is in it: whoever may write
    /// there can't make it another one.
    pub fn own_name(&self) -> Result<String> {
        match &self.backend {
            Backend::Directory(dir) => Ok(dir.own_name()?.unwrap_or_else(|| self.place.to_string())),
            Backend::Remote(_) => Ok(self.place.to_string()),
        }
    }

    /// Its name in the environment.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error, before anything is done in vain, unless this environment has an identity that may do this there.
    pub fn require(&self, right: Right) -> Result<()> {
        match &self.backend {
            Backend::Directory(_) => Ok(()),
            Backend::Remote(remote) => remote.require(right),
        }
    }

    /// What time it is by the store's own clock, Unix milliseconds; none where it has none of its own, or has not answered yet.
    pub(crate) fn clock_ms(&self) -> Option<u64> {
        match &self.backend {
            Backend::Directory(_) => None,
            Backend::Remote(remote) => remote.clock().now_ms(),
        }
    }

    /// An error unless the store can be reached now. Where only putting is allowed, that is told by putting alone: then this looks whether
    /// there are secrets to do it with.
    pub fn check(&self) -> Result<()> {
        match &self.backend {
            Backend::Directory(dir) => dir.root().map(drop),
            Backend::Remote(remote) => remote.check(self.cx.as_ref()),
        }
    }

    /// What its bucket says of itself, asked as whoever reads there; of anything but a bucket of S3, nothing.
    pub(crate) fn told<T: serde::de::DeserializeOwned>(&self, cx: &StepContext, what: &str) -> Result<bucket::Told<T>> {
        match &self.backend {
            Backend::Directory(_) => Ok(bucket::Told::Nothing),
            Backend::Remote(remote) => remote.told(cx, what),
        }
    }

    /// Writes a small object unless its key is taken.
    pub fn put_if_absent(&self, key: &str, bytes: &[u8]) -> Result<Put> {
        self.put_if_absent_and(key, bytes, &|| Ok(()))
    }

    /// The same, unless the step is late or cancelled by the time the object would become visible.
    pub(crate) fn put_in_time(&self, cx: &StepContext, key: &str, bytes: &[u8]) -> Result<Put> {
        self.put_if_absent_and(key, bytes, &|| cx.check())
    }

    fn put_if_absent_and(&self, key: &str, bytes: &[u8], may: &dyn Fn() -> Result<()>) -> Result<Put> {
        let mut writer = self.writer(key)?;
        writer.write_all(bytes).doing(|| format!("store {}: writing {key}", self.name))?;
        writer.finish(may)
    }

    /// Begins an object of any size.
    pub fn writer(&self, key: &str) -> Result<Box<dyn StoreWriter>> {
        self.writer_of(key, None)
    }

    /// The same, of about so many bytes; more and less are fine.
    pub fn writer_of(&self, key: &str, expected_bytes: Option<u64>) -> Result<Box<dyn StoreWriter>> {
        self.begin(key, expected_bytes, false)
    }

    /// The same, under a key that nobody but this attempt writes: it holds random parts that were drawn for it, and the attempt's own name. So
    /// where nobody may look what became of an upload, an object that is there is the one that was sent.
    pub(crate) fn writer_of_own(&self, key: &str, expected_bytes: Option<u64>) -> Result<Box<dyn StoreWriter>> {
        self.begin(key, expected_bytes, true)
    }

    fn begin(&self, key: &str, expected_bytes: Option<u64>, is_own: bool) -> Result<Box<dyn StoreWriter>> {
        check_key(key)?;
        match &self.backend {
            Backend::Directory(dir) => dir.writer(key),
            Backend::Remote(remote) => remote.writer(self.cx.as_ref(), key, expected_bytes, is_own),
        }
    }

    /// Streams an object's bytes, as stored.
    pub fn open_object(&self, key: &str) -> Result<Box<dyn Read + Send>> {
        check_key(key)?;
        match &self.backend {
            Backend::Directory(dir) => dir.open(key),
            Backend::Remote(remote) => remote.open(self.cx.as_ref(), key),
        }
    }

    /// Reads a small object; one of more than `bytes_max` is an error.
    pub fn read(&self, key: &str, bytes_max: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_object(key)?
            .take(bytes_max + 1)
            .read_to_end(&mut bytes)
            .doing(|| format!("store {}: reading {key}", self.name))?;
        if bytes.len() as u64 > bytes_max {
            return Err(Error::failed(format!("store {}: {key} is larger than {bytes_max} bytes", self.name)));
        }
        Ok(bytes)
    }

    /// An object's size in bytes; none where there is no such object.
    pub fn size(&self, key: &str) -> Result<Option<u64>> {
        check_key(key)?;
        match &self.backend {
            Backend::Directory(dir) => self.in_directory(dir, |operator| {
                wait(async { operator.stat(key).await.map(|meta| meta.is_file().then(|| meta.content_length())) })?
                    .map_or_else(|e| if absent(&e) { Ok(None) } else { Err(self.said("looking at", key, &e)) }, Ok)
            }),
            Backend::Remote(remote) => remote.size(self.cx.as_ref(), key),
        }
    }

    /// Keys of all objects below a prefix that ends with `/`, sorted. Names that are no keys of ours (temporary files, what others left
    /// there) are not among them.
    pub fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let folder = prefix.strip_suffix('/').ok_or_else(|| Error::invalid("a prefix ends with `/`"))?;
        check_key(folder)?;
        let entries: Vec<_> = match &self.backend {
            Backend::Directory(dir) => {
                // opendal lists a file in a directory's place as nothing.
                dir.check_folder(folder)?;
                let entries = self.in_directory(dir, |operator| {
                    wait(async { operator.list_with(prefix).recursive(true).await })?
                        .map_err(|e| self.said("listing", prefix, &e))
                })?;
                entries.into_iter().map(opendal::Entry::into_parts).collect()
            }
            Backend::Remote(remote) => remote.list(self.cx.as_ref(), prefix)?,
        };
        let mut keys: Vec<String> = entries
            .into_iter()
            // Whatever else lies under such a name is listed too: reading it then says what it is.
            .filter(|(_, metadata)| !metadata.is_dir())
            .map(|(key, _)| key)
            .filter(|key| key.starts_with(prefix) && check_key(key).is_ok())
            .collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// As [`ObjectStore::list`], with what the store says of each object: when it took it, and how large it is. In a directory, that is the time
    /// of the file's last change: whoever may change that may remove the file as well.
    pub fn list_with_times(&self, prefix: &str) -> Result<Vec<Listed>> {
        let folder = prefix.strip_suffix('/').ok_or_else(|| Error::invalid("a prefix ends with `/`"))?;
        check_key(folder)?;
        let mut found = match &self.backend {
            Backend::Directory(dir) => dir.walk(folder)?,
            Backend::Remote(remote) => {
                let entries = remote.list(self.cx.as_ref(), prefix)?.into_iter();
                entries.filter(|(_, metadata)| !metadata.is_dir()).map(listed).collect()
            }
        };
        found.retain(|listed| listed.key.starts_with(prefix) && check_key(&listed.key).is_ok());
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    /// Removes an object; gone already is fine.
    pub fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        match &self.backend {
            Backend::Directory(dir) => {
                self.in_directory(dir, |operator| {
                    wait(async { operator.delete(key).await })?.map_err(|e| self.said("removing", key, &e))
                })?;
                // The order tombstone, manifest, objects must hold on disk too.
                dir.sync_parent(key)
            }
            Backend::Remote(remote) => remote.delete(self.cx.as_ref(), key),
        }
    }

    /// Calls opendal between two looks at the root: it takes a directory that vanished half-way for an empty one.
    fn in_directory<T>(
        &self,
        dir: &directory::Directory,
        call: impl FnOnce(&opendal::Operator) -> Result<T>,
    ) -> Result<T> {
        dir.root()?;
        let result = call(dir.operator()?);
        dir.root()?;
        result
    }

    fn said(&self, doing: &str, key: &str, e: &opendal::Error) -> Error {
        said(&self.name, doing, key, e)
    }
}

impl std::fmt::Debug for ObjectStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "store {}", self.name)
    }
}

fn listed((key, metadata): (String, opendal::Metadata)) -> Listed {
    let stored_at_ms = metadata.last_modified().map(|time| time.into_inner().as_millisecond());
    Listed { key, stored_at_ms: stored_at_ms.and_then(|ms| u64::try_from(ms).ok()), bytes: metadata.content_length() }
}

fn absent(e: &opendal::Error) -> bool {
    e.kind() == opendal::ErrorKind::NotFound
}

fn said(store: &str, doing: &str, key: &str, e: &opendal::Error) -> Error {
    if absent(e) {
        return no_object(store, key);
    }
    Error::failed(format!("store {store}: {doing} {key}: {}", crate::identifier::shown_long(&e.to_string())))
}

fn no_object(store: &str, key: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("store {store}: there is no object {key}"))
}

/// Runs one of opendal's calls to its end, from a blocking thread.
fn wait<T>(call: impl Future<Output = T>) -> Result<T> {
    // One worker: it only drives timers and sockets, the calls themselves run on the threads that wait for them.
    static RUNTIME: LazyLock<std::io::Result<tokio::runtime::Runtime>> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).thread_name("lifeboat-store").enable_all().build()
    });
    match &*RUNTIME {
        Ok(runtime) => Ok(runtime.block_on(call)),
        Err(e) => Err(Error::failed(format!("the stores' runtime can't be started: {e}"))),
    }
}
