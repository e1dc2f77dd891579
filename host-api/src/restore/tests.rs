use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::catalog::{manifests, state};
use crate::testing::World;
use crate::{ErrorKind, Severity};

const ID: &str = "20261123t061534123z-7k3f9q";

fn staged(world: &World, backup: &Backup, target: &str) -> Result<Candidate> {
    stage::stage(&world.work, &world.cx, &world.store, ID, backup, target, &Options::default())
}

fn errors(verification: &Verification) -> Vec<&str> {
    assert!(!verification.passed);
    let errors = verification.findings.iter().filter(|finding| finding.severity == Severity::Error);
    errors.map(|finding| finding.rule.as_str()).collect()
}

fn verified_at(world: &World, backup: &Backup) -> Option<u64> {
    state(&world.cx, &world.store, &world.work.signing, backup).unwrap().verified_at_ms
}

#[test]
fn a_candidate_is_staged_verified_and_discarded() {
    let world = World::new();
    let backup = world.take().unwrap();
    world.logged();
    let candidate = staged(&world, &backup, "scratch").unwrap();
    let dir = world.work.candidate_dir(ID);
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(candidate.members[0].place, dir.join("db").display().to_string());
    // Where the layout says.
    assert_eq!(candidate.members[1].place, dir.join("var/files").display().to_string());
    assert_eq!(std::fs::read_dir(world.work.state_dir.join("spool")).unwrap().count(), 0);

    assert_eq!(verified_at(&world, &backup), None);
    let verification = verify::verify(&world.work, &world.cx, &world.store, &candidate).unwrap();
    assert!(verification.passed, "{:?}", verification.findings);
    assert_eq!((verification.rows, verification.files, verification.newest_at_ms), (2, 2, backup.newest_at_ms));
    assert_eq!(verification.members, candidate.members);
    assert!(verified_at(&world, &backup).is_some());

    std::fs::write(world.work.started_marker(ID), "").unwrap();
    discard(&world.work, &world.cx, ID, &candidate.members).unwrap();
    assert!(!dir.exists() && !world.work.started_marker(ID).exists());
    discard(&world.work, &world.cx, ID, &candidate.members).unwrap();
    let log = world.logged();
    assert_eq!(log[..4], ["stage db", "stage files", "verify db", "verify files"]);
}

#[test]
fn what_was_read_from_one_store_proves_nothing_of_another_that_has_its_name() {
    let mut world = World::new();
    let backup = world.take().unwrap();
    let candidate = staged(&world, &backup, "scratch").unwrap();
    assert_eq!(candidate.read_from, Some(world.store.own_name().unwrap()));
    let copied = std::process::Command::new("cp")
        .args(["-a", "notes", "../offsite/"])
        .current_dir(world.dir.path().join("local"))
        .status();
    assert!(copied.unwrap().success());
    // The configuration is changed between the two.
    let staged_from = std::mem::replace(&mut world.store, world.offsite.clone());
    assert!(verify::verify(&world.work, &world.cx, &world.store, &candidate).unwrap().passed);
    let found = state(&world.cx, &world.store, &world.work.signing, &backup).unwrap();
    assert!(found.verified_at_ms.is_none() && found.proven_elsewhere, "{found:?}");
    // A candidate of before it was kept proves its backup to who looks for one, and of no store that it is of there.
    world.store = staged_from;
    let old = Candidate { read_from: None, ..candidate };
    assert!(verify::verify(&world.work, &world.cx, &world.store, &old).unwrap().passed);
    let found = state(&world.cx, &world.store, &world.work.signing, &backup).unwrap();
    assert!(found.verified_at_ms.is_some() && !found.proven_here, "{found:?}");
}

#[test]
fn data_alone_need_tables_to_go_into() {
    let world = World::new();
    let backup = world.take().unwrap();
    world.logged();
    let options = Options { data_only: true, ..Options::default() };
    let error = stage::stage(&world.work, &world.cx, &world.store, ID, &backup, "beside", &options).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    assert!(error.message.contains("no PostgreSQL source") && error.hint.is_some(), "{error}");
    assert_eq!(world.logged(), Vec::<String>::new());
}

/// Neither its structure nor its kept tables were compared.
#[test]
fn a_pass_of_the_rows_alone_is_not_one_of_the_backup() {
    let world = World::new();
    let backup = world.take().unwrap();
    let mut candidate = staged(&world, &backup, "scratch").unwrap();
    candidate.members[0].data_only = Some(crate::sources::DataOnly { kept: vec![] });
    let verification = verify::verify(&world.work, &world.cx, &world.store, &candidate).unwrap();
    assert!(verification.passed && verification.members == candidate.members);
    assert!(verification.findings.iter().any(|f| f.rule == "verification-record"), "{:?}", verification.findings);
    assert_eq!(verified_at(&world, &backup), None);
}

