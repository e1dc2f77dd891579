//! Tests against a real server: a private one, made for them.

mod archives;
mod data_only;
mod elsewhere;
mod faults;
mod globals;
mod large;
mod looks;
mod objects;
mod plain;
mod prefixed;
mod roundtrip;
mod structure;
mod swaps;
mod under_load;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::PostgresDriver;
use super::testing::PgServer;
use crate::bindings::PostgresSource;
use crate::context::StepContext;
use crate::error::Result;
use crate::manifest::{ObjectEntry, PostgresFacts, SourceFacts, SourceManifest};
use crate::sources::{
    Dumped, Member, ObjectSink, ObjectSource, ObjectWriter, Question, SourceDriver, SpoolWrite, SpooledFile,
    StageOptions, Target, Verified,
};

/// Keeps objects in memory, by their role.
#[derive(Default, Clone)]
struct Memory {
    objects: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
}

struct MemoryWriter {
    role: String,
    bytes: Vec<u8>,
    into: Memory,
}

impl Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter for MemoryWriter {
    fn finish(self: Box<Self>) -> Result<ObjectEntry> {
        let sha = hex::encode(Sha256::digest(&self.bytes));
        let bytes = self.bytes.len() as u64;
        self.into.objects.lock().unwrap().insert(self.role.clone(), self.bytes);
        Ok(ObjectEntry {
            key: self.role.clone(),
            role: self.role,
            stored_bytes: bytes,
            stored_sha256: sha.clone(),
            plain_bytes: bytes,
            plain_sha256: sha,
            plain_xxh3_128: None,
        })
    }
}

impl ObjectSink for Memory {
    fn create(&self, role: &str, extension: &str, _: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        assert!([("data", "pgdump"), ("structure", "jsonl"), ("globals", "sql")].contains(&(role, extension)));
        Ok(Box::new(MemoryWriter { role: role.to_owned(), bytes: Vec::new(), into: self.clone() }))
    }
}

impl ObjectSource for Memory {
    fn spool_through(&self, _: &StepContext, entry: &ObjectEntry, write: &mut SpoolWrite<'_>) -> Result<SpooledFile> {
        assert_eq!(entry.role, "data", "nothing else is restored");
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let bytes = self.bytes();
        // In pieces that end anywhere.
        bytes.chunks(100_003).try_for_each(|piece| write(piece, &mut file))?;
        Ok(SpooledFile { file, bytes: bytes.len() as u64 })
    }
    fn stream(&self, _: &StepContext, entry: &ObjectEntry) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(std::io::Cursor::new(self.of_role(&entry.role).expect("an object of this role"))))
    }
    fn private_file(&self, _: &StepContext) -> Result<tempfile::NamedTempFile> {
        Ok(tempfile::NamedTempFile::new().unwrap())
    }
}

impl Memory {
    /// The archive.
    fn bytes(&self) -> Vec<u8> {
        self.of_role("data").expect("an object was finished")
    }
    fn of_role(&self, role: &str) -> Option<Vec<u8>> {
        self.objects.lock().unwrap().get(role).cloned()
    }
    fn is_empty(&self) -> bool {
        self.objects.lock().unwrap().is_empty()
    }
}

fn cx() -> StepContext {
    StepContext::detached(&crate::identifier::fresh(), Duration::from_secs(120))
}

fn driver(source: PostgresSource) -> PostgresDriver {
    PostgresDriver::new("db", source)
}

/// A backup, as far as a driver sees it.
struct Taken {
    dumped: Dumped,
    objects: Memory,
    manifest: SourceManifest,
}

fn manifest(dumped: &Dumped) -> SourceManifest {
    SourceManifest {
        name: "db".into(),
        started_at_ms: dumped.started_at_ms,
        completed_at_ms: dumped.started_at_ms,
        objects: dumped.objects.clone(),
        facts: dumped.facts.clone(),
    }
}

fn take(driver: &PostgresDriver, questions: &[Question]) -> Taken {
    let objects = Memory::default();
    let dumped = driver.dump(&cx(), &objects, questions).unwrap();
    let manifest = manifest(&dumped);
    Taken { dumped, objects, manifest }
}

fn facts(taken: &Taken) -> &PostgresFacts {
    let SourceFacts::Postgres(facts) = &taken.manifest.facts else { panic!("facts of PostgreSQL") };
    facts
}

fn stage(driver: &PostgresDriver, taken: &Taken) -> Result<Member> {
    stage_as(driver, taken, &crate::identifier::fresh())
}

/// The same, as the candidate of this id: other tests make theirs on the same server meanwhile.
fn stage_as(driver: &PostgresDriver, taken: &Taken, id: &str) -> Result<Member> {
    driver.stage(
        &cx(),
        &taken.manifest,
        &taken.objects,
        id,
        &Target::Beside,
        &StageOptions { jobs: 2, ..StageOptions::default() },
    )
}

fn verify(driver: &PostgresDriver, member: &Member, taken: &Taken) -> Verified {
    driver.verify(&cx(), member, &taken.manifest, &taken.objects, &[]).unwrap()
}

/// Rules of the findings, each once.
fn rules(verified: &Verified) -> Vec<&str> {
    let mut rules: Vec<&str> = verified.findings.iter().map(|f| f.rule.as_str()).collect();
    rules.dedup();
    rules
}

fn question(sql: &str) -> Question {
    Question { name: "q".into(), sql: sql.into(), rows_max: 10, not_json: false }
}

/// Fails once a test would otherwise pass by testing nothing.
macro_rules! server {
    () => {
        match PgServer::shared() {
            Some(server) => server,
            None => return,
        }
    };
}
use server;
