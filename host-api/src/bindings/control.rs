//! How a live service is controlled: by commands, by `lifeboat serve`, or by a service manager whose commands are known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Secret, anchor_words, default_control_timeout_s};

/// How a live service is controlled.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Control {
    /// By commands of a service manager, which owns the process.
    Command(CommandControl),
    /// A child of `lifeboat serve`.
    Child(ChildControl),
    /// A unit of systemd.
    Systemd(SystemdControl),
    /// A service of a Compose project.
    Compose(ComposeControl),
    /// A deployment on Kubernetes.
    Kubernetes(KubernetesControl),
}

/// Commands of a service manager. Each is an argument list; no shell.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CommandControl {
    /// Starts it.
    pub start: Vec<String>,
    /// Stops it.
    pub stop: Vec<String>,
    /// Exit code 0: running; 3 (as `systemctl is-active`): stopped; anything else: unknown.
    pub status: Vec<String>,
    /// How long start and stop may take.
    #[serde(default = "default_control_timeout_s")]
    pub timeout_s: u64,
    /// Ports that are closed when it is stopped.
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// A child process of `lifeboat serve`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ChildControl {
    /// The command, an argument list; no shell.
    pub command: Vec<String>,
    /// Working directory.
    pub directory: Option<PathBuf>,
    /// Environment on top of a minimal one (PATH, HOME, LANG).
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Secrets for its environment.
    #[serde(default)]
    pub secret: BTreeMap<String, Secret>,
    /// How long start and stop may take; then it is killed.
    #[serde(default = "default_control_timeout_s")]
    pub timeout_s: u64,
    /// Ports that are closed when it is stopped.
    #[serde(default)]
    pub ports: Vec<u16>,
}

/// A unit of systemd.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SystemdControl {
    /// The unit, `notes.service`.
    pub unit: String,
    /// Whether it is one of the user's own manager.
    #[serde(default)]
    pub user: bool,
    /// Command of the manager, `["sudo", "-n", "systemctl"]`.
    #[serde(default = "default_systemctl")]
    pub systemctl: Vec<String>,
    /// How long start and stop may take; above the unit's own `TimeoutStopSec`.
    #[serde(default = "default_control_timeout_s")]
    pub timeout_s: u64,
    /// Ports that are closed when it is stopped.
    #[serde(default)]
    pub ports: Vec<u16>,
}

fn default_systemctl() -> Vec<String> {
    vec!["systemctl".into()]
}

/// A service of a Compose project.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ComposeControl {
    /// Its name in the project.
    pub service: String,
    /// The Compose files.
    #[serde(default)]
    pub file: Vec<PathBuf>,
    /// The project's name, where it is not that of its directory.
    pub project_name: Option<String>,
    /// The project's directory, where it is not that of the first file.
    pub project_directory: Option<PathBuf>,
    /// Files with variables; that of an installed image is added.
    #[serde(default)]
    pub env_file: Vec<PathBuf>,
    /// Command of Compose, `["docker-compose"]`.
    #[serde(default = "default_compose")]
    pub compose: Vec<String>,
    /// Command of Docker: it is asked for the state of containers.
    #[serde(default = "default_docker")]
    pub docker: Vec<String>,
    /// How long start and stop may take; then its containers are killed.
    #[serde(default = "default_control_timeout_s")]
    pub timeout_s: u64,
    /// Ports that are closed when it is stopped.
    #[serde(default)]
    pub ports: Vec<u16>,
}

fn default_compose() -> Vec<String> {
    vec!["docker".into(), "compose".into()]
}

pub(super) fn default_docker() -> Vec<String> {
    vec!["docker".into()]
}

/// A deployment on Kubernetes: stopped is scaled to none, with every pod gone.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KubernetesControl {
    /// Its name.
    pub deployment: String,
    /// Where it is.
    pub namespace: String,
    /// Labels that all its pods and no others have, `app=notes`: a pod that ends is still one.
    pub selector: String,
    /// How many pods it has when it runs.
    #[serde(default = "default_replicas")]
    pub replicas: u32,
    /// Its container that runs the installed version: set before each start, together with `image`.
    pub container: Option<String>,
    /// That container's image, without a tag: the tag is the installed version.
    pub image: Option<String>,
    /// Context of the client's configuration.
    pub context: Option<String>,
    /// The client's configuration.
    pub kubeconfig: Option<PathBuf>,
    /// Command of the client.
    #[serde(default = "default_kubectl")]
    pub kubectl: Vec<String>,
    /// How long start and stop may take; above the pods' grace period.
    #[serde(default = "default_control_timeout_s")]
    pub timeout_s: u64,
}

fn default_replicas() -> u32 {
    1
}

fn default_kubectl() -> Vec<String> {
    vec!["kubectl".into()]
}

impl Control {
    /// Makes relative paths absolute.
    pub(super) fn anchor(&mut self, base: &Path) {
        match self {
            Self::Command(command) => {
                for words in [&mut command.start, &mut command.stop, &mut command.status] {
                    anchor_words(words, base);
                }
            }
            Self::Child(child) => {
                anchor_words(&mut child.command, base);
                child.directory = Some(base.join(child.directory.as_deref().unwrap_or(Path::new(""))));
                child.secret.values_mut().for_each(|s| s.anchor(base));
            }
            Self::Systemd(systemd) => anchor_words(&mut systemd.systemctl, base),
            Self::Compose(compose) => {
                anchor_words(&mut compose.compose, base);
                anchor_words(&mut compose.docker, base);
                let files = compose.file.iter_mut().chain(&mut compose.env_file).chain(&mut compose.project_directory);
                files.for_each(|path| *path = base.join(&*path));
            }
            Self::Kubernetes(kubernetes) => {
                anchor_words(&mut kubernetes.kubectl, base);
                kubernetes.kubeconfig.iter_mut().for_each(|path| *path = base.join(&*path));
            }
        }
    }
}
