//! Plain SQL: a backup exported as the text of `pg_dump | gzip`, and brought back with nothing but `gunzip` and `psql`.

use std::process::{Command, Stdio};

use super::faults::{generated, with_script};
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

/// A database of a role that is no superuser, and the role's source.
fn of_loader(server: &PgServer, name: &str) -> PostgresSource {
    let role = format!("{name}_loader");
    server.sql(
        "postgres",
        &[
            &format!("CREATE ROLE {role} LOGIN CREATEDB"),
            &format!("CREATE DATABASE {name} OWNER {role} TEMPLATE template0"),
        ],
    );
    for statement in [
        "CREATE TABLE plain(id serial PRIMARY KEY, v text)",
        "INSERT INTO plain(v) SELECT E'row \\\\ ' || i FROM generate_series(1, 3000) i",
        "CREATE TABLE \"Odd one\"(\"a b\" int REFERENCES plain, t timestamptz, bin bytea)",
        "INSERT INTO \"Odd one\" VALUES (7, '2026-11-23 12:00:00+05', '\\x00ff5c'), (8, NULL, NULL)",
        "CREATE FUNCTION f() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN E'\\\\! it''s;\n\\! not run'; END $$",
        "CREATE FUNCTION g() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT 2; END",
        "CREATE VIEW v AS SELECT count(*) FROM plain",
        "SELECT lo_from_bytea(4711, '\\x0001')",
    ] {
        server.sql(name, &[&format!("SET ROLE {role}"), statement]);
    }
    PostgresSource { user: role, ..server.source(name) }
}

/// What `pg_dump` writes.
fn pg_dump(server: &PgServer, database: &str, arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(server.bin_dir.join("pg_dump"));
    command.args(["-U", "postgres", "-h", &server.host, "-p", &server.port.to_string()]).args(arguments).arg(database);
    let out = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(out.status.success());
    out.stdout
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    let out = Command::new("gzip").arg("-c").stdin(file.reopen().unwrap()).output().unwrap();
    assert!(out.status.success());
    out.stdout
}

