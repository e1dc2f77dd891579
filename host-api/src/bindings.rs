//! What an environment says about services and stores: the plain data that the configuration file is read into.
//!
//! Every struct refuses unknown keys. Relative paths are relative to the configuration file, and so are words of commands that begin with
//! `./` or `../`; [`Service::anchor`] makes them absolute.
//!
//! Text templates (commands, environment, URLs) may use: `{version}`, `{dir}` (a version's directory while it is installed),
//! `{current}` (the installed version's directory), `{port}` and `{scratch}` (of a scratch instance), and `{place.SOURCE}`
//! (a candidate's path or database name, in scratch; the live one elsewhere).

mod check;
mod control;
mod install;
mod objectives;
mod outside;
mod prunes;
mod retention;
mod scratch_postgres;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::child::Spec;
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};

/// A command that asks a vault answers in a second; a vault that is gone must not hold up a recovery.
const SECRET_COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// Largest secret that a command prints, bytes.
const SECRET_BYTES_MAX: usize = 64 * 1024;

pub use control::{ChildControl, CommandControl, ComposeControl, Control, KubernetesControl, SystemdControl};
pub(crate) use install::IMAGE_FILE;
pub use install::Install;
pub use objectives::Objectives;
pub use prunes::Prunes;
pub use retention::{Keep, Retention};
pub use scratch_postgres::{ScratchCluster, ScratchPostgres, ScratchServer};
pub use store::{
    AzureCredentials, AzureStore, Checksum, Credentials, DirectoryStore, Expected, GcsCredentials, GcsStore,
    Identities, Identity, Right, S3Store, ServerSideEncryption, Store, Thaw, Tier,
};

/// A service: what is preserved and recovered as one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Service {
    /// Its sources by name.
    #[serde(default)]
    pub source: BTreeMap<String, Source>,
    /// How the live service is started and stopped.
    pub control: Option<Control>,
    /// A file that is there from before the service is stopped until it was started again: a proxy answers 503 as long as it is.
    pub quiesced_file: Option<PathBuf>,
    /// How versions are installed.
    pub install: Option<Install>,
    /// How it is started on a candidate.
    pub scratch: Option<Scratch>,
    /// Its HTTP endpoints by name.
    #[serde(default)]
    pub endpoint: BTreeMap<String, Endpoint>,
    /// When it is ready.
    pub ready: Option<Ready>,
    /// Queries that policies may run by name.
    #[serde(default)]
    pub query: BTreeMap<String, NamedQuery>,
    /// Known records: one value each, asked in the snapshot, kept in the manifest, asked again of a candidate.
    #[serde(default)]
    pub known: BTreeMap<String, NamedQuery>,
    /// Time of the newest record: one value, ISO 8601 or Unix seconds.
    pub newest: Option<NamedQuery>,
    /// Checks between a database and a directory.
    #[serde(default)]
    pub reference: BTreeMap<String, Reference>,
    /// What will run again after a promotion: one number each, shown to whoever is asked.
    #[serde(default)]
    pub rerun: BTreeMap<String, NamedQuery>,
    /// Statements by database source that park it on a candidate. Twice is the same as once: after a crash they are run again.
    #[serde(default)]
    pub park: BTreeMap<String, Vec<String>>,
    /// What was promised of it, and `lifeboat check` holds it against.
    #[serde(default)]
    pub objectives: Objectives,
    /// What it removes of its own data by itself, by a name for each kind: what a backup older than that holds of it is removed again.
    #[serde(default)]
    pub prunes: BTreeMap<String, Prunes>,
}

/// A source of data.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "an environment holds a handful of them")]
pub enum Source {
    /// A PostgreSQL database.
    Postgres(PostgresSource),
    /// An SQLite file.
    Sqlite(SqliteSource),
    /// A directory.
    Files(FilesSource),
}

