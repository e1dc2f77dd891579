//! Promote, undo, drop: whole, half-way and refused.

use super::*;
use crate::error::ErrorKind;
use crate::{Finding, Severity};

/// A live database with a candidate of its own; a name that needs every kind of quoting.
struct Pair {
    driver: PostgresDriver,
    member: Member,
    live: String,
}

fn pair(server: &PgServer, name: &str) -> Pair {
    let live = format!("{name} l'i\"v\\e = x");
    server.sql("postgres", &[&format!("CREATE DATABASE {} TEMPLATE template0", super::super::sql::identifier(&live))]);
    let driver = driver(server.source(&live));
    sql_on(server, &live, &["CREATE TABLE t(a int)", "INSERT INTO t VALUES (1)"]);
    let taken = take(&driver, &[]);
    let member = stage(&driver, &taken).unwrap();
    sql_on(server, &live, &["INSERT INTO t VALUES (2)"]);
    Pair { driver, member, live }
}

/// SQL on a database whose name `psql -d` would take for a connection string.
fn sql_on(server: &PgServer, database: &str, statements: &[&str]) -> String {
    server.sql(&format!("dbname={}", super::super::sql::conninfo_value(database)), statements)
}

fn names(server: &PgServer, oids: &[&str]) -> Vec<String> {
    oids.iter()
        .map(|oid| {
            server.sql(
                "postgres",
                &[&format!("SELECT datname || ' ' || datallowconn FROM pg_database WHERE oid = {oid}")],
            )
        })
        .collect()
}

fn errors(findings: &[Finding]) -> Vec<&str> {
    findings.iter().filter(|f| f.severity == Severity::Error).map(|f| f.rule.as_str()).collect()
}

#[test]
fn promote_undo_and_drop() {
    let server = server!();
    let Pair { driver, member, live } = pair(&server, "round");
    let quoted = super::super::sql::identifier(&live);
    server.sql("postgres", &["CREATE ROLE \"ow'ner\"", "CREATE ROLE reader LOGIN"]);
    for statement in [
        "ALTER DATABASE @ OWNER TO \"ow'ner\"",
        "ALTER DATABASE @ SET search_path TO \"$user\", \"a, \"\"b\", public",
        "ALTER DATABASE @ SET timezone TO 'Asia/Kolkata'",
        "ALTER DATABASE @ SET my.own TO 'it''s \"x\"'",
        "ALTER ROLE reader IN DATABASE @ SET work_mem TO '8MB'",
        "REVOKE ALL ON DATABASE @ FROM PUBLIC",
        "GRANT CONNECT ON DATABASE @ TO reader WITH GRANT OPTION",
        "ALTER DATABASE @ CONNECTION LIMIT 17",
        "COMMENT ON DATABASE @ IS 'it''s live'",
    ] {
        server.sql("postgres", &[&statement.replace('@', &quoted)]);
    }
    let described = |oid: &str| {
        server.sql(
            "postgres",
            &[&format!(
                "SELECT pg_get_userbyid(datdba), datconnlimit, shobj_description(oid, 'pg_database'), \
                 (SELECT string_agg(a::text, ' ' ORDER BY a::text) FROM unnest(datacl) a), \
                 (SELECT string_agg(setrole || ':' || setconfig::text, ' ' ORDER BY setrole) FROM pg_db_role_setting WHERE setdatabase = d.oid) \
                 FROM pg_database d WHERE oid = {oid}"
            )],
        )
    };
    let old = driver.live_identity(&cx()).unwrap().unwrap();
    let (p, c) = (old["oid"].clone(), member.identity["oid"].clone());
    let before = described(&p);
    assert_eq!(errors(&driver.preflight(&cx(), &member).unwrap()), [""; 0]);
    let swap = driver.plan_swap(&cx(), &member).unwrap();
    assert!(swap.other_place.starts_with("lb_prev_") && swap.other_place.len() <= 63);
    // The record survives being written down.
    let swap: crate::sources::Swap = serde_json::from_str(&serde_json::to_string(&swap).unwrap()).unwrap();

    // A client that stays connected is thrown out.
    let mut client = server.psql(&format!("dbname={}", super::super::sql::conninfo_value(&live)));
    let client = client.args(["-c", "SELECT pg_sleep(60)"]).stderr(std::process::Stdio::piped()).spawn().unwrap();
    assert!(crate::child::wait_until(&cx(), Duration::from_secs(20), || {
        server.sql(
            "postgres",
            &[&format!("SELECT count(*) FROM pg_stat_activity WHERE datid = {p} AND query LIKE '%pg_sleep(60)%'")],
        ) == "1"
    }));
    driver.promote(&cx(), &member, &swap).unwrap();
    let client = client.wait_with_output().unwrap();
    assert!(!client.status.success());
    assert!(String::from_utf8_lossy(&client.stderr).contains("terminating connection"));

    assert_eq!(names(&server, &[&p, &c]), [format!("{} true", swap.other_place), format!("{live} true")]);
    assert_eq!(described(&c), before);
    assert_eq!(sql_on(&server, &live, &["SELECT count(*) FROM public.t"]), "1");
    assert_eq!(sql_on(&server, &swap.other_place, &["SELECT count(*) FROM public.t"]), "2");
    driver.promote(&cx(), &member, &swap).unwrap();
    // It is no candidate any more.
    assert!(driver.member_identity(&cx(), &member).is_err());
    assert_eq!(driver.discard(&cx(), &member).unwrap_err().kind, ErrorKind::Refused);

    for _ in 0..2 {
        driver.undo(&cx(), &swap).unwrap();
        assert_eq!(names(&server, &[&p, &c]), [format!("{live} true"), format!("{} true", swap.other_place)]);
        assert_eq!(described(&p), before);
        assert_eq!(driver.live_identity(&cx()).unwrap().unwrap(), old);
    }
    // What is there now is not the previous.
    assert_eq!(driver.drop_previous(&cx(), &swap).unwrap_err().kind, ErrorKind::Refused);
    // An undone promotion can't be promoted by its old record.
    assert_eq!(driver.promote(&cx(), &member, &swap).unwrap_err().kind, ErrorKind::Conflict);
}

