//! What can go wrong around a dump and a restore: each is noticed, says what to do, and leaves nothing behind.

use std::path::Path;
use std::sync::atomic::Ordering;

use super::*;
use crate::bindings::Secret;
use crate::error::{Error, ErrorKind};
use crate::testing::write_program;

/// PostgreSQL's programs with one of them replaced by a script, in which `REAL` stands for the true one's directory.
pub(super) fn with_script(server: &PgServer, tool: &str, script: &str) -> tempfile::TempDir {
    let bin = tempfile::tempdir().unwrap();
    for name in ["psql", "pg_dump", "pg_dumpall", "pg_restore"].into_iter().filter(|name| *name != tool) {
        std::os::unix::fs::symlink(server.bin_dir.join(name), bin.path().join(name)).unwrap();
    }
    let real = server.bin_dir.display().to_string();
    let script = format!("#!/bin/sh\ncase \"$1\" in --version) exec {real}/{tool} --version;; esac\n{script}\n");
    write_program(&bin.path().join(tool), &script.replace("REAL", &real));
    bin
}

fn using(server: &PgServer, database: &str, bin: &Path) -> PostgresDriver {
    driver(PostgresSource { bin_dir: Some(bin.to_owned()), ..server.source(database) })
}

fn filled(server: &PgServer, database: &str) {
    server.create(database);
    server.sql(
        database,
        &[
            "CREATE TABLE t(a int PRIMARY KEY, b text)",
            "INSERT INTO t SELECT i, md5(i::text) FROM generate_series(1, 20000) i",
        ],
    );
}

/// The error has a hint, and this in its message.
#[track_caller]
fn expect(error: &Error, kind: ErrorKind, part: &str) {
    assert_eq!(error.kind, kind, "{error}");
    assert!(error.message.contains(part), "{error}");
    assert!(error.hint.is_some(), "{error}");
}

#[test]
fn connections_that_fail_say_why() {
    let server = server!();
    filled(&server, "known");
    let name = "al:ice \\'x";
    server.sql("postgres", &[&format!("CREATE ROLE \"{name}\" LOGIN PASSWORD 'pa:ss\\w=rd'")]);
    let secret = tempfile::NamedTempFile::new().unwrap();
    let over_tcp = PostgresSource {
        host: "127.0.0.1".into(),
        user: name.into(),
        password: Some(Secret { file: Some(secret.path().into()), ..Secret::default() }),
        ..server.source("known")
    };
    std::fs::write(secret.path(), "pa:ss\\w=rd\n").unwrap();
    driver(over_tcp.clone()).check(&cx()).unwrap();
    // The server has no TLS: what must be protected does not fall back.
    let protected = PostgresSource { ssl_mode: Some(crate::bindings::SslMode::Require), ..over_tcp.clone() };
    let error = driver(protected).check(&cx()).unwrap_err();
    assert!(error.message.contains("SSL"), "{error}");
    std::fs::write(secret.path(), "wr0ng-secret\n").unwrap();
    let error = driver(over_tcp.clone()).check(&cx()).unwrap_err();
    expect(&error, ErrorKind::Denied, "refuses the password");
    assert!(!error.to_string().contains("wr0ng"), "{error}");
    let error = driver(PostgresSource { password: None, ..over_tcp.clone() }).check(&cx()).unwrap_err();
    expect(&error, ErrorKind::Denied, "none is configured");
    let behind = |words: &[&str]| {
        let prefix = words.iter().map(|w| (*w).to_owned()).collect();
        driver(PostgresSource { prefix, ..over_tcp.clone() }).check(&cx()).unwrap_err()
    };
    expect(&behind(&["nice"]), ErrorKind::Denied, "refuses the password");
    expect(&behind(&["env", "-i"]), ErrorKind::Refused, "can't be handed through `env`");
    // A program of ours by the name of one that hands it on, and which does not.
    let deaf = tempfile::tempdir().unwrap();
    let sudo = deaf.path().join("sudo");
    write_program(&sudo, "#!/bin/sh\nshift\nexec env -i \"$@\"\n");
    expect(&behind(&[&sudo.display().to_string()]), ErrorKind::Denied, "and saw none");

    let error = driver(server.source("no such db")).check(&cx()).unwrap_err();
    expect(&error, ErrorKind::NotFound, "no such database");
    assert_eq!(driver(server.source("no such db")).live_identity(&cx()).unwrap(), None);
    let error = driver(server.source("host=/nowhere dbname=known")).check(&cx()).unwrap_err();
    expect(&error, ErrorKind::NotFound, "no such database");
    let error = driver(PostgresSource { user: "nobody".into(), ..server.source("known") }).check(&cx()).unwrap_err();
    expect(&error, ErrorKind::NotFound, "no such role");
    let error = driver(PostgresSource { port: 1, ..server.source("known") }).check(&cx()).unwrap_err();
    expect(&error, ErrorKind::Failed, "no server answers");
    let nothing = tempfile::tempdir().unwrap();
    let error = using(&server, "known", nothing.path()).check(&cx()).unwrap_err();
    expect(&error, ErrorKind::NotFound, "psql");
}

