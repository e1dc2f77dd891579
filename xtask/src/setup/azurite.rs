//! Azurite, an Azure Blob Storage for tests: Node packages below `target/azurite`.
//!
//! It needs Node 20, which is newer than Debian 12's, and Debian's npm takes four hundred packages: where there is none on the `PATH`, Node
//! comes as a wheel from PyPI, as moto does.

use std::path::PathBuf;

use anyhow::Result;

use super::node;
use crate::workspace::Workspace;

/// Why there is no Azure Blob Storage, for people.
pub const NO_NODE: &str =
    "every test against Azure Blob Storage: no Node 20 with npm, and no Python 3.11 with venv to get it by";

/// Finds it finished, or installs it; none without a way to Node.
///
/// # Errors
///
/// If the packages can't be had.
pub fn find_or_install(workspace: &Workspace) -> Result<Option<PathBuf>> {
    let folder = workspace.target.join("azurite");
    if node::install(&workspace.root.join("xtask/azurite"), &folder, "Azurite, an Azure Blob Storage for tests")? {
        return Ok(Some(folder));
    }
    eprintln!("warning: skipped: {NO_NODE}");
    Ok(None)
}
