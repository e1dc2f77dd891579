//! OpenSSH's `ssh-keygen` and `ssh-agent`, which make the signatures that tests approve with.

use anyhow::{Result, bail};

use super::is_root;
use crate::command::Run;

/// Debian's package that has both.
const PACKAGE: &str = "openssh-client";

/// Finds them, or installs the package.
///
/// # Errors
///
/// If they are not there and can't be installed.
pub fn find_or_install() -> Result<()> {
    if on_path("ssh-keygen") && on_path("ssh-agent") {
        return Ok(());
    }
    if !is_root()? || !on_path("apt-get") {
        bail!("there is no ssh-keygen or no ssh-agent\nhint: install OpenSSH's client (Debian: {PACKAGE})");
    }
    eprintln!("installing the Debian package {PACKAGE}, for tests of approvals");
    for args in [&["update", "--quiet=2"][..], &["install", "--yes", "--quiet=2", "--no-install-recommends", PACKAGE]] {
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
