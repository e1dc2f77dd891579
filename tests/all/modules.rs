//! One digest, one journal: a run's record verifies, a run is only finished by what began it, and a guest asks the same each time.

use std::fs;

use engine::journal::State;

use crate::support::guests::{records, requests};
use crate::support::{Site, policy};

/// A site whose `restore` waits for a person; gives the run.
fn parked() -> (Site, String) {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    let run = site.run("restore", &[]).expect(13).json()["run"].as_str().unwrap().to_owned();
    (site, run)
}

#[tokio::test]
async fn the_journal_of_runs_good_and_bad_verifies_and_a_changed_line_is_found() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.guest("traps", "trap-between", "upgrade", &["service.stop service=notes"], "");
    site.run("backup", &[]).expect(0);
    site.run("drill", &[]).expect(0);
    let trapped = site.run("traps", &["--param", "service=notes"]).expect(20);
    let state = State::open(&site.path(".lifeboat")).await.unwrap();
    let (count, head) = state.verify_chain().await.unwrap();
    assert!(count > 10 && head.len() == 64, "{count} {head}");
    // A run's evidence holds its part of the log, line by line.
    let run = trapped.json()["run"].as_str().unwrap().to_owned();
    let kept = fs::read_to_string(site.path(".lifeboat/evidence").join(&run).join("journal.jsonl")).unwrap();
    assert_eq!(kept.lines().collect::<Vec<_>>(), state.lines(&run).await.unwrap());
    drop(state);

    let tampered = rusqlite::Connection::open(site.path(".lifeboat/state.sqlite")).unwrap();
    tampered
        .execute_batch("drop trigger log_no_update; update log set line = replace(line, 'trapped', 'ok') where seq = (select max(seq) from log)")
        .unwrap();
    let error = State::open(&site.path(".lifeboat")).await.unwrap().verify_chain().await.unwrap_err();
    assert!(error.message.contains(&format!("record {count}")), "{error}");
}

#[tokio::test]
async fn a_run_is_not_finished_by_another_module_or_other_grants() {
    let (site, run) = parked();
    let before = State::open(&site.path(".lifeboat")).await.unwrap().verify_chain().await.unwrap();
    let digest = |text: &str| -> Vec<String> {
        text.split(|c: char| !c.is_ascii_hexdigit()).filter(|w| w.len() == 64).map(str::to_owned).collect()
    };

    // The same policy with one more custom section: another file, another digest.
    let module = site.path("policies/restore.wasm");
    let honest = fs::read(&module).unwrap();
    let mut other = honest.clone();
    other.extend([0, 3, 1, b'x', 0]);
    fs::write(&module, other).unwrap();
    let refused = site.lifeboat(&["runs", "resume", &run, "--yes"]).expect(12);
    let named = digest(&refused.stderr);
    assert!(
        refused.stderr.contains("its module was") && named.len() == 2 && named[0] != named[1],
        "{}",
        refused.stderr
    );
    assert!(refused.stderr.contains("hint:"), "{}", refused.stderr);
    fs::write(&module, &honest).unwrap();

    let lifeboat = fs::read_to_string(site.path("lifeboat.toml")).unwrap();
    // One grant more, far from what the run still has to do.
    let at = lifeboat.find("[environment.demo.policy.restore]").unwrap();
    let more = lifeboat[at..].replacen("grants = [", "grants = [\n    \"promote.drop-previous service=notes\",", 1);
    site.write("lifeboat.toml", &format!("{}{more}", &lifeboat[..at]));
    let refused = site.lifeboat(&["runs", "resume", &run, "--yes"]).expect(12);
    let named = digest(&refused.stderr);
    assert!(
        refused.stderr.contains("its grants digest was") && named.len() == 2 && named[0] != named[1],
        "{}",
        refused.stderr
    );

    // Neither try left anything on record, or changed anything.
    assert_eq!(State::open(&site.path(".lifeboat")).await.unwrap().verify_chain().await.unwrap(), before);
    site.write("lifeboat.toml", &lifeboat);
    site.lifeboat(&["runs", "resume", &run, "--yes"]).expect(0);
}

