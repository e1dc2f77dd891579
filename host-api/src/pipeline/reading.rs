//! Back: from a store to whoever restores or checks.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use tempfile::NamedTempFile;

use super::ahead::Ahead;
use super::{CHUNK_BYTES, CHUNKS_AHEAD, ContentTally, Meter, Shared, Tallied, Tally, error_of};
use crate::context::StepContext;
use crate::disk::{free_bytes, private_dir};
use crate::encryption::Key;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::manifest::ObjectEntry;
use crate::sources::{ObjectSource, SpoolWrite, SpooledFile};
use crate::stores::ObjectStore;

/// Space that must remain in the spool directory beside the spooled object, bytes: the journal lives on the same disk.
const SPACE_MARGIN_BYTES: u64 = 64 * 1024 * 1024;

/// Where a driver's objects come from: a store, checked against a manifest's entries.
pub struct StoreSource {
    /// The store.
    pub store: Arc<ObjectStore>,
    /// Private directory for spooled objects; made if absent, mode 0700.
    pub spool_dir: PathBuf,
    /// Opens them, where they are encrypted.
    pub(crate) key: Option<Key>,
}

impl ObjectSource for StoreSource {
    fn spool_through(&self, cx: &StepContext, entry: &ObjectEntry, write: &mut SpoolWrite<'_>) -> Result<SpooledFile> {
        self.make_spool_dir()?;
        self.check_space(entry)?;
        let mut checked = Checked::open(cx, &self.store, entry, self.key.as_ref(), "fetch")?;
        let mut file = self.file(cx)?;
        loop {
            let bytes = checked.next(CHUNK_BYTES).map_err(Fault::into_error)?;
            if bytes.is_empty() {
                break;
            }
            write(bytes, &mut file)
                .map_err(|e| e.context(format!("spooling {} into {}", entry.key, self.spool_dir.display())))?;
        }
        Ok(SpooledFile { file, bytes: entry.plain_bytes })
    }

    fn stream(&self, cx: &StepContext, entry: &ObjectEntry) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(Checked::open(cx, &self.store, entry, self.key.as_ref(), "read")?))
    }

    fn private_file(&self, cx: &StepContext) -> Result<NamedTempFile> {
        self.make_spool_dir()?;
        self.file(cx)
    }
}

impl StoreSource {
    fn file(&self, cx: &StepContext) -> Result<NamedTempFile> {
        tempfile::Builder::new()
            .prefix(&cx.spool_prefix())
            .tempfile_in(&self.spool_dir)
            .doing(|| format!("making a file in {}", self.spool_dir.display()))
    }

    fn make_spool_dir(&self) -> Result<()> {
        let shown = self.spool_dir.display();
        private_dir(&self.spool_dir)?;
        // It may be older than we are.
        std::fs::set_permissions(&self.spool_dir, std::fs::Permissions::from_mode(0o700))
            .doing(|| format!("making {shown} private"))
    }

    fn check_space(&self, entry: &ObjectEntry) -> Result<()> {
        let shown = self.spool_dir.display();
        let free = free_bytes(&self.spool_dir).map_err(|e| e.context("nothing is spooled"))?;
        let needed = entry.plain_bytes.saturating_add(SPACE_MARGIN_BYTES);
        if free < needed {
            return Err(Error::failed(format!("{} needs {needed} bytes in {shown}, where {free} are free", entry.key))
                .hint("free space there, or move the engine's state directory"));
        }
        Ok(())
    }
}

/// Why an object could not be read to a good end.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The object is not what the manifest says: reading it again changes nothing.
    Damaged(Error),
    /// The check could not run: store gone, deadline, cancellation.
    Unreadable(Error),
}

impl Fault {
    pub(crate) fn into_error(self) -> Error {
        match self {
            Self::Damaged(e) | Self::Unreadable(e) => e,
        }
    }
}

impl From<Error> for Fault {
    fn from(e: Error) -> Self {
        Self::Unreadable(e)
    }
}

