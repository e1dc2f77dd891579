//! kneo-serv, the reference service: one virtual environment a version, below `target/kneo`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::python::Need;
use super::stamp::Stamp;
use crate::command::Run;
use crate::workspace::Workspace;

/// The pair with a real migration between them, so that an upgrade has something to break.
const VERSIONS: [&str; 2] = ["1.0.0", "1.2.0"];

/// kneo-serv asks for Python 3.12; `ensurepip` is what Debian leaves to `python3-venv`.
const PYTHON: Need = Need { version: (3, 12), modules: &["venv", "ensurepip", "ssl", "sqlite3"] };

/// Why there is no kneo-serv, for people.
pub const NO_PYTHON: &str = "every test against kneo-serv: no Python 3.12 or newer with venv";

/// What to do about it.
const HINT: &str = "install one (Debian 13: python3 python3-venv; elsewhere pyenv, or `uv python install 3.12`)";

/// What came of it.
pub enum Kneo {
    /// The folder with one virtual environment a version.
    At(PathBuf),
    /// No Python that is new enough.
    NoPython,
}

/// Finds the environments finished, or makes them.
///
/// # Errors
///
/// If an environment can't be made or the packages can't be had.
pub fn find_or_install(workspace: &Workspace) -> Result<Kneo> {
    let requirements = workspace.root.join("xtask/kneo/requirements.txt");
    let pins =
        fs::read_to_string(&requirements).with_context(|| format!("{} can't be read", requirements.display()))?;
    let folder = workspace.target.join("kneo");
    let stamps = VERSIONS.map(|version| {
        let made_from = format!("kneo-serv=={version}\n{pins}");
        (version, Stamp::new(&folder.join(version), &made_from))
    });
    if stamps.iter().all(|(_, stamp)| stamp.is_there()) {
        return Ok(Kneo::At(folder));
    }
    let Some(python) = PYTHON.find() else {
        eprintln!("warning: skipped: {NO_PYTHON}\nhint: {HINT}");
        return Ok(Kneo::NoPython);
    };
    for (version, stamp) in stamps.iter().filter(|(_, stamp)| !stamp.is_there()) {
        eprintln!("installing kneo-serv {version} below target/kneo, from PyPI");
        stamp.make(|venv| install(&python, venv, version, &requirements))?;
    }
    Ok(Kneo::At(folder))
}

fn install(python: &Path, venv: &Path, version: &str, requirements: &Path) -> Result<()> {
    Run::new(python).args(["-m", "venv"]).arg(venv).run()?;
    Run::new(venv.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--no-input"])
        .arg("--disable-pip-version-check")
        .arg("--requirement")
        .arg(requirements)
        .arg(format!("kneo-serv=={version}"))
        .hint("it needs PyPI, or a mirror named in pip's configuration")
        .run()
}