/// A PostgreSQL database and the way to it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PostgresSource {
    /// Host name or socket directory.
    pub host: String,
    /// Port.
    #[serde(default = "default_postgres_port")]
    pub port: u16,
    /// The database.
    pub database: String,
    /// The role that dumps, restores and promotes.
    pub user: String,
    /// Its password. It never stands in arguments: without a prefix it goes through a private file, with one through the environment, as
    /// far as every program of the prefix can hand a variable on.
    pub password: Option<Secret>,
    /// A database to connect to while the other is renamed or absent.
    #[serde(default = "default_maintenance_database")]
    pub maintenance_database: String,
    /// How the connection is protected; without it libpq's own default, which falls back to none.
    pub ssl_mode: Option<SslMode>,
    /// PEM file with the roots to trust, for `verify-ca` and `verify-full`.
    pub ssl_root_cert: Option<PathBuf>,
    /// Where `pg_dump`, `pg_restore` and `psql` are; otherwise the PATH decides.
    pub bin_dir: Option<PathBuf>,
    /// Command in front of every tool, as a list: `sudo -n -u postgres`, `docker compose exec -T db`, `ssh db1`. See
    /// [`crate::sources::postgres::prefix`].
    #[serde(default)]
    pub prefix: Vec<String>,
    /// Where scratch candidates go; without it, next to the live database on its server.
    pub scratch: Option<ScratchPostgres>,
    /// Tables, `schema.table`, whose rows stay the live database's when only the rows of a backup are restored: what the service keeps of its
    /// migrations.
    #[serde(default)]
    pub data_only_keeps: Vec<String>,
}

/// libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SslMode {
    /// Never.
    Disable,
    /// If the server offers it.
    Prefer,
    /// Always; the server's certificate is not looked at.
    Require,
    /// Always, with a certificate of a trusted root.
    VerifyCa,
    /// Always, with a certificate of a trusted root for this host.
    VerifyFull,
}

impl SslMode {
    /// As libpq has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

fn default_postgres_port() -> u16 {
    5432
}

fn default_maintenance_database() -> String {
    "postgres".into()
}

/// An SQLite file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SqliteSource {
    /// The database file.
    pub path: PathBuf,
    /// How long a backup may hold a read lock where that blocks writers (rollback-journal mode), milliseconds. Above it, the copy is
    /// made in steps that let writers in between, and may not come to an end under constant writes.
    #[serde(default = "default_lock_budget_ms")]
    pub lock_budget_ms: u64,
}

// SQLite clients commonly wait five seconds for a lock; a second of margin for a slow disk on top of that would be none.
fn default_lock_budget_ms() -> u64 {
    3_000
}

/// A directory.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FilesSource {
    /// The directory.
    pub path: PathBuf,
}

fn default_control_timeout_s() -> u64 {
    60
}

/// How the service is started on a candidate, in quarantine.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Scratch {
    /// The command, an argument list; no shell. Its working directory is `{scratch}`.
    pub command: Vec<String>,
    /// Environment on top of a minimal one: what switches worker, retention and outbound traffic off stands here.
    #[serde(default)]
    pub environment: BTreeMap<String, String>,
    /// Secrets for its environment.
    #[serde(default)]
    pub secret: BTreeMap<String, Secret>,
    /// Where each file source belongs below the scratch directory; otherwise its own name.
    #[serde(default)]
    pub layout: BTreeMap<String, PathBuf>,
    /// Statements run on a source of the candidate before the start.
    #[serde(default)]
    pub quarantine: BTreeMap<String, Vec<String>>,
    /// Which network it is in.
    #[serde(default)]
    pub network: Network,
    /// Facts that must be the same after the stop as before the start.
    #[serde(default)]
    pub unchanged: BTreeMap<String, NamedQuery>,
    /// How long start and stop may take.
    #[serde(default = "default_control_timeout_s")]
    pub timeout_s: u64,
}