#[test]
fn a_replayed_request_that_differs_from_the_record_ends_the_run_with_both() {
    let (site, run) = parked();
    // A guest can't be made to change its mind: so its memory of the past is changed.
    let state = rusqlite::Connection::open(site.path(".lifeboat/state.sqlite")).unwrap();
    state.execute_batch("drop trigger log_no_update").unwrap();
    let changed = state
        .execute(
            "update log set line = replace(line, '\"arguments\":{', '\"arguments\":{\"elsewhere\":true,')
             where run = ?1 and step = 1 and kind in ('answered', 'completed')",
            [&run],
        )
        .unwrap();
    assert_eq!(changed, 1);
    drop(state);
    let outcome = site.lifeboat(&["--json", "runs", "resume", &run, "--yes"]).expect(20);
    let said = outcome.json();
    assert_eq!(said["status"], "trapped", "{said}");
    let summary = said["summary"].as_str().unwrap();
    assert!(summary.contains("nondeterminism at step 1"), "{summary}");
    assert!(summary.contains("on record:") && summary.contains("elsewhere") && summary.contains("now:"), "{summary}");
    // What the first half had staged is gone again, and nothing was promoted.
    let shown = site.show(&run);
    assert!(shown["obligations"].as_array().unwrap().iter().all(|o| o["state"] == "settled"), "{shown:#}");
    let promotions = site.lifeboat(&["--json", "promotions", "list"]).expect(0).json();
    assert_eq!(promotions.as_array().unwrap().len(), 0);
}

/// Ids and times of this world differ between two runs; everything else a guest says is the same.
#[test]
fn twice_the_same_world_is_twice_the_same_sequence_of_requests() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.guest("counts", "counts", "backup", &["catalog.latest service=notes store=local"], "");
    site.guest("compensates", "compensates", "upgrade", &["service.* service=notes", "clock.sleep-until"], "");
    site.run("backup", &[]).expect(0);
    let mask = |request: &String| {
        // Our ids (20261123T060000…), the service's (26 letters and digits), times in milliseconds, and marks, salted for each run.
        let mut text = String::new();
        for word in request.split_inclusive(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
            let bare = word.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
            let digits = bare.bytes().take_while(u8::is_ascii_digit).count();
            let ulid = bare.len() == 26 && !bare.bytes().any(|b| b.is_ascii_lowercase());
            let mark = bare.len() == 16 && bare.bytes().all(|b| b.is_ascii_hexdigit());
            text.push_str(if digits >= 8 || ulid || mark { "ID " } else { word });
        }
        text
    };
    let common = ["--param", "service=notes", "--param", "store=local"];
    for (policy, words) in [
        ("drill", vec![]),
        ("counts", [&common[..], &["--param", "times=25"]].concat()),
        ("compensates", vec!["--param", "service=notes", "--param", "for-ms=0"]),
    ] {
        let of = |_| {
            let outcome = site.run(policy, &words).expect(0);
            let all: Vec<String> = requests(&site.shown(&outcome)).iter().map(mask).collect();
            assert!(all.len() > 2, "{policy}: {all:?}");
            all
        };
        let both: Vec<_> = (0..2).map(of).collect();
        assert_eq!(both[0], both[1], "{policy}");
    }
}

#[test]
fn the_digest_on_record_is_the_files_and_the_module_is_what_inspect_says() {
    let site = Site::notes();
    site.guest("says", "says", "cadence", &[], "");
    let outcome = site.run("says", &[]).expect(0);
    let begun = site.shown(&outcome)["records"][0].clone();
    let inspected = engine::policy::inspect(&fs::read(policy("says")).unwrap()).unwrap();
    assert_eq!(begun["module-sha256"], inspected.sha256.as_str());
    assert_eq!(begun["version"], inspected.description.version.as_str());
    assert_eq!(records(&site.shown(&outcome), "run-ended").len(), 1);
}
