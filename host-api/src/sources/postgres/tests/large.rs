//! A gigabyte of large values. Takes minutes and some gigabytes of disk: only with `LIFEBOAT_TEST_LARGE=1`.

use super::*;
use crate::sources::testing::DiskObjects;

/// Most memory that this process has had, bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_gigabyte_of_large_values_comes_back_and_one_changed_byte_is_found() {
    if std::env::var_os("LIFEBOAT_TEST_LARGE").is_none() {
        eprintln!("SKIPPED: LIFEBOAT_TEST_LARGE is not set. A gigabyte of large values was NOT tested.");
        return;
    }
    let Some(server) = PgServer::start() else { return };
    server.create("heavy");
    server.sql(
        "heavy",
        &[
            "CREATE TABLE values_of(id int PRIMARY KEY, body text, raw bytea)",
            "ALTER TABLE values_of ALTER body SET STORAGE EXTERNAL, ALTER raw SET STORAGE EXTERNAL",
            // 800 of a megabyte of text, and one each of 200 MB, as text and as bytes, which are twice that in a dump.
            "INSERT INTO values_of SELECT i, repeat(md5(i::text), 32768), NULL FROM generate_series(1, 800) i",
            "INSERT INTO values_of VALUES (801, repeat(md5('x'), 6250000), NULL), (802, NULL, convert_to(repeat(md5('y'), 6250000), 'UTF8'))",
        ],
    );
    let driver = driver(server.source("heavy"));
    let cx = StepContext::detached(&crate::identifier::fresh(), Duration::from_secs(1800));
    let before = peak();
    let disk = DiskObjects::new();
    let dumped = driver.dump(&cx, &disk, &[]).unwrap();
    let plain = dumped.objects[0].plain_bytes;
    assert!(plain > 1_300_000_000, "{plain}");
    let source = manifest(&dumped);
    let id = crate::identifier::fresh();
    let member =
        driver.stage(&cx, &source, &disk, &id, &Target::Beside, &StageOptions { jobs: 2, data_only: false }).unwrap();
    let verified = driver.verify(&cx, &member, &source, &disk, &[]).unwrap();
    assert_eq!((verified.rows, rules(&verified)), (802, vec![]));
    let grown = peak() - before;
    assert!(grown < 64 * 1024 * 1024, "memory of this process grew by {grown} bytes over a value of 400 MB");
    server.sql(&member.place, &["UPDATE values_of SET raw = set_byte(raw, 123456789, 7) WHERE id = 802"]);
    let verified = driver.verify(&cx, &member, &source, &disk, &[]).unwrap();
    assert!(!verified.findings.is_empty());
    driver.discard(&cx, &member).unwrap();
}