/// The network of a service in quarantine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// This machine's: what its configuration does not prevent reaches the outside.
    #[default]
    Shared,
    /// Its own, with nothing in it but loopback. Takes root, `ip` and `nsenter`.
    Isolated,
}

/// An HTTP endpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Endpoint {
    /// Base URL of the live service, `http://127.0.0.1:8080`.
    pub url: String,
    /// Base URL of a scratch instance; `{port}` stands for the port it was given.
    #[serde(default = "default_scratch_url")]
    pub scratch_url: String,
    /// Request headers whose values are secrets: `Authorization = { file = "…", prefix = "Bearer " }`.
    #[serde(default)]
    pub header: BTreeMap<String, Secret>,
    /// PEM file with the roots to trust; otherwise no TLS endpoint can be reached.
    pub ca_file: Option<PathBuf>,
    /// PEM file with a client certificate and its key.
    pub client_identity_file: Option<PathBuf>,
    /// Whether the live service knows the header `Idempotency-Key`: the same key twice, and it acts once. Without it, a request that changes
    /// something and whose answer was lost in a crash is left to a person.
    #[serde(default)]
    pub idempotency_key: bool,
    /// Values that may leave an answer, by name.
    #[serde(default)]
    pub capture: BTreeMap<String, Capture>,
}

fn default_scratch_url() -> String {
    "http://127.0.0.1:{port}".into()
}

/// A value that a policy may learn from an answer; at most 256 bytes.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Capture {
    /// Method of the requests it applies to.
    #[serde(default = "default_capture_method")]
    pub method: String,
    /// Path of the requests it applies to, exactly.
    pub path: String,
    /// JSON pointer of the value.
    pub pointer: String,
}

fn default_capture_method() -> String {
    "GET".into()
}

/// When a service is ready.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Ready {
    /// Which endpoint to ask.
    pub endpoint: String,
    /// With which path.
    pub path: String,
    /// Values that its JSON answer must have, by JSON pointer; text may use `{version}`, `{scratch}` and `{place.SOURCE}`.
    #[serde(default)]
    pub equals: BTreeMap<String, serde_json::Value>,
    /// How long to wait for all that.
    #[serde(default = "default_control_timeout_s")]
    pub timeout_s: u64,
}

/// One read-only statement on one source.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NamedQuery {
    /// Which source.
    pub source: String,
    /// One statement.
    pub sql: String,
    /// For people: what the value means.
    pub words: Option<String>,
    /// The last column must be JSON. The answer is one row: how many rows' is not, then the other columns of the first of them.
    #[serde(default)]
    pub not_json: bool,
}

/// Each name that a query gives must be a file in a directory, and the reverse.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Reference {
    /// The database source.
    pub source: String,
    /// Statement whose first column is a path relative to the directory.
    pub sql: String,
    /// The files source.
    pub files: String,
    /// How many files without a record, or records without a file, are fine (in-flight work at the time of the snapshot).
    #[serde(default)]
    pub tolerance: u64,
}

/// A secret, never in the configuration itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Secret {
    /// A file that holds it; one line end at its end is cut.
    pub file: Option<PathBuf>,
    /// An environment variable of the engine that holds it.
    pub env: Option<String>,
    /// A command that prints it, as a list; one line end at its end is cut.
    pub command: Option<Vec<String>>,
    /// Text in front of it (`Bearer `).
    #[serde(default)]
    pub prefix: String,
}

impl Secret {
    /// Reads it. Neither the value nor a part of it stands in any error.
    pub fn read(&self) -> Result<String> {
        let value = match (&self.file, &self.env, &self.command) {
            (Some(path), None, None) => one_line(std::fs::read_to_string(path).map_err(|e| {
                Error::failed(format!("secret file {}: {e}", path.display()))
                    .hint("the configuration names it; it must be there, and readable by the user that runs lifeboat")
            })?),
            (None, Some(name), None) => std::env::var(name)
                .map_err(|_| Error::new(ErrorKind::NotFound, format!("environment variable {name} is not set")))?,
            (None, None, Some(words)) => one_line(printed(words)?),
            _ => return Err(Error::invalid("a secret needs exactly one of `file`, `env` and `command`")),
        };
        // As it is where nothing stands in front of it: a private key has no copy that nobody wipes.
        Ok(if self.prefix.is_empty() { value } else { format!("{}{value}", self.prefix) })
    }

