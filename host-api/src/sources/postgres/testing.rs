//! A private PostgreSQL server for tests: its own data directory, socket directory and port; gone when it is dropped.
//!
//! `initdb` and `postgres` refuse to run as root: the server then runs as the user named by `LIFEBOAT_PG_USER`, else `postgres`. The
//! programs come from `LIFEBOAT_PG_BIN`, else from the newest complete `/usr/lib/postgresql/*/bin`.

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use crate::bindings::{PostgresSource, ScratchCluster};

/// What a server and its clients consist of.
const PROGRAMS: &[&str] = &["initdb", "pg_ctl", "postgres", "psql", "pg_dump", "pg_restore"];

/// The server that tests of one process share.
static SHARED: Mutex<Option<std::sync::Weak<PgServer>>> = Mutex::new(None);

/// A running server. Role `postgres` is the superuser and needs no password over the socket; roles other than that log in with a
/// password over TCP (`127.0.0.1`), without one over the socket.
#[derive(Debug)]
pub struct PgServer {
    /// Socket directory.
    pub host: String,
    /// Port, of the socket and of 127.0.0.1.
    pub port: u16,
    /// Where the programs are.
    pub bin_dir: PathBuf,
    directory: tempfile::TempDir,
    user: Option<String>,
}

impl PgServer {
    /// Starts one; none, with a loud line on stderr, where there is no PostgreSQL.
    pub fn start() -> Option<Self> {
        let Some(bin_dir) = bin_dir() else {
            eprintln!(
                "SKIPPED: no complete PostgreSQL in /usr/lib/postgresql/*/bin; set LIFEBOAT_PG_BIN. Nothing was tested."
            );
            return None;
        };
        Some(Self::start_with(bin_dir))
    }

