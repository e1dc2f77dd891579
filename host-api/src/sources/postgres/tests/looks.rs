//! What `lifeboat check` sees of a server: each thing that can be wrong, made wrong for real, and silence where all is well.

use std::path::PathBuf;

use super::*;
use crate::checks::{Aspect, Level, Seen};
use crate::error::ErrorKind;
use crate::identifier::now_ms;

const ALL: [Aspect; 7] = [
    Aspect::Reachable,
    Aspect::Tools,
    Aspect::MayRead,
    Aspect::MayRestore,
    Aspect::MayPromote,
    Aspect::Space,
    Aspect::Clock,
];

fn look(source: &PostgresSource, aspect: Aspect) -> Result<Seen> {
    driver(source.clone()).look(&cx(), aspect, &now_ms)
}

#[track_caller]
fn seen(source: &PostgresSource, aspect: Aspect) -> Seen {
    look(source, aspect).unwrap_or_else(|e| panic!("{aspect:?}: {e}"))
}

#[track_caller]
fn critical(source: &PostgresSource, aspect: Aspect, words: &[&str]) {
    let seen = seen(source, aspect);
    assert_eq!(seen.level, Level::Critical, "{seen:?}");
    for word in words {
        assert!(seen.message.contains(word), "says nothing of {word:?}: {seen:?}");
    }
    assert!(!seen.fix.is_empty(), "{seen:?}");
}

/// A database of a role's own, both of this name; the role logs in over the socket.
fn of_a_role(server: &PgServer, name: &str) -> PostgresSource {
    server.sql("postgres", &[&format!("CREATE ROLE {name} LOGIN CREATEDB")]);
    server.sql("postgres", &[&format!("CREATE DATABASE {name} OWNER {name} TEMPLATE template0")]);
    let source = PostgresSource { user: name.into(), ..server.source(name) };
    assert_eq!(driver(source.clone()).aspects(), ALL);
    source
}

#[test]
fn a_role_with_its_own_database_can_do_all_and_nothing_of_a_look_is_left() {
    let server = server!();
    let source = of_a_role(&server, "looks_own");
    let create = "SET ROLE looks_own; CREATE TABLE t (id serial PRIMARY KEY)";
    server.sql("looks_own", &[create]);
    for aspect in ALL.into_iter().filter(|aspect| *aspect != Aspect::Space) {
        let seen = seen(&source, aspect);
        assert_eq!(seen.level, Level::Ok, "{aspect:?}: {seen:?}");
    }
    // Where its files are, an ordinary role may not ask: so nobody says that there is room.
    let space = seen(&source, Aspect::Space);
    assert!(space.level == Level::Unknown && space.message.contains("may not read where its files are"), "{space:?}");
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'looks_own'";
    crate::child::wait_until(&cx(), Duration::from_secs(60), || server.sql("postgres", &[sessions]) == "0");
    assert_eq!(server.sql("postgres", &[sessions]), "0");
    let owned = "SELECT string_agg(datname, ' ') FROM pg_database WHERE pg_get_userbyid(datdba) = 'looks_own'";
    assert_eq!(server.sql("postgres", &[owned]), "looks_own");
}

#[test]
fn room_on_the_server_shows_only_where_its_files_are_known_to_be_its_own() {
    let server = server!();
    server.create("looks_space");
    let source = server.source("looks_space");
    let space = seen(&source, Aspect::Space);
    // Another user's data directory can't be looked into, so nothing says whose it is.
    let readable = std::fs::read(format!("{}/postmaster.pid", server.data_dir())).is_ok();
    assert_eq!(space.level, if readable { Level::Ok } else { Level::Unknown }, "{space:?}");
    assert_eq!(space.measures.len(), usize::from(readable));
    for elsewhere in [
        PostgresSource { host: "db.example".into(), ..source.clone() },
        PostgresSource { prefix: vec!["nice".into()], ..source },
    ] {
        // What is behind a prefix is asked; a host that is not there is not.
        match look(&elsewhere, Aspect::Space) {
            Ok(space) => assert!(space.level == Level::Unknown && space.message.contains("not this machine's")),
            Err(e) => assert!(elsewhere.host == "db.example", "{e}"),
        }
    }
}