#[test]
fn damage_is_found_before_a_driver_makes_anything_of_it() {
    for n in [0, 1] {
        let world = World::new();
        let backup = world.take().unwrap();
        let manifest = manifests::read(&world.store, "notes", &backup.id, &backup.digest).unwrap();
        let path = world.path("local", &manifest.sources[n].objects[0].key);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[6] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = staged(&world, &backup, "scratch").unwrap_err();
        assert!(error.message.contains("damaged"), "{error}");
        assert!(!world.work.candidate_dir(ID).exists());

        // A size that is wrong is seen before anything is staged at all.
        world.logged();
        bytes.pop();
        std::fs::write(&path, &bytes).unwrap();
        assert!(staged(&world, &backup, "scratch").unwrap_err().message.contains("damaged"));
        assert_eq!(world.logged(), Vec::<String>::new());
    }
}

#[test]
fn a_failed_stage_takes_back_what_it_made() {
    let world = World::new();
    let backup = world.take().unwrap();
    world.files.fail("stage");
    world.logged();
    let error = staged(&world, &backup, "beside").unwrap_err();
    assert!(world.files.fired() && error.message.contains("injected: stage files"), "{error}");
    assert_eq!(world.logged(), ["stage db", "stage files", "discard db"]);
    assert_eq!(world.db.content(&format!("beside-{ID}")), None);

    // Also when taking back fails, it is said.
    world.files.fail("stage");
    world.db.fail("discard");
    let error = staged(&world, &backup, "beside").unwrap_err();
    assert!(world.db.fired() && error.message.contains("could not all be removed"), "{error}");
    assert!(error.hint.unwrap().contains(ID));
}

