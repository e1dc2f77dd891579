//! Records that are written together, and what whoever writes remembers from one transaction to the next.

use std::pin::Pin;

use serde_json::json;

use super::shared_tests::{HOLDER, Shared, answered, begin, by};
use super::*;
use crate::error::{Kind, Result};

type Waiting<'t> = Vec<Pin<Box<dyn Future<Output = Result<u64>> + Send + 't>>>;

/// All of them wait before one is written: who writes runs on this thread too.
async fn at_once(mut waiting: Waiting<'_>) -> Vec<Result<u64>> {
    for one in &mut waiting {
        assert!(futures::poll!(one).is_pending());
    }
    futures::future::join_all(waiting).await
}

#[tokio::test]
async fn records_that_wait_together_share_a_commit_and_each_succeeds_or_fails_for_itself() {
    let Some(shared) = Shared::new("together") else { return };
    let state = shared.open().await;
    let runs: Vec<String> = (0..32).map(|number| format!("r{number}")).collect();
    let mut leases = Vec::new();
    for run in &runs {
        leases.push(state.lease(run, HOLDER, false).await.unwrap());
        begin(&state, run).await.unwrap();
    }
    let other = shared.open().await;
    for step in 1..=2 {
        let waiting: Waiting = runs.iter().map(|run| Box::pin(answered(&state, run, step)) as _).collect();
        let answers = at_once(waiting).await;
        assert!(answers.iter().all(Result::is_ok), "{answers:?}");
        // The first time all that there is to know of the runs is remembered, the second time nothing.
        other.append("r0", &by(), Transition::CancelRequested, None, json!({}), &[]).await.unwrap();
    }
    let commits = shared.sql("select count(distinct xmin::text) || ' ' || count(*) from log where kind = 'answered'");
    assert_eq!(commits.trim(), "2 64");
    shared.sql("update lease set token = token + 1, holder = 'bob@host2' where run = 'r1'");
    let mut waiting = Waiting::new();
    for (number, run) in runs.iter().enumerate() {
        // Every fourth can't follow.
        let kind = if number % 4 == 0 { Transition::Completed } else { Transition::Answered };
        let state = &state;
        waiting.push(Box::pin(async move { state.append(run, &by(), kind, Some(3), json!({}), &[]).await }));
    }
    for (number, answer) in at_once(waiting).await.into_iter().enumerate() {
        match (number, answer) {
            (1, answer) => assert_eq!(answer.unwrap_err().kind, Kind::TakenOver),
            (number, Err(error)) => assert!(number % 4 == 0 && error.message.contains("can't follow"), "{error}"),
            (number, Ok(_)) => assert_ne!(number % 4, 0),
        }
    }
    assert_eq!(state.verify_chain().await.unwrap().0, 32 * 3 + 2 + 23);
}

#[tokio::test]
async fn two_records_of_one_run_that_wait_together_stand_in_their_order() {
    let Some(shared) = Shared::new("twice") else { return };
    let state = shared.open().await;
    let _lease = state.lease("r1", HOLDER, false).await.unwrap();
    begin(&state, "r1").await.unwrap();
    let append = |kind, step| {
        let state = &state;
        Box::pin(async move { state.append("r1", &by(), kind, step, json!({}), &[]).await }) as _
    };
    let waiting = vec![
        append(Transition::Started, Some(1)),
        append(Transition::CancelRequested, None),
        append(Transition::Completed, Some(1)),
        append(Transition::Answered, Some(2)),
    ];
    let answers = at_once(waiting).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    let kinds: Vec<Transition> = state.records("r1").await.unwrap().iter().map(|record| record.kind).collect();
    use Transition as T;
    assert_eq!(kinds, [T::RunStarted, T::Started, T::CancelRequested, T::Completed, T::Answered]);
    assert_eq!(shared.sql("select stand from run where id = 'r1'").trim(), "running");
    state.verify_chain().await.unwrap();
}

#[tokio::test]
async fn what_is_remembered_of_a_run_does_not_outlive_a_record_of_somebody_else() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (State::open(directory.path()).await.unwrap(), State::open(directory.path()).await.unwrap());
    begin(&first, "r1").await.unwrap();
    answered(&first, "r1", 1).await.unwrap();
    second.append("r1", &by(), Transition::RunEnded, None, json!({"status": "ok"}), &[]).await.unwrap();
    let refused = answered(&first, "r1", 2).await.unwrap_err();
    assert!(refused.message.contains("can't follow"), "{refused}");
    assert_eq!(first.lines("r1").await.unwrap().len(), 3);

    let Some(shared) = Shared::new("remember") else { return };
    let (first, second) = (shared.open().await, shared.open().await);
    let _lease = first.lease("r1", HOLDER, false).await.unwrap();
    begin(&first, "r1").await.unwrap();
    answered(&first, "r1", 1).await.unwrap();
    // By a clock that is far ahead: what follows may not be before it.
    second.append("r1", &by(), Transition::CancelRequested, None, json!({}), &[]).await.unwrap();
    shared.sql("alter table log disable trigger log_no_change; update log set time_ms = 9000000000000 where seq = 3");
    assert_eq!(answered(&first, "r1", 2).await.unwrap(), 9_000_000_000_000);
}

#[tokio::test]
async fn an_engine_that_takes_itself_to_be_alone_is_told_when_it_is_not() {
    let Some(shared) = Shared::new("alone") else { return };
    let (first, second) = (shared.open().await, shared.open().await);
    let (_lease, _other) =
        (first.lease("r1", HOLDER, false).await.unwrap(), second.lease("r2", HOLDER, false).await.unwrap());
    begin(&first, "r1").await.unwrap();
    begin(&second, "r2").await.unwrap();
    for round in 0..3 {
        // Long enough to be sure of it.
        for step in 1..=20 {
            answered(&first, "r1", round * 30 + step).await.unwrap();
        }
        // What the log's end was is remembered, and is not so any more.
        answered(&second, "r2", round + 1).await.unwrap();
        answered(&first, "r1", round * 30 + 21).await.unwrap();
    }
    for step in 91..=120 {
        answered(&first, "r1", step).await.unwrap();
    }
    shared.sql("update lease set token = token + 1, holder = 'bob@host2' where run = 'r1'");
    let refused = answered(&first, "r1", 121).await.unwrap_err();
    assert_eq!(refused.kind, Kind::TakenOver, "{refused}");
    assert_eq!(first.verify_chain().await.unwrap().0, 2 + 3 * 22 + 30);
}
