//! A candidate with the rows of a backup in the structure that the live database has now: a newer version of the service was started on an
//! empty database and ran its migrations, and only the rows are wanted.
//!
//! Three parts, in the order in which PostgreSQL's own restore has them: what stands before data, of the live database; the rows, large objects
//! and values of sequences of the backup, and those of the tables that are kept, of the live database; what stands behind data (keys, indexes,
//! triggers), of the live database, so that it is made and checked over the rows. So foreign keys in circles are no trouble, no trigger
//! fires, and no superuser is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Context, Error, Result};
use crate::manifest::{ObjectEntry, PostgresFacts, SourceFacts};
use crate::sources::{DataOnly, ObjectSink, ObjectSource, ObjectWriter};

use super::contents::{Contents, Entry};
use super::definitions::Definition;
use super::restoring::{self, Archive};
use super::tools::Tools;
use super::{compare, dump, sql, stage};

/// Names in one refusal; a lost schema need not be a thousand of them.
const NAMED_MAX: usize = 30;
/// Tables that are looked into by one statement.
const LOOKED_INTO: usize = 200;

/// Tables with rows of their own but those of extensions: schema, name, quoted name.
const TABLES: &str = "SELECT n.nspname, c.relname, pg_catalog.format('%I.%I', n.nspname, c.relname) \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
    AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1, 2";

/// Columns that a row must have and nothing fills: schema, table, column.
const REQUIRED: &str = "SELECT n.nspname, c.relname, a.attname FROM pg_catalog.pg_attribute a \
    JOIN pg_catalog.pg_class c ON c.oid = a.attrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef AND a.attidentity = ''";

/// Sequences, each with the table that owns it: schema, name, the table's schema and name.
const SEQUENCES: &str = "SELECT sn.nspname, s.relname, tn.nspname, t.relname FROM pg_catalog.pg_class s \
    JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace \
    LEFT JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refclassid = d.classid \
    AND d.objid = s.oid AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0 \
    LEFT JOIN pg_catalog.pg_class t ON t.oid = d.refobjid LEFT JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace \
    WHERE s.relkind = 'S' AND s.relpersistence <> 't'";

/// Schema and name.
type Name = (String, String);

/// The live database as it was in one snapshot, and what of a backup fits into it.
pub(super) struct Migrated {
    archive: NamedTempFile,
    facts: PostgresFacts,
    definitions: Vec<Definition>,
    create_database: Option<String>,
    /// Of the backup's archive.
    rows: Contents,
    kept: BTreeSet<Name>,
    kept_sequences: BTreeSet<Name>,
}

impl Migrated {
    /// Dumps the live database and holds the backup against it. An error, before anything is made: it holds rows that would be lost, or
    /// the backup holds what it has no place for.
    pub fn of_live(
        tools: &Tools<'_>,
        objects: &dyn ObjectSource,
        backup: &Path,
        of_backup: &PostgresFacts,
        data_only: &DataOnly,
    ) -> Result<Self> {
        let kept = data_only.kept.iter().map(|name| sql::table_parts(name)).collect::<Result<BTreeSet<_>>>()?;
        // Not in the snapshot; before hours are spent on a database that is not empty.
        refuse_rows(filled_tables(tools, &kept)?)?;
        let archive = objects.private_file(tools.cx)?;
        let (dumped, definitions) = dump::dump(tools, "the live structure", &Private(&archive), &[])
            .map_err(|e| e.context("the structure of the live database"))?;
        let SourceFacts::Postgres(facts) = dumped.facts else {
            return Err(Error::failed("a bug: the live database has facts of another kind"));
        };
        let is_kept = |name: &str| sql::table_parts(name).is_ok_and(|parts| kept.contains(&parts));
        let mut filled: Vec<String> =
            facts.tables.iter().filter(|t| t.rows > 0 && !is_kept(&t.name)).map(|t| t.name.clone()).collect();
        if facts.large_objects.rows > 0 {
            filled.push(format!("{} large objects", facts.large_objects.rows));
        }
        refuse_rows(filled)?;
        // It is the live structure that is made anew, with its owners and grants; of the backup only large objects have any.
        stage::check_roles(tools, &facts, false)?;
        if of_backup.large_objects.rows > 0 {
            stage::check_roles(tools, of_backup, false)?;
        }

        let (live, rows) = (Contents::read(archive.path())?, Contents::read(backup)?);
        let sequences = sequences(tools)?;
        let kept_sequences: BTreeSet<Name> = sequences
            .iter()
            .filter(|(_, owner)| owner.as_ref().is_some_and(|owner| kept.contains(owner)))
            .map(|(sequence, _)| sequence.clone())
            .collect();
        let create_database = live.summary.create_database.clone();
        let migrated = Self { archive, facts, definitions, create_database, rows, kept, kept_sequences };
        migrated.check_fit(tools, &live, of_backup, &sequences)?;
        Ok(migrated)
    }

