use super::*;
use crate::testing::World;
use crate::{ErrorKind, Severity};

#[test]
fn a_failed_dump_is_no_backup() {
    for (call, of_files) in [("check", false), ("check", true), ("dump", false), ("dump", true)] {
        let world = World::new();
        let driver = if of_files { &world.files } else { &world.db };
        driver.fail(call);
        let error = world.take().unwrap_err();
        assert!(driver.fired() && error.message.contains("injected"), "{error}");
        assert!(manifests::present(&world.store, "notes").unwrap().is_empty());
        // The next attempt is not in the way of what is left.
        world.take().unwrap();
    }
}

#[test]
fn a_cancelled_dump_is_no_backup() {
    let world = World::new();
    world.cx.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(world.take().unwrap_err().kind, ErrorKind::Cancelled);
    assert!(world.stored("local").is_empty());
}

#[test]
fn a_store_that_is_gone_is_noticed_before_anything_is_dumped() {
    let world = World::new();
    std::fs::remove_dir(world.dir.path().join("local")).unwrap();
    assert!(world.take().unwrap_err().message.contains("store local"));
    assert_eq!(world.logged(), Vec::<String>::new());
}

#[test]
fn labels_are_short_and_plain() {
    let world = World::new();
    let take = |label: &str| {
        let options = Options { label: Some(label.into()) };
        super::take(&world.work, &world.cx, &world.store, &options)
    };
    for label in ["", "a\nb", "a\u{1b}[2J", &"x".repeat(65)] {
        assert_eq!(take(label).unwrap_err().kind, ErrorKind::Invalid, "{label:?}");
    }
    assert_eq!(take(&"x".repeat(64)).unwrap().label.unwrap().len(), 64);
}

#[test]
fn what_a_dump_noticed_stands_in_the_backup() {
    let world = World::new();
    world.files.set("live", "a/1\nb/9\n");
    world.db.answer("known/first", &[]);
    world.db.answer("newest", &["yesterday"]);
    let rules = |backup: Backup| {
        let mut rules: Vec<_> = backup.findings.iter().map(|f| (f.rule.clone(), f.severity)).collect();
        rules.sort();
        rules
    };
    let found = world.take().unwrap();
    assert_eq!((found.newest_at_ms, found.known.len()), (None, 0));
    assert_eq!(
        rules(found),
        [
            ("known-record".to_owned(), Severity::Warning),
            ("newest-record".to_owned(), Severity::Warning),
            ("reference".to_owned(), Severity::Error),
        ]
    );

    let world = World::new();
    world.db.answer("reference/artifacts", &[]);
    world.db.set("live", "");
    world.files.set("live", "");
    assert_eq!(
        rules(world.take().unwrap()),
        [
            ("empty-backup".to_owned(), Severity::Warning),
            ("empty-source".to_owned(), Severity::Warning),
            ("empty-source".to_owned(), Severity::Warning),
        ]
    );
}

#[test]
fn a_manifest_that_would_come_late_is_not_written() {
    let mut world = World::new();
    world.cx = world.cx.ended_at("before the manifest");
    assert_eq!(world.take().unwrap_err().kind, ErrorKind::Cancelled);
    assert!(world.cx.check().is_err(), "it came to that place");
    assert!(!world.stored("local").iter().any(|path| path.contains("/manifests/")), "{:?}", world.stored("local"));
}

mod write_only {
    use std::sync::Arc;

    use super::*;
    use crate::bindings::{Identities, Store};
    use crate::catalog::sent;
    use crate::stores::testing::{Fault, Moto, Proxy};
    use crate::testing::World;

    /// A world whose store may only be written to; and the same store for those who may read it.
    fn world() -> Option<(World, Arc<ObjectStore>, Moto)> {
        let (moto, identities) = Moto::guarded()?;
        let open = |identity| Arc::new(ObjectStore::open("local", &Store::S3(moto.store(identity))).unwrap());
        let mut world = World::new();
        world.store = open(Identities { write: identities.write, ..Identities::default() });
        let reader = open(Identities { read: identities.read, ..Identities::default() });
        Some((world, reader, moto))
    }

