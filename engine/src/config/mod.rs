//! `lifeboat.toml`: environments with their services, stores and policies.
//!
//! Unknown keys are errors; a message names the file, the line and what is valid there.

mod approval;
mod check;
mod encryption;
mod modules;
mod serving;
mod signing;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use host_api::Host;
use host_api::bindings::{Retention, Service, Store};
use host_api::real::RealHost;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml::Spanned;

pub use approval::{ApprovalBinding, ApproverBinding};
pub use encryption::EncryptionBinding;
pub use modules::{Admitted, ModulesBinding, SignerBinding};
pub(crate) use serving::CADENCE_WORLD;
pub use serving::{NotifyBinding, Occasion, ServeBinding};
pub use signing::SigningBinding;

use crate::audit::CheckpointStore;
use crate::error::{Error, Kind, Result};
use crate::grants::Grants;
use crate::journal::{PostgresState, State};
use crate::policy::{self, Description, Inspected};
use crate::run::{RunOptions, check_wasi};
use crate::sandbox::limits::Limits;
use crate::{Builder, Engine};

/// The whole file.
#[derive(Debug, Clone)]
pub struct Config {
    file: File,
    path: PathBuf,
    text: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    /// Where journal, evidence and scratch space lie; `.lifeboat` beside the file by default.
    #[serde(default = "default_state_directory")]
    state_directory: PathBuf,
    /// The database of a state that several engines share; an SQLite file in the directory by default.
    state_database: Option<PostgresState>,
    /// The environment that is meant when none is named.
    default_environment: Option<String>,
    #[serde(default)]
    audit: Audit,
    #[serde(default)]
    environment: BTreeMap<String, EnvironmentBinding>,
}

/// `[audit]`: what becomes of the one log of all environments.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Audit {
    /// Where signed checkpoints are put besides the evidence. Putting is all that is done there.
    checkpoint_store: Option<Store>,
}

fn default_state_directory() -> PathBuf {
    ".lifeboat".into()
}

/// One `[environment.NAME]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EnvironmentBinding {
    /// Whether `--yes` counts as consent here.
    #[serde(default)]
    pub allow_yes: bool,
    /// Whether a run that began on one host can go on on another: its sources, commands and stores are reached alike from each.
    #[serde(default)]
    pub any_host: bool,
    /// How many approvers it takes, and which.
    pub approval: Option<ApprovalBinding>,
    /// Whose signatures count, by name.
    #[serde(default)]
    pub approver: BTreeMap<String, ApproverBinding>,
    /// What its backups are signed with, and whose signatures are taken.
    pub signing: Option<SigningBinding>,
    /// Whom its backups are encrypted for, and the key to read them with.
    pub encryption: Option<EncryptionBinding>,
    /// Whose signatures modules need, and whether they must have been accepted.
    #[serde(default)]
    pub modules: ModulesBinding,
    /// Its services by name.
    #[serde(default)]
    pub service: BTreeMap<String, Service>,
    /// Its stores by name.
    #[serde(default)]
    pub store: BTreeMap<String, Store>,
    /// Its policies by name.
    #[serde(default)]
    pub policy: BTreeMap<String, PolicyBinding>,
    /// What `lifeboat serve` does here by itself.
    #[serde(default)]
    pub serve: ServeBinding,
    /// Which of its backups go, by service.
    #[serde(default)]
    pub retention: BTreeMap<String, Retention>,
    /// What must be there though no backup holds it, and where it is kept besides: a path (which covers what is below it), `$NAME` of a
    /// variable, `role NAME`, or `database NAME on HOST:PORT`; and words for people.
    #[serde(default)]
    pub kept: BTreeMap<String, String>,
}

/// One `[environment.NAME.policy.POLICY]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PolicyBinding {
    /// The module's file.
    pub module: PathBuf,
    /// Where `policy add` and `policy update` fetch it: `oci://HOST/REPOSITORY@sha256:…`. Nothing else reads it.
    pub source: Option<String>,
    /// What the module calls itself, if not as the policy is called here; it counts where modules must be signed.
    pub module_name: Option<String>,
    /// The world it is given.
    pub world: Spanned<String>,
    /// What it may do, a line each.
    #[serde(default)]
    pub grants: Vec<Spanned<String>>,
    /// Parameters; the command line's go before these.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// How much of everything.
    #[serde(default)]
    pub limits: Limits,
    /// Whether its module may import WASI 0.2, with nothing in it.
    #[serde(default)]
    pub wasi: bool,
}

