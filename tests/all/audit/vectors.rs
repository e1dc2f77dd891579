//! The format is frozen by golden files: logs of every version must stay verifiable, by our verifier and by the outsider's.
//!
//! `docs/vectors/audit/` was written by the production path. To write it anew, after a deliberate change of the format:
//!
//! ```text
//! unshare --uts sh -c 'hostname host1 && USER=alice LIFEBOAT_WRITE_VECTORS=1 TMPDIR=/srv cargo xtask test --test all audit::vectors'
//! ```
//!
//! (The user's and the machine's name and that of the directory stand in the log.)

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use engine::audit::{Held, Trust, verify_lines};
use serde_json::Value;

use super::{python, repository, text};
use crate::support::Site;

const FILES: [&str; 4] = ["journal.jsonl", "checkpoint-1.txt", "checkpoint-2.txt", "key.txt"];
/// Every kind of record there is.
const KINDS: [&str; 13] = [
    "answered",
    "cancel-requested",
    "completed",
    "ending",
    "key-rotated",
    "parked",
    "resolved",
    "resumed",
    "run-ended",
    "run-started",
    "settled",
    "started",
    "voted",
];

fn kinds(log: &str) -> BTreeSet<String> {
    log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["kind"].as_str().unwrap().to_owned()).collect()
}

/// A log with every kind of record, written by the command line; its files in the site's `vectors/`.
fn written() -> Site {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.guest("stops-and-traps", "trap-between", "upgrade", &["service.stop service=notes"], "");
    let out = |site: &Site, name: &str| text(&site.path("vectors").join(name));
    let lifeboat = |site: &Site, arguments: &[&str]| {
        let done = site.command(arguments).env("USER", "alice").stdin(std::process::Stdio::null()).output().unwrap();
        (done.status.code().unwrap_or(-1), String::from_utf8(done.stdout).unwrap())
    };
    fs::create_dir(site.path("vectors")).unwrap();
    fs::write(out(&site, "key.txt"), lifeboat(&site, &["audit", "key"]).1).unwrap();
    assert_eq!(lifeboat(&site, &["run", "backup"]).0, 0);
    assert_eq!(lifeboat(&site, &["audit", "checkpoint", &out(&site, "checkpoint-1.txt")]).0, 0);
    assert_eq!(lifeboat(&site, &["audit", "rotate-key"]).0, 0);
    let (code, parked) = lifeboat(&site, &["--json", "run", "restore"]);
    assert_eq!(code, 13, "{parked}");
    let parked: Value = serde_json::from_str(&parked).unwrap();
    assert_eq!(lifeboat(&site, &["runs", "resume", parked["run"].as_str().unwrap(), "--yes"]).0, 0);
    assert_eq!(lifeboat(&site, &["run", "stops-and-traps", "--param", "service=notes"]).0, 20);
    in_doubt(&site, &lifeboat);
    voted(&site, &lifeboat);
    assert_eq!(lifeboat(&site, &["audit", "checkpoint", &out(&site, "checkpoint-2.txt")]).0, 0);
    assert_eq!(lifeboat(&site, &["audit", "export", &out(&site, "journal.jsonl")]).0, 0);
    site
}

type Lifeboat<'l> = &'l dyn Fn(&Site, &[&str]) -> (i32, String);

/// A request whose answer is lost with the engine, a person's word on it, and another person's on the run.
fn in_doubt(site: &Site, lifeboat: Lifeboat<'_>) {
    let grants = ["http-check.check endpoint=notes/api method=* path=/"];
    site.guest("posts", "posts", "upgrade", &grants, "parameters = { endpoint = \"notes/api\", path = \"/notes\" }");
    assert_eq!(crate::sweep::crashing(site, "acted", "run", "posts", &[]).0.code, -1);
    let (_, listed) = lifeboat(site, &["--json", "runs", "list", "--status", "interrupted"]);
    let listed: Value = serde_json::from_str(&listed).unwrap();
    let run = listed[0]["run"].as_str().unwrap();
    assert_eq!(lifeboat(site, &["runs", "resume", run]).0, 15);
    let why = ["--reason", "the service has no such note"];
    assert_eq!(lifeboat(site, &[&["runs", "resolve", run, "--step", "1", "--as", "failed"], &why[..]].concat()).0, 0);
    assert_eq!(lifeboat(site, &["runs", "cancel", run, "--reason", "not today"]).0, 130);
}

