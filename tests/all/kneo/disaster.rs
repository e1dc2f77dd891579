//! The five disasters, each to its named end. What came of them is looked up in the database, not asked of the service.

use std::fs;

use crate::support::Outcome;
use crate::support::kneo::{Kneo, Mode};

const EVIDENCE: &str = "disaster-recovery.json";

#[test]
fn a_lost_host_sqlite() {
    host_lost(Mode::Sqlite);
}

#[test]
fn a_lost_host_postgres() {
    host_lost(Mode::Postgres);
}

#[test]
fn a_lost_database_sqlite() {
    database_lost(Mode::Sqlite);
}

#[test]
fn a_lost_database_postgres() {
    database_lost(Mode::Postgres);
}

#[test]
fn host_and_database_lost_sqlite() {
    all_lost(Mode::Sqlite);
}

#[test]
fn host_and_database_lost_postgres() {
    all_lost(Mode::Postgres);
}

#[test]
fn a_checkpoint_that_cannot_be_read_sqlite() {
    run_damaged(Mode::Sqlite);
}

#[test]
fn a_checkpoint_that_cannot_be_read_postgres() {
    run_damaged(Mode::Postgres);
}

#[test]
fn stale_data_sqlite() {
    stale_data(Mode::Sqlite);
}

#[test]
fn stale_data_postgres() {
    stale_data(Mode::Postgres);
}

fn recover(kneo: &Kneo, scenario: &str, words: &[&str]) -> Outcome {
    kneo.site.run("disaster-recovery", &[&["--param", &format!("scenario={scenario}"), "--yes"], words].concat())
}

/// The end that the evidence names, and what it says remains for a person.
fn end(kneo: &Kneo, outcome: &Outcome) -> (String, usize) {
    let evidence = kneo.site.evidence(outcome, EVIDENCE);
    let remains = evidence["remains"].as_array().map_or(0, Vec::len);
    (evidence["state"].as_str().unwrap_or_default().to_owned(), remains)
}

fn host_lost(mode: Mode) {
    let Some(mut kneo) = Kneo::running(mode, "1.2.0") else { return };
    let run = kneo.completed_run();
    kneo.blocked_run();
    kneo.site.run("backup", &[]).expect(0);
    // Newer than any backup: it is the database that survived, not a copy.
    let newest = kneo.completed_run();
    kneo.stop();
    let before = kneo.content();
    kneo.lose_host();
    kneo.supervise();

    let recovered = recover(&kneo, "host-lost", &[]).expect(0);
    assert_eq!(end(&kneo, &recovered), ("recovered".into(), 3));
    assert_eq!(kneo.version(), "1.2.0", "as the backup says, for nothing was installed");
    assert_eq!(kneo.content(), before);
    for run in [run, newest] {
        assert_eq!(kneo.get(&format!("/v1/runs/{run}"))["run_id"], run);
    }

    // On an empty database the service would make its tables, and be ready.
    kneo.stop();
    kneo.empty_database();
    kneo.supervise();
    let refused = recover(&kneo, "host-lost", &[]).expect(1);
    assert_eq!(end(&kneo, &refused).0, "not-this-way");
    assert!(refused.said().contains("scenario=database-lost"), "{}", refused.said());
    assert!(kneo.ask("GET", "/livez", None).is_none(), "it was not started");
    let tables = match mode {
        Mode::Sqlite => "select count(*) from sqlite_schema",
        Mode::Postgres => "select count(*) from pg_tables where schemaname = 'public'",
    };
    assert_eq!(kneo.sql(tables), "0");
}

fn database_lost(mode: Mode) {
    let Some(mut kneo) = Kneo::running(mode, "1.2.0") else { return };
    kneo.completed_run();
    kneo.blocked_run();
    let before = kneo.content();
    kneo.site.run("backup", &[]).expect(0);
    let newer = kneo.completed_run();
    let now = kneo.content();

    // It is not lost: last night's data must not take the place of today's.
    let refused = recover(&kneo, "database-lost", &[]).expect(1);
    assert_eq!(end(&kneo, &refused).0, "not-lost");
    assert_eq!(kneo.content(), now);
    assert_eq!(kneo.status(&format!("/v1/runs/{newer}")), 200, "and it was not stopped");

    kneo.stop();
    kneo.lose_database();
    kneo.supervise();
    let recovered = recover(&kneo, "database-lost", &[]).expect(0);
    assert_eq!(end(&kneo, &recovered), ("recovered".into(), usize::from(mode == Mode::Postgres)));
    assert_eq!(kneo.content(), before);
}