#[test]
fn other_versions_of_the_tools_are_refused() {
    let server = server!();
    filled(&server, "versions");
    for tool in ["pg_dump", "pg_restore"] {
        let bin = tempfile::tempdir().unwrap();
        for name in ["psql", "pg_dump", "pg_restore"].into_iter().filter(|name| *name != tool) {
            std::os::unix::fs::symlink(server.bin_dir.join(name), bin.path().join(name)).unwrap();
        }
        write_program(&bin.path().join(tool), &format!("#!/bin/sh\necho '{tool} (PostgreSQL) 99.1 (Debian 99.1-1)'\n"));
        let error = using(&server, "versions", bin.path()).check(&cx()).unwrap_err();
        expect(&error, ErrorKind::Refused, "version 99.1");
        assert!(error.hint.as_ref().unwrap().contains("bin-dir"));
        if tool == "pg_dump" {
            let objects = Memory::default();
            let error = using(&server, "versions", bin.path()).dump(&cx(), &objects, &[]).unwrap_err();
            expect(&error, ErrorKind::Refused, "version 99.1");
            assert!(objects.is_empty());
        }
    }

    // Backups of newer servers or tools than the target's.
    let driver = driver(server.source("versions"));
    let mut taken = take(&driver, &[]);
    let change = |taken: &mut Taken, act: &dyn Fn(&mut PostgresFacts)| {
        let SourceFacts::Postgres(facts) = &mut taken.manifest.facts else { panic!() };
        act(facts);
    };
    let good = taken.manifest.facts.clone();
    change(&mut taken, &|f| f.server_version_num = 990_001);
    expect(&stage(&driver, &taken).unwrap_err(), ErrorKind::Refused, "is of PostgreSQL 99");
    taken.manifest.facts = good.clone();
    change(&mut taken, &|f| f.dump_version = "99.1".into());
    expect(&stage(&driver, &taken).unwrap_err(), ErrorKind::Refused, "made by pg_dump 99.1");
    taken.manifest.facts = good;
    change(&mut taken, &|f| f.roles = vec!["postgres".into(), "not here".into()]);
    let error = stage(&driver, &taken).unwrap_err();
    expect(&error, ErrorKind::Refused, "\"not here\"");
    assert!(error.hint.as_ref().unwrap().contains("create role \"not here\""));
    let id = "99-refused-candidate";
    driver.stage(&cx(), &taken.manifest, &taken.objects, id, &Target::Beside, &StageOptions::default()).unwrap_err();
    assert_eq!(generated(&server, id), "");
}

/// Candidates of an id, as far as there are any.
pub(super) fn generated(server: &PgServer, id: &str) -> String {
    let prefix = format!("lb_{}", id.replace('-', "_"));
    server.sql("postgres", &[&format!("SELECT datname FROM pg_database WHERE starts_with(datname, '{prefix}')")])
}

