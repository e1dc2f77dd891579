//! What statements of the environment may do.

use super::*;

#[test]
fn questions_only_read_and_are_bounded() {
    let world = World::with_rows("delete", 10);
    let before = std::fs::read(&world.path).unwrap();
    let outside = world.dir.path().join("outside").display().to_string();
    let hostile = [
        "DELETE FROM t".to_owned(),
        "SELECT 1; SELECT 2".to_owned(),
        String::new(),
        "BEGIN".to_owned(),
        "PRAGMA journal_mode = wal".to_owned(),
        "PRAGMA user_version = 9".to_owned(),
        format!("ATTACH '{outside}' AS o"),
        format!("VACUUM INTO '{outside}'"),
        "SELECT load_extension('x')".to_owned(),
        "CREATE TEMP TABLE x (y)".to_owned(),
        "SELECT id FROM t".to_owned(),
        "SELECT nonsense".to_owned(),
    ];
    for sql in &hostile {
        assert!(world.driver.query(&cx(), None, &question(sql)).is_err(), "{sql}");
    }
    assert_eq!(world.names(), ["live.sqlite"]);
    assert_eq!(std::fs::read(&world.path).unwrap(), before);
    let three = world.driver.query(&cx(), None, &question("SELECT id FROM t LIMIT 3")).unwrap();
    assert_eq!(three.len(), 3);
    let began = Instant::now();
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    let error = world
        .driver
        .query(&StepContext::detached("t", Duration::from_millis(200)), None, &question(endless))
        .unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[test]
fn quarantine_is_one_transaction_on_the_candidate() {
    let world = World::with_rows("wal", 10);
    let source = world.dump();
    let member = world.beside(&source);
    let outside = world.dir.path().join("outside").display().to_string();
    let run =
        |sql: &[&str]| world.driver.execute(&cx(), &member, &sql.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
    for bad in [
        "nonsense",
        "COMMIT",
        "ROLLBACK",
        "SAVEPOINT x",
        &format!("ATTACH '{outside}' AS o"),
        "VACUUM",
        "PRAGMA journal_mode = off",
    ] {
        assert!(run(&["DELETE FROM t", bad]).is_err(), "{bad}");
        assert_eq!(count(Path::new(&member.place)), 10, "{bad}");
    }
    run(&["DELETE FROM t WHERE id > 4", "UPDATE t SET note = 'quiet'"]).unwrap();
    assert_eq!(count(Path::new(&member.place)), 4);
    assert_eq!(open::sidecars(Path::new(&member.place)).unwrap(), Vec::<PathBuf>::new());
    let live = Member {
        place: world.path.display().to_string(),
        identity: exchange::identity(&world.path).unwrap().unwrap(),
        ..member
    };
    assert_eq!(world.driver.execute(&cx(), &live, &["DELETE FROM t".into()]).unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(world.driver.discard(&cx(), &live).unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(world.live_rows(), 10);
}

#[test]
fn texts_that_are_no_json_are_counted_and_the_first_is_named() {
    let world = World::with_rows("delete", 0);
    let ask = |rows: &str| {
        let sql = format!("SELECT * FROM (VALUES {rows}) ORDER BY 1");
        world.driver.query(&cx(), None, &Question { not_json: true, rows_max: 1, ..question(&sql) }).unwrap()
    };
    assert_eq!(ask("(1, '{}'), (2, '[1]'), (3, NULL)"), [[Some("0".to_owned())]]);
    assert_eq!(ask("(1, '{}'), (2, '{\"a\":'), (3, '')"), [[Some("2".to_owned()), Some("2".to_owned())]]);
}
