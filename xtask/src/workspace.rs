//! Where the repository and its target folder are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::command::Run;

/// The two folders every verb works in, both absolute.
pub struct Workspace {
    /// The repository: the folder of the host workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target folder for the host, by `CARGO_TARGET_DIR` or configuration.
    pub target: PathBuf,
}

impl Workspace {
    /// Asks cargo, which knows every way to move the target folder.
    ///
    /// # Errors
    ///
    /// If `cargo metadata` fails.
    pub fn locate() -> Result<Self> {
        // Set by `cargo run`; the constant serves a binary that is started by hand.
        let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let metadata = Run::cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .arg("--manifest-path")
            .arg(manifest_dir.join("Cargo.toml"))
            .output()?;
        let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
        Ok(Self { root: folder(&metadata, "workspace_root")?, target: folder(&metadata, "target_directory")? })
    }

    /// Where cargo puts the host's debug binary `name`.
    pub fn debug_binary(&self, name: &str) -> PathBuf {
        self.debug_dir().join(name)
    }

    /// Where cargo puts the host's debug binaries.
    pub fn debug_dir(&self) -> PathBuf {
        self.target.join("debug")
    }

    /// Where packed policies go, one `NAME.wasm` each.
    pub fn packed_policies(&self) -> PathBuf {
        self.target.join("policies")
    }
}

fn folder(metadata: &Value, key: &str) -> Result<PathBuf> {
    metadata[key]
        .as_str()
        .map(|path| Path::new(path).to_owned())
        .with_context(|| format!("cargo metadata has no {key}"))
}
