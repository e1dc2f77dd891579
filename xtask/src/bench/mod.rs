//! Lifeboat's figures beside those of the commands people use instead, measured in the same run.
//!
//! Times on a shared machine say little by themselves: every subject runs in every round, in turn (A B C A B C …), medians are shown,
//! and what counts are the ratios. See [`timed`] for what exactly is measured.

mod bucket;
mod catalog;
mod cluster;
mod journal;
mod loading;
mod peers;
mod postgres;
mod s3;
mod sandbox;
mod sqlite;
mod table;
mod timed;

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::command::Run;
use crate::policies;
use crate::workspace::Workspace;

/// Programs that measured commands consist of, with the Debian packages they are in.
const PROGRAMS: [(&str, &str); 7] = [
    ("bash", "bash"),
    ("time", "time"),
    ("zstd", "zstd"),
    ("gzip", "gzip"),
    ("sqlite3", "sqlite3"),
    ("age", "age"),
    ("curl", "curl"),
];

/// What to measure.
#[derive(Args)]
pub struct Arguments {
    /// Size of the PostgreSQL database; the SQLite file has half of it
    #[arg(long, value_name = "MB", default_value_t = 1000)]
    size_mb: u64,
    /// How often everything is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Only one part
    #[arg(long)]
    only: Option<Part>,
    /// Measure what was built before
    #[arg(long)]
    prebuilt: bool,
}

/// A part of the benchmark.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Postgres,
    Sqlite,
    Sandbox,
    Journal,
    Catalog,
    S3,
    /// Wasmtime alone and Extism: only if it is named, because it builds a second wasmtime.
    Peers,
}

/// A folder that everything happens in, and the programs that are measured.
struct Site {
    /// `target/bench`.
    root: PathBuf,
    lifeboat: PathBuf,
    /// The example `measure` of the engine.
    measure: PathBuf,
    /// The engine that kills itself.
    crashing: PathBuf,
    /// Packed policies.
    policies: PathBuf,
    size_mb: u64,
    rounds: usize,
}

/// Builds what is measured, prepares `target/bench` and prints the tables.
///
/// # Errors
///
/// If something can't be built or started, or a measured command fails.
pub fn run(workspace: &Workspace, arguments: &Arguments) -> Result<()> {
    for (program, package) in PROGRAMS {
        Run::new("sh")
            .args(["-c", "command -v \"$0\"", program])
            .hint(format!("apt-get install {package}"))
            .output()
            .with_context(|| format!("{program} is not installed"))?;
    }
    if !arguments.prebuilt {
        policies::build(workspace)?;
        // As one build: with packages named, cargo would choose other features, and wasmtime would be built twice.
        let build = ["build", "--release", "--workspace", "--bin", "lifeboat", "--bin", "lifeboat-crashing"];
        Run::cargo().args(build).args(["--example", "measure"]).dir(&workspace.root).run()?;
        if arguments.only == Some(Part::Peers) {
            peers::build(workspace)?;
        }
    }
    let root = workspace.target.join("bench");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("clearing {}", root.display()))?;
    }
    fs::create_dir_all(root.join("backups"))?;
    let site = Site {
        lifeboat: workspace.target.join("release/lifeboat"),
        measure: workspace.target.join("release/examples/measure"),
        crashing: workspace.target.join("release/lifeboat-crashing"),
        policies: workspace.packed_policies(),
        root,
        size_mb: arguments.size_mb,
        rounds: arguments.rounds.max(1),
    };
    let wanted = |part| arguments.only.is_none_or(|only| only == part);
    let mut missed = 0;
    if wanted(Part::Sandbox) {
        missed += sandbox::run(workspace, &site)?;
    }
    if wanted(Part::Journal) {
        missed += journal::run(workspace, &site)?;
    }
    if wanted(Part::Catalog) {
        missed += catalog::run(&site)?;
    }
    if wanted(Part::Sqlite) {
        missed += sqlite::run(&site)?;
    }
    if wanted(Part::Postgres) {
        missed += postgres::run(workspace, &site)?;
    }
    if wanted(Part::S3) {
        missed += s3::run(workspace, &site)?;
    }
    if arguments.only == Some(Part::Peers) {
        peers::run(workspace, &site)?;
    }
    // Its gigabytes are of no use to anyone.
    fs::remove_dir_all(&site.root)?;
    if missed > 0 {
        bail!("aims missed: {missed}");
    }
    Ok(())
}

impl Site {
    /// Writes the configuration: one service `bench` with one source, a store `local`, the policy `backup` twice, as it comes and without
    /// its reading back of what was stored, and the policy `drill`.
    fn configure(&self, source: &str) -> Result<()> {
        let policies = self.policies.display();
        let policy = |name: &str, verify: &str| {
            format!(
                "[environment.bench.policy.{name}]\nmodule = \"{policies}/backup.wasm\"\nworld = \"backup\"\n\
                 grants = [\"dump.take service=bench store=local\", \"upload.verify service=bench store=local\"]\n\
                 parameters = {{ service = \"bench\", store = \"local\", verify = \"{verify}\" }}\n"
            )
        };
        // What a drill starts says 200; the live service is nowhere.
        let drill = format!(
            "[environment.bench.service.bench.scratch]\ncommand = [\"{}\", \"serve\", \"{{port}}\"]\n\
             [environment.bench.service.bench.endpoint.api]\nurl = \"http://127.0.0.1:1\"\n\
             [environment.bench.service.bench.ready]\nendpoint = \"api\"\npath = \"/\"\n\
             [environment.bench.policy.drill]\nmodule = \"{policies}/drill.wasm\"\nworld = \"drill\"\n\
             grants = [\"catalog.latest service=bench store=local\", \"upload.verify service=bench store=local\", \
             \"restore.* service=bench store=local target=scratch query=*\", \"scratch.* service=bench\", \
             \"http-check.check endpoint=scratch/api method=GET path=/\"]\n\
             parameters = {{ service = \"bench\", store = \"local\", lists = [\"/\"] }}\n",
            self.measure.display()
        );
        let text = format!(
            "[environment.bench.store.local]\nkind = \"directory\"\npath = \"backups\"\n\
             [environment.bench.service.bench.source.db]\n{source}\n{}{}{drill}",
            policy("backup", "checksum"),
            policy("backup-only", "exists"),
        );
        fs::write(self.root.join("lifeboat.toml"), text)?;
        Ok(())
    }

    /// The command line that runs a policy.
    fn run_policy(&self, policy: &str) -> String {
        format!("'{}' --json run {policy} > /dev/null", self.lifeboat.display())
    }

    /// Removes the backups of a round.
    fn clear_backups(&self) -> Result<()> {
        let backups = self.root.join("backups");
        fs::remove_dir_all(&backups)?;
        fs::create_dir(&backups)?;
        Ok(())
    }

    /// Bytes in a folder's files.
    fn bytes_below(folder: &std::path::Path) -> Result<u64> {
        let mut bytes = 0;
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            bytes += if metadata.is_dir() { Self::bytes_below(&entry.path())? } else { metadata.len() };
        }
        Ok(bytes)
    }
}
