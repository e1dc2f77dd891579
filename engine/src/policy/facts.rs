//! What there is in a module's bytes, as far as it can be read without compiling them, and what follows from it.
//!
//! Reading goes through the whole file, which takes longer than everything else of loading where a language's runtime is in it. The bytes decide
//! alone what is found, so it can be kept under their digest, beside what they were compiled to. What follows from it (whether the module may
//! import what it imports) is never kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use wasmparser::{Parser, Payload};
use wit_component::DecodedWasm;
use wit_parser::{WorldItem, WorldKey};

use super::description::{Description, SECTION, refused};
use super::module::{Import, Inspected};
use super::size;
use crate::calls::{self, Class};
use crate::contract::{self, Form, contract};
use crate::error::Result;
use crate::sandbox::kept::{Kept, Key};
use crate::sandbox::wasi::offered;

/// Ending of the files' names.
const ENDING: &str = "facts";

/// Everything of ours that decides what is found: what was found by other rules is of no use. What comes from crates goes with our version.
static RULES: LazyLock<[u8; 32]> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    for text in [
        env!("CARGO_PKG_VERSION"),
        include_str!("facts.rs"),
        include_str!("size.rs"),
        include_str!("../contract.rs"),
        include_str!("../sandbox/wasi.rs"),
    ] {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text);
    }
    for (name, text) in contract::TEXTS {
        digest.update(format!("{name} {}\n{text}", text.len()));
    }
    digest.finalize().into()
});

/// What was read.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct Facts {
    /// The text of its section.
    description: String,
    /// Calls it imports, with the contract's types.
    calls: BTreeSet<String>,
    /// Interfaces of WASI 0.2 it imports.
    wasi: BTreeSet<String>,
    /// What its memories begin with, bytes.
    memory_bytes: u64,
}

impl Facts {
    /// Reads them. Refuses what is no component, is more than anything real, has no description, or imports what the contract does not have or
    /// has with other types.
    pub(super) fn read(bytes: &[u8]) -> Result<Self> {
        if !Parser::is_component(bytes) {
            let what = if Parser::is_core_wasm(bytes) {
                "a core WebAssembly module, not a component"
            } else {
                "no WebAssembly at all"
            };
            return Err(refused(format!("it is {what}")).hint("`lifeboat policy pack` makes a policy of a core module"));
        }
        size::check(bytes)?;
        let text = section(bytes)?;
        // So that what is wrong with it is told before what is wrong with the rest.
        Description::decode(&text)?;
        let description =
            String::from_utf8(text).map_err(|e| refused(format!("its description can't be read: {e}")))?;
        let (calls, wasi) = imports(bytes)?;
        Ok(Self { description, calls, wasi, memory_bytes: initial_memory(bytes)? })
    }

    /// What was found of a module before, if that is kept and whole. Only looked at: who keeps it anew replaces what is damaged.
    pub(super) fn take(kept: &Kept, sha256: &str) -> Option<Self> {
        let what = format!("what was found in module {sha256}");
        let text = kept.content(ENDING, &key(sha256), &what)?;
        serde_json::from_slice(&text).inspect_err(|e| kept.pass_over(&what, &e.to_string())).ok()
    }

    /// Keeps what was found, if that can be done.
    pub(super) fn keep(inspected: &Inspected, kept: &Kept) {
        let facts = Self {
            description: serde_json::json!(inspected.description).to_string(),
            calls: inspected.imports.iter().map(|import| import.name.clone()).collect(),
            wasi: inspected.wasi.clone(),
            memory_bytes: inspected.memory_bytes_min,
        };
        let text = serde_json::json!(facts).to_string();
        let what = format!("what was found in module {}", inspected.sha256);
        kept.keep_or_say(ENDING, &key(&inspected.sha256), text.as_bytes(), &what);
    }

