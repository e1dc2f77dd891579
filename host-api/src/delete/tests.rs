use super::*;
use crate::identifier::now_ms;
use crate::restore::Candidate;
use crate::testing::World;

const INTENT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

pub(crate) fn remove_all(world: &World, backups: &[&Backup]) -> Result<()> {
    let named: Vec<_> = backups.iter().map(|backup| (world.store.clone(), (*backup).clone())).collect();
    apply(&world.cx, &named, INTENT, &|| Ok(()), &|| Ok(()))
}

fn hold(world: &World, backup: &Backup) {
    let hold = records::Hold::new(&world.cx, backup, now_ms() + 3_600_000, "audit");
    records::write(&world.cx, &world.store, "notes", &backup.id, "hold", &hold).unwrap();
}

fn ids(world: &World) -> Vec<String> {
    manifests::present(&world.store, "notes").unwrap().into_keys().collect()
}

#[test]
fn what_is_removed_leaves_its_tombstone_and_nothing_of_others() {
    let world = World::new();
    let (one, two) = (world.take().unwrap(), world.take().unwrap());
    remove_all(&world, &[&one]).unwrap();
    assert!(ids(&world).into_iter().eq([two.id.clone()]));
    let left = world.stored("local");
    let of_one: Vec<_> = left.iter().filter(|path| path.contains(&one.id)).collect();
    assert_eq!(of_one, [&format!("notes/tombstones/{}.json", one.id)]);
    assert_eq!(left.iter().filter(|path| path.contains(&two.id)).count(), 4);
    let tombstone = std::fs::read_to_string(world.path("local", of_one[0])).unwrap();
    assert!(tombstone.contains(INTENT) && tombstone.contains("lifeboat/tombstone/1"), "{tombstone}");
    // Again is fine.
    remove_all(&world, &[&one]).unwrap();
}

#[test]
fn one_held_backup_refuses_all() {
    let world = World::new();
    let (one, two) = (world.take().unwrap(), world.take().unwrap());
    hold(&world, &two);
    let before = world.stored("local");
    let error = remove_all(&world, &[&one, &two]).unwrap_err();
    assert_eq!(error.kind, crate::ErrorKind::Refused);
    assert!(error.message.contains("audit"), "{error}");
    assert_eq!(world.stored("local"), before);
}

