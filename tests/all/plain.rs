//! Backups as files that people have tools for, through the command line.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::json;

use crate::support::Site;

#[test]
fn a_backup_is_exported_whole_and_never_over_a_file() {
    let mut site = Site::notes();
    site.serve_notes();
    for title in ["one", "two"] {
        let note = json!({"title": title, "body": "b", "attachment": "text"});
        assert_eq!(site.http("POST", "/notes", Some(&note)).unwrap().status, 201);
    }
    site.run("backup", &[]).expect(0);
    // Not of the live data.
    assert_eq!(site.http("POST", "/notes", Some(&json!({"title": "late", "body": "b"}))).unwrap().status, 201);
    let backup = site.lifeboat(&["--json", "backups", "list", "--store", "local"]).expect(0).json()[0]["id"]
        .as_str()
        .unwrap()
        .to_owned();

    let several = site.lifeboat(&["backups", "export", &backup, "--to", "out"]).expect(1);
    assert!(several.stderr.contains("sources, and a file holds one"), "{several:?}");
    let words = ["--json", "backups", "export", &backup, "--store", "local", "--source"];
    let exported = site.lifeboat(&[&words[..], &["db", "--to", "out/../notes.sqlite"]].concat());
    assert_ne!(exported.code, 0, "a directory that is not there is not made: {exported:?}");
    let exported = site.lifeboat(&[&words[..], &["db", "--to", "notes-copy.sqlite"]].concat()).expect(0).json();
    let path = site.path("notes-copy.sqlite");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(exported["bytes"], fs::metadata(&path).unwrap().len());
    let copy = rusqlite::Connection::open(&path).unwrap();
    assert_eq!(copy.query_row("select count(*) from notes", [], |row| row.get::<_, i64>(0)).unwrap(), 2);

    site.lifeboat(&[&words[..], &["attachments", "--to", "files.tar"]].concat()).expect(0);
    let listed = Command::new("tar").arg("-tf").arg(site.path("files.tar")).output().unwrap();
    assert!(listed.status.success());
    assert!(String::from_utf8_lossy(&listed.stdout).lines().count() >= 2, "{listed:?}");

    let before = fs::read(site.path("files.tar")).unwrap();
    let again = site.lifeboat(&[&words[..], &["db", "--to", "files.tar"]].concat());
    assert_eq!((again.code, fs::read(site.path("files.tar")).unwrap()), (1, before), "{again:?}");
    // It is on record, with the file and its digest.
    let runs = site.lifeboat(&["--json", "runs", "list"]).expect(0).stdout;
    assert!(runs.contains("backups-export"), "{runs}");
    let shown = site.lifeboat(&["runs", "show", exported["run"].as_str().unwrap()]).expect(0).stdout;
    assert!(shown.contains("backups.export"), "{shown}");
}
