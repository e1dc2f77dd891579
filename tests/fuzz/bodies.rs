//! What each target does with bytes from anybody: it reads them as the engine does, and nothing may panic. Shared by the targets of cargo-fuzz
//! and by `tests/all/fuzz.rs`, which runs them on stable.

use engine::audit::{Held, Trust, verify_lines};
use engine::config::Config;
use engine::policy::{inspect, signatures};
use host_api::http_check::{self, Request};
use host_api::manifest::Manifest;
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// A module, as far as it is read without being compiled.
pub fn module(bytes: &[u8]) {
    let _ = inspect(bytes);
}

/// A configuration, with all that is checked when it is read. No file that it names is touched.
pub fn configuration(bytes: &[u8]) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("lifeboat.toml");
    std::fs::write(&path, bytes).expect("a temporary file");
    if let Ok(config) = Config::load(&path) {
        let _ = config.shown();
        for name in config.environments() {
            let _ = config.environment(Some(name));
        }
    }
}

/// A manifest under its own digest, signed or not: what a store can hold.
pub fn manifest(bytes: &[u8]) {
    if let Ok((manifest, note)) = Manifest::decode(bytes, &hex::encode(Sha256::digest(bytes))) {
        // What was read can be written, and is read as the same.
        let (again, digest) = manifest.encode(None).expect("what was read can be written");
        let (same, _) = Manifest::decode(&again, &digest).expect("what we write is read");
        assert_eq!(same.objects().count(), manifest.objects().count());
        let _ = note;
    }
}

/// Rows of a journal, as the verifier of an export reads them.
pub fn journal(bytes: &[u8]) {
    let mut lines = bytes;
    if let Ok(verdict) = verify_lines(&mut lines, &[], &Trust::default()) {
        let _ = verdict.to_string();
    }
}

/// A checkpoint, and a log beside it.
pub fn checkpoint(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(held) = Held::parse("fuzzed", &text) {
        let mut lines: &[u8] = b"";
        let verdict = verify_lines(&mut lines, &[held], &Trust::default());
        assert!(verdict.is_err(), "an empty log under no key proves nothing");
    }
}

/// A request with its expectations, and an answer.
#[derive(Deserialize)]
struct Exchange {
    request: Request,
    status: u16,
    body: String,
}

/// What a policy expects of an answer, and the answer.
pub fn expectations(bytes: &[u8]) {
    let Ok(exchange) = serde_json::from_slice::<Exchange>(bytes) else { return };
    let _ = http_check::checked_path(&exchange.request.path);
    if let Ok(failures) = http_check::unmet(&exchange.request, exchange.status, exchange.body.as_bytes()) {
        // At most one word on each expectation, and one on the status and the body.
        assert!(failures.len() < 10_000);
    }
}

/// A public key of a signer.
pub fn signer(bytes: &[u8]) {
    let _ = signatures::Signer::parse(&String::from_utf8_lossy(bytes));
}