fn all_lost(mode: Mode) {
    let Some(mut kneo) = Kneo::running(mode, "1.0.0") else { return };
    kneo.completed_run();
    kneo.blocked_run();
    let before = kneo.content();
    kneo.site.run("backup", &[]).expect(0);
    kneo.stop();
    kneo.lose_database();
    kneo.lose_host();
    fs::remove_dir_all(kneo.site.path("live")).unwrap();
    fs::create_dir(kneo.site.path("live")).unwrap();
    kneo.supervise();
    if mode == Mode::Sqlite {
        // Where the data belong has to be there: a mount that is missing is not filled. What was begun leaves nothing open.
        let refused = recover(&kneo, "all-lost", &[]).expect(1);
        assert!(refused.said().contains("a missing mount is noticed instead of filled"), "{}", refused.said());
        assert_eq!(refused.json()["unsettled"], serde_json::json!([]));
        assert!(!kneo.site.path("live/.kneo").exists());
        fs::create_dir(kneo.site.path("live/.kneo")).unwrap();
    }

    // Nothing is known here but what the off-site store tells, the version among it.
    let recovered = recover(&kneo, "all-lost", &[]).expect(0);
    assert_eq!(end(&kneo, &recovered), ("recovered".into(), 3 + usize::from(mode == Mode::Postgres)));
    assert_eq!((kneo.version().as_str(), kneo.schema().as_str()), ("1.0.0", "3"));
    assert_eq!(kneo.content(), before);
}

fn run_damaged(mode: Mode) {
    let Some(kneo) = Kneo::running(mode, "1.2.0") else { return };
    let (fine, damaged) = (kneo.completed_run(), kneo.blocked_run());
    let nothing = recover(&kneo, "run-damaged", &[]).expect(4);
    assert_eq!(end(&kneo, &nothing).0, "not-lost");

    kneo.damage(&format!(
        "update checkpoints set payload = substr(payload, 1, 200) where run_id = '{damaged}' and sequence = 2"
    ));
    assert_eq!(kneo.status(&format!("/v1/runs/{damaged}/checkpoints/diff")), 400, "which tells that, and not where");
    let other = kneo.sql(&format!("select status, updated_at, payload from runs where id = '{fine}'"));
    let cancelled = recover(&kneo, "run-damaged", &[]).expect(3);
    assert_eq!(end(&kneo, &cancelled).0, "run-cancelled");
    let evidence = kneo.site.evidence(&cancelled, EVIDENCE);
    assert_eq!(evidence["damaged"], serde_json::json!([format!("run {damaged}"), "sequence 2", "last-good 1"]));
    let finding = evidence["findings"].as_array().unwrap().iter().find(|f| f["rule"] == "damaged").unwrap().clone();
    let advice = format!("run {damaged} again from the step after checkpoint 1, its last good one");
    assert_eq!(finding["fix"], advice);
    assert_eq!(kneo.sql(&format!("select status from runs where id = '{damaged}'")), "cancelled");
    assert_eq!(kneo.sql(&format!("select status, updated_at, payload from runs where id = '{fine}'")), other);
}

fn stale_data(mode: Mode) {
    let Some(kneo) = Kneo::running(mode, "1.2.0") else { return };
    kneo.completed_run();
    let older = kneo.site.run("backup", &[]).expect(0);
    let older = kneo.site.evidence(&older, "backup.json")["backup"]["id"].as_str().unwrap().to_owned();
    let newest = [kneo.completed_run(), kneo.blocked_run()];
    let wanted = kneo.content();
    kneo.site.run("backup", &[]).expect(0);

    let nothing = recover(&kneo, "stale-data", &[]).expect(4);
    assert_eq!(end(&kneo, &nothing).0, "not-lost");

    kneo.site.run("restore", &["--param", &format!("backup={older}"), "--yes"]).expect(0);
    assert_eq!(kneo.status(&format!("/v1/runs/{}", newest[0])), 404, "the service is ready, and stale");
    let recovered = recover(&kneo, "stale-data", &[]).expect(0);
    assert_eq!(end(&kneo, &recovered).0, "recovered");
    assert_eq!(kneo.content(), wanted);
}
