//! Stores: named places for backups, behind one blocking interface.
//!
//! | backend | writes | reads | list, size, delete |
//! | --- | --- | --- | --- |
//! | [`directory`] | ours: temporary name, fsync, `link`, fsync of the directories | ours, never through a symbolic link | opendal |
//! | [`remote`] (memory now, S3 and the like later) | opendal's writer with `if-not-exists` | opendal | opendal |
//!
//! Every method blocks, so all are called from threads made for blocking work (`real::blocking`, a pipeline's own threads). What
//! opendal does asynchronously runs on one small runtime of this module, so that a caller's runtime, however busy or single-threaded,
//! is never what a store waits for. Calling from an asynchronous task directly is a bug, and tokio answers it with a panic.

mod directory;
mod key;
mod remote;
#[cfg(test)]
mod tests;

use std::io::{Read, Write};
use std::sync::LazyLock;

use crate::bindings;
use crate::context::StepContext;
use crate::error::{Context, Error, ErrorKind, Result};

pub use key::check_key;

/// A named place for objects. Objects are written once, whole, and never changed.
pub struct ObjectStore {
    name: String,
    backend: Backend,
}

enum Backend {
    Directory(directory::Directory),
    Remote(remote::Remote),
}

/// What a put-if-absent did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object is there now, and durable.
    Created,
    /// There is an object of this key; it was left as it is.
    Exists,
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
            bindings::Store::Directory(dir) => Backend::Directory(directory::Directory::new(name, &dir.path)),
        };
        Ok(Self { name: name.to_owned(), backend })
    }

    /// A store that lives and ends with this value: for tests and simulations.
    pub fn memory(name: &str) -> Result<Self> {
        Ok(Self { name: name.to_owned(), backend: Backend::Remote(remote::Remote::memory(name)?) })
    }

    /// Its name in the environment.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An error unless the store can be reached now.
    pub fn check(&self) -> Result<()> {
        match &self.backend {
            Backend::Directory(dir) => dir.root().map(drop),
            Backend::Remote(remote) => remote.check(),
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
        check_key(key)?;
        match &self.backend {
            Backend::Directory(dir) => dir.writer(key),
            Backend::Remote(remote) => remote.writer(key),
        }
    }

    /// Streams an object's bytes, as stored.
    pub fn open_object(&self, key: &str) -> Result<Box<dyn Read + Send>> {
        check_key(key)?;
        match &self.backend {
            Backend::Directory(dir) => dir.open(key),
            Backend::Remote(remote) => remote.open(key),
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
        self.with_operator(|operator| {
            wait(async { operator.stat(key).await.map(|meta| meta.is_file().then(|| meta.content_length())) })?
                .map_or_else(|e| if absent(&e) { Ok(None) } else { Err(self.said("looking at", key, &e)) }, Ok)
        })
    }

    /// Keys of all objects below a prefix that ends with `/`, sorted. Names that are no keys of ours (temporary files, what others left
    /// there) are not among them.
    pub fn list(&self, prefix: &str) -> Result<Vec<String>> {
        let folder = prefix.strip_suffix('/').ok_or_else(|| Error::invalid("a prefix ends with `/`"))?;
        check_key(folder)?;
        if let Backend::Directory(dir) = &self.backend {
            // opendal lists a file in a directory's place as nothing.
            dir.check_folder(folder)?;
        }
        let entries = self.with_operator(|operator| {
            wait(async { operator.list_with(prefix).recursive(true).await })?
                .map_err(|e| self.said("listing", prefix, &e))
        })?;
        let mut keys: Vec<String> = entries
            .into_iter()
            // Whatever else lies under such a name is listed too: reading it then says what it is.
            .filter(|entry| !entry.metadata().is_dir())
            .map(|entry| entry.path().to_owned())
            .filter(|key| key.starts_with(prefix) && check_key(key).is_ok())
            .collect();
        keys.sort_unstable();
        Ok(keys)
    }

    /// Removes an object; gone already is fine.
    pub fn delete(&self, key: &str) -> Result<()> {
        check_key(key)?;
        self.with_operator(|operator| {
            wait(async { operator.delete(key).await })?.map_err(|e| self.said("removing", key, &e))
        })?;
        match &self.backend {
            // The order tombstone, manifest, objects must hold on disk too.
            Backend::Directory(dir) => dir.sync_parent(key),
            Backend::Remote(_) => Ok(()),
        }
    }

    /// Calls opendal between two looks at the root: it takes a directory that vanished half-way for an empty one.
    fn with_operator<T>(&self, call: impl FnOnce(&opendal::Operator) -> Result<T>) -> Result<T> {
        match &self.backend {
            Backend::Directory(dir) => {
                dir.root()?;
                let result = call(dir.operator()?);
                dir.root()?;
                result
            }
            Backend::Remote(remote) => call(remote.operator()),
        }
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
