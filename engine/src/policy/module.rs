//! A module: its bytes, their digest, its description, what it imports; checked before anything is compiled.

use std::collections::BTreeSet;
use std::sync::Arc;

use wasmtime::component::{ComponentExportIndex, InstancePre, Linker};

use super::description::{Description, refused};
use super::digest;
use super::facts::Facts;
use crate::error::Result;
use crate::sandbox::Sandbox;
use crate::sandbox::kept::Kept;
use crate::sandbox::linker::Guest;

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
    /// Compiles and links. `inspected`: of these very bytes. `linker`: that of a world.
    pub(crate) fn load(
        sandbox: &Sandbox,
        bytes: &[u8],
        inspected: Inspected,
        linker: impl FnOnce(&str, bool) -> Result<Arc<Linker<Guest>>>,
    ) -> Result<Self> {
        let component = sandbox.component(bytes, &inspected.sha256)?;
        let run = component.get_export_index(None, "run").ok_or_else(|| refused("it exports no `run`".into()))?;
        let instances = linker(&inspected.description.world, !inspected.wasi.is_empty())?
            .instantiate_pre(&component)
            .map_err(|e| refused(format!("it can't be linked: {e:#}")))?;
        Ok(Self { inspected, instances, run })
    }
}

impl Inspected {
    /// Keeps what was found for the next time, if that can be done. `bytes`: the module's.
    pub(crate) fn keep(&self, bytes: &[u8], kept: &Kept) {
        digest::keep(bytes, &self.sha256, kept);
        Facts::keep(self, kept);
    }
}

/// What reading a module finds, and whether it is known from an earlier time, from a directory that is only looked at.
pub(crate) fn inspect_kept(bytes: &[u8], kept: Option<&Kept>) -> Result<(Inspected, bool)> {
    let (sha256, known) = digest::of(bytes, kept)?;
    match kept.and_then(|kept| Facts::take(kept, &sha256)) {
        Some(facts) => Ok((facts.judge(sha256, bytes.len())?, known)),
        None => Ok((Facts::read(bytes)?.judge(sha256, bytes.len())?, false)),
    }
}

/// Reads a module without compiling or running it: refuses what is no component, has no description, imports what the contract does not have,
/// imports it with other types, or imports more than its world or its own declaration holds.
pub fn inspect(bytes: &[u8]) -> Result<Inspected> {
    let sha256 = digest::compute(bytes)?;
    Facts::read(bytes)?.judge(sha256, bytes.len())
}

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
