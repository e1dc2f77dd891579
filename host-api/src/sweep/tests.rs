use super::*;
use crate::ErrorKind;
use crate::catalog::Backup;
use crate::delete::tests::{remove_all, verify};
use crate::testing::World;

const HOUR_MS: u64 = 3_600_000;
const RUN: &str = "20260101T000000000z-aaaaaa";
const LOST: &str = "20260101T000000001z-bbbbbb";

/// A world whose backups are of a run with a name as runs have it.
fn world() -> World {
    let mut world = World::new();
    world.cx.run = "20251231T000000000z-cccccc".into();
    world
}

/// An object of a backup, put so many hours before the newest.
fn put(world: &World, key: &str, hours: u64) -> String {
    world.store.put_if_absent(key, b"left").unwrap();
    aged(world, key, hours);
    key.to_owned()
}

fn aged(world: &World, key: &str, hours: u64) {
    let time = std::time::SystemTime::now() - std::time::Duration::from_millis(hours * HOUR_MS);
    filetime::set_file_mtime(world.path("local", key), filetime::FileTime::from_system_time(time)).unwrap();
}

fn object(backup: &str, run: &str) -> String {
    format!("notes/objects/{backup}/{run}-3-1/db.data.txt.zst")
}

fn look(world: &World, guard: &Guard) -> Vec<(String, Because)> {
    let found = leftovers(&world.store, "notes", guard, now_ms()).unwrap();
    assert!(found.iter().all(|of| of.goes == matches!(of.because, Because::NoManifest | Because::Removed)));
    found.into_iter().map(|of| (of.key, of.because)).collect()
}

fn sweep_now(world: &World, keys: &[String], guard: &Guard) -> Result<()> {
    sweep(&world.cx, &world.store, "notes", keys, guard, now_ms())
}

#[test]
fn what_a_crash_left_goes_once_it_is_older_than_any_run() {
    let world = world();
    let backup = world.take().unwrap();
    let key = put(&world, &object(LOST, RUN), 29);
    assert_eq!(look(&world, &Guard::default()), [(key.clone(), Because::NoManifest)]);
    assert_eq!(look(&world, &Guard { age_ms: 30 * HOUR_MS, ..Guard::default() }), [(key.clone(), Because::Young)]);
    aged(&world, &key, 27);
    assert_eq!(look(&world, &Guard::default()), [(key.clone(), Because::Young)]);
    assert_eq!(sweep_now(&world, std::slice::from_ref(&key), &Guard::default()).unwrap_err().kind, ErrorKind::Refused);
    aged(&world, &key, 29);
    let before = world.stored("local");
    sweep_now(&world, std::slice::from_ref(&key), &Guard::default()).unwrap();
    let mut left = before.clone();
    left.remove(&key);
    assert_eq!(world.stored("local"), left);
    // Again is fine, and the backup is whole.
    sweep_now(&world, &[key], &Guard::default()).unwrap();
    crate::catalog::require(&world.store, &backup).unwrap();
}

#[test]
fn an_upload_that_is_under_way_is_not_swept_however_long_it_takes() {
    let world = world();
    world.take().unwrap();
    let key = put(&world, &object(LOST, RUN), 1_000);
    let runs = Guard { runs: BTreeSet::from([RUN.to_owned()]), ..Guard::default() };
    let copied = Guard { in_use: BTreeMap::from([(LOST.to_owned(), "run r".to_owned())]), ..Guard::default() };
    for guard in [runs, copied] {
        assert_eq!(look(&world, &guard), [(key.clone(), Because::InUse)]);
        assert_eq!(sweep_now(&world, std::slice::from_ref(&key), &guard).unwrap_err().kind, ErrorKind::Refused);
    }
    assert!(world.path("local", &key).exists());
}

#[test]
fn what_is_not_ours_is_not_touched() {
    let world = world();
    let backup = world.take().unwrap();
    let strangers = [
        format!("notes/objects/{LOST}/README"),
        "notes/objects/photos/2019/beach.jpg.bak".to_owned(),
        format!("notes/objects/{LOST}/{RUN}-3-1/notes"),
        format!("notes/objects/{LOST}/{RUN}-3-1/deep/db.data.txt.zst"),
        format!("notes/objects/{LOST}/{RUN}-x-1/db.data.txt.zst"),
    ];
    strangers.iter().for_each(|key| drop(put(&world, key, 1_000)));
    let elsewhere = [
        put(&world, &format!("other/objects/{LOST}/{RUN}-3-1/db.data.txt.zst"), 1_000),
        put(&world, "notes/README", 1_000),
    ];
    let found = look(&world, &Guard::default());
    assert_eq!(found.len(), strangers.len(), "{found:?}");
    assert!(found.iter().all(|(_, because)| *because == Because::NotOurs), "{found:?}");
    let manifest = manifests::key("notes", &backup.id, &backup.digest);
    for key in strangers.iter().chain(&elsewhere).chain([&manifest]) {
        assert_eq!(
            sweep_now(&world, std::slice::from_ref(key), &Guard::default()).unwrap_err().kind,
            ErrorKind::Refused,
            "{key}"
        );
        assert!(world.path("local", key).exists());
    }
}

#[test]
fn objects_of_a_backup_stay_even_if_somebody_put_a_tombstone() {
    let world = world();
    let backups: Vec<Backup> = (0..2).map(|_| world.take().unwrap()).collect();
    let keys: Vec<String> = world
        .stored("local")
        .into_iter()
        .filter(|key| key.contains("/objects/") && key.contains(&backups[0].id))
        .collect();
    keys.iter().for_each(|key| aged(&world, key, 1_000));
    let tombstone = records::Tombstone::new(&world.cx, &backups[0], &"0".repeat(64), keys.clone());
    records::write_tombstone(&world.cx, &world.store, "notes", &tombstone).unwrap();
    assert_eq!(look(&world, &Guard::default()), []);
    // A removal that died after the manifest: now they are nobody's.
    world.store.delete(&manifests::key("notes", &backups[0].id, &backups[0].digest)).unwrap();
    assert_eq!(
        look(&world, &Guard::default()),
        keys.iter().map(|key| (key.clone(), Because::Removed)).collect::<Vec<_>>()
    );
    sweep_now(&world, &keys, &Guard::default()).unwrap();
    assert_eq!(look(&world, &Guard::default()), []);
}

#[test]
fn where_nothing_else_is_of_the_service_nothing_goes() {
    let world = world();
    let (old, _new) = (put(&world, &object(LOST, RUN), 1_000), put(&world, &object(RUN, RUN), 0));
    assert_eq!(look(&world, &Guard::default())[1], (old, Because::NothingElse));
}

#[test]
fn a_clock_that_jumped_makes_nothing_old() {
    let world = world();
    world.take().unwrap();
    let key = put(&world, &object(LOST, RUN), 20);
    let found = leftovers(&world.store, "notes", &Guard::default(), now_ms() + 1_000_000 * HOUR_MS).unwrap();
    assert_eq!((found[0].key.as_str(), found[0].because), (key.as_str(), Because::Young));
}

#[test]
fn a_sweep_leaves_removed_backups_and_their_tombstones_as_they_are() {
    let world = world();
    let backups: Vec<Backup> = (0..2).map(|_| world.take().unwrap()).collect();
    verify(&world, &backups[1]);
    remove_all(&world, &[&backups[0]]).unwrap();
    assert_eq!(look(&world, &Guard::default()), []);
}
