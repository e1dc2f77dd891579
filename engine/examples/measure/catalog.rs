//! A directory store with many tiny backups: one every five minutes, each put when it was taken; the two oldest are verified.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use host_api::identifier::now_ms;
use host_api::manifest::{FORMAT, Manifest, ObjectEntry, SourceFacts, SourceManifest, SqliteFacts};
use host_api::stores::ObjectStore;
use serde_json::{Value, json};

use super::Result;

/// Between two backups.
const EVERY_MS: u64 = 300_000;

pub fn make(store: &Path, service: &str, count: u64) -> Result<Value> {
    let manifests = store.join(service).join("manifests");
    fs::create_dir_all(&manifests)?;
    let binding = serde_json::from_value(json!({"kind": "directory", "path": store}))?;
    let own_name = ObjectStore::open("local", &binding)?.own_name()?;
    let newest_ms = now_ms();
    for n in 0..count {
        let at_ms = newest_ms - (count - 1 - n) * EVERY_MS;
        let id = format!("{at_ms:017}z-{n:06}");
        let (bytes, digest) = manifest(service, &id, at_ms).encode(None)?;
        let mut file = File::create(manifests.join(format!("{id}.{digest}.json")))?;
        file.write_all(&bytes)?;
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(at_ms))?;
        if n < 2 {
            let folder = store.join(service).join("records").join(&id);
            fs::create_dir_all(&folder)?;
            let record = json!({
                "format": "lifeboat/verified/1", "backup": id, "digest": digest, "candidate": "bench", "run": "bench",
                "store": own_name, "rows": 1, "files": 0, "at-ms": at_ms,
            });
            fs::write(folder.join("verified-bench-000001.json"), record.to_string())?;
        }
    }
    Ok(json!({"backups": count}))
}

fn manifest(service: &str, id: &str, at_ms: u64) -> Manifest {
    let object = ObjectEntry {
        role: "data".into(),
        key: format!("{service}/objects/{id}/bench-1-1/db.data.sqlite.zst"),
        stored_bytes: 1,
        stored_sha256: "0".repeat(64),
        plain_bytes: 1,
        plain_sha256: "0".repeat(64),
        plain_xxh3_128: None,
    };
    let facts = SourceFacts::Sqlite(SqliteFacts {
        page_bytes: 4096,
        pages: 1,
        user_version: 0,
        journal_mode: "wal".into(),
        schema_sha256: "0".repeat(64),
        tables: Vec::new(),
    });
    let source = SourceManifest {
        name: "db".into(),
        started_at_ms: at_ms,
        completed_at_ms: at_ms,
        objects: vec![object],
        facts,
    };
    Manifest {
        format: FORMAT.into(),
        id: id.into(),
        service: service.into(),
        label: None,
        tool: "bench".into(),
        attempt: "bench-1-1".into(),
        taken_at_ms: at_ms,
        completed_at_ms: at_ms,
        newest_at_ms: None,
        version: None,
        encryption: None,
        sources: vec![source],
        known: Default::default(),
        findings: Vec::new(),
    }
}
