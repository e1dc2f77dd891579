//! Out: from a driver into a store.

use std::io::Write;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use super::{CHUNK_BYTES, CHUNKS_AHEAD, ContentTally, Meter, Tally, error_of};
use crate::context::StepContext;
use crate::encryption::Encryption;
use crate::error::{Error, Result};
use crate::manifest::ObjectEntry;
use crate::reference::SharedIndex;
use crate::sources::{ObjectSink, ObjectWriter};
use crate::stores::{ObjectStore, Put, StoreWriter};

/// Level 1: higher ones cost a dump more time than they save space (measured: level 3 is as fast only while a core idles).
const LEVEL: i32 = 1;
/// Compressing threads: two keep up with `pg_dump`, and more would take the service's cores.
const WORKERS_MAX: u32 = 2;

/// Where a driver's objects go: `PREFIX/SOURCE.ROLE.EXTENSION.zst` in a store, with `.age` behind it if they are encrypted.
pub struct StoreSink {
    /// The store.
    pub store: Arc<ObjectStore>,
    /// `SERVICE/objects/BACKUP/ATTEMPT`: an attempt's objects are never reused, so a key that is taken is an error.
    pub prefix: String,
    /// The source's name.
    pub source: String,
    /// The step it is done for.
    pub cx: StepContext,
    /// Is told of the index of a directory's files, where somebody asks for it.
    pub(crate) index: Option<SharedIndex>,
    /// Whom objects are encrypted for.
    pub(crate) encryption: Arc<Encryption>,
}

impl ObjectSink for StoreSink {
    fn create(&self, role: &str, extension: &str, expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        self.begin(role, extension, expected_bytes, expected_bytes)
    }

    fn create_about(&self, role: &str, extension: &str, about_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        self.begin(role, extension, None, about_bytes)
    }
}

impl StoreSink {
    fn begin(
        &self,
        role: &str,
        extension: &str,
        expected_bytes: Option<u64>,
        about_bytes: Option<u64>,
    ) -> Result<Box<dyn ObjectWriter>> {
        self.cx.check()?;
        let sealed = if self.encryption.recipients().is_empty() { "" } else { ".age" };
        let key = format!("{}/{}.{role}.{extension}.zst{sealed}", self.prefix, self.source);
        let stored = Stored { inner: self.store.writer_of_own(&key, about_bytes)?, tally: Tally::default() };
        let (chunks, incoming) = sync_channel(CHUNKS_AHEAD);
        let (returning, empties) = channel();
        let (cx, encryption) = (self.cx.clone(), self.encryption.clone());
        let label = format!("store {}: writing {key}", self.store.name());
        let entry = ObjectEntry {
            role: role.to_owned(),
            key,
            stored_bytes: 0,
            stored_sha256: String::new(),
            plain_bytes: 0,
            plain_sha256: String::new(),
            plain_xxh3_128: None,
        };
        let worker = std::thread::Builder::new()
            .name("lifeboat-compress".into())
            .spawn(move || {
                compress(&cx, entry, stored, &encryption, &incoming, &returning).map_err(|e| e.context(label))
            })
            .map_err(|e| Error::failed(format!("starting a thread: {e}")))?;
        let index = self.index.clone().filter(|_| role == "index");
        index.iter().for_each(SharedIndex::begin);
        Ok(Box::new(Compressing {
            index,
            chunk: Vec::with_capacity(CHUNK_BYTES),
            chunks: Some(chunks),
            empties,
            worker: Some(worker),
            meter: Meter::new(&self.cx, format!("dump {} ({role})", self.source), expected_bytes),
        }))
    }
}

/// What goes to the compressing thread. The channel's end without [`Message::Finish`] is an abort.
enum Message {
    Chunk(Vec<u8>),
    Finish,
}

/// The driver's end. Hashing, compressing and storing happen on a thread of their own, so that the source is read meanwhile.
struct Compressing {
    chunk: Vec<u8>,
    /// None after the end or a failure.
    chunks: Option<SyncSender<Message>>,
    empties: Receiver<Vec<u8>>,
    worker: Option<JoinHandle<Result<ObjectEntry>>>,
    meter: Meter,
    index: Option<SharedIndex>,
}

impl Compressing {
    fn send(&mut self, message: Message) -> Result<()> {
        match &self.chunks {
            Some(chunks) if chunks.send(message).is_ok() => Ok(()),
            // The thread ended early: it knows why.
            _ => Err(self.ended().err().unwrap_or_else(|| Error::failed("this object was ended before"))),
        }
    }

