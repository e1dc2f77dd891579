use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::*;
use crate::bindings;
use crate::error::ErrorKind;
use crate::manifest::ObjectEntry;
use crate::sources::{ObjectSink, ObjectSource};
use crate::stores::ObjectStore;

struct World {
    dir: tempfile::TempDir,
    store: Arc<ObjectStore>,
    cx: StepContext,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("store")).unwrap();
        let binding = bindings::Store::Directory(bindings::DirectoryStore { path: dir.path().join("store") });
        let store = Arc::new(ObjectStore::open("local", &binding).unwrap());
        Self { dir, store, cx: StepContext::detached("test", Duration::from_secs(120)) }
    }

    fn sink(&self) -> StoreSink {
        StoreSink {
            store: self.store.clone(),
            prefix: "notes/objects/b1".into(),
            source: "db".into(),
            cx: self.cx.clone(),
            index: Default::default(),
            encryption: Default::default(),
        }
    }

    fn source(&self) -> StoreSource {
        StoreSource { store: self.store.clone(), spool_dir: self.dir.path().join("spool"), key: None }
    }

    fn store_object(&self, role: &str, content: &[u8]) -> ObjectEntry {
        let mut writer = self.sink().create(role, "bin", None).unwrap();
        content.chunks(700_001).for_each(|chunk| writer.write_all(chunk).unwrap());
        writer.finish().unwrap()
    }

    /// Changes an object behind the store's back.
    fn tamper(&self, entry: &ObjectEntry, change: impl FnOnce(&mut Vec<u8>)) {
        let path = self.dir.path().join("store").join(&entry.key);
        let mut bytes = std::fs::read(&path).unwrap();
        let before = bytes.clone();
        change(&mut bytes);
        assert_ne!(bytes, before, "the fault must fire");
        std::fs::write(&path, bytes).unwrap();
    }

    /// All three ways to read must fail, saying this, and leave nothing in the spool.
    fn refuses(&self, entry: &ObjectEntry, words: &str) {
        let spooled = self.source().spool(&self.cx, entry).unwrap_err();
        let streamed = self
            .source()
            .stream(&self.cx, entry)
            .and_then(|mut reader| std::io::copy(&mut reader, &mut std::io::sink()).map_err(error_of));
        let Err(Fault::Damaged(checked)) = check_content(&self.cx, &self.store, entry, None) else {
            panic!("not damaged")
        };
        for error in [spooled, streamed.unwrap_err(), checked] {
            assert!(error.message.contains(&entry.key) && error.message.contains(words), "{error}");
            assert!(error.hint.as_deref().unwrap().contains("another copy"), "{error}");
        }
        assert_eq!(std::fs::read_dir(self.dir.path().join("spool")).unwrap().count(), 0);
    }
}

fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Compressible, but not to nothing.
            (state % 23) as u8 + b'a'
        })
        .collect()
}