#[test]
fn a_dump_that_is_not_whole_is_no_dump() {
    let server = server!();
    filled(&server, "cut");
    for (script, part) in [
        // The case a shell pipeline would take for success.
        ("REAL/pg_dump \"$@\" | head -c 300000; exit 0", "damaged"),
        ("exit 0", "wrote nothing"),
        ("REAL/pg_dump \"$@\" | head -c 300000; echo 'pg_dump: error: it broke' >&2; exit 1", "it broke"),
        ("REAL/pg_dump \"$@\" | head -c 300000; kill -9 $$", "signal 9"),
        ("REAL/pg_dump \"$@\" --inserts", "INSERT"),
        ("REAL/pg_dump \"$@\"; echo tail", "damaged"),
    ] {
        let bin = with_script(&server, "pg_dump", script);
        let objects = Memory::default();
        let error = using(&server, "cut", bin.path()).dump(&cx(), &objects, &[]).unwrap_err();
        assert!(error.message.contains(part), "{script}: {error}");
        assert!(objects.is_empty(), "{script}");
    }
    let bin = with_script(&server, "pg_dump", "echo 'pg_dump: warning: hm' >&2; exec REAL/pg_dump \"$@\"");
    let dumped = using(&server, "cut", bin.path()).dump(&cx(), &Memory::default(), &[]).unwrap();
    assert_eq!(dumped.findings.len(), 1);
    assert!(dumped.findings[0].message.contains("hm"));
    // The session with the snapshot is gone with each of them.
    assert_eq!(server.sql("postgres", &["SELECT count(*) FROM pg_stat_activity WHERE datname = 'cut'"]), "0");
}

#[test]
fn a_restore_that_fails_leaves_nothing() {
    let server = server!();
    filled(&server, "torn");
    let good = driver(server.source("torn"));
    let taken = take(&good, &[]);
    let id = "99-torn-candidate";
    let attempt = |driver: &PostgresDriver, cx: &StepContext, taken: &Taken| {
        driver.stage(
            cx,
            &taken.manifest,
            &taken.objects,
            id,
            &Target::Beside,
            &StageOptions { jobs: 2, ..StageOptions::default() },
        )
    };
    for (script, part) in [
        ("REAL/pg_restore \"$@\"; echo 'pg_restore: warning: something' >&2; exit 0", "something"),
        ("REAL/pg_restore \"$@\"; exit 1", "exit code 1"),
        ("kill -9 $$", "signal 9"),
    ] {
        let bin = with_script(&server, "pg_restore", script);
        let error = attempt(&using(&server, "torn", bin.path()), &cx(), &taken).unwrap_err();
        assert!(error.message.contains(part), "{script}: {error}");
        assert_eq!(generated(&server, id), "", "{script}");
    }
    // An archive cut in the middle of a table, and one with rows that make no sense.
    let bytes = taken.objects.bytes();
    let half = bytes.len() / 2;
    let senseless = bytes[half..].iter().map(|byte| if *byte == b'\t' { b' ' } else { *byte });
    for (bytes, part) in [
        (bytes[..half].to_vec(), "ends in the middle"),
        (bytes[..half].iter().copied().chain(senseless).collect(), "pg_restore ended with"),
    ] {
        let objects = Memory::default();
        objects.objects.lock().unwrap().insert("data".into(), bytes);
        let broken = Taken { objects, manifest: taken.manifest.clone(), dumped: take(&good, &[]).dumped };
        let error = attempt(&good, &cx(), &broken).unwrap_err();
        assert!(error.message.contains(part), "{error}");
        assert_eq!(generated(&server, id), "");
    }

    // Cancelled in the middle.
    let bin = with_script(&server, "pg_restore", "REAL/psql -X -q -h $PWD/nowhere; sleep 60");
    let cancelled = cx();
    let flag = cancelled.cancelled.clone();
    let seen = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let there = crate::child::wait_until(&cx(), Duration::from_secs(20), || !generated(&server, id).is_empty());
            std::thread::sleep(Duration::from_millis(300));
            flag.store(true, Ordering::Relaxed);
            there
        });
        let error = attempt(&using(&server, "torn", bin.path()), &cancelled, &taken).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
        waiting.join().unwrap()
    });
    assert!(seen, "the database was there when it was cancelled");
    assert_eq!(generated(&server, id), "");

    // What a crash left behind is redone; what is whole is kept.
    server.create("lb_99_torn_candidate_db");
    let member = attempt(&good, &cx(), &taken).unwrap();
    assert_eq!(member.place, "lb_99_torn_candidate_db");
    assert_eq!(attempt(&good, &cx(), &taken).unwrap(), member);
    assert!(verify(&good, &member, &taken).findings.is_empty());
    // Not ours any more: refused.
    let other = Member { identity: crate::sources::Identity::from([("oid".into(), "1".into())]), ..member.clone() };
    expect(&good.discard(&cx(), &other).unwrap_err(), ErrorKind::Refused, "is not what is there");
    let live = Member { place: "torn".into(), ..member.clone() };
    assert!(good.discard(&cx(), &live).is_err());
    good.discard(&cx(), &member).unwrap();
    assert_eq!(generated(&server, id), "");
}

