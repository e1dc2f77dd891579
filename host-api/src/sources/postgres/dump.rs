//! A dump of one consistent snapshot.
//!
//! A snapshot alone is not enough: after it was taken, another session's committed `TRUNCATE` makes `pg_dump --snapshot` write the
//! table as empty, with exit code 0. So every table is locked (`ACCESS SHARE`, which only stops what would rewrite it) by the first
//! statements of the transaction, *before* its snapshot exists; and if the snapshot shows a table that is not locked, all starts over.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::time::Duration;

use crate::Finding;
use crate::child::{Child, Ended};
use crate::error::{Context, Error, Result};
use crate::manifest::{PostgresFacts, SourceFacts, TableFacts};
use crate::sources::{Answers, Dumped, ObjectSink, ObjectWriter, Question, Row};

use super::archive::{READ_BYTES, Reader, Summary};
use super::definitions::Definition;
use super::leftovers::{self, Attempts};
use super::session::{Gathering, Session};
use super::tools::Tools;

/// How often a dump starts over when tables come and go, or when a lock can't be had.
const ATTEMPTS_MAX: u32 = 5;
/// How long a lock is waited for in the first attempt. A session that waits to truncate a table stands behind our lock, and
/// `pg_dump` behind that session: only starting over lets all three go on. Doubled with each attempt.
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Most catalog rows that are read into memory.
const CATALOG_ROWS_MAX: usize = 10_000_000;

/// Tables that have rows or hold what has: OID and quoted name. Temporary ones are other sessions' own.
pub(super) const TABLES: &str = "SELECT c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' \
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' ORDER BY 1";

/// Roles that own something here or are granted something; the bootstrap role's are not on this record.
const ROLES: &str = "SELECT DISTINCT r.rolname FROM pg_catalog.pg_shdepend s JOIN pg_catalog.pg_roles r ON r.oid = s.refobjid \
    WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass \
    AND (s.dbid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()) \
    OR (s.dbid = 0 AND s.classid = 'pg_catalog.pg_database'::pg_catalog.regclass \
    AND s.objid = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())))";

/// Servers whose archives can be counted.
pub(super) fn check_server(version: u32) -> Result<()> {
    if (130_000..190_000).contains(&version) {
        return Ok(());
    }
    Err(Error::refused(format!("PostgreSQL {} is not supported", version / 10_000)).hint("PostgreSQL 13 to 18 are"))
}

/// Encoding of sessions: UTF-8, into which the server converts; bytes that claim no encoding stay as they are.
pub(super) fn session_encoding(database: &str) -> &'static str {
    if database == "SQL_ASCII" { "SQL_ASCII" } else { "UTF8" }
}

/// Dumps, and gives the definitions of what is in the archive.
pub(super) fn dump(
    tools: &Tools<'_>,
    source: &str,
    sink: &dyn ObjectSink,
    questions: &[Question],
) -> Result<(Dumped, Vec<Definition>)> {
    let database = &tools.binding.database;
    let server = tools.server_version(database)?;
    check_server(server)?;
    let dump_version = tools.matching_version("pg_dump", server)?;
    leftovers::end(tools, Attempts::Earlier)?;
    let mut lock_wait = LOCK_WAIT;
    let mut attempt = 1;
    loop {
        match dump_once(tools, source, sink, questions, server, &dump_version, lock_wait) {
            Ok(dumped) => return Ok(dumped),
            Err(Stopped::Final(e)) => return Err(e),
            Err(Stopped::StartOver(e)) if attempt == ATTEMPTS_MAX => {
                return Err(e
                    .context(format!("no consistent snapshot in {ATTEMPTS_MAX} attempts"))
                    .hint("tables are created, dropped or locked all the time: dump when no such change runs"));
            }
            Err(Stopped::StartOver(e)) => {
                tracing::info!(attempt, error = %e, "dump starts over");
                tools.cx.check()?;
            }
        }
        attempt += 1;
        lock_wait *= 2;
    }
}

/// Why an attempt ended: for good, or worth another.
enum Stopped {
    Final(Error),
    StartOver(Error),
}

impl From<Error> for Stopped {
    fn from(e: Error) -> Self {
        Self::Final(e)
    }
}

