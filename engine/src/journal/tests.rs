//! The journal as a whole, in SQLite.

use rusqlite::Connection;
use serde_json::json;

use super::*;
use crate::error::Kind;
use crate::schedule::Duty;

fn by() -> By {
    By { actor: "alice@host1".into(), channel: "cli".into() }
}

/// Somebody who has the file open.
fn beside(directory: &std::path::Path) -> Connection {
    Connection::open(directory.join("state.sqlite")).unwrap()
}

async fn begun(state: &State, run: &str) {
    let row = RunRow {
        id: run.into(),
        environment: "test".into(),
        policy: "p".into(),
        module_sha256: "0".into(),
        ..RunRow::default()
    };
    state.append(run, &by(), Transition::RunStarted, None, json!({}), &[Change::RunBegins(row)]).await.unwrap();
}

#[tokio::test]
async fn records_are_chained_and_canonical() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).await.unwrap();
    begun(&state, "r1").await;
    state.append("r1", &by(), Transition::Answered, Some(1), json!({"z": 1, "a": 2}), &[]).await.unwrap();
    let lines = state.lines("r1").await.unwrap();
    assert!(
        lines[1].starts_with(r#"{"a":2,"actor":"alice@host1","channel":"cli","kind":"answered","prev":""#),
        "{}",
        lines[1]
    );
    assert_eq!(state.verify_chain().await.unwrap().0, 2);
}

#[tokio::test]
async fn a_duty_is_its_cadences_and_one_of_before_is_everybodys() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).await.unwrap();
    for (run, duty) in [
        ("r1", json!({"name": "s/nightly", "slot-ms": 1})),
        ("r2", json!({"cadence": "one", "name": "s/nightly", "slot-ms": 2})),
        ("r3", json!({"cadence": "two", "name": "s/nightly", "slot-ms": 3})),
        ("r4", json!({"cadence": "two", "name": "s_nightly", "slot-ms": 4})),
    ] {
        let (id, environment, policy) = (run.into(), "test".into(), "p".into());
        let row = RunRow { id, environment, policy, module_sha256: "0".into(), ..RunRow::default() };
        let body = json!({"duty": duty, "parameters": {"name": "s/nightly"}});
        state.append(run, &by(), Transition::RunStarted, None, body, &[Change::RunBegins(row)]).await.unwrap();
    }
    let of = async |cadence: Option<&str>, name: &str, limit: u32| {
        let duty = Duty { cadence: cadence.map(str::to_owned), name: name.into(), slot_ms: 0 };
        let runs = state.past_runs("test", "p", Some(&duty), limit).await.unwrap();
        let mut ids: Vec<String> = runs.into_iter().map(|run| run.id).collect();
        ids.sort();
        ids
    };
    assert_eq!(of(Some("one"), "s/nightly", 10).await, ["r1", "r2"]);
    assert_eq!(of(Some("two"), "s/nightly", 10).await, ["r1", "r3"]);
    assert_eq!(of(None, "s/nightly", 10).await, ["r1"]);
    assert_eq!(of(Some("two"), "s_nightly", 10).await, ["r4"], "what means something in a pattern means itself");
    assert_eq!(of(Some("one"), "s/nightly", 1).await, ["r2"], "newer runs of another cadence take no place");
    assert_eq!(state.past_runs("test", "p", None, 10).await.unwrap().len(), 4);
}

#[tokio::test]
async fn the_log_can_be_neither_changed_nor_shortened_by_sql_and_a_forced_change_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).await.unwrap();
    begun(&state, "r1").await;
    let other = beside(directory.path());
    assert!(other.execute("update log set line = '{}'", []).is_err());
    assert!(other.execute("delete from log", []).is_err());
    other.execute_batch("drop trigger log_no_update; update log set line = replace(line, 'r1', 'r2')").unwrap();
    let error = state.verify_chain().await.unwrap_err();
    assert!(error.message.contains("record 1"), "{error}");
}

#[tokio::test]
async fn a_record_that_can_not_follow_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).await.unwrap();
    begun(&state, "r1").await;
    let change = Change::CandidateBegins("c1".into());
    assert!(state.append("r1", &by(), Transition::Completed, Some(1), json!({}), &[change]).await.is_err());
    assert!(state.candidates().await.unwrap().is_empty());
}

