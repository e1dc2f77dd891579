//! The manifest of an artifact: one module, signatures beside it, nothing else.

use std::collections::{BTreeMap, BTreeSet};

use host_api::identifier::{check_name, shown};
use serde::Deserialize;

use super::refused;
use crate::error::Result;
use crate::policy::reference::sha256_of;
use crate::policy::{BYTES_MAX, signatures};

/// A manifest of one artifact. One of several (an index) is none.
pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// What WebAssembly artifacts have as their configuration. Nothing of it is read: what a module is, it says itself.
const CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
/// A layer that is a module.
pub const MODULE_TYPE: &str = "application/wasm";
/// A layer that is a signature of the module, in minisign's format.
pub const SIGNATURE_TYPE: &str = "application/vnd.lifeboat.signature.v1";
/// Where tools that push put the file's name.
const TITLE: &str = "org.opencontainers.image.title";

/// Bytes that a registry has, by digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blob {
    /// SHA-256, hexadecimal.
    pub sha256: String,
    /// Its size.
    pub bytes: u64,
}

/// What an artifact holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub module: Blob,
    /// By whose they are.
    pub signatures: BTreeMap<String, Blob>,
}

/// What is read of it. Further members (annotations, a subject) say nothing here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u64,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    /// Only an index has it.
    manifests: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Descriptor {
    fn title(&self) -> &str {
        self.annotations.get(TITLE).map_or("", String::as_str)
    }

    fn blob(&self, what: &str, bytes_max: u64) -> Result<Blob> {
        let sha256 = sha256_of(&self.digest).ok_or_else(|| refused(format!("the digest of {what} is no sha256")))?;
        if self.size > bytes_max {
            return Err(refused(format!("{what} has {} bytes, at most {bytes_max} are read", self.size)));
        }
        Ok(Blob { sha256: sha256.to_owned(), bytes: self.size })
    }
}

/// Reads a manifest whose digest was checked.
pub(super) fn read(bytes: &[u8]) -> Result<Contents> {
    let manifest: Manifest =
        serde_json::from_slice(bytes).map_err(|e| refused(format!("its manifest can't be read: {e}")))?;
    let kind = manifest.media_type.as_deref().unwrap_or(MANIFEST_TYPE);
    // Also where it says that it is none: a text with two readings is neither.
    if manifest.manifests.is_some() || kind.contains("index") || kind.contains("manifest.list") {
        return Err(refused("it is an index of several artifacts, not one")
            .hint("`oras manifest fetch HOST/REPOSITORY@sha256:…` shows the digests that it lists"));
    }
    if manifest.schema_version != 2 || kind != MANIFEST_TYPE {
        return Err(refused(format!("it is `{}`, not {MANIFEST_TYPE}", shown(kind))));
    }
    let (Some(config), Some(layers)) = (manifest.config, manifest.layers) else {
        return Err(refused("its manifest has no config or no layers"));
    };
    if config.media_type != CONFIG_TYPE {
        let found = shown(&config.media_type);
        return Err(refused(format!("it is no WebAssembly artifact: its config is `{found}`, not {CONFIG_TYPE}")));
    }
    if layers.len() > 1 + signatures::SIGNATURES_MAX {
        return Err(refused(format!("it has {} layers; one module and its signatures are taken", layers.len())));
    }
    let (modules, others): (Vec<&Descriptor>, Vec<&Descriptor>) =
        layers.iter().partition(|layer| layer.media_type == MODULE_TYPE);
    if let Some(other) = others.iter().find(|layer| layer.media_type != SIGNATURE_TYPE) {
        return Err(refused(format!(
            "a layer of it is `{}`; {MODULE_TYPE} and {SIGNATURE_TYPE} are taken",
            shown(&other.media_type)
        )));
    }
    let [module] = modules[..] else {
        return Err(refused(format!("it has {} layers of type {MODULE_TYPE}, not one", modules.len())));
    };
    let mut found = BTreeMap::new();
    let mut taken = BTreeSet::from([module.digest.as_str()]);
    for layer in others {
        let name = name_of(layer.title(), module.title())?;
        let blob = layer.blob("a signature", signatures::SIGNATURE_BYTES_MAX)?;
        if !taken.insert(&layer.digest) || found.insert(name, blob).is_some() {
            return Err(refused(format!("`{}` stands there twice", shown(layer.title()))));
        }
    }
    Ok(Contents { module: module.blob("the module", BYTES_MAX as u64)?, signatures: found })
}

/// Whose signature it is, by the files' names: empty for `MODULE.minisig`, `NAME` for `MODULE.NAME.minisig`.
fn name_of(title: &str, module: &str) -> Result<String> {
    let named = (!module.is_empty()).then(|| title.strip_prefix(module)?.strip_suffix(signatures::ENDING)).flatten();
    let name = match named {
        Some("") => return Ok(String::new()),
        Some(name) => name.strip_prefix('.'),
        None => None,
    };
    let name = name.ok_or_else(|| {
        refused(format!("a signature is called `{}`, and the module `{}`", shown(title), shown(module))).hint(
            "MODULE.minisig or MODULE.NAME.minisig, as the annotation org.opencontainers.image.title of its layer",
        )
    })?;
    check_name("signature", name).map_err(refused)?;
    Ok(name.to_owned())
}