fn dump_once(
    tools: &Tools<'_>,
    source: &str,
    sink: &dyn ObjectSink,
    questions: &[Question],
    server: u32,
    dump_version: &str,
    lock_wait: Duration,
) -> Result<(Dumped, Vec<Definition>), Stopped> {
    let database = &tools.binding.database;
    let encoding = session_encoding(
        &tools
            .value(database, "SELECT pg_catalog.pg_encoding_to_char(encoding) FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()")?
            .unwrap_or_default(),
    );
    let mut session = Session::open(tools, database, encoding)?;
    lock_tables(&mut session, server, lock_wait)?;

    // Not before the transaction's first query is the snapshot taken; a little too early is on the safe side.
    let started_at_ms = crate::identifier::now_ms();
    let (snapshot, mut facts, mut findings) = read_facts(&mut session)?;
    let mut answers = Answers::new();
    for question in questions {
        answers.insert(question.name.clone(), session.ask(question)?);
    }

    // Indexes count, what is compressed in rows counts as such: about right is enough.
    let about_bytes = session
        .value("SELECT pg_catalog.pg_database_size(pg_catalog.current_database())")?
        .and_then(|bytes| bytes.parse().ok());
    let (writer, mut summary, ended) = run_pg_dump(tools, (sink, about_bytes), source, &snapshot, encoding, lock_wait)?;
    // Had the session ended in between, the locks would have gone with it.
    session.run("COMMIT;").map_err(|e| e.context("the session that held the snapshot"))?;
    session.close()?;

    findings.extend(ended.stderr.lines().filter(|l| !l.trim().is_empty() && !crate::child::quotes_rows(l)).map(
        |line| {
            Finding::warning(
                "pg-dump-said",
                crate::identifier::shown_long(line),
                "look into it before you rely on this backup",
            )
        },
    ));
    findings.extend(left_out(&summary));
    facts.server_version_num = server;
    facts.dump_version = dump_version.to_owned();
    let definitions = std::mem::take(&mut summary.definitions);
    complete_facts(&mut facts, summary);
    let entry = writer.finish()?;
    let facts = SourceFacts::Postgres(facts);
    Ok((Dumped { started_at_ms, objects: vec![entry], facts, answers, findings }, definitions))
}

fn lock_tables(session: &mut Session<'_>, server: u32, lock_wait: Duration) -> Result<(), Stopped> {
    let tables = session.rows(TABLES, CATALOG_ROWS_MAX)?;
    let mut begin =
        format!("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = {};", lock_wait.as_millis());
    if server >= 170_000 {
        begin.push_str(" SET LOCAL transaction_timeout = 0;");
    }
    session.run(&begin)?;
    let names: Vec<String> =
        tables.iter().filter_map(|row| row.get(1)?.as_ref().map(|n| format!("ONLY {n}"))).collect();
    for some in names.chunks(1_000) {
        let locked = session.run(&format!("LOCK TABLE {} IN ACCESS SHARE MODE;", some.join(", ")));
        if let Err(e) = locked {
            // No such table or schema any more; or the lock could not be had in time.
            return Err(match session.failed_with.as_deref() {
                Some("42P01" | "3F000" | "55P03") => Stopped::StartOver(e),
                _ => Stopped::Final(e.context("locking the tables")),
            });
        }
    }
    session.run("SET LOCAL lock_timeout = 0;")?;
    // This query takes the snapshot.
    let locked: BTreeSet<&Row> = tables.iter().collect();
    let seen = session.rows(TABLES, CATALOG_ROWS_MAX)?;
    match seen.iter().find(|row| !locked.contains(row)) {
        None => Ok(()),
        Some(row) => {
            Err(Stopped::StartOver(Error::conflict(format!("table {row:?} came while the others were locked"))))
        }
    }
}

/// The snapshot's name, the facts that the archive does not tell, and what they are worth.
fn read_facts(session: &mut Session<'_>) -> Result<(String, PostgresFacts, Vec<Finding>)> {
    let mut findings = Vec::new();
    let snapshot = session
        .value("SELECT pg_catalog.pg_export_snapshot()")?
        .ok_or_else(|| Error::failed("the server exported no snapshot"))?;
    let readable =
        session.value("SELECT pg_catalog.has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')")?;
    let system_identifier = if readable.as_deref() == Some("t") {
        session.value("SELECT system_identifier FROM pg_catalog.pg_control_system()")?
    } else {
        findings.push(Finding::warning(
            "system-identifier",
            "the server's identifier can't be read, so the backup does not say which cluster it is of",
            "grant execute on function pg_control_system() to the role that dumps",
        ));
        None
    };
    let row = session
        .rows(
            "SELECT datname, pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype \
             FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()",
            1,
        )?
        .pop()
        .unwrap_or_default();
    let text = |at: usize| row.get(at).cloned().flatten().unwrap_or_default();
    let mut extensions = BTreeMap::new();
    for row in session.rows("SELECT extname, extversion FROM pg_catalog.pg_extension", CATALOG_ROWS_MAX)? {
        if let [Some(name), Some(version)] = row.as_slice() {
            extensions.insert(name.clone(), version.clone());
        }
    }
    let roles =
        session.rows(ROLES, CATALOG_ROWS_MAX)?.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect();
    let facts = PostgresFacts {
        database: text(0),
        server_version_num: 0,
        dump_version: String::new(),
        archive_version: String::new(),
        system_identifier: system_identifier.unwrap_or_else(|| super::UNKNOWN_SYSTEM.into()),
        encoding: text(1),
        collate: text(2),
        ctype: text(3),
        tables: Vec::new(),
        large_objects: TableFacts { name: "large objects".into(), rows: 0, hash: String::new(), copy: None },
        extensions,
        roles,
        objects: BTreeMap::new(),
    };
    Ok((snapshot, facts, findings))
}