    /// Makes relative paths absolute, from the configuration file's directory.
    pub fn anchor(&mut self, base: &Path) {
        if let Some(file) = &mut self.file {
            *file = base.join(&*file);
        }
        anchor_words(self.command.as_deref_mut().unwrap_or_default(), base);
    }
}

fn one_line(mut text: String) -> String {
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    text
}

/// What a secret's command prints. What it says on stderr is not shown: it may quote the secret.
fn printed(words: &[String]) -> Result<String> {
    let cx = StepContext::detached("secret", SECRET_COMMAND_LIMIT);
    let spec = Spec::new(words);
    let (out, ended) = crate::child::run(&cx, &spec, b"", SECRET_BYTES_MAX)?;
    if !ended.success() {
        return Err(Error::failed(format!("the command of a secret, {}, ended with {}", spec.program(), ended.how()))
            .hint("run it by hand as the user that runs lifeboat"));
    }
    String::from_utf8(out)
        .map_err(|_| Error::failed(format!("what {} prints as a secret is not UTF-8", spec.program())))
}

impl Service {
    /// Makes relative paths absolute, from the configuration file's directory.
    pub fn anchor(&mut self, base: &Path) {
        for source in self.source.values_mut() {
            match source {
                Source::Postgres(pg) => {
                    let paths = [&mut pg.bin_dir, &mut pg.ssl_root_cert];
                    anchor_server(&mut pg.host, paths, pg.password.as_mut(), &mut pg.prefix, base);
                    if let Some(scratch) = &mut pg.scratch {
                        scratch.anchor(base);
                    }
                }
                Source::Sqlite(sqlite) => sqlite.path = base.join(&sqlite.path),
                Source::Files(files) => files.path = base.join(&files.path),
            }
        }
        if let Some(control) = &mut self.control {
            control.anchor(base);
        }
        self.quiesced_file.iter_mut().for_each(|file| *file = base.join(&*file));
        if let Some(install) = &mut self.install {
            install.anchor(base);
        }
        if let Some(scratch) = &mut self.scratch {
            anchor_words(&mut scratch.command, base);
            scratch.secret.values_mut().for_each(|s| s.anchor(base));
        }
        self.prunes.values_mut().for_each(|prunes| prunes.anchor(base));
        for endpoint in self.endpoint.values_mut() {
            endpoint.header.values_mut().for_each(|s| s.anchor(base));
            for path in [&mut endpoint.ca_file, &mut endpoint.client_identity_file].into_iter().flatten() {
                *path = base.join(&*path);
            }
        }
    }

    /// Names of the sources in the order they are dumped: databases first, files after.
    pub fn dump_order(&self) -> Vec<&String> {
        let (databases, files): (Vec<_>, Vec<_>) =
            self.source.iter().partition(|(_, s)| !matches!(s, Source::Files(_)));
        databases.into_iter().chain(files).map(|(name, _)| name).collect()
    }
}

/// What of the way to a PostgreSQL server is relative to the configuration file.
fn anchor_server(
    host: &mut String,
    paths: [&mut Option<PathBuf>; 2],
    password: Option<&mut Secret>,
    prefix: &mut [String],
    base: &Path,
) {
    // A relative socket directory would depend on who starts us where.
    if host.starts_with("./") || host.starts_with("../") {
        *host = base.join(&*host).display().to_string();
    }
    for path in paths.into_iter().flatten() {
        *path = base.join(&*path);
    }
    if let Some(password) = password {
        password.anchor(base);
    }
    anchor_words(prefix, base);
}

