//! Whatever ends a run, what it opened is closed as it was declared, on record; what can't be closed is said loudly.

use std::fs;

use serde_json::Value;

use crate::support::guests::records;
use crate::support::{Outcome, Site, wait_until};

fn site() -> Site {
    let mut site = Site::notes();
    site.serve_some_notes();
    site
}

fn obligation<'v>(shown: &'v Value, kind: &str) -> &'v Value {
    let all = shown["obligations"].as_array().unwrap();
    all.iter().find(|o| o["kind"] == kind).unwrap_or_else(|| panic!("no obligation {kind}: {shown:#}"))
}

/// The service runs again, and the record says that the host saw to it.
fn settled_by_the_host(site: &Site, outcome: &Outcome) {
    let shown = site.shown(outcome);
    assert_eq!(obligation(&shown, "service-stopped")["state"], "settled", "{shown:#}");
    let settled = records(&shown, "settled");
    assert_eq!(settled.len(), 1, "{shown:#}");
    assert_eq!((&settled[0]["by"], &settled[0]["object"]), (&"host".into(), &"notes".into()));
    assert_eq!((&settled[0]["declared"], &settled[0]["error"]), (&"start".into(), &Value::Null));
    assert!(outcome.json()["unsettled"].as_array().unwrap().is_empty(), "{outcome:?}");
    let text = site.lifeboat(&["runs", "show", shown["run"].as_str().unwrap()]).expect(0).stdout;
    assert!(text.contains("settled by the host: service-stopped notes"), "{text}");
    wait_until("the service runs again", || site.is_up());
}

fn stopped(shown: &Value) -> bool {
    records(shown, "completed")
        .iter()
        .any(|r| r["request"]["call"] == "service.stop" && r["result"]["ok"] == Value::Null)
        && records(shown, "completed")
            .iter()
            .any(|r| r["request"]["call"] == "service.stop" && r["result"].get("ok").is_some())
}

const STOP: &str = "service.stop service=notes";
const START: &str = "service.start service=notes";
const SLEEP: &str = "clock.sleep-until";
const NOTES: &[&str] = &["--param", "service=notes"];

#[test]
fn a_trap_a_limit_and_the_deadline_leave_the_service_running() {
    let site = site();
    site.guest("traps", "trap-between", "upgrade", &[STOP], "");
    // Its second call is one too many.
    site.guest(
        "too-many",
        "compensates",
        "upgrade",
        &[STOP, SLEEP, START],
        "parameters = { if-aborted = \"start\" }\nlimits = { steps-max = 1 }",
    );
    // It may not start the service itself, so the host has to.
    site.guest(
        "late",
        "compensates",
        "upgrade",
        &[STOP, SLEEP],
        "parameters = { if-aborted = \"start\" }\nlimits = { deadline-s = 2, grace-s = 5 }",
    );
    for (policy, status) in [("traps", "trapped"), ("too-many", "limit-broken"), ("late", "limit-broken")] {
        let outcome = site.run(policy, NOTES).expect(20);
        assert_eq!(outcome.json()["status"], status, "{policy}: {outcome:?}");
        let shown = site.shown(&outcome);
        assert!(stopped(&shown), "{policy} had stopped it: {shown:#}");
        settled_by_the_host(&site, &outcome);
    }
}