#[test]
fn what_goes_in_comes_back() {
    let world = World::new();
    for (n, bytes) in [0, 1, CHUNK_BYTES, 5 * CHUNK_BYTES + 17].into_iter().enumerate() {
        let content = noise(bytes);
        let entry = world.store_object(&format!("data{n}"), &content);
        assert_eq!(entry.key, format!("notes/objects/b1/db.data{n}.bin.zst"));
        assert_eq!(entry.plain_bytes, bytes as u64);
        assert_eq!(entry.plain_sha256, hex::encode(Sha256::digest(&content)));
        let stored = std::fs::read(world.dir.path().join("store").join(&entry.key)).unwrap();
        assert_eq!(entry.stored_bytes, stored.len() as u64);
        assert_eq!(entry.stored_sha256, hex::encode(Sha256::digest(&stored)));
        // Any zstd reads it, and it carries the frame's own checksum (bit 2 of the descriptor).
        assert!(zstd::decode_all(stored.as_slice()).unwrap() == content);
        assert_eq!(stored[4] & 4, 4);

        let spooled = world.source().spool(&world.cx, &entry).unwrap();
        assert!(std::fs::read(spooled.path()).unwrap() == content);
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(std::fs::metadata(spooled.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::metadata(world.dir.path().join("spool")).unwrap().permissions().mode() & 0o777, 0o700);
        let mut streamed = Vec::new();
        world.source().stream(&world.cx, &entry).unwrap().read_to_end(&mut streamed).unwrap();
        assert!(streamed == content);
        check_content(&world.cx, &world.store, &entry, None).unwrap();
        check_stored(&world.cx, &world.store, &entry, "check", &mut std::io::sink()).unwrap();
    }
}

#[test]
fn damage_is_named_wherever_it_is() {
    let world = World::new();
    let content = noise(3 * CHUNK_BYTES);

    let flipped = world.store_object("flipped", &content);
    world.tamper(&flipped, |bytes| bytes[9000] ^= 1);
    world.refuses(&flipped, "SHA-256");

    let last = world.store_object("last", &content);
    world.tamper(&last, |bytes| *bytes.last_mut().unwrap() ^= 1);
    world.refuses(&last, "SHA-256");

    let truncated = world.store_object("truncated", &content);
    world.tamper(&truncated, |bytes| bytes.truncate(bytes.len() / 2));
    world.refuses(&truncated, "bytes expected as stored");

    let empty = world.store_object("empty", &content);
    world.tamper(&empty, Vec::clear);
    world.refuses(&empty, "0 found");

    let longer = world.store_object("longer", &content);
    world.tamper(&longer, |bytes| bytes.push(0));
    world.refuses(&longer, "bytes expected as stored");

    let gone = world.store_object("gone", &content);
    world.store.delete(&gone.key).unwrap();
    world.refuses(&gone, "not there");

    // Two whole objects in each other's place, of one size.
    let (one, two) = (world.store_object("one", &[b'a'; 5000]), world.store_object("two", &[b'b'; 5000]));
    assert_eq!(one.stored_bytes, two.stored_bytes);
    let bytes_of_two = std::fs::read(world.dir.path().join("store").join(&two.key)).unwrap();
    world.tamper(&one, |bytes| *bytes = bytes_of_two);
    world.refuses(&one, "SHA-256");
}

#[test]
fn a_truncated_frame_is_damage_even_if_the_manifest_agrees_with_it() {
    let world = World::new();
    let mut entry = world.store_object("data", &noise(3 * CHUNK_BYTES));
    world.tamper(&entry, |bytes| bytes.truncate(bytes.len() - 5));
    let stored = std::fs::read(world.dir.path().join("store").join(&entry.key)).unwrap();
    entry.stored_bytes = stored.len() as u64;
    entry.stored_sha256 = hex::encode(Sha256::digest(&stored));
    world.refuses(&entry, "do not decompress");
}

#[test]
fn a_bomb_writes_no_more_than_the_content_it_claims() {
    let world = World::new();
    let mut entry = world.store_object("data", &vec![0; 64 * CHUNK_BYTES]);
    assert!(entry.stored_bytes < 100_000);
    entry.plain_bytes = 1000;
    world.refuses(&entry, "more than the 1000 bytes");
}

#[test]
fn content_that_hashes_otherwise_is_refused_at_the_end() {
    let world = World::new();
    let entry = world.store_object("data", b"content");
    assert_eq!(entry.plain_xxh3_128, Some(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(b"content"))));
    let other = ObjectEntry { plain_xxh3_128: Some("00".repeat(16)), ..entry.clone() };
    world.refuses(&other, "xxh3-128 0000");
    // Of a manifest without that digest, everybody compares the other one.
    let (no, wrong) = (None, "00".repeat(32));
    let older = ObjectEntry { plain_xxh3_128: no, ..entry.clone() };
    world.source().spool(&world.cx, &older).unwrap();
    world.refuses(&ObjectEntry { plain_sha256: wrong.clone(), ..older }, "SHA-256 0000");
    // Of one with it, whoever checks the content compares both.
    let other = ObjectEntry { plain_sha256: wrong, ..entry };
    world.source().spool(&world.cx, &other).unwrap();
    let Err(Fault::Damaged(error)) = check_content(&world.cx, &world.store, &other, None) else {
        panic!("not damaged")
    };
    assert!(error.message.contains("SHA-256 0000"), "{error}");
}

#[test]
fn no_space_is_said_before_anything_is_written() {
    let world = World::new();
    let mut entry = world.store_object("data", b"content");
    entry.plain_bytes = u64::MAX / 2;
    let error = world.source().spool(&world.cx, &entry).unwrap_err();
    assert!(error.message.contains("are free"), "{error}");
    assert_eq!(std::fs::read_dir(world.dir.path().join("spool")).unwrap().count(), 0);
}

#[test]
fn an_object_that_is_dropped_or_cancelled_leaves_nothing() {
    let world = World::new();
    let mut dropped = world.sink().create("dropped", "bin", None).unwrap();
    dropped.write_all(&noise(3 * CHUNK_BYTES)).unwrap();
    drop(dropped);

    let mut cancelled = world.sink().create("cancelled", "bin", None).unwrap();
    cancelled.write_all(&noise(CHUNK_BYTES)).unwrap();
    world.cx.cancelled.store(true, Ordering::Relaxed);
    let error = error_of(cancelled.write_all(&noise(3 * CHUNK_BYTES)).unwrap_err());
    assert_eq!(error.kind, ErrorKind::Cancelled);
    assert_eq!(cancelled.finish().unwrap_err().kind, ErrorKind::Cancelled);
    let folder = world.dir.path().join("store/notes/objects/b1");
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "not even a temporary file");
}

#[test]
fn a_store_that_vanishes_fails_the_object() {
    let world = World::new();
    let mut writer = world.sink().create("data", "bin", None).unwrap();
    writer.write_all(b"x").unwrap();
    std::fs::rename(world.dir.path().join("store"), world.dir.path().join("gone")).unwrap();
    let error = writer.finish().unwrap_err();
    assert!(error.message.contains("can't be opened"), "{error}");
}

#[test]
fn a_key_is_used_once() {
    let world = World::new();
    world.store_object("data", b"first");
    let mut again = world.sink().create("data", "bin", None).unwrap();
    again.write_all(b"second").unwrap();
    assert_eq!(again.finish().unwrap_err().kind, ErrorKind::Conflict);
}

#[test]
fn progress_is_said_and_throttled() {
    let mut world = World::new();
    let (count, last) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
    let (counted, kept) = (count.clone(), last.clone());
    world.cx.progress = Arc::new(move |progress| {
        counted.fetch_add(1, Ordering::Relaxed);
        *kept.lock().unwrap() = Some(progress);
    });
    world.store_object("data", &noise(20 * CHUNK_BYTES));
    let last: Option<crate::context::Progress> = last.lock().unwrap().clone();
    assert_eq!(last.unwrap().done_bytes, 20 * CHUNK_BYTES as u64);
    // The first, the last, and a few a second in between.
    assert!((2..60).contains(&count.load(Ordering::Relaxed)));
}