    /// The statement that would create the live database.
    pub fn create_database(&self) -> Option<&str> {
        self.create_database.as_deref()
    }

    /// What is true of the live database.
    pub fn facts(&self) -> &PostgresFacts {
        &self.facts
    }

    /// Fills a new database.
    pub fn fill(&self, tools: &Tools<'_>, backup: &Path, place: &str, jobs: usize) -> Result<()> {
        let live = |arguments: &[&str]| {
            restoring::restore(tools, place, arguments, Archive::File(self.archive.path(), jobs))
                .map_err(|e| e.context("the live structure"))
        };
        live(&["--section=pre-data", "--section=data"])?;
        tools.cx.at("structure made");
        let rows = self.rows.only(backup, |entry| self.wants(entry))?;
        restoring::restore(tools, place, &[], Archive::Stream(rows))
            .map_err(|e| e.context("the rows of the backup"))?;
        tools.cx.at("rows restored");
        live(&["--section=post-data"])?;
        compare::same_structure(tools, place, &self.facts, &self.definitions)
    }

    /// Whether an entry of the backup's archive is restored.
    fn wants(&self, entry: &Entry) -> bool {
        match entry.kind.as_str() {
            "TABLE DATA" => !self.kept.contains(&name(entry)),
            "SEQUENCE SET" => !self.kept_sequences.contains(&name(entry)),
            _ => entry.is_of_large_objects(),
        }
    }