/// One environment of a loaded file.
pub struct Environment<'c> {
    /// Its name.
    pub name: String,
    /// What it binds.
    pub binding: &'c EnvironmentBinding,
    config: &'c Config,
}

impl Config {
    /// A builder of an engine with the state, and the store for checkpoints, that the file names.
    pub fn builder(&self) -> Result<Builder> {
        Ok(Engine::builder()
            .state_directory(self.state_directory())
            .state_database(self.file.state_database.clone())
            .checkpoint_store(self.checkpoint_store()?))
    }

    /// Whether other hosts' engines may share the state.
    pub fn state_is_shared(&self) -> bool {
        self.file.state_database.is_some()
    }

    /// Opens the state that the file names.
    pub async fn open_state(&self) -> Result<State> {
        State::at(self.state_directory(), self.file.state_database.as_ref()).await
    }

    /// Opens the state that the file names to look at it; none where there is none yet.
    pub async fn state_to_look_at(&self) -> Result<Option<State>> {
        State::to_look_at(self.state_directory(), self.file.state_database.as_ref()).await
    }

    /// The database of a state that engines share, if there is one.
    pub fn state_database(&self) -> Option<&PostgresState> {
        self.file.state_database.as_ref()
    }

    /// Reads and checks a file.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| {
            Error::new(Kind::Configuration, format!("{}: {e}", path.display()))
                .hint("name it with --config, or start in its directory; examples/ has some to copy")
        })?;
        let path = std::path::absolute(path).map_err(|e| Error::new(Kind::Configuration, e.to_string()))?;
        let mut file: File = toml::from_str(&text).map_err(|e| {
            let error = Error::new(Kind::Configuration, format!("{}: {}", path.display(), e.message()));
            located(
                match e.span() {
                    Some(span) => error.at(span),
                    None => error,
                },
                &text,
            )
        })?;
        let base = path.parent().unwrap_or(Path::new("/")).to_owned();
        file.state_directory = base.join(&file.state_directory);
        file.state_database.iter_mut().for_each(|d| d.anchor(&base));
        file.audit.checkpoint_store.iter_mut().for_each(|s| s.anchor(&base));
        for environment in file.environment.values_mut() {
            environment.service.values_mut().for_each(|s| s.anchor(&base));
            environment.store.values_mut().for_each(|s| s.anchor(&base));
            environment.policy.values_mut().for_each(|p| p.module = base.join(&p.module));
            environment.approver.values_mut().for_each(|a| a.anchor(&base));
            environment.signing.iter_mut().for_each(|s| s.anchor(&base));
            environment.encryption.iter_mut().for_each(|e| e.anchor(&base));
            environment.serve.anchor(&base);
            environment.kept = crate::check::inventory::anchored(&environment.kept, &base);
        }
        let config = Self { file, path, text };
        config.check().map_err(|e| {
            let context = config.path.display().to_string();
            located(e.context(context), &config.text)
        })?;
        Ok(config)
    }

    /// Where journal, evidence and scratch space lie.
    pub fn state_directory(&self) -> &Path {
        &self.file.state_directory
    }

    /// Where signed checkpoints of the log are put, if anywhere.
    pub fn checkpoint_store(&self) -> Result<Option<CheckpointStore>> {
        self.file.audit.checkpoint_store.as_ref().map(CheckpointStore::open).transpose()
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where it is kept which modules were accepted: beside the file, under its name.
    pub fn lock_path(&self) -> PathBuf {
        self.path.with_extension("lock")
    }

    /// Its text, for messages with spans.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Everything as it is understood: absolute paths, defaults filled in.
    pub fn shown(&self) -> Result<Value> {
        serde_json::to_value(&self.file)
            .map_err(|e| Error::new(Kind::Failed, format!("the configuration can't be shown: {e}")))
    }

    /// Names of the environments.
    pub fn environments(&self) -> impl Iterator<Item = &str> {
        self.file.environment.keys().map(String::as_str)
    }

    /// An environment by name; without one, the default, or the only one there is.
    pub fn environment(&self, name: Option<&str>) -> Result<Environment<'_>> {
        let only = || match self.file.environment.len() {
            1 => self.file.environment.keys().next().map(String::as_str),
            _ => None,
        };
        let name = name.or(self.file.default_environment.as_deref()).or_else(only).ok_or_else(|| {
            Error::new(Kind::Usage, "which environment?")
                .hint(format!("name it with --env: {}", Vec::from_iter(self.environments()).join(", ")))
        })?;
        let binding =
            self.file.environment.get(name).ok_or_else(|| Error::unknown("environment", name, self.environments()))?;
        Ok(Environment { name: name.to_owned(), binding, config: self })
    }
}

