//! Two gigabytes under writes. Takes minutes and some gigabytes of disk: only with `LIFEBOAT_TEST_LARGE=1`.

use super::*;
use crate::context::StepContext;
use crate::sources::testing::DiskObjects;

#[test]
fn two_gigabytes_under_writes_are_copied_whole() {
    if std::env::var_os("LIFEBOAT_TEST_LARGE").is_none() {
        eprintln!("SKIPPED: LIFEBOAT_TEST_LARGE is not set. Two gigabytes under writes were NOT tested.");
        return;
    }
    let cx = StepContext::detached("large", Duration::from_secs(1800));
    // Writers that commit all the time make a copy in steps start over: it ends with its time, and says so.
    let within = StepContext::detached("large", Duration::from_secs(60));
    for mode in ["wal", "delete"] {
        let mut world = World::with_rows(mode, 300);
        let conn = world.open();
        // Checkpoints as services have them; a journal that is not flushed fills faster, and nothing here crashes.
        conn.execute_batch("PRAGMA synchronous = OFF; CREATE TABLE heavy (id INTEGER PRIMARY KEY, body BLOB)").unwrap();
        for _ in 0..21 {
            conn.execute_batch(
                "INSERT INTO heavy (body) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) \
                 SELECT randomblob(1024 * 1024) FROM n",
            )
            .unwrap();
        }
        drop(conn);
        let writer = writer(&world.path, Duration::from_millis(20));
        let objects = DiskObjects::new();
        let dumped = match mode {
            "wal" => world.driver.dump(&cx, &objects, &[]).unwrap(),
            _ => {
                let error = world.driver.dump(&within, &objects, &[]).unwrap_err();
                assert!(error.message.contains("writers made the copy start over"), "{error}");
                assert!(error.hint.unwrap().contains("lock-budget-ms"));
                // A budget that is larger than the copy takes holds writers up, as that hint says, and comes to an end.
                world.driver.binding.lock_budget_ms = 600_000;
                world.driver.dump(&cx, &objects, &[]).unwrap()
            }
        };
        let written = writer.stop();
        let source = manifest_of("db", &dumped);
        assert!(source.objects[0].plain_bytes > 2 * 1024 * 1024 * 1024, "{mode}: {}", source.objects[0].plain_bytes);
        assert!(written > 0, "{mode}: nobody wrote meanwhile");
        let rows = sqlite_facts(&source).tables.iter().find(|table| table.name == "t").unwrap().rows;
        assert!(rows >= 300 && rows.is_multiple_of(2), "{mode}: {rows}");
        println!("{mode}: {}; {written} rows written meanwhile", finding(&dumped));
        let member = world.driver.stage(&cx, &source, &objects, ID, &Target::Beside, &StageOptions::default()).unwrap();
        let verified = world.driver.verify(&cx, &member, &source, &objects, &[]).unwrap();
        assert_eq!((verified.findings, verified.rows), (vec![], rows + 2100), "{mode}");
        world.driver.discard(&cx, &member).unwrap();
        assert_eq!(world.names(), ["live.sqlite"], "{mode}");
    }
}