#[test]
fn cancelled_a_policy_compensates_itself_or_the_host_does() {
    let site = site();
    site.guest("own", "compensates", "upgrade", &[STOP, SLEEP, START], "limits = { grace-s = 10 }");
    site.guest(
        "host",
        "compensates",
        "upgrade",
        &[STOP, SLEEP],
        "parameters = { if-aborted = \"start\" }\nlimits = { grace-s = 10 }",
    );
    for (policy, word) in [("own", "INT"), ("host", "INT"), ("own", "TERM"), ("host", "HUP")] {
        let child = site.start_run(policy, NOTES);
        wait_until("the policy has stopped the service", || !site.is_up());
        // Between the stop's end and the sleep's start is no other call.
        wait_until("the policy sleeps", || {
            let runs = site.lifeboat(&["--json", "runs", "list", "--limit", "1"]).expect(0).json();
            let shown = site.show(runs[0]["run"].as_str().unwrap());
            records(&shown, "started").iter().any(|r| r["request"]["call"] == SLEEP)
        });
        child.signal(word);
        let outcome = child.outcome().expect(130);
        assert_eq!(outcome.json()["status"], "cancelled");
        assert!(outcome.stderr.contains("cancelling"), "{}", outcome.stderr);
        let shown = site.shown(&outcome);
        assert!(stopped(&shown), "{shown:#}");
        match policy {
            "own" => {
                assert_eq!(obligation(&shown, "service-stopped")["state"], "closed", "{shown:#}");
                assert!(records(&shown, "settled").is_empty(), "the host had nothing to do: {shown:#}");
                let started = |r: &&Value| r["request"]["call"] == "service.start";
                assert_eq!(records(&shown, "completed").into_iter().filter(started).count(), 1);
            }
            _ => settled_by_the_host(&site, &outcome),
        }
        wait_until("the service runs again", || site.is_up());
    }
}

#[test]
fn a_service_that_does_not_start_again_is_left_open_loudly_with_what_to_do() {
    let site = site();
    site.guest("traps", "trap-between", "upgrade", &[STOP], "");
    // The installed version is gone: the running process does not mind, a new one can't be made.
    fs::remove_file(site.path("versions/1.0.0@by-hand/notes")).unwrap();
    let outcome = site.run("traps", NOTES).expect(20);
    assert!(outcome.stderr.contains("LEFT OPEN: start service notes again"), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("to settle it: "), "{}", outcome.stderr);
    let said = outcome.json();
    assert_eq!(said["unsettled"].as_array().unwrap().len(), 1, "{said}");
    assert!(said["findings"].as_array().unwrap().iter().any(|f| f["rule"] == "obligation" && f["severity"] == "error"));
    let shown = site.shown(&outcome);
    assert_eq!(obligation(&shown, "service-stopped")["state"], "unsettled", "{shown:#}");
    assert!(records(&shown, "settled")[0]["error"].is_string(), "the attempt is on record: {shown:#}");
    let text = site.lifeboat(&["runs", "show", shown["run"].as_str().unwrap()]).expect(0).stdout;
    assert!(text.contains("COULD NOT settle") && text.contains("LEFT OPEN: service-stopped notes"), "{text}");
    assert!(!site.is_up(), "the fault was real");

    // The command that it names does it, once the cause is gone, and nothing is left open.
    assert!(outcome.stderr.contains("to settle it: lifeboat service start notes"), "{}", outcome.stderr);
    site.lifeboat(&["service", "start", "notes"]).expect(1);
    fs::copy(site.path("releases/1.0.0/notes"), site.path("versions/1.0.0@by-hand/notes")).unwrap();
    site.lifeboat(&["service", "start", "notes"]).expect(0);
    assert!(site.is_up());
    assert_eq!(obligation(&site.shown(&outcome), "service-stopped")["state"], "closed");
    let status = site.lifeboat(&["service", "status", "notes"]).expect(0);
    assert_eq!(status.stdout.trim(), "notes: running, version 1.0.0");
}

#[test]
fn what_was_stopped_before_stays_stopped_and_leave_means_leave() {
    let mut site = Site::notes();
    // It may start, but nobody has.
    site.serve(&[]);
    site.guest("traps", "trap-between", "upgrade", &[STOP], "");
    let outcome = site.run("traps", NOTES).expect(20);
    let shown = site.shown(&outcome);
    assert!(stopped(&shown), "{shown:#}");
    assert!(shown["obligations"].as_array().unwrap().is_empty(), "it was not this run's to start: {shown:#}");
    assert!(!site.is_up());
    drop(site);

    let site = self::site();
    site.guest("traps", "trap-between", "upgrade", &[STOP], "");
    let outcome = site.run("traps", &["--param", "service=notes", "--param", "if-aborted=leave"]).expect(20);
    let said = outcome.json();
    assert!(said["findings"].as_array().unwrap().iter().any(|f| f["rule"] == "service-left-stopped"), "{said}");
    let shown = site.shown(&outcome);
    assert_eq!(obligation(&shown, "service-stopped")["state"], "settled", "{shown:#}");
    assert_eq!(records(&shown, "settled")[0]["declared"], "leave", "{shown:#}");
    assert!(!site.is_up(), "left as declared");
}

