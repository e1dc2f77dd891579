//! The structure of a candidate, object by object.

use super::*;
use crate::Severity;

/// What a service may have made of a schema over the years; `ROLE` is a role of this test's own.
const SCHEMA: &[&str] = &[
    "CREATE SCHEMA app",
    "CREATE TABLE app.t(id int PRIMARY KEY, s varchar(20) DEFAULT 'new', n int DEFAULT 1, CONSTRAINT positive CHECK (n > 0))",
    "INSERT INTO app.t VALUES (1)",
    "CREATE INDEX by_s ON app.t (lower(s)) WHERE n > 1",
    "CREATE FUNCTION app.touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    "CREATE FUNCTION app.add(a int, b int DEFAULT 2) RETURNS int LANGUAGE sql AS 'SELECT a + b'",
    "CREATE OPERATOR app.<+> (leftarg = int, rightarg = int, function = app.add)",
    "CREATE FUNCTION app.join(a text, b text) RETURNS text LANGUAGE sql AS 'SELECT a || b'",
    "CREATE OPERATOR app.<+> (leftarg = text, rightarg = text, function = app.join)",
    "CREATE TRIGGER touches BEFORE UPDATE ON app.t FOR EACH ROW EXECUTE FUNCTION app.touch()",
    "ALTER TABLE app.t ENABLE ROW LEVEL SECURITY",
    "CREATE POLICY own ON app.t FOR SELECT USING (s = current_user)",
    "CREATE VIEW app.seen AS SELECT id FROM app.t WHERE n > 0",
    "CREATE SEQUENCE app.numbers INCREMENT 5",
    "GRANT SELECT ON app.t TO \"ROLE\"; ALTER DEFAULT PRIVILEGES IN SCHEMA app GRANT SELECT ON TABLES TO \"ROLE\"",
    "COMMENT ON TABLE app.t IS 'a table'",
];

/// A change, the rule of the one finding, and the object that it names.
const CHANGES: &[(&str, &str, &str)] = &[
    (
        "CREATE OR REPLACE FUNCTION app.add(a int, b int DEFAULT 2) RETURNS int LANGUAGE sql AS 'SELECT a - b'",
        "object-definition",
        "FUNCTION app.add(integer, integer) has",
    ),
    ("ALTER FUNCTION app.add SECURITY DEFINER", "object-definition", "FUNCTION app.add(integer, integer) has"),
    (
        "ALTER TABLE app.t DROP CONSTRAINT positive, ADD CONSTRAINT positive CHECK (n > -1000)",
        "object-definition",
        "TABLE app.t has",
    ),
    (
        "ALTER TABLE app.t DROP CONSTRAINT t_pkey, ADD CONSTRAINT t_pkey UNIQUE (id)",
        "object-definition",
        "t t_pkey has",
    ),
    ("ALTER TABLE app.t ALTER n SET DEFAULT 2", "object-definition", "TABLE app.t has"),
    ("ALTER TABLE app.t ALTER id SET STATISTICS 500", "object-definition", "TABLE app.t has"),
    ("ALTER POLICY own ON app.t USING (true)", "object-definition", "POLICY app.t own has"),
    ("ALTER TABLE app.t DISABLE ROW LEVEL SECURITY", "object-missing", "ROW SECURITY app.t is missing"),
    ("ALTER TABLE app.t DISABLE TRIGGER touches", "object-definition", "TRIGGER app.t touches has"),
    ("DROP TRIGGER touches ON app.t", "object-missing", "TRIGGER app.t touches is missing"),
    ("DROP INDEX app.by_s; CREATE INDEX by_s ON app.t (lower(s))", "object-definition", "INDEX app.by_s has"),
    ("CREATE INDEX more ON app.t (n)", "object-unexpected", "INDEX app.more was not in the backup"),
    ("CREATE OR REPLACE VIEW app.seen AS SELECT id FROM app.t", "object-definition", "VIEW app.seen has"),
    ("ALTER SEQUENCE app.numbers INCREMENT 6", "object-definition", "SEQUENCE app.numbers has"),
    ("DROP OPERATOR app.<+> (text, text)", "object-missing", "OPERATOR app.<+> is missing"),
    ("GRANT DELETE ON app.t TO \"ROLE\"", "object-definition", "ACL app.TABLE t has"),
    ("REVOKE ALL ON app.t FROM \"ROLE\"", "object-missing", "ACL app.TABLE t is missing"),
    ("COMMENT ON TABLE app.t IS 'another'", "object-definition", "COMMENT app.TABLE t has"),
    (
        "ALTER FUNCTION app.add OWNER TO \"ROLE\"",
        "object-owner",
        "FUNCTION app.add(integer, integer) belongs to structured_role, in",
    ),
    // What a candidate is told, and what comes and goes with use.
    ("COMMENT ON DATABASE DATABASE_NAME IS 'something'", "", ""),
    ("ALTER DATABASE DATABASE_NAME SET work_mem = '5MB'", "", ""),
    ("ANALYZE", "", ""),
];

