//! Promotion and its undoing, with all that can lie beside a file.

use super::*;

#[test]
fn promotion_undo_and_drop_are_idempotent() {
    let world = World::with_rows("delete", 300);
    std::fs::set_permissions(&world.path, std::fs::Permissions::from_mode(0o640)).unwrap();
    let source = world.dump();
    insert(&world.open(), 700);
    let member = world.beside(&source);
    let (driver, cx) = (&world.driver, cx());
    assert_eq!(driver.preflight(&cx, &member).unwrap(), vec![]);
    let swap = driver.plan_swap(&cx, &member).unwrap();
    assert_eq!(swap.previous, driver.live_identity(&cx).unwrap());
    for _ in 0..2 {
        // The second finds what a crash after the exchange would have left.
        driver.promote(&cx, &member, &swap).unwrap();
        assert_eq!((world.live_rows(), count(Path::new(&swap.other_place))), (300, 1000));
    }
    assert_eq!(std::fs::metadata(&world.path).unwrap().mode() & 0o777, 0o640);
    // It is live now: no candidate, neither here nor there.
    assert_eq!(driver.discard(&cx, &member).unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(driver.execute(&cx, &member, &["DELETE FROM t".into()]).unwrap_err().kind, ErrorKind::Refused);
    for _ in 0..2 {
        driver.undo(&cx, &swap).unwrap();
        assert_eq!((world.live_rows(), count(Path::new(&swap.other_place))), (1000, 300));
    }
    assert_eq!(driver.drop_previous(&cx, &swap).unwrap_err().kind, ErrorKind::Conflict);
    driver.promote(&cx, &member, &swap).unwrap();
    for _ in 0..2 {
        driver.drop_previous(&cx, &swap).unwrap();
        assert_eq!((world.live_rows(), world.names()), (300, vec!["live.sqlite".to_owned()]));
    }
    assert_eq!(driver.undo(&cx, &swap).unwrap_err().kind, ErrorKind::Conflict);
}

#[test]
fn a_lost_file_is_replaced_and_the_loss_can_be_undone() {
    let world = World::with_rows("delete", 300);
    let source = world.dump();
    std::fs::remove_file(&world.path).unwrap();
    // A journal without its file would be applied to whatever comes there.
    std::fs::write(suffixed(&world.path, "-wal"), b"stale").unwrap();
    let member = world.beside(&source);
    let swap = world.driver.plan_swap(&cx(), &member).unwrap();
    assert_eq!(swap.previous, None);
    for _ in 0..2 {
        world.driver.promote(&cx(), &member, &swap).unwrap();
        assert_eq!(world.live_rows(), 300);
    }
    for _ in 0..2 {
        world.driver.undo(&cx(), &swap).unwrap();
        assert!(!world.path.exists());
        assert_eq!(std::fs::read(suffixed(&world.path, "-wal")).unwrap(), b"stale");
    }
    world.driver.promote(&cx(), &member, &swap).unwrap();
    world.driver.drop_previous(&cx(), &swap).unwrap();
    assert_eq!(world.names(), ["live.sqlite"]);
}

#[test]
fn a_stale_wal_does_not_undo_the_swap() {
    let world = World::with_rows("wal", 300);
    let source = world.dump();
    crash(&world.path, |conn| insert(conn, 4000));
    assert!(suffixed(&world.path, "-wal").metadata().unwrap().len() > 0);
    let member = world.beside(&source);
    let swap = world.driver.plan_swap(&cx(), &member).unwrap();
    world.driver.promote(&cx(), &member, &swap).unwrap();
    assert_eq!(world.live_rows(), 300);
    // What was in the WAL is part of the previous, not lost.
    assert_eq!(count(Path::new(&swap.other_place)), 4300);
    world.driver.undo(&cx(), &swap).unwrap();
    assert_eq!(world.live_rows(), 4300);
}

#[test]
fn a_hot_journal_is_refused_for_a_backup_and_rolled_back_for_a_swap() {
    let world = World::with_rows("delete", 3000);
    let source = world.dump();
    crash(&world.path, |conn| {
        conn.execute_batch(
            "PRAGMA cache_size = 2; PRAGMA cache_spill = 2; BEGIN; UPDATE t SET note = note || ' changed and longer'",
        )
        .unwrap();
    });
    assert!(suffixed(&world.path, "-journal").metadata().unwrap().len() > 0);
    let error = world.driver.check(&cx()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    assert!(error.hint.unwrap().contains("owner"));
    let member = world.beside(&source);
    let swap = world.driver.plan_swap(&cx(), &member).unwrap();
    world.driver.promote(&cx(), &member, &swap).unwrap();
    assert_eq!(open::sidecars(&world.path).unwrap(), Vec::<PathBuf>::new());
    let conn = Connection::open(&swap.other_place).unwrap();
    let changed: i64 = conn.query_row("SELECT count(*) FROM t WHERE note LIKE '%changed%'", [], |r| r.get(0)).unwrap();
    assert_eq!(changed, 0, "the previous was rolled back");
    assert_eq!(world.live_rows(), 3000);
}

#[test]
fn a_damaged_live_file_keeps_its_journals_beside_the_previous() {
    let world = World::with_rows("wal", 300);
    let source = world.dump();
    crash(&world.path, |conn| insert(conn, 100));
    let wal = std::fs::read(suffixed(&world.path, "-wal")).unwrap();
    std::fs::write(&world.path, [b'x'; 8192]).unwrap();
    // A WAL with the first page in it would heal the file.
    std::fs::write(suffixed(&world.path, "-wal"), &wal[..100]).unwrap();
    let member = world.beside(&source);
    let swap = world.driver.plan_swap(&cx(), &member).unwrap();
    world.driver.promote(&cx(), &member, &swap).unwrap();
    assert_eq!(world.live_rows(), 300);
    let aside = format!("{}-wal", swap.carried[PREVIOUS_ASIDE]);
    assert_eq!(std::fs::read(&aside).unwrap(), wal[..100]);
    world.driver.undo(&cx(), &swap).unwrap();
    assert_eq!(std::fs::read(suffixed(&world.path, "-wal")).unwrap(), wal[..100]);
    assert_eq!(std::fs::read(&world.path).unwrap(), [b'x'; 8192]);
    world.driver.promote(&cx(), &member, &swap).unwrap();
    world.driver.drop_previous(&cx(), &swap).unwrap();
    assert_eq!(world.names(), ["live.sqlite"]);
}

#[test]
fn a_file_in_use_is_not_swapped() {
    for mode in ["wal", "delete"] {
        let world = World::with_rows(mode, 300);
        let source = world.dump();
        let member = world.beside(&source);
        let swap = world.driver.plan_swap(&cx(), &member).unwrap();
        let service = world.open();
        service.execute_batch("BEGIN IMMEDIATE; DELETE FROM t").unwrap();
        let mut short = cx();
        short.deadline = Instant::now() + Duration::from_secs(1);
        let error = world.driver.promote(&short, &member, &swap).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "{mode}: {error}");
        assert_eq!(world.driver.live_identity(&cx()).unwrap(), swap.previous);
        service.execute_batch("COMMIT").unwrap();
        drop(service);
        world.driver.promote(&cx(), &member, &swap).unwrap();
    }
    // A process that only has it open, with no lock.
    let world = World::with_rows("delete", 3);
    let source = world.dump();
    let member = world.beside(&source);
    let swap = world.driver.plan_swap(&cx(), &member).unwrap();
    let mut sleeper =
        std::process::Command::new("sleep").arg("60").stdin(File::open(&world.path).unwrap()).spawn().unwrap();
    let error = world.driver.promote(&cx(), &member, &swap).unwrap_err();
    sleeper.kill().unwrap();
    sleeper.wait().unwrap();
    assert!(error.message.contains("sleep"), "{error}");
    world.driver.promote(&cx(), &member, &swap).unwrap();
}

#[test]
fn a_candidate_that_changed_hands_is_not_touched() {
    let world = World::with_rows("delete", 3);
    let source = world.dump();
    let member = world.beside(&source);
    let swap = world.driver.plan_swap(&cx(), &member).unwrap();
    let bytes = std::fs::read(&member.place).unwrap();
    std::fs::remove_file(&member.place).unwrap();
    std::fs::write(&member.place, bytes).unwrap();
    assert_eq!(world.driver.discard(&cx(), &member).unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(world.driver.promote(&cx(), &member, &swap).unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(
        world.driver.verify(&cx(), &member, &source, &world.objects, &[]).unwrap_err().kind,
        ErrorKind::Conflict
    );
    assert!(world.driver.plan_swap(&cx(), &member).is_err());
    assert_eq!(world.live_rows(), 3);
}

#[test]
fn a_candidate_with_a_journal_beside_it_is_refused() {
    let world = World::with_rows("delete", 3);
    let source = world.dump();
    let member = world.beside(&source);
    let swap = world.driver.plan_swap(&cx(), &member).unwrap();
    std::fs::write(format!("{}-wal", member.place), b"x").unwrap();
    assert!(world.verify(&member, &source).contains(&"sidecar".to_owned()));
    assert_eq!(world.driver.promote(&cx(), &member, &swap).unwrap_err().kind, ErrorKind::Refused);
    assert!(world.driver.preflight(&cx(), &member).unwrap().iter().any(|f| f.rule == "sidecar"));
    world.driver.discard(&cx(), &member).unwrap();
    assert_eq!(world.names(), ["live.sqlite"]);
}

#[test]
fn a_crashed_staging_leaves_only_what_the_next_one_replaces() {
    let world = World::with_rows("delete", 3);
    let source = world.dump();
    let (place, _) = exchange::candidate_place(&world.path, ID, &Target::Beside).unwrap();
    std::fs::write(exchange::unfinished(&place), b"half").unwrap();
    let member = world.beside(&source);
    assert_eq!(world.verify(&member, &source), Vec::<String>::new());
    assert_eq!(world.names().len(), 2);
    // A staging that fails leaves nothing.
    world.driver.discard(&cx(), &member).unwrap();
    let mut wrong = source.clone();
    wrong.objects[0].plain_sha256 = "0".repeat(64);
    assert!(world.stage(&wrong, &Target::Beside).is_err());
    assert_eq!(world.names(), ["live.sqlite"]);
}

#[test]
fn a_link_to_the_database_stays_a_link() {
    let world = World::with_rows("delete", 300);
    let link = world.dir.path().join("link.sqlite");
    std::os::unix::fs::symlink(&world.path, &link).unwrap();
    let driver = SqliteDriver::new("db", SqliteSource { path: link.clone(), lock_budget_ms: 3_000 });
    let source = manifest_of("db", &driver.dump(&cx(), &world.objects, &[]).unwrap());
    insert(&world.open(), 5);
    let member = driver.stage(&cx(), &source, &world.objects, ID, &Target::Beside, &StageOptions::default()).unwrap();
    let swap = driver.plan_swap(&cx(), &member).unwrap();
    driver.promote(&cx(), &member, &swap).unwrap();
    assert!(link.symlink_metadata().unwrap().is_symlink());
    assert_eq!(count(&link), 300);
}

#[test]
fn an_exchange_or_removal_that_would_come_late_does_not_happen() {
    let world = World::with_rows("delete", 3);
    let source = world.dump();
    insert(&world.open(), 4);
    let member = world.beside(&source);
    let swap = world.driver.plan_swap(&cx(), &member).unwrap();
    let late = |act: &dyn Fn(&StepContext) -> Result<()>, place| {
        let late = cx().ended_at(place);
        assert_eq!(act(&late).unwrap_err().kind, ErrorKind::Cancelled);
        assert!(late.check().is_err(), "it came to that place");
    };
    late(&|cx| world.driver.promote(cx, &member, &swap), "journals settled");
    assert_eq!(world.live_rows(), 7);
    world.driver.promote(&cx(), &member, &swap).unwrap();
    // A journal that can't be recovered stays with its file when that stays.
    std::fs::write(&world.path, b"no database at all").unwrap();
    let journal = suffixed(&world.path, "-wal");
    std::fs::write(&journal, b"its journal").unwrap();
    late(&|cx| world.driver.undo(cx, &swap), "journals settled");
    assert_eq!(std::fs::read(&world.path).unwrap(), b"no database at all");
    assert_eq!(std::fs::read(&journal).unwrap(), b"its journal");

    let over = cx();
    over.cancelled.store(true, Ordering::Relaxed);
    assert_eq!(world.driver.drop_previous(&over, &swap).unwrap_err().kind, ErrorKind::Cancelled);
    world.driver.undo(&cx(), &swap).unwrap();
    assert_eq!(world.driver.discard(&over, &member).unwrap_err().kind, ErrorKind::Cancelled);
    assert_eq!(world.driver.clear(&over, ID).unwrap_err().kind, ErrorKind::Cancelled);
    assert!(Path::new(&member.place).exists());
    assert_eq!(world.live_rows(), 7);
}
