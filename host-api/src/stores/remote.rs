//! Stores behind opendal's own writer: memory now; S3, GCS and Azure are one constructor each.

use std::io::{Read, Write};

use super::{Put, StoreWriter, said, wait};
use crate::error::{Error, Result};

/// How much is asked for, and sent, at once.
const CHUNK_BYTES: usize = 8 * 1024 * 1024;

pub(super) struct Remote {
    name: String,
    operator: opendal::Operator,
}

impl Remote {
    pub(super) fn memory(name: &str) -> Result<Self> {
        let operator = opendal::Operator::new(opendal::services::Memory::default())
            .map_err(|e| Error::failed(format!("store {name}: {e}")))?;
        Ok(Self { name: name.to_owned(), operator })
    }

    pub(super) fn operator(&self) -> &opendal::Operator {
        &self.operator
    }

    pub(super) fn check(&self) -> Result<()> {
        wait(self.operator.check())?.map_err(|e| said(&self.name, "reaching", "", &e))
    }

    pub(super) fn writer(&self, key: &str) -> Result<Box<dyn StoreWriter>> {
        let writer = wait(async { self.operator.writer_with(key).if_not_exists(true).chunk(CHUNK_BYTES).await })?;
        Ok(Box::new(RemoteWriter {
            store: self.name.clone(),
            key: key.to_owned(),
            // A backend that can look before it writes says so here already.
            writer: match writer {
                Ok(writer) => Some(writer),
                Err(e) if taken(&e) => None,
                Err(e) => return Err(said(&self.name, "writing", key, &e)),
            },
            finished: false,
        }))
    }

    pub(super) fn open(&self, key: &str) -> Result<Box<dyn Read + Send>> {
        let opened = wait(async {
            let size = self.operator.stat(key).await?.content_length();
            Ok((self.operator.reader(key).await?, size))
        })?;
        let (reader, size) = opened.map_err(|e| said(&self.name, "reading", key, &e))?;
        Ok(Box::new(RemoteReader { reader, size, offset: 0, chunk: bytes::Bytes::new() }))
    }
}

fn taken(e: &opendal::Error) -> bool {
    matches!(e.kind(), opendal::ErrorKind::ConditionNotMatch | opendal::ErrorKind::AlreadyExists)
}

struct RemoteWriter {
    store: String,
    key: String,
    /// None once the key is known to be taken: the rest is swallowed.
    writer: Option<opendal::Writer>,
    finished: bool,
}

impl Write for RemoteWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if let Some(writer) = &mut self.writer {
            match wait(writer.write(bytes.to_vec())).map_err(std::io::Error::other)? {
                Ok(()) => {}
                Err(e) if taken(&e) => self.writer = None,
                Err(e) => return Err(std::io::Error::other(e)),
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl StoreWriter for RemoteWriter {
    fn finish(mut self: Box<Self>, may: &dyn Fn() -> Result<()>) -> Result<Put> {
        may()?;
        self.finished = true;
        let Some(writer) = &mut self.writer else { return Ok(Put::Exists) };
        match wait(writer.close())? {
            Ok(_) => Ok(Put::Created),
            Err(e) if taken(&e) => Ok(Put::Exists),
            Err(e) => Err(said(&self.store, "writing", &self.key, &e)),
        }
    }
}

impl Drop for RemoteWriter {
    fn drop(&mut self) {
        if let (false, Some(writer)) = (self.finished, &mut self.writer) {
            // What can't be aborted is not visible either: an upload that was not completed is no object.
            let _ = wait(writer.abort());
        }
    }
}

struct RemoteReader {
    reader: opendal::Reader,
    size: u64,
    offset: u64,
    chunk: bytes::Bytes,
}

impl Read for RemoteReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.chunk.is_empty() && self.offset < self.size {
            let end = self.size.min(self.offset + CHUNK_BYTES as u64);
            let read = wait(self.reader.read(self.offset..end)).map_err(std::io::Error::other)?;
            self.chunk = read.map_err(std::io::Error::other)?.to_bytes();
            self.offset += self.chunk.len() as u64;
        }
        let count = buffer.len().min(self.chunk.len());
        buffer[..count].copy_from_slice(&self.chunk.split_to(count));
        Ok(count)
    }
}
