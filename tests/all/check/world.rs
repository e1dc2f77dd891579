//! Sources, stores, secrets, commands and disks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::{listing, well};
use crate::support::Site;
use crate::support::disk::{Tmpfs, fill};

#[test]
fn a_store_that_is_away_and_one_that_is_damaged_are_named() {
    let site = well();
    fs::rename(site.path("backups"), site.path("unmounted")).unwrap();
    let checked = site.check(&[]);
    checked.expect("store.local.reachable", "critical", &["can't be opened", "mount it"]);
    checked.expect("backup.catalog", "critical", &["local"]).expect("store.local.space", "unknown", &[]);
    // The other store has the same backup, and proves no copy.
    checked.expect("backup.age", "ok", &["in offsite", "not read: local"]);
    checked.expect("backup.copies", "critical", &["lies in 2 stores, the best in 1"]);
    assert_eq!(checked.outcome.code, 2);
    assert!(!site.path("backups").exists(), "it was not made");
    fs::rename(site.path("unmounted"), site.path("backups")).unwrap();
    site.check(&[]).only(&[], 0);

    // An object that is gone, and a manifest that was changed.
    let object = site.object("backups", "db");
    let bytes = fs::read(&object).unwrap();
    fs::remove_file(&object).unwrap();
    site.check(&[]).only(&["backup.objects"], 2).expect("backup.objects", "critical", &["db.data"]);
    fs::write(&object, bytes).unwrap();
    let manifest = fs::read_dir(site.path("offsite/notes/manifests")).unwrap().next().unwrap().unwrap().path();
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("notes", "nodes")).unwrap();
    site.check(&[]).expect("backup.catalog", "critical", &["offsite", "the manifest's bytes hash to"]);
}

#[test]
fn a_database_that_is_lost_a_secret_and_a_program_that_are_missing_are_named() {
    let mut site = well();
    site.configure(&[
        (
            "[environment.demo.service.notes.endpoint.api]\n",
            "[environment.demo.service.notes.endpoint.api]\nheader = { X-Key = { file = \"secrets/key\" } }\n",
        ),
        ("installable = [\"test\", ", "installable = [\"no-such-program\", "),
    ]);
    let checked = site.check(&[]);
    checked.expect("service.secrets", "critical", &["header X-Key", "secrets/key", "No such file"]);
    checked.expect("inventory.outside", "critical", &["header X-Key"]);
    checked.expect("service.commands", "critical", &["install.installable: `no-such-program` is not in PATH"]);
    // What can't be asked without it is not reachable either.
    checked.expect("endpoint.api.reachable", "critical", &["X-Key"]).expect("service.running", "ok", &[]);
    site.write("secrets/key", "k3y\n");
    fs::set_permissions(site.path("secrets/key"), PermissionsExt::from_mode(0o644)).unwrap();
    let checked = site.check(&[]);
    checked.expect("service.secrets", "warning", &["everybody"]).expect("endpoint.api.reachable", "ok", &[]);
    assert!(!checked.outcome.said().contains("k3y"), "{:?}", checked.outcome);

    site.stop_serving();
    let checked = site.check(&[]);
    checked.expect("service.control", "critical", &["`lifeboat serve`, which does not run"]);
    checked.expect("service.running", "warning", &["stopped"]).expect("service.ready", "critical", &[]);
    fs::rename(site.path("live/notes.sqlite"), site.path("lost")).unwrap();
    site.check(&[]).expect("source.db.reachable", "critical", &["no SQLite file at"]);
    assert!(!site.path("live/notes.sqlite").exists(), "it was not made");
}

#[test]
fn a_full_disk_is_named_where_it_is_full() {
    let site = Site::notes();
    let Some(live) = Tmpfs::mount(site.path("live"), "8m") else { return };
    let Some(store) = Tmpfs::mount(site.path("backups"), "80m") else { return };
    let Some(state) = Tmpfs::mount(site.path(".lifeboat"), "1m") else { return };
    fs::create_dir(site.path("live/attachments")).unwrap();
    let database = rusqlite::Connection::open(site.path("live/notes.sqlite")).unwrap();
    database.execute_batch("create table t (x); insert into t values (zeroblob(3000000))").unwrap();
    drop(database);
    fs::write(site.path("live/attachments/one"), vec![7; 1_000_000]).unwrap();
    let spaces = ["source.db.space", "source.attachments.space", "store.local.space", "state.space"];
    let checked = site.check(&["--only", "source", "store.local", "state.space"]);
    // 8 MiB with 4 MB in them: one more candidate of the database fits, not two.
    checked.expect("source.db.space", "warning", &["a candidate beside the live data needs"]);
    checked.expect("source.attachments.space", "ok", &[]);
    checked.expect("store.local.space", "warning", &["the next backup"]);
    checked.expect("state.space", "critical", &["a drill of the largest service"]);
    let filled = [fill(&live.0), fill(&store.0)];
    let checked = site.check(&["--only", "source", "store.local", "state.space"]);
    for space in spaces {
        checked.expect(space, "critical", &["free"]);
    }
    assert_eq!(checked.outcome.code, 2);
    for file in filled {
        fs::remove_file(file).unwrap();
    }
    // Its right to write is asked, not tried.
    assert!(Command::new("mount").args(["-o", "remount,ro"]).arg(&store.0).status().unwrap().success());
    let checked = site.check(&["--only", "store.local"]);
    checked.expect("store.local.writable", "critical", &["Read-only file system"]);
    checked.expect("store.local.reachable", "ok", &[]);
    drop((live, store, state));
}

/// The monitoring's user is not the engine's: it sees less, says so, and leaves nothing that the engine can't open.
#[test]
fn another_user_is_told_what_it_may_not_see() {
    let site = well();
    let other = ["--reuid=65534", "--regid=65534", "--clear-groups", "--"];
    let can = Command::new("setpriv").args(other).arg("true").status().is_ok_and(|status| status.success());
    if !can {
        eprintln!("SKIPPED: no other user to be (not root?). Nothing was tested.");
        return;
    }
    fs::set_permissions(site.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    fs::set_permissions(site.path("live/attachments"), PermissionsExt::from_mode(0o755)).unwrap();
    for attachment in fs::read_dir(site.path("live/attachments")).unwrap().flatten() {
        fs::set_permissions(attachment.path(), PermissionsExt::from_mode(0o600)).unwrap();
    }
    // Where the built program lies may be closed to it: a copy is not.
    fs::copy(crate::support::lifeboat(), site.path("lifeboat")).unwrap();
    let before = listing(&site.path(""));
    let mut command = Command::new("setpriv");
    command.args(other).arg(site.path("lifeboat")).args(["--json", "check"]).current_dir(site.path(""));
    let out = command.env_remove("LIFEBOAT_CONFIG").output().unwrap();
    let outcome = crate::support::Outcome {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    };
    let checked = super::Checked::of(outcome);
    checked.expect("state.readable", "critical", &["Permission denied"]).expect("state.runs", "unknown", &[]);
    checked.expect("drill.passed", "unknown", &["can't be read"]);
    checked.expect("source.attachments.may-read", "critical", &["may not be read: 2"]);
    checked.expect("source.db.may-promote", "critical", &["Permission denied"]);
    checked.expect("store.local.writable", "critical", &["Permission denied"]);
    assert_eq!(checked.outcome.code, 2);
    let after = listing(&site.path(""));
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    site.check(&["--only", "state"]).only(&[], 0);
}
