//! What a drill must find, each on a backup that is broken on purpose, and silent on the same backup whole.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::Outcome;
use crate::support::kneo::{Kneo, Mode};

#[test]
fn a_drill_finds_damaged_objects_sqlite() {
    damaged_objects(Mode::Sqlite);
}

#[test]
fn a_drill_finds_damaged_objects_postgres() {
    damaged_objects(Mode::Postgres);
}

#[test]
fn a_drill_finds_an_empty_service_sqlite() {
    empty_service(Mode::Sqlite);
}

#[test]
fn a_drill_finds_an_empty_service_postgres() {
    empty_service(Mode::Postgres);
}

/// One flipped byte, a truncated object, two backups' objects swapped: of every source.
fn damaged_objects(mode: Mode) {
    let Some(kneo) = Kneo::running(mode, "1.2.0") else { return };
    kneo.completed_run();
    kneo.blocked_run();
    let backup = kneo.site.run("backup", &[]).expect(0);
    let first = kneo.site.evidence(&backup, "backup.json")["backup"]["id"].as_str().unwrap().to_owned();
    let sources: &[&str] = if mode == Mode::Sqlite { &["db", "continuations"] } else { &["db"] };
    let older: Vec<PathBuf> = sources.iter().map(|source| kneo.site.object("backups", source)).collect();
    kneo.blocked_run();
    kneo.site.run("backup", &[]).expect(0);

    for (source, older) in sources.iter().zip(&older) {
        let object = kneo.site.object("backups", source);
        assert_ne!(&object, older);
        let whole = fs::read(&object).unwrap();
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        found(&kneo, source, &object, &flipped);
        found(&kneo, source, &object, &whole[..whole.len() / 2]);
        // Whole, and of the same source and service: just not of this backup.
        let former = fs::read(older).unwrap();
        fs::write(older, &whole).unwrap();
        found(&kneo, source, &object, &former);
        let drill = kneo.site.run("drill", &["--param", &format!("backup={first}")]).expect(5);
        names(&kneo, &drill, source);
        fs::write(older, &former).unwrap();
    }
    kneo.site.run("drill", &["--param", &format!("backup={first}")]).expect(0);
    kneo.site.run("drill", &[]).expect(0);
}

/// The drill fails on this object with these bytes, and says which; afterwards the object is as it was.
fn found(kneo: &Kneo, source: &str, object: &Path, bytes: &[u8]) {
    let whole = fs::read(object).unwrap();
    assert_ne!(whole, bytes);
    fs::write(object, bytes).unwrap();
    let drill = kneo.site.run("drill", &[]).expect(5);
    names(kneo, &drill, source);
    fs::write(object, whole).unwrap();
}

/// The damaged object is named, and nothing was restored from it.
fn names(kneo: &Kneo, drill: &Outcome, source: &str) {
    let errors = kneo.errors(drill, "drill.json");
    assert!(errors.iter().any(|e| e.contains(&format!("{source}.data"))), "{errors:?}");
    assert!(kneo.site.evidence(drill, "drill.json")["rows-compared"].is_null());
}

/// Every route answers and /readyz says yes on a database without a row: only what must be known of it shows the loss.
fn empty_service(mode: Mode) {
    let Some(mut kneo) = Kneo::running(mode, "1.2.0") else { return };
    assert_eq!(kneo.get("/v1/runs")["total"], 0);
    assert_eq!(kneo.sql("select count(*) from runs"), "0");
    kneo.site.run("backup", &[]).expect(0);
    let drill = kneo.site.run("drill", &[]).expect(5);
    let errors = kneo.errors(&drill, "drill.json");
    assert!(errors.iter().any(|e| e.starts_with("known-record: known record run")), "{errors:?}");

    // Without so much as a table, no backup comes of it at all.
    let backups = |kneo: &Kneo| kneo.site.lifeboat(&["--json", "backups", "list"]).expect(0).json();
    let before = backups(&kneo);
    kneo.stop();
    kneo.empty_database();
    kneo.site.run("backup", &[]).expect(1);
    assert_eq!(backups(&kneo), before);
}

/// A blocked run whose file is gone can't be resumed: the backup itself says so, and so does its drill.
#[test]
fn a_drill_finds_a_task_without_its_file() {
    let Some(kneo) = Kneo::running(Mode::Sqlite, "1.2.0") else { return };
    kneo.site.configure(&[("tolerance = 4", "tolerance = 0")]);
    kneo.blocked_run();
    kneo.blocked_run();
    kneo.site.run("backup", &[]).expect(0);
    kneo.site.run("drill", &[]).expect(0);

    let lost = kneo.task_files().pop().unwrap();
    fs::remove_file(&lost).unwrap();
    let lost = lost.file_name().unwrap().to_str().unwrap();
    kneo.site.run("backup", &[]).expect(5);
    let drill = kneo.site.run("drill", &[]).expect(5);
    let errors = kneo.errors(&drill, "drill.json");
    assert!(errors.iter().any(|e| e.starts_with("reference: ") && e.contains(lost)), "{errors:?}");
}

/// Without its URL kneo-serv is ready, on an SQLite database of its own making.
#[test]
fn a_drill_finds_the_wrong_store() {
    let Some(kneo) = Kneo::running(Mode::Postgres, "1.2.0") else { return };
    kneo.completed_run();
    kneo.site.run("backup", &[]).expect(0);
    kneo.site.run("drill", &[]).expect(0);

    let text = fs::read_to_string(kneo.site.path("lifeboat.toml")).unwrap();
    let url = text.lines().rfind(|line| line.starts_with("KNEO_SERV_DATABASE_URL")).unwrap();
    let (live, scratch) = text.rsplit_once(url).unwrap();
    assert!(live.contains("\nKNEO_SERV_DATABASE_URL"), "the live service keeps its own");
    kneo.site.write("lifeboat.toml", &format!("{live}{scratch}"));
    kneo.site.configure(&[("path = \"/readyz\"\ntimeout-s = 30", "path = \"/readyz\"\ntimeout-s = 3")]);
    let drill = kneo.site.run("drill", &[]).expect(5);
    let errors = kneo.errors(&drill, "drill.json");
    assert!(
        errors.iter().any(|e| e.starts_with("not-ready: ") && e.contains("`metadata/checks/queue/kind` is not")),
        "{errors:?}"
    );
}

/// The right kind of store, ready and listing: just not the restored one.
#[test]
fn a_drill_finds_that_another_database_was_served() {
    let Some(kneo) = Kneo::running(Mode::Sqlite, "1.2.0") else { return };
    kneo.completed_run();
    kneo.site.run("backup", &[]).expect(0);
    kneo.site.configure(&[("layout = { db = \".kneo/kneo_runs.sqlite\"", "layout = { db = \"elsewhere.sqlite\"")]);
    let drill = kneo.site.run("drill", &[]).expect(5);
    let errors = kneo.errors(&drill, "drill.json");
    assert!(errors.iter().any(|e| e.starts_with("smoke: GET /v1/runs/") && e.contains("404")), "{errors:?}");
}
