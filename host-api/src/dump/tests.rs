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
