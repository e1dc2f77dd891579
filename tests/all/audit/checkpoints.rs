//! Checkpoints and keys where they are made: in evidence, in a store of their own, and over a changed state.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use crate::support::Site;

fn calls(site: &Site) -> crate::support::Outcome {
    site.run("calls", &["--param", "call=refused", "--param", "times=1"])
}

fn site() -> Site {
    let site = Site::notes();
    site.guest("calls", "calls", "backup", &[], "");
    site
}

fn with_store(site: &Site) {
    site.configure(&[(
        "[environment.demo]\n",
        "[audit]\ncheckpoint-store = { kind = \"directory\", path = \"kept\" }\n\n[environment.demo]\n",
    )]);
}

#[test]
fn each_run_ends_with_a_checkpoint_in_its_evidence_and_in_the_store_for_them() {
    let site = site();
    with_store(&site);
    fs::create_dir(site.path("kept")).unwrap();
    let outcome = calls(&site).expect(0).json();
    let evidence = site.path(".lifeboat/evidence").join(outcome["run"].as_str().unwrap()).join("checkpoint.txt");
    let signed = fs::read_to_string(&evidence).unwrap();
    assert!(signed.contains("\nsize 4\n") && signed.contains(outcome["run"].as_str().unwrap()), "{signed}");
    let origin = signed.lines().nth(1).unwrap().strip_prefix("origin ").unwrap().to_owned();
    let kept: Vec<_> = fs::read_dir(site.path("kept").join(origin)).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(kept[0].file_name().unwrap().to_str().unwrap().starts_with("00000000000000000004-"), "{kept:?}");
    assert_eq!(fs::read_to_string(&kept[0]).unwrap(), signed);
    let path = evidence.to_str().unwrap();
    let verdict = site.lifeboat(&["audit", "verify", "--checkpoint", path]).expect(0).stdout;
    assert!(verdict.starts_with("complete up to record 4, signed by "), "{verdict}");
    calls(&site).expect(0);
    let verdict = site.lifeboat(&["--json", "audit", "verify", "--checkpoint", path]).expect(0).json();
    assert_eq!((verdict["records"].as_u64(), verdict["complete-to"]["record"].as_u64()), (Some(8), Some(4)));
}

#[test]
fn a_checkpoint_that_can_not_be_kept_or_signed_is_a_loud_warning_and_no_failed_run() {
    let site = site();
    with_store(&site);
    let outcome = calls(&site).expect(0);
    assert!(outcome.stderr.contains("warning: the checkpoint of record 4 is not in its store"), "{outcome:?}");
    assert!(outcome.json()["warnings"][0].as_str().unwrap().contains("kept"), "{outcome:?}");
    fs::create_dir(site.path("kept")).unwrap();

    let keys = site.path(".lifeboat/keys");
    assert_eq!(fs::metadata(keys.join("1.key")).unwrap().permissions().mode() & 0o777, 0o600);
    fs::rename(keys.join("1.key"), site.path("stolen")).unwrap();
    let outcome = calls(&site).expect(0);
    assert!(
        outcome.stderr.contains("warning: the log was not sealed") && outcome.stderr.contains("is gone"),
        "{outcome:?}"
    );
    assert!(!keys.join("1.key").exists(), "no other key is made in its place");
    site.lifeboat(&["audit", "checkpoint"]).expect(1);
    site.lifeboat(&["audit", "verify"]).expect(0);
}

#[test]
fn a_changed_key_is_signed_for_by_the_old_one_which_is_then_gone() {
    let site = site();
    let first = site.lifeboat(&["audit", "key"]).expect(0).stdout;
    site.lifeboat(&["--json", "audit", "rotate-key"]).expect(0);
    let second = site.lifeboat(&["audit", "key"]).expect(0).stdout;
    assert!(first.contains("/1+") && second.contains("/2+"), "{first}{second}");
    assert!(!site.path(".lifeboat/keys/1.key").exists());
    let runs = site.lifeboat(&["--json", "runs", "list"]).expect(0).json();
    assert_eq!((runs[0]["policy"].as_str(), runs[0]["status"].as_str()), (Some("audit-rotate-key"), Some("ok")));
    let run = runs[0]["run"].as_str().unwrap();
    let shown = site.lifeboat(&["runs", "show", run]).expect(0).stdout;
    assert!(shown.contains("the log's signing key changed"), "{shown}");
    site.lifeboat(&["audit", "verify"]).expect(0);
}

#[test]
fn what_the_state_says_besides_the_log_is_held_against_it() {
    for (change, words) in [
        ("update run set status = 'failed'", "the state calls it failed, its last record ok"),
        ("update run set status = 'fai\u{1b}[2Jled'", "the state calls it fai\\u{1b}[2Jled"),
        ("delete from run", "the state does not list it"),
        (
            "insert into run (id, environment, policy, module_sha256, status, started_ms) select 'other', environment, policy, '0', status, 0 from run",
            "it has no record",
        ),
        ("drop trigger log_no_update; update log set kind = 'completed' where seq = 2", "record 2: its row"),
        ("drop trigger log_no_update; update log set step = 7 where seq = 2", "record 2: its row"),
        ("drop trigger log_no_delete; delete from log where seq = 1", "record 1: it does not follow"),
        (
            "drop trigger log_no_update; update log set line = replace(line, '\"steps\":1', '\"steps\":9')",
            "record 4: its row",
        ),
    ] {
        let site = site();
        let none = site.lifeboat(&["audit", "verify"]).expect(5);
        assert!(none.stderr.contains("there is no log in"), "{none:?}");
        calls(&site).expect(0);
        site.lifeboat(&["audit", "verify"]).expect(0);
        rusqlite::Connection::open(site.path(".lifeboat/state.sqlite")).unwrap().execute_batch(change).unwrap();
        let outcome = site.lifeboat(&["audit", "verify"]).expect(5);
        assert!(outcome.stderr.contains(words), "{change}: {outcome:?}");
    }
}
