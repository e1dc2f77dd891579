//! Dump, stage, verify: silent on a good copy of awkward data, and loud on each deviation.

use super::*;
use crate::testing::write_program;

/// Tables that are awkward each in its own way.
const AWKWARD: &[&str] = &[
    "CREATE TABLE plain(id serial PRIMARY KEY, v text)",
    "INSERT INTO plain(v) SELECT 'row ' || i FROM generate_series(1, 5000) i",
    "CREATE TABLE nokeys(a int, b text)",
    "INSERT INTO nokeys VALUES (1, 'x'), (1, 'x'), (2, NULL), (3, ''), (4, '\\N'), (5, E'tab\\tnl\\nback\\\\slash\\\\.'), (6, E'\\\\.')",
    "CREATE TABLE empty(a int)",
    "CREATE TABLE nocolumns()",
    "INSERT INTO nocolumns DEFAULT VALUES",
    "INSERT INTO nocolumns DEFAULT VALUES",
    "CREATE SCHEMA \"Ä \"\"s.x\"",
    "CREATE TABLE \"Ä \"\"s.x\".\"tä (b), \"\"l'e\\;\"(\"cö l\" int, \"order\" text, \"x\"\"y\" text)",
    "INSERT INTO \"Ä \"\"s.x\".\"tä (b), \"\"l'e\\;\" VALUES (1, 'ü', NULL)",
    "CREATE TABLE \"order\"(\"select\" int)",
    "INSERT INTO \"order\" VALUES (7)",
    "CREATE TABLE parted(id int, at date) PARTITION BY RANGE (at)",
    "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
    "CREATE TABLE parted_2 PARTITION OF parted DEFAULT",
    "INSERT INTO parted VALUES (1, '2026-01-05'), (2, '2026-05-05'), (3, '2026-06-05')",
    "CREATE TABLE parent(a int); CREATE TABLE child(b int) INHERITS (parent); INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2, 3)",
    "CREATE TABLE made(a int GENERATED ALWAYS AS IDENTITY, b int, c int GENERATED ALWAYS AS (b * 2) STORED)",
    "INSERT INTO made(b) VALUES (10), (20)",
    "CREATE TABLE kinds(a bytea, b timestamptz, c money, d interval, e float8, f regclass, g xml, h jsonb, i numeric)",
    "INSERT INTO kinds VALUES ('\\x00ff5c', '2026-11-23 12:00:00.123+05', 12.5, '1 mon 2 days 03:04:05', 0.1::float8 + 0.2, 'plain', NULL, '{\"a\": 1}', 'NaN')",
    // Not every server is built with XML.
    "DO $$ BEGIN UPDATE kinds SET g = '<a/>'; EXCEPTION WHEN feature_not_supported THEN NULL; END $$",
    "CREATE TABLE big(a text)",
    "INSERT INTO big SELECT repeat(md5(i::text), 100000) FROM generate_series(1, 3) i",
    "CREATE UNLOGGED TABLE unlogged(a int); INSERT INTO unlogged VALUES (1)",
    "CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS c FROM plain",
    "CREATE MATERIALIZED VIEW mv_empty AS SELECT count(*) AS c FROM plain WITH NO DATA",
    "CREATE VIEW v AS SELECT * FROM plain",
    "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "SELECT lo_from_bytea(4711, '\\x0001020304'), lo_create(4712), lo_from_bytea(4713, decode(repeat('ab', 600000), 'hex')), lo_from_bytea(3000000000::oid, 'of the upper half')",
    "COMMENT ON LARGE OBJECT 4711 IS 'one'",
    "CREATE EXTENSION pg_trgm",
];

pub(super) fn awkward(server: &PgServer, name: &str) {
    server.create(name);
    server.sql(name, AWKWARD);
}