    fn send_chunk(&mut self) -> Result<()> {
        let next = self.empties.try_recv().unwrap_or_else(|_| Vec::with_capacity(CHUNK_BYTES));
        let full = std::mem::replace(&mut self.chunk, next);
        self.index.iter().for_each(|index| index.add(&full));
        let bytes = full.len();
        self.send(Message::Chunk(full))?;
        self.meter.add(bytes)
    }

    fn ended(&mut self) -> Result<ObjectEntry> {
        self.chunks = None;
        match self.worker.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(_)) => Err(Error::failed("a bug: the compressing thread panicked")),
            None => Err(Error::failed("this object failed before")),
        }
    }
}

impl Write for Compressing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..count]);
        if self.chunk.len() == CHUNK_BYTES {
            self.send_chunk().map_err(std::io::Error::other)?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        // Chunks are a matter of this pipeline: what counts is `finish`.
        Ok(())
    }
}

impl ObjectWriter for Compressing {
    fn finish(mut self: Box<Self>) -> Result<ObjectEntry> {
        if !self.chunk.is_empty() {
            self.send_chunk()?;
        }
        self.meter.cx.check()?;
        self.send(Message::Finish)?;
        let entry = self.ended()?;
        self.meter.end();
        Ok(entry)
    }
}

impl Drop for Compressing {
    fn drop(&mut self) {
        // Waits, so that nothing of an aborted object is left when this is gone. How it ended does not matter any more.
        let _ = self.ended();
    }
}

fn compress(
    cx: &StepContext,
    entry: ObjectEntry,
    stored: Stored,
    encryption: &Encryption,
    incoming: &Receiver<Message>,
    returning: &Sender<Vec<u8>>,
) -> Result<ObjectEntry> {
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let sealing = Sealing::new(encryption, stored)?;
    let mut encoder = zstd::stream::write::Encoder::new(sealing, LEVEL).map_err(error_of)?;
    encoder.include_checksum(true).map_err(error_of)?;
    encoder.multithread(cores.min(WORKERS_MAX)).map_err(error_of)?;
    let mut plain = ContentTally::both();
    loop {
        match incoming.recv() {
            Ok(Message::Chunk(mut chunk)) => {
                plain.add(&chunk);
                encoder.write_all(&chunk).map_err(error_of)?;
                chunk.clear();
                // Nobody takes them back after the last one.
                let _ = returning.send(chunk);
            }
            Ok(Message::Finish) => break,
            Err(_) => return Err(Error::failed("aborted")),
        }
    }
    let Stored { inner, tally } = encoder.finish().and_then(Sealing::finish).map_err(error_of)?;
    match inner.finish(&|| cx.check())? {
        Put::Created => Ok(ObjectEntry {
            stored_bytes: tally.bytes,
            stored_sha256: tally.sha256(),
            plain_bytes: plain.bytes,
            plain_sha256: plain.sha256().unwrap_or_default(),
            plain_xxh3_128: plain.xxh3_128(),
            ..entry
        }),
        Put::Exists => Err(Error::conflict("there is such an object already")
            .hint("an attempt's objects are never reused: start a new attempt")),
    }
}

/// Encryption, where there is any.
enum Sealing {
    Open(Stored),
    Sealed(Box<age::stream::StreamWriter<Stored>>),
}

impl Sealing {
    fn new(encryption: &Encryption, stored: Stored) -> Result<Self> {
        let recipients = encryption.recipients();
        if recipients.is_empty() {
            return Ok(Self::Open(stored));
        }
        let recipients = recipients.iter().map(|recipient| recipient as &dyn age::Recipient);
        let encryptor = age::Encryptor::with_recipients(recipients)
            .map_err(|e| Error::failed(format!("encrypting for the recipients: {e}")))?;
        encryptor.wrap_output(stored).map(|writer| Self::Sealed(Box::new(writer))).map_err(error_of)
    }

    fn finish(self) -> std::io::Result<Stored> {
        match self {
            Self::Open(stored) => Ok(stored),
            Self::Sealed(writer) => writer.finish(),
        }
    }
}

impl Write for Sealing {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Open(stored) => stored.write(bytes),
            Self::Sealed(writer) => writer.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Open(stored) => stored.flush(),
            Self::Sealed(writer) => writer.flush(),
        }
    }
}

/// The store's writer, tallied.
struct Stored {
    inner: Box<dyn StoreWriter>,
    tally: Tally,
}

impl Write for Stored {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.tally.add(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