#[test]
fn a_cancelled_stage_still_takes_back() {
    let mut world = World::new();
    let backup = world.take().unwrap();
    let cancelled = world.cx.cancelled.clone();
    // Cancelled from outside, while the first member's object is being fetched.
    world.cx.progress = std::sync::Arc::new(move |progress| {
        if progress.what.contains("files.data") {
            cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    });
    world.logged();
    let error = staged(&world, &backup, "scratch").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
    assert_eq!(world.logged(), ["stage db", "stage files", "discard db"]);
    assert!(!world.work.candidate_dir(ID).exists());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let world = World::new();
    let backup = world.take().unwrap();
    assert_eq!(staged(&world, &backup, "live").unwrap_err().kind, ErrorKind::Invalid);
    let hostile = stage::stage(&world.work, &world.cx, &world.store, "../x", &backup, "scratch", &Options::default());
    assert_eq!(hostile.unwrap_err().kind, ErrorKind::Invalid);
    let mut outside = World::new();
    outside.work.service.scratch.as_mut().unwrap().layout.insert("files".into(), "../../etc".into());
    let backup = outside.take().unwrap();
    let error = staged(&outside, &backup, "scratch").unwrap_err();
    assert!(error.message.contains("leads out"), "{error}");
}

#[test]
fn a_set_that_is_not_the_environments_is_refused() {
    let mut world = World::new();
    let backup = world.take().unwrap();
    let files = world.work.service.source.remove("files").unwrap();
    assert!(staged(&world, &backup, "beside").unwrap_err().message.contains("can't be restored whole"));
    world.work.service.source.insert("files".into(), files.clone());
    world.work.service.source.insert("more".into(), files.clone());
    assert!(staged(&world, &backup, "beside").unwrap_err().message.contains("has no source `more`"));
    world.work.service.source.remove("more");
    world.work.service.source.insert("db".into(), files);
    assert!(staged(&world, &backup, "beside").unwrap_err().message.contains("of another kind"));
}

#[test]
fn a_backup_of_nothing_that_is_known_does_not_pass() {
    let world = World::new();
    world.db.answer("known/first", &[]);
    let backup = world.take().unwrap();
    let candidate = staged(&world, &backup, "scratch").unwrap();
    let verify = || verify::verify(&world.work, &world.cx, &world.store, &candidate).unwrap();
    assert_eq!(errors(&verify()), ["known-record"]);
    // Configured only after the backup was taken.
    world.db.answer("known/first", &["one"]);
    let verification = verify();
    assert!(verification.passed && verification.findings.iter().any(|f| f.message.contains("not compared")));
}

#[test]
fn every_deviation_fails_the_verification() {
    let world = World::new();
    let backup = world.take().unwrap();
    let candidate = staged(&world, &backup, "scratch").unwrap();
    let verify = || verify::verify(&world.work, &world.cx, &world.store, &candidate).unwrap();

    world.db.answer("known/first", &["another"]);
    assert_eq!(errors(&verify()), ["known-record"]);
    world.db.answer("known/first", &[]);
    assert_eq!(errors(&verify()), ["known-record"]);
    world.db.answer("known/first", &["one"]);

    world.db.answer("newest", &["2026-11-23T05:59:59Z"]);
    assert_eq!(errors(&verify()), ["newest-record"]);
    world.db.answer("newest", &[]);
    assert_eq!(errors(&verify()), ["newest-record"]);
    world.db.answer("newest", &["2026-11-23T06:00:00Z"]);

    std::fs::remove_file(std::path::Path::new(&candidate.members[1].place).join("a/1")).unwrap();
    assert_eq!(errors(&verify()), ["reference"]);
    std::fs::write(std::path::Path::new(&candidate.members[1].place).join("a/1"), "").unwrap();

    world.db.set(&candidate.members[0].place, "one\n");
    assert_eq!(errors(&verify()), ["content"]);
    world.db.set(&candidate.members[0].place, "one\ntwo\n");

    assert_eq!(verified_at(&world, &backup), None);
    assert!(verify().passed);
    assert!(verified_at(&world, &backup).is_some());
}

#[test]
fn nothing_proves_nothing() {
    // A restore that lost everything.
    let world = World::new();
    let backup = world.take().unwrap();
    let candidate = staged(&world, &backup, "scratch").unwrap();
    world.db.set(&candidate.members[0].place, "");
    world.files.set(&candidate.members[1].place, "");
    let verification = verify::verify(&world.work, &world.cx, &world.store, &candidate).unwrap();
    assert!(errors(&verification).contains(&"empty-restore"));

    // A backup of nothing, faithfully restored.
    let world = World::new();
    world.db.set("live", "");
    world.files.set("live", "");
    world.db.answer("reference/artifacts", &[]);
    let backup = world.take().unwrap();
    let candidate = staged(&world, &backup, "scratch").unwrap();
    std::fs::create_dir_all(&candidate.members[1].place).unwrap();
    let verification = verify::verify(&world.work, &world.cx, &world.store, &candidate).unwrap();
    assert_eq!(errors(&verification), ["empty-restore"]);
    assert_eq!(verified_at(&world, &backup), None);
}

#[test]
fn a_check_that_could_not_run_never_passes() {
    let world = World::new();
    let backup = world.take().unwrap();
    let candidate = staged(&world, &backup, "scratch").unwrap();
    let verify = |candidate: &Candidate| verify::verify(&world.work, &world.cx, &world.store, candidate);
    world.files.fail("verify");
    assert!(verify(&candidate).unwrap_err().message.contains("injected"));
    assert!(world.files.fired());

    let mut fewer = candidate.clone();
    fewer.members.pop();
    assert_eq!(verify(&fewer).unwrap_err().kind, ErrorKind::Conflict);
    let mut doubled = candidate.clone();
    doubled.members.push(doubled.members[0].clone());
    assert_eq!(verify(&doubled).unwrap_err().kind, ErrorKind::Conflict);

    world.db.replace(&candidate.members[0].place);
    assert!(verify(&candidate).unwrap_err().message.contains("not the one that was staged"));
    assert_eq!(verified_at(&world, &backup), None);
}

#[test]
fn a_discard_goes_on_and_says_every_failure() {
    let world = World::new();
    let backup = world.take().unwrap();
    let candidate = staged(&world, &backup, "scratch").unwrap();
    world.db.fail("discard");
    let error = discard(&world.work, &world.cx, ID, &candidate.members).unwrap_err();
    assert!(world.db.fired() && error.message.contains("db at"), "{error}");
    assert_eq!(world.files.content(&candidate.members[1].place), None, "the other member is gone");
    assert!(world.work.candidate_dir(ID).exists(), "what a driver would not remove is not removed behind its back");
    discard(&world.work, &world.cx, ID, &candidate.members).unwrap();
    assert!(!world.work.candidate_dir(ID).exists());
}

#[test]
fn a_second_attempt_goes_on_in_the_place_of_the_first_and_a_first_one_is_alone_there() {
    let mut world = World::new();
    let backup = world.take().unwrap();
    let left = world.work.candidate_dir(ID).join("half");
    std::fs::create_dir_all(&left).unwrap();
    assert_eq!(staged(&world, &backup, "scratch").unwrap_err().kind, ErrorKind::Conflict);
    assert!(left.exists());
    world.cx.attempt = 2;
    staged(&world, &backup, "scratch").unwrap();
    discard(&world.work, &world.cx, ID, &[]).unwrap();
    assert!(!left.exists(), "whatever either of them left goes with the candidate");
}