/// A restore that an approver says no to.
fn voted(site: &Site, lifeboat: Lifeboat<'_>) {
    let key = site.path("alice");
    crate::approvals::make_key(&key, "ed25519");
    let public = fs::read_to_string(key.with_extension("pub")).unwrap();
    site.configure(&[("allow-yes = true", "allow-yes = false")]);
    site.append(&format!(
        "[environment.demo.approval]\nself-approval = true\n[environment.demo.approver.alice]\nkey = {:?}\n",
        public.trim()
    ));
    let (code, parked) = lifeboat(site, &["--json", "run", "restore"]);
    assert_eq!(code, 13, "{parked}");
    let parked: Value = serde_json::from_str(&parked).unwrap();
    let (_, open) = lifeboat(site, &["--json", "approvals", "list"]);
    let open: Value = serde_json::from_str(&open).unwrap();
    assert_eq!(lifeboat(site, &["deny", open[0]["approval"].as_str().unwrap(), "--key", &text(&key)]).0, 0);
    assert_eq!(lifeboat(site, &["runs", "resume", parked["run"].as_str().unwrap()]).0, 14);
}

/// Both verifiers find both checkpoints of a folder good.
#[track_caller]
fn holds(folder: &Path) {
    let [log, first, second, key] = FILES.map(|name| folder.join(name));
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    let trust = Trust::parse(&read(&key)).unwrap();
    let log_text = read(&log);
    for checkpoint in [&first, &second] {
        let held = Held::parse("held", &read(checkpoint)).unwrap();
        let verdict = verify_lines(&mut log_text.as_bytes(), &[held], &trust).unwrap();
        let words = ["--key", &text(&key), "--checkpoint", &text(checkpoint)];
        let theirs = python(&repository("docs/verify_audit.py"), &[&[text(&log).as_str()], &words[..]].concat());
        assert_eq!(theirs.expect(0).stdout, format!("{verdict}\n"));
        assert_eq!(verdict.complete.unwrap().size == verdict.records, checkpoint == &second);
    }
    assert_eq!(kinds(&log_text), KINDS.map(str::to_owned).into());
}

#[test]
fn what_is_written_today_has_every_kind_of_record_and_verifies() {
    let site = written();
    holds(&site.path("vectors"));
    if std::env::var_os("LIFEBOAT_WRITE_VECTORS").is_some() {
        let golden = repository("docs/vectors/audit");
        fs::create_dir_all(&golden).unwrap();
        for name in FILES {
            fs::copy(site.path("vectors").join(name), golden.join(name)).unwrap();
        }
    }
}

#[test]
fn what_was_written_once_verifies_for_ever() {
    holds(&repository("docs/vectors/audit"));
    // Version 1: without checkpoints, actors on some records, and values in clear.
    let old = repository("docs/vectors/journal.jsonl");
    let verdict = verify_lines(&mut fs::read_to_string(&old).unwrap().as_bytes(), &[], &Trust::default()).unwrap();
    assert_eq!(verdict.head, "a8f56936e45565a194e5b92bc0ac44bff5af01d5ce0c5cb6c105afd504a0bff6");
    assert_eq!(verdict.to_string(), "consistent up to record 36, end not provable");
    let theirs = python(&repository("docs/verify_audit.py"), &[&text(&old)]).expect(0);
    assert_eq!(theirs.stdout, format!("{verdict}\n"));
}
