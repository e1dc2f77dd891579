//! Stock tools that tests use as a person would: OpenSSH's `ssh-keygen` and `ssh-agent` make the signatures that tests approve with, `age` and
//! `zstd` open an encrypted backup without us, `minisign` signs modules and verifies our signatures.

use anyhow::{Result, bail};

use super::is_root;
use crate::command::Run;

/// Debian's packages, with what of each is used.
const PACKAGES: [(&str, &[&str]); 4] = [
    ("openssh-client", &["ssh-keygen", "ssh-agent"]),
    ("age", &["age", "age-keygen"]),
    ("zstd", &["zstd"]),
    ("minisign", &["minisign"]),
];

/// Finds them, or installs the packages.
///
/// # Errors
///
/// If they are not there and can't be installed.
pub fn find_or_install() -> Result<()> {
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(_, tools)| !tools.iter().all(|tool| on_path(tool)))
        .map(|(package, _)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.join(" ");
    if !is_root()? || !on_path("apt-get") {
        bail!("these tools are not there: {names}\nhint: install them (on Debian, packages of these names)");
    }
    eprintln!("installing Debian packages, for tests: {names}");
    let install = ["install", "--yes", "--quiet=2", "--no-install-recommends"];
    for args in [vec!["update", "--quiet=2"], [&install[..], &missing].concat()] {
        Run::new("apt-get")
            .args(["-o", "Dpkg::Use-Pty=0"])
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .run()?;
    }
    Ok(())
}

fn on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}
