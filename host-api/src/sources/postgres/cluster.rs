//! A private server for one scratch candidate: made, filled, asked and thrown away. Nothing of it is meant to outlive a crash, so nothing
//! of it is flushed; nobody but us reaches it, so it asks for no password.
//!
//! It lies in one directory of mode 0700, `lb_ID_HASH` in the configured one, with its socket, its log, its data, and pipes while rows are read back. The directory's name
//! is the marker: whatever is in it belongs to the candidate of this id and goes with it. The server outlives the step, and an engine that is
//! killed; it ends when the candidate is discarded.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bindings::{PostgresSource, ScratchCluster};
use crate::child::{self, Ended, Spec};
use crate::context::StepContext;
use crate::control::process::log_tail;
use crate::disk::{self, remove_tree};
use crate::error::{Error, ErrorKind, Result};
use crate::leftovers;
use crate::manifest::PostgresFacts;

use super::tools::{self, Tools};
use super::{GENERATED_PREFIX, sanitised, short_digest, sql};

/// The key of a member's identity that says that it is in a cluster of ours, and where.
pub(super) const IDENTITY_KEY: &str = "cluster";
/// Superuser of such a server. A name that no archive has as an owner.
const ADMINISTRATOR: &str = "lifeboat_cluster";
/// Its databases before anything is restored.
const MAINTENANCE: &str = "postgres";
/// The socket's number; no TCP port is opened.
const PORT: u16 = 5432;
/// Variable of its processes that says which cluster they are; the value is its directory.
pub(super) const VARIABLE: &str = "LIFEBOAT_CLUSTER";
/// Longest directory, bytes: a socket's path has room for 107, and `/.s.PGSQL.5432` takes 14.
const DIRECTORY_BYTES_MAX: usize = 92;
/// How long its end may take.
const END_LIMIT: Duration = Duration::from_secs(30);
/// Room beside the restored data for the server itself, its log of changes, and sorting for indexes, bytes.
const MARGIN_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// Speed before durability: what a crash leaves is thrown away. `wal_level = minimal` spares the log for tables that are filled in the
/// transaction that made them, which is how `pg_restore` fills them.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0700"),
    ("port", "5432"),
    ("fsync", "off"),
    ("synchronous_commit", "off"),
    ("full_page_writes", "off"),
    ("wal_level", "minimal"),
    ("max_wal_senders", "0"),
    ("max_wal_size", "1GB"),
    ("checkpoint_timeout", "1d"),
    ("shared_buffers", "256MB"),
    ("maintenance_work_mem", "256MB"),
    // As many indexes are made side by side as there are jobs. Workers for each beside that are more processes than processors, and have what is
    // sorted written out, to hand it over.
    ("max_parallel_maintenance_workers", "0"),
    // Statistics from a tenth of the usual sample: enough for the few questions that a drill asks. A sample of the usual size reads most pages
    // of a table of 250 MB.
    ("default_statistics_target", "10"),
    ("max_connections", "64"),
    // A restore in few transactions locks thousands of tables in one.
    ("max_locks_per_transaction", "1024"),
    // A restore analyses what it made, and nothing lives long enough to be vacuumed.
    ("autovacuum", "off"),
    ("jit", "off"),
];

/// A cluster by its place, whether it is there or not.
pub(super) struct Cluster<'a> {
    cx: &'a StepContext,
    binding: &'a ScratchCluster,
    source: &'a PostgresSource,
    directory: PathBuf,
}

impl<'a> Cluster<'a> {
    /// The one that a candidate of this id has, or would have.
    pub fn of(cx: &'a StepContext, binding: &'a ScratchCluster, source: &'a PostgresSource, name: &str) -> Self {
        Self { cx, binding, source, directory: binding.directory.join(name) }
    }

    /// Where it lies.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Looks whether it can be made, with room for an archive of this size, and removes what an earlier attempt left of it.
    pub fn make_room(&self, bytes: u64) -> Result<()> {
        self.require_parent()?;
        check_user(self.binding)?;
        if self.directory.as_os_str().len() > DIRECTORY_BYTES_MAX {
            return Err(Error::invalid(format!("{} is too long for a socket's path", self.directory.display()))
                .hint("choose a shorter `scratch.directory`"));
        }
        self.end(self.cx)?;
        // Twice the rows as text: with their indexes, most databases take less.
        disk::require_space(&self.binding.directory, bytes.saturating_mul(2).saturating_add(MARGIN_BYTES))
    }

