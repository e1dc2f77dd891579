use super::*;
use crate::ErrorKind;
use crate::manifest::Manifest;
use crate::testing::World;

fn manifest(world: &World, backup: &Backup) -> Manifest {
    manifests::read(&world.store, "notes", &backup.id, &backup.digest).unwrap()
}

#[test]
fn a_copy_is_the_same_backup_elsewhere() {
    let world = World::new();
    let backup = world.take().unwrap();
    let copied =
        copy(&world.cx, &world.store, &world.offsite, (&world.work.signing, &world.work.state_dir), &backup).unwrap();
    assert_eq!(copied, Backup { store: "offsite".into(), ..backup.clone() });
    assert_eq!(world.stored("offsite"), world.stored("local"));
    assert_eq!(
        verify(&world.cx, &world.offsite, (&world.work.signing, &world.work.encryption), &copied, Depth::Content)
            .unwrap(),
        []
    );
    // Again is fine.
    assert_eq!(
        copy(&world.cx, &world.store, &world.offsite, (&world.work.signing, &world.work.state_dir), &backup).unwrap(),
        copied
    );
    assert_eq!(
        copy(&world.cx, &world.store, &world.store, (&world.work.signing, &world.work.state_dir), &backup)
            .unwrap_err()
            .kind,
        ErrorKind::Invalid
    );
}

#[test]
fn a_damaged_object_is_not_copied() {
    let world = World::new();
    let backup = world.take().unwrap();
    let path = world.path("local", &manifest(&world, &backup).sources[1].objects[0].key);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let error = copy(&world.cx, &world.store, &world.offsite, (&world.work.signing, &world.work.state_dir), &backup)
        .unwrap_err();
    assert!(error.message.contains("SHA-256"), "{error}");
    let there = world.stored("offsite");
    assert!(
        !there.iter().any(|path| path.contains("manifests") || path.contains("files.data") || path.contains(".part")),
        "{there:?}"
    );
}

#[test]
fn what_lies_under_the_name_already_is_read_and_not_believed() {
    let world = World::new();
    let backup = world.take().unwrap();
    let entry = manifest(&world, &backup).sources[0].objects[0].clone();
    world.offsite.put_if_absent(&entry.key, &vec![0; entry.stored_bytes as usize]).unwrap();
    let error = copy(&world.cx, &world.store, &world.offsite, (&world.work.signing, &world.work.state_dir), &backup)
        .unwrap_err();
    assert!(error.message.contains("store offsite") && error.message.contains("SHA-256"), "{error}");
}

#[test]
fn what_was_removed_from_a_store_is_not_copied_back() {
    let world = World::new();
    let backup = world.take().unwrap();
    let tombstone = catalog::records::Tombstone::new(&world.cx, &backup, &"0".repeat(64), vec![]);
    catalog::records::write_tombstone(&world.cx, &world.offsite, "notes", &tombstone).unwrap();
    assert_eq!(
        copy(&world.cx, &world.store, &world.offsite, (&world.work.signing, &world.work.state_dir), &backup)
            .unwrap_err()
            .kind,
        ErrorKind::Conflict
    );
}

#[test]
fn each_depth_finds_what_it_can_see() {
    let world = World::new();
    let backup = world.take().unwrap();
    let entry = manifest(&world, &backup).sources[0].objects[0].clone();
    let path = world.path("local", &entry.key);
    let good = std::fs::read(&path).unwrap();
    let found =
        |depth| verify(&world.cx, &world.store, (&world.work.signing, &world.work.encryption), &backup, depth).unwrap();

    let mut flipped = good.clone();
    flipped[good.len() / 2] ^= 1;
    std::fs::write(&path, flipped).unwrap();
    assert_eq!(found(Depth::Exists), []);
    for depth in [Depth::Checksum, Depth::Content] {
        let [finding] = found(depth).try_into().unwrap();
        assert!(finding.rule == "stored-object" && finding.message.contains(&entry.key), "{finding:?}");
    }
    std::fs::write(&path, &good[1..]).unwrap();
    assert_eq!(found(Depth::Exists).len(), 1);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(found(Depth::Exists).len(), 1);
    // The rest is looked at nevertheless.
    std::fs::remove_file(world.path("local", &manifest(&world, &backup).sources[1].objects[0].key)).unwrap();
    assert_eq!(found(Depth::Checksum).len(), 2);
}

#[test]
fn a_check_that_could_not_run_is_an_error() {
    let world = World::new();
    let backup = world.take().unwrap();
    std::fs::rename(world.dir.path().join("local"), world.dir.path().join("away")).unwrap();
    assert!(
        verify(&world.cx, &world.store, (&world.work.signing, &world.work.encryption), &backup, Depth::Exists).is_err()
    );
    std::fs::rename(world.dir.path().join("away"), world.dir.path().join("local")).unwrap();
    world.cx.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
    let error = verify(&world.cx, &world.store, (&world.work.signing, &world.work.encryption), &backup, Depth::Content)
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled);
}

