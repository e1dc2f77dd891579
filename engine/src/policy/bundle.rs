//! Bundles: modules with their signatures and what was accepted of them, in one file, for sites without a network.
//!
//! A tar archive that stock tools read: `manifest.json` first, then each module and its signatures. There is one text for one content: the same
//! modules give the same bytes, and a file that is not exactly what would be written of what it holds is refused, so that nothing can hide in it.

use std::collections::BTreeMap;
use std::io::Read;

use host_api::identifier::{check_name, shown};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::lock::Pin;
use super::module::{BYTES_MAX, inspect};
use super::signatures::{self, SIGNATURE_BYTES_MAX, SIGNATURES_MAX};
use crate::error::{Error, Kind, Result};

/// First field of the manifest.
const FORMAT: &str = "lifeboat/bundle/1";
const MANIFEST: &str = "manifest.json";
/// A larger manifest is none.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// More than anyone carries over in one go.
const MODULES_MAX: usize = 64;
/// A larger file is not read.
pub const BUNDLE_BYTES_MAX: u64 = 1 << 30;

/// One module of a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Carried {
    /// The policy's name in the environment that it comes from, and the file's: `POLICY.wasm`.
    pub policy: String,
    /// The component.
    pub module: Vec<u8>,
    /// Signatures by whose they are: empty for `MODULE.minisig`, `NAME` for `MODULE.NAME.minisig`.
    pub signatures: BTreeMap<String, Vec<u8>>,
    /// What it was, and was granted, where it comes from: told to whoever imports it, and never accepted by that.
    pub pin: Pin,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Manifest {
    format: String,
    modules: Vec<Listed>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Listed {
    policy: String,
    sha256: String,
    bytes: u64,
    signatures: Vec<ListedSignature>,
    pin: Pin,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct ListedSignature {
    name: String,
    sha256: String,
    bytes: u64,
}

impl Listed {
    /// Names of its files in the archive, in order, with their digests and sizes.
    fn files(&self) -> Vec<(String, &str, u64)> {
        let mut files = vec![(format!("{}.wasm", self.policy), self.sha256.as_str(), self.bytes)];
        files.extend(
            self.signatures.iter().map(|s| (signature_file(&self.policy, &s.name), s.sha256.as_str(), s.bytes)),
        );
        files
    }
}

fn signature_file(policy: &str, name: &str) -> String {
    format!("{policy}.wasm{}", signatures::ending_of(name))
}

fn refused(why: impl std::fmt::Display) -> Error {
    Error::new(Kind::PolicyRefused, format!("the bundle is refused: {why}"))
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Writes a bundle: the same modules, in whatever order, are the same bytes.
pub fn encode(modules: &[Carried]) -> Result<Vec<u8>> {
    let mut sorted: Vec<&Carried> = modules.iter().collect();
    sorted.sort_by(|a, b| a.policy.cmp(&b.policy));
    let listed = sorted.iter().map(|carried| Listed {
        policy: carried.policy.clone(),
        sha256: digest(&carried.module),
        bytes: carried.module.len() as u64,
        signatures: carried
            .signatures
            .iter()
            .map(|(name, bytes)| ListedSignature {
                name: name.clone(),
                sha256: digest(bytes),
                bytes: bytes.len() as u64,
            })
            .collect(),
        pin: carried.pin.clone(),
    });
    let manifest = Manifest { format: FORMAT.into(), modules: listed.collect() };
    check(&manifest)?;
    let mut text = serde_json::to_vec_pretty(&manifest)
        .map_err(|e| Error::new(Kind::Failed, format!("a bug: the bundle's manifest can't be written: {e}")))?;
    text.push(b'\n');
    let mut archive = tar::Builder::new(Vec::new());
    let failed = |e: std::io::Error| Error::new(Kind::Failed, format!("the bundle can't be written: {e}"));
    append(&mut archive, MANIFEST, &text).map_err(failed)?;
    for carried in sorted {
        append(&mut archive, &format!("{}.wasm", carried.policy), &carried.module).map_err(failed)?;
        for (name, bytes) in &carried.signatures {
            append(&mut archive, &signature_file(&carried.policy, name), bytes).map_err(failed)?;
        }
    }
    archive.into_inner().map_err(failed)
}

fn append(archive: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_size(bytes.len() as u64);
    header.set_mtime(0);
    header.set_cksum();
    archive.append(&header, bytes)
}

/// Checks names and numbers of a manifest, before anything that it speaks of is looked at.
fn check(manifest: &Manifest) -> Result<()> {
    if manifest.format != FORMAT {
        return Err(refused(format!("it is `{}`, this engine reads `{FORMAT}`", shown(&manifest.format))));
    }
    if manifest.modules.is_empty() || manifest.modules.len() > MODULES_MAX {
        return Err(refused(format!("it has {} modules; 1 to {MODULES_MAX} are taken", manifest.modules.len())));
    }
    for pair in manifest.modules.windows(2) {
        if pair[0].policy >= pair[1].policy {
            return Err(refused(format!("`{}` stands there twice, or out of order", shown(&pair[1].policy))));
        }
    }
    for listed in &manifest.modules {
        check_name("policy", &listed.policy).map_err(refused)?;
        if listed.bytes > BYTES_MAX as u64 {
            return Err(refused(format!("{} has {} bytes, at most {BYTES_MAX} are read", listed.policy, listed.bytes)));
        }
        if listed.signatures.len() > SIGNATURES_MAX {
            return Err(refused(format!("{} has more than {SIGNATURES_MAX} signatures", listed.policy)));
        }
        for signature in &listed.signatures {
            if !signature.name.is_empty() {
                check_name("signature", &signature.name).map_err(refused)?;
            }
            if signature.bytes > SIGNATURE_BYTES_MAX {
                return Err(refused(format!("a signature of {} has {} bytes", listed.policy, signature.bytes)));
            }
        }
    }
    Ok(())
}

/// Reads a bundle and checks all of it: what is not exactly as [`encode`] writes it is refused. Who signed what is not looked at here.
pub fn decode(bytes: &[u8]) -> Result<Vec<Carried>> {
    let unreadable = |e: std::io::Error| refused(format!("it can't be read as an archive: {e}"));
    let mut archive = tar::Archive::new(bytes);
    // As they stand: long names, links and other extensions are entries of their own kinds, and no such kind is taken.
    let mut entries = archive.entries().map_err(unreadable)?.raw(true);
    let mut next = |name: &str, bytes_max: u64| -> Result<Vec<u8>> {
        let entry = entries.next().ok_or_else(|| refused(format!("it ends before {}", shown(name))))?;
        let mut entry = entry.map_err(unreadable)?;
        let found = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if found != name || entry.header().entry_type() != tar::EntryType::Regular {
            return Err(refused(format!("it has `{}` where {} belongs", shown(&found), shown(name))));
        }
        if entry.size() > bytes_max {
            return Err(refused(format!("{} has {} bytes, and {bytes_max} belong there", shown(name), entry.size())));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(unreadable)?;
        Ok(content)
    };
    let text = next(MANIFEST, MANIFEST_BYTES_MAX)?;
    let manifest: Manifest =
        serde_json::from_slice(&text).map_err(|e| refused(format!("its manifest can't be read: {e}")))?;
    check(&manifest)?;
    let mut modules = Vec::new();
    for listed in &manifest.modules {
        let mut contents = Vec::new();
        for (name, sha256, size) in listed.files() {
            let content = next(&name, size)?;
            if digest(&content) != sha256 {
                return Err(refused(format!("{} is not what its manifest says", shown(&name))));
            }
            contents.push(content);
        }
        let mut contents = contents.into_iter();
        let module = contents.next().unwrap_or_default();
        let inspected = inspect(&module).map_err(|e| e.context(format!("bundle: {}", listed.policy)))?;
        let (is, said) = (&inspected.description, &listed.pin);
        if (&is.name, &is.version, &inspected.sha256) != (&said.name, &said.version, &said.sha256) {
            return Err(refused(format!("{} is not the module that its manifest speaks of", listed.policy)));
        }
        let names = listed.signatures.iter().map(|signature| signature.name.clone());
        let signatures = names.zip(contents).collect();
        modules.push(Carried { policy: listed.policy.clone(), module, signatures, pin: listed.pin.clone() });
    }
    if encode(&modules)? != bytes {
        return Err(refused(
            "something else is in it, or it is cut off, or it was not written by `lifeboat policy export`",
        ));
    }
    Ok(modules)
}