#[test]
fn queries_are_read_only_single_and_bounded() {
    let server = server!();
    filled(&server, "asked");
    let driver = driver(server.source("asked"));
    let ask = |sql: &str| driver.query(&cx(), None, &question(sql));
    assert_eq!(ask("SELECT count(*) FROM t;").unwrap(), [[Some("20000".into())]]);
    assert!(ask("SELECT a FROM t").unwrap_err().message.contains("more than 10 rows"));
    assert_eq!(ask("SELECT 1; DROP TABLE t").unwrap_err().kind, ErrorKind::Invalid);
    assert!(ask("DELETE FROM t RETURNING a").unwrap_err().message.contains("read-only"));
    assert!(ask("SELECT nope FROM t").unwrap_err().message.contains("nope"));
    let parsed = |sql: &str| driver.query(&cx(), None, &Question { not_json: true, rows_max: 1, ..question(sql) });
    let value = |text: &str| Some(text.to_owned());
    assert_eq!(parsed("SELECT a, to_json(b)::text FROM t").unwrap(), [[value("0")]]);
    // A line end within a value, and one that is cut.
    let sql = "SELECT a, CASE WHEN a % 10000 = 7 THEN E'{\"x\":\\n 1' ELSE E'{\"x\":\\n 1}' END FROM t ORDER BY a -- all of them";
    assert_eq!(parsed(sql).unwrap(), [[value("2"), value("7")]]);
    assert!(parsed("SELECT nope FROM t").unwrap_err().message.contains("nope"));
    // A query ends with its step.
    let short = StepContext::detached("short", Duration::from_millis(900));
    let error = driver.query(&short, None, &question("SELECT pg_sleep(60)")).unwrap_err();
    assert!(error.kind == ErrorKind::TimedOut || error.message.contains("statement timeout"), "{error}");
}

#[test]
fn behind_a_prefix_and_with_subscriptions() {
    let server = server!();
    filled(&server, "prefixed");
    server.sql(
        "prefixed",
        &["CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false, slot_name = none)"],
    );
    let driver =
        driver(PostgresSource { prefix: vec!["nice".into(), "-n".into(), "1".into()], ..server.source("prefixed") });
    driver.check(&cx()).unwrap();
    let taken = take(&driver, &[]);
    assert_eq!(taken.dumped.findings.iter().map(|f| f.rule.as_str()).collect::<Vec<_>>(), ["subscription"]);
    let member = stage(&driver, &taken).unwrap();
    assert_eq!(verify(&driver, &member, &taken).findings, []);
    assert_eq!(server.sql(&member.place, &["SELECT count(*) FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid WHERE datname = current_database()"]), "0");
    driver.discard(&cx(), &member).unwrap();
}

