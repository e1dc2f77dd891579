//! Copying, staging, comparing.

use super::*;

#[test]
fn a_backup_comes_back_whole_in_scratch_and_beside() {
    let world = World::with_rows("delete", 300);
    world
        .open()
        .execute_batch("CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID; INSERT INTO w VALUES ('x', x'00ff')")
        .unwrap();
    let asked = [question("SELECT count(*), 1.0, NULL, x'0aff' FROM t")];
    let dumped = world.driver.dump(&cx(), &world.objects, &asked).unwrap();
    assert_eq!(dumped.answers["q"], vec![vec![Some("300".into()), Some("1.0".into()), None, Some("\\x0aff".into())]]);
    assert!(finding(&dumped).contains("in one step"), "{}", finding(&dumped));
    let source = manifest_of("db", &dumped);
    let facts = sqlite_facts(&source);
    assert_eq!((facts.user_version, facts.journal_mode.as_str(), facts.tables.len()), (7, "delete", 2));

    let dir = tempfile::tempdir().unwrap();
    let target = Target::Scratch { dir: dir.path().into(), relative: ".kneo/runs.sqlite".into() };
    for member in [world.stage(&source, &target).unwrap(), world.beside(&source)] {
        let verified = world.driver.verify(&cx(), &member, &source, &world.objects, &asked).unwrap();
        assert_eq!(verified.findings, vec![]);
        assert_eq!((verified.rows, verified.answers), (301, dumped.answers.clone()));
        let again = world.stage(&source, if member.beside { &Target::Beside } else { &target }).unwrap_err();
        assert_eq!(again.kind, ErrorKind::Conflict, "{again}");
        world.driver.discard(&cx(), &member).unwrap();
        world.driver.discard(&cx(), &member).unwrap();
        assert!(!Path::new(&member.place).exists());
    }
    assert_eq!(world.names(), ["live.sqlite"]);
    for relative in ["../x", "/x", ""] {
        let target = Target::Scratch { dir: dir.path().into(), relative: relative.into() };
        assert_eq!(world.stage(&source, &target).unwrap_err().kind, ErrorKind::Invalid);
    }
}

#[test]
fn wal_under_an_open_writer_is_copied_with_what_is_still_in_the_wal() {
    let world = World::with_rows("wal", 300);
    let writer = writer(&world.path, Duration::from_millis(1));
    let dumped = world.driver.dump(&cx(), &world.objects, &[]).unwrap();
    assert!(finding(&dumped).contains("not blocked"), "{}", finding(&dumped));
    let source = manifest_of("db", &dumped);
    writer.stop();
    let rows = sqlite_facts(&source).tables[0].rows;
    assert!(rows >= 300 && rows.is_multiple_of(2), "{rows}");
    // Reading a WAL candidate leaves nothing beside it.
    let member = world.beside(&source);
    assert_eq!(world.verify(&member, &source), Vec::<String>::new());
    let answer = world.driver.query(&cx(), Some(&member), &question("SELECT count(*) FROM t")).unwrap();
    assert_eq!(answer[0][0], Some(rows.to_string()));
    assert_eq!(open::sidecars(Path::new(&member.place)).unwrap(), Vec::<PathBuf>::new());
    assert!(open::is_wal(&cx(), Path::new(&member.place)).unwrap());
}

#[test]
fn rollback_mode_under_writes_is_copied_in_one_step_or_in_steps() {
    let world = World::with_rows("delete", 200_000);
    let mut driver = SqliteDriver::new("db", SqliteSource { path: world.path.clone(), lock_budget_ms: 3_000 });
    let busy = writer(&world.path, Duration::from_millis(2));
    let dumped = driver.dump(&cx(), &world.objects, &[]).unwrap();
    assert!(finding(&dumped).contains("in one step, with writers blocked"), "{}", finding(&dumped));
    busy.stop();
    // Above the budget, but quiet between the steps.
    driver.binding.lock_budget_ms = 0;
    let quiet = writer(&world.path, Duration::from_secs(2));
    let dumped = driver.dump(&cx(), &world.objects, &[]).unwrap();
    quiet.stop();
    assert!(finding(&dumped).contains("steps"), "{}", finding(&dumped));
    assert_eq!(sqlite_facts(&manifest_of("db", &dumped)).tables[0].rows % 2, 0);
}

