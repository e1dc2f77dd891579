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

mod indexed {
    use filetime::FileTime;

    use super::*;
    use crate::catalog::index::Index;
    use crate::catalog::stock::{confirm, survey};
    use crate::note::Trust;
    use crate::signing::Signing;

    /// A world with two backups, which an index has.
    fn world() -> (World, Index) {
        let world = World::new();
        std::fs::create_dir(&world.work.state_dir).unwrap();
        (0..2).for_each(|_| drop(world.take().unwrap()));
        let index = Index::of(&world.work.state_dir, true);
        assert_eq!(index.known(world.store.place(), "notes").len(), 0);
        assert_eq!(look(&world, &index).stock.len(), 2);
        assert_eq!(index.known(world.store.place(), "notes").len(), 2);
        (world, index)
    }

    fn look(world: &World, index: &Index) -> Survey {
        survey(&world.cx, &world.store, &world.work.signing, "notes", index).unwrap()
    }

    fn manifest_path(world: &World, backup: &Backup) -> std::path::PathBuf {
        world.path("local", &manifests::key("notes", &backup.id, &backup.digest))
    }

    /// Other bytes, as many, of the same time.
    fn damage(path: &std::path::Path) {
        let time = FileTime::from_last_modification_time(&std::fs::metadata(path).unwrap());
        let size = std::fs::read(path).unwrap().len();
        std::fs::write(path, vec![b'x'; size]).unwrap();
        filetime::set_file_mtime(path, time).unwrap();
    }

    #[test]
    fn what_was_read_once_is_not_read_again_and_is_the_same() {
        let (world, index) = world();
        let before = look(&world, &index).stock;
        damage(&manifest_path(&world, &before[0].backup));
        let again = look(&world, &index);
        assert_eq!((again.stock, again.failures.len()), (before.clone(), 0));
        // Whoever removes something on the strength of it reads it, and finds out.
        assert!(
            confirm(&world.store, &world.work.signing, before[..1].iter())
                .unwrap_err()
                .message
                .contains("its key says")
        );
        confirm(&world.store, &world.work.signing, before[1..].iter()).unwrap();
    }

    #[test]
    fn what_changed_in_the_store_is_read_and_named_beside_the_rest() {
        let (world, index) = world();
        let before = look(&world, &index).stock;
        let path = manifest_path(&world, &before[0].backup);
        damage(&path);
        filetime::set_file_mtime(&path, FileTime::from_unix_time(1_000_000_000, 0)).unwrap();
        let after = look(&world, &index);
        assert_eq!(
            (after.stock.as_slice(), after.failures[0].0.as_str()),
            (&before[1..], before[0].backup.id.as_str())
        );
        assert!(stock::backups(&world.cx, &world.store, &world.work.signing, "notes", &index).is_err());
        // What is gone is forgotten, what comes is found.
        std::fs::remove_file(path).unwrap();
        let third = world.take().unwrap();
        let found = look(&world, &index).stock;
        assert_eq!(found.iter().map(|s| &s.backup.id).collect::<Vec<_>>(), [&before[1].backup.id, &third.id]);
        assert_eq!(index.known(world.store.place(), "notes").len(), 2);
    }

    #[test]
    fn a_store_tells_all_that_it_holds_to_whoever_has_nothing_else() {
        let (world, index) = world();
        let (backups, third) = (look(&world, &index).stock, world.take().unwrap());
        let (one, two) = (&backups[0].backup, &backups[1].backup);
        let step = |step| StepContext { step, ..world.cx.clone() };
        hold(&step(1), &world.store, one, hour(), "audit").unwrap();
        crate::delete::tests::verify(&world, two);
        crate::delete::tests::remove_all(&world, &[&third]).unwrap();
        world.store.put_if_absent("notes/objects/20260101T000000000z-nobody/r-1-1/db.data.txt.zst", b"12345").unwrap();
        let read = || {
            holdings::read(&world.cx, &world.store, &world.work.signing, "notes", &index, &world.work.state_dir)
                .unwrap()
        };
        let found = read();
        assert_eq!(found.backups.keys().collect::<Vec<_>>(), [&one.id, &two.id]);
        assert_eq!((found.held.as_slice(), found.verified.as_slice()), (&[one.id.clone()][..], &[two.id.clone()][..]));
        assert_eq!((found.removed.as_slice(), found.hidden.len()), (&[third.id.clone()][..], 0));
        assert_eq!((found.leftovers, found.leftover_bytes, found.unseen), (1, 5, false));
        assert!(found.sent.is_empty() && found.unreadable.is_empty() && found.refused.is_empty());

        // What this machine has sent and what has arrived, or was removed since, is nothing to tell; what never arrived is.
        let manifest = manifests::read(&world.store, "notes", &one.id, &one.digest).unwrap();
        let mut keep = |id: &str| {
            let manifest = crate::manifest::Manifest { id: id.to_owned(), ..manifest.clone() };
            let (bytes, digest) = manifest.encode(None).unwrap();
            sent::keep(&world.work.state_dir, &world.store, &format!("{id}-1-1"), &digest, &bytes).unwrap();
        };
        [one.id.as_str(), third.id.as_str(), "20260101T000000000z-never"].into_iter().for_each(&mut keep);
        assert_eq!(read().sent, ["20260101T000000000z-never"]);

        // What is damaged in place is read anew here.
        damage(&manifest_path(&world, two));
        let found = read();
        assert_eq!((found.backups.len(), found.unreadable.keys().collect::<Vec<_>>()), (1, vec![&two.id]));
        let tombstone = records::Tombstone::new(&world.cx, one, &"0".repeat(64), Vec::new());
        records::write_tombstone(&world.cx, &world.store, "notes", &tombstone).unwrap();
        assert_eq!(read().hidden, std::slice::from_ref(&one.id));
    }

    #[test]
    fn another_trust_judges_anew() {
        let (world, index) = world();
        let trusting = Signing::new(None, Some(Trust::default()));
        for _ in 0..2 {
            let found = survey(&world.cx, &world.store, &trusting, "notes", &index).unwrap().stock;
            assert!(found.iter().all(|stocked| stocked.refused().is_some()), "{found:?}");
            assert!(look(&world, &index).stock.iter().all(|stocked| stocked.refused().is_none()));
        }
    }

    #[test]
    fn an_index_that_is_damaged_forged_or_missing_is_no_index() {
        let (world, index) = world();
        let before = look(&world, &index).stock;
        let path = world.work.state_dir.join("catalog-index.sqlite");
        for _ in 0..2 {
            std::fs::write(&path, vec![b'x'; 8192]).unwrap();
            assert_eq!(look(&world, &index).stock, before);
        }
        std::fs::remove_file(&path).ok();
        let looking = Index::of(&world.work.state_dir, false);
        assert_eq!(look(&world, &looking).stock, before);
        assert!(!path.exists(), "whoever only looks makes nothing");
        assert_eq!(look(&world, &index).stock, before);
        // Somebody writes into it that the oldest is another one.
        let database = rusqlite::Connection::open(&path).unwrap();
        let changed =
            database.execute("update manifest set body = replace(body, '\"version\":null', '\"version\":\"9\"')", []);
        assert_eq!(changed.unwrap(), 2);
        let forged = look(&world, &index).stock;
        assert_eq!(forged[0].backup.version.as_deref(), Some("9"));
        let found = confirm(&world.store, &world.work.signing, forged.iter()).unwrap_err();
        assert!(found.message.contains("not what the index says"), "{found}");
    }
}