    /// Makes it and starts it, where nothing is, with the roles that the backup's objects belong to.
    pub fn make(&self, facts: &PostgresFacts) -> Result<()> {
        let text = self.directory.display().to_string();
        self.run(&self.command("mkdir", &["-m", "0700", "--", &text]))?;
        self.cx.at("cluster's directory made");
        let data = format!("{text}/data");
        let made = ["--no-sync", "-D", &data, "-U", ADMINISTRATOR, "-A", "trust", "-E", "UTF8", "--no-locale"];
        self.run(&self.command(&self.program("initdb"), &made))?;
        self.cx.at("cluster made");
        self.start(&data)?;
        self.cx.at("cluster runs");
        self.prepare(facts)
    }

    fn start(&self, data: &str) -> Result<()> {
        let directory = self.directory.display();
        let settings: Vec<String> = SETTINGS.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
        let options = format!("-c unix_socket_directories={directory} {}", settings.join(" "));
        let log = format!("{directory}/log");
        let start = ["-D", data, "-l", &log, "-o", &options, "-w", "-s", "start"];
        // It is meant to go on when this step is over: whoever discards the candidate ends it.
        let spec = Spec { lasting: true, ..self.command(&self.program("pg_ctl"), &start) };
        self.run(&spec).map(drop).map_err(|e| e.context(log_tail(Path::new(&log))))
    }

    /// The role that restores, and those that things belong to. They can log in, so that the service under test can.
    fn prepare(&self, facts: &PostgresFacts) -> Result<()> {
        let admin = self.binding_of_administrator();
        let tools = Tools::new(self.cx, &admin)?;
        let user = sql::identifier(&self.source.user);
        let mut statements = vec![if self.binding.superuser {
            format!("CREATE ROLE {user} LOGIN SUPERUSER")
        } else {
            // As a role that restores is: it makes databases and belongs to the owners; row security hides nothing from its reading back.
            format!("CREATE ROLE {user} LOGIN CREATEDB BYPASSRLS")
        }];
        for role in facts.roles.iter().filter(|role| **role != self.source.user) {
            let role = sql::identifier(role);
            statements.push(format!("CREATE ROLE {role} LOGIN"));
            statements.push(format!("GRANT {role} TO {user}"));
        }
        tools.statements(MAINTENANCE, true, &statements)?;
        // Compressing large values is most of what filling tables with them takes; where lz4 is built in, it takes a fraction.
        let lz4 = "SELECT 'lz4' = ANY(enumvals) FROM pg_catalog.pg_settings WHERE name = 'default_toast_compression'";
        if tools.value(MAINTENANCE, lz4)?.as_deref() == Some("t") {
            let set = ["ALTER SYSTEM SET default_toast_compression = 'lz4'", "SELECT pg_catalog.pg_reload_conf()"];
            tools.statements(MAINTENANCE, false, &set.map(str::to_owned))?;
        }
        Ok(())
    }

    /// As its superuser sees it.
    pub fn binding_of_administrator(&self) -> PostgresSource {
        PostgresSource { user: ADMINISTRATOR.into(), ..self.binding_of_server() }
    }

    /// Makes a named pipe of the server's user, in a directory of its own: once that is gone, the server can't make a file of this name.
    pub fn make_pipe(&self) -> Result<PathBuf> {
        let directory = self.directory.join(format!("rows-{}", crate::identifier::fresh()));
        self.run(&self.command("mkdir", &["-m", "0700", "--", &directory.display().to_string()]))?;
        let pipe = directory.join("pipe");
        self.run(&self.command("mkfifo", &["-m", "0600", "--", &pipe.display().to_string()]))?;
        Ok(pipe)
    }

    /// Whether anything of it lies there.
    pub fn is_there(&self) -> Result<bool> {
        disk::exists(&self.directory)
    }

    /// As a source: what tools connect to.
    pub fn binding_of_server(&self) -> PostgresSource {
        at(&self.directory, self.source, self.binding.bin_dir.as_deref())
    }