#[test]
fn a_good_copy_raises_no_finding_whatever_the_source_is_set_to() {
    let server = server!();
    awkward(&server, "good");
    for setting in [
        "timezone TO 'Asia/Kolkata'",
        "bytea_output TO 'escape'",
        "datestyle TO 'German'",
        "intervalstyle TO 'iso_8601'",
        "extra_float_digits TO 0",
        "search_path TO \"Ä \"\"s.x\", public",
        "client_encoding TO 'LATIN1'",
        "idle_in_transaction_session_timeout TO '50ms'",
        "statement_timeout TO '50ms'",
        "default_transaction_read_only TO on",
    ] {
        server.sql("postgres", &[&format!("ALTER DATABASE good SET {setting}")]);
    }
    let driver = driver(server.source("good"));
    driver.check(&cx()).unwrap();
    let mut ask = question("SELECT id, v, NULL, '' FROM public.plain WHERE id = 5 -- last");
    let taken = take(&driver, std::slice::from_ref(&ask));
    let row: Vec<Option<String>> = vec![Some("5".into()), Some("row 5".into()), None, Some(String::new())];
    assert_eq!(taken.dumped.answers["q"], [row]);
    assert_eq!(taken.dumped.findings, []);
    let tables = &facts(&taken).tables;
    let rows =
        |name: &str| tables.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("{name} in {tables:?}")).rows;
    assert_eq!(rows("public.plain"), 5000);
    assert_eq!(rows("public.nokeys"), 7);
    assert_eq!((rows("public.empty"), rows("public.nocolumns")), (0, 2));
    assert_eq!(rows("\"Ä \"\"s.x\".\"tä (b), \"\"l'e\\;\""), 1);
    assert_eq!((rows("public.\"order\""), rows("public.parted_2"), rows("public.parent")), (1, 2, 1));
    assert_eq!(facts(&taken).large_objects.rows, 4);
    assert_eq!(facts(&taken).roles, ["postgres"]);
    assert!(facts(&taken).extensions.contains_key("pg_trgm"));

    let member = stage(&driver, &taken).unwrap();
    assert!(member.place.starts_with("lb_") && member.place.len() <= 63);
    ask.sql = ask.sql.replace("id = 5", "id = 6");
    let verified = driver.verify(&cx(), &member, &taken.manifest, &taken.objects, std::slice::from_ref(&ask)).unwrap();
    assert_eq!(verified.findings, []);
    assert_eq!(verified.rows, tables.iter().map(|t| t.rows).sum::<u64>());
    assert_eq!(verified.answers["q"][0][1].as_deref(), Some("row 6"));
    assert_eq!(driver.query(&cx(), Some(&member), &ask).unwrap(), verified.answers["q"]);
    assert_eq!(driver.query(&cx(), None, &ask).unwrap(), verified.answers["q"]);

    // Statements run on the candidate as one, or not at all.
    driver.execute(&cx(), &member, &["DELETE FROM plain".into(), "SELECT 1/0".into()]).unwrap_err();
    driver.execute(&cx(), &member, &["DELETE FROM plain WHERE id = 6".into(), "DELETE FROM nokeys".into()]).unwrap();
    assert_eq!(server.sql(&member.place, &["SELECT count(*) FROM public.plain"]), "4999");
    let live = Member { place: "good".into(), ..member.clone() };
    assert!(driver.execute(&cx(), &live, &["DELETE FROM plain".into()]).is_err());

    driver.discard(&cx(), &member).unwrap();
    driver.discard(&cx(), &member).unwrap();
    assert!(driver.member_identity(&cx(), &member).is_err());
}

#[test]
fn every_deviation_is_found() {
    let server = server!();
    awkward(&server, "deviating");
    let driver = driver(server.source("deviating"));
    let taken = take(&driver, &[]);
    let changes: &[(&str, &[&str])] = &[
        ("INSERT INTO nokeys SELECT * FROM nokeys", &["row-count"]),
        ("UPDATE plain SET v = v || ' ' WHERE id = 77", &["content-hash"]),
        ("UPDATE big SET a = overlay(a placing 'x' from 1600000) WHERE ctid = '(0,1)'", &["content-hash"]),
        ("DELETE FROM plain WHERE id = 77", &["row-count"]),
        ("DELETE FROM nocolumns WHERE ctid = '(0,1)'", &["row-count"]),
        ("DELETE FROM parted WHERE id = 3", &["row-count"]),
        ("TRUNCATE plain", &["row-count"]),
        ("DROP TABLE \"order\"", &["table-missing", "object-missing"]),
        ("CREATE TABLE more(a int)", &["table-unexpected", "object-unexpected"]),
        ("ALTER TABLE empty RENAME a TO b", &["object-definition", "table-columns"]),
        ("SELECT lo_put(4713, 500000, '\\x00')", &["large-objects"]),
        ("SELECT lo_unlink(4712)", &["large-objects"]),
        ("DROP EXTENSION pg_trgm", &["extension", "object-missing"]),
        ("SELECT setval('plain_id_seq', 3)", &["sequence-behind"]),
        ("REFRESH MATERIALIZED VIEW mv WITH NO DATA", &["matview-unpopulated"]),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'plain_pkey'::regclass",
            &["invalid-index", "object-missing"],
        ),
        ("DROP FUNCTION f()", &["object-missing"]),
        (
            "CREATE COLLATION c (provider = icu, locale = 'de', version = '0')",
            &["collation-version", "object-unexpected"],
        ),
        (
            "ALTER TABLE plain ADD FOREIGN KEY (id) REFERENCES plain NOT VALID",
            &["constraint-not-validated", "object-unexpected"],
        ),
    ];
    let staged = stage(&driver, &taken).unwrap();
    assert_eq!(verify(&driver, &staged, &taken).findings, []);
    for (change, expected) in changes {
        if change.contains("icu")
            && server.sql(
                "postgres",
                &["SELECT count(*) FROM pg_collation WHERE collprovider = 'i' AND collversion IS NOT NULL"],
            ) == "0"
        {
            eprintln!("SKIPPED: collation versions; this PostgreSQL is built without ICU");
            continue;
        }
        // A copy of the candidate for each.
        let mut member = Member { place: format!("{}_x", staged.place), ..staged.clone() };
        server.sql("postgres", &[&format!("CREATE DATABASE {} TEMPLATE {}", member.place, staged.place)]);
        let cx = cx();
        let tools = super::super::tools::Tools::new(&cx, &driver.binding).unwrap();
        member.identity = super::super::identity(&tools, &member.place).unwrap().unwrap();
        server.sql(&member.place, &[change]);
        let verified = verify(&driver, &member, &taken);
        assert_eq!(rules(&verified), *expected, "{change}: {:#?}", verified.findings);
        driver.discard(&cx, &member).unwrap();
    }
}