fn file(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn inspect(driver: &PostgresDriver, bytes: &[u8]) -> Result<crate::sources::PlainFile> {
    driver.inspect_plain(&cx(), file(bytes).path())
}

/// Inspected, loaded under this id.
fn load(driver: &PostgresDriver, id: &str, bytes: &[u8], cx: &StepContext) -> Result<crate::sources::Loaded> {
    let file = file(bytes);
    let inspected = driver.inspect_plain(cx, file.path())?;
    driver.load_plain(cx, id, file.path(), &inspected)
}

#[test]
fn what_people_have_is_loaded_and_dumped_equal() {
    let server = server!();
    let source = of_loader(&server, "imported");
    let original = take(&driver(source.clone()), &[]);
    let text = pg_dump(&server, "imported", &[]);
    let half = text.len() / 2;
    let members = [gzip(&text[..half]), gzip(&text[half..])].concat();
    for (bytes, prefix) in [(gzip(&text), vec![]), (members, vec![]), (text.clone(), vec!["nice".to_owned()])] {
        let driver = driver(PostgresSource { prefix, ..source.clone() });
        let inspected = inspect(&driver, &bytes).unwrap();
        assert_eq!((inspected.bytes, &inspected.sha256), (bytes.len() as u64, &hex::encode(Sha256::digest(&bytes))));
        let id = crate::identifier::fresh();
        let loaded = load(&driver, &id, &bytes, &cx()).unwrap();
        assert_eq!(loaded.findings, []);
        let objects = Memory::default();
        let dumped = loaded.driver.dump(&cx(), &objects, &[]).unwrap();
        let SourceFacts::Postgres(found) = &dumped.facts else { panic!() };
        assert_eq!(found.tables, facts(&original).tables);
        assert_eq!(found.large_objects, facts(&original).large_objects);
        assert_eq!(found.objects, facts(&original).objects);
        assert_eq!((&found.encoding, &found.collate), (&facts(&original).encoding, &facts(&original).collate));
        driver.clear(&cx(), &id).unwrap();
        assert_eq!(generated(&server, &id.to_ascii_lowercase()), "");
    }
    // Rows as INSERT statements are SQL as well.
    let id = crate::identifier::fresh();
    let driver = driver(source);
    load(&driver, &id, &pg_dump(&server, "imported", &["--column-inserts"]), &cx()).unwrap();
    driver.clear(&cx(), &id).unwrap();
    // And what we export.
    let own = exported(&driver, &original).unwrap();
    load(&driver, &id, &own, &cx()).unwrap();
    driver.clear(&cx(), &id).unwrap();
}

#[test]
fn a_file_that_is_not_whole_is_refused_before_anything_is_made() {
    let server = server!();
    let driver = driver(of_loader(&server, "cut_import"));
    let text = pg_dump(&server, "cut_import", &[]);
    let packed = gzip(&text);
    inspect(&driver, &packed).unwrap();
    let step = packed.len() / 40;
    for cut in (0..packed.len()).step_by(step).chain(packed.len() - 12..packed.len()) {
        inspect(&driver, &packed[..cut]).map(|_| panic!("cut at {cut} of {}", packed.len())).unwrap_err();
    }
    // A text that was cut before it was compressed, also at ends of lines within COPY data.
    let lines: Vec<usize> = text.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(at, _)| at + 1).collect();
    for cut in lines.iter().step_by(lines.len() / 40).filter(|cut| **cut < text.len() - 100) {
        let error = inspect(&driver, &gzip(&text[..*cut])).unwrap_err();
        assert!(
            error.hint.is_some() && error.message.contains("cut") || error.message.contains("begin"),
            "{cut}: {error}"
        );
    }
    // Of the header of gzip only the method and the flags matter.
    for at in (10..packed.len()).step_by(step) {
        let mut flipped = packed.clone();
        flipped[at] ^= 0x10;
        inspect(&driver, &flipped).map(|_| panic!("flipped at {at} of {}", packed.len())).unwrap_err();
    }
    for behind in [&b"x"[..], &[0; 512], b"-- more\n"] {
        let error = inspect(&driver, &[&packed, behind].concat()).unwrap_err();
        assert!(error.message.contains("behind its gzip stream") || error.message.contains("cut"), "{error}");
    }
    let nothing = inspect(&driver, &gzip(b"")).unwrap_err();
    assert!(nothing.message.contains("does not begin as `pg_dump`"), "the 20 bytes of a wrong name: {nothing}");
    let created = inspect(&driver, &gzip(&pg_dump(&server, "cut_import", &["--create"]))).unwrap_err();
    assert!(created.message.contains("pg_dump --create"), "{created}");
    let mut all = Command::new(server.bin_dir.join("pg_dumpall"));
    let all = all.args(["-U", "postgres", "-h", &server.host, "-p", &server.port.to_string(), "--globals-only"]);
    let all = all.output().unwrap();
    assert!(all.status.success());
    assert!(inspect(&driver, &gzip(&all.stdout)).unwrap_err().message.contains("pg_dumpall"));
    assert!(driver.inspect_plain(&cx(), std::path::Path::new("/")).unwrap_err().message.contains("is no file"));
}