#[test]
fn a_changed_manifest_is_a_finding() {
    let world = World::new();
    let backup = world.take().unwrap();
    let path = world.path("local", &manifests::key("notes", &backup.id, &backup.digest));
    std::fs::write(&path, "{}").unwrap();
    assert_eq!(
        verify(&world.cx, &world.store, (&world.work.signing, &world.work.encryption), &backup, Depth::Exists)
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn what_lies_where_nobody_may_look_is_ours_if_the_store_called_it_so_and_nothing_else_is() {
    use crate::bindings::{Identities, Store};
    let Some((moto, identities)) = crate::stores::testing::Moto::guarded() else { return };
    let open = |identity| ObjectStore::open("offsite", &Store::S3(moto.store(identity))).unwrap();
    let writer = open(Identities { write: identities.write, ..Identities::default() });
    let reader = open(Identities { read: identities.read.clone(), ..Identities::default() });
    let world = World::new();
    let backup = world.take().unwrap();
    let into = (&*world.work.signing, &*world.work.state_dir);
    let again = StepContext { attempt: 2, ..world.cx.clone() };
    let kept = world.work.state_dir.join("copied/offsite").join(world.cx.record_id());
    // Somebody else put one object: no attempt takes it for ours, however often it is tried.
    let second = manifest(&world, &backup).sources[1].objects[0].key.clone();
    let other = open(Identities { write: identities.read.clone(), ..Identities::default() });
    assert!(other.put_if_absent(&second, b"theirs").is_err(), "only who may write puts anything there");
    writer.put_if_absent(&second, b"theirs").unwrap();
    for cx in [&world.cx, &again] {
        let refused = copy(cx, &world.store, &writer, into, &backup).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Conflict);
        assert!(
            refused.message.contains(&second) && refused.hint.as_deref().unwrap().contains("whose it is"),
            "{refused}"
        );
    }
    assert!(manifests::present(&reader, "notes").unwrap().is_empty());
    // What the store called ours before is ours for this step, cut off as the line of the last one may be, and for no other step.
    let first = manifest(&world, &backup).sources[0].objects[0].key.clone();
    assert_eq!(std::fs::read_to_string(&kept).unwrap(), format!("\n{first}\n"));
    open(Identities { delete: identities.delete, ..Identities::default() }).delete(&second).unwrap();
    std::fs::write(&kept, format!("\n{first}\n{}", &second[..second.len() - 3])).unwrap();
    let stranger = StepContext { step: 99, ..again.clone() };
    let refused = copy(&stranger, &world.store, &writer, into, &backup).unwrap_err();
    assert!(refused.message.contains(&first), "{refused}");
    let died = again.ended_at("object copied");
    assert_eq!(copy(&died, &world.store, &writer, into, &backup).unwrap_err().kind, ErrorKind::Cancelled);
    let copied = copy(&again, &world.store, &writer, into, &backup).unwrap();
    assert!(!kept.exists(), "nothing is kept of what is complete");
    let found = verify(&world.cx, &reader, (&world.work.signing, &world.work.encryption), &copied, Depth::Content);
    assert_eq!(found.unwrap(), []);
}

/// Drills and restores read every byte before they stage anything: so that is where archived objects must be asked back.
#[test]
fn archived_objects_are_asked_back_before_they_are_verified_or_copied() {
    use crate::bindings::{S3Store, Store, Thaw, Tier};
    let Some(moto) = crate::stores::testing::Moto::start() else { return };
    let open = |binding| ObjectStore::open("offsite", &Store::S3(binding)).unwrap();
    let warm = open(moto.open_store());
    let cold = open(S3Store { storage_class: Some("GLACIER".into()), ..moto.open_store() });
    let world = World::new();
    let backup = world.take().unwrap();
    let copied = copy(&world.cx, &world.store, &warm, (&world.work.signing, &world.work.state_dir), &backup).unwrap();
    // As a rule of the bucket does it.
    let archive = || {
        for entry in manifest(&world, &backup).objects() {
            let bytes = std::fs::read(world.path("local", &entry.key)).unwrap();
            warm.delete(&entry.key).unwrap();
            cold.put_if_absent(&entry.key, &bytes).unwrap();
        }
    };
    archive();
    let read = |store: &ObjectStore, depth| {
        verify(&world.cx, store, (&world.work.signing, &world.work.encryption), &copied, depth)
    };
    assert_eq!(read(&warm, Depth::Exists).unwrap(), []);
    let error = read(&warm, Depth::Checksum).unwrap_err();
    assert!(error.message.contains("must be thawed"), "{error}");

    let thawing = open(S3Store { thaw: Some(Thaw { days: 2, tier: Tier::Standard }), ..moto.open_store() });
    assert_eq!(read(&thawing, Depth::Checksum).unwrap(), []);
    archive();
    assert_eq!(read(&thawing, Depth::Content).unwrap(), []);
    archive();
    let missing = manifest(&world, &backup).sources[0].objects[0].key.clone();
    warm.delete(&missing).unwrap();
    let findings = read(&thawing, Depth::Checksum).unwrap();
    assert!(findings.len() == 1 && findings[0].message.contains(&missing), "{findings:?}");
    archive();
    let elsewhere = ObjectStore::memory("memory").unwrap();
    copy(&world.cx, &thawing, &elsewhere, (&world.work.signing, &world.work.state_dir), &copied).unwrap();
    assert_eq!(read(&elsewhere, Depth::Content).unwrap(), []);
}
