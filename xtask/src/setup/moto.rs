//! moto, an S3 with access control for tests: a virtual environment below `target/moto`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::python::Need;
use super::stamp::Stamp;
use crate::command::Run;
use crate::workspace::Workspace;

/// What its packages take.
const PYTHON: Need = Need { version: (3, 11), modules: &["venv", "ensurepip", "ssl"] };

/// Why there is no S3, for people.
pub const NO_PYTHON: &str = "every test against S3: no Python 3.11 or newer with venv";

/// What to do about it.
const HINT: &str = "install one (Debian 12 or later: python3 python3-venv)";

/// Finds its environment finished, or makes it; none without a Python that is new enough.
///
/// # Errors
///
/// If the environment can't be made or the packages can't be had.
pub fn find_or_install(workspace: &Workspace) -> Result<Option<PathBuf>> {
    let requirements = workspace.root.join("xtask/moto/requirements.txt");
    let pins =
        fs::read_to_string(&requirements).with_context(|| format!("{} can't be read", requirements.display()))?;
    let folder = workspace.target.join("moto");
    let stamp = Stamp::new(&folder, &pins);
    if !stamp.is_there() {
        let Some(python) = PYTHON.find() else {
            eprintln!("warning: skipped: {NO_PYTHON}\nhint: {HINT}");
            return Ok(None);
        };
        eprintln!("installing moto, an S3 for tests, below target/moto, from PyPI");
        stamp.make(|venv| {
            Run::new(&python).args(["-m", "venv"]).arg(venv).run()?;
            Run::new(venv.join("bin/python"))
                .args(["-m", "pip", "install", "--quiet", "--no-input"])
                .arg("--disable-pip-version-check")
                .arg("--requirement")
                .arg(&requirements)
                .hint("it needs PyPI, or a mirror named in pip's configuration")
                .run()
        })?;
    }
    Ok(Some(folder))
}