#[test]
fn the_previous_is_dropped_once() {
    let server = server!();
    let Pair { driver, member, live } = pair(&server, "dropped");
    let swap = driver.plan_swap(&cx(), &member).unwrap();
    driver.promote(&cx(), &member, &swap).unwrap();
    driver.drop_previous(&cx(), &swap).unwrap();
    driver.drop_previous(&cx(), &swap).unwrap();
    assert_eq!(
        names(&server, &[&swap.previous.as_ref().unwrap()["oid"], &member.identity["oid"]]),
        [String::new(), format!("{live} true")]
    );
    // Without the previous there is no way back.
    assert_eq!(driver.undo(&cx(), &swap).unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(driver.live_identity(&cx()).unwrap().unwrap()["oid"], member.identity["oid"]);
}

#[test]
fn a_half_way_state_is_put_right() {
    let server = server!();
    let Pair { driver, member, live } = pair(&server, "half");
    let quoted = super::super::sql::identifier(&live);
    let swap = driver.plan_swap(&cx(), &member).unwrap();
    let (p, c) = (swap.previous.as_ref().unwrap()["oid"].clone(), member.identity["oid"].clone());
    let close = || server.sql("postgres", &[&format!("ALTER DATABASE {quoted} ALLOW_CONNECTIONS false")]);

    // Died between closing the live database and the renames; then taken back.
    close();
    assert_eq!(names(&server, &[&p]), [format!("{live} false")]);
    driver.undo(&cx(), &swap).unwrap();
    assert_eq!(names(&server, &[&p, &c]), [format!("{live} true"), format!("{} true", member.place)]);
    // The same, then completed.
    close();
    driver.promote(&cx(), &member, &swap).unwrap();
    assert_eq!(names(&server, &[&p, &c]), [format!("{} true", swap.other_place), format!("{live} true")]);
    // Died in an undo.
    close();
    driver.promote(&cx(), &member, &swap).unwrap();
    assert_eq!(names(&server, &[&p, &c]), [format!("{} true", swap.other_place), format!("{live} true")]);
    close();
    driver.undo(&cx(), &swap).unwrap();
    assert_eq!(names(&server, &[&p, &c]), [format!("{live} true"), format!("{} true", swap.other_place)]);
}

#[test]
fn a_swap_that_fails_leaves_the_live_database_open() {
    let server = server!();
    let Pair { driver, member, live } = pair(&server, "stuck");
    let swap = driver.plan_swap(&cx(), &member).unwrap();
    let (p, c) = (swap.previous.as_ref().unwrap()["oid"].clone(), member.identity["oid"].clone());
    sql_on(&server, &live, &["BEGIN; INSERT INTO t VALUES (3); PREPARE TRANSACTION 'stuck'"]);
    assert_eq!(errors(&driver.preflight(&cx(), &member).unwrap()), ["prepared-transactions"]);
    let error = driver.promote(&cx(), &member, &swap).unwrap_err();
    assert!(error.message.contains("prepared transaction"), "{error}");
    assert_eq!(names(&server, &[&p, &c]), [format!("{live} true"), format!("{} true", member.place)]);
    sql_on(&server, &live, &["ROLLBACK PREPARED 'stuck'"]);

    // Late by the time it would commit.
    let late = cx().ended_at("before the commit");
    assert_eq!(driver.promote(&late, &member, &swap).unwrap_err().kind, ErrorKind::Cancelled);
    assert!(late.check().is_err(), "it came to that place");
    assert_eq!(names(&server, &[&p, &c]), [format!("{live} true"), format!("{} true", member.place)]);

    // Fails after both renames: all is taken back.
    let mut wrong = swap.clone();
    wrong.carried.insert("owner".into(), "nobody here".into());
    let error = driver.promote(&cx(), &member, &wrong).unwrap_err();
    assert!(error.message.contains("nobody here"), "{error}");
    assert_eq!(names(&server, &[&p, &c]), [format!("{live} true"), format!("{} true", member.place)]);

    // Somebody else's database under a name that is needed.
    server.create(&swap.other_place);
    assert_eq!(errors(&driver.preflight(&cx(), &member).unwrap()), ["name-taken"]);
    assert_eq!(driver.promote(&cx(), &member, &swap).unwrap_err().kind, ErrorKind::Conflict);
    server.sql("postgres", &[&format!("DROP DATABASE {}", swap.other_place)]);

    // Another server, as far as its identifier says.
    let mut elsewhere = swap.clone();
    elsewhere.promoted.insert("system-identifier".into(), "1".into());
    assert_eq!(driver.promote(&cx(), &member, &elsewhere).unwrap_err().kind, ErrorKind::Conflict);

    // The live database was replaced after the plan.
    sql_on(
        &server,
        "postgres",
        &[&format!("ALTER DATABASE {} RENAME TO replaced", super::super::sql::identifier(&live))],
    );
    server.sql("postgres", &[&format!("CREATE DATABASE {}", super::super::sql::identifier(&live))]);
    let error = driver.promote(&cx(), &member, &swap).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert!(error.message.contains("replaced"), "{error}");
}

#[test]
fn a_lost_database_is_replaced() {
    let server = server!();
    let Pair { driver, member, live } = pair(&server, "lost");
    server.sql("postgres", &[&format!("DROP DATABASE {}", super::super::sql::identifier(&live))]);
    let findings = driver.preflight(&cx(), &member).unwrap();
    assert_eq!((errors(&findings).len(), findings[0].rule.as_str()), (0, "live-missing"));
    let swap = driver.plan_swap(&cx(), &member).unwrap();
    assert_eq!(swap.previous, None);
    let c = member.identity["oid"].clone();
    for _ in 0..2 {
        driver.promote(&cx(), &member, &swap).unwrap();
        assert_eq!(names(&server, &[&c]), [format!("{live} true")]);
    }
    assert_eq!(sql_on(&server, &live, &["SELECT count(*) FROM public.t"]), "1");
    driver.drop_previous(&cx(), &swap).unwrap();
    for _ in 0..2 {
        driver.undo(&cx(), &swap).unwrap();
        assert_eq!(names(&server, &[&c]), [format!("{} true", swap.other_place)]);
        assert_eq!(driver.live_identity(&cx()).unwrap(), None);
    }
}

#[test]
fn without_superuser_rights() {
    let server = server!();
    server.sql(
        "postgres",
        &["CREATE ROLE app LOGIN", "CREATE ROLE other LOGIN", "CREATE DATABASE app OWNER app TEMPLATE template0"],
    );
    let source = PostgresSource { user: "app".into(), ..server.source("app") };
    let driver = driver(source);
    let as_app = |statement: &str| {
        let out = server.psql("app").args(["-U", "app", "-c", statement]).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    as_app(
        "CREATE SCHEMA s CREATE TABLE t(a serial, b text); INSERT INTO s.t(b) VALUES ('x'); GRANT USAGE ON SCHEMA s TO PUBLIC; SELECT lo_from_bytea(0, 'abc')",
    );
    let taken = take(&driver, &[]);
    assert_eq!(facts(&taken).roles, ["app"]);
    let error = stage(&driver, &taken).unwrap_err();
    assert!(error.message.contains("permission denied") && error.hint.is_some(), "{error}");
    server.sql("postgres", &["ALTER ROLE app CREATEDB"]);
    let member = stage(&driver, &taken).unwrap();
    assert_eq!(verify(&driver, &member, &taken).findings, []);
    assert_eq!(errors(&driver.preflight(&cx(), &member).unwrap()), [""; 0]);

    // Each right that is missing is found before anything stops.
    server.sql(
        "postgres",
        &[
            "ALTER ROLE app NOCREATEDB",
            "ALTER DATABASE app OWNER TO other",
            "ALTER ROLE other IN DATABASE app SET work_mem TO '8MB'",
        ],
    );
    let mut session =
        server.psql("app").args(["-c", "SELECT pg_sleep(60)"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    assert!(crate::child::wait_until(&cx(), Duration::from_secs(20), || {
        server.sql("postgres", &["SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' AND state = 'active'"])
            == "1"
    }));
    let found = driver.preflight(&cx(), &member).unwrap();
    assert_eq!(
        errors(&found),
        ["right-to-rename", "right-to-rename", "right-to-end-sessions", "role-settings"],
        "{found:#?}"
    );
    session.kill().unwrap();
    session.wait().unwrap();
    server.sql(
        "postgres",
        &["ALTER ROLE app CREATEDB", "ALTER DATABASE app OWNER TO app", "ALTER ROLE other IN DATABASE app RESET ALL"],
    );
    server.sql("postgres", &["SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'app'"]);

    let swap = driver.plan_swap(&cx(), &member).unwrap();
    driver.promote(&cx(), &member, &swap).unwrap();
    driver.undo(&cx(), &swap).unwrap();
    driver.drop_previous(&cx(), &swap).unwrap_err();
    // Roles that are not ours to act for.
    server.sql(
        "app",
        &["ALTER TABLE s.t OWNER TO other", "GRANT SELECT ON s.t TO app", "GRANT SELECT ON SEQUENCE s.t_a_seq TO app"],
    );
    let taken = take(&driver, &[]);
    assert_eq!(facts(&taken).roles, ["app", "other"]);
    let error = stage(&driver, &taken).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    assert!(error.message.contains("other"), "{error}");
}

#[test]
fn a_candidate_of_two_databases_is_discarded_after_a_promotion_that_came_to_one_of_them() {
    let server = server!();
    let (one, two) = (pair(&server, "one"), pair(&server, "two"));
    let swap = one.driver.plan_swap(&cx(), &one.member).unwrap();
    let previous = swap.previous.as_ref().unwrap()["oid"].clone();
    one.driver.promote(&cx(), &one.member, &swap).unwrap();
    // At the other's name lies the previous, and the candidate is live: neither is dropped, whichever name is said.
    let at = |member: &Member, place: &str| Member { place: place.to_owned(), ..member.clone() };
    for place in [&one.member.place, &swap.other_place, &one.live] {
        assert_eq!(one.driver.discard(&cx(), &at(&one.member, place)).unwrap_err().kind, ErrorKind::Refused, "{place}");
    }
    one.driver.undo(&cx(), &swap).unwrap();
    let (first, second) = (one.member.identity["oid"].clone(), two.member.identity["oid"].clone());
    assert_eq!(
        names(&server, &[&first, &second]),
        [format!("{} true", swap.other_place), format!("{} true", two.member.place)]
    );

    // Under names that are nobody's, and with the name of one on the other, nothing goes.
    for place in ["lb_elsewhere", &two.member.place, "postgres"] {
        assert_eq!(one.driver.discard(&cx(), &at(&one.member, place)).unwrap_err().kind, ErrorKind::Refused, "{place}");
    }
    assert!(names(&server, &[&first, &second]).iter().all(|name| name.ends_with("true")));

    // What is recorded may be the one name or the other, for either of them.
    one.driver.discard(&cx(), &one.member).unwrap();
    let moved = super::super::swap::other_place(&two.member.place).unwrap();
    two.driver.discard(&cx(), &at(&two.member, &moved)).unwrap();
    assert_eq!(names(&server, &[&first, &second, &previous]), ["", "", &format!("{} true", one.live)]);
    for (driver, member) in [(&one.driver, &one.member), (&two.driver, &two.member)] {
        driver.discard(&cx(), member).unwrap();
    }
}