    #[test]
    fn a_backup_is_taken_by_whoever_may_only_put_and_found_by_whoever_may_read() {
        let Some((world, reader, _moto)) = world() else { return };
        let taken = world.take().unwrap();
        assert_eq!(taken.findings, [], "its references were compared all the same");
        let found = manifests::present(&reader, "notes").unwrap();
        assert_eq!(found.get(&taken.id), Some(&taken.digest));
        let manifest = manifests::read(&reader, "notes", &taken.id, &taken.digest).unwrap();
        crate::upload::require_objects(&world.cx, &reader, manifest.objects()).unwrap();
        let listed = manifests::present(&world.store, "notes").unwrap_err();
        assert_eq!(listed.kind, ErrorKind::Refused);
        // Whoever may only read is told before a source is asked for anything.
        world.logged();
        let refused = take(&world.work, &world.cx, &reader, &Options::default()).unwrap_err();
        assert!(refused.hint.as_deref().unwrap().contains("identity.write"), "{refused}");
        assert_eq!(world.logged(), Vec::<String>::new());
    }

    #[test]
    fn answers_that_are_lost_lose_no_backup() {
        let Some((moto, identities)) = Moto::guarded() else { return };
        let asked = std::sync::Mutex::new(std::collections::BTreeSet::new());
        // Each object and the manifest: put, and the answer is lost; asked again, the key is taken.
        let proxy = Proxy::start(moto.port(), move |seen| {
            match seen.line.starts_with("PUT") && asked.lock().unwrap().insert(seen.line.to_owned()) {
                true => Fault::Lost,
                false => Fault::None,
            }
        });
        let open = |identity, port| {
            let mut binding = moto.store(identity);
            binding.endpoint = Some(format!("http://127.0.0.1:{port}"));
            Arc::new(ObjectStore::open("local", &Store::S3(binding)).unwrap())
        };
        let mut world = World::new();
        world.store = open(Identities { write: identities.write, ..Identities::default() }, proxy.port());
        let taken = world.take().unwrap();
        let reader = open(Identities { read: identities.read, ..Identities::default() }, moto.port());
        let manifest = manifests::read(&reader, "notes", &taken.id, &taken.digest).unwrap();
        assert_eq!(proxy.fired(), manifest.objects().count() + 1, "{:#?}", proxy.lines());
        for entry in manifest.objects() {
            crate::pipeline::check_stored(&world.cx, &reader, entry, "check", &mut std::io::sink())
                .unwrap_or_else(|fault| panic!("{}", fault.into_error()));
        }
    }

    #[test]
    fn what_became_of_a_backup_is_told_without_looking() {
        let Some((world, reader, _moto)) = world() else { return };
        let completed = |cx: &StepContext| {
            sent::complete(&world.work.state_dir, &world.cx, &world.store, "notes", &cx.attempt_key()).unwrap()
        };
        let cut_off_at = |step, place| {
            let cx = StepContext { step, ..world.cx.ended_at(place) };
            assert_eq!(
                take(&world.work, &cx, &world.store, &Options::default()).unwrap_err().kind,
                ErrorKind::Cancelled
            );
            assert!(manifests::present(&reader, "notes").unwrap().is_empty(), "{place}");
            cx
        };
        // It never came so far.
        assert_eq!(completed(&cut_off_at(1, "before the manifest")).map(|backup| backup.id), None);
        // All was there but its manifest.
        let backup = completed(&cut_off_at(2, "manifest kept")).unwrap();
        assert_eq!(manifests::present(&reader, "notes").unwrap().get(&backup.id), Some(&backup.digest));
        // It was whole: asked again, the same one.
        let cx = StepContext { step: 3, ..world.cx.clone() };
        let taken = take(&world.work, &cx, &world.store, &Options::default()).unwrap();
        assert_eq!(completed(&cx).unwrap(), taken);
        assert_eq!(manifests::present(&reader, "notes").unwrap().len(), 2);
    }
}
