//! The command line, the same for both releases.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::{Release, service};

/// Example service of Lifeboat: notes in SQLite, attachments in files
#[derive(Parser)]
#[command(name = "notes")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve HTTP on 127.0.0.1 until SIGTERM or SIGINT
    Serve {
        /// Port to listen on; 0 takes a free one, named in the line printed when listening
        #[arg(long)]
        port: u16,
        /// Directory of notes.sqlite, attachments/ and delivered.log
        #[arg(long, default_value = ".")]
        data: PathBuf,
    },
}

/// Runs the command line of one release: exit code 0 after a graceful stop, 1 after a failure,
/// 2 for wrong usage.
pub fn main(release: Release) -> ExitCode {
    let matches = Cli::command().version(release.version()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let Command::Serve { port, data } = cli.command;
    match service::serve(release, port, &data) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