#[test]
fn each_right_that_is_missing_is_named() {
    let server = server!();
    server.sql("postgres", &["CREATE ROLE looks_poor LOGIN"]);
    server.create("looks_rights");
    let source = PostgresSource { user: "looks_poor".into(), ..server.source("looks_rights") };
    server.sql(
        "looks_rights",
        &["CREATE TABLE mine (id int)", "CREATE SEQUENCE counter", "REVOKE ALL ON mine FROM PUBLIC"],
    );
    critical(&source, Aspect::MayRead, &["public.counter, public.mine", "no right to select"]);
    critical(&source, Aspect::MayRestore, &["may not make databases", "no member of roles that own tables: postgres"]);
    critical(&source, Aspect::MayPromote, &["does not own database looks_rights", "may not rename databases"]);

    // All granted, and rows are still hidden: pg_dump would end with an error, or write half of them.
    server.sql("looks_rights", &["GRANT SELECT ON ALL TABLES IN SCHEMA public TO looks_poor"]);
    server.sql("looks_rights", &["GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO looks_poor"]);
    assert_eq!(seen(&source, Aspect::MayRead).level, Level::Ok);
    server.sql("looks_rights", &["ALTER TABLE mine ENABLE ROW LEVEL SECURITY"]);
    critical(&source, Aspect::MayRead, &["public.mine", "row security hides rows"]);
    server.sql("looks_rights", &["ALTER TABLE mine DISABLE ROW LEVEL SECURITY"]);
    server.sql(
        "looks_rights",
        &["CREATE SCHEMA closed", "CREATE TABLE closed.t (id int)", "GRANT SELECT ON closed.t TO looks_poor"],
    );
    critical(&source, Aspect::MayRead, &["closed.t", "no right to use its schema"]);
    server.sql("looks_rights", &["DROP SCHEMA closed CASCADE", "SELECT lo_create(4711)"]);
    critical(&source, Aspect::MayRead, &["1 large objects belong to others"]);
}

#[test]
fn sessions_of_others_and_what_hangs_on_the_database_stand_in_the_way_of_a_promotion() {
    let server = server!();
    let source = of_a_role(&server, "looks_promote");
    assert_eq!(seen(&source, Aspect::MayPromote).level, Level::Ok);
    let mut other = server.psql("looks_promote");
    let mut other = other.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let there = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'looks_promote' AND usename = 'postgres'";
    assert!(crate::child::wait_until(&cx(), Duration::from_secs(60), || server.sql("postgres", &[there]) == "1"));
    // It passes, as a rule; one of a role that is no superuser and that ours may not signal does not.
    let passing = seen(&source, Aspect::MayPromote);
    assert!(passing.level == Level::Warning && passing.message.contains("sessions of role postgres"), "{passing:?}");
    drop(other.stdin.take());
    other.wait().unwrap();
    server.sql("postgres", &["CREATE ROLE looks_other LOGIN"]);
    let mut other = server.psql("looks_promote");
    other.args(["-U", "looks_other"]);
    let mut other = other.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    let there = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'looks_promote' AND usename = 'looks_other'";
    assert!(crate::child::wait_until(&cx(), Duration::from_secs(60), || server.sql("postgres", &[there]) == "1"));
    critical(&source, Aspect::MayPromote, &["sessions of role looks_other", "can't be ended"]);
    drop(other.stdin.take());
    other.wait().unwrap();
    server.sql(
        "looks_promote",
        &["CREATE TABLE t (id int)", "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'looks'"],
    );
    critical(&source, Aspect::MayPromote, &["prepared transactions stop the rename"]);
    server.sql("looks_promote", &["ROLLBACK PREPARED 'looks'"]);
}

