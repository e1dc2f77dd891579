//! `lifeboat audit`: proof that the log is whole, for whoever runs the engine and for whoever does not.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use engine::audit::{Held, Trust, Verdict, verify_lines, verify_state};
use engine::error::{Error, Kind};
use engine::journal::By;
use engine::{Engine, Result};
use host_api::identifier;
use serde_json::json;

use crate::{Global, output};

/// A checkpoint or a key has some hundred bytes.
const SMALL_BYTES_MAX: u64 = 64 << 10;

/// Verbs of `audit`.
#[derive(Subcommand)]
pub enum Verb {
    /// Check every record, and that the log is the one that a held checkpoint was made of; exit code 5 names what is wrong.
    Verify {
        /// A checkpoint that you hold; may be given several times.
        #[arg(long = "checkpoint", value_name = "FILE")]
        checkpoints: Vec<PathBuf>,
        /// An exported log, instead of the state's.
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        /// The keys that you trust, as `audit key` said them; without it, the state's own.
        #[arg(long, value_name = "FILE")]
        key: Option<PathBuf>,
    },
    /// Write the log's lines, all of one moment.
    Export {
        /// Only those of this run; its lines alone do not verify.
        #[arg(long)]
        run: Option<String>,
        /// Where to; `-` is stdout. A file that exists is left alone.
        file: PathBuf,
    },
    /// Make a signed checkpoint of the log as it is now; keep it where nobody who can write the state can reach it.
    Checkpoint {
        /// Where to; `-` is stdout. A file that exists is left alone.
        #[arg(default_value = "-")]
        file: PathBuf,
    },
    /// The key that signs the log now, as a line of trust.
    Key,
    /// Sign with a new key from here on; both keys sign the change.
    RotateKey,
}

/// Runs the verb.
pub async fn run(global: &Global, verb: Verb) -> Result<u8> {
    match verb {
        Verb::Verify { checkpoints, log, key } => verify(global, &checkpoints, log.as_deref(), key.as_deref()).await,
        Verb::Export { run, file } => export(global, run.as_deref(), &file).await,
        Verb::Checkpoint { file } => checkpoint(global, &file).await,
        Verb::Key => key(global).await,
        Verb::RotateKey => rotate(global).await,
    }
}

async fn verify(global: &Global, checkpoints: &[PathBuf], log: Option<&Path>, key: Option<&Path>) -> Result<u8> {
    let held: Vec<Held> =
        checkpoints.iter().map(|path| Held::parse(&called(path), &read_small(path)?)).collect::<Result<_>>()?;
    let trust = key
        .map(|path| {
            let flaw = |flaw| Error::new(Kind::VerificationFailed, format!("key {}: {flaw}", called(path)));
            Trust::parse(&read_small(path)?).map_err(flaw)
        })
        .transpose()?;
    let verdict = match log {
        Some(path) => {
            if trust.is_none() && !held.is_empty() {
                return Err(Error::new(Kind::Usage, "a checkpoint proves nothing without a key that is trusted")
                    .hint("--key FILE, with what `lifeboat audit key` said where the log was written"));
            }
            let file = File::open(path).map_err(|e| unreadable(path, &e))?;
            verify_lines(&mut BufReader::new(file), &held, &trust.unwrap_or_default())?
        }
        None => {
            let config = global.load()?;
            let directory = config.state_directory();
            // Opening would make an empty one, in which nothing is wrong.
            if !config.state_is_shared() && !directory.join("state.sqlite").exists() {
                let why = format!("there is no log in {}", directory.display());
                return Err(Error::new(Kind::VerificationFailed, why));
            }
            verify_state(&config.open_state().await?, &held, trust.as_ref()).await?
        }
    };
    if global.json {
        let Verdict { records, head, complete } = &verdict;
        let complete = complete.as_ref().map(|p| json!({"record": p.size, "key": p.key, "time-ms": p.time_ms}));
        output::json(&json!({"records": records, "head": head, "complete-to": complete}))?;
    } else {
        output::line(&verdict.to_string())?;
    }
    Ok(0)
}

