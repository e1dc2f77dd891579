use super::*;
use crate::identifier::now_ms;
use crate::testing::World;

const INTENT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn remove_all(world: &World, backups: &[&Backup]) -> Result<()> {
    let named: Vec<_> = backups.iter().map(|backup| (world.store.clone(), (*backup).clone())).collect();
    apply(&world.cx, &named, INTENT)
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
fn a_hold_that_comes_after_the_look_takes_the_tombstone_back() {
    let world = World::new();
    let backup = world.take().unwrap();
    hold(&world, &backup);
    // As `apply` does once it has looked.
    let error = remove(&world.cx, &world.store, &backup, INTENT).unwrap_err();
    assert_eq!(error.kind, crate::ErrorKind::Refused);
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