#[test]
fn a_candidate_that_a_failing_run_leaves_is_discarded() {
    let site = site();
    site.run("backup", &[]).expect(0);
    let before = beside(&site);
    for (policy, target) in [("leaves-beside", "beside"), ("leaves-scratch", "scratch")] {
        // `restore.verify` is not granted: it fails with the candidate in its hands, and does not close it.
        site.guest(
            policy,
            "deny-all",
            "upgrade",
            &["catalog.latest service=notes store=local", "restore.stage service=notes store=local target=*"],
            "",
        );
        let target = format!("target={target}");
        let words = [
            "--param",
            "call=restore.verify",
            "--param",
            "service=notes",
            "--param",
            "store=local",
            "--param",
            &target,
        ];
        let outcome = site.run(policy, &words).expect(12);
        let shown = site.shown(&outcome);
        let staged = records(&shown, "completed")[0]["result"]["ok"]["id"].as_str().unwrap().to_owned();
        let obligation = obligation(&shown, "candidate");
        assert_eq!((&obligation["object"], &obligation["state"]), (&staged.clone().into(), &"settled".into()));
        let listed = site.lifeboat(&["--json", "candidates", "list", "--all"]).expect(0).json();
        let row = listed.as_array().unwrap().iter().find(|c| c["candidate"] == staged.as_str()).unwrap();
        assert_eq!(row["state"], "discarded", "{listed}");
        let left = fs::read_dir(site.path(".lifeboat/candidates"))
            .map_or(0, |d| d.flatten().filter(|e| e.path().is_dir()).count());
        assert_eq!(left, 0, "a scratch candidate's directory is still there");
    }
    assert_eq!(beside(&site), before, "nothing is left beside the live data");
    assert!(site.is_up());
}

/// The live data and what lies hidden beside it; the service's log and SQLite's sidecars come and go.
fn beside(site: &Site) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(site.path("live"))
        .unwrap()
        .map(|e| e.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|n| n.starts_with('.') || matches!(n.as_str(), "attachments" | "notes.sqlite"))
        .collect();
    names.sort();
    names
}

/// A stop that takes long is cut short by the deadline while the supervisor still waits for the process: starting it again must not take
/// the dying process for a running service.
#[test]
fn a_stop_that_was_cut_short_does_not_win_over_the_start_that_settles_it() {
    let mut site = Site::notes();
    site.configure(&[
        (
            "command = [\"{current}/notes\", \"serve\", \"--port\", ",
            // Ignores SIGTERM; killed after `timeout-s`.
            "command = [\"bash\", \"-c\", \"trap '' TERM; : > deaf; while :; do sleep 0.05; done\", ",
        ),
        (
            "timeout-s = 20\n\n[environment.demo.service.notes.install]",
            "timeout-s = 3\n\n[environment.demo.service.notes.install]",
        ),
    ]);
    site.serve(&["notes"]);
    let child = || fs::read_to_string(site.path(".lifeboat/children/notes.json")).unwrap_or_default();
    // A signal that comes before the trap would end it at once.
    wait_until("the service runs, and is deaf to SIGTERM", || !child().is_empty() && site.path("live/deaf").exists());
    let before = child();
    site.guest("late", "trap-between", "upgrade", &[STOP], "limits = { deadline-s = 1, grace-s = 20 }");
    let outcome = site.run("late", NOTES).expect(20);
    assert_eq!(outcome.json()["breach"], "deadline", "{outcome:?}");
    let shown = site.shown(&outcome);
    assert_eq!(obligation(&shown, "service-stopped")["state"], "settled", "{shown:#}");
    // Longer than the supervisor waits before it kills.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let after = child();
    assert!(!after.is_empty(), "said to be started again, but it is gone");
    assert_ne!(after, before, "the stop was under way already: this is another process");
}