async fn export(global: &Global, run: Option<&str>, file: &Path) -> Result<u8> {
    let state = global.load()?.open_state().await?;
    if let Some(run) = run {
        // An unknown one is an error, not an empty file.
        state.run(run).await?;
    }
    let mut count = 0;
    write_new(file, async |out| {
        count = state.export(run, |line| writeln!(out, "{line}").map_err(|e| unwritable(file, &e))).await?;
        Ok(())
    })
    .await?;
    if global.json && !is_stdout(file) {
        output::json(&json!({"records": count}))?;
    }
    Ok(0)
}

async fn checkpoint(global: &Global, file: &Path) -> Result<u8> {
    let engine = engine(global).await?;
    let (checkpoint, signed) = engine.checkpoint(None).await?;
    write_new(file, async |out| out.write_all(signed.as_bytes()).map_err(|e| unwritable(file, &e))).await?;
    if let Err(error) = engine.keep_checkpoint(&checkpoint, &signed).await {
        output::say(&format!("warning: the checkpoint of record {} is not in its store: {error}", checkpoint.size));
    }
    if global.json && !is_stdout(file) {
        output::json(&json!({
            "size": checkpoint.size, "head": checkpoint.head, "time-ms": checkpoint.time_ms, "epoch": checkpoint.epoch,
        }))?;
    }
    Ok(0)
}

async fn key(global: &Global) -> Result<u8> {
    let (verifier, epoch, trust) = engine(global).await?.signing_key().await?;
    if global.json {
        output::json(&json!({
            "name": verifier.name, "epoch": epoch, "verifier": verifier.to_string(), "trust": trust.to_string().trim_end(),
        }))?;
    } else {
        output::line(trust.to_string().trim_end())?;
    }
    Ok(0)
}

async fn rotate(global: &Global) -> Result<u8> {
    let by = By { actor: engine::config::actor(), channel: "cli".into() };
    let engine = engine(global).await?;
    let (run, warnings) = engine.rotate_key(&by).await?;
    let (verifier, epoch, _) = engine.signing_key().await?;
    for warning in &warnings {
        output::say(&format!("warning: {warning}"));
    }
    if global.json {
        output::json(&json!({"run": run, "name": verifier.name, "epoch": epoch, "warnings": warnings}))?;
    } else {
        output::line(&format!("the log is signed by {} from here on", verifier.name))?;
    }
    Ok(0)
}

async fn engine(global: &Global) -> Result<Engine> {
    global.load()?.builder()?.without_compile_cache().build().await
}

fn is_stdout(path: &Path) -> bool {
    path == Path::new("-")
}

/// Writes to stdout, or to a file that was not there before and is whole or gone afterwards.
async fn write_new(path: &Path, write: impl AsyncFnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    if is_stdout(path) {
        let mut out = BufWriter::new(std::io::stdout().lock());
        write(&mut out).await?;
        return out.flush().map_err(|e| unwritable(path, &e));
    }
    let file = File::create_new(path).map_err(|e| unwritable(path, &e))?;
    let mut out = BufWriter::new(file);
    let written = write(&mut out)
        .await
        .and_then(|()| out.flush().and_then(|()| out.get_ref().sync_all()).map_err(|e| unwritable(path, &e)));
    if written.is_err() {
        // Half an export would verify as one whose end was cut off.
        let _ = std::fs::remove_file(path);
    }
    written
}

fn read_small(path: &Path) -> Result<String> {
    let mut text = String::new();
    let file = File::open(path).map_err(|e| unreadable(path, &e))?;
    file.take(SMALL_BYTES_MAX).read_to_string(&mut text).map_err(|e| match e.kind() {
        std::io::ErrorKind::InvalidData => Error::new(Kind::VerificationFailed, format!("{}: not UTF-8", called(path))),
        _ => unreadable(path, &e),
    })?;
    Ok(text)
}

fn called(path: &Path) -> String {
    identifier::shown(&path.display().to_string())
}

fn unreadable(path: &Path, e: &std::io::Error) -> Error {
    Error::new(Kind::Usage, format!("{}: {e}", called(path)))
}

fn unwritable(path: &Path, e: &std::io::Error) -> Error {
    let error = Error::new(Kind::Failed, format!("{}: {e}", called(path)));
    match e.kind() {
        std::io::ErrorKind::AlreadyExists => error.hint("it is left alone: name another file"),
        _ => error,
    }
}
