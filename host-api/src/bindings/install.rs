//! How versions of a service are installed: by commands, which a kind with a name of its own writes out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize};

use super::control::default_docker;
use super::{anchor_words, check};
use crate::error::Result;

/// Name of the file with the tag of an installed image, in its version's directory.
pub(crate) const IMAGE_FILE: &str = "image.env";

/// How versions of a service are installed: each into `DIRECTORY/VERSION@ATTEMPT`, then one symbolic link `DIRECTORY/current`.
///
/// Read with `kind = "venv"` or `kind = "image"`, it holds the commands that these stand for.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Install {
    /// Where versions live.
    pub directory: PathBuf,
    /// Proves, changing nothing, that `{version}` can be had (`pip download --no-deps …`).
    pub installable: Vec<String>,
    /// Run before `command`, if there is something in it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub prepare: Vec<String>,
    /// Installs `{version}` into `{dir}`, which exists and is empty.
    pub command: Vec<String>,
    /// Run after it: must succeed and print the version.
    pub check: Vec<String>,
    /// Files to write into `{dir}` after that, by name; their text may use `{version}` and `{dir}`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// How long each may take, seconds.
    pub timeout_s: u64,
}

/// `kind = "command"`, which need not be said.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Commands {
    directory: PathBuf,
    installable: Vec<String>,
    #[serde(default)]
    prepare: Vec<String>,
    command: Vec<String>,
    check: Vec<String>,
    #[serde(default)]
    files: BTreeMap<String, String>,
    #[serde(default = "default_install_timeout_s")]
    timeout_s: u64,
}

/// `kind = "venv"`: a package from an index or a directory of wheels, each version in a virtual environment of its own.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Venv {
    directory: PathBuf,
    package: String,
    #[serde(default = "default_python")]
    python: String,
    #[serde(default)]
    pip_arguments: Vec<String>,
    check: Option<Vec<String>>,
    #[serde(default = "default_install_timeout_s")]
    timeout_s: u64,
}

fn default_python() -> String {
    "python3".into()
}

/// `kind = "image"`: a container image, whose tag is the version and stands in a file of variables.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Image {
    directory: PathBuf,
    image: String,
    variable: String,
    #[serde(default = "default_pull")]
    pull: bool,
    #[serde(default = "default_docker")]
    docker: Vec<String>,
    #[serde(default = "default_install_timeout_s")]
    timeout_s: u64,
}

fn default_pull() -> bool {
    true
}

fn default_install_timeout_s() -> u64 {
    900
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

impl From<Commands> for Install {
    fn from(of: Commands) -> Self {
        let Commands { directory, installable, prepare, command, check, files, timeout_s } = of;
        Self { directory, installable, prepare, command, check, files, timeout_s }
    }
}

impl Venv {
    fn commands(self) -> Result<Install> {
        check::package(&self.package)?;
        check::free_of_placeholders("pip-arguments", &self.pip_arguments)?;
        check::free_of_placeholders("python", std::slice::from_ref(&self.python))?;
        let pip = |python: &str, own: &[&str]| {
            let mut command = words(&[python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]);
            command.extend(words(own));
            command.extend(self.pip_arguments.iter().cloned());
            command.push(format!("{}=={{version}}", self.package));
            command
        };
        let python = "{dir}/bin/python";
        // Isolated from the directory it runs in, where a file could stand for the package.
        let version = format!("import importlib.metadata as m; print(m.version('{}'))", self.package);
        Ok(Install {
            // With a report, pip does not mind that the system's own Python may not be installed into: nothing is.
            installable: pip(&self.python, &["--quiet", "--dry-run", "--ignore-installed", "--report", "/dev/null"]),
            prepare: words(&[&self.python, "-m", "venv", "{dir}"]),
            command: pip(python, &[]),
            check: self.check.unwrap_or_else(|| words(&[python, "-I", "-c", &version])),
            files: BTreeMap::new(),
            directory: self.directory,
            timeout_s: self.timeout_s,
        })
    }
}

impl Image {
    fn commands(self) -> Result<Install> {
        check::image("image", &self.image)?;
        check::variable(&self.variable)?;
        check::command("docker", &self.docker)?;
        check::free_of_placeholders("docker", &self.docker)?;
        let reference = format!("{}:{{version}}", self.image);
        let docker = |own: &[&str]| -> Vec<String> {
            self.docker.iter().cloned().chain(words(own)).chain([reference.clone()]).collect()
        };
        let here = docker(&["image", "inspect"]);
        Ok(Install {
            installable: if self.pull { docker(&["manifest", "inspect"]) } else { here.clone() },
            prepare: Vec::new(),
            command: if self.pull { docker(&["pull", "--quiet"]) } else { here.clone() },
            check: here,
            files: BTreeMap::from([(IMAGE_FILE.to_owned(), format!("{}={{version}}\n", self.variable))]),
            directory: self.directory,
            timeout_s: self.timeout_s,
        })
    }
}

impl<'de> Deserialize<'de> for Install {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        use serde::de::Error;
        let mut table = serde_json::Map::deserialize(deserializer)?;
        let kind = table.remove("kind");
        let value = serde_json::Value::Object(table);
        match kind.as_ref().map_or(Some("command"), serde_json::Value::as_str) {
            Some("command") => Commands::deserialize(value).map(Self::from).map_err(Error::custom),
            Some("venv") => Venv::deserialize(value).map_err(Error::custom)?.commands().map_err(Error::custom),
            Some("image") => Image::deserialize(value).map_err(Error::custom)?.commands().map_err(Error::custom),
            other => {
                let shown = crate::identifier::shown(other.unwrap_or("(no text)"));
                Err(Error::custom(format!(
                    "unknown kind of install `{shown}`, expected one of `command`, `venv`, `image`"
                )))
            }
        }
    }
}

impl Install {
    /// Makes relative paths absolute.
    pub(super) fn anchor(&mut self, base: &Path) {
        self.directory = base.join(&self.directory);
        for words in [&mut self.installable, &mut self.prepare, &mut self.command, &mut self.check] {
            anchor_words(words, base);
        }
    }
}