#[test]
fn a_verification_that_failed_withdraws_the_one_before_it() {
    let site = site();
    let grants = [
        "dump.take service=notes store=local",
        "restore.stage service=notes store=local target=beside",
        "restore.verify service=notes",
        "clock.sleep-until",
        "confirm.request-promote service=notes",
        "promote.promote service=notes",
        STOP,
    ];
    site.guest("twice", "verifies-twice", "upgrade", &grants, "");
    let before = site.http("GET", "/notes", None).unwrap().body;
    let run = site.start_run("twice", &["--param", "service=notes", "--param", "store=local", "--yes"]);
    let listed = || site.lifeboat(&["--json", "candidates", "list"]).expect(0).json();
    wait_until("the first verification passed", || listed()[0]["verified"] == true);
    let place =
        listed()[0]["members"].as_array().unwrap().iter().find(|m| m["source"] == "db").unwrap()["place"].clone();
    // In place, so that device and inode stay what they were.
    let candidate = rusqlite::Connection::open(place.as_str().unwrap()).unwrap();
    candidate.pragma_update(None, "journal_mode", "delete").unwrap();
    assert_eq!(candidate.execute("delete from notes", []).unwrap(), 3);
    drop(candidate);
    let outcome = run.outcome().expect(1);
    let shown = site.shown(&outcome);
    let notes = crate::support::guests::notes(&shown);
    assert!(notes.iter().any(|n| n.contains("passed first true, then false")), "the fault fired: {notes:?}");
    assert!(outcome.json()["summary"].as_str().unwrap().contains("did not pass its verification"), "{outcome:?}");
    wait_until("the service runs again", || site.is_up());
    assert_eq!(site.http("GET", "/notes", None).unwrap().body, before);
}

#[test]
fn a_reader_that_goes_away_does_not_end_the_run() {
    let site = site();
    site.guest("traps", "trap-between", "upgrade", &[STOP, START], "");
    let mut command = site.command(&["run", "traps", "--param", "service=notes"]);
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(20), "ended as a policy that traps, not as an engine that panics");
    wait_until("the service runs again", || site.is_up());
}

#[test]
fn a_run_whose_engine_was_killed_is_abandoned_with_what_it_left_open() {
    let site = site();
    site.guest("own", "compensates", "upgrade", &[STOP, SLEEP, START], "");
    let words = [NOTES, &["--param", "if-aborted=start"]].concat();
    let child = site.start_run("own", &words);
    wait_until("the policy has stopped the service", || !site.is_up());
    let run = site.lifeboat(&["--json", "runs", "list", "--limit", "1"]).expect(0).json()[0]["run"].clone();
    let run = run.as_str().unwrap();
    let sleeping = || records(&site.show(run), "started").iter().any(|r| r["request"]["call"] == SLEEP);
    wait_until("the policy sleeps", sleeping);
    // Not while somebody works on it.
    let refused = site.lifeboat(&["runs", "abandon", run, "--reason", "x"]).expect(11);
    assert!(refused.stderr.contains(&format!("another engine works on run {run}")), "{}", refused.stderr);
    child.signal("KILL");
    assert_eq!(child.outcome().code, -1);
    assert!(!site.is_up(), "the fault was real");
    let shown = site.lifeboat(&["runs", "show", run]).expect(0).stdout;
    assert!(shown.contains(&format!("lifeboat runs abandon {run}")), "{shown}");

    let ended = site.lifeboat(&["--json", "runs", "abandon", run, "--reason", "the host was lost"]).expect(0).json();
    assert!(ended["summary"].as_str().unwrap().contains("clock.sleep-until) was under way"), "{ended}");
    wait_until("the service runs again", || site.is_up());
    let shown = site.show(run);
    assert_eq!(
        (&shown["status"], obligation(&shown, "service-stopped")["state"].as_str()),
        (&"abandoned".into(), Some("settled"))
    );
    site.lifeboat(&["runs", "abandon", run, "--reason", "again"]).expect(2);
}