#[test]
fn writers_between_snapshot_and_dump_change_nothing() {
    let server = server!();
    server.create("busy");
    server.sql(
        "busy",
        &["CREATE TABLE t(a int)", "INSERT INTO t SELECT generate_series(1, 1000)", "CREATE TABLE u(a int)"],
    );
    // A pg_dump that lets others write, and try to truncate, before it begins.
    let bin = tempfile::tempdir().unwrap();
    for tool in ["psql", "pg_restore"] {
        std::os::unix::fs::symlink(server.bin_dir.join(tool), bin.path().join(tool)).unwrap();
    }
    let psql = server.psql("busy");
    let psql: Vec<String> = std::iter::once(psql.get_program())
        .chain(psql.get_args())
        .map(|a| format!("'{}'", a.to_string_lossy()))
        .collect();
    let (psql, real, dir) = (psql.join(" "), server.bin_dir.display(), bin.path().display());
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in --version) exec {real}/pg_dump --version;; esac\n\
         {psql} -c 'INSERT INTO t SELECT generate_series(1, 500)' -c 'INSERT INTO u VALUES (1)' || exit 9\n\
         if [ ! -e {dir}/once ]; then touch {dir}/once; ({psql} -c 'TRUNCATE t'; echo done > {dir}/truncated) >/dev/null 2>&1 & sleep 1; \
         test -e {dir}/truncated && touch {dir}/too-early; fi\n\
         exec {real}/pg_dump \"$@\"\n"
    );
    write_program(&bin.path().join("pg_dump"), &script);
    let mut source = server.source("busy");
    source.bin_dir = Some(bin.path().to_owned());
    let driver = driver(source);
    let objects = Memory::default();
    let dumped = driver.dump(&cx(), &objects, &[question("SELECT count(*) FROM t")]).unwrap();
    assert!(bin.path().join("once").exists(), "the fault fired");
    assert!(!bin.path().join("too-early").exists(), "the lock held the truncate back");
    // pg_dump stood behind the truncate; starting over let it through, and then the table was empty in snapshot and dump alike.
    assert!(bin.path().join("truncated").exists());
    assert_eq!(dumped.answers["q"][0][0].as_deref(), Some("0"));
    let SourceFacts::Postgres(facts) = &dumped.facts else { panic!() };
    let rows = |name: &str| facts.tables.iter().find(|t| t.name == name).unwrap().rows;
    assert_eq!((rows("public.t"), rows("public.u")), (0, 1));
}