/// Tests run side by side on one server: each has a role of its own.
fn role(database: &str) -> String {
    format!("{database}_role")
}

fn make(server: &PgServer, database: &str) {
    server.create(database);
    let role = role(database);
    server.sql("postgres", &[&format!("CREATE ROLE {role}")]);
    for statement in SCHEMA {
        server.sql(database, &[&statement.replace("ROLE", &role)]);
    }
}

/// A copy of a candidate, with a change.
fn changed(server: &PgServer, driver: &PostgresDriver, staged: &Member, change: &str) -> Member {
    let place = format!("{}_x", staged.place);
    server.sql("postgres", &[&format!("CREATE DATABASE {place} TEMPLATE {}", staged.place)]);
    server.sql(&place, &[&change.replace("ROLE", &role(&driver.binding.database)).replace("DATABASE_NAME", &place)]);
    let cx = cx();
    let tools = super::super::tools::Tools::new(&cx, &driver.binding).unwrap();
    let identity = super::super::identity(&tools, &place).unwrap().unwrap();
    Member { place, identity, ..staged.clone() }
}

#[test]
fn an_object_with_another_definition_is_found_and_named() {
    let server = server!();
    make(&server, "structured");
    let driver = driver(server.source("structured"));
    let taken = take(&driver, &[]);
    let staged = stage(&driver, &taken).unwrap();
    assert_eq!(verify(&driver, &staged, &taken).findings, []);
    let mut wrong = Vec::new();
    for (change, rule, named) in CHANGES {
        let member = changed(&server, &driver, &staged, change);
        let findings = verify(&driver, &member, &taken).findings;
        driver.discard(&cx(), &member).unwrap();
        let right = match (&findings[..], rule.is_empty()) {
            ([], true) => true,
            ([finding], false) => {
                finding.rule == *rule && finding.message.contains(named) && finding.severity == Severity::Error
            }
            _ => false,
        };
        if !right {
            wrong.push((change, findings));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    driver.discard(&cx(), &staged).unwrap();
}

/// What PostgreSQL itself prints in another way after a restore.
#[test]
fn what_a_restore_itself_writes_otherwise_raises_nothing() {
    let server = server!();
    server.create("rewritten");
    for statement in REWRITTEN {
        server.sql("rewritten", &[statement]);
    }
    let driver = driver(server.source("rewritten"));
    let taken = take(&driver, &[]);
    let member = stage(&driver, &taken).unwrap();
    let printed = |database: &str| {
        server.sql(database, &["SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'known'"])
    };
    assert_ne!(printed("rewritten"), printed(&member.place), "the case that this is about");
    assert_eq!(verify(&driver, &member, &taken).findings, []);
    // A restore of a restore is the same again.
    let again = super::driver(server.source(&member.place));
    let taken_again = take(&again, &[]);
    let definitions = |taken: &Taken| taken.objects.of_role("structure").unwrap();
    assert_eq!(definitions(&taken), definitions(&taken_again));
    driver.discard(&cx(), &member).unwrap();
}

const REWRITTEN: &[&str] = &[
    "CREATE DOMAIN kind AS varchar(10) CHECK (VALUE IN ('a', 'b')) DEFAULT 'a'",
    "CREATE TABLE t(id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, s varchar(20) NOT NULL DEFAULT 'new' \
     CONSTRAINT known CHECK (s IN ('new', 'it''s]', 'x, y')), c char(3) CHECK (c IN ('abc', 'def')), n numeric(10,2) CHECK (n IN (1.5, 2)), \
     k kind, i interval(3) DEFAULT '1 mon', b bit(3) DEFAULT b'101', neg int DEFAULT -1 CHECK (neg > -5), \
     a varchar[] CHECK (a <@ ARRAY['a', 'b']::varchar[] AND a::text[] <@ ARRAY[ARRAY['a'::varchar, 'b']]::text[]), \
     g text GENERATED ALWAYS AS (coalesce(s, '') || '-' || coalesce(c::text, '')) STORED)",
    "CREATE INDEX ON t (lower(s)) WHERE s IN ('new', 'old')",
    "CREATE VIEW v AS SELECT CASE WHEN s IN ('a', 'b') THEN 1 WHEN s LIKE 'x%' THEN 2 END AS w, s::varchar(5) AS short, -(-1) AS m, \
     substring(s FROM 1 FOR 2) AS sub, s COLLATE \"C\" AS co, extract(epoch FROM i) AS ep, (ARRAY[1, 2, 3])[2:3] AS sl FROM t \
     WHERE s NOT IN ('q', 'r') OR s ILIKE ANY (ARRAY['a%']) OR s SIMILAR TO 'a|b' OR n BETWEEN SYMMETRIC 1 AND 2",
    "CREATE MATERIALIZED VIEW mv AS SELECT s, count(*) FROM t WHERE s IN ('a', 'b') GROUP BY GROUPING SETS ((s), ())",
    "CREATE RULE r AS ON UPDATE TO v WHERE old.short IN ('a', 'b') DO ALSO DELETE FROM t WHERE c IN ('abc', 'b')",
    "CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    "CREATE TRIGGER tr BEFORE UPDATE OF s ON t FOR EACH ROW WHEN (NEW.s IN ('a', 'b')) EXECUTE FUNCTION trg('x', 'it''s')",
    "ALTER TABLE t ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON t USING (s IN ('a', 'b')) WITH CHECK (s NOT IN ('c', 'd'))",
    "CREATE FUNCTION f(a varchar) RETURNS bool RETURN a IN ('a', 'b')",
    "CREATE FUNCTION g(a varchar) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1 WHERE a IN ('a', 'b'); SELECT 2; END",
    "CREATE TABLE ex(r tsrange, s varchar, EXCLUDE USING gist (r WITH &&) WHERE (s IN ('a', 'b')))",
    // The columns of its parent come first once it is restored.
    "CREATE TABLE par(x int, y varchar(5)); CREATE TABLE chi(z int, y varchar(5), x int, CHECK (z IN (1, 2))); ALTER TABLE chi INHERIT par",
    "CREATE TABLE chi2(q int DEFAULT 5) INHERITS (par); ALTER TABLE chi2 ALTER x SET DEFAULT 7, ALTER y SET NOT NULL",
    "CREATE TABLE part(a int, s varchar(5)) PARTITION BY RANGE (a); CREATE TABLE part_1(s varchar(5), a int NOT NULL)",
    "ALTER TABLE part ATTACH PARTITION part_1 FOR VALUES FROM (MINVALUE) TO (10)",
    "CREATE TABLE days(t timestamptz) PARTITION BY RANGE (t); CREATE TABLE day_1 PARTITION OF days FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')",
    // Views that need each other.
    "CREATE VIEW one AS SELECT 1 AS a; CREATE VIEW two AS SELECT a FROM one; CREATE OR REPLACE VIEW one AS SELECT a FROM (VALUES (1)) z(a)",
    "INSERT INTO t(s) VALUES ('new')",
];

#[test]
fn a_backup_without_definitions_is_compared_by_kind_and_number_and_says_so() {
    let server = server!();
    make(&server, "structured_before");
    let driver = driver(server.source("structured_before"));
    let mut taken = take(&driver, &[]);
    taken.manifest.objects.retain(|object| object.role != "structure");
    let staged = stage(&driver, &taken).unwrap();
    let verified = verify(&driver, &staged, &taken);
    let [said] = &verified.findings[..] else { panic!("{:#?}", verified.findings) };
    assert!(said.severity == Severity::Info && said.message.contains("by kind and number"), "{said:?}");
    let member = changed(&server, &driver, &staged, "DROP TRIGGER touches ON app.t");
    assert_eq!(rules(&verify(&driver, &member, &taken)), ["object-definition", "object-count"]);
    driver.discard(&cx(), &member).unwrap();
    driver.discard(&cx(), &staged).unwrap();
}

#[test]
fn definitions_that_can_not_be_read_are_no_pass() {
    let server = server!();
    make(&server, "structured_badly");
    let driver = driver(server.source("structured_badly"));
    let taken = take(&driver, &[]);
    let staged = stage(&driver, &taken).unwrap();
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() - 5);
    cut(taken.objects.objects.lock().unwrap().get_mut("structure").unwrap());
    let error = driver.verify(&cx(), &staged, &taken.manifest, &taken.objects, &[]).unwrap_err();
    assert!(error.message.contains("has no end") && error.hint.is_some(), "{error}");
    driver.discard(&cx(), &staged).unwrap();
}

#[test]
fn on_a_newer_major_version_objects_are_compared_by_kind_and_name() {
    let server = server!();
    let Some(programs) = std::env::var_os("LIFEBOAT_PG_BIN_NEWER") else {
        eprintln!(
            "SKIPPED: no second, newer PostgreSQL: LIFEBOAT_PG_BIN_NEWER is not set (`cargo xtask test` sets it)"
        );
        return;
    };
    make(&server, "structured_older");
    for statement in REWRITTEN {
        server.sql("structured_older", &[statement]);
    }
    let taken = take(&driver(server.source("structured_older")), &[]);
    let newer = PgServer::start_with(programs.into());
    newer.sql("postgres", &[&format!("CREATE ROLE {}", role("structured_older"))]);
    let driver = driver(newer.source("structured_older"));
    let staged = stage(&driver, &taken).unwrap();
    let verified = verify(&driver, &staged, &taken);
    let [said] = &verified.findings[..] else { panic!("{:#?}", verified.findings) };
    assert!(said.severity == Severity::Info && said.message.contains("not checkable"), "{said:?}");
    for (change, rule) in [
        ("ALTER POLICY own ON app.t USING (true)", None),
        ("DROP POLICY own ON app.t", Some("object-missing")),
        ("CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'", Some("object-unexpected")),
    ] {
        let member = changed(&newer, &driver, &staged, change);
        let expected: Vec<&str> = std::iter::once("object-definition").chain(rule).collect();
        assert_eq!(rules(&verify(&driver, &member, &taken)), expected, "{change}");
        driver.discard(&cx(), &member).unwrap();
    }
}