    /// Refuses what imports more than its world or its own declaration holds. `sha256`, `bytes`: the file's digest and size.
    pub(super) fn judge(self, sha256: String, bytes: usize) -> Result<Inspected> {
        let description = Description::decode(self.description.as_bytes())?;
        let world = &contract().worlds[&description.world];
        let mut imports = BTreeSet::new();
        for name in self.calls {
            let (interface, _) = name.split_once('.').unwrap_or_default();
            if !world.contains(interface) {
                return Err(refused(format!("it imports {name}, which world `{}` does not hold", description.world))
                    .hint(format!(
                        "world `{}` holds: {}",
                        description.world,
                        Vec::from_iter(world.iter().map(String::as_str)).join(", ")
                    )));
            }
            let class = calls::find(&name).map(|c| c.class);
            let pure = class == Some(Class::Pure);
            // This world reads and decides; others act on what it says.
            if description.world == "cadence" && !matches!(class, Some(Class::Pure | Class::Read)) {
                return Err(refused(format!("it imports {name}, which changes something: world `cadence` only reads"))
                    .hint("leave the call out, or give the policy the world of what it does"));
            }
            if !pure && !description.capabilities.contains(&name) {
                return Err(refused(format!("it imports {name}, which it does not declare"))
                    .hint("its description (policy.toml) must list the call among its capabilities"));
            }
            imports.insert(Import { name, destructive: class == Some(Class::Destructive) });
        }
        let memory_bytes_min = self.memory_bytes.max(description.memory_bytes_min.unwrap_or(0));
        Ok(Inspected { sha256, bytes, description, imports, wasi: self.wasi, memory_bytes_min })
    }
}

fn key(sha256: &str) -> Key {
    let mut digest = Sha256::new();
    digest.update("lifeboat/facts/1\n");
    digest.update(*RULES);
    digest.update(sha256);
    digest.finalize().into()
}

/// The one description at the component's own level; what stands in nested modules does not count.
fn section(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut found: Option<Vec<u8>> = None;
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|e| refused(format!("it can't be parsed: {e}")))? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            Payload::CustomSection(custom) if depth == 0 && custom.name() == SECTION => {
                let before = found.replace(custom.data().to_vec());
                if before.is_some() {
                    return Err(refused(format!("it has more than one section `{SECTION}`")));
                }
            }
            _ => {}
        }
    }
    found.ok_or_else(|| refused(format!("it has no section `{SECTION}`")).hint("`lifeboat policy pack` writes it"))
}

/// What the memories in a module begin with together, bytes.
fn initial_memory(bytes: &[u8]) -> Result<u64> {
    let mut sum = 0_u64;
    for payload in Parser::new(0).parse_all(bytes) {
        let unreadable = |e| refused(format!("it can't be parsed: {e}"));
        if let Payload::MemorySection(memories) = payload.map_err(unreadable)? {
            for memory in memories {
                let memory = memory.map_err(unreadable)?;
                let page_bytes = 1_u64.checked_shl(memory.page_size_log2.unwrap_or(16)).unwrap_or(u64::MAX);
                sum = sum.saturating_add(memory.initial.saturating_mul(page_bytes));
            }
        }
    }
    Ok(sum)
}

/// Calls, and interfaces of WASI.
fn imports(bytes: &[u8]) -> Result<(BTreeSet<String>, BTreeSet<String>)> {
    let decoded = wit_component::decode(bytes).map_err(|e| refused(format!("its interface can't be read: {e:#}")))?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err(refused("it is an encoded WIT package, not a component".into()));
    };
    let world = &resolve.worlds[world];
    let (mut found, mut wasi) = (BTreeSet::new(), BTreeSet::new());
    for (key, item) in &world.imports {
        let name = resolve.name_world_key(key);
        let (WorldKey::Interface(_), WorldItem::Interface { id, .. }) = (key, item) else {
            return Err(refused(format!(
                "it imports `{}`, which is none of our interfaces",
                host_api::identifier::shown(&name)
            )));
        };
        if offered(&name) {
            wasi.insert(name);
            continue;
        }
        let known: BTreeMap<String, &str> = contract()
            .functions
            .keys()
            .map(|(interface, _)| (contract::import_name(interface), interface.as_str()))
            .collect();
        let Some(interface) = known.get(&name) else {
            let hint = if name.starts_with("wasi:") {
                "of WASI only 0.2's io, clocks, random, cli, filesystem and sockets can be allowed, with nothing in them".to_owned()
            } else {
                format!("this engine offers {} {}", contract::PACKAGE, contract::VERSION)
            };
            return Err(refused(format!(
                "it imports `{}`, which does not exist here",
                host_api::identifier::shown(&name)
            ))
            .hint(hint));
        };
        for function in resolve.interfaces[*id].functions.values() {
            let wanted = contract::read_function(&resolve, interface, function)
                .map_err(|e| refused(format!("its import {name}: {e}")))?;
            let Some(ours) = contract().functions.get(&((*interface).to_owned(), wanted.wire_name.clone())) else {
                return Err(refused(format!(
                    "it imports {}, which does not exist",
                    host_api::identifier::shown(&wanted.name)
                )));
            };
            if ours.signature != wanted.signature {
                return Err(refused(format!("it imports {} with other types than the contract has", wanted.name)));
            }
            if ours.form == Form::Call {
                found.insert(ours.name.clone());
            }
        }
    }
    let runs = world.exports.iter().any(|(key, item)| {
        matches!(item, WorldItem::Function(f) if resolve.name_world_key(key) == "run"
            && contract::read_function(&resolve, "", f).is_ok_and(|f| f.signature == RUN_SIGNATURE))
    });
    if !runs {
        return Err(refused("it does not export `run: func(parameters: string) -> result<_, string>`".into()));
    }
    Ok((found, wasi))
}

