//! Back: from a store to whoever restores or checks.

use std::io::{BufReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use super::{CHUNK_BYTES, Meter, Tallied, Tally, error_of};
use crate::context::StepContext;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::manifest::ObjectEntry;
use crate::sources::{ObjectSource, SpooledFile};
use crate::stores::ObjectStore;

/// Space that must remain in the spool directory beside the spooled object, bytes: the journal lives on the same disk.
const SPACE_MARGIN_BYTES: u64 = 64 * 1024 * 1024;

/// Where a driver's objects come from: a store, checked against a manifest's entries.
pub struct StoreSource {
    /// The store.
    pub store: Arc<ObjectStore>,
    /// Private directory for spooled objects; made if absent, mode 0700.
    pub spool_dir: PathBuf,
}

impl ObjectSource for StoreSource {
    fn spool(&self, cx: &StepContext, entry: &ObjectEntry) -> Result<SpooledFile> {
        self.make_spool_dir()?;
        self.check_space(entry)?;
        let mut checked = Checked::open(cx, &self.store, entry, "fetch")?;
        let mut file = tempfile::Builder::new()
            .prefix("spool-")
            .tempfile_in(&self.spool_dir)
            .doing(|| format!("making a file in {}", self.spool_dir.display()))?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = checked.next(&mut chunk).map_err(Fault::into_error)?;
            if count == 0 {
                break;
            }
            file.write_all(&chunk[..count]).map_err(|e| {
                error_of(e).context(format!("spooling {} into {}", entry.key, self.spool_dir.display()))
            })?;
        }
        Ok(SpooledFile { file, bytes: entry.plain_bytes })
    }

    fn stream(&self, cx: &StepContext, entry: &ObjectEntry) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(Checked::open(cx, &self.store, entry, "read")?))
    }
}

impl StoreSource {
    fn make_spool_dir(&self) -> Result<()> {
        let shown = self.spool_dir.display();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.spool_dir)
            .doing(|| format!("creating {shown}"))?;
        // It may be older than we are.
        std::fs::set_permissions(&self.spool_dir, std::fs::Permissions::from_mode(0o700))
            .doing(|| format!("making {shown} private"))
    }

    fn check_space(&self, entry: &ObjectEntry) -> Result<()> {
        let shown = self.spool_dir.display();
        let stat = rustix::fs::statvfs(&self.spool_dir)
            .doing(|| format!("can't tell how much space is free in {shown}, so nothing is spooled there"))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
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

/// Reads and decompresses an object and compares all sizes and digests.
pub(crate) fn check_content(cx: &StepContext, store: &ObjectStore, entry: &ObjectEntry) -> Result<(), Fault> {
    let mut checked = Checked::open_or(cx, store, entry, "check")?;
    let mut chunk = vec![0; CHUNK_BYTES];
    while checked.next(&mut chunk)? > 0 {}
    Ok(())
}

/// An object's content, compared with its entry at the end; fails there rather than ending as if all were well.
struct Checked {
    decoder: zstd::stream::read::Decoder<'static, BufReader<Tallied>>,
    plain: Tally,
    entry: ObjectEntry,
    store: String,
    meter: Meter,
    ended: bool,
    /// Once failed, always failed: a reader that asks again gets no end of file.
    failed: Option<Error>,
}

impl Checked {
    fn open(cx: &StepContext, store: &ObjectStore, entry: &ObjectEntry, what: &str) -> Result<Self> {
        Self::open_or(cx, store, entry, what).map_err(Fault::into_error)
    }

    fn open_or(cx: &StepContext, store: &ObjectStore, entry: &ObjectEntry, what: &str) -> Result<Self, Fault> {
        cx.check()?;
        let stored = BufReader::with_capacity(CHUNK_BYTES, open(store, entry)?);
        let decoder = zstd::stream::read::Decoder::with_buffer(stored).map_err(error_of)?;
        Ok(Self {
            decoder,
            plain: Tally::default(),
            entry: entry.clone(),
            store: store.name().to_owned(),
            meter: Meter::new(cx, format!("{what} {}", entry.key), Some(entry.plain_bytes)),
            ended: false,
            failed: None,
        })
    }

    /// The next bytes; 0 only after everything was compared.
    fn next(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        if let Some(e) = &self.failed {
            return Err(Fault::Damaged(e.clone()));
        }
        if self.ended || buffer.is_empty() {
            return Ok(0);
        }
        let result = self.step(buffer);
        match &result {
            Ok(0) => self.ended = true,
            Ok(_) => {}
            Err(Fault::Damaged(e) | Fault::Unreadable(e)) => self.failed = Some(e.clone()),
        }
        result
    }

    fn step(&mut self, buffer: &mut [u8]) -> Result<usize, Fault> {
        let count = loop {
            match self.decoder.read(buffer) {
                Ok(count) => break count,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => self.meter.cx.check()?,
                Err(e) => return Err(explain_in(&self.store, &self.entry, self.decoder.get_mut().get_mut(), &e)),
            }
        };
        if count > 0 {
            self.meter.add(count)?;
            // Before the caller sees them: a few kilobytes may unpack to terabytes.
            if self.plain.bytes + count as u64 > self.entry.plain_bytes {
                return Err(damaged(
                    &self.store,
                    &self.entry,
                    &format!("it decompresses to more than the {} bytes of its content", self.entry.plain_bytes),
                ));
            }
            self.plain.add(&buffer[..count]);
            return Ok(count);
        }
        let (entry, stored) = (&self.entry, &self.decoder.get_ref().get_ref().tally);
        compare_in(&self.store, entry, "stored", stored, entry.stored_bytes, &entry.stored_sha256)?;
        compare_in(&self.store, entry, "decompressed", &self.plain, entry.plain_bytes, &entry.plain_sha256)?;
        self.meter.end();
        Ok(0)
    }
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.next(buffer).map_err(|fault| std::io::Error::other(fault.into_error()))
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
        Ok(()) => damaged(store, entry, &format!("its bytes are those that were stored, but do not decompress: {e}")),
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