/// Reads every stored byte of an object into `into` and compares size and digest.
pub(crate) fn check_stored(
    cx: &StepContext,
    store: &ObjectStore,
    entry: &ObjectEntry,
    what: &str,
    into: &mut dyn Write,
) -> Result<(), Fault> {
    let mut stored = open(store, entry)?;
    let mut meter = Meter::new(cx, format!("{what} {}", entry.key), Some(entry.stored_bytes));
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match stored.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => {
                meter.add(count)?;
                into.write_all(&chunk[..count]).map_err(error_of)?;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(explain(store, entry, &mut stored, &e)),
        }
    }
    compare(store, entry, "stored", &stored.tally, entry.stored_bytes, &entry.stored_sha256)?;
    meter.end();
    Ok(())
}

/// Reads, decrypts and decompresses an object and compares all sizes and digests.
pub(crate) fn check_content(
    cx: &StepContext,
    store: &ObjectStore,
    entry: &ObjectEntry,
    key: Option<&Key>,
) -> Result<(), Fault> {
    let mut checked = Checked::open_or(cx, store, entry, key, "check", true)?;
    while !checked.next(CHUNK_BYTES)?.is_empty() {}
    Ok(())
}

/// An object's content, compared with its entry at the end; fails there rather than ending as if all were well. What is stored is read and
/// hashed on one thread, decompressed on another, beside the hashing and the use of the content.
struct Checked {
    pieces: Receiver<Result<Piece, Fault>>,
    returning: SyncSender<Vec<u8>>,
    /// What has come and is not used up: bytes, and how many of them were given out.
    piece: (Vec<u8>, usize),
    plain: ContentTally,
    entry: ObjectEntry,
    store: String,
    meter: Meter,
    ended: bool,
    /// Once failed, always failed: a reader that asks again gets no end of file.
    failed: Option<Error>,
}

/// What comes from the decompressing thread.
enum Piece {
    Content(Vec<u8>),
    /// The end, and what was read of the store until then.
    End(Tally),
}

impl Checked {
    fn open(cx: &StepContext, store: &ObjectStore, entry: &ObjectEntry, key: Option<&Key>, what: &str) -> Result<Self> {
        Self::open_or(cx, store, entry, key, what, false).map_err(Fault::into_error)
    }

    fn open_or(
        cx: &StepContext,
        store: &ObjectStore,
        entry: &ObjectEntry,
        key: Option<&Key>,
        what: &str,
        thorough: bool,
    ) -> Result<Self, Fault> {
        cx.check()?;
        let stored = Shared(Arc::new(Mutex::new(open(store, entry)?)));
        let opened = decrypted(store, entry, &stored, key)?;
        let decoder = zstd::stream::read::Decoder::with_buffer(opened).map_err(error_of)?;
        let (sending, pieces) = sync_channel(CHUNKS_AHEAD);
        let (returning, empties) = sync_channel(CHUNKS_AHEAD + 1);
        let (store, object) = (store.name().to_owned(), entry.clone());
        // Ends with its object, or with the channel: nobody has to wait for it.
        std::thread::Builder::new()
            .name("lifeboat-decompress".into())
            .spawn({
                let store = store.clone();
                move || decompress(decoder, &stored, &store, &object, &sending, &empties)
            })
            .map_err(|e| Error::failed(format!("starting a thread: {e}")))?;
        Ok(Self {
            pieces,
            returning,
            piece: (Vec::new(), 0),
            plain: ContentTally::of(entry, thorough),
            meter: Meter::new(cx, format!("{what} {}", entry.key), Some(entry.plain_bytes)),
            entry: entry.clone(),
            store,
            ended: false,
            failed: None,
        })
    }

    /// The next bytes; none only after everything was compared.
    fn next(&mut self, bytes_max: usize) -> Result<&[u8], Fault> {
        if let Some(e) = &self.failed {
            return Err(Fault::Damaged(e.clone()));
        }
        if !self.ended && self.piece.1 == self.piece.0.len() {
            let result = self.step();
            if let Err(Fault::Damaged(e) | Fault::Unreadable(e)) = &result {
                self.failed = Some(e.clone());
            }
            result?;
        }
        let (piece, given) = &mut self.piece;
        let from = *given;
        *given = piece.len().min(from + bytes_max);
        Ok(&piece[from..*given])
    }

