//! `lifeboat check` on a shared state: it makes no tables, writes no record, sees runs of other hosts' engines, and holds the clocks together.

use super::SharedState;
use crate::check::Checked;
use crate::support::Site;

#[test]
fn a_shared_state_is_looked_at_and_nothing_is_made_in_it() {
    let Some(state) = SharedState::new() else { return };
    let site = Site::notes();
    let host = state.host(&site, "first", 900, false);
    let check = |words: &[&str]| Checked::of(host.lifeboat(&[&["--json", "check"], words].concat()));
    let fresh = check(&["--only", "state"]);
    fresh.expect("state.readable", "warning", &["there is no state yet"]).expect("state.clock", "unknown", &[]);
    let schemas = "select count(*) from pg_namespace where nspname = 'lifeboat'";
    assert_eq!(state.server.sql(&state.database, &[schemas]), "0", "its tables were not made");

    site.guest("calls", "calls", "backup", &[], "");
    let host = state.host(&site, "first", 900, false);
    let check = |words: &[&str]| Checked::of(host.lifeboat(&[&["--json", "check"], words].concat()));
    host.lifeboat(&["run", "calls", "--param", "call=refused", "--param", "times=1"]).expect(0);
    let records = state.records();
    let looked = check(&["--only", "state"]);
    looked.only(&[], 0).expect("state.clock", "ok", &["is ours"]).expect("state.audit", "ok", &[&records.to_string()]);

    // One that stands still has its run; one that was killed has left it.
    let paused = host.paused_at("1 prepared", "backup", &[]);
    check(&["--only", "state"]).expect("state.runs", "ok", &["at work now: 1"]);
    paused.kill();
    let died = check(&["--only", "state"]);
    died.expect("state.runs", "critical", &["its engine died"]);
    let run = host.lifeboat(&["--json", "runs", "list", "--limit", "1"]).expect(0).json()[0]["run"].clone();
    host.lifeboat(&["runs", "abandon", run.as_str().unwrap(), "--reason", "it is a test"]);
    let records = state.records();
    check(&[]).expect("state.runs", "ok", &[]);
    assert_eq!(state.records(), records, "no record of any of this");
    let sessions = "select count(*) from pg_stat_activity where application_name = 'lifeboat-state' and datname = current_database()";
    crate::support::wait_until("its sessions have ended", || state.sql(sessions) == "0");

    host.configure(&[("user = \"postgres\"", "user = \"no_such_role\"")]);
    let away = check(&["--only", "state", "drill"]);
    away.expect("state.readable", "critical", &["no_such_role"]).expect("state.runs", "unknown", &[]);
    away.expect("drill.passed", "unknown", &["can't be read"]);
}
