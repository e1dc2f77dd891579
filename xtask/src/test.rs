//! Runs every test, with all it takes.

use std::ffi::OsString;

use anyhow::Result;

use crate::command::Run;
use crate::policies;
use crate::setup;
use crate::workspace::Workspace;

/// Sets up, builds policies and binaries, then hands over to `cargo test` with `args`.
///
/// # Errors
///
/// If the set-up or a build fails, or a test does.
pub fn run(workspace: &Workspace, args: impl Iterator<Item = OsString>) -> Result<()> {
    let services = setup::services(workspace)?;
    policies::build(workspace)?;
    let outcome = Run::cargo()
        .args(["test", "--workspace"])
        .args(args)
        .dir(&workspace.root)
        // Tests look at what is set: a value from an earlier set-up must not pass for this one's.
        .env_remove("LIFEBOAT_PG_USER")
        .env_remove("LIFEBOAT_KNEO")
        .env_remove("LIFEBOAT_PG_BIN_NEWER")
        .envs(services.variables())
        .env("LIFEBOAT_POLICIES", workspace.packed_policies())
        .env("LIFEBOAT_BIN", workspace.debug_binary("lifeboat"))
        .env("LIFEBOAT_NOTES_BIN_DIR", workspace.debug_dir())
        .run_in_front();
    if let Some(skipped) = services.skipped() {
        eprintln!("skipped: {skipped}");
    }
    outcome
}