#[test]
fn half_a_removal_counts_as_removed_and_is_completed() {
    let world = World::new();
    let backup = world.take().unwrap();
    let manifest = manifests::key("notes", &backup.id, &backup.digest);
    // A directory in the manifest's place can't be removed as an object: the removal ends there, after the tombstone.
    let path = world.path("local", &manifest);
    let bytes = std::fs::read(&path).unwrap();
    let tombstone = records::Tombstone::new(
        &world.cx,
        &backup,
        INTENT,
        manifests::read(&world.store, "notes", &backup.id, &backup.digest)
            .unwrap()
            .objects()
            .map(|object| object.key.clone())
            .collect(),
    );
    records::write_tombstone(&world.cx, &world.store, "notes", &tombstone).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir_all(path.join("x")).unwrap();
    let error = remove_all(&world, &[&backup]).unwrap_err();
    assert!(error.message.contains("removing backup"), "{error}");
    let objects = world.stored("local").iter().filter(|path| path.contains("/objects/")).count();
    assert_eq!(objects, 3, "objects go after the manifest");

    std::fs::remove_dir_all(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(ids(&world), Vec::<String>::new(), "a backup with a tombstone does not count");
    assert!(catalog::require(&world.store, &backup).is_err());
    remove_all(&world, &[&backup]).unwrap();
    assert_eq!(world.stored("local").len(), 1);
}

#[test]
fn a_removal_that_fails_half_way_hides_nothing_that_is_whole() {
    let world = World::new();
    let (one, two) = (world.take().unwrap(), world.take().unwrap());
    // An object that can't be removed: a directory stands in its place.
    let object =
        world.stored("local").into_iter().find(|path| path.contains(&one.id) && path.contains("/objects/")).unwrap();
    let path = world.path("local", &object);
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir_all(path.join("in-the-way")).unwrap();
    remove_all(&world, &[&one, &two]).unwrap_err();
    assert!(ids(&world).into_iter().eq([two.id.clone()]), "its turn had not come");
    assert!(records::read_tombstone(&world.store, "notes", &one.id).unwrap().is_some());
    assert!(records::read_tombstone(&world.store, "notes", &two.id).unwrap().is_none());
    std::fs::remove_dir_all(&path).unwrap();
    remove_all(&world, &[&one, &two]).unwrap();
    assert!(ids(&world).is_empty());
}

#[test]
fn what_another_call_hides_and_has_not_begun_to_remove_is_not_removed() {
    let world = World::new();
    let backup = world.take().unwrap();
    let foreign = records::Tombstone::new(&world.cx, &backup, &"f".repeat(64), Vec::new());
    assert!(records::write_tombstone(&world.cx, &world.store, "notes", &foreign).unwrap());
    let before = world.stored("local");
    let error = remove_all(&world, &[&backup]).unwrap_err();
    assert_eq!(error.kind, crate::ErrorKind::Conflict, "{error}");
    assert_eq!(world.stored("local"), before);
}

#[test]
fn a_hold_that_comes_after_the_look_takes_the_tombstone_back() {
    let world = World::new();
    let backup = world.take().unwrap();
    hold(&world, &backup);
    // As `apply` does once it has looked.
    let mut begun = Begun::default();
    let error = begun.put(&world.cx, &world.store, &backup, INTENT).unwrap_err();
    assert_eq!(error.kind, crate::ErrorKind::Refused);
    assert!(records::read_tombstone(&world.store, "notes", &backup.id).unwrap().is_some(), "the look came after it");
    assert_eq!(begun.take_back(&world.cx, error).hint.unwrap().matches("hidden").count(), 0);
    assert!(ids(&world).into_iter().eq([backup.id.clone()]));
    assert!(records::read_tombstone(&world.store, "notes", &backup.id).unwrap().is_none());
}

#[test]
fn a_tombstone_that_names_others_objects_removes_nothing() {
    let world = World::new();
    let (one, two) = (world.take().unwrap(), world.take().unwrap());
    let others = manifests::read(&world.store, "notes", &two.id, &two.digest).unwrap();
    let keys = others.objects().map(|object| object.key.clone()).collect();
    records::write_tombstone(&world.cx, &world.store, "notes", &records::Tombstone::new(&world.cx, &one, INTENT, keys))
        .unwrap();
    let before = world.stored("local");
    assert!(remove_all(&world, &[&one]).unwrap_err().message.contains("no object of it"));
    assert_eq!(world.stored("local"), before);
}

#[test]
fn a_store_that_is_gone_removes_nothing_silently() {
    let world = World::new();
    let backup = world.take().unwrap();
    std::fs::rename(world.dir.path().join("local"), world.dir.path().join("away")).unwrap();
    assert!(remove_all(&world, &[&backup]).is_err());
}

#[test]
fn a_removal_that_is_late_takes_no_manifest_and_is_completed_by_the_next() {
    let mut world = World::new();
    let backup = world.take().unwrap();
    let manifest = world.path("local", &manifests::key("notes", &backup.id, &backup.digest));
    let cx = world.cx.clone();
    world.cx = cx.ended_at("tombstone written");
    assert_eq!(remove_all(&world, &[&backup]).unwrap_err().kind, crate::ErrorKind::Cancelled);
    assert!(world.cx.check().is_err() && manifest.exists());
    assert_eq!(ids(&world), std::slice::from_ref(&backup.id), "nothing of it was removed, so nothing hides it");
    world.cx = cx;
    remove_all(&world, &[&backup]).unwrap();
    assert!(!manifest.exists());
}

#[test]
fn whoever_may_not_remove_puts_no_tombstone() {
    use crate::bindings::{Identities, Store};
    let Some((moto, identities)) = crate::stores::testing::Moto::guarded() else { return };
    let open = |identities| Arc::new(ObjectStore::open("local", &Store::S3(moto.store(identities))).unwrap());
    let mut world = World::new();
    world.store = open(Identities { delete: None, ..identities.clone() });
    let backup = world.take().unwrap();
    let refused = remove_all(&world, &[&backup]).unwrap_err();
    assert_eq!(refused.kind, crate::ErrorKind::Refused);
    assert!(refused.hint.as_deref().unwrap().contains("identity.delete"), "{refused}");
    assert!(ids(&world).into_iter().eq([backup.id.clone()]));
    world.store = open(identities);
    remove_all(&world, &[&backup]).unwrap();
    assert_eq!(ids(&world), Vec::<String>::new());
}

fn unfinished() -> Candidate {
    Candidate::unfinished("candidate", "notes")
}

pub(crate) fn verify(world: &World, backup: &Backup) {
    let mut cx = world.cx.clone();
    cx.step = now_ms();
    let (id, digest, read_from) = (backup.id.clone(), backup.digest.clone(), world.store.own_name().ok());
    let restored = Candidate { backup: id, digest, read_from, ..unfinished() };
    let record = records::Verified::new(&cx, &restored, (1, 1));
    records::write_verified(&cx, &world.store, "notes", &record, None).unwrap();
}

fn place(world: &World, rules: Retention) -> Place {
    let (cx, store, signing) = (world.cx.clone(), world.store.clone(), world.work.signing.clone());
    let index = Index::of(&world.work.state_dir, true);
    Place { cx, service: "notes".into(), store, signing, index, rules, takes_proven: Cell::new(false) }
}

fn keep_last(last: u64) -> Retention {
    Retention { keep: crate::bindings::Keep { last: Some(last), ..Default::default() }, ..Retention::default() }
}

#[test]
fn a_plan_says_of_every_backup_what_becomes_of_it() {
    let world = World::new();
    let backups: Vec<Backup> = (0..5).map(|_| world.take().unwrap()).collect();
    let place = place(&world, keep_last(1));
    let kept =
        |regard: &Regard| -> Vec<bool> { place.plan(regard).unwrap().iter().map(|entry| entry.planned.keep).collect() };
    assert_eq!(kept(&Regard::default()), [true; 5], "none was ever verified");
    [1, 2, 3].iter().for_each(|n: &usize| verify(&world, &backups[*n]));
    assert_eq!(kept(&Regard::default()), [false, false, true, true, true]);
    hold(&world, &backups[0]);
    let in_use = BTreeMap::from([(backups[1].id.clone(), "run r1".to_owned())]);
    assert_eq!(kept(&Regard { in_use, ..Regard::default() }), [true; 5]);
    let entries = place.plan(&Regard::default()).unwrap();
    assert!(
        entries.iter().zip(&backups).all(|(entry, backup)| entry.backup == *backup && entry.stored_at_ms.is_some())
    );
    assert_eq!(world.stored("local").iter().filter(|path| path.contains("tombstones")).count(), 0);
}

#[test]
fn a_file_whose_time_was_changed_keeps_its_backup() {
    let world = World::new();
    let backups: Vec<Backup> = (0..4).map(|_| world.take().unwrap()).collect();
    backups.iter().for_each(|backup| verify(&world, backup));
    let old = &backups[0];
    let path = world.path("local", &manifests::key("notes", &old.id, &old.digest));
    filetime::set_file_mtime(&path, filetime::FileTime::from_unix_time(1_000_000_000, 0)).unwrap();
    let place = place(&world, keep_last(1));
    let entries = place.plan(&Regard::default()).unwrap();
    assert_eq!(entries[0].stored_at_ms, Some(1_000_000_000_000));
    assert!(entries[0].planned.reasons[0].words().starts_with("times-disagree"), "{entries:?}");
    let named = [old.clone()];
    assert!(place.may_go(&named, &Regard::default()).unwrap_err().hint.unwrap().contains("--despite-times"));
    place.may_go(&named, &Regard { despite_times: true, ..Regard::default() }).unwrap();
}

#[test]
fn what_must_stay_refuses_all_of_a_call_and_nothing_is_touched() {
    let world = World::new();
    let backups: Vec<Backup> = (0..4).map(|_| world.take().unwrap()).collect();
    let rules = place(&world, Retention::default());
    let may_go = |named: &[usize]| {
        let named: Vec<Backup> = named.iter().map(|n| backups[*n].clone()).collect();
        rules.may_go(&named, &Regard::default()).map_err(|e| e.to_string())
    };
    assert!(may_go(&[0]).unwrap_err().contains("too-few-verified (0 of 2)"));
    [0, 1, 3].iter().for_each(|n: &usize| verify(&world, &backups[*n]));
    may_go(&[0]).unwrap();
    may_go(&[2]).unwrap();
    assert!(may_go(&[2, 3]).unwrap_err().contains("newest"));
    assert!(may_go(&[0, 1]).unwrap_err().contains("1 verified backups would be left, and 2 must stay"));
    // One of another manifest is none of these, and none that could be removed.
    let forged = Backup { digest: "0".repeat(64), ..backups[2].clone() };
    assert!(remove_all(&world, &[&forged]).is_err());
    assert_eq!(ids(&world).len(), 4);
}

#[test]
fn a_proof_that_was_brought_from_another_store_lets_nothing_go() {
    let mut world = World::new();
    let backups: Vec<Backup> = (0..4).map(|_| world.take().unwrap()).collect();
    backups.iter().for_each(|backup| verify(&world, backup));
    let state =
        |world: &World, backup: &Backup| catalog::state(&world.cx, &world.store, &world.work.signing, backup).unwrap();
    assert!(state(&world, &backups[0]).proven_here && !state(&world, &backups[0]).proven_elsewhere);
    // Everything as it is, records and times as well: what was proven lies elsewhere.
    let copied = std::process::Command::new("cp")
        .args(["-a", "notes", "../offsite/"])
        .current_dir(world.dir.path().join("local"))
        .status();
    assert!(copied.unwrap().success());
    let original = std::mem::replace(&mut world.store, world.offsite.clone());
    let backups: Vec<Backup> = backups.into_iter().map(|b| Backup { store: "offsite".into(), ..b }).collect();
    let found = state(&world, &backups[3]);
    assert!(found.verified_at_ms.is_none() && !found.proven_here && found.proven_elsewhere, "{found:?}");
    assert_eq!(catalog::latest(&world.cx, &world.store, &world.work.signing, "notes", true).unwrap(), None);
    let refused = place(&world, keep_last(1)).may_go(&backups[..1], &Regard::default()).unwrap_err();
    assert!(refused.message.contains("too-few-verified (0 of 2)"), "{refused}");
    // Proven there, it counts there.
    [1, 2].iter().for_each(|n: &usize| verify(&world, &backups[*n]));
    place(&world, keep_last(1)).may_go(&backups[..1], &Regard::default()).unwrap();

    // The first one under another name, at another path, opened anew: it is the same store.
    let moved = world.dir.path().join("moved");
    std::fs::rename(world.dir.path().join("local"), &moved).unwrap();
    let binding = crate::bindings::Store::Directory(crate::bindings::DirectoryStore { path: moved });
    world.store = Arc::new(ObjectStore::open("archive", &binding).unwrap());
    let backup = Backup { store: "archive".into(), ..backups[0].clone() };
    assert!(state(&world, &backup).proven_here);
    assert_ne!(world.store.place(), original.place());
}

#[test]
fn a_proof_of_before_stores_were_named_is_read_and_lets_nothing_go() {
    let world = World::new();
    let backups: Vec<Backup> = (0..3).map(|_| world.take().unwrap()).collect();
    for backup in &backups {
        verify(&world, backup);
        let folder = world.dir.path().join("local/notes/records").join(&backup.id);
        let path = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
        let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        assert!(record.as_object_mut().unwrap().remove("store").is_some());
        std::fs::write(&path, record.to_string()).unwrap();
    }
    let state = catalog::state(&world.cx, &world.store, &world.work.signing, &backups[0]).unwrap();
    assert!(state.verified_at_ms.is_some() && !state.proven_here && !state.proven_elsewhere, "{state:?}");
    assert!(catalog::latest(&world.cx, &world.store, &world.work.signing, "notes", true).unwrap().is_some());
    let refused = place(&world, keep_last(1)).may_go(&backups[..1], &Regard::default()).unwrap_err();
    assert!(refused.message.contains("too-few-verified (0 of 2)"), "{refused}");
}

#[test]
fn a_store_whose_clock_is_behind_ours_lets_nothing_go() {
    use crate::bindings::Store;
    use crate::stores::testing::{Fault, Moto, Proxy};
    let Some(moto) = Moto::start() else { return };
    let open = |port: u16| {
        let mut binding = moto.open_store();
        binding.endpoint = Some(format!("http://127.0.0.1:{port}"));
        Arc::new(ObjectStore::open("local", &Store::S3(binding)).unwrap())
    };
    let mut world = World::new();
    world.store = open(moto.port());
    let backups: Vec<Backup> = (0..4).map(|_| world.take().unwrap()).collect();
    [1, 2].iter().for_each(|n: &usize| verify(&world, &backups[*n]));
    let rules = keep_last(1);
    place(&world, rules.clone()).may_go(&backups[..1], &Regard::default()).unwrap();
    // The same store, as it looks from a machine whose clock is ahead by a year.
    let proxy = Proxy::start(moto.port(), |_| Fault::Dated("Thu, 27 Nov 2025 08:00:00 GMT"));
    world.store = open(proxy.port());
    let refused = place(&world, rules.clone()).may_go(&backups[..1], &Regard::default()).unwrap_err();
    assert_eq!(refused.kind, crate::ErrorKind::Refused);
    assert!(refused.message.contains("by this machine's clock it is"), "{refused}");
    assert!(refused.hint.as_deref().unwrap().contains("nothing was removed; set this machine's clock"), "{refused}");
    assert_eq!(place(&world, rules.clone()).plan(&Regard::default()).unwrap_err().kind, crate::ErrorKind::Refused);
    assert!(proxy.fired() > 1);
    // One that is ahead of ours ends nothing early.
    let proxy = Proxy::start(moto.port(), |_| Fault::Dated("Fri, 27 Nov 2099 08:00:00 GMT"));
    world.store = open(proxy.port());
    // By another endpoint it is another store, where nothing is proven yet.
    let refused = place(&world, rules.clone()).may_go(&backups[..1], &Regard::default()).unwrap_err();
    assert!(refused.message.contains("too-few-verified"), "{refused}");
    [1, 2].iter().for_each(|n: &usize| verify(&world, &backups[*n]));
    place(&world, rules).may_go(&backups[..1], &Regard::default()).unwrap();
    assert!(proxy.fired() > 1);
}

#[test]
fn of_two_removals_at_the_same_moment_none_goes_below_what_must_stay() {
    let mut world = World::new();
    let backups: Vec<Backup> = (0..4).map(|_| world.take().unwrap()).collect();
    [0, 1, 2].iter().for_each(|n: &usize| verify(&world, &backups[*n]));
    let look = place(&world, Retention::default());
    // Each alone may go.
    look.may_go(&[backups[0].clone()], &Regard::default()).unwrap();
    look.may_go(&[backups[1].clone()], &Regard::default()).unwrap();
    let (store, other, cx) = (world.store.clone(), backups[1].clone(), world.cx.clone());
    let did = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let done = did.clone();
    world.cx.waypoint = Arc::new(move |at| {
        // Another host comes as far as its own tombstone.
        if at == "tombstone written" && !done.swap(true, std::sync::atomic::Ordering::Relaxed) {
            Begun::default().put(&cx, &store, &other, INTENT).unwrap();
        }
    });
    let named = [(world.store.clone(), backups[0].clone())];
    let error = apply(&world.cx, &named, INTENT, &|| Ok(()), &|| look.still_stands()).unwrap_err();
    assert!(did.load(std::sync::atomic::Ordering::Relaxed));
    assert_eq!(error.kind, crate::ErrorKind::Conflict);
    assert!(error.message.contains("1 verified backups would be left"), "{error}");
    assert_eq!(ids(&world), [backups[0].id.clone(), backups[2].id.clone(), backups[3].id.clone()]);
}

#[test]
fn after_the_tombstones_it_is_counted_as_the_floors_count() {
    let world = World::new();
    let backups: Vec<Backup> = (0..3).map(|_| world.take().unwrap()).collect();
    let look = place(&world, Retention::default());
    // None is verified: one that is not may go by name, and nothing of what must stay is touched.
    look.may_go(&[backups[0].clone()], &Regard::default()).unwrap_err();
    verify(&world, &backups[1]);
    verify(&world, &backups[2]);
    look.may_go(&[backups[0].clone()], &Regard::default()).unwrap();
    assert!(!look.takes_proven.get());
    look.still_stands().unwrap();
    // What an earlier attempt hid may have been proven: looked at with care.
    Begun::default().put(&world.cx, &world.store, &backups[1], INTENT).unwrap();
    look.may_go(&[backups[1].clone()], &Regard::default()).unwrap();
    let error = look.still_stands().unwrap_err();
    assert!(error.message.contains("1 verified backups would be left"), "{error}");
}

#[test]
fn what_was_half_removed_is_completed_whatever_else_is_there() {
    let world = World::new();
    let backups: Vec<Backup> = (0..2).map(|_| world.take().unwrap()).collect();
    Begun::default().put(&world.cx, &world.store, &backups[0], INTENT).unwrap();
    // It is not there any more, so no floor speaks of it.
    place(&world, Retention::default()).may_go(&[backups[0].clone()], &Regard::default()).unwrap();
    remove_all(&world, &[&backups[0]]).unwrap();
    assert_eq!(world.stored("local").iter().filter(|path| path.contains(&backups[0].id)).count(), 1);
}

#[test]
fn what_an_earlier_attempt_hid_comes_back_when_it_must_stay_by_now() {
    let world = World::new();
    let backups: Vec<Backup> = (0..3).map(|_| world.take().unwrap()).collect();
    let named: Vec<_> = backups[..2].iter().map(|backup| (world.store.clone(), backup.clone())).collect();
    // It died between two tombstones; somebody else's intent hides the third.
    Begun::default().put(&world.cx, &world.store, &backups[0], INTENT).unwrap();
    Begun::default().put(&world.cx, &world.store, &backups[2], &"0".repeat(64)).unwrap();
    hold(&world, &backups[1]);
    let held = remove_all(&world, &[&backups[0], &backups[1]]).unwrap_err();
    assert!(held.message.contains("audit"), "{held}");
    assert_eq!(ids(&world), [backups[0].id.clone(), backups[1].id.clone()]);
    Begun::default().put(&world.cx, &world.store, &backups[0], INTENT).unwrap();
    let no = apply(&world.cx, &named[..1], INTENT, &|| Err(Error::refused("it must stay")), &|| Ok(())).unwrap_err();
    assert_eq!((no.message.as_str(), ids(&world).len()), ("it must stay", 2));
    // What is gone already is no backup that could come back.
    Begun::default().put(&world.cx, &world.store, &backups[0], INTENT).unwrap();
    world.store.delete(&manifests::key("notes", &backups[0].id, &backups[0].digest)).unwrap();
    apply(&world.cx, &named[..1], INTENT, &|| Err(Error::refused("it must stay")), &|| Ok(())).unwrap_err();
    assert!(records::read_tombstone(&world.store, "notes", &backups[0].id).unwrap().is_some());
}
