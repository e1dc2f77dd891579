//! The compile cache: what modules were compiled to, as files that are mapped.
//!
//! wasmtime's own cache packs its files, and unpacks the whole of one for each run: half a second for a module with the runtime of a language. These
//! are mapped as they are, and only what runs is read.
//!
//! What a child process compiled comes through here too (`compiler.rs`): machine code from elsewhere has no safe form.
//!
//! Machine code is taken from a file only if this engine put it there itself (decision 0040):
//!
//! - it lies in a directory of our own user that nobody else may write to, and is itself such a file, found without following links
//!   (`kept.rs`);
//! - its name and its seal hold a digest over the module's bytes, whose SHA-256 was computed just now, and over wasmtime's exact version, its
//!   settings and the processor's features;
//! - every byte of it was held against its checksum before any is mapped.
//!
//! A module that comes from outside as machine code is no component, and is refused before anything comes here.

// Only here: taking machine code that was made elsewhere has no safe form.
#![allow(unsafe_code)]

use std::hash::{Hash, Hasher};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::compiler::{refused, words};
use super::kept::{Found, Kept, Key, Whole};
use crate::error::Result;

/// Ending of the files' names.
const ENDING: &str = "code";

/// The compile cache of one sandbox.
pub(super) struct Cache {
    kept: Arc<Kept>,
    /// Everything besides a module that decides what it is compiled to.
    settings: [u8; 32],
}

impl Cache {
    pub(super) fn new(kept: Arc<Kept>, engine: &Engine) -> Self {
        let mut hasher = Digesting(Sha256::new());
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { kept, settings: hasher.0.finalize().into() }
    }

    /// The directory, which others may keep things in too.
    pub(super) fn kept(&self) -> &Kept {
        &self.kept
    }

    /// What a module was compiled to, if it is there and whole. `sha256`: of the module's bytes, hexadecimal.
    pub(super) fn take(&self, engine: &Engine, sha256: &str) -> Option<Component> {
        let key = self.key(sha256);
        let why = match self.kept.find(ENDING, &key) {
            Found::Absent => return None,
            Found::Unusable(why) => why,
            Found::Whole(whole) => match load(engine, &whole) {
                Ok(component) => {
                    whole.used();
                    return Some(component);
                }
                Err(why) => why,
            },
        };
        self.kept.pass_over(&what(sha256), &why);
        self.kept.drop_file(ENDING, &key);
        None
    }

    /// Keeps what a module was compiled to, if that can be done.
    pub(super) fn keep(&self, sha256: &str, component: &Component) {
        match component.serialize() {
            Ok(code) => self.kept.keep_or_say(ENDING, &self.key(sha256), &code, &what(sha256)),
            Err(e) => self.kept.not_kept(&what(sha256), &format!("{e:#}")),
        }
    }

    fn key(&self, sha256: &str) -> Key {
        let mut digest = Sha256::new();
        digest.update("lifeboat/compiled/1\n");
        digest.update(self.settings);
        digest.update(sha256);
        digest.finalize().into()
    }
}

/// What is kept here, for people.
fn what(sha256: &str) -> String {
    format!("what module {sha256} was compiled to")
}

/// Makes a component of what a child of ours compiled just now.
pub(super) fn from_child(engine: &Engine, code: &[u8]) -> Result<Component> {
    // SAFETY: wasmtime asks that these are bytes that it made by `serialize` or `precompile_component`. They came out of a pipe whose other end
    // only a child of ours had, which is a program that whoever made this engine named as one that compiles for it, and which ended well. wasmtime
    // itself refuses what another version of it, or other settings, made.
    unsafe { Component::deserialize(engine, code) }.map_err(|e| refused(&words(&e)))
}

/// Makes a component of a file whose seal was good.
fn load(engine: &Engine, whole: &Whole) -> Result<Component, String> {
    // By the number under which it is open: a path might lead to another file by now.
    let path = format!("/proc/self/fd/{}", whole.file().as_raw_fd());
    // SAFETY: wasmtime asks that the file is one that this version of it made by `serialize`, and that nobody changes it while it is mapped. It
    // is what `keep` wrote: it lies where only our user can write, its seal names this module, this wasmtime and these settings, and its checksum
    // was compared before. No file is changed after it has its name: it is replaced by a rename, or removed, and the mapping keeps the old one.
    let mapped = unsafe { Component::deserialize_file(engine, &path) };
    mapped.or_else(|_| {
        // Files on a file system that is mounted `noexec` can't be mapped as code, and there may be no /proc: then it is read.
        let code = whole.content()?;
        // SAFETY: as above; and `content` has compared the checksum of the very bytes that are handed on.
        unsafe { Component::deserialize(engine, code) }.map_err(|e| format!("{e:#}"))
    })
}

/// Gives everything that is hashed to SHA-256. Only ever compared with what the same program computes on the same machine.
struct Digesting(Sha256);

impl Hasher for Digesting {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let digest = self.0.clone().finalize();
        u64::from_be_bytes(digest[..8].try_into().unwrap_or_default())
    }
}

#[cfg(test)]
#[path = "cache_tests.rs"]
mod tests;