#[test]
fn an_extension_that_only_a_superuser_makes_stands_in_the_way_of_a_restore() {
    let server = server!();
    let source = of_a_role(&server, "looks_extension");
    assert_eq!(seen(&source, Aspect::MayRestore).level, Level::Ok);
    let there = "SELECT count(*) FROM pg_available_extensions WHERE name = 'pageinspect'";
    if server.sql("postgres", &[there]) != "1" {
        eprintln!("SKIPPED: this PostgreSQL has no contrib extensions. Nothing more was tested.");
        return;
    }
    server.sql("looks_extension", &["CREATE EXTENSION pageinspect"]);
    critical(&source, Aspect::MayRestore, &["only a superuser can make these extensions again: pageinspect"]);
}

#[test]
fn tools_that_are_missing_or_of_another_version_are_named() {
    let server = server!();
    server.create("looks_tools");
    let nowhere = tempfile::tempdir().unwrap();
    let mut source = server.source("looks_tools");
    source.bin_dir = Some(nowhere.path().into());
    let error = look(&source, Aspect::Tools).unwrap_err();
    assert!(error.kind == ErrorKind::NotFound && error.message.contains("psql was not found"), "{error}");
    // One of three.
    for tool in ["psql", "pg_dump"] {
        std::os::unix::fs::symlink(server.bin_dir.join(tool), nowhere.path().join(tool)).unwrap();
    }
    let error = look(&source, Aspect::Tools).unwrap_err();
    assert!(error.message.contains("pg_restore was not found"), "{error}");
    let Some(newer) = std::env::var_os("LIFEBOAT_PG_BIN_NEWER").map(PathBuf::from) else {
        eprintln!(
            "SKIPPED: no second, newer PostgreSQL: LIFEBOAT_PG_BIN_NEWER is not set (`cargo xtask test` sets it)"
        );
        return;
    };
    std::os::unix::fs::symlink(newer.join("pg_restore"), nowhere.path().join("pg_restore")).unwrap();
    let error = look(&source, Aspect::Tools).unwrap_err();
    assert!(error.kind == ErrorKind::Refused && error.message.starts_with("pg_restore is version "), "{error}");
}

#[test]
fn a_server_that_is_away_is_not_reachable_and_of_the_rest_nothing_is_known() {
    let Some(server) = PgServer::start() else { return };
    server.create("looks_away");
    let source = server.source("looks_away");
    assert_eq!(seen(&source, Aspect::Reachable).level, Level::Ok);
    let no_maintenance = PostgresSource { maintenance_database: "no_such".into(), ..source.clone() };
    let error = look(&no_maintenance, Aspect::Reachable).unwrap_err();
    assert!(error.kind == ErrorKind::NotFound && error.message.contains("no_such"), "{error}");
    server.stop();
    assert!(look(&source, Aspect::Reachable).unwrap_err().message.contains("no server answers"));
    let tools = seen(&source, Aspect::Tools);
    assert!(tools.level == Level::Unknown && tools.message.contains("whether they fit"), "{tools:?}");
}

#[test]
fn a_clock_that_is_not_the_servers_is_seen() {
    let server = server!();
    server.create("looks_clock");
    let driver = driver(server.source("looks_clock"));
    let an_hour = 3_600_000;
    for (clock, level, words) in [
        (&now_ms as &dyn Fn() -> u64, Level::Ok, "is ours"),
        (&|| now_ms() + 10_000, Level::Warning, "behind ours"),
        (&|| now_ms() - an_hour, Level::Critical, "ahead of ours"),
    ] {
        let seen = driver.look(&cx(), Aspect::Clock, clock).unwrap();
        assert!(seen.level == level && seen.message.contains(words), "{seen:?}");
        assert_eq!(seen.measures[0].label, "offset");
    }
}
