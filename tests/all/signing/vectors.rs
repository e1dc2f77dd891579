//! The signed form is frozen by golden files: a store with a signed backup and a signed verification of it stays verifiable, by the engine
//! and by the outsider's verifier.
//!
//! `docs/vectors/signed/` was written by the production path. To write it anew, after a deliberate change of the format:
//!
//! ```text
//! LIFEBOAT_WRITE_VECTORS=1 cargo xtask test --test all signing::vectors
//! ```

use std::fs;
use std::path::Path;

use super::{python, repository, text};
use crate::support::Site;

/// The one backup in a store's folder.
fn backup_in(store: &Path) -> String {
    let mut found = fs::read_dir(store.join("notes/manifests")).unwrap().map(|e| e.unwrap().file_name());
    let name = found.next().unwrap().into_string().unwrap();
    assert!(found.next().is_none());
    name.split('.').next().unwrap().to_owned()
}

/// Both verifiers find the backup in a folder signed and verified by its keys, and as golden as it is. A store whose records name it is looked at where
/// it is, since a copy is another store; one of before they did is copied.
#[track_caller]
fn holds(folder: &Path, is_named: bool) {
    let (store, trust) = (folder.join("store"), folder.join("trust.txt"));
    let id = backup_in(&store);
    let theirs = python(&repository("docs/verify_manifest.py"), &[&text(&store), "notes", &id, "--key", &text(&trust)])
        .expect(0);
    let lines: Vec<&str> = theirs.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{theirs:?}");
    assert!(lines[0].ends_with(".json: signed by backups"), "{theirs:?}");
    for (line, what) in [(lines[2], "checked (checksum) at "), (lines[3], "verified at ")] {
        let by = match is_named {
            true => line.split_once(", of store directory/").expect(line).0,
            false => line,
        };
        assert!(by.starts_with(what) && by.ends_with("Z: signed by drills"), "{theirs:?}");
    }

    let site = Site::notes();
    fs::remove_dir(site.path("backups")).unwrap();
    match is_named {
        true => std::os::unix::fs::symlink(&store, site.path("backups")).unwrap(),
        false => {
            let copied = std::process::Command::new("cp").arg("-R").arg(&store).arg(site.path("backups")).status();
            assert!(copied.unwrap().success());
        }
    }
    site.append(&format!("[environment.demo.signing]\ntrust-file = {:?}\n", text(&trust)));
    let shown = site.backup_in("local", &id)["state"].clone();
    assert_eq!(shown["signature"]["words"], "signed by backups, which is trusted here");
    assert_eq!((&shown["verified-by"], &shown["checked-by"]), (&"drills".into(), &"drills".into()));
    site.lifeboat(&["backups", "verify", &id, "--store", "local", "--depth", "content"]).expect(0);
}

#[test]
fn what_is_written_today_verifies() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let manifests = site.make_key("backups").replace(" lifeboat/verified/1 lifeboat/checked/1", "");
    let drills = site.make_key("drills").replace(" lifeboat/manifest/1", "");
    site.sign_with(Some("backups"), &[&manifests, &drills]);
    let id = site.take();
    site.sign_with(Some("drills"), &[&manifests, &drills]);
    site.run("drill", &[]).expect(0);
    site.lifeboat(&["backups", "verify", &id, "--store", "local"]).expect(0);
    let written = site.path("signed");
    fs::create_dir(&written).unwrap();
    fs::write(written.join("trust.txt"), format!("{manifests}\n{drills}\n")).unwrap();
    fs::rename(site.path("backups"), written.join("store")).unwrap();
    holds(&written, true);
    if std::env::var_os("LIFEBOAT_WRITE_VECTORS").is_some() {
        let golden = repository("docs/vectors/signed");
        let _ = fs::remove_dir_all(&golden);
        let copied = std::process::Command::new("cp").arg("-R").arg(&written).arg(&golden).status().unwrap();
        assert!(copied.success());
    }
}

#[test]
fn what_was_written_once_verifies_for_ever() {
    holds(&repository("docs/vectors/signed"), false);
}

#[test]
fn the_outsiders_verifier_finds_every_changed_byte() {
    let golden = repository("docs/vectors/signed");
    let id = backup_in(&golden.join("store"));
    let mut found = fs::read_dir(golden.join("store/notes/manifests")).unwrap().map(|e| e.unwrap().path());
    let manifest = found.find(|path| text(path).contains(&id)).unwrap();
    let said = python(
        &repository("tests/all/signing/mutations.py"),
        &[&text(&repository("docs/verify_manifest.py")), &text(&manifest), &text(&golden.join("trust.txt"))],
    )
    .expect(0);
    let changes = fs::metadata(&manifest).unwrap().len() * 2;
    assert_eq!(said.stdout, format!("signed by backups\n{changes}\n"));
}