#[test]
fn a_newer_server_takes_the_backup_and_gives_it_back_equal() {
    let server = server!();
    let Some(programs) = std::env::var_os("LIFEBOAT_PG_BIN_NEWER") else {
        eprintln!(
            "SKIPPED: no second, newer PostgreSQL: LIFEBOAT_PG_BIN_NEWER is not set (`cargo xtask test` sets it)"
        );
        return;
    };
    let newer = PgServer::start_with(programs.into());
    awkward(&server, "upgraded");
    // The newer one may be built without XML.
    server.sql("upgraded", &["UPDATE kinds SET g = NULL"]);
    // Names that are words of its language only there: its pg_restore would quote them, and takes these tables for partitions.
    server.sql("upgraded", &["CREATE TABLE system_user AS SELECT 1 AS a", "CREATE TABLE json AS SELECT 2 AS a"]);
    let taken = take(&driver(server.source("upgraded")), &[]);
    let target = driver(newer.source("upgraded"));
    let member = stage(&target, &taken).unwrap();
    let verified = verify(&target, &member, &taken);
    assert!(verified.findings.iter().all(|f| f.severity < crate::Severity::Error), "{:#?}", verified.findings);
    assert_eq!(verified.rows, facts(&taken).tables.iter().map(|t| t.rows).sum::<u64>());
    // And not the other way round.
    newer.create("new");
    let taken = take(&driver(newer.source("new")), &[]);
    assert_eq!(stage(&driver(server.source("new")), &taken).unwrap_err().kind, crate::ErrorKind::Refused);
}

/// How many of the restored tables with rows are frozen, and how many there are.
fn frozen(server: &PgServer, member: &Member) -> String {
    server.sql(
        &member.place,
        &["SELECT count(*) FILTER (WHERE relallvisible > 0), count(*) FROM pg_class WHERE relkind = 'r' AND relpages > 0 \
           AND relnamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema')"],
    )
}

#[test]
fn several_jobs_restore_rows_that_are_frozen() {
    let server = server!();
    awkward(&server, "to_freeze");
    // Nobody else is to freeze anything meanwhile: only this table has rows enough for it.
    server.sql("to_freeze", &["ALTER TABLE plain SET (autovacuum_enabled = off)"]);
    // Rows of a domain: what checks it must still be asked.
    server.sql(
        "to_freeze",
        &[
            "CREATE DOMAIN day AS date CHECK (VALUE > '2000-01-01')",
            "CREATE TABLE dated AS SELECT day '2026-11-27' AS at",
        ],
    );
    let driver = driver(server.source("to_freeze"));
    let mut taken = take(&driver, &[]);
    let staged = |taken: &Taken, jobs| {
        let id = crate::identifier::fresh();
        let options = StageOptions { jobs, ..StageOptions::default() };
        let member = driver.stage(&cx(), &taken.manifest, &taken.objects, &id, &Target::Beside, &options).unwrap();
        assert_eq!(rules(&verify(&driver, &member, taken)), [""; 0]);
        member
    };
    let tables = "14";
    let several = staged(&taken, 2);
    let expected = if std::thread::available_parallelism().unwrap().get() > 1 { tables } else { "0" };
    assert_eq!(frozen(&server, &several), format!("{expected}|{tables}"));
    driver.discard(&cx(), &several).unwrap();
    // One job empties no table before it fills it: there is nothing it may freeze.
    let one = staged(&taken, 1);
    assert_eq!(frozen(&server, &one), format!("0|{tables}"));
    driver.discard(&cx(), &one).unwrap();

    // Dumps that ours never are: rows of partitions that are loaded through their root, which can't be frozen; and with names quoted in another
    // way than pg_restore would, which takes every table for such a partition. The server refuses that, and it is restored without.
    for (option, copies) in [
        ("--load-via-partition-root", "COPY public.parted ("),
        ("--quote-all-identifiers", "COPY \"public\".\"plain\" ("),
    ] {
        let out = std::process::Command::new(server.bin_dir.join("pg_dump"))
            .args(["-Fc", "-Z0", option, "-U", "postgres", "-h", &server.host, "-p"])
            .args([&server.port.to_string(), "-d", "to_freeze"])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(out.stdout.windows(copies.len()).any(|w| w == copies.as_bytes()), "{option} says nothing");
        taken.objects = Memory::default();
        taken.objects.objects.lock().unwrap().insert("data".into(), out.stdout);
        let member = stage(&driver, &taken).unwrap();
        let query =
            ["SELECT count(*) FROM ONLY parted_1", "SELECT count(*) FROM parted_2", "SELECT count(*) FROM plain"];
        assert_eq!(server.sql(&member.place, &query), "1\n2\n5000", "{option}");
        if option == "--quote-all-identifiers" {
            assert_eq!(frozen(&server, &member), format!("0|{tables}"));
        }
        driver.discard(&cx(), &member).unwrap();
    }
}