fn anchor_words(words: &mut [String], base: &Path) {
    for word in words.iter_mut().filter(|w| w.starts_with("./") || w.starts_with("../")) {
        *word = base.join(word.strip_prefix("./").unwrap_or(word)).display().to_string();
    }
}

/// Fills a text template; an unknown `{name}` is an error that lists the known ones.
pub fn fill(template: &str, values: &BTreeMap<String, String>) -> Result<String> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(open) = rest.find('{') {
        out.push_str(&rest[..open]);
        let after = &rest[open + 1..];
        let Some(close) = after.find('}') else {
            return Err(Error::invalid(format!("`{template}` has a `{{` without a `}}`")));
        };
        let name = &after[..close];
        match values.get(name) {
            Some(value) => out.push_str(value),
            None => {
                let known: Vec<_> = values.keys().map(|k| format!("{{{k}}}")).collect();
                return Err(Error::invalid(format!("`{template}` uses `{{{name}}}`, which is not known here"))
                    .hint(format!("known here: {}", known.join(", "))));
            }
        }
        rest = &after[close + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_fill_or_name_what_is_known() {
        let values = BTreeMap::from([("port".to_owned(), "80".to_owned())]);
        assert_eq!(fill("http://x:{port}/", &values).unwrap(), "http://x:80/");
        let error = fill("{prot}", &values).unwrap_err();
        assert_eq!(error.hint.as_deref(), Some("known here: {port}"));
        assert!(fill("{port", &values).is_err());
    }

    #[test]
    fn both_servers_of_a_source_are_anchored_alike_and_what_they_need_is_listed() {
        let server = r#""host":"./run","user":"u","bin-dir":"bin","ssl-root-cert":"ca.pem","password":{"file":"pw"},"prefix":["./sh"]"#;
        let text = format!(
            r#"{{"source":{{"db":{{"kind":"postgres","database":"d",{server},"scratch":{{"kind":"server",{server}}}}}}}}}"#
        );
        let mut service: Service = serde_json::from_str(&text).unwrap();
        service.anchor(Path::new("/etc/lb"));
        let Source::Postgres(live) = &service.source["db"] else { panic!() };
        let Some(ScratchPostgres::Server(drills)) = &live.scratch else { panic!() };
        let drills = drills.as_source("d");
        let of = |pg: &PostgresSource| {
            let (bin, roots) = (pg.bin_dir.clone().unwrap(), pg.ssl_root_cert.clone().unwrap());
            (pg.host.clone(), bin, roots, pg.password.clone().unwrap().file.unwrap(), pg.prefix.clone())
        };
        assert_eq!(of(live), of(&drills));
        assert_eq!((live.host.as_str(), live.prefix[0].as_str()), ("/etc/lb/./run", "/etc/lb/sh"));
        assert_eq!(
            (service.secrets().len(), service.tls_files().len()),
            (2, 0),
            "behind a prefix, roots are elsewhere"
        );
    }

    #[test]
    fn a_secret_loses_one_line_end_and_gains_its_prefix() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "s3cret\n").unwrap();
        let secret = Secret { file: Some(file.path().into()), prefix: "Bearer ".into(), ..Secret::default() };
        assert_eq!(secret.read().unwrap(), "Bearer s3cret");
        assert!(Secret::default().read().is_err());
        assert!(Secret { env: Some("HOME".into()), ..secret }.read().is_err());
    }

    #[test]
    fn a_secrets_command_prints_it_and_its_failure_quotes_nothing() {
        let of = |script: &str| Secret {
            command: Some(["sh", "-c", script].map(str::to_owned).to_vec()),
            ..Secret::default()
        };
        assert_eq!(of("echo s3cret").read().unwrap(), "s3cret");
        let error = of("echo s3cret; echo s3cret >&2; exit 3").read().unwrap_err();
        assert!(error.message.contains("exit code 3") && !error.to_string().contains("s3cret"), "{error}");
    }
}
