//! Runs every test, with all it takes.

use std::ffi::OsString;

use anyhow::Result;

use crate::command::Run;
use crate::policies;
use crate::setup;
use crate::workspace::Workspace;

/// Kills the engine at every place of every run, on every service, and prints what came of it.
///
/// # Errors
///
/// If the set-up or a build fails, or a run that was cut off does not end as one that was not.
pub fn sweep(workspace: &Workspace) -> Result<()> {
    let arguments = ["survives_a_kill", "--", "--nocapture", "--test-threads=1"];
    tested(workspace, arguments.map(OsString::from).into_iter(), "all")
}

/// Sets up, builds policies and binaries, then hands over to `cargo test` with `args`.
///
/// # Errors
///
/// If the set-up or a build fails, or a test does.
pub fn run(workspace: &Workspace, args: impl Iterator<Item = OsString>) -> Result<()> {
    tested(workspace, args, "a sample")
}

fn tested(workspace: &Workspace, args: impl Iterator<Item = OsString>, sweep: &str) -> Result<()> {
    let services = setup::services(workspace)?;
    let guests = policies::build(workspace)?;
    // The command line with what tests alone switch on; `cargo test` makes it too, unless it is asked for one kind of test.
    Run::cargo().args(["build", "--workspace", "--example", "lifeboat-oci"]).dir(&workspace.root).run()?;
    let outcome = Run::cargo()
        .args(["test", "--workspace"])
        .args(args)
        .dir(&workspace.root)
        // Tests look at what is set: a value from an earlier set-up must not pass for this one's.
        .env_remove("LIFEBOAT_PG_USER")
        .env_remove("LIFEBOAT_KNEO")
        .env_remove("LIFEBOAT_MOTO")
        .env_remove("LIFEBOAT_PG_BIN_NEWER")
        .env_remove("LIFEBOAT_ZIG_PYTHON")
        .env_remove("LIFEBOAT_COMPONENTIZE_PY")
        .env_remove("LIFEBOAT_COMPONENTIZE_QJS")
        .envs(services.variables())
        // Tests make crates of their own and build them as guests: `KEY=VALUE`, a line each, and where their macros have been built before.
        .env("LIFEBOAT_GUEST_VARIABLES", lines(&guests))
        .env("LIFEBOAT_GUEST_TARGET", workspace.target.join("guests"))
        .env("LIFEBOAT_POLICIES", workspace.packed_policies())
        .env("LIFEBOAT_BIN", workspace.debug_binary("lifeboat"))
        .env("LIFEBOAT_OCI_BIN", workspace.debug_dir().join("examples/lifeboat-oci"))
        .env("LIFEBOAT_NOTES_BIN_DIR", workspace.debug_dir())
        // How much of the crash sweep, and which part: another one for every commit.
        .env("LIFEBOAT_SWEEP", sweep)
        .env("LIFEBOAT_SWEEP_SEED", commit(workspace).unwrap_or_default())
        .env("RUST_TEST_THREADS", threads())
        .run_in_front();
    for skipped in services.skipped() {
        eprintln!("skipped: {skipped}");
    }
    outcome
}

/// Tests at once. They wait for servers and disks a third of their time, so more than there are processors.
fn threads() -> OsString {
    std::env::var_os("RUST_TEST_THREADS").unwrap_or_else(|| {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        (processors + processors.div_ceil(2)).to_string().into()
    })
}

fn lines(variables: &[(&'static str, OsString)]) -> OsString {
    let mut text = OsString::new();
    for (key, value) in variables {
        text.push(format!("{key}="));
        text.push(value);
        text.push("\n");
    }
    text
}

/// The commit that is checked out; none outside of a checkout.
fn commit(workspace: &Workspace) -> Option<String> {
    let out =
        std::process::Command::new("git").args(["rev-parse", "HEAD"]).current_dir(&workspace.root).output().ok()?;
    out.status.success().then(|| String::from_utf8_lossy(&out.stdout).trim().to_owned())
}