    /// Takes the next piece, or comes to the end and compares.
    fn step(&mut self) -> Result<(), Fault> {
        let gone = || Error::failed("a bug: the decompressing thread panicked");
        match self.pieces.recv().map_err(|_| gone())?? {
            Piece::Content(piece) => {
                self.meter.add(piece.len())?;
                // Before the caller sees them: a few kilobytes may unpack to terabytes.
                if self.plain.bytes + piece.len() as u64 > self.entry.plain_bytes {
                    let what =
                        format!("it decompresses to more than the {} bytes of its content", self.entry.plain_bytes);
                    return Err(damaged(&self.store, &self.entry, &what));
                }
                self.plain.add(&piece);
                let (used, _) = std::mem::replace(&mut self.piece, (piece, 0));
                // The other thread may have ended, and then needs it no more.
                let _ = self.returning.try_send(used);
            }
            Piece::End(stored) => {
                let entry = &self.entry;
                compare_in(&self.store, entry, "stored", &stored, entry.stored_bytes, &entry.stored_sha256)?;
                self.compare_content()?;
                self.piece = (Vec::new(), 0);
                self.ended = true;
                self.meter.end();
            }
        }
        Ok(())
    }

    fn compare_content(&self) -> Result<(), Fault> {
        let (entry, plain) = (&self.entry, &self.plain);
        let differs = |what: String| Err(damaged(&self.store, entry, &what));
        if plain.bytes != entry.plain_bytes {
            return differs(format!("{} bytes expected decompressed, {} found", entry.plain_bytes, plain.bytes));
        }
        let digests = [
            ("SHA-256", Some(&entry.plain_sha256), plain.sha256()),
            ("xxh3-128", entry.plain_xxh3_128.as_ref(), plain.xxh3_128()),
        ];
        for (name, expected, found) in digests {
            if let (Some(expected), Some(found)) = (expected, found)
                && *expected != found
            {
                return differs(format!("{name} {expected} expected decompressed, {found} found"));
            }
        }
        Ok(())
    }
}

/// The other side of [`Checked`]: sends pieces until the object ends, a fault, or nobody takes them any more.
fn decompress(
    mut decoder: zstd::stream::read::Decoder<'static, Opened>,
    stored: &Shared,
    store: &str,
    entry: &ObjectEntry,
    pieces: &SyncSender<Result<Piece, Fault>>,
    empties: &Receiver<Vec<u8>>,
) {
    loop {
        let mut piece = empties.try_recv().unwrap_or_default();
        piece.resize(CHUNK_BYTES, 0);
        let next = match fill(&mut decoder, &mut piece) {
            Ok(0) => Ok(Piece::End(std::mem::take(&mut stored.get().tally))),
            Ok(count) => {
                piece.truncate(count);
                Ok(Piece::Content(piece))
            }
            Err(e) => Err(explain_in(store, entry, &mut stored.get(), &e)),
        };
        let last = !matches!(next, Ok(Piece::Content(_)));
        if pieces.send(next).is_err() || last {
            return;
        }
    }
}

/// Longest header of age that is read: 64 recipients take some 13 KB.
const AGE_HEADER_BYTES_MAX: u64 = 64 * 1024;

/// What the decompressor reads: an object's bytes, decrypted where they are encrypted.
type Opened = Box<dyn BufRead + Send>;

/// An age header is a few hundred bytes for each recipient; it is read before the digest of the whole can be.
fn decrypted(store: &ObjectStore, entry: &ObjectEntry, stored: &Shared, key: Option<&Key>) -> Result<Opened, Fault> {
    let mut ahead = Ahead::of(stored)?;
    let Some(key) = key else { return Ok(Box::new(ahead)) };
    let head = match header(&mut ahead) {
        Ok(head) => head,
        Err(e) => return Err(explain_in(store.name(), entry, &mut stored.get(), &e)),
    };
    let header = age::Decryptor::new_buffered(std::io::Cursor::new(head).chain(ahead));
    let opened = header.and_then(|decryptor| decryptor.decrypt(key.identities()));
    match opened {
        Ok(reader) => Ok(Box::new(BufReader::with_capacity(CHUNK_BYTES, reader))),
        Err(e) => {
            let why = match &e {
                age::DecryptError::NoMatchingKeys => {
                    format!("none of the keys here opens it ({})", key.fingerprints().join(", "))
                }
                age::DecryptError::Io(e) => e.to_string(),
                _ => "it is not what age writes".into(),
            };
            Err(explain_in(store.name(), entry, &mut stored.get(), &std::io::Error::other(why)))
        }
    }
}