    /// Ends it and removes its directory; gone already is fine.
    pub fn end(&self, cx: &StepContext) -> Result<()> {
        // Not when the step may be another engine's by now: what lies here then is its.
        cx.check()?;
        let data = self.directory.join("data");
        // pg_ctl signals whatever process has the number in postmaster.pid. After a restart of the machine that may be anybody's, the live
        // server's own: only one that answers here is told.
        let number = data.join("postmaster.pid");
        if answers(&self.directory) && number.exists() {
            let text = data.display().to_string();
            let stop = ["-D", &text, "-m", "immediate", "-W", "-s", "stop"];
            let stop = self.command(&self.program("pg_ctl"), &stop);
            let within = cx.within(END_LIMIT);
            match child::run(&within, &stop, b"", 64 * 1024) {
                // Its last act is to remove that file. pg_ctl would wait for the same, and look ten times a second.
                Ok(_) => drop(child::wait_until(&within, END_LIMIT, || !number.exists())),
                // One that has ended meanwhile is what is wanted; one that can't be told is killed next.
                Err(e) => {
                    let directory = self.directory.display();
                    tracing::warn!(error = %e, "the private server {directory} could not be told to end");
                }
            }
        }
        // Whatever of it pg_ctl did not know of, or could not end: one that was just being made or started when its engine died.
        let text = self.directory.display().to_string();
        leftovers::end(VARIABLE, |directory| directory == text)?;
        remove_tree(&self.directory)
    }

    /// The major version of the server programs, and that those which are needed are there.
    pub fn version(&self) -> Result<u32> {
        self.require_parent()?;
        let mut major = 0;
        for program in ["initdb", "pg_ctl"] {
            let (out, _) = self.run(&self.command(&self.program(program), &["--version"]))?;
            (_, major) = tools::printed_version(program, &out)?;
        }
        Ok(major)
    }

    fn require_parent(&self) -> Result<()> {
        let parent = &self.binding.directory;
        if parent.is_dir() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NotFound, format!("there is no directory {}", parent.display())).hint(
            "make it, for the user that private servers run as; the configuration names it as `scratch.directory`",
        ))
    }

    fn program(&self, name: &str) -> String {
        match self.binding.bin_dir.as_ref().or(self.source.bin_dir.as_ref()) {
            Some(directory) => directory.join(name).display().to_string(),
            None => name.to_owned(),
        }
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Spec {
        let own = std::iter::once(program).chain(arguments.iter().copied()).map(str::to_owned);
        let spec = Spec::new(self.binding.prefix.iter().cloned().chain(own)).env("LC_ALL", "C");
        // Its user may not be let into ours.
        Spec { directory: Some("/".into()), ..spec.env(VARIABLE, self.directory.display().to_string()) }
    }

    fn run(&self, spec: &Spec) -> Result<(Vec<u8>, Ended)> {
        let (out, ended) = child::run(self.cx, spec, b"", 64 * 1024).map_err(|e| match e.kind {
            ErrorKind::NotFound => e.hint(
                "a private server needs PostgreSQL's server programs (Debian: postgresql-15 in /usr/lib/postgresql/15/bin): name their directory as `scratch.bin-dir`",
            ),
            _ => e,
        })?;
        ended.require_success(&spec.program())?;
        Ok((out, ended))
    }
}

/// The name of a candidate's cluster. Shorter than its database's: a socket's path has little room.
pub(super) fn name(id: &str, source: &str) -> String {
    format!("{GENERATED_PREFIX}{}_{}", sanitised(id), short_digest(source))
}

/// What tools connect to in a cluster that lies there.
pub(super) fn at(directory: &Path, source: &PostgresSource, bin_dir: Option<&Path>) -> PostgresSource {
    PostgresSource {
        host: directory.display().to_string(),
        port: PORT,
        database: source.database.clone(),
        user: source.user.clone(),
        password: None,
        maintenance_database: MAINTENANCE.into(),
        ssl_mode: None,
        ssl_root_cert: None,
        bin_dir: bin_dir.map(Path::to_owned).or_else(|| source.bin_dir.clone()),
        prefix: Vec::new(),
        scratch: None,
        data_only_keeps: Vec::new(),
    }
}

/// Whether a server listens there.
pub(super) fn answers(directory: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(directory.join(format!(".s.PGSQL.{PORT}"))).is_ok()
}

/// PostgreSQL refuses to run as root, and only root may look into another user's directories.
pub(super) fn check_user(binding: &ScratchCluster) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    match (root, binding.prefix.is_empty()) {
        (true, true) => Err(Error::invalid("a private server can't run as root")
            .hint("set `scratch.prefix = [\"setpriv\", \"--reuid=postgres\", \"--regid=postgres\", \"--clear-groups\"]`, or run lifeboat as another user")),
        (false, false) => Err(Error::invalid("a private server of another user can't be reached from here")
            .hint("leave `scratch.prefix` out: the server runs as the user that runs lifeboat")),
        _ => Ok(()),
    }
}