    /// An error that names all that the backup has and the live structure has no place for.
    fn check_fit(
        &self,
        tools: &Tools<'_>,
        live: &Contents,
        of_backup: &PostgresFacts,
        sequences: &BTreeMap<Name, Option<Name>>,
    ) -> Result<()> {
        let mut problems = Vec::new();
        if (self.facts.encoding == "SQL_ASCII") != (of_backup.encoding == "SQL_ASCII") {
            problems.push(format!(
                "the backup is in encoding {}, the live database in {}",
                of_backup.encoding, self.facts.encoding
            ));
        }
        let places: BTreeMap<Name, Vec<String>> =
            live.tables().map(|entry| Ok((name(entry), columns(entry)?))).collect::<Result<_>>()?;
        for (schema, table) in self.kept.iter().filter(|kept| !places.contains_key(*kept)) {
            problems.push(format!(
                "table {}, whose rows are kept by `data-only-keeps`, is not there",
                shown(&(schema.clone(), table.clone()))
            ));
        }
        let filled: BTreeSet<Name> =
            of_backup.tables.iter().filter(|t| t.rows > 0).filter_map(|t| sql::table_parts(&t.name).ok()).collect();
        let mut given: BTreeMap<Name, Vec<String>> = BTreeMap::new();
        for entry in self.rows.tables().filter(|entry| self.wants(entry)) {
            let table = name(entry);
            match places.get(&table) {
                None => problems.push(format!("table {} of the backup is not there", shown(&table))),
                Some(places) => {
                    let columns = columns(entry)?;
                    for column in columns.iter().filter(|column| !places.contains(column)) {
                        problems.push(format!(
                            "column {} of table {} of the backup is not there, or is generated",
                            sql::identifier(column),
                            shown(&table)
                        ));
                    }
                    given.insert(table, columns);
                }
            }
        }
        for row in tools.rows(&tools.binding.database, REQUIRED)? {
            let [Some(schema), Some(table), Some(column)] = row.as_slice() else { continue };
            let table = (schema.clone(), table.clone());
            if filled.contains(&table) && given.get(&table).is_some_and(|given| !given.contains(column)) {
                problems.push(format!(
                    "column {} of table {} must have a value, has no default, and is not in the backup",
                    sql::identifier(column),
                    shown(&table)
                ));
            }
        }
        for entry in self.rows.entries.iter().filter(|entry| entry.kind == "SEQUENCE SET" && self.wants(entry)) {
            if !sequences.contains_key(&name(entry)) {
                problems.push(format!("sequence {} of the backup is not there", shown(&name(entry))));
            }
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(Error::refused(format!("the backup's rows do not fit the live structure: {}", listed(&problems))).hint(
            "restore the whole backup instead (without data-only) and let the service migrate it; or keep the live rows of such a table: \
             `data-only-keeps` of its source",
        ))
    }
}

/// An error if the live database holds what would be set aside.
fn refuse_rows(filled: Vec<String>) -> Result<()> {
    if filled.is_empty() {
        return Ok(());
    }
    let message =
        format!("the live database holds rows, and data alone go into an empty one only: {}", listed(&filled));
    Err(Error::refused(message).hint(
        "restore the whole backup (without data-only); or start the service on a new, empty database; or name tables whose rows are to stay: \
         `data-only-keeps` of the source",
    ))
}

/// Live tables with rows that are not kept.
fn filled_tables(tools: &Tools<'_>, kept: &BTreeSet<Name>) -> Result<Vec<String>> {
    let database = &tools.binding.database;
    let tables: Vec<String> = tools
        .rows(database, TABLES)?
        .into_iter()
        .filter_map(|row| {
            let [Some(schema), Some(table), Some(quoted)] = <[_; 3]>::try_from(row).ok()? else { return None };
            (!kept.contains(&(schema, table))).then_some(quoted)
        })
        .collect();
    let mut filled = Vec::new();
    for some in tables.chunks(LOOKED_INTO) {
        let each: Vec<String> = some
            .iter()
            .map(|table| format!("SELECT {} WHERE EXISTS (SELECT FROM ONLY {table})", sql::literal(table)))
            .collect();
        filled.extend(tools.rows(database, &each.join(" UNION ALL "))?.into_iter().flatten().flatten());
    }
    Ok(filled)
}

/// The live database's sequences, each with the table that owns it.
fn sequences(tools: &Tools<'_>) -> Result<BTreeMap<Name, Option<Name>>> {
    let rows = tools.rows(&tools.binding.database, SEQUENCES)?;
    Ok(rows
        .into_iter()
        .filter_map(|row| {
            let [schema, name, table_schema, table] = <[_; 4]>::try_from(row).ok()?;
            Some(((schema?, name?), table_schema.zip(table)))
        })
        .collect())
}

fn name(entry: &Entry) -> Name {
    (entry.schema.clone(), entry.tag.clone())
}

fn columns(entry: &Entry) -> Result<Vec<String>> {
    sql::copy_parts(&entry.copy).map(|(_, list)| sql::column_names(list))
}

fn shown((schema, name): &Name) -> String {
    crate::identifier::shown(&format!("{schema}.{name}"))
}

fn listed(names: &[String]) -> String {
    let mut listed = names[..names.len().min(NAMED_MAX)].join("; ");
    if names.len() > NAMED_MAX {
        listed.push_str(&format!("; and {} more", names.len() - NAMED_MAX));
    }
    listed
}

/// A private file for the one object of a dump that nobody stores. A dump that starts over begins it anew.
struct Private<'a>(&'a NamedTempFile);

struct PrivateWriter {
    file: File,
    bytes: u64,
}

impl ObjectSink for Private<'_> {
    fn create(&self, role: &str, _extension: &str, _expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        if role != "data" {
            return Err(Error::failed(format!("a bug: there is no place for `{role}` beside the live structure")));
        }
        let doing = || "writing the live structure".to_owned();
        self.0.as_file().set_len(0).doing(doing)?;
        Ok(Box::new(PrivateWriter { file: self.0.reopen().doing(doing)?, bytes: 0 }))
    }
}

impl Write for PrivateWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

impl ObjectWriter for PrivateWriter {
    fn finish(self: Box<Self>) -> Result<ObjectEntry> {
        // It is in no store: it has no key, and nobody compares it.
        Ok(ObjectEntry {
            role: "data".into(),
            key: String::new(),
            stored_bytes: self.bytes,
            stored_sha256: String::new(),
            plain_bytes: self.bytes,
            plain_sha256: String::new(),
            plain_xxh3_128: None,
        })
    }
}
