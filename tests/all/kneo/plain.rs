//! What people have of the operator page, `pg_dump | gzip`, becomes a backup that proves itself; and a backup becomes that again.

use std::fs;
use std::process::Stdio;

use crate::support::kneo::{Kneo, Mode};
use crate::support::wait_until;

const IMPORT: &[&str] = &["--json", "backups", "import", "--service", "kneo", "--store", "local", "--from"];

fn backups(kneo: &Kneo) -> Vec<serde_json::Value> {
    // 4: there are none.
    kneo.site.lifeboat(&["--json", "backups", "list"]).json().as_array().unwrap().clone()
}

#[test]
fn a_dump_of_the_page_is_imported_drilled_and_exported_postgres() {
    let Some(mut kneo) = Kneo::running(Mode::Postgres, "1.2.0") else { return };
    let runs = [kneo.completed_run(), kneo.blocked_run()];
    let before = kneo.content();
    kneo.dump_as_the_page_does("page.sql.gz");
    let late = kneo.completed_run();

    // Half of it is none, and nothing came of it.
    let page = fs::read(kneo.site.path("page.sql.gz")).unwrap();
    fs::write(kneo.site.path("half.sql.gz"), &page[..page.len() / 2]).unwrap();
    let half = kneo.site.lifeboat(&[IMPORT, &["db=half.sql.gz"]].concat()).expect(1);
    assert!(half.stderr.contains("is cut"), "{half:?}");
    assert_eq!((backups(&kneo).len(), kneo.leftovers()), (0, Vec::<String>::new()));

    let imported = kneo.site.lifeboat(&[IMPORT, &["db=page.sql.gz"]].concat()).expect(0).json();
    let id = imported["id"].as_str().unwrap();
    let changed = fs::metadata(kneo.site.path("page.sql.gz")).unwrap().modified().unwrap();
    let changed_ms = changed.duration_since(std::time::UNIX_EPOCH).unwrap().as_millis();
    assert_eq!(imported["taken-at-ms"].as_u64().map(u128::from), Some(changed_ms), "as old as its file: {imported}");
    assert_eq!((&imported["label"], &imported["version"]), (&"imported".into(), &serde_json::Value::Null));
    assert_eq!(kneo.leftovers(), [""; 0], "what was loaded is gone");
    let all: Vec<String> = walk(&kneo.site.path("backups"));
    let manifest = all.iter().find(|path| path.contains("/manifests/")).unwrap();
    let manifest = fs::read_to_string(manifest).unwrap();
    assert!(
        manifest.contains("source db was imported from page.sql.gz")
            && manifest.contains(&format!("{} bytes", page.len()))
    );

    kneo.site.run("drill", &["--param", &format!("backup={id}")]).expect(0);
    // A time that it can't have been taken at is found by the records in it.
    let words = ["db=page.sql.gz", "--taken-at", "2026-01-02T03:04:05Z"];
    let early = kneo.site.lifeboat(&[IMPORT, &words].concat()).expect(0).json()["id"].as_str().unwrap().to_owned();
    assert!(early.starts_with("20260102T030405"), "it sorts by when it was taken: {early}");
    kneo.site.run("drill", &["--param", &format!("backup={early}")]).expect(5);
    kneo.site.run("restore", &["--param", &format!("backup={id}"), "--yes"]).expect(0);
    assert_eq!(kneo.content(), before);
    assert_eq!(kneo.status(&format!("/v1/runs/{late}")), 404);
    for run in &runs {
        assert_eq!(&kneo.get(&format!("/v1/runs/{run}"))["run_id"], run);
    }

    // And back, with the service and its server away.
    kneo.stop();
    let exported = kneo.site.lifeboat(&["--json", "backups", "export", id, "--to", "out.sql.gz"]).expect(0).json();
    assert_eq!(exported["format"], "sql.gz");
    let again = kneo.site.lifeboat(&[IMPORT, &["db=out.sql.gz"]].concat()).expect(0).json();
    assert_eq!(backups(&kneo).len(), 3);
    kneo.site.lifeboat(&["backups", "verify", again["id"].as_str().unwrap(), "--depth", "content"]).expect(0);
}

/// Killed while it loads: whoever ends its run removes what it made.
#[test]
fn an_import_whose_engine_died_leaves_nothing_once_it_is_abandoned_postgres() {
    let Some(kneo) = Kneo::installed(Mode::Postgres, "1.2.0") else { return };
    kneo.dump_as_the_page_does("page.sql.gz");
    kneo.replace_program(
        "psql",
        "case \"$*\" in *--single-transaction*) touch loading; exec sleep 300;; esac\nexec REAL/psql \"$@\"",
    );
    let mut command = kneo.site.command(&[IMPORT, &["db=page.sql.gz"]].concat());
    let mut engine = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_until("it loads", || kneo.site.path("loading").exists());
    assert_eq!(kneo.leftovers().len(), 1, "the database that it loads into");
    engine.kill().unwrap();
    engine.wait().unwrap();
    let runs = kneo.site.lifeboat(&["--json", "runs", "list"]).expect(0).json();
    let run = runs.as_array().unwrap().last().unwrap()["run"].as_str().unwrap().to_owned();
    kneo.site.lifeboat(&["runs", "abandon", &run, "--reason", "its engine died"]).expect(0);
    assert_eq!((kneo.leftovers(), backups(&kneo).len()), (Vec::<String>::new(), 0));
}

fn walk(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(walk(&path)),
            false => found.push(path.display().to_string()),
        }
    }
    found
}
