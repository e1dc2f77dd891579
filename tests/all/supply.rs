//! What is built in: where it comes from, under which licences, what there must be only one of, and where unsafe code may stand. For both
//! workspaces, from their lock files (decision 0036).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Licences that ask for no more than a notice.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Two versions of these would not know each other's values, link a C library twice, or be two answers to a question of security.
const ONCE: &[&str] = &[
    "libsqlite3-sys",
    "ring",
    "rusqlite",
    "rustls",
    "serde",
    "serde_json",
    "sqlx",
    "tokio",
    "wasmtime",
    "wit-component",
    "wit-parser",
];

/// TLS and cryptography are rustls on ring (decision 0017): no second one comes in by somebody's default features.
const NEVER: &[&str] = &["aws-lc-rs", "aws-lc-sys", "native-tls", "openssl", "openssl-sys", "wasmsign2"];

/// Files that may hold unsafe code, each with its reason at its top.
const UNSAFE: &[&str] =
    &["engine/src/sandbox/cache.rs", "host-api/src/child/alarm.rs", "tests/guests/on-wasi/src/lib.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// What cargo says of a workspace, as it is locked, for this platform; nothing is fetched.
fn metadata(folder: &str) -> Value {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--locked", "--offline", "--format-version=1", "--filter-platform=x86_64-unknown-linux-gnu"])
        .current_dir(root().join(folder))
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

/// Whether an SPDX expression can be met with the licences above. `/` is the old way to write OR.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&words, &mut at);
    met && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize) -> bool {
    let mut met = all_of(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize) -> bool {
    let mut met = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at);
    }
    met
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any_of(words, at);
        *at += 1;
        return met;
    }
    let mut name = (*word).to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{name} WITH {}", words.get(*at + 1).copied().unwrap_or_default());
        *at += 2;
    }
    LICENCES.contains(&name.as_str())
}

#[test]
fn licence_expressions_are_read_as_they_are_meant() {
    for (expression, allowed) in [
        ("MIT", true),
        ("GPL-2.0-only", false),
        ("Apache-2.0 OR GPL-2.0-only", true),
        ("MIT AND GPL-2.0-only", false),
        ("(MIT OR GPL-2.0-only) AND ISC", true),
        ("Apache-2.0 WITH LLVM-exception", true),
        ("GPL-2.0-only WITH Classpath-exception-2.0", false),
        ("MIT/Apache-2.0", true),
        ("MIT)", false),
        ("", false),
    ] {
        assert_eq!(is_allowed(expression), allowed, "{expression}");
    }
}

#[test]
fn everything_that_is_built_in_comes_from_the_registry_under_a_licence_that_is_allowed() {
    for folder in [".", "policies"] {
        let metadata = metadata(folder);
        let mut wrong = Vec::new();
        for package in metadata["packages"].as_array().unwrap() {
            let name = package["name"].as_str().unwrap();
            if !is_allowed(package["license"].as_str().unwrap_or_default()) {
                wrong.push(format!("{name} is under {}", package["license"]));
            }
        }
        assert!(wrong.is_empty(), "{folder}: {}", wrong.join("\n"));

        // The lock file, for all platforms: sources, checksums, what there is once and never.
        let text = fs::read_to_string(root().join(folder).join("Cargo.lock")).unwrap();
        let lock = packages(&text);
        let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for package in &lock {
            let word = |key: &str| package.get(key).and_then(Value::as_str);
            let name = word("name").unwrap();
            versions.entry(name).or_default().insert(word("version").unwrap());
            let Some(source) = word("source") else { continue };
            assert_eq!(source, "registry+https://github.com/rust-lang/crates.io-index", "{folder}: {name}");
            assert_eq!(word("checksum").map(str::len), Some(64), "{folder}: {name} has no checksum");
        }
        for name in ONCE {
            assert!(versions.get(name).is_none_or(|all| all.len() == 1), "{folder}: {name} {:?}", versions[name]);
        }
        for name in NEVER {
            assert!(!versions.contains_key(name), "{folder}: {name} came in; see `cargo tree --invert {name}`");
        }
    }
}

/// The tables `[[package]]` of a lock file: only texts are looked at.
fn packages(text: &str) -> Vec<BTreeMap<String, Value>> {
    let mut all: Vec<BTreeMap<String, Value>> = Vec::new();
    for line in text.lines() {
        if line == "[[package]]" {
            all.push(BTreeMap::new());
        } else if let (Some(package), Some((key, value))) = (all.last_mut(), line.split_once(" = "))
            && let Ok(value) = serde_json::from_str(value)
        {
            package.insert(key.to_owned(), value);
        }
    }
    assert!(!all.is_empty());
    all
}

/// Sources of a folder, without what is built.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") || name == "Cargo.toml" {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_code_is_denied_everywhere_and_stands_only_where_it_says_why() {
    let root = root();
    let mut files = Vec::new();
    for folder in ["engine", "host-api", "policies", "tests", "examples", "xtask"] {
        sources(&root.join(folder), &mut files);
    }
    assert!(files.len() > 100);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let relative = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
        if relative.ends_with("Cargo.toml") {
            // A crate that does not ask for them has none of the workspace's lints.
            let has = text.contains("[lints]\nworkspace = true") || text.contains("[workspace.lints.rust]");
            assert!(has || text.contains("[lints.rust]\nunsafe_code = \"deny\""), "{relative} has no lints");
            continue;
        }
        // Written so that this file does not find itself.
        let word = ["unsafe", "_code"].concat();
        let lifts = text.lines().any(|l| l.trim_start().starts_with("#") && l.contains(&word) && !l.contains("deny"));
        assert_eq!(lifts, UNSAFE.contains(&relative.as_str()), "{relative}");
        // What macros of others bring with them is theirs; ours has none of its own.
        if relative.starts_with("policies") || relative.starts_with("tests/guests") {
            let own =
                text.lines().any(|l| l.trim_start().split("//").next().unwrap().split(' ').any(|w| w == "unsafe"));
            assert!(!own, "{relative} has unsafe code");
        }
    }
    for manifest in ["Cargo.toml", "policies/Cargo.toml"] {
        let text = fs::read_to_string(root.join(manifest)).unwrap();
        assert!(text.contains("unsafe_code = \"deny\""), "{manifest}");
    }
}
