//! Reading a candidate back and comparing it with the manifest.
//!
//! Every table is read with the archive's own COPY statement, in a session pinned as the dump's was, and counted and hashed by the same
//! code. The structure is compared through `pg_dump` itself: the entries it would write, each with a digest of its definition.

use std::collections::{BTreeMap, HashSet};

use crate::Finding;
use crate::error::{Error, Result};
use crate::manifest::{PostgresFacts, SourceManifest};
use crate::sources::{Member, ObjectSource, Question, Row, Verified};

use super::cluster::Cluster;
use super::dump::{TABLES, session_encoding};
use super::rows::{LargeObjectHasher, RowSum};
use super::session::Session;
use super::tools::Tools;

mod reading;
mod rows_alone;
mod structure;

use reading::{Candidate, Reading};
pub(super) use structure::same_structure;

const CATALOG_ROWS_MAX: usize = 10_000_000;
/// Large objects are read in pieces of this size: a whole one may not fit a value.
const PIECE_BYTES: u32 = 256 * 1024;
/// Findings of one kind are listed up to this many; a lost schema need not be a thousand lines.
const LISTED_MAX: usize = 50;

/// How reading sessions begin; what depends on the search path (`regclass`, say) is written out in full.
const BEGIN: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;";
const PIN: &str = "SET LOCAL search_path = ''; SET LOCAL row_security = off;";

/// What a candidate is, held against its manifest. `private`: the server that it has for itself, if it has one.
pub(super) fn verify(
    tools: &Tools<'_>,
    member: &Member,
    private: Option<&Cluster<'_>>,
    source: &SourceManifest,
    objects: &dyn ObjectSource,
    questions: &[Question],
) -> Result<Verified> {
    let facts = super::facts(source)?;
    let place = member.place.as_str();
    let data_only = member.data_only.as_ref();
    let mut verified = Verified::default();
    let server = tools.server_version(place)?;
    let encoding = session_encoding(&facts.encoding);
    let mut session = Session::open(tools, place, encoding)?;
    session.run(BEGIN)?;
    // Before the search path is emptied: they are written for the usual one.
    for question in questions {
        verified.answers.insert(question.name.clone(), session.ask(question)?);
    }
    session.run(PIN)?;
    let mut findings = Vec::new();
    let tables = match data_only {
        None => {
            check_database(&mut session, facts, &mut findings)?;
            check_extensions(&mut session, facts, &mut findings)?;
            check_matviews(&mut session, facts, &mut findings)?;
            let tables = reading::find_tables(&mut session, facts, &mut findings)?;
            check_tables_unexpected(&mut session, &tables, &mut findings)?;
            tables
        }
        Some(data_only) => {
            let mut tables = reading::find_tables(&mut session, facts, &mut findings)?;
            rows_alone::leave_kept(data_only, facts, &mut tables, &mut findings)?;
            rows_alone::check_columns(&mut session, facts, &tables, &mut findings)?;
            tables
        }
    };
    check_large_objects(&mut session, facts, &mut findings)?;
    check_sequences(&mut session, data_only.is_some(), &mut findings)?;
    check_catalog(&mut session, server, &mut findings)?;
    session.close()?;
    let mut of_rows = Vec::new();
    // pg_dump waits for many small answers, beside which the rows are read.
    let (of_structure, rows) = std::thread::scope(|scope| {
        let structure = scope.spawn(|| match data_only {
            None => structure::check(tools, place, source, objects, server),
            Some(_) => Ok(Vec::new()),
        });
        let candidate = Candidate { tools, place, encoding, private };
        let rows = reading::read_tables(&candidate, facts, &tables, &mut of_rows);
        (structure.join().unwrap_or_else(|_| Err(Error::failed("a bug: a thread panicked"))), rows)
    });
    findings.extend(of_structure?);
    findings.extend(of_rows);
    verified.rows = rows?;
    verified.findings = findings;
    Ok(verified)
}

fn check_database(session: &mut Session<'_>, facts: &PostgresFacts, findings: &mut Vec<Finding>) -> Result<()> {
    let rows = session.rows(
        "SELECT pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype FROM pg_catalog.pg_database \
         WHERE datname = pg_catalog.current_database()",
        1,
    )?;
    let found: Vec<String> = rows.into_iter().flatten().flatten().collect();
    let expected = [&facts.encoding, &facts.collate, &facts.ctype];
    if !found.iter().eq(expected) {
        findings.push(Finding::error(
            "encoding",
            format!(
                "encoding and locale are {}, the backup's were {} / {} / {}",
                found.join(" / "),
                expected[0],
                expected[1],
                expected[2]
            ),
            "stage the backup again",
        ));
    }
    Ok(())
}

