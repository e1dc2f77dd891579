//! What makes policies of other languages than Rust, for tests: zig's C compiler, componentize-qjs, componentize-py.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::node;
use super::python::Need;
use super::stamp::Stamp;
use crate::command::Run;
use crate::workspace::Workspace;

/// A C compiler with a library for WebAssembly, as a wheel; the version that a project's README names.
const ZIG: &str = "ziglang==0.17.1";
/// What the wheels take.
const PYTHON: Need = Need { version: (3, 10), modules: &["venv", "ensurepip", "ssl"] };

/// Why there is neither a compiler for C nor one for Python, for people.
pub const NO_PYTHON: &str = "policies in C and Python: no Python 3.10 or newer with venv, to get their compilers by";
/// Why there is none for JavaScript, for people.
pub const NO_NODE: &str = "policies in JavaScript: no Node 20 or newer with npm, and no Python 3.11 to get one by";

/// The tools that were found or installed.
#[derive(Default)]
pub struct Languages {
    /// A Python that has zig.
    zig: Option<PathBuf>,
    /// `componentize-py`.
    python: Option<PathBuf>,
    /// A folder with `node_modules` and `node`.
    javascript: Option<PathBuf>,
}

/// Finds them finished, or installs them.
///
/// # Errors
///
/// If packages can't be had.
pub fn find_or_install(workspace: &Workspace) -> Result<Languages> {
    let mut found = Languages { javascript: javascript(workspace)?, ..Languages::default() };
    if found.javascript.is_none() {
        eprintln!("warning: skipped: {NO_NODE}");
    }
    let Some(python) = PYTHON.find() else {
        eprintln!("warning: skipped: {NO_PYTHON}");
        return Ok(found);
    };
    found.zig = Some(venv(workspace, &python, "zig", ZIG)?.join("bin/python"));
    let pins = workspace.root.join("engine/templates/python/requirements.txt");
    let pins = fs::read_to_string(&pins).with_context(|| format!("{} can't be read", pins.display()))?;
    found.python = Some(venv(workspace, &python, "componentize-py", pins.trim())?.join("bin/componentize-py"));
    Ok(found)
}

/// What building one project takes.
pub struct Tools {
    /// Variables of its `build.sh`.
    pub variables: Vec<(&'static str, OsString)>,
    /// What it expects as `node_modules` in its folder.
    pub node_modules: Option<PathBuf>,
}

impl Languages {
    /// The variables by which tests find them.
    pub fn variables(&self, workspace: &Workspace) -> Vec<(&'static str, OsString)> {
        let mut variables = Vec::new();
        if let Some(python) = &self.zig {
            variables.push(("LIFEBOAT_ZIG_PYTHON", python.into()));
            // What zig builds of its library, once.
            variables.push(("ZIG_GLOBAL_CACHE_DIR", workspace.target.join("languages/zig-cache").into()));
        }
        if let Some(tool) = &self.python {
            variables.push(("LIFEBOAT_COMPONENTIZE_PY", tool.into()));
        }
        if let Some(folder) = &self.javascript {
            variables.push(("LIFEBOAT_COMPONENTIZE_QJS", folder.into()));
        }
        variables
    }

    /// What building a project in Python or JavaScript takes; none, if it can't be had.
    ///
    /// # Errors
    ///
    /// If the `PATH` can't be written.
    pub fn tools(&self, language: &str) -> Result<Option<Tools>> {
        Ok(match (language, &self.python, &self.javascript) {
            ("python", Some(tool), _) => {
                Some(Tools { variables: vec![("COMPONENTIZE_PY", tool.into())], node_modules: None })
            }
            ("javascript", _, Some(folder)) => {
                let path = std::env::var_os("PATH").unwrap_or_default();
                let folders = std::iter::once(folder.clone()).chain(std::env::split_paths(&path));
                let path = std::env::join_paths(folders).context("the PATH can't be written")?;
                Some(Tools { variables: vec![("PATH", path)], node_modules: Some(folder.join("node_modules")) })
            }
            _ => None,
        })
    }

    /// What can't be tested, and why.
    pub fn skipped(&self) -> Vec<&'static str> {
        let missing = [(self.zig.is_none(), NO_PYTHON), (self.javascript.is_none(), NO_NODE)];
        missing.into_iter().filter_map(|(is_missing, why)| is_missing.then_some(why)).collect()
    }
}

/// A virtual environment with one package, below `target/languages`.
fn venv(workspace: &Workspace, python: &Path, name: &str, package: &str) -> Result<PathBuf> {
    let folder = workspace.target.join("languages").join(name);
    let stamp = Stamp::new(&folder, package);
    if !stamp.is_there() {
        eprintln!("installing {package}, for tests, below target/languages, from PyPI");
        stamp.make(|venv| {
            Run::new(python).args(["-m", "venv"]).arg(venv).run()?;
            Run::new(venv.join("bin/python"))
                .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", package])
                .hint("it needs PyPI, or a mirror named in pip's configuration")
                .run()
        })?;
    }
    Ok(folder)
}

fn javascript(workspace: &Workspace) -> Result<Option<PathBuf>> {
    let pins = workspace.root.join("xtask/javascript");
    let folder = workspace.target.join("languages/componentize-qjs");
    let made = node::install(&pins, &folder, "componentize-qjs, for policies in JavaScript")?;
    Ok(made.then_some(folder))
}
