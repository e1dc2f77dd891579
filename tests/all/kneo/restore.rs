//! A lost database comes back, a drifted one becomes what it was, and nothing is touched without a passing verification.

use std::fs;
use std::time::Duration;

use crate::support::kneo::{Kneo, Mode, blocking};
use crate::support::wait_until;

#[test]
fn a_lost_database_is_restored_sqlite() {
    lost(Mode::Sqlite);
}

#[test]
fn a_lost_database_is_restored_postgres() {
    lost(Mode::Postgres);
}

#[test]
fn a_drifted_database_is_restored_but_not_from_a_bad_backup_sqlite() {
    drifted(Mode::Sqlite);
}

#[test]
fn a_drifted_database_is_restored_but_not_from_a_bad_backup_postgres() {
    drifted(Mode::Postgres);
}

#[test]
fn what_will_run_again_is_said_first_sqlite() {
    runs_again(Mode::Sqlite);
}

#[test]
fn what_will_run_again_is_said_first_postgres() {
    runs_again(Mode::Postgres);
}

/// The newer version is started on an empty database and migrates it; then it gets the rows that the older one wrote.
#[test]
fn rows_of_an_older_version_come_into_a_migrated_database_postgres() {
    let Some(mut kneo) = Kneo::running(Mode::Postgres, "1.0.0") else { return };
    let runs = [kneo.completed_run(), kneo.blocked_run()];
    let rows = |kneo: &Kneo| kneo.content().rsplit_once("--").unwrap().0.to_owned();
    let before = rows(&kneo);
    kneo.site.run("backup", &[]).expect(0);
    assert_eq!(kneo.schema(), "3");

    // While it holds rows, the live database is left alone.
    let refused = kneo.site.run("restore", &["--param", "data-only=true", "--yes"]).expect(1);
    let why = refused.json()["summary"].as_str().unwrap().to_owned();
    assert!(why.contains("the live database holds rows"), "{why}");
    assert!(why.contains("public.runs") && !why.contains("public.schema_migrations"), "{why}");
    assert_eq!(rows(&kneo), before);

    kneo.stop();
    kneo.lose_database();
    kneo.new_database();
    kneo.install("1.2.0");
    kneo.start();
    assert_eq!((kneo.schema().as_str(), kneo.get("/v1/runs")["total"].as_u64()), ("4", Some(0)));
    let restored = kneo.site.run("restore", &["--param", "data-only=true", "--yes"]).expect(0);
    for line in ["DATA ONLY", "and so are the rows of public.schema_migrations"] {
        assert!(restored.stderr.contains(line), "{line} is not in {}", restored.stderr);
    }
    assert_eq!(kneo.site.evidence(&restored, "restore.json")["data-only"], true);
    assert_eq!((kneo.version().as_str(), kneo.schema().as_str()), ("1.2.0", "4"));
    assert_eq!(rows(&kneo), before);
    for run in &runs {
        assert_eq!(&kneo.get(&format!("/v1/runs/{run}"))["run_id"], run);
    }
    let promotions = kneo.site.lifeboat(&["--json", "promotions", "list"]).expect(0).json();
    let promotion = promotions[0]["promotion"]["id"].as_str().unwrap();
    kneo.site.lifeboat(&["promotions", "undo", promotion, "--yes"]).expect(0);
    assert_eq!((kneo.schema().as_str(), kneo.get("/v1/runs")["total"].as_u64()), ("4", Some(0)));
}

fn lost(mode: Mode) {
    let Some(mut kneo) = Kneo::running(mode, "1.2.0") else { return };
    let runs = [kneo.completed_run(), kneo.blocked_run()];
    let before = kneo.content();
    kneo.site.run("backup", &[]).expect(0);
    kneo.stop();
    kneo.lose_database();
    kneo.supervise();

    kneo.site.run("restore", &["--yes"]).expect(0);
    assert_eq!(kneo.content(), before);
    for run in &runs {
        assert_eq!(&kneo.get(&format!("/v1/runs/{run}"))["run_id"], run);
    }
    assert_eq!(kneo.get("/v1/human-tasks")["total"], 1);
    // It is not only readable: the blocked run can still be cancelled, which removes its task.
    let cancelled = kneo.ask("POST", &format!("/v1/runs/{}/cancel", runs[1]), None).unwrap();
    assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &"cancelled".into()));
    assert_eq!(kneo.get("/v1/human-tasks")["total"], 0);
}