#[tokio::test]
async fn an_approval_is_spent_once_and_only_for_its_run_and_intent() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).await.unwrap();
    begun(&state, "r1").await;
    begun(&state, "r2").await;
    let opens = Change::ApprovalOpens("a1".into(), 1, "{}".into(), "sha".into());
    state.append("r1", &by(), Transition::Answered, Some(1), json!({}), &[opens]).await.unwrap();
    let spend = async |run: &str, sha: &str, step| {
        let change = Change::ApprovalSpent("a1".into(), sha.into());
        state.append(run, &by(), Transition::Started, Some(step), json!({}), &[change]).await
    };
    assert!(spend("r1", "sha", 2).await.is_err(), "not approved yet");
    let decided = Change::ApprovalDecided("a1".into(), ApprovalState::Approved, "me".into(), "typed".into());
    state.append("r1", &by(), Transition::Answered, Some(2), json!({}), &[decided]).await.unwrap();
    assert!(spend("r2", "sha", 2).await.is_err(), "another run");
    assert!(spend("r1", "other", 3).await.is_err(), "another intent");
    spend("r1", "sha", 3).await.unwrap();
    state.append("r1", &by(), Transition::Completed, Some(3), json!({}), &[]).await.unwrap();
    assert_eq!(spend("r1", "sha", 4).await.unwrap_err().kind, Kind::NotApproved, "a second time");
}

#[tokio::test]
async fn many_open_one_new_state_at_once_and_while_others_let_go_of_it() {
    for _ in 0..20 {
        let directory = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for opener in 0..8 {
                let directory = directory.path();
                scope.spawn(move || {
                    tokio::runtime::Runtime::new().unwrap().block_on(async {
                        for again in 0..5 {
                            let state = State::open(directory).await.unwrap();
                            begun(&state, &format!("r{opener}-{again}")).await;
                        }
                    });
                });
            }
        });
        let state = State::open(directory.path()).await.unwrap();
        assert_eq!(state.verify_chain().await.unwrap().0, 40);
    }
}

#[tokio::test]
async fn a_newer_state_and_a_damaged_one_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).await.unwrap();
    drop(state);
    beside(directory.path()).pragma_update(None, "user_version", 99).unwrap();
    let error = State::open(directory.path()).await.err().unwrap();
    assert!(error.message.contains("version 99") && error.message.contains("knows 4"), "{error}");
    std::fs::write(directory.path().join("state.sqlite"), vec![7; 8192]).unwrap();
    let _ = std::fs::remove_file(directory.path().join("state.sqlite-wal"));
    assert_eq!(State::open(directory.path()).await.err().unwrap().kind, Kind::Journal);
}

#[tokio::test]
async fn what_waits_is_committed_together_and_each_succeeds_or_fails_for_itself() {
    let directory = tempfile::tempdir().unwrap();
    let state = std::sync::Arc::new(State::open(directory.path()).await.unwrap());
    for run in 0..32 {
        begun(&state, &format!("r{run}")).await;
    }
    let commits = frames(directory.path());
    // Somebody holds the file: all of them come to wait for it.
    let other = beside(directory.path());
    other.execute_batch("begin immediate").unwrap();
    let waiting: Vec<_> = (0..32)
        .map(|run| {
            let state = state.clone();
            tokio::spawn(async move {
                // Every fourth can't follow.
                let kind = if run % 4 == 0 { Transition::Completed } else { Transition::Answered };
                state.append(&format!("r{run}"), &by(), kind, Some(1), json!({}), &[]).await
            })
        })
        .collect();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    other.execute_batch("rollback").unwrap();
    let mut failed = 0;
    for (run, answer) in waiting.into_iter().enumerate() {
        let answer = answer.await.unwrap();
        assert_eq!(answer.is_err(), run % 4 == 0, "{answer:?}");
        failed += usize::from(answer.is_err());
        assert_eq!(state.lines(&format!("r{run}")).await.unwrap().len(), if run % 4 == 0 { 1 } else { 2 });
    }
    assert_eq!((failed, state.verify_chain().await.unwrap().0), (8, 32 + 24));
    // A commit of its own for each would have written each one's pages.
    assert!(frames(directory.path()) - commits < 24 * 3, "{} frames", frames(directory.path()) - commits);
}

/// Frames in the write-ahead log.
fn frames(directory: &std::path::Path) -> u64 {
    (std::fs::metadata(directory.join("state.sqlite-wal")).unwrap().len() - 32) / (4096 + 24)
}

#[tokio::test]
async fn a_service_is_one_runs_until_that_lets_go_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let state = State::open(directory.path()).await.unwrap();
    begun(&state, "r1").await;
    begun(&state, "r2").await;
    let hold = async |run: &str| {
        let held = [Change::ServiceHeld("notes".into())];
        state.append(run, &by(), Transition::Resumed, None, json!({}), &held).await
    };
    hold("r1").await.unwrap();
    hold("r1").await.unwrap();
    let before = state.lines("r2").await.unwrap().len();
    let refused = hold("r2").await.unwrap_err();
    assert!(refused.kind == Kind::LockHeld && refused.message.contains("notes: r1"), "{refused}");
    assert_eq!(state.lines("r2").await.unwrap().len(), before, "its record was not written either");
    state.append("r1", &by(), Transition::RunEnded, None, json!({}), &[]).await.unwrap();
    hold("r2").await.unwrap();
}