/// Signature of the export that every world has.
const RUN_SIGNATURE: &str = "[String] -> Some(Result(None, Some(String)))";

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(folder: &tempfile::TempDir) -> Kept {
        Kept::open(&folder.path().join("compiled")).unwrap()
    }

    /// Of these bytes, whatever they are.
    fn found(bytes: &[u8]) -> Inspected {
        let text =
            r#"{"name":"backup","version":"1.0.0","world":"backup","capabilities":["dump.take"],"memory-bytes-min":7}"#;
        Inspected {
            sha256: hex::encode(Sha256::digest(bytes)),
            bytes: bytes.len(),
            description: Description::decode(text.as_bytes()).unwrap(),
            imports: [Import { name: "dump.take".into(), destructive: false }].into(),
            wasi: ["wasi:io/poll@0.2.6".to_owned()].into(),
            memory_bytes_min: 65_536,
        }
    }

    #[test]
    fn what_was_found_is_taken_for_these_bytes_only_and_they_are_not_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(&folder);
        // No module at all: whoever read it would refuse it.
        let bytes = b"bytes that were read once";
        let refused = crate::policy::inspect_kept(bytes, Some(&kept)).unwrap_err();
        assert!(refused.message.contains("no WebAssembly"), "{refused}");
        let found = found(bytes);
        Facts::keep(&found, &kept);
        let (again, known) = crate::policy::inspect_kept(bytes, Some(&kept)).unwrap();
        assert!(known);
        assert_eq!(format!("{again:?}"), format!("{found:?}"));
        for other in [&b"bytes that were read 0nce"[..], b"bytes that were read onc"] {
            let refused = crate::policy::inspect_kept(other, Some(&kept)).unwrap_err();
            assert!(refused.message.contains("no WebAssembly"), "{refused}");
        }
        assert!(crate::policy::inspect_kept(bytes, None).is_err(), "nor where nothing is kept");
    }

    #[test]
    fn damage_is_passed_over_and_only_looked_at_until_it_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let kept = kept(&folder);
        let found = found(b"bytes");
        Facts::keep(&found, &kept);
        let key = key(&found.sha256);
        let file = folder.path().join("compiled").join(format!("{}.{ENDING}", hex::encode(key)));
        let whole = std::fs::read(&file).unwrap();
        let mut damaged = whole.clone();
        damaged[20] ^= 1;
        for bytes in [&damaged[..], b"", &whole[..10]] {
            std::fs::write(&file, bytes).unwrap();
            assert!(Facts::take(&kept, &found.sha256).is_none());
            assert_eq!(std::fs::read(&file).unwrap(), bytes, "looking changes nothing");
        }
        // Whole, and of another form.
        kept.keep(ENDING, &key, b"{\"calls\":[]}").unwrap();
        assert!(Facts::take(&kept, &found.sha256).is_none());
        Facts::keep(&found, &kept);
        assert_eq!(std::fs::read(&file).unwrap(), whole);
    }

    #[test]
    fn whether_a_module_may_import_what_it_does_is_judged_each_time() {
        let with = |description: &str, call: &str| {
            let facts = Facts {
                description: description.to_owned(),
                calls: [call.to_owned()].into(),
                wasi: BTreeSet::new(),
                memory_bytes: 0,
            };
            facts.judge("digest".into(), 0).unwrap_err().message
        };
        let backup = r#"{"name":"x","version":"1","world":"backup"}"#;
        assert!(with(backup, "dump.take").contains("which it does not declare"));
        assert!(with(backup, "promote.promote").contains("does not hold"));
        assert!(with(backup, "no.call").contains("does not hold"));
        assert!(with("{}", "dump.take").contains("description can't be read"));
    }
}
