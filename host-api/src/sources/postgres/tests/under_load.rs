//! Promotions and restores while others use the server, or while it can take no more.

use std::process::Stdio;
use std::time::Instant;

use super::super::sql;
use super::*;

/// A live database `name` with `rows` rows, and a whole candidate from before one more was added.
fn with_candidate(server: &PgServer, name: &str, rows: u32) -> (PostgresDriver, Member) {
    server.create(name);
    server.sql(
        name,
        &[
            "CREATE TABLE t(a int, b text)",
            &format!("INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, {rows}) i"),
        ],
    );
    let driver = driver(server.source(name));
    let taken = take(&driver, &[]);
    let member = stage(&driver, &taken).unwrap();
    assert_eq!(verify(&driver, &member, &taken).findings, []);
    server.sql(name, &["INSERT INTO t VALUES (0, 'newer')"]);
    (driver, member)
}

/// What a client that comes again and again saw, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Saw {
    Live,
    Promoted,
    Nothing,
}

#[test]
fn clients_see_one_outage_at_most_and_then_the_promoted_data() {
    let server = server!();
    let (driver, member) = with_candidate(&server, "loaded", 1000);
    let swap = driver.plan_swap(&cx(), &member).unwrap();
    let ask = || {
        let out = server.psql("loaded").args(["-c", "SELECT count(*) FROM t"]).output().unwrap();
        match (out.status.success(), String::from_utf8_lossy(&out.stdout).trim()) {
            (true, "1001") => Saw::Live,
            (true, "1000") => Saw::Promoted,
            (true, other) => panic!("neither the one nor the other: {other}"),
            (false, _) => Saw::Nothing,
        }
    };
    let (seen, outage) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    let mut seen = Vec::new();
                    // Once more after it was promoted.
                    while !seen.ends_with(&[Saw::Promoted]) && seen.len() < 5_000 {
                        seen.push(ask());
                    }
                    seen
                })
            })
            .collect();
        // A session that stays, as a service's pool has them.
        let mut pooled =
            server.psql("loaded").args(["-c", "SELECT pg_sleep(100)"]).stderr(Stdio::null()).spawn().unwrap();
        let active = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'loaded' AND query LIKE '%pg_sleep(100)' AND state = 'active'";
        assert!(crate::child::wait_until(&cx(), Duration::from_secs(20), || server.sql("postgres", &[active]) == "1"));
        let began = Instant::now();
        driver.promote(&cx(), &member, &swap).unwrap();
        let took = began.elapsed();
        assert!(!pooled.wait().unwrap().success(), "it was ended");
        (clients.into_iter().map(|client| client.join().unwrap()).collect::<Vec<_>>(), took)
    });
    for mut seen in seen {
        seen.dedup();
        let good: &[&[Saw]] = &[
            &[Saw::Live, Saw::Promoted],
            &[Saw::Live, Saw::Nothing, Saw::Promoted],
            &[Saw::Nothing, Saw::Promoted],
            &[Saw::Promoted],
        ];
        assert!(good.contains(&seen.as_slice()), "{seen:?}");
    }
    eprintln!("the promotion took {outage:?}");
    driver.undo(&cx(), &swap).unwrap();
    assert_eq!(ask(), Saw::Live);
}

