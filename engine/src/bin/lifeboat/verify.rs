//! `lifeboat backups verify`: how whole a stored backup is, in every store that has it.

use clap::ValueEnum;
use engine::Result;
use engine::config::Environment;
use engine::direct::DirectCall;
use engine::run::{Ended, Status};
use host_api::catalog::Backup;
use host_api::restore::Verification;
use host_api::signing::{CHECKED, VERIFIED};
use host_api::{Finding, Severity, identifier};
use serde_json::{Value, json};

use crate::backups::{by_hand, find};
use crate::{Global, output};

/// What the runs of this verb are called.
const VERB: &str = "backups-verify";

/// How deep to look.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Depth {
    /// Every object is there, with its size.
    Exists,
    /// Every stored byte is read and hashed.
    Checksum,
    /// Restored into scratch, compared with the manifest row by row, and thrown away. An archive is code: it runs with the source role's rights.
    Content,
}

impl Depth {
    fn word(self) -> &'static str {
        match self {
            Self::Exists => "exists",
            Self::Checksum => "checksum",
            Self::Content => "content",
        }
    }
}

/// What was found of one copy.
#[derive(Default)]
struct Looked {
    findings: Vec<Finding>,
    /// The check ran to its end, and nothing of severity error was found.
    whole: bool,
    /// Why it did not come to its end.
    error: Option<String>,
    run: String,
    /// The kind of the signed record that was put beside the manifest.
    record: Option<&'static str>,
    /// Rows and files that were compared.
    compared: Option<(u64, u64)>,
}

impl Looked {
    fn new(ended: &Ended, findings: Vec<Finding>, has_result: bool) -> Self {
        let error = (ended.status != Status::Ok).then(|| ended.summary.clone());
        // A check that could not run has no result: it never passes.
        let whole = error.is_none() && has_result && findings.iter().all(|f| f.severity != Severity::Error);
        Self { findings, whole, error, run: ended.run.clone(), ..Self::default() }
    }
}

/// Runs the verb.
pub async fn run(
    global: &Global,
    environment: &Environment<'_>,
    backup: &str,
    store: Option<&str>,
    depth: Depth,
) -> Result<u8> {
    let (found, failures) = find(environment, backup, store).await?;
    // A place that can't be looked into was not verified.
    let mut code = if failures.is_empty() { 0 } else { 5 };
    failures.iter().for_each(|error| output::say(&format!("error: could not look: {error}")));
    for (backup, _) in found {
        let looked = match depth {
            Depth::Exists => read(global, environment, &backup, depth).await?,
            Depth::Checksum => attested(global, environment, &backup, depth).await?,
            Depth::Content => {
                // Damage is said object by object before anything is restored.
                let looked = read(global, environment, &backup, Depth::Checksum).await?;
                if looked.whole { restored(global, environment, &backup).await? } else { looked }
            }
        };
        say(global, &backup, depth, &looked)?;
        if !looked.whole {
            code = 5;
        }
    }
    Ok(code)
}

/// Looks, and leaves nothing behind.
async fn read(global: &Global, environment: &Environment<'_>, backup: &Backup, depth: Depth) -> Result<Looked> {
    looked_by("upload.verify", global, environment, backup, depth).await.map(|(looked, _)| looked)
}

/// Looks, and records it where there is a key to sign that with.
async fn attested(global: &Global, environment: &Environment<'_>, backup: &Backup, depth: Depth) -> Result<Looked> {
    let signs = environment.binding.signing()?.signer(CHECKED);
    let unrecorded = match signs {
        Ok(None) => None,
        Ok(Some(_)) => {
            let (looked, status) = looked_by("upload.attest", global, environment, backup, depth).await?;
            if status != Status::LockHeld {
                let record = looked.whole.then_some(CHECKED);
                return Ok(Looked { record, ..looked });
            }
            // Looking needs nobody's leave, putting a record there does.
            looked.error
        }
        // A key for manifests alone is no fault; one that can't be read is, and nothing is wrong with the backup.
        Err(e) => Some(e.message),
    };
    if let Some(why) = unrecorded {
        output::say(&format!("warning: what is found is not recorded: {}", identifier::shown_long(&why)));
    }
    read(global, environment, backup, depth).await
}

async fn looked_by(
    name: &'static str,
    global: &Global,
    environment: &Environment<'_>,
    backup: &Backup,
    depth: Depth,
) -> Result<(Looked, Status)> {
    let call = DirectCall { name, arguments: json!({"backup": backup, "depth": depth.word()}) };
    let (ended, results) = by_hand(global, environment, VERB, vec![call]).await?;
    let findings: Option<Vec<Finding>> = results.first().and_then(|r| serde_json::from_value(r.clone()).ok());
    let has_result = findings.is_some();
    Ok((Looked::new(&ended, findings.unwrap_or_default(), has_result), ended.status))
}

/// Restores into scratch, compares, and throws away; a pass is recorded by the comparison itself.
async fn restored(global: &Global, environment: &Environment<'_>, backup: &Backup) -> Result<Looked> {
    let staged = || json!({"from": 0});
    let calls = vec![
        DirectCall { name: "restore.stage", arguments: json!({"backup": backup, "target": "scratch", "options": {}}) },
        DirectCall { name: "restore.verify", arguments: json!({"candidate": staged()}) },
        DirectCall { name: "restore.discard", arguments: json!({"candidate": staged()}) },
    ];
    let (ended, results) = by_hand(global, environment, VERB, calls).await?;
    let verification: Option<Verification> = results.get(1).and_then(|r| serde_json::from_value(r.clone()).ok());
    let Some(verification) = verification else { return Ok(Looked::new(&ended, Vec::new(), false)) };
    let recorded = verification.passed && verification.findings.iter().all(|f| f.rule != "verification-record");
    let looked = Looked::new(&ended, verification.findings, verification.passed);
    Ok(Looked {
        record: recorded.then_some(VERIFIED),
        compared: Some((verification.rows, verification.files)),
        ..looked
    })
}

fn say(global: &Global, backup: &Backup, depth: Depth, looked: &Looked) -> Result<()> {
    let Looked { findings, whole, error, run, record, compared } = looked;
    let depth = depth.word();
    if global.json {
        let mut document = json!({
            "backup": backup.id, "store": backup.store, "depth": depth, "whole": whole, "findings": findings, "run": run,
            "error": error, "record": record,
        });
        if let Some((rows, files)) = compared {
            (document["rows"], document["files"]) = (Value::from(*rows), Value::from(*files));
        }
        return output::json(&document);
    }
    let verdict = if *whole { "whole" } else { "NOT VERIFIED" };
    let compared =
        compared.map(|(rows, files)| format!(", {rows} rows and {files} files compared")).unwrap_or_default();
    // Digests are of stored bytes: whether they can be opened is another question.
    let compared = if depth == "checksum" { ", bytes as stored".to_owned() } else { compared };
    let record = record.map(|kind| format!(", on record as {kind}")).unwrap_or_default();
    output::line(&format!("{} in {}: {verdict} ({depth}{compared}{record})", backup.id, backup.store))?;
    for finding in findings.iter().filter(|finding| !whole || finding.severity != Severity::Info) {
        output::line(&output::finding(finding))?;
    }
    if let Some(error) = error {
        output::line(&format!("could not look: {}", identifier::shown_long(error)))?;
    }
    Ok(())
}