impl Environment<'_> {
    /// A policy by name.
    pub fn policy(&self, name: &str) -> Result<PolicyBinding> {
        self.binding.policy.get(name).cloned().ok_or_else(|| {
            Error::unknown("policy", name, self.binding.policy.keys().map(String::as_str))
                .context(format!("environment {}", self.name))
        })
    }

    /// The real host over its services and stores.
    pub fn host(&self) -> Result<Arc<RealHost>> {
        let host = RealHost::new(self.binding.service.clone(), &self.binding.store, self.config.state_directory())
            .map_err(|e| Error { kind: Kind::Configuration, ..e.into() })?;
        let host = host.with_signing(self.binding.signing()?).with_encryption(self.binding.encryption()?);
        Ok(Arc::new(host.with_retention(self.binding.retention.clone())))
    }

    /// Everything to run a policy of this environment with.
    pub fn run_options(
        &self,
        name: &str,
        policy: &PolicyBinding,
        parameters: Map<String, Value>,
        channel: &str,
    ) -> Result<RunOptions> {
        Ok(RunOptions {
            grants: policy.grants()?,
            limits: policy.limits.clone(),
            wasi: policy.wasi,
            parameters,
            channel: channel.to_owned(),
            ..self.options(name, policy.world.get_ref())?
        })
    }
}

impl Environment<'_> {
    /// What a verb of the command line runs with when a person does something by hand.
    pub fn options_by_hand(&self, verb: &str) -> Result<RunOptions> {
        Ok(RunOptions { channel: "cli".into(), ..self.options(verb, "")? })
    }

    /// What holds of everything that is run here.
    fn options(&self, name: &str, world: &str) -> Result<RunOptions> {
        Ok(RunOptions {
            approval_rules: self.binding.approval_rules()?,
            any_host: self.binding.any_host,
            ..RunOptions::new(&self.name, name, world, Host::of(self.host()?))
        })
    }
}

impl PolicyBinding {
    /// The module's bytes.
    pub fn read_module(&self) -> Result<Vec<u8>> {
        policy::read_bounded(&self.module, policy::BYTES_MAX as u64)
            .map_err(|e| e.context("module").hint("`cargo xtask policies` builds the ones that come with lifeboat"))
    }

    /// An error unless a module can run under what the environment gives this policy: WASI, and memory.
    pub fn fits(&self, environment: &str, name: &str, module: &Inspected) -> Result<()> {
        let place = format!("[environment.{environment}.policy.{name}]");
        check_wasi(module, self.wasi)
            .map_err(|e| e.hint(format!("to allow it, with nothing in it: wasi = true in {place}")))?;
        let (needs, limit) = (module.memory_bytes_min, self.limits.memory_bytes_max as u64);
        match needs > limit {
            true => Err(Error::new(
                Kind::PolicyRefused,
                format!("the module is refused: it needs {needs} bytes of memory, and memory-bytes-max is {limit}"),
            )
            .hint(format!("limits = {{ memory-bytes-max = {needs} }} in {place}"))),
            false => Ok(()),
        }
    }

    /// The grants.
    pub fn grants(&self) -> Result<Grants> {
        Grants::parse(self.grants.iter().map(|line| line.get_ref().as_str()))
    }

