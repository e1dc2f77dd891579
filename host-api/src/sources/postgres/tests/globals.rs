//! Roles beside a dump: kept where the server gives them, said where not.

use super::*;
use crate::error::ErrorKind;
use crate::testing::write_program;

/// PostgreSQL's programs, with this for `pg_dumpall`; none: not there at all.
fn with(server: &PgServer, pg_dumpall: Option<&str>) -> tempfile::TempDir {
    let bin = tempfile::tempdir().unwrap();
    for name in ["psql", "pg_dump", "pg_restore"] {
        std::os::unix::fs::symlink(server.bin_dir.join(name), bin.path().join(name)).unwrap();
    }
    if let Some(script) = pg_dumpall {
        write_program(&bin.path().join("pg_dumpall"), &format!("#!/bin/sh\n{script}\n"));
    }
    bin
}

#[test]
fn roles_of_a_server_are_kept_without_their_passwords_and_by_a_role_that_may_not_read_those() {
    let server = server!();
    server.sql(
        "postgres",
        &[
            "CREATE ROLE lb_globals LOGIN CREATEDB PASSWORD 'hunter2'",
            "CREATE ROLE \"lb globals; DROP\" NOLOGIN",
            "GRANT \"lb globals; DROP\" TO lb_globals",
            "ALTER ROLE lb_globals SET work_mem = '7MB'",
            "CREATE DATABASE lb_globals OWNER lb_globals TEMPLATE template0",
        ],
    );
    let driver = driver(PostgresSource { user: "lb_globals".into(), ..server.source("lb_globals") });
    let taken = take(&driver, &[]);
    let roles: Vec<&str> = taken.manifest.objects.iter().map(|object| object.role.as_str()).collect();
    assert_eq!(roles, ["data", "structure", "globals"], "the archive comes first");
    let text = String::from_utf8(taken.objects.of_role("globals").unwrap()).unwrap();
    for line in ["CREATE ROLE lb_globals;", "GRANT \"lb globals; DROP\" TO lb_globals", "work_mem TO '7MB'"] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(!text.contains("hunter2") && !text.contains("SCRAM-SHA-256") && !text.contains("PASSWORD"), "{text}");
}

#[test]
fn a_backup_without_them_says_so_and_one_that_is_late_is_none() {
    let server = server!();
    server.create("roleless");
    server.sql("roleless", &["CREATE TABLE t AS SELECT 1 AS a"]);
    let cut = format!("{}/pg_dumpall \"$@\" | head -3", server.bin_dir.display());
    let cases = [
        (None, "pg_dumpall"),
        (Some("echo 'pg_dumpall: error: query failed: permission denied' >&2; exit 1"), "permission denied"),
        (Some(cut.as_str()), "its text has no end"),
    ];
    for (script, part) in cases {
        let bin = with(&server, script);
        let driver = driver(PostgresSource { bin_dir: Some(bin.path().to_owned()), ..server.source("roleless") });
        let taken = take(&driver, &[]);
        let [finding] = &taken.dumped.findings[..] else { panic!("{part}: {:?}", taken.dumped.findings) };
        assert_eq!((finding.rule.as_str(), finding.severity), ("globals", crate::Severity::Warning));
        assert!(finding.message.contains(part) && !finding.fix.is_empty(), "{finding:?}");
        assert_eq!(taken.manifest.objects.len(), 2, "{part}");
    }

    let bin = with(&server, Some("sleep 60"));
    let driver = driver(PostgresSource { bin_dir: Some(bin.path().to_owned()), ..server.source("roleless") });
    let late = StepContext::detached(&crate::identifier::fresh(), Duration::from_secs(8));
    let error = driver.dump(&late, &Memory::default(), &[]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
}
