//! A compiler that makes WebAssembly.
//!
//! Tried in this order: the target is there already; one we made earlier from packages; rustup
//! adds it; Debian's packages ([`super::debian`]).

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::debian;
use crate::command::Run;
use crate::workspace::Workspace;

/// The target of every guest: it has no system interface, so a guest imports ours and nothing else.
pub const TARGET: &str = "wasm32-unknown-unknown";

/// The variable that says which compiler builds guests.
const SWITCH: &str = "LIFEBOAT_GUEST_TOOLCHAIN";

/// The standard library for guests is 20 MB; without a connection rustup may wait for ever.
const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// The variables with which cargo builds guests; none if the host's compiler does.
pub type Variables = Vec<(&'static str, OsString)>;

/// Where the compiler is to come from.
#[derive(Clone, Copy)]
pub enum Preference {
    /// Wherever it is quickest.
    Any,
    /// Debian's packages, without asking rustup.
    Packages,
}

impl Preference {
    /// `packages` is the flag of that name; the variable of the same meaning is read here.
    ///
    /// # Errors
    ///
    /// If the switch has an unknown value.
    pub fn from_environment(packages: bool) -> Result<Self> {
        let switch = std::env::var_os(SWITCH).unwrap_or_default();
        if packages || switch == "packages" {
            Ok(Self::Packages)
        } else if switch.is_empty() {
            Ok(Self::Any)
        } else {
            bail!("{SWITCH}={} is unknown\nhint: the only value is packages", switch.display())
        }
    }
}

/// Makes a compiler for guests available.
///
/// # Errors
///
/// If there is none and none can be installed; the message says by what package it could be.
pub fn toolchain(workspace: &Workspace, preference: Preference) -> Result<Variables> {
    if let Preference::Packages = preference {
        return debian::toolchain(workspace);
    }
    if is_installed()? {
        return Ok(Variables::new());
    }
    if let Some(variables) = debian::finished(workspace) {
        return Ok(variables);
    }
    match add_by_rustup() {
        Ok(()) => Ok(Variables::new()),
        Err(error) => {
            eprintln!("warning: {error:#}");
            debian::toolchain(workspace)
                .with_context(|| format!("no compiler for {TARGET}, neither from rustup nor from packages"))
        }
    }
}

/// Whether the compiler cargo uses has the standard library for guests.
fn is_installed() -> Result<bool> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| OsString::from("rustc"));
    let sysroot = Run::new(rustc).args(["--print", "sysroot"]).output()?;
    let libraries = Path::new(&sysroot).join("lib/rustlib").join(TARGET).join("lib");
    Ok(libraries.is_dir())
}

fn add_by_rustup() -> Result<()> {
    eprintln!("installing the Rust target {TARGET} with rustup");
    Run::new("rustup").args(["target", "add", TARGET]).run_within(RUSTUP_LIMIT)?;
    if !is_installed()? {
        bail!("rustup added {TARGET} to another compiler than the one cargo uses");
    }
    Ok(())
}
