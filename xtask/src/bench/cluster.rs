//! A private PostgreSQL server, gone when it is dropped.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::Run;
use crate::setup;
use crate::workspace::Workspace;

/// Kept from disturbing: no sync of the server's own, no checkpoint in the middle of a measurement, no vacuum of tables just restored.
/// The same for every subject.
pub const SETTINGS: &str =
    "fsync=off, full_page_writes=off, max_wal_size=16GB, checkpoint_timeout=1h, autovacuum=off, shared_buffers=256MB";

/// A server that keeps what it was given: what is committed is on disk. No checkpoint in the middle of a measurement.
pub const DURABLE: &str =
    "fsync=on, synchronous_commit=on, max_wal_size=16GB, checkpoint_timeout=1h, shared_buffers=256MB";

/// A running server; superuser `postgres`, trusted on its socket.
pub struct Cluster {
    /// Programs of the server's own version.
    pub bin: PathBuf,
    /// Directory of the socket, which is also the data directory's.
    pub socket: PathBuf,
    user: Option<String>,
}

impl Cluster {
    /// Makes and starts one with these settings.
    pub fn start(workspace: &Workspace, settings: &str) -> Result<Self> {
        let found = setup::postgres(workspace)?;
        // Not below `target`: a socket's path has at most 107 bytes, and the server's user has to get there.
        let socket = std::env::temp_dir().join(format!("lifeboat-bench-{}", std::process::id()));
        fs::create_dir(&socket).with_context(|| socket.display().to_string())?;
        let cluster = Self { bin: found.bin, socket, user: found.user };
        if let Some(user) = &cluster.user {
            Run::new("chown").arg(user).arg(&cluster.socket).output()?;
        }
        let data = cluster.data();
        cluster
            .server("initdb")
            .args(["--no-sync", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"])
            .arg("-D")
            .arg(&data)
            .output()?;
        let mut options = format!("-c listen_addresses= -k {}", cluster.socket.display());
        for setting in settings.split(", ") {
            options.push_str(&format!(" -c {setting}"));
        }
        cluster
            .server("pg_ctl")
            .arg("-D")
            .arg(&data)
            .args(["-w", "-s", "-o", &options, "-l"])
            .arg(cluster.socket.join("log"))
            .arg("start")
            .run()?;
        Ok(cluster)
    }

    /// A client's command line, up to its own arguments.
    pub fn client(&self, program: &str) -> String {
        format!("'{}' -h '{}' -U postgres", self.bin.join(program).display(), self.socket.display())
    }

    /// Runs SQL; what it printed.
    pub fn sql(&self, database: &str, sql: &str) -> Result<String> {
        Run::new(self.bin.join("psql"))
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"])
            .arg(&self.socket)
            .args(["-c", sql])
            .output()
    }

    /// Makes an empty database, in place of one that is there.
    pub fn create(&self, database: &str) -> Result<()> {
        self.drop_database(database)?;
        self.sql("postgres", &format!("create database \"{database}\" template template0")).map(drop)
    }

    /// Drops a database.
    pub fn drop_database(&self, database: &str) -> Result<()> {
        self.sql("postgres", &format!("drop database if exists \"{database}\" with (force)")).map(drop)
    }

    fn data(&self) -> PathBuf {
        self.socket.join("data")
    }

    /// What stands in front of the server's programs, which refuse to run as root.
    pub fn prefix(&self) -> Vec<String> {
        let as_user = |user: &String| {
            ["setpriv", &format!("--reuid={user}"), &format!("--regid={user}"), "--clear-groups"].map(str::to_owned)
        };
        self.user.iter().flat_map(as_user).collect()
    }

    /// A directory in which the server's user may make others; gone with this.
    pub fn place_for_others(&self) -> Result<PathBuf> {
        let place = self.socket.join("others");
        fs::create_dir(&place)?;
        if let Some(user) = &self.user {
            Run::new("chown").arg(user).arg(&place).output()?;
        }
        Ok(place)
    }

    /// A program of the server's.
    fn server(&self, program: &str) -> Run {
        let program = self.bin.join(program);
        match self.prefix().split_first() {
            None => Run::new(program),
            Some((first, words)) => Run::new(first).args(words).arg("--").arg(program),
        }
        .dir(Path::new("/"))
        .env("LC_ALL", "C")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let stopped =
            self.server("pg_ctl").arg("-D").arg(self.data()).args(["-m", "immediate", "-w", "-s", "stop"]).run();
        if let Err(error) = stopped.and_then(|()| Ok(fs::remove_dir_all(&self.socket)?)) {
            eprintln!("left behind: {}: {error:#}", self.socket.display());
        }
    }
}