    /// Starts one of the programs in this directory.
    pub fn start_with(bin_dir: PathBuf) -> Self {
        let directory = tempfile::Builder::new().prefix("lb-pg-").tempdir().expect("a directory for the server");
        let user = give_to_server(directory.path());
        // Tools of a test run as us and reach the socket.
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("our own directory");
        // Bound and let go: nobody else is given this port for a while.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let server = Self { host: directory.path().display().to_string(), port, bin_dir, directory, user };
        let data = server.data_dir();
        server.run("initdb", &["--no-sync", "-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]);
        std::fs::write(
            Path::new(&data).join("pg_hba.conf"),
            "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n",
        )
        .expect("the server's configuration");
        server.start_again();
        server
    }

    /// Starts it after [`PgServer::stop`].
    pub fn start_again(&self) {
        let settings = format!(
            "-k {} -p {} -c listen_addresses=127.0.0.1 -c fsync=off -c max_prepared_transactions=5 -c max_connections=60",
            self.host, self.port
        );
        let log = format!("{}/log", self.host);
        self.run("pg_ctl", &["-D", &self.data_dir(), "-o", &settings, "-l", &log, "-w", "-s", "start"]);
    }

    /// Stops it as a crash does: what was committed is there when it starts again.
    pub fn stop(&self) {
        self.run("pg_ctl", &["-D", &self.data_dir(), "-m", "immediate", "-w", "-s", "stop"]);
    }

    /// One server for all tests of this process that run at the same time.
    pub fn shared() -> Option<std::sync::Arc<Self>> {
        let mut shared = SHARED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(server) = shared.as_ref().and_then(std::sync::Weak::upgrade) {
            return Some(server);
        }
        let server = std::sync::Arc::new(Self::start()?);
        *shared = Some(std::sync::Arc::downgrade(&server));
        Some(server)
    }

    /// The data directory.
    pub fn data_dir(&self) -> String {
        self.directory.path().join("data").display().to_string()
    }

    /// A source for a database, as the superuser.
    pub fn source(&self, database: &str) -> PostgresSource {
        PostgresSource {
            host: self.host.clone(),
            port: self.port,
            database: database.into(),
            user: "postgres".into(),
            password: None,
            maintenance_database: "postgres".into(),
            ssl_mode: None,
            ssl_root_cert: None,
            bin_dir: Some(self.bin_dir.clone()),
            prefix: Vec::new(),
            scratch: None,
            data_only_keeps: Vec::new(),
        }
    }

    /// `psql` on a database as the superuser: more arguments may follow.
    pub fn psql(&self, database: &str) -> Command {
        let mut command = Command::new(self.bin_dir.join("psql"));
        command.args(["-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", &self.host]);
        command.args(["-p", &self.port.to_string(), "-d", database]).env_remove("PGOPTIONS");
        command
    }

    /// Runs SQL, each text as one command; panics if the server refuses. Gives what it printed.
    pub fn sql(&self, database: &str, statements: &[&str]) -> String {
        let mut command = self.psql(database);
        for statement in statements {
            command.args(["-c", statement]);
        }
        let out = command.output().expect("psql runs");
        assert!(out.status.success(), "{statements:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim_end().to_owned()
    }

    /// Makes an empty database.
    pub fn create(&self, database: &str) {
        self.sql("postgres", &[&format!("CREATE DATABASE \"{database}\" TEMPLATE template0")]);
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let path = self.bin_dir.join(program);
        let mut command = match &self.user {
            Some(user) => {
                let words = as_user(user);
                let mut command = Command::new(&words[0]);
                command.args(&words[1..]).arg("--").arg(path);
                command
            }
            None => Command::new(path),
        };
        // Its own directory: ours may be closed to that user.
        let log = self.directory.path().join("out");
        let out = std::fs::File::create(&log).expect("a log");
        let status = command
            .args(arguments)
            .current_dir("/")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(out.try_clone().expect("a log"))
            .stderr(out)
            .status()
            .expect("the program runs");
        let mut said = std::fs::read_to_string(&log).unwrap_or_default();
        let _ = write!(said, "{}", std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default());
        assert!(status.success(), "{program} {arguments:?}: {said}");
    }
}

impl Drop for PgServer {
    fn drop(&mut self) {
        if Path::new(&self.data_dir()).join("postmaster.pid").exists() {
            self.stop();
        }
    }
}

/// A place for private servers ([`crate::bindings::ScratchCluster`]): what is in it when this is dropped ends with it.
#[derive(Debug)]
pub struct ClusterPlace {
    directory: tempfile::TempDir,
    prefix: Vec<String>,
}

impl ClusterPlace {
    /// A new, empty one.
    #[expect(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("lb-").tempdir().expect("a directory for servers");
        let prefix = give_to_server(directory.path()).map(|user| as_user(&user)).unwrap_or_default();
        Self { directory, prefix }
    }

    /// As an environment has it.
    pub fn binding(&self) -> ScratchCluster {
        ScratchCluster {
            directory: self.directory.path().to_owned(),
            bin_dir: None,
            prefix: self.prefix.clone(),
            superuser: false,
        }
    }

    /// What lies in it.
    pub fn holds(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.directory.path()).expect("our own directory");
        entries.map(|entry| entry.expect("our own directory").path()).collect()
    }

    /// How many processes work in it: a server's own stay in its data.
    pub fn processes(&self) -> usize {
        let works_here = |process: PathBuf| {
            std::fs::read_link(process.join("cwd")).is_ok_and(|at| at.starts_with(self.directory.path()))
        };
        std::fs::read_dir("/proc").into_iter().flatten().flatten().filter(|entry| works_here(entry.path())).count()
    }
}

impl Drop for ClusterPlace {
    fn drop(&mut self) {
        // What a failed test leaves: a server notices within a minute that its directory is gone, which is too long for the next one.
        let here = self.directory.path();
        if let Err(e) = crate::leftovers::end(super::cluster::VARIABLE, |of| Path::new(of).starts_with(here)) {
            eprintln!("{e}");
        }
    }
}

/// Gives a directory to the user that servers run as, if that is another one than ours, and says which.
pub fn give_to_server(directory: &Path) -> Option<String> {
    let user = rustix::process::geteuid()
        .is_root()
        .then(|| std::env::var("LIFEBOAT_PG_USER").unwrap_or_else(|_| "postgres".into()))?;
    let status = Command::new("chown").arg(&user).arg(directory).status().expect("chown runs");
    assert!(status.success(), "{user} is no user here: set LIFEBOAT_PG_USER");
    Some(user)
}

fn as_user(user: &str) -> Vec<String> {
    ["setpriv", &format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"].map(str::to_owned).to_vec()
}

fn bin_dir() -> Option<PathBuf> {
    let complete = |dir: &Path| PROGRAMS.iter().all(|program| dir.join(program).is_file());
    if let Some(dir) = std::env::var_os("LIFEBOAT_PG_BIN").map(PathBuf::from) {
        assert!(complete(&dir), "LIFEBOAT_PG_BIN={} lacks one of {PROGRAMS:?}", dir.display());
        return Some(dir);
    }
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, dir)| complete(dir))
        .collect();
    versions.sort();
    versions.pop().map(|(_, dir)| dir)
}