/// The lines of an age header. Its parser begins anew after each line and has no limit of its own: one that never ends would keep it busy for
/// ever, before any digest could be compared.
fn header(reader: &mut impl BufRead) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    loop {
        let from = head.len();
        let room = AGE_HEADER_BYTES_MAX.saturating_sub(from as u64);
        reader.by_ref().take(room).read_until(b'\n', &mut head)?;
        if head[from..].starts_with(b"--- ") {
            return Ok(head);
        }
        if !head.ends_with(b"\n") || head.len() == from {
            return Err(std::io::Error::other("it has no header of age"));
        }
    }
}

/// Reads until the buffer is full or the end has come.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let bytes = self.next(buffer.len()).map_err(|fault| std::io::Error::other(fault.into_error()))?;
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }
}

/// Looks whether an object is there with the right size.
pub(crate) fn check_size(store: &ObjectStore, entry: &ObjectEntry) -> Result<(), Fault> {
    match store.size(&entry.key)? {
        Some(bytes) if bytes == entry.stored_bytes => Ok(()),
        Some(bytes) => {
            let what = format!("{} bytes expected as stored, {bytes} found", entry.stored_bytes);
            Err(damaged(store.name(), entry, &what))
        }
        None => Err(damaged(store.name(), entry, "it is not there")),
    }
}

fn open(store: &ObjectStore, entry: &ObjectEntry) -> Result<Tallied, Fault> {
    check_size(store, entry)?;
    let inner = store.open_object(&entry.key)?;
    Ok(Tallied { inner, tally: Tally::default(), bytes_max: entry.stored_bytes, unreadable: None })
}

fn explain(store: &ObjectStore, entry: &ObjectEntry, stored: &mut Tallied, e: &std::io::Error) -> Fault {
    explain_in(store.name(), entry, stored, e)
}

/// What a failed read means: that the store can't be read, or that the object's bytes are not the manifest's.
fn explain_in(store: &str, entry: &ObjectEntry, stored: &mut Tallied, e: &std::io::Error) -> Fault {
    let mut rest = vec![0; CHUNK_BYTES];
    // The decompressor stops at the first bad byte; the digest is over all of them.
    while stored.unreadable.is_none() && matches!(stored.read(&mut rest), Ok(1..)) {}
    if let Some(e) = stored.unreadable.take() {
        return Fault::Unreadable(e.context(format!("store {store}: reading {}", entry.key)));
    }
    match compare_in(store, entry, "stored", &stored.tally, entry.stored_bytes, &entry.stored_sha256) {
        Err(fault) => fault,
        Ok(()) => {
            let how = if entry.key.ends_with(".age") { "can not be opened" } else { "do not decompress" };
            damaged(store, entry, &format!("its bytes are those that were stored, but {how}: {e}"))
        }
    }
}

fn compare(
    store: &ObjectStore,
    entry: &ObjectEntry,
    which: &str,
    found: &Tally,
    bytes: u64,
    sha256: &str,
) -> Result<(), Fault> {
    compare_in(store.name(), entry, which, found, bytes, sha256)
}

fn compare_in(
    store: &str,
    entry: &ObjectEntry,
    which: &str,
    found: &Tally,
    bytes: u64,
    sha256: &str,
) -> Result<(), Fault> {
    if found.bytes != bytes {
        return Err(damaged(store, entry, &format!("{bytes} bytes expected {which}, {} found", found.bytes)));
    }
    let digest = found.sha256();
    if digest != sha256 {
        return Err(damaged(store, entry, &format!("SHA-256 {sha256} expected {which}, {digest} found")));
    }
    Ok(())
}

fn damaged(store: &str, entry: &ObjectEntry, what: &str) -> Fault {
    Fault::Damaged(
        Error::new(ErrorKind::Failed, format!("store {store}: object {} is damaged: {what}", entry.key))
            .hint("use another copy of this backup, or an earlier backup; then find out what changed this one"),
    )
}
