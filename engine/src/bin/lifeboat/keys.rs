//! `lifeboat keys`: the keys that sign backups and verifications.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use engine::Result;
use engine::error::{Error, Kind};
use host_api::note::{Trust, Verifier};
use host_api::signing::{FAMILY, make_key, read_key};
use serde_json::json;

use crate::{Global, output};

/// Verbs of `keys`.
#[derive(Subcommand)]
pub enum Verb {
    /// Make a key in a private file, and say its line of trust.
    Make {
        /// Where to; mode 0600. A file that exists is left alone.
        file: PathBuf,
        /// What it is called where its signatures are shown: 1 to 64 of A-Z, a-z, 0-9 and -.
        #[arg(long)]
        name: String,
    },
    /// The line of trust of a key: its public half, and the kinds of texts it may sign. Leave out a kind that it should not.
    Show {
        /// The private file.
        file: PathBuf,
    },
}

/// Runs the verb.
pub fn run(global: &Global, verb: Verb) -> Result<u8> {
    let failed = |e: host_api::Error, path: &Path| {
        // It is a file of whoever calls; what is wrong with it is no fault of the configuration.
        let kind = if e.kind == host_api::ErrorKind::Invalid { Kind::Usage } else { Kind::Failed };
        let error = Error { kind, ..e.into() };
        if error.message.contains(&path.display().to_string()) { error } else { error.context(path.display()) }
    };
    let verifier = match &verb {
        Verb::Make { file, name } => make_key(file, name).map_err(|e| failed(e, file))?,
        Verb::Show { file } => read_key(file).map_err(|e| failed(e, file))?.verifier,
    };
    say(global, verifier)?;
    if let Verb::Make { file, .. } = &verb {
        output::say(&format!(
            "to sign with it: key = \"{}\" in [environment.E.signing]; to take what it signs, the line above in its trust",
            file.display()
        ));
    }
    Ok(0)
}

fn say(global: &Global, verifier: Verifier) -> Result<()> {
    let name = verifier.name.clone();
    let trust = Trust::of([verifier], &FAMILY).to_string();
    if global.json {
        return output::json(&json!({"name": name, "trust": trust.trim_end()}));
    }
    output::line(trust.trim_end())
}
