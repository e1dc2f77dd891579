use super::*;
use crate::identifier::now_ms;
use crate::testing::World;

fn hour() -> u64 {
    now_ms() + 3_600_000
}

#[test]
fn a_backup_is_taken_listed_and_read_back() {
    let world = World::new();
    let backup = world.take().unwrap();
    assert_eq!(world.logged(), ["check db", "check files", "dump db", "dump files"]);
    assert_eq!(backup.sources, ["db", "files"]);
    assert_eq!(backup.known, [("first".to_owned(), "one".to_owned())]);
    assert_eq!(backup.newest_at_ms, Some(1_795_413_600_000));
    assert_eq!(backup.findings, []);
    assert!(backup.taken_at_ms <= backup.completed_at_ms && backup.stored_bytes > 0);
    let second = world.take().unwrap();
    assert_eq!(list(&world.cx, &world.store, "notes").unwrap(), [backup.clone(), second]);
    assert_eq!(get(&world.cx, &world.store, "notes", &backup.id).unwrap(), backup);
    assert_eq!(
        get(&world.cx, &world.store, "notes", "20260101T000000000z-nobody").unwrap_err().kind,
        ErrorKind::NotFound
    );
    assert_eq!(list(&world.cx, &world.store, "other").unwrap(), []);
}

#[test]
fn a_manifest_that_is_not_right_is_an_error_and_not_a_shorter_list() {
    let world = World::new();
    let backup = world.take().unwrap();
    let key = manifests::key("notes", &backup.id, &backup.digest);
    let path = world.path("local", &key);
    let good = std::fs::read(&path).unwrap();
    let fails = |words: &str| {
        let error = list(&world.cx, &world.store, "notes").unwrap_err();
        assert!(error.message.contains(words), "{error}");
    };

    let mut changed = good.clone();
    changed[good.len() / 2] ^= 1;
    std::fs::write(&path, &changed).unwrap();
    fails("its key says");
    std::fs::write(&path, "").unwrap();
    fails(&backup.id);
    std::fs::write(&path, &good).unwrap();

    let stray = world.path("local", "notes/manifests/README");
    std::fs::write(&stray, "").unwrap();
    fails("notes/manifests/README");
    std::fs::remove_file(&stray).unwrap();

    let mut twin = manifests::read(&world.store, "notes", &backup.id, &backup.digest).unwrap();
    twin.label = Some("forged".into());
    manifests::write(&world.cx, &world.store, &twin, None, &world.work.state_dir).unwrap();
    fails("has two manifests");
}

#[test]
fn a_manifest_that_reaches_out_of_its_backup_is_refused() {
    let world = World::new();
    let (backup, other) = (world.take().unwrap(), world.take().unwrap());
    let good = manifests::read(&world.store, "notes", &backup.id, &backup.digest).unwrap();
    let others = manifests::read(&world.store, "notes", &other.id, &other.digest).unwrap();
    let forge = |change: &dyn Fn(&mut crate::manifest::Manifest)| {
        let mut forged = good.clone();
        change(&mut forged);
        assert!(manifests::write(&world.cx, &world.store, &forged, None, &world.work.state_dir).is_err());
        // As somebody else would write it.
        let (bytes, digest) = forged.encode(None).unwrap();
        world.store.put_if_absent(&manifests::key("notes", &backup.id, &digest), &bytes).unwrap();
        manifests::read(&world.store, "notes", &backup.id, &digest).unwrap_err()
    };
    let cases: [&dyn Fn(&mut crate::manifest::Manifest); 6] = [
        &|m| m.sources[0].objects[0].key = others.sources[0].objects[0].key.clone(),
        &|m| m.sources[0].objects[0].key = format!("notes/objects/{}/../../x", m.id),
        &|m| m.sources[1].objects[0].key = m.sources[0].objects[0].key.clone(),
        &|m| m.sources[1].name = "db".into(),
        &|m| m.sources.clear(),
        &|m| m.sources[0].objects[0].stored_sha256 = "x".into(),
    ];
    for case in cases {
        let error = forge(case);
        assert!(error.message.contains("not sound") || error.kind == ErrorKind::Invalid, "{error}");
    }
}

#[test]
fn holds_are_kept_and_ended_by_records() {
    let world = World::new();
    let backup = world.take().unwrap();
    // Each is a step of its own.
    let step = |step| StepContext { step, ..world.cx.clone() };
    let state = || state(&world.cx, &world.store, &world.work.signing, &backup).unwrap();
    assert_eq!(state(), BackupState::default());
    let (far, near) = (hour() + 10, hour());
    hold(&step(1), &world.store, &backup, far, "audit").unwrap();
    hold(&step(2), &world.store, &backup, near, "upgrade").unwrap();
    // Another attempt at the same step changes nothing.
    hold(&step(2), &world.store, &backup, hour() + 20, "upgrade").unwrap();
    // The later hold does not shorten the earlier one.
    assert_eq!((state().held_until_ms, state().held_because.as_deref()), (Some(far), Some("upgrade")));
    unhold(&step(3), &world.store, &backup, "done").unwrap();
    assert_eq!(state(), BackupState::default());
    unhold(&step(4), &world.store, &backup, "again").unwrap();
    hold(&step(5), &world.store, &backup, near, "once more").unwrap();
    assert_eq!(state().held_until_ms, Some(near));

    assert_eq!(hold(&step(6), &world.store, &backup, 1, "past").unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(hold(&step(7), &world.store, &backup, near, "a\nb").unwrap_err().kind, ErrorKind::Invalid);
    let stranger = Backup { id: "20260101T000000000z-nobody".into(), ..backup.clone() };
    assert_eq!(hold(&step(8), &world.store, &stranger, near, "x").unwrap_err().kind, ErrorKind::NotFound);
}

#[test]
fn a_record_that_cannot_be_read_is_an_error_because_it_may_be_a_hold() {
    let world = World::new();
    let backup = world.take().unwrap();
    for (name, text) in [
        ("hold-1.json", "{}"),
        ("hold-2.json", r#"{"format":"lifeboat/hold/2"}"#),
        ("legal-3.json", "{}"),
        ("hold-4.json", "not json"),
    ] {
        let key = format!("notes/records/{}/{name}", backup.id);
        world.store.put_if_absent(&key, text.as_bytes()).unwrap();
        let error = state(&world.cx, &world.store, &world.work.signing, &backup).unwrap_err();
        assert!(error.message.contains(name), "{error}");
        world.store.delete(&key).unwrap();
    }
    state(&world.cx, &world.store, &world.work.signing, &backup).unwrap();
}
