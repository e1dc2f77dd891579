//! Objects in memory, for the drivers' tests.

use std::collections::BTreeMap;
use std::io::{Cursor, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::context::StepContext;
use crate::error::{Context, Error, Result};
use crate::manifest::{ObjectEntry, SourceManifest};
use crate::sources::{Dumped, ObjectSink, ObjectSource, ObjectWriter, SpoolWrite, SpooledFile};

/// A context with plenty of time.
pub(crate) fn cx() -> StepContext {
    StepContext::detached("test", Duration::from_secs(60))
}

/// Objects by key, uncompressed.
#[derive(Clone, Default)]
pub(crate) struct Objects(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

struct Writer {
    objects: Objects,
    role: String,
    key: String,
    bytes: Vec<u8>,
}

impl Write for Writer {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter for Writer {
    fn finish(self: Box<Self>) -> Result<ObjectEntry> {
        Ok(self.objects.put(&self.role, &self.key, self.bytes))
    }
}

impl Objects {
    /// Stores an object made by hand.
    pub(crate) fn put(&self, role: &str, key: &str, bytes: Vec<u8>) -> ObjectEntry {
        let digest = hex::encode(Sha256::digest(&bytes));
        let size = bytes.len() as u64;
        self.0.lock().unwrap().insert(key.to_owned(), bytes);
        ObjectEntry {
            role: role.to_owned(),
            key: key.to_owned(),
            stored_bytes: size,
            stored_sha256: digest.clone(),
            plain_bytes: size,
            plain_sha256: digest,
            plain_xxh3_128: None,
        }
    }

    /// The content of an object.
    pub(crate) fn get(&self, key: &str) -> Vec<u8> {
        self.0.lock().unwrap()[key].clone()
    }

    /// How many objects were finished.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl ObjectSink for Objects {
    fn create(&self, role: &str, extension: &str, _expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        let key = format!("{role}.{extension}");
        Ok(Box::new(Writer { objects: self.clone(), role: role.to_owned(), key, bytes: Vec::new() }))
    }
}

impl ObjectSource for Objects {
    fn spool_through(&self, _cx: &StepContext, entry: &ObjectEntry, write: &mut SpoolWrite<'_>) -> Result<SpooledFile> {
        let bytes = self.get(&entry.key);
        if hex::encode(Sha256::digest(&bytes)) != entry.plain_sha256 {
            return Err(Error::failed("digest differs"));
        }
        let mut file = tempfile::NamedTempFile::new().doing(|| "spooling".into())?;
        write(&bytes, &mut file)?;
        Ok(SpooledFile { file, bytes: bytes.len() as u64 })
    }

    fn stream(&self, _cx: &StepContext, entry: &ObjectEntry) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(Cursor::new(self.get(&entry.key))))
    }

    fn private_file(&self, _cx: &StepContext) -> Result<tempfile::NamedTempFile> {
        tempfile::NamedTempFile::new().doing(|| "making a file".into())
    }
}

/// What the dump primitive makes of a driver's answer.
pub(crate) fn manifest_of(name: &str, dumped: &Dumped) -> SourceManifest {
    SourceManifest {
        name: name.to_owned(),
        started_at_ms: dumped.started_at_ms,
        completed_at_ms: dumped.started_at_ms,
        objects: dumped.objects.clone(),
        facts: dumped.facts.clone(),
    }
}

/// Objects in files, by role: what is large does not go into memory.
pub(crate) struct DiskObjects(tempfile::TempDir);

impl DiskObjects {
    /// None yet.
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }
}

struct DiskWriter {
    role: String,
    file: std::fs::File,
    digest: Sha256,
    bytes: u64,
}

impl Write for DiskWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
        self.file.write_all(bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter for DiskWriter {
    fn finish(self: Box<Self>) -> Result<ObjectEntry> {
        let sha = hex::encode(self.digest.finalize());
        Ok(ObjectEntry {
            key: self.role.clone(),
            role: self.role,
            stored_bytes: self.bytes,
            stored_sha256: sha.clone(),
            plain_bytes: self.bytes,
            plain_sha256: sha,
            plain_xxh3_128: None,
        })
    }
}

impl ObjectSink for DiskObjects {
    fn create(&self, role: &str, _: &str, _: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        let file = std::fs::File::create(self.0.path().join(role)).unwrap();
        Ok(Box::new(DiskWriter { role: role.to_owned(), file, digest: Sha256::new(), bytes: 0 }))
    }
}

impl ObjectSource for DiskObjects {
    fn private_file(&self, _: &StepContext) -> Result<tempfile::NamedTempFile> {
        Ok(tempfile::NamedTempFile::new_in(self.0.path()).unwrap())
    }
    fn spool_through(&self, _: &StepContext, entry: &ObjectEntry, write: &mut SpoolWrite<'_>) -> Result<SpooledFile> {
        let mut file = tempfile::NamedTempFile::new_in(self.0.path()).unwrap();
        let mut stored = std::fs::File::open(self.0.path().join(&entry.role)).unwrap();
        let mut piece = vec![0; 1024 * 1024];
        loop {
            match stored.read(&mut piece).unwrap() {
                0 => break,
                count => write(&piece[..count], &mut file)?,
            }
        }
        Ok(SpooledFile { file, bytes: entry.plain_bytes })
    }
    fn stream(&self, _: &StepContext, entry: &ObjectEntry) -> Result<Box<dyn Read + Send>> {
        let file = std::fs::File::open(self.0.path().join(&entry.role)).doing(|| format!("opening {}", entry.role))?;
        Ok(Box::new(file))
    }
}
