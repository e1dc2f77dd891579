//! What the state says: runs that stand half-way, sets of two times, a log that was changed.

use super::well;
use crate::doubt::killed_at;
use crate::support::Site;

#[test]
fn a_run_whose_engine_died_and_one_that_waits_are_told_apart() {
    let site = well();
    // It waits for a person.
    let parked = site.run("restore", &[]).expect(13).json()["run"].as_str().unwrap().to_owned();
    let checked = site.check(&["--only", "state"]);
    checked.only(&["state.runs"], 1).expect("state.runs", "warning", &[&parked, "it waits for an answer"]);
    site.lifeboat(&["runs", "cancel", &parked, "--reason", "not today"]).expect(130);
    site.check(&["--only", "state"]).only(&[], 0);

    let died = killed_at(&site, "1 dumped db", "backup", &[]);
    let checked = site.check(&["--only", "state"]);
    checked.only(&["state.runs"], 2).expect(
        "state.runs",
        "critical",
        &[&died, "its engine died", "lifeboat runs resume"],
    );
    // It was only looked at: whoever goes on with it finds it as it was.
    site.lifeboat(&["runs", "resume", &died]).expect(0);
    site.check(&["--only", "state"]).only(&[], 0);
}

#[test]
fn a_run_that_is_at_work_is_no_alarm_and_is_not_held_up() {
    let site = well();
    site.guest(
        "sleeps",
        "compensates",
        "upgrade",
        &["service.stop service=notes", "clock.sleep-until", "service.start service=notes"],
        "",
    );
    let running = site.start_run("sleeps", &["--param", "service=notes"]);
    crate::support::wait_until("it has stopped the service", || !site.is_up());
    let checked = site.check(&["--only", "state", "service.running"]);
    checked.expect("state.runs", "ok", &["at work now: 1"]).expect("state.obligations", "ok", &[]);
    checked.expect("service.running", "warning", &["stopped"]);
    running.signal("INT");
    running.outcome().expect(130);
}

#[test]
fn a_step_in_doubt_is_a_persons_and_said() {
    let site = Site::notes();
    let grants = ["http-check.check endpoint=notes/api method=* path=/"];
    site.guest("posts", "posts", "upgrade", &grants, "parameters = { endpoint = \"notes/api\", path = \"/x\" }");
    let run = killed_at(&site, "1 acted", "posts", &[]);
    site.lifeboat(&["--json", "runs", "resume", &run]).expect(15);
    site.check(&["--only", "state.runs"]).only(&["state.runs"], 2).expect(
        "state.runs",
        "critical",
        &[&run, "in doubt"],
    );
}

#[test]
fn a_set_of_two_times_and_a_service_that_was_left_down_are_named() {
    let site = well();
    let run = killed_at(&site, "promoted db", "restore", &[]);
    // Nobody has looked yet: the run has died, and its set is half-way.
    let checked = site.check(&[]);
    checked.expect("promotions.whole", "critical", &["left its sources mixed"]).expect(
        "state.runs",
        "critical",
        &[&run],
    );
    site.lifeboat(&["runs", "abandon", &run, "--reason", "nobody trusts it"]).expect(1);
    let checked = site.check(&[]);
    checked.expect("promotions.whole", "critical", &["left its sources mixed", "lifeboat promotions undo"]);
    checked.expect("state.obligations", "critical", &["start service notes again", "lifeboat service start notes"]);
    checked.expect("state.runs", "ok", &[]).expect("service.running", "warning", &[]);
    assert_eq!(checked.outcome.code, 2);
    let promotions = site.lifeboat(&["--json", "promotions", "list"]).expect(0).json();
    let promotion = promotions[0]["promotion"]["id"].as_str().unwrap();
    site.lifeboat(&["promotions", "undo", promotion, "--yes"]).expect(0);
    let checked = site.check(&[]);
    checked.expect("promotions.whole", "ok", &["undone"]).expect("service.running", "ok", &[]);
}

#[test]
fn a_log_that_was_changed_a_newer_state_and_none_at_all_are_named() {
    let site = well();
    let state = rusqlite::Connection::open(site.path(".lifeboat/state.sqlite")).unwrap();
    let change = "drop trigger log_no_update; update log set line = replace(line, 'backup', 'bakcup') where seq = 1;";
    state.execute_batch(change).unwrap();
    drop(state);
    let checked = site.check(&["--only", "state"]);
    checked.only(&["state.audit"], 2).expect("state.audit", "critical", &["record"]);

    let state = rusqlite::Connection::open(site.path(".lifeboat/state.sqlite")).unwrap();
    state.pragma_update(None, "user_version", 99).unwrap();
    drop(state);
    let checked = site.check(&["--only", "state", "drill"]);
    checked.expect("state.readable", "critical", &["version 99"]).expect("state.runs", "unknown", &["can't be read"]);
    checked.expect("drill.passed", "unknown", &[]);

    std::fs::write(site.path(".lifeboat/state.sqlite"), "this is no database, whatever its name says").unwrap();
    site.check(&["--only", "state"]).expect("state.readable", "critical", &["can't be opened"]);
    std::fs::remove_file(site.path(".lifeboat/state.sqlite")).unwrap();
    site.check(&["--only", "state"]).only(&["state.readable"], 1).expect(
        "state.readable",
        "warning",
        &["or it was lost"],
    );
    assert!(!site.path(".lifeboat/state.sqlite").exists(), "it was not made");
}