fn check_extensions(session: &mut Session<'_>, facts: &PostgresFacts, findings: &mut Vec<Finding>) -> Result<()> {
    let mut found: BTreeMap<String, String> = BTreeMap::new();
    for row in session.rows("SELECT extname, extversion FROM pg_catalog.pg_extension", CATALOG_ROWS_MAX)? {
        if let [Some(name), Some(version)] = row.as_slice() {
            found.insert(name.clone(), version.clone());
        }
    }
    for (name, version) in &facts.extensions {
        match found.remove(name) {
            None => findings.push(Finding::error(
                "extension",
                format!("extension {name} is missing"),
                "install it on the server",
            )),
            Some(other) if other != *version => findings.push(Finding::warning(
                "extension",
                format!("extension {name} is version {other}, the backup's was {version}"),
                "check that the service works with it, or install the other version on the server",
            )),
            Some(_) => {}
        }
    }
    for name in found.keys() {
        findings.push(Finding::warning(
            "extension",
            format!("extension {name} was not in the backup"),
            "the server's template0 may have it",
        ));
    }
    Ok(())
}

fn check_tables_unexpected(session: &mut Session<'_>, tables: &[Reading], findings: &mut Vec<Finding>) -> Result<()> {
    let known: HashSet<&str> = tables.iter().map(|table| table.oid.as_str()).collect();
    // Parents of partitions and tables of extensions have no rows in an archive.
    let unexpected = session.rows(
        &format!(
            "SELECT t.* FROM ({TABLES}) AS t(oid, name) JOIN pg_catalog.pg_class c ON c.oid = t.oid WHERE c.relkind = 'r' \
             AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
             AND d.objid = c.oid AND d.deptype = 'e')"
        ),
        CATALOG_ROWS_MAX,
    )?;
    for row in &unexpected {
        if let [Some(oid), Some(name)] = row.as_slice()
            && !known.contains(oid.as_str())
        {
            listed(
                findings,
                Finding::error(
                    "table-unexpected",
                    format!("table {name} was not in the backup"),
                    "stage the backup again",
                ),
            );
        }
    }
    Ok(())
}

fn check_large_objects(session: &mut Session<'_>, facts: &PostgresFacts, findings: &mut Vec<Finding>) -> Result<()> {
    // Descriptors are closed as soon as the size is known; the innermost queries are fenced, so that nothing changes their order.
    session.send(&format!(
        "COPY (SELECT oid, at, pg_catalog.lo_get(oid, at, {PIECE_BYTES}) FROM (\
         SELECT o.oid, at FROM (SELECT oid, size FROM (\
         SELECT oid, fd, pg_catalog.lo_lseek64(fd, 0, 2) AS size FROM (\
         SELECT oid, pg_catalog.lo_open(oid, 262144) AS fd FROM pg_catalog.pg_largeobject_metadata OFFSET 0) a OFFSET 0) b \
         WHERE pg_catalog.lo_close(fd) = 0) o, \
         LATERAL pg_catalog.generate_series(0::bigint, greatest(size - 1, 0), {PIECE_BYTES}) AS at ORDER BY 1, 2) pieces) TO STDOUT;"
    ))?;
    let mut total = RowSum::default();
    let mut current: Option<LargeObjectHasher> = None;
    session.lines(|line| {
        let bad = || Error::failed("a large object can't be read back");
        let mut fields = line.split(|b| *b == b'\t');
        let (Some(oid), Some(at), Some(bytes)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(bad());
        };
        if at == b"0" {
            if let Some(done) = current.take() {
                total.add(done.digest());
            }
            let oid = std::str::from_utf8(oid).ok().and_then(|oid| oid.parse().ok()).ok_or_else(bad)?;
            current = Some(LargeObjectHasher::new(oid));
        }
        // `\\x…`: the backslash is doubled in COPY text.
        let bytes = bytes.strip_prefix(b"\\\\x").and_then(|text| hex::decode(text).ok()).ok_or_else(bad)?;
        current.as_mut().ok_or_else(bad)?.update(&bytes);
        Ok(())
    })?;
    if let Some(done) = current {
        total.add(done.digest());
    }
    if (total.rows, total.hex()) != (facts.large_objects.rows, facts.large_objects.hash.clone()) {
        let what = if total.rows == facts.large_objects.rows {
            format!("{} large objects as in the backup, but with other contents", total.rows)
        } else {
            format!("{} large objects, the backup has {}", total.rows, facts.large_objects.rows)
        };
        findings.push(Finding::error("large-objects", what, "use another backup"));
    }
    Ok(())
}