fn drifted(mode: Mode) {
    let Some(kneo) = Kneo::running(mode, "1.2.0") else { return };
    let runs = [kneo.completed_run(), kneo.blocked_run(), kneo.completed_run()];
    let before = kneo.content();
    kneo.site.run("backup", &[]).expect(0);
    // Changed, gone, and new since.
    kneo.damage(&format!("update runs set status = 'failed' where id = '{}'", runs[0]));
    kneo.damage(&format!("delete from checkpoints where run_id = '{}'", runs[2]));
    let cancelled = kneo.ask("POST", &format!("/v1/runs/{}/cancel", runs[1]), None).unwrap();
    assert_eq!(cancelled.status, 200);
    let newer = kneo.completed_run();
    let now = kneo.content();
    assert_ne!(now, before);

    refused(&kneo);
    assert_eq!(kneo.content(), now, "a refused restore touches nothing");
    assert_eq!(kneo.status(&format!("/v1/runs/{newer}")), 200, "and stops nothing");

    let restore = kneo.site.run("restore", &["--yes"]).expect(0);
    assert_eq!(kneo.content(), before);
    assert_eq!(kneo.status(&format!("/v1/runs/{newer}")), 404);
    assert_eq!(kneo.get(&format!("/v1/runs/{}", runs[1]))["status"], "blocked");
    assert_eq!(kneo.get("/v1/human-tasks")["total"], 1, "{restore:?}");
}

/// Bytes that are not the backup's, and a restored copy that does not hold what is known of it.
fn refused(kneo: &Kneo) {
    let object = kneo.site.object("backups", "db");
    let whole = fs::read(&object).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(&object, flipped).unwrap();
    let restore = kneo.site.run("restore", &["--yes"]).expect(5);
    let errors = kneo.errors(&restore, "restore.json");
    assert!(errors.iter().any(|e| e.contains("db.data")), "{errors:?}");
    fs::write(&object, whole).unwrap();

    let known = "select id from runs order by created_at desc, id limit 1";
    kneo.site.configure(&[(known, "select 'another' from schema_migrations limit 1")]);
    let restore = kneo.site.run("restore", &["--yes"]).expect(5);
    let errors = kneo.errors(&restore, "restore.json");
    assert!(errors.iter().any(|e| e.starts_with("known-record: ") && e.contains("another")), "{errors:?}");
    kneo.site.configure(&[("select 'another' from schema_migrations limit 1", known)]);
    let candidates = kneo.site.lifeboat(&["--json", "candidates", "list"]).expect(0).json();
    assert!(candidates.as_array().unwrap().is_empty(), "{candidates}");
    assert_eq!(kneo.leftovers(), [""; 0]);
    let promotions = kneo.site.lifeboat(&["--json", "promotions", "list"]).expect(0).json();
    assert!(promotions.as_array().unwrap().is_empty(), "{promotions}");
}

/// A restored copy does its queued work again, and tasks may have expired meanwhile: whoever consents has been told how much.
fn runs_again(mode: Mode) {
    let Some(kneo) = Kneo::running(mode, "1.2.0") else { return };
    kneo.queued_run();
    wait_until("the worker has begun", || kneo.begun("live") == 1);
    kneo.queued_run();
    let mut brief = blocking();
    brief["spec"]["components"]["humans"]["reviewer"]["timeout_seconds"] = 1.into();
    assert_eq!(kneo.ask("POST", "/v1/runs", Some(&brief)).unwrap().json()["status"], "blocked");
    kneo.blocked_run();
    kneo.site.run("backup", &[]).expect(0);
    kneo.let_go();
    wait_until("the live service has done its work", || kneo.begun("live") == 2 && kneo.sql(UNFINISHED) == "0");

    // Whole seconds, so the next but one: the deadline is the clock's.
    std::thread::sleep(Duration::from_millis(2_100));

    let parked = kneo.site.run("restore", &[]).expect(13);
    let run = parked.json()["run"].as_str().unwrap().to_owned();
    for line in [
        "to park them instead of letting them run: deny this, and ask again with --param park=true",
        "queued runs that will be executed, perhaps for the second time: 1",
        "runs under way that will be executed again from their last checkpoint once their lease is over: 1",
        "human tasks whose deadline has passed: with on_timeout `fail` they can't be resumed any more: 1",
    ] {
        assert!(parked.stderr.contains(line), "{line} is not in {}", parked.stderr);
    }
    assert_eq!(kneo.begun("live"), 2, "nothing runs again before it was consented to");
    kneo.site.lifeboat(&["runs", "abandon", &run, "--reason", "they are to be parked"]).expect(0);

    let parked = kneo.site.run("restore", &["--param", "park=true", "--yes"]).expect(0);
    for line in [
        "queued runs that will be executed, perhaps for the second time: 0",
        "runs under way that will be executed again from their last checkpoint once their lease is over: 0",
        "what would run again was parked by statements of the environment: it waits until a person lets it run",
    ] {
        assert!(parked.stderr.contains(line), "{line} is not in {}", parked.stderr);
    }
    // The worker looks once a second, and the lease was two.
    let probe = kneo.queued_run();
    wait_until("the worker works", || {
        kneo.sql(&format!("select status from run_queue where run_id = '{probe}'")) == "completed"
    });
    assert_eq!((kneo.begun("live"), kneo.sql(UNFINISHED).as_str()), (3, "2"), "parked is parked");

    // A person lets them run, as the example says.
    kneo.damage("update run_queue set available_at = 0 where status = 'queued'");
    kneo.damage("update run_queue set lease_expires_at = 0 where status = 'running'");
    wait_until("the restored queue is worked off", || kneo.begun("live") == 5 && kneo.sql(UNFINISHED) == "0");
}

const UNFINISHED: &str = "select count(*) from run_queue where status <> 'completed'";
