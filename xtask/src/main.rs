//! `cargo xtask`: what has to be on the machine, and the few things one does with it.
//!
//! ```text
//! cargo xtask demo        everything set up, then the main job on an embedded default
//! cargo xtask setup       a compiler for guests, PostgreSQL, kneo-serv, an S3 for tests
//! cargo xtask policies    build the policies and pack them
//! cargo xtask test        all of that, then every test
//! cargo xtask sweep       kill the engine everywhere, and go on
//! cargo xtask bench       our figures beside those of what people use instead
//! ```
//!
//! What is found on the machine is used; what is missing is installed below `target/`, or as a
//! distribution package, and named before it is.

mod bench;
mod command;
mod demo;
mod policies;
mod setup;
mod test;
mod workspace;

use std::ffi::OsString;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::setup::guests::Preference;
use crate::workspace::Workspace;

/// Set-up, policies and tests of Lifeboat
#[derive(Parser)]
#[command(bin_name = "cargo xtask", after_help = ENVIRONMENT)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

/// Shown below the verbs: the switches that are not arguments.
const ENVIRONMENT: &str = "\
Environment:
  LIFEBOAT_GUEST_TOOLCHAIN=packages  build guests with Debian's compiler, without asking rustup
  CARGO_TARGET_DIR                   where everything built or installed goes (else target/)";

#[derive(Subcommand)]
enum Verb {
    /// Install what the tests need; prints the variables that tell them where it is
    Setup {
        /// Build guests with Debian's compiler, as LIFEBOAT_GUEST_TOOLCHAIN=packages does
        #[arg(long)]
        packages: bool,
    },
    /// Build the policies and the tests' guests, pack them into target/policies
    Policies,
    /// Back up, drill, upgrade and roll back a small service: no server, no account
    Demo,
    /// Measure backups, restores, drills, promotions, the journal and the sandbox beside what people use instead; fails if an aim is missed
    Bench(bench::Arguments),
    /// Kill the engine at every place of every run, go on, and compare with a run that was not disturbed; prints a table
    Sweep,
    /// Set up, build the policies, run every test
    Test {
        /// Passed on to `cargo test --workspace`
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match run(&Arguments::parse().verb) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: &Verb) -> Result<()> {
    let workspace = Workspace::locate()?;
    match verb {
        Verb::Setup { packages } => {
            let preference = Preference::from_environment(*packages)?;
            setup::guests::toolchain(&workspace, preference)?;
            setup::services(&workspace)?.print();
            Ok(())
        }
        Verb::Demo => demo::run(&workspace),
        Verb::Bench(arguments) => bench::run(&workspace, arguments),
        Verb::Policies => policies::build(&workspace).map(drop),
        Verb::Sweep => test::sweep(&workspace),
        // Not what clap collected: it drops a leading `--`, which cargo has to see.
        Verb::Test { args: _ } => test::run(&workspace, std::env::args_os().skip(2)),
    }
}
