//! Reading what is stored, and hashing it, on a thread of its own: the store is waited for while what came of it is decompressed.

use std::io::{BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::{CHUNK_BYTES, CHUNKS_AHEAD, Shared};
use crate::error::{Error, Result};

/// The bytes of a [`Shared`] object, a few chunks ahead of whoever reads them. Once this is gone, the thread reads no more than the chunk that it
/// has begun: whoever goes on reading the object itself gets what comes behind that.
pub(super) struct Ahead {
    chunks: Receiver<std::io::Result<Vec<u8>>>,
    returning: SyncSender<Vec<u8>>,
    /// What has come and is not used up: bytes, and how many of them were given out.
    chunk: (Vec<u8>, usize),
    ended: bool,
    /// Once failed, always failed: a reader that asks again gets no end of file.
    failed: bool,
}

impl Ahead {
    pub fn of(stored: &Shared) -> Result<Self> {
        let (sending, chunks) = sync_channel(CHUNKS_AHEAD);
        let (returning, empties) = sync_channel(CHUNKS_AHEAD + 1);
        let stored = stored.clone();
        // Ends with its object, or with the channel: nobody has to wait for it.
        std::thread::Builder::new()
            .name("lifeboat-read".into())
            .spawn(move || read(&stored, &sending, &empties))
            .map_err(|e| Error::failed(format!("starting a thread: {e}")))?;
        Ok(Self { chunks, returning, chunk: (Vec::new(), 0), ended: false, failed: false })
    }
}

/// Sends chunks until the object ends, it can't be read, or nobody takes them any more. An empty one is the end.
fn read(stored: &Shared, chunks: &SyncSender<std::io::Result<Vec<u8>>>, empties: &Receiver<Vec<u8>>) {
    loop {
        let mut chunk = empties.try_recv().unwrap_or_default();
        chunk.resize(CHUNK_BYTES, 0);
        let next = match stored.get().read(&mut chunk) {
            Ok(count) => {
                chunk.truncate(count);
                Ok(chunk)
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => Err(e),
        };
        let last = !matches!(&next, Ok(chunk) if !chunk.is_empty());
        if chunks.send(next).is_err() || last {
            return;
        }
    }
}

impl BufRead for Ahead {
    fn fill_buf(&mut self) -> std::io::Result<&[u8]> {
        if self.failed {
            return Err(std::io::Error::other("reading failed before"));
        }
        if self.chunk.1 == self.chunk.0.len() && !self.ended {
            let gone = |_| std::io::Error::other("a bug: the reading thread panicked");
            let next = self.chunks.recv().map_err(gone).and_then(|next| next).inspect_err(|_| self.failed = true)?;
            self.ended = next.is_empty();
            let (used, _) = std::mem::replace(&mut self.chunk, (next, 0));
            // The other thread may have ended, and then needs it no more.
            let _ = self.returning.try_send(used);
        }
        Ok(&self.chunk.0[self.chunk.1..])
    }

    fn consume(&mut self, count: usize) {
        self.chunk.1 += count;
    }
}

impl Read for Ahead {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}