#[test]
fn a_text_runs_no_program_of_ours() {
    let server = server!();
    let source = of_loader(&server, "hostile_import");
    let driver = driver(source.clone());
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("it-ran");
    let text = String::from_utf8(pg_dump(&server, "hostile_import", &[])).unwrap();
    let command = format!("\\! touch {}\n", mark.display());
    let hostile = text.replacen("SET client_encoding", &format!("{command}SET client_encoding"), 1);
    assert_ne!(hostile, text);
    let error = inspect(&driver, &gzip(hostile.as_bytes())).unwrap_err();
    assert!(error.kind == crate::ErrorKind::Refused && error.message.contains("a command of psql"), "{error}");
    assert!(!mark.exists());
    // Had nobody looked: psql itself refuses it. In a text that changes how psql reads strings, too.
    let cx = cx();
    let tools = super::super::tools::Tools::new(&cx, &driver.binding).unwrap();
    let turned = format!("SET standard_conforming_strings = off;\nSELECT 'a\\'; -- ';\n{command}");
    for text in [command.clone(), format!("SELECT 1 {command}"), turned, format!("\\unrestrict guessed\n{command}")] {
        let error = super::super::load::load_unseen(&tools, &text, "hostile_import").unwrap_err();
        assert!(error.message.contains("restrict"), "{text}: {error}");
        assert!(!mark.exists(), "{text}");
    }
    // The proof is worth something: without it, it runs.
    let ran = server.psql("hostile_import").arg("-f").arg(file(command.as_bytes()).path()).status().unwrap();
    assert!(ran.success() && mark.exists());

    let superuser = super::driver(server.source("hostile_import"));
    let error = inspect(&superuser, &gzip(text.as_bytes())).unwrap_err();
    assert!(error.kind == crate::ErrorKind::Refused && error.message.contains("is a superuser"), "{error}");
    // One that may become it is as good as one.
    for powerful in ["pg_execute_server_program", "postgres"] {
        server.sql("postgres", &[&format!("GRANT {powerful} TO {}", source.user)]);
        let error = inspect(&driver, text.as_bytes()).unwrap_err();
        let named = error.message.contains(&format!("may become `{powerful}`"));
        assert!(error.kind == crate::ErrorKind::Refused && named, "{error}");
        server.sql("postgres", &[&format!("REVOKE {powerful} FROM {}", source.user)]);
    }
    server.sql("postgres", &[&format!("ALTER ROLE {} NOCREATEDB", source.user)]);
    assert!(inspect(&driver, text.as_bytes()).unwrap_err().message.contains("may not create databases"));
    server.sql("postgres", &[&format!("ALTER ROLE {} CREATEDB", source.user)]);
    // A psql of a minor version from before.
    let bin = tempfile::tempdir().unwrap();
    let major = tools.server_version("hostile_import").unwrap() / 10_000;
    let old = if major >= 18 { "12.22".to_owned() } else { format!("{major}.1") };
    for tool in ["pg_dump", "pg_restore"] {
        std::os::unix::fs::symlink(server.bin_dir.join(tool), bin.path().join(tool)).unwrap();
    }
    let real = server.bin_dir.display();
    crate::testing::write_program(
        &bin.path().join("psql"),
        &format!(
            "#!/bin/sh\ncase \"$1\" in --version) echo 'psql (PostgreSQL) {old}'; exit;; esac\nexec {real}/psql \"$@\"\n"
        ),
    );
    let old = super::driver(PostgresSource { bin_dir: Some(bin.path().to_owned()), ..source });
    let error = inspect(&old, text.as_bytes()).unwrap_err();
    assert!(error.kind == crate::ErrorKind::Refused && error.message.contains("psql"), "{error}");
}

#[test]
fn a_load_that_fails_leaves_nothing() {
    let server = server!();
    let source = of_loader(&server, "torn_import");
    let driver = driver(source.clone());
    let id = "99-torn-import";
    let text = String::from_utf8(pg_dump(&server, "torn_import", &[])).unwrap();
    let before_end = |what: &str| {
        let at = text.find("--\n-- PostgreSQL database dump complete").unwrap();
        format!("{}{what}\n{}", &text[..at], &text[at..])
    };
    for (what, part) in [
        ("SELECT 1/0;", "division by zero"),
        ("ALTER TABLE public.plain OWNER TO nobody_here;", "nobody_here"),
        ("COPY public.plain (id, v) FROM stdin;\n1\tx\n\\.\n", "duplicate key"),
        ("COPY (SELECT 1) TO PROGRAM 'id';", "COPY"),
    ] {
        let error = load(&driver, id, before_end(what).as_bytes(), &cx()).map(drop).unwrap_err();
        assert!(error.message.contains(part), "{what}: {error}");
        assert_eq!(generated(&server, id), "", "{what}");
    }
    // Another file by the time it is loaded.
    let other = file(before_end("SELECT 1;").as_bytes());
    let inspected = inspect(&driver, text.as_bytes()).unwrap();
    let error = driver.load_plain(&cx(), id, other.path(), &inspected).map(drop).unwrap_err();
    assert!(error.message.contains("changed meanwhile"), "{error}");
    assert_eq!(generated(&server, id), "");
    // An error that psql does not end with.
    let bin = with_script(
        &server,
        "psql",
        "case \"$*\" in *single-transaction*'-f -') REAL/psql \"$@\"; echo 'psql:<stdin>:1: ERROR:  XX000: swallowed' >&2; exit 0;; esac\nexec REAL/psql \"$@\"",
    );
    let torn = super::driver(PostgresSource { bin_dir: Some(bin.path().to_owned()), ..source });
    let error = load(&torn, id, text.as_bytes(), &cx()).map(drop).unwrap_err();
    assert!(error.message.contains("swallowed"), "{error}");
    assert_eq!(generated(&server, id), "");
    let error = load(&driver, id, text.as_bytes(), &cx().ended_at("database created")).map(drop).unwrap_err();
    assert_eq!(error.kind, crate::ErrorKind::Cancelled, "{error}");
    assert_eq!(generated(&server, id), "");
    // What a crash left is removed by its id alone.
    load(&driver, id, text.as_bytes(), &cx()).unwrap();
    assert_ne!(generated(&server, id), "");
    driver.clear(&cx(), id).unwrap();
    assert_eq!(generated(&server, id), "");
}
