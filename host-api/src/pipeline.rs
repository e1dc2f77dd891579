//! The byte pipeline between a source and a store, in bounded memory.
//!
//! Out ([`StoreSink`]): content → digests and count → zstd → age, if there are recipients → SHA-256 and count → store. Back
//! ([`StoreSource`]): store → SHA-256 and count → age → zstd → digest and count → a private file or a reader, and nothing is taken for whole
//! before all four agree with the manifest.
//!
//! What is stored has a SHA-256, which nobody can match with other bytes. What comes of those bytes is then certain but for a fault of a
//! machine, for which a restore compares the faster xxh3-128; a check of the content compares its SHA-256.

mod ahead;
mod reading;
#[cfg(test)]
mod tests;
mod writing;

use std::io::Read;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3;

use crate::context::StepContext;
use crate::error::Error;
use crate::manifest::ObjectEntry;

pub use reading::StoreSource;
pub(crate) use reading::{Fault, check_content, check_size, check_stored};
pub use writing::StoreSink;

/// What moves through at once: large enough that system calls and channels cost nothing, small enough to hold a dozen.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Chunks on their way to or from the compressing thread: it may stall that long before the other side does.
const CHUNKS_AHEAD: usize = 4;
/// Longest silence in a step's progress while bytes move.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);

/// What an I/O error of ours was before it went through [`std::io`]: its kind and hint survive.
pub fn error_of(e: std::io::Error) -> Error {
    match e.downcast::<Error>() {
        Ok(error) => error,
        Err(e) if e.kind() == std::io::ErrorKind::StorageFull => Error::failed(e.to_string()).hint("free some space"),
        Err(e) => Error::failed(e.to_string()),
    }
}

/// Counts bytes and reports them, not more often than people can read.
struct Meter {
    cx: StepContext,
    what: String,
    done_bytes: u64,
    total_bytes: Option<u64>,
    reported: Instant,
}

impl Meter {
    fn new(cx: &StepContext, what: String, total_bytes: Option<u64>) -> Self {
        cx.report(&what, 0, total_bytes);
        Self { cx: cx.clone(), what, done_bytes: 0, total_bytes, reported: Instant::now() }
    }

    /// Adds bytes; an error if the step should end.
    fn add(&mut self, bytes: usize) -> Result<(), Error> {
        self.done_bytes += bytes as u64;
        if self.reported.elapsed() >= PROGRESS_INTERVAL {
            self.reported = Instant::now();
            self.cx.report(&self.what, self.done_bytes, self.total_bytes);
        }
        self.cx.check()
    }

    fn end(&self) {
        self.cx.report(&self.what, self.done_bytes, Some(self.done_bytes));
    }
}

/// SHA-256 and count of what goes by.
#[derive(Default)]
struct Tally {
    sha256: Sha256,
    bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn sha256(&self) -> String {
        hex::encode(self.sha256.clone().finalize())
    }
}

/// Digests and count of content that goes by.
#[derive(Default)]
struct ContentTally {
    bytes: u64,
    sha256: Option<Sha256>,
    xxh3_128: Option<Box<Xxh3>>,
}

impl ContentTally {
    /// Both digests.
    fn both() -> Self {
        Self { bytes: 0, sha256: Some(Sha256::new()), xxh3_128: Some(Box::new(Xxh3::new())) }
    }

    /// Those of an entry's that are compared: `thorough`, all.
    fn of(entry: &ObjectEntry, thorough: bool) -> Self {
        let quick = entry.plain_xxh3_128.is_some();
        let both = Self::both();
        Self {
            sha256: both.sha256.filter(|_| thorough || !quick),
            xxh3_128: both.xxh3_128.filter(|_| quick),
            ..Self::default()
        }
    }

    fn add(&mut self, bytes: &[u8]) {
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
        if let Some(xxh3) = &mut self.xxh3_128 {
            xxh3.update(bytes);
        }
        self.bytes += bytes.len() as u64;
    }

    fn sha256(&self) -> Option<String> {
        self.sha256.as_ref().map(|sha256| hex::encode(sha256.clone().finalize()))
    }

    fn xxh3_128(&self) -> Option<String> {
        self.xxh3_128.as_ref().map(|xxh3| format!("{:032x}", xxh3.digest128()))
    }
}

/// The same object for whoever reads it and whoever has to explain a failure: what is between the two gives nothing back.
#[derive(Clone)]
struct Shared(Arc<Mutex<Tallied>>);

impl Shared {
    fn get(&self) -> MutexGuard<'_, Tallied> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A store's object as it is read: tallied, and never longer than it may be.
struct Tallied {
    inner: Box<dyn Read + Send>,
    tally: Tally,
    bytes_max: u64,
    /// Why the store could not be read: that says nothing about the object.
    unreadable: Option<Error>,
}

impl Read for Tallied {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self.inner.read(buffer) {
            Ok(count) => {
                self.tally.add(&buffer[..count]);
                if self.tally.bytes > self.bytes_max {
                    return Err(std::io::Error::other("longer than its entry in the manifest says"));
                }
                Ok(count)
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => Err(e),
            Err(e) => {
                // Cancelled stays cancelled, and a hint is kept.
                let e = error_of(e);
                self.unreadable = Some(e.clone());
                Err(std::io::Error::other(e))
            }
        }
    }
}
