//! A module: its bytes, their digest, its description, what it imports; checked before anything is compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmparser::{Parser, Payload};
use wasmtime::component::{ComponentExportIndex, InstancePre, Linker};
use wit_component::DecodedWasm;
use wit_parser::{WorldItem, WorldKey};

use super::description::{Description, SECTION, refused};
use super::size;
use crate::calls::{self, Class};
use crate::contract::{self, Form, contract};
use crate::error::Result;
use crate::sandbox::Sandbox;
use crate::sandbox::linker::Guest;
use crate::sandbox::wasi::offered;

/// Larger files are not read: the largest language runtimes make components of some 20 MB.
pub const BYTES_MAX: usize = 128 << 20;

/// One imported function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// `dump.take`
    pub name: String,
    /// Takes an approval with it.
    pub destructive: bool,
}

/// What can be said of a module without running or compiling it.
#[derive(Debug, Clone)]
pub struct Inspected {
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Size of the file.
    pub bytes: usize,
    /// Its own words.
    pub description: Description,
    /// Calls it imports.
    pub imports: BTreeSet<Import>,
    /// Interfaces of WASI 0.2 it imports, `wasi:random/random@0.2.6`: it only runs where that is allowed, and finds nothing in them.
    pub wasi: BTreeSet<String>,
    /// Memory it takes at least, bytes: what its memories begin with, or what it says it needs, whichever is more.
    pub memory_bytes_min: u64,
}

/// A module that was checked and compiled.
pub struct Module {
    /// What it says and imports.
    pub inspected: Inspected,
    /// Compiled, each import found in the linker of its world: all that instances have in common.
    pub(crate) instances: InstancePre<Guest>,
    /// Its export `run`.
    pub(crate) run: ComponentExportIndex,
}

impl Module {
    /// Checks, compiles and links. The bytes that are hashed are the bytes that are compiled. `linker`: that of a world.
    pub(crate) fn load(
        sandbox: &Sandbox,
        bytes: &[u8],
        linker: impl FnOnce(&str, bool) -> Result<Arc<Linker<Guest>>>,
    ) -> Result<Self> {
        let inspected = inspect(bytes)?;
        let component = sandbox.compile(bytes)?;
        let run = component.get_export_index(None, "run").ok_or_else(|| refused("it exports no `run`".into()))?;
        let instances = linker(&inspected.description.world, !inspected.wasi.is_empty())?
            .instantiate_pre(&component)
            .map_err(|e| refused(format!("it can't be linked: {e:#}")))?;
        Ok(Self { inspected, instances, run })
    }
}

/// Reads a module without compiling or running it: refuses what is no component, has no description, imports what the contract does not have,
/// imports it with other types, or imports more than its world or its own declaration holds.
pub fn inspect(bytes: &[u8]) -> Result<Inspected> {
    if bytes.len() > BYTES_MAX {
        return Err(refused(format!("it has {} bytes, at most {BYTES_MAX} are read", bytes.len())));
    }
    if !Parser::is_component(bytes) {
        let what = if Parser::is_core_wasm(bytes) {
            "a core WebAssembly module, not a component"
        } else {
            "no WebAssembly at all"
        };
        return Err(refused(format!("it is {what}")).hint("`lifeboat policy pack` makes a policy of a core module"));
    }
    size::check(bytes)?;
    let description = Description::decode(&section(bytes)?)?;
    let Imports { calls: imports, wasi } = imports(bytes)?;
    let world = &contract().worlds[&description.world];
    for import in &imports {
        let (interface, _) = import.name.split_once('.').unwrap_or_default();
        if !world.contains(interface) {
            return Err(refused(format!(
                "it imports {}, which world `{}` does not hold",
                import.name, description.world
            ))
            .hint(format!(
                "world `{}` holds: {}",
                description.world,
                Vec::from_iter(world.iter().map(String::as_str)).join(", ")
            )));
        }
        let class = calls::find(&import.name).map(|c| c.class);
        let pure = class == Some(Class::Pure);
        // This world reads and decides; others act on what it says.
        if description.world == "cadence" && !matches!(class, Some(Class::Pure | Class::Read)) {
            return Err(refused(format!(
                "it imports {}, which changes something: world `cadence` only reads",
                import.name
            ))
            .hint("leave the call out, or give the policy the world of what it does"));
        }
        if !pure && !description.capabilities.contains(&import.name) {
            return Err(refused(format!("it imports {}, which it does not declare", import.name))
                .hint("its description (policy.toml) must list the call among its capabilities"));
        }
    }
    let memory_bytes_min = initial_memory(bytes)?.max(description.memory_bytes_min.unwrap_or(0));
    let sha256 = hex::encode(Sha256::digest(bytes));
    Ok(Inspected { sha256, bytes: bytes.len(), description, imports, wasi, memory_bytes_min })
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

struct Imports {
    calls: BTreeSet<Import>,
    wasi: BTreeSet<String>,
}

fn imports(bytes: &[u8]) -> Result<Imports> {
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
                let destructive = calls::find(&ours.name).is_some_and(|c| c.class == Class::Destructive);
                found.insert(Import { name: ours.name.clone(), destructive });
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
    Ok(Imports { calls: found, wasi })
}

/// Signature of the export that every world has.
const RUN_SIGNATURE: &str = "[String] -> Some(Result(None, Some(String)))";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_told_apart() {
        for (bytes, says) in [
            (b"".as_slice(), "no WebAssembly"),
            (b"hello world, I am a text".as_slice(), "no WebAssembly"),
            (b"\0asm\x01\0\0\0".as_slice(), "a core WebAssembly module"),
            (b"\0asm\x0d\0\x01\0".as_slice(), "no section"),
        ] {
            let error = inspect(bytes).unwrap_err();
            assert!(error.message.contains(says), "{error}");
        }
    }
}