/// Streams `pg_dump` into the sink. The object is complete but not finished: it counts only if all else is right too.
fn run_pg_dump(
    tools: &Tools<'_>,
    (sink, about_bytes): (&dyn ObjectSink, Option<u64>),
    source: &str,
    snapshot: &str,
    encoding: &str,
    lock_wait: Duration,
) -> Result<(Box<dyn ObjectWriter>, Summary, Ended), Stopped> {
    let mut spec = tools.connected("pg_dump", &tools.binding.database, encoding)?;
    for argument in [
        "-Fc",
        "-Z0",
        "--no-sync",
        &format!("--snapshot={snapshot}"),
        &format!("--lock-wait-timeout={}", lock_wait.as_millis()),
    ] {
        spec = spec.arg(tools.word(argument));
    }
    let mut child = Child::spawn(tools.cx, &spec)?;
    drop(child.stdin());
    let mut stdout = Gathering::new(child.stdout());
    let what = format!("dump {source}");
    let mut reader = Reader::new();
    // Made with the first byte: an attempt that ends before it leaves nothing.
    let mut writer: Option<Box<dyn ObjectWriter>> = None;
    let mut buffer = vec![0; READ_BYTES];
    let mut done = 0_u64;
    loop {
        let count = stdout.read(&mut buffer).doing(|| "reading from pg_dump".into())?;
        if count == 0 {
            break;
        }
        reader.feed(&buffer[..count]).map_err(|e| e.context("what pg_dump wrote"))?;
        let writer = match &mut writer {
            Some(writer) => writer,
            none => none.insert(sink.create_about("data", "pgdump", about_bytes)?),
        };
        writer.write_all(&buffer[..count]).doing(|| "storing the dump".into())?;
        done += count as u64;
        tools.cx.report(&what, done, None);
    }
    let ended = child.wait()?;
    if !ended.success() {
        let error = tools.explain("pg_dump", &ended);
        let waited =
            writer.is_none() && (ended.stderr.contains("timeout") || ended.stderr.contains("could not obtain lock"));
        return Err(if waited { Stopped::StartOver(error) } else { Stopped::Final(error) });
    }
    let writer = writer.ok_or_else(|| Error::failed("pg_dump wrote nothing, with exit code 0"))?;
    let summary = reader.finish().map_err(|e| e.context("what pg_dump wrote, with exit code 0"))?;
    Ok((writer, summary, ended))
}

fn complete_facts(facts: &mut PostgresFacts, summary: Summary) {
    facts.archive_version = summary.version;
    facts.tables = summary
        .tables
        .into_iter()
        .map(|t| TableFacts {
            name: t.name,
            rows: t.rows.rows,
            hash: t.rows.hex(),
            copy: Some(t.copy.trim_end().to_owned()),
        })
        .collect();
    facts.large_objects.rows = summary.large_objects.rows;
    facts.large_objects.hash = summary.large_objects.hex();
    facts.objects = summary.objects;
    let roles: BTreeSet<String> = facts.roles.drain(..).chain(summary.owners).collect();
    // Predefined roles are on every server.
    facts.roles = roles.into_iter().filter(|role| !role.starts_with("pg_")).collect();
}

/// What PostgreSQL's own dump does not hold.
fn left_out(summary: &Summary) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut say = |kind: &str, rule: &str, message: &str, fix: &str| {
        if let Some(count) = summary.objects.get(kind) {
            findings.push(Finding::warning(rule, format!("{count} {message}"), fix));
        }
    };
    say(
        "SUBSCRIPTION",
        "subscription",
        "subscriptions are not restored with a candidate",
        "create them again by hand after a promotion",
    );
    say(
        "FOREIGN TABLE",
        "foreign-table",
        "foreign tables: their rows lie elsewhere and are in no backup of this database",
        "back up the server they are on",
    );
    findings
}
