//! Plain SQL: a backup exported as the text of `pg_dump | gzip`, and brought back with nothing but `gunzip` and `psql`.

use std::process::{Command, Stdio};

use super::faults::with_script;
use super::roundtrip::awkward;
use super::*;

/// What `gunzip` makes of bytes.
fn gunzip(bytes: &[u8]) -> Vec<u8> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let out = Command::new("gunzip").arg("-c").stdin(file.reopen().unwrap()).stderr(Stdio::inherit()).output().unwrap();
    assert!(out.status.success());
    out.stdout
}

fn exported(driver: &PostgresDriver, taken: &Taken) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    driver.export(&cx(), &taken.manifest, &taken.objects, &mut out).map(|()| out)
}

#[test]
fn an_export_comes_back_by_gunzip_and_psql() {
    let server = server!();
    awkward(&server, "export");
    for prefix in [vec![], vec!["nice".to_owned()]] {
        let driver = driver(PostgresSource { prefix, ..server.source("export") });
        let taken = take(&driver, &[]);
        let text = gunzip(&exported(&driver, &taken).unwrap());
        let end = String::from_utf8_lossy(&text[text.len() - 200..]).into_owned();
        assert!(end.contains("-- PostgreSQL database dump complete"), "{end}");
        server.create("export_back");
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&text).unwrap();
        let out = server.psql("export_back").arg("-f").arg(file.path()).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        // Read back as a candidate would be: every row equals the manifest's.
        let back = super::driver(server.source("export_back"));
        let member = Member {
            source: "db".into(),
            place: "export_back".into(),
            identity: back.live_identity(&cx()).unwrap().unwrap(),
            beside: true,
            data_only: None,
        };
        let verified = verify(&back, &member, &taken);
        assert_eq!(verified.findings, []);
        assert_eq!(verified.rows, facts(&taken).tables.iter().map(|t| t.rows).sum::<u64>());
        server.sql("postgres", &["DROP DATABASE export_back WITH (FORCE)"]);
    }
}

#[test]
fn an_export_needs_no_server_and_is_whole_or_an_error() {
    let server = server!();
    server.create("export_torn");
    server.sql("export_torn", &["CREATE TABLE t(a int)", "INSERT INTO t SELECT generate_series(1, 20000)"]);
    let taken = take(&driver(server.source("export_torn")), &[]);
    let lost = PostgresSource { host: "/nowhere".into(), ..server.source("export_torn") };
    let text = gunzip(&exported(&driver(lost), &taken).unwrap());
    assert!(String::from_utf8_lossy(&text).contains("\n20000\n"));
    for (script, part) in [
        ("REAL/pg_restore \"$@\" | head -c 50000; exit 0", "closing line"),
        ("exit 0", "closing line"),
        ("REAL/pg_restore \"$@\"; echo 'pg_restore: warning: hm' >&2; exit 0", "hm"),
        ("REAL/pg_restore \"$@\"; exit 1", "exit code 1"),
        ("REAL/pg_restore \"$@\" | head -c 50000; kill -9 $$", "signal 9"),
    ] {
        let bin = with_script(&server, "pg_restore", script);
        let torn = driver(PostgresSource { bin_dir: Some(bin.path().to_owned()), ..server.source("export_torn") });
        let error = exported(&torn, &taken).unwrap_err();
        assert!(error.message.contains(part), "{script}: {error}");
    }
    let mut newer = taken;
    let SourceFacts::Postgres(facts) = &mut newer.manifest.facts else { panic!() };
    facts.dump_version = "99.1".into();
    let error = exported(&driver(server.source("export_torn")), &newer).unwrap_err();
    assert_eq!(error.kind, crate::ErrorKind::Refused, "{error}");
}
