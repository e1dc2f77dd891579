//! The whole story in one process: entries, a backup, a slip, a restore that nobody consents to, one that is cancelled, one that is done.
//!
//! `cargo run -p embed -- [POLICIES]`; the policies are in `target/policies` after `cargo xtask policies`.

use std::path::PathBuf;

use embed::{Failure, Program};
use engine::run::Ended;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let policies = std::env::args_os().nth(1).map_or_else(|| PathBuf::from("target/policies"), PathBuf::from);
    let directory = tempfile::tempdir()?;
    let program = Program::start(directory.path(), &policies.canonicalize()?, |line| println!("    {line}")).await?;

    for what in ["opening balance 100", "rent -40", "sale 25"] {
        program.ledger.add(what)?;
    }
    said("backup", &program.run("backup").await?);
    program.ledger.lose_all()?;
    println!("a slip: {} entries are left", program.ledger.entries()?.len());

    said("restore, nobody on duty", &program.run("restore").await?);
    println!("{} entries are left", program.ledger.entries()?.len());

    said("restore, cancelled while it is staged", &program.run_until("restore", Some("restore.stage")).await?);

    if let Ok(mut person) = program.duty.person.lock() {
        *person = Some("ada".into());
    }
    said("restore, ada on duty", &program.run("restore").await?);
    println!("entries: {}", program.ledger.entries()?.join("; "));
    Ok(())
}

fn said(what: &str, ended: &Ended) {
    println!("{what}: {}: {}", ended.status.word(), ended.summary);
}
