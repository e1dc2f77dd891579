//! Where a database is restored for a drill, if not next to the live one.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{
    PostgresSource, Secret, SslMode, anchor_server, anchor_words, default_maintenance_database, default_postgres_port,
};
use crate::error::{Error, Result};

/// Longest directory of clusters, bytes: a socket's path has 107, of which a cluster's own name takes some 40, and the socket's 14.
const DIRECTORY_BYTES_MAX: usize = 50;

/// Another place for scratch candidates of a PostgreSQL source.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum ScratchPostgres {
    /// A private server, made for the candidate and gone with it.
    Cluster(ScratchCluster),
    /// A server that is there for drills.
    Server(ScratchServer),
}

/// A private server on this machine, made for one candidate: reached through a socket in a directory of mode 0700, and by nobody else.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ScratchCluster {
    /// Where it lies while it is needed: a directory that is there and has room for the restored data.
    pub directory: PathBuf,
    /// Where `initdb`, `pg_ctl` and the tools are; otherwise the source's `bin-dir`, or the PATH.
    pub bin_dir: Option<PathBuf>,
    /// Command in front of `initdb` and `pg_ctl`, for an engine that runs as root: PostgreSQL refuses to (`setpriv --reuid=postgres …`).
    #[serde(default)]
    pub prefix: Vec<String>,
    /// Whether the role that restores is a superuser there. What an archive holds can then run programs as the server's user.
    #[serde(default)]
    pub superuser: bool,
}

/// Another server: what a source says of its own, without a database.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ScratchServer {
    /// Host name or socket directory.
    pub host: String,
    /// Port.
    #[serde(default = "default_postgres_port")]
    pub port: u16,
    /// The role that restores.
    pub user: String,
    /// Its password.
    pub password: Option<Secret>,
    /// A database to connect to while another is made or dropped.
    #[serde(default = "default_maintenance_database")]
    pub maintenance_database: String,
    /// How the connection is protected.
    pub ssl_mode: Option<SslMode>,
    /// PEM file with the roots to trust.
    pub ssl_root_cert: Option<PathBuf>,
    /// Where the tools of that server's version are.
    pub bin_dir: Option<PathBuf>,
    /// Command in front of every tool.
    #[serde(default)]
    pub prefix: Vec<String>,
}

impl ScratchServer {
    /// As a source, with the name of the live database: no database of this name is touched there.
    pub(crate) fn as_source(&self, database: &str) -> PostgresSource {
        PostgresSource {
            host: self.host.clone(),
            port: self.port,
            database: database.to_owned(),
            user: self.user.clone(),
            password: self.password.clone(),
            maintenance_database: self.maintenance_database.clone(),
            ssl_mode: self.ssl_mode,
            ssl_root_cert: self.ssl_root_cert.clone(),
            bin_dir: self.bin_dir.clone(),
            prefix: self.prefix.clone(),
            scratch: None,
            data_only_keeps: Vec::new(),
        }
    }
}

impl ScratchPostgres {
    pub(super) fn anchor(&mut self, base: &Path) {
        match self {
            Self::Cluster(of) => {
                of.directory = base.join(&of.directory);
                of.bin_dir.iter_mut().for_each(|dir| *dir = base.join(&*dir));
                anchor_words(&mut of.prefix, base);
            }
            Self::Server(of) => {
                let paths = [&mut of.bin_dir, &mut of.ssl_root_cert];
                anchor_server(&mut of.host, paths, of.password.as_mut(), &mut of.prefix, base);
            }
        }
    }

    /// What can be told without looking at the world.
    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Cluster(of) => {
                // It becomes part of options that pg_ctl hands on through a shell, and of a socket's path.
                let text = of.directory.to_str().unwrap_or_default();
                let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
                if text.is_empty() || !text.chars().all(plain) {
                    return Err(Error::invalid(format!(
                        "`directory` {} has characters other than letters, digits and `/ . _ -`",
                        crate::identifier::shown(&of.directory.display().to_string())
                    ))
                    .hint("choose a plain path: /var/lib/lifeboat"));
                }
                if text.len() > DIRECTORY_BYTES_MAX {
                    return Err(Error::invalid(format!(
                        "`directory` {text} is longer than {DIRECTORY_BYTES_MAX} bytes: the path of the server's socket would not fit"
                    ))
                    .hint("choose a shorter path: /var/lib/lifeboat"));
                }
                match of.prefix.first() {
                    None => Ok(()),
                    Some(_) => super::check::command("prefix", &of.prefix),
                }
            }
            Self::Server(of) => of.as_source("").check(),
        }
    }
}