#[test]
fn a_session_that_does_not_end_leaves_the_live_database_there_and_open() {
    let server = server!();
    let (driver, member) = with_candidate(&server, "stubborn", 10);
    let swap = driver.plan_swap(&cx(), &member).unwrap();
    let mut client =
        server.psql("stubborn").args(["-c", "SELECT pg_sleep(100)"]).stderr(Stdio::null()).spawn().unwrap();
    let backend = "SELECT pid FROM pg_stat_activity WHERE datname = 'stubborn' AND query LIKE '%pg_sleep(100)' AND state = 'active'";
    assert!(crate::child::wait_until(&cx(), Duration::from_secs(20), || !server
        .sql("postgres", &[backend])
        .is_empty()));
    // A backend that hears nothing, as one that waits for a dead disk.
    let pid: i32 = server.sql("postgres", &[backend]).parse().unwrap();
    let signal = |signal| rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
    signal(rustix::process::Signal::STOP);
    let error = driver.promote(&cx(), &member, &swap).unwrap_err();
    let names = server.sql("postgres", &["SELECT datname || ' ' || datallowconn FROM pg_database WHERE datname = 'stubborn' OR starts_with(datname, 'lb_') ORDER BY 1"]);
    signal(rustix::process::Signal::CONT);
    let _ = client.kill();
    client.wait().unwrap();
    assert!(error.hint.is_some(), "{error}");
    assert!(names.contains("stubborn true") && names.contains(&format!("{} true", member.place)), "{error}: {names}");
    assert_eq!(server.sql("stubborn", &["SELECT count(*) FROM t"]), "11");
    // Gone, it is promoted.
    assert!(crate::child::wait_until(&cx(), Duration::from_secs(20), || server.sql("postgres", &[backend]).is_empty()));
    driver.promote(&cx(), &member, &swap).unwrap();
    assert_eq!(server.sql("stubborn", &["SELECT count(*) FROM t"]), "10");
}

#[test]
fn a_full_disk_while_staging_leaves_the_live_database_and_nothing_else() {
    // Its own: while a disk is full, no checkpoint of the server comes to its end, and so no DROP DATABASE of another test.
    let Some(server) = PgServer::start() else { return };
    let place = tempfile::Builder::new().prefix("lb-small-").tempdir_in("/tmp").unwrap();
    let Some(mount) = Mounted::tmpfs(place.path(), "24m") else {
        eprintln!("SKIPPED: a tmpfs can't be mounted here (not root?). A full disk was NOT tested.");
        return;
    };
    server.create("filling");
    server.sql(
        "filling",
        &[
            "CREATE TABLE t(a int, b text)",
            "INSERT INTO t SELECT i, repeat(md5(i::text), 30) FROM generate_series(1, 40000) i",
        ],
    );
    let live = driver(server.source("filling"));
    let taken = take(&live, &[]);
    // Where it is restored there is less room than it takes: the live database's tablespace is what candidates go to.
    let inside = place.path().join("space");
    std::fs::create_dir(&inside).unwrap();
    let owner = std::fs::metadata(server.data_dir()).unwrap();
    std::os::unix::fs::chown(&inside, Some(std::os::unix::fs::MetadataExt::uid(&owner)), None).unwrap();
    std::os::unix::fs::chown(place.path(), Some(std::os::unix::fs::MetadataExt::uid(&owner)), None).unwrap();
    server.sql(
        "postgres",
        &[&format!("CREATE TABLESPACE lb_small LOCATION {}", sql::literal(&inside.display().to_string()))],
    );
    server.sql("postgres", &["CREATE DATABASE small TEMPLATE template0 TABLESPACE lb_small"]);
    server.sql("small", &["CREATE TABLE here(a int)", "INSERT INTO here VALUES (7)"]);
    let target = driver(server.source("small"));
    let error = stage(&target, &taken).unwrap_err();
    assert!(error.message.contains("No space left on device"), "{error}");
    assert_eq!(server.sql("small", &["SELECT a FROM here"]), "7");
    let left = "SELECT count(*) FROM pg_database WHERE starts_with(datname, 'lb_') AND dattablespace = (SELECT oid FROM pg_tablespace WHERE spcname = 'lb_small')";
    assert_eq!(server.sql("postgres", &[left]), "0");
    server.sql("postgres", &["DROP DATABASE small"]);
    server.sql("postgres", &["DROP TABLESPACE lb_small"]);
    drop(mount);
}

/// A small file system in memory, gone with this value.
struct Mounted<'a>(&'a std::path::Path);

impl<'a> Mounted<'a> {
    fn tmpfs(place: &'a std::path::Path, size: &str) -> Option<Self> {
        let size = format!("size={size}");
        let mounted =
            std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(place).status();
        mounted.is_ok_and(|status| status.success()).then_some(Self(place))
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg(self.0).status();
    }
}