#[test]
fn sessions_of_an_earlier_attempt_are_ended() {
    let server = server!();
    filled(&server, "again");
    let first = cx();
    let left_behind = |marker: String| {
        let mut command = server.psql("again");
        command.env("PGAPPNAME", marker).args(["-c", "BEGIN", "-c", "LOCK TABLE t", "-c", "SELECT pg_sleep(100)"]);
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap()
    };
    let mut ours = left_behind(first.marker());
    let sessions = || {
        server.sql(
            "postgres",
            &["SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(100)' AND datname = 'again'"],
        )
    };
    assert!(
        crate::child::wait_until(&cx(), Duration::from_secs(20), || sessions() == "1"),
        "the first attempt holds its lock"
    );
    let second = StepContext { attempt: 2, ..first };
    driver(server.source("again")).dump(&second, &Memory::default(), &[]).unwrap();
    assert!(!ours.wait().unwrap().success());
    assert_eq!(sessions(), "0");
}

#[test]
fn an_ordinary_role_drops_what_the_server_is_just_vacuuming() {
    let Some(server) = PgServer::start() else { return };
    server.sql("postgres", &["ALTER SYSTEM SET autovacuum_naptime = 1", "SELECT pg_reload_conf()"]);
    server.sql("postgres", &["CREATE ROLE keeper LOGIN CREATEDB", "CREATE DATABASE vacuumed OWNER keeper"]);
    // A page takes a tenth of a second: it is at it for as long as the test takes.
    let slowly = "autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1, \
                  autovacuum_vacuum_insert_threshold = 0, autovacuum_vacuum_insert_scale_factor = 0";
    for statement in [
        &format!("CREATE TABLE t(a text) WITH ({slowly})")[..],
        "INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 20000)",
    ] {
        server.sql("vacuumed", &["SET ROLE keeper", statement]);
    }
    let driver = super::driver(PostgresSource { user: "keeper".into(), ..server.source("vacuumed") });
    let taken = take(&driver, &[]);
    let member = stage(&driver, &taken).unwrap();
    let vacuums = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND backend_type = 'autovacuum worker'",
        member.place
    );
    let is_vacuumed = || server.sql("postgres", &[&vacuums]) == "1";
    assert!(crate::child::wait_until(&cx(), Duration::from_secs(100), is_vacuumed));
    let drop = format!("DROP DATABASE {} WITH (FORCE)", member.place);
    let refused = server.psql("postgres").args(["-U", "keeper", "-c", &drop]).output().unwrap();
    // So it is on 15 and on 18; a server on which it is enough needs no other way.
    assert!(!refused.status.success(), "FORCE is enough");
    assert!(is_vacuumed());
    driver.discard(&cx(), &member).unwrap();
    assert_eq!(driver.member_identity(&cx(), &member).map_err(|e| e.kind), Err(ErrorKind::NotFound));

    // Somebody's session that our role may not end: it is said, and the database stays.
    let member = stage(&driver, &taken).unwrap();
    let mut session = server
        .psql(&member.place)
        .args(["-c", "SELECT pg_sleep(100)"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let there = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{}' AND query LIKE '%pg_sleep(100)'",
        member.place
    );
    assert!(crate::child::wait_until(&cx(), Duration::from_secs(20), || server.sql("postgres", &[&there]) == "1"));
    let error = driver.discard(&cx(), &member).unwrap_err();
    assert!(error.message.contains("42501") && error.hint.is_some(), "{error}");
    assert_eq!(driver.member_identity(&cx(), &member).unwrap(), member.identity);
    // Cut off while the server waits for that session, it is no refusal: what runs on there is ended, and not only said.
    let hurried = StepContext::detached(&crate::identifier::fresh(), Duration::from_secs(2));
    let error = driver.discard(&hurried, &member).unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
    let ours = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'lifeboat/%'";
    assert_eq!(server.sql("postgres", &[ours]), "0");
    let end = there.replace("count(*)", "pg_terminate_backend(pid, 5000)");
    server.sql("postgres", &[&end]);
    assert!(!session.wait().unwrap().success());
    driver.discard(&cx(), &member).unwrap();
}