#[test]
fn a_copy_that_writers_never_let_finish_says_so() {
    let world = World::new();
    let conn = world.open();
    conn.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT); CREATE TABLE blobs (b)").unwrap();
    // Several steps of 8 MiB.
    conn.execute("INSERT INTO blobs SELECT randomblob(40000000)", []).unwrap();
    let driver = SqliteDriver::new("db", SqliteSource { path: world.path.clone(), lock_budget_ms: 0 });
    // A commit between any two steps, however slow the machine.
    let mut written = StepContext::detached("t", Duration::from_secs(2));
    let conn = std::sync::Mutex::new(conn);
    written.progress = Arc::new(move |_| insert(&conn.lock().unwrap(), 1));
    let error = driver.dump(&written, &world.objects, &[]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
    assert!(error.message.contains("did not come to an end"), "{error}");
    assert!(!error.message.contains("start over 0 times"), "{error}");
    assert!(error.hint.unwrap().contains("lock-budget-ms"));
    assert_eq!(world.objects.len(), 0);
}

#[test]
fn a_lock_held_over_budget_is_given_up() {
    let world = World::new();
    let conn = world.open();
    conn.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT); CREATE TABLE blobs (b)").unwrap();
    conn.execute("INSERT INTO blobs SELECT randomblob(60000000)", []).unwrap();
    let live = open::live(&cx(), &world.path).unwrap();
    let spooled = tempfile::NamedTempFile::new().unwrap();
    // The estimate says 600 ms; progress is made slow enough to need longer.
    let mut slow = cx();
    slow.progress = Arc::new(|_| std::thread::sleep(Duration::from_millis(200)));
    let copied = copy::copy(&slow, &live, &world.path, spooled.path(), Duration::from_millis(650), "copy").unwrap();
    assert!(copied.finding.message.contains("until the lock budget was used up"), "{}", copied.finding.message);
}

#[test]
fn cancelling_ends_a_copy() {
    let world = World::with_rows("delete", 100);
    let cancelled = cx();
    cancelled.cancelled.store(true, Ordering::Relaxed);
    assert_eq!(world.driver.dump(&cancelled, &world.objects, &[]).unwrap_err().kind, ErrorKind::Cancelled);
}

#[test]
fn what_is_no_database_is_refused_and_never_made() {
    let world = World::new();
    let all = |kind: ErrorKind, text: &str| {
        for error in [
            world.driver.check(&cx()).unwrap_err(),
            world.driver.dump(&cx(), &world.objects, &[]).unwrap_err(),
            world.driver.query(&cx(), None, &question("SELECT 1")).unwrap_err(),
        ] {
            assert_eq!(error.kind, kind, "{error}");
            assert!(error.message.contains(text), "{error}");
        }
    };
    all(ErrorKind::NotFound, "no SQLite file");
    assert!(world.names().is_empty());
    std::fs::write(&world.path, b"").unwrap();
    all(ErrorKind::Failed, "is empty");
    std::fs::write(&world.path, [b'x'; 9000]).unwrap();
    all(ErrorKind::Failed, "not an SQLite database");
    std::fs::remove_file(&world.path).unwrap();
    std::fs::create_dir(&world.path).unwrap();
    all(ErrorKind::Invalid, "not a regular file");
    assert_eq!(world.names(), ["live.sqlite"]);
    // A member that is gone is not made either.
    let gone = Member {
        source: "db".into(),
        place: world.dir.path().join("gone").display().to_string(),
        identity: Identity::new(),
        beside: true,
        data_only: None,
    };
    assert!(world.driver.query(&cx(), Some(&gone), &question("SELECT 1")).is_err());
    assert!(world.driver.execute(&cx(), &gone, &["CREATE TABLE x (y)".into()]).is_err());
    assert_eq!(world.names(), ["live.sqlite"]);
}

#[test]
fn damage_is_found_when_dumping() {
    let world = World::with_rows("delete", 20_000);
    let good = std::fs::read(&world.path).unwrap();
    std::fs::write(&world.path, &good[..good.len() / 2]).unwrap();
    assert!(world.driver.dump(&cx(), &world.objects, &[]).is_err());
    let mut flipped = good.clone();
    let middle = good.len() / 8192 * 4096;
    flipped[middle..middle + 64].fill(0xff);
    std::fs::write(&world.path, flipped).unwrap();
    let error = world.driver.dump(&cx(), &world.objects, &[]).unwrap_err();
    assert!(error.message.contains("damaged"), "{error}");
    assert_eq!(world.objects.len(), 0);
}

