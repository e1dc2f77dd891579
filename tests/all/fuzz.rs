//! The targets of `tests/fuzz` on stable: each over its corpus and some thousand changes of it, the same ones every time. `LIFEBOAT_FUZZ` says how
//! many times as many.

use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

#[path = "../fuzz/bodies.rs"]
mod bodies;

/// A sequence that looks random, and is the same every time (xorshift).
struct Chance(u64);

impl Chance {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % below.max(1)
    }
}

/// What parsers stumble over.
const PIECES: &[&[u8]] = &[
    b"",
    b"\0",
    b"\xff\xff\xff\xff\x0f",
    b"\x80",
    b"\xed\xa0\x80",
    b"\n",
    b"\r\n",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"-1",
    b"18446744073709551616",
    b"1e999",
    b"null",
    b"[[[[[[[[[[[[[[[[",
    b"{\"a\":",
    b"..",
    b"%2e%2e/",
    b"2026-02-30T25:61:61Z",
    "\u{202e}ä𝄞".as_bytes(),
];

/// One change or several.
fn changed(seed: &[u8], other: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    for _ in 0..=chance.next(3) {
        let at = chance.next(bytes.len() + 1);
        let to = (at + chance.next(24)).min(bytes.len());
        match chance.next(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << chance.next(8),
            1 => bytes.truncate(at),
            2 => drop(bytes.drain(at..to)),
            3 => {
                let piece = bytes[at..to].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => {
                let from = chance.next(other.len() + 1);
                let piece = other[from..(from + chance.next(200)).min(other.len())].to_vec();
                bytes.splice(at..to, piece);
            }
            _ => {
                let piece = PIECES[chance.next(PIECES.len())];
                bytes.splice(at..to, piece.iter().copied());
            }
        }
    }
    bytes
}

/// Runs a target; gives how many inputs it had.
fn run(target: &str, body: fn(&[u8]), changes: usize) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!corpus.is_empty(), "{target}");
    let times = std::env::var("LIFEBOAT_FUZZ").ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or(1);
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    for number in 0..corpus.len() + changes * times {
        let bytes = match corpus.get(number) {
            Some(seed) => seed.clone(),
            None => {
                let (seed, other) = (chance.next(corpus.len()), chance.next(corpus.len()));
                changed(&corpus[seed], &corpus[other], &mut chance)
            }
        };
        if catch_unwind(|| body(&bytes)).is_err() {
            let kept = std::env::temp_dir().join(format!("lifeboat-fuzz-{target}-{number}"));
            fs::write(&kept, &bytes).unwrap();
            panic!("{target} panicked; the bytes are in {}", kept.display());
        }
    }
}

#[test]
fn modules() {
    run("module", bodies::module, 2_000);
}

#[test]
fn configurations() {
    run("configuration", bodies::configuration, 1_500);
}

#[test]
fn manifests() {
    run("manifest", bodies::manifest, 3_000);
}

#[test]
fn journals() {
    run("journal", bodies::journal, 2_000);
}

#[test]
fn checkpoints() {
    run("checkpoint", bodies::checkpoint, 3_000);
}

#[test]
fn expectations() {
    run("expectations", bodies::expectations, 5_000);
}

#[test]
fn signers() {
    run("signer", bodies::signer, 3_000);
}

/// A target that nobody runs, or has no corpus, is none.
#[test]
fn every_target_is_here_and_has_a_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("all/fuzz.rs")).unwrap();
    for entry in fs::read_dir(root.join("fuzz/fuzz_targets")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        assert!(text.contains(&format!("run(\"{name}\", bodies::{name},")), "{name} is not run");
        assert!(fs::read_dir(root.join("fuzz/corpus").join(&name)).unwrap().next().is_some(), "{name} has no corpus");
    }
}