fn check_sequences(session: &mut Session<'_>, migrated: bool, findings: &mut Vec<Finding>) -> Result<()> {
    let owned = session.rows(
        "SELECT pg_catalog.format('%I.%I', sn.nspname, s.relname), pg_catalog.format('%I.%I', tn.nspname, t.relname), \
         pg_catalog.quote_ident(a.attname) \
         FROM pg_catalog.pg_depend d \
         JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S' \
         JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace \
         JOIN pg_catalog.pg_sequence q ON q.seqrelid = s.oid AND q.seqincrement > 0 AND NOT q.seqcycle \
         JOIN pg_catalog.pg_class t ON t.oid = d.refobjid \
         JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace \
         JOIN pg_catalog.pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid \
         WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid \
         AND d.deptype IN ('a', 'i') AND a.atttypid IN (20, 21, 23)",
        CATALOG_ROWS_MAX,
    )?;
    for row in owned {
        let [Some(sequence), Some(table), Some(column)] = row.as_slice() else { continue };
        let behind = session.value(&format!(
            "SELECT m.max FROM {sequence} s, (SELECT pg_catalog.max({column})::bigint AS max FROM {table}) m \
             WHERE m.max > s.last_value OR (m.max = s.last_value AND NOT s.is_called)"
        ))?;
        if let Some(max) = behind {
            // A warning: values written by hand leave the source itself like this, and a restore repeats it faithfully. In another structure
            // than the source's there is no such excuse: it was not behind there.
            let finding = if migrated { Finding::error } else { Finding::warning };
            listed(
                findings,
                finding(
                    "sequence-behind",
                    format!(
                        "sequence {sequence} is behind {table}.{column}, whose largest value is {max}: inserts will collide"
                    ),
                    format!("select setval('{}', (select max({column}) from {table}))", sequence.replace('\'', "''")),
                ),
            );
        }
    }
    Ok(())
}

fn names(session: &mut Session<'_>, query: &str) -> Result<Vec<String>> {
    Ok(session.rows(query, CATALOG_ROWS_MAX)?.into_iter().flat_map(Row::into_iter).flatten().collect())
}

fn check_matviews(session: &mut Session<'_>, facts: &PostgresFacts, findings: &mut Vec<Finding>) -> Result<()> {
    let mut names = |query: &str| names(session, query);
    let populated = names(
        "SELECT c.oid::pg_catalog.regclass FROM pg_catalog.pg_class c WHERE c.relkind = 'm' AND c.relispopulated",
    )?
    .len() as u64;
    let expected = facts.objects.get("MATERIALIZED VIEW DATA").copied().unwrap_or(0);
    if populated < expected {
        let empty = names(
            "SELECT c.oid::pg_catalog.regclass FROM pg_catalog.pg_class c WHERE c.relkind = 'm' AND NOT c.relispopulated",
        )?;
        findings.push(Finding::error(
            "matview-unpopulated",
            format!(
                "{populated} materialized views are filled, the backup has {expected}; not filled: {}",
                empty.join(", ")
            ),
            "refresh materialized view …",
        ));
    }
    Ok(())
}

fn check_catalog(session: &mut Session<'_>, server: u32, findings: &mut Vec<Finding>) -> Result<()> {
    let mut names = |query: &str| names(session, query);
    for index in names(
        "SELECT i.indexrelid::pg_catalog.regclass FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid WHERE c.relkind = 'i' AND NOT i.indisvalid",
    )? {
        listed(
            findings,
            Finding::error("invalid-index", format!("index {index} is not valid"), format!("reindex index {index}")),
        );
    }
    for constraint in names(
        "SELECT pg_catalog.format('%s on %s', pg_catalog.quote_ident(conname), conrelid::pg_catalog.regclass) FROM pg_catalog.pg_constraint WHERE NOT convalidated AND contype = 'f'",
    )? {
        listed(
            findings,
            Finding::warning(
                "constraint-not-validated",
                format!("foreign key {constraint} was never checked against the rows"),
                "alter table … validate constraint …",
            ),
        );
    }
    if server < 150_000 {
        findings.push(Finding::info(
            "collation-version",
            "collation versions of databases are not checkable before PostgreSQL 15",
        ));
        return Ok(());
    }
    let differing = names(
        "SELECT pg_catalog.format('the database was made with collation version %s, the system has %s', datcollversion, \
         pg_catalog.pg_database_collation_actual_version(oid)) FROM pg_catalog.pg_database \
         WHERE datname = pg_catalog.current_database() AND datcollversion <> pg_catalog.pg_database_collation_actual_version(oid) \
         UNION ALL SELECT pg_catalog.format('collation %s was made with version %s, the system has %s', oid::pg_catalog.regcollation, \
         collversion, pg_catalog.pg_collation_actual_version(oid)) FROM pg_catalog.pg_collation \
         WHERE collversion <> pg_catalog.pg_collation_actual_version(oid) AND oid >= 16384",
    )?;
    for difference in differing {
        findings.push(Finding::error(
            "collation-version",
            difference,
            "rebuild what depends on it, then alter … refresh collation version",
        ));
    }
    Ok(())
}

/// Adds a finding, up to [`LISTED_MAX`] of its rule, then one that says there are more.
fn listed(findings: &mut Vec<Finding>, finding: Finding) {
    match findings.iter().filter(|f| f.rule == finding.rule).count() {
        count if count < LISTED_MAX => findings.push(finding),
        count if count == LISTED_MAX => findings.push(Finding { message: "and more of this kind".into(), ..finding }),
        _ => {}
    }
}