#[test]
fn damage_is_found_when_verifying() {
    let world = World::with_rows("delete", 20_000);
    let source = world.dump();
    let member = world.beside(&source);
    let place = Path::new(&member.place);
    let good = std::fs::read(place).unwrap();
    let damaged = |bytes: &[u8]| {
        // In place: the identity stays.
        std::fs::write(place, bytes).unwrap();
        world.verify(&member, &source)
    };
    let note = good.windows(10).position(|w| w == b"note 10000").unwrap();
    let mut flipped = good.clone();
    flipped[note] ^= 1;
    assert_eq!(damaged(&flipped), ["content-hash"], "one bit in a text");
    let mut page = good.clone();
    page[note / 4096 * 4096..][..100].fill(0xff);
    assert!(damaged(&page).contains(&"integrity".to_owned()));
    assert!(damaged(&good[..good.len() / 2]).contains(&"integrity".to_owned()));
    assert_eq!(damaged(b""), ["integrity"]);
    assert_eq!(damaged(&[b'x'; 5000]), ["integrity"]);
    assert_eq!(damaged(&good), Vec::<String>::new());
}

#[test]
fn deviations_are_named() {
    let world = World::with_rows("delete", 3);
    world.open().execute_batch("CREATE TABLE gone (a); CREATE TABLE same (a); INSERT INTO same VALUES (1)").unwrap();
    let source = world.dump();
    let member = world.beside(&source);
    let run = |sql: &str| world.driver.execute(&cx(), &member, &[sql.to_owned()]).unwrap();
    run("UPDATE same SET a = '1'");
    assert_eq!(world.verify(&member, &source), ["content-hash"], "a text is not a number");
    run("DELETE FROM t WHERE id = 2; DROP TABLE gone; CREATE TABLE added (a)");
    run("PRAGMA user_version = 9");
    let mut rules = world.verify(&member, &source);
    rules.sort();
    assert_eq!(rules, ["content-hash", "row-count", "schema", "schema", "schema", "table-missing"]);
}

#[test]
fn unusual_databases_are_read() {
    let world = World::new();
    let conn = world.open();
    conn.execute_batch(
        r#"PRAGMA page_size = 65536; PRAGMA encoding = 'UTF-16le';
           CREATE TABLE "od""d name" ("select" TEXT, "a b" REAL, g AS (no_such_thing) VIRTUAL, no_such_thing, s AS ("a b" + 1) STORED);
           INSERT INTO "od""d name" VALUES ('ü', 0.5, NULL), (NULL, -1e300, x'00');
           CREATE VIRTUAL TABLE search USING fts5(body); INSERT INTO search VALUES ('some words');
           CREATE TABLE seq (id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO seq DEFAULT VALUES;
           CREATE INDEX covering ON "od""d name" ("select", "a b", no_such_thing);
           CREATE VIEW v AS SELECT 1"#,
    )
    .unwrap();
    drop(conn);
    let dumped = world
        .driver
        .dump(&cx(), &world.objects, &[question("SELECT body FROM search WHERE search MATCH 'words'")])
        .unwrap();
    assert_eq!(dumped.answers["q"], vec![vec![Some("some words".to_owned())]]);
    assert!(dumped.findings.iter().any(|f| f.rule == "virtual-table" && f.message.contains("search")));
    let source = manifest_of("db", &dumped);
    let facts = sqlite_facts(&source);
    assert_eq!(facts.page_bytes, 65536);
    let names: Vec<_> = facts.tables.iter().map(|t| t.name.as_str()).collect();
    assert!(
        names.contains(&"od\"d name") && names.contains(&"sqlite_sequence") && names.contains(&"search_content"),
        "{names:?}"
    );
    assert_eq!(world.verify(&world.beside(&source), &source), Vec::<String>::new());
}

#[test]
fn equal_rows_count_and_order_does_not() {
    let hash = |sql: &str| {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&format!("CREATE TABLE t (a, b); {sql}")).unwrap();
        facts::read(&conn, "memory").unwrap().tables[0].hash.clone()
    };
    assert_eq!(hash("INSERT INTO t VALUES (1, 2), (3, 4)"), hash("INSERT INTO t VALUES (3, 4), (1, 2)"));
    let different = [
        "",
        "INSERT INTO t VALUES (1, 2), (1, 2)",
        "INSERT INTO t VALUES (1, 2)",
        "INSERT INTO t VALUES (2, 1)",
        "INSERT INTO t VALUES (1, 2.0)",
        "INSERT INTO t VALUES (1, '2')",
        "INSERT INTO t VALUES (1, x'32')",
        "INSERT INTO t VALUES ('ab', 'c')",
        "INSERT INTO t VALUES ('a', 'bc')",
        "INSERT INTO t VALUES (1, NULL)",
        "INSERT INTO t VALUES (1, '')",
        "INSERT INTO t VALUES (1, x'')",
    ];
    let hashes: std::collections::BTreeSet<String> = different.iter().map(|sql| hash(sql)).collect();
    assert_eq!(hashes.len(), different.len());
    // A frozen vector: the format is documented in `facts.rs`, and manifests live long.
    assert_eq!(hash("INSERT INTO t VALUES (1, 'a')"), "75b0408bfec3b673e72a82b31c9a7219");
}