    /// Parameters: those of the configuration, over them those of the command line, checked against the policy's schema.
    pub fn parameters(&self, description: &Description, words: &[String]) -> Result<Map<String, Value>> {
        self.parameters_with(description, policy::from_words(description, words)?)
    }

    /// The same with values instead of words.
    pub fn parameters_with(&self, description: &Description, over: Map<String, Value>) -> Result<Map<String, Value>> {
        let mut parameters = self.parameters.clone();
        parameters.extend(over);
        policy::validate(description, parameters)
    }
}

/// Who is at work: the login name and the machine's, as they were when this process first asked. All threads of a process share one lock for
/// its environment, which short runs feel.
pub fn actor() -> String {
    static ACTOR: LazyLock<String> = LazyLock::new(|| {
        let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".into());
        format!("{user}@{}", host_name())
    });
    ACTOR.clone()
}

/// The name of this host, as it was when this process first asked: each run would read a file for it otherwise.
pub fn host_name() -> String {
    static NAME: LazyLock<String> =
        LazyLock::new(|| std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned());
    NAME.clone()
}

/// Puts line and column in front of a message that has a place in the file.
fn located(error: Error, text: &str) -> Error {
    let Some(span) = error.span.clone() else { return error };
    let before = &text[..span.start.min(text.len())];
    let line = before.matches('\n').count() + 1;
    let column = before.len() - before.rfind('\n').map_or(0, |at| at + 1) + 1;
    error.context(format!("line {line}, column {column}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lifeboat.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    const GOOD: &str = r#"
[environment.demo.store.local]
kind = "directory"
path = "store"

[environment.demo.service.notes.source.db]
kind = "sqlite"
path = "notes.sqlite"

[environment.demo.policy.backup]
module = "backup.wasm"
world = "backup"
grants = ["dump.take service=notes store=local"]
"#;

    #[test]
    fn a_good_file_loads_with_absolute_paths() {
        let config = load(GOOD).unwrap();
        let environment = config.environment(None).unwrap();
        assert_eq!(environment.name, "demo");
        assert!(environment.policy("backup").unwrap().module.is_absolute());
    }

    #[test]
    fn mistakes_are_placed_and_answered_with_what_is_valid() {
        for (from, to, says) in [
            ("world = \"backup\"", "wrold = \"backup\"", vec!["line 12", "wrold", "world"]),
            ("world = \"backup\"", "world = \"bakcup\"", vec!["line 12", "did you mean `backup`"]),
            ("store=local", "store=lcoal", vec!["line 13", "lcoal", "local"]),
            ("service=notes", "service=note", vec!["line 13", "did you mean `notes`"]),
            ("dump.take", "dump.tke", vec!["line 13", "did you mean `dump.take`"]),
            ("kind = \"sqlite\"", "kind = \"sqlight\"", vec!["sqlight", "sqlite"]),
            ("path = \"notes.sqlite\"", "path = 7", vec!["string"]),
            ("[environment.demo.store.local]", "[environment.demo.store.\"../x\"]", vec!["no name for a store"]),
            (
                "[environment.demo.policy.backup]",
                "[environment.demo.store.offsite]\nkind = \"directory\"\npath = \"./store\"\n[environment.demo.policy.backup]",
                vec!["stores local and offsite are one place"],
            ),
            (
                "[environment.demo.policy.backup]",
                "[environment.demo.retention.notse]\n[environment.demo.policy.backup]",
                vec!["retention", "did you mean `notes`"],
            ),
            (
                "[environment.demo.policy.backup]",
                "[environment.demo.retention.notes.store.lcoal]\n[environment.demo.policy.backup]",
                vec!["retention notes", "lcoal", "local"],
            ),
            (
                "[environment.demo.policy.backup]",
                "[environment.demo.retention.notes]\nkeep = { dayly = 7 }\n[environment.demo.policy.backup]",
                vec!["line 11", "dayly", "daily"],
            ),
            (
                "[environment.demo.policy.backup]",
                "[environment.demo.retention.notes]\nverified-at-least = 0\n[environment.demo.policy.backup]",
                vec!["retention notes", "verified-at-least"],
            ),
            ("[environment", "[enviroment", vec!["enviroment", "environment"]),
            ("module = \"backup.wasm\"\n", "", vec!["module"]),
            (
                "[environment.demo.store.local]",
                "[environment.demo.kept]\nx = \"\"\n[environment.demo.store.local]",
                vec!["nothing is said of", "/x"],
            ),
            (
                "path = \"notes.sqlite\"",
                "path = \"notes.sqlite\"\n[environment.demo.service.notes.objectives]\ncopies = 0",
                vec!["service notes: objectives: `copies` is 0"],
            ),
            (
                "path = \"notes.sqlite\"",
                "path = \"notes.sqlite\"\n[environment.demo.service.notes.objectives]\nrpo = 1",
                vec!["rpo", "rpo-s"],
            ),
        ] {
            let error = load(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.kind, Kind::Configuration, "{error}");
            for word in says {
                assert!(error.to_string().contains(word), "{to}: {error}");
            }
        }
    }

    #[test]
    fn what_lies_in_one_another_or_is_shared_is_refused() {
        let nested = GOOD.replace("path = \"store\"", "path = \"live/store\"")
            + "\n[environment.demo.service.notes.source.files]\nkind = \"files\"\npath = \"live\"\n";
        assert!(load(&nested).unwrap_err().message.contains("lie in one another"));
        let both = "[environment.demo.service.notes.source.files]\nkind = \"files\"\npath = \".\"\n";
        assert!(load(&format!("{GOOD}{both}")).unwrap_err().message.contains("lie in one another"));
        let second: String =
            GOOD.replace("environment.demo", "environment.other").replace("notes.sqlite", "other.sqlite");
        let error = load(&format!("{GOOD}{second}")).unwrap_err();
        assert!(error.message.contains("demo and other keep backups of `notes` in one place"), "{error}");
        let scratch = GOOD.replace("service.notes", "service.scratch").replace("service=notes", "service=scratch");
        assert!(load(&scratch).unwrap_err().message.contains("can't be named `scratch`"));
    }

    #[test]
    fn a_prefix_that_could_not_work_is_refused_when_it_is_read() {
        let postgres = |keys: &str| {
            let source = format!("kind = \"postgres\"\nhost = \"db\"\ndatabase = \"d\"\nuser = \"u\"\n{keys}\n");
            load(&GOOD.replace("kind = \"sqlite\"\npath = \"notes.sqlite\"\n", &source))
        };
        let password = "password = { env = \"NOWHERE\" }";
        for (keys, says) in [
            ("prefix = [\"docker\", \"compose\", \"exec\", \"db\"]".to_owned(), "without -T"),
            (format!("prefix = [\"kubectl\", \"exec\", \"-i\", \"db-0\", \"--\"]\n{password}"), "through `kubectl`"),
        ] {
            let error = postgres(&keys).unwrap_err();
            assert_eq!(error.kind, Kind::Configuration, "{error}");
            let text = error.to_string();
            assert!(text.contains(says) && text.contains("service notes: source db"), "{text}");
        }
        let config = postgres(&format!("prefix = [\"./docker\", \"exec\", \"-i\", \"db\"]\n{password}")).unwrap();
        let shown = config.shown().unwrap().to_string();
        assert!(!shown.contains("\"./docker\"") && shown.contains("/docker\""), "{shown}");
    }

    #[test]
    fn the_examples_of_the_documentation_are_read() {
        let text = include_str!("../../../docs/environments.md");
        let examples: Vec<&str> =
            text.split("```toml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0)).collect();
        let mut kinds = 0;
        for example in examples.iter().filter(|example| example.contains(".control]")) {
            let source = "\n[environment.production.service.notes.source.other]\nkind = \"files\"\npath = \"live\"\n";
            load(&format!("{example}{source}")).unwrap_or_else(|e| panic!("{example}: {e}"));
            kinds += 1;
        }
        assert!(kinds >= 2, "systemd and Compose");
    }

    #[test]
    fn environments_and_policies_are_named_when_asked_for_wrongly() {
        let config = load(GOOD).unwrap();
        assert!(config.environment(Some("prod")).err().unwrap().to_string().contains("demo"));
        let error = config.environment(None).unwrap().policy("bakup").unwrap_err();
        assert!(error.to_string().contains("did you mean `backup`"), "{error}");
    }
}
