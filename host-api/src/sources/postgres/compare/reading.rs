//! Reading the tables of a candidate, and what of their rows is not as in the manifest.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Finding;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{PostgresFacts, TableFacts};

use super::super::cluster::Cluster;
use super::super::leftovers;
use super::super::rows::RowSum;
use super::super::session::Session;
use super::super::sql;
use super::super::tools::Tools;
use super::super::written::WrittenRows;
use super::{BEGIN, CATALOG_ROWS_MAX, PIN, listed};

/// Sessions that read tables side by side; hashing keeps up with two, and more would only wait for the disk.
const READERS_MAX: usize = 2;
/// From this size on a private server writes a table's rows into a pipe itself; what that takes before the first row is more than it saves below.
const WRITTEN_BYTES_MIN: u64 = 1024 * 1024;
/// SQLSTATE of a column that does not exist.
const UNDEFINED_COLUMN: &str = "42703";

/// Where tables are read.
pub(super) struct Candidate<'a> {
    /// As the role that restored them.
    pub tools: &'a Tools<'a>,
    /// Its database.
    pub place: &'a str,
    /// What text is read in.
    pub encoding: &'a str,
    /// The server that it has for itself, if it has one.
    pub private: Option<&'a Cluster<'a>>,
}

impl<'a> Candidate<'a> {
    fn session(&self, tools: &'a Tools<'a>) -> Result<Session<'a>> {
        let mut session = Session::open(tools, self.place, self.encoding)?;
        session.run(&format!("{BEGIN} {PIN}"))?;
        Ok(session)
    }
}

/// A table to read: its place in the facts, and what is asked for.
pub(super) struct Reading {
    pub table: usize,
    pub oid: String,
    /// What its COPY statement names.
    what: String,
    /// Only some of its rows, by a query.
    is_query: bool,
    size_bytes: u64,
}

/// Finds the tables of the manifest; a finding for each that is not there.
pub(super) fn find_tables(
    session: &mut Session<'_>,
    facts: &PostgresFacts,
    findings: &mut Vec<Finding>,
) -> Result<Vec<Reading>> {
    let names: Vec<String> = facts.tables.iter().map(|t| sql::literal(&t.name)).collect();
    let rows = session.rows(
        &format!(
            "SELECT c.oid, pg_catalog.pg_table_size(c.oid) \
             FROM pg_catalog.unnest(ARRAY[{}]::text[]) WITH ORDINALITY AS n(name, i) \
             LEFT JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(n.name) ORDER BY n.i",
            names.join(", ")
        ),
        CATALOG_ROWS_MAX,
    )?;
    // Rows that an extension puts in its own tables are not in an archive: it says which are.
    let conditions: HashMap<String, String> = session
        .rows(
            "SELECT pg_catalog.unnest(extconfig), pg_catalog.unnest(extcondition) FROM pg_catalog.pg_extension",
            CATALOG_ROWS_MAX,
        )?
        .into_iter()
        .filter_map(|row| Some((row.first()?.clone()?, row.get(1)?.clone()?)))
        .filter(|(_, condition)| !condition.is_empty())
        .collect();
    let mut tables = Vec::new();
    for (table, (expected, row)) in facts.tables.iter().zip(&rows).enumerate() {
        let [Some(oid), Some(size)] = row.as_slice() else {
            listed(
                findings,
                Finding::error("table-missing", format!("table {} is missing", expected.name), "use another backup"),
            );
            continue;
        };
        let copy = expected
            .copy
            .as_deref()
            .ok_or_else(|| Error::failed(format!("the manifest does not say how {} was read", expected.name)))?;
        let (from, columns) = sql::copy_parts(copy)?;
        let condition = conditions.get(oid);
        let what = match condition {
            Some(condition) => format!("(SELECT {} FROM ONLY {from} {condition})", columns.trim_matches(['(', ')'])),
            None => format!("{from} {columns}"),
        };
        let size_bytes = size.parse().unwrap_or(0);
        tables.push(Reading { table, oid: oid.clone(), what, is_query: condition.is_some(), size_bytes });
    }
    Ok(tables)
}

/// Reads every table, large ones first, and gives the number of rows.
pub(super) fn read_tables(
    candidate: &Candidate<'_>,
    facts: &PostgresFacts,
    readings: &[Reading],
    findings: &mut Vec<Finding>,
) -> Result<u64> {
    let mut order: Vec<&Reading> = readings.iter().collect();
    order.sort_by_key(|r| std::cmp::Reverse(r.size_bytes));
    let (next, total_bytes) = (AtomicUsize::new(0), order.iter().map(|r| r.size_bytes).sum::<u64>());
    let results: Mutex<(BTreeMap<usize, Read>, u64)> = Mutex::default();
    let administrator = candidate.private.map(|private| (private, private.binding_of_administrator()));
    let administrator = match &administrator {
        Some((private, binding)) => Some((*private, Tools::new(candidate.tools.cx, binding)?)),
        None => None,
    };
    let read = || -> Result<()> {
        let mut reader = Reader { candidate, administrator: administrator.as_ref(), sent: None, written: None };
        while let Some(reading) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
            let found = reader
                .read(reading)
                .map_err(|e| e.context(format!("reading table {}", facts.tables[reading.table].name)))?;
            let mut results = results.lock().expect("no panic while held");
            results.0.insert(reading.table, found);
            results.1 += reading.size_bytes;
            candidate.tools.cx.report(&format!("verify {}", candidate.place), results.1, Some(total_bytes));
        }
        reader.close()
    };
    let readers = std::thread::available_parallelism().map_or(1, usize::from).min(READERS_MAX).min(order.len());
    let read = std::thread::scope(|scope| {
        let readers: Vec<_> = (0..readers).map(|_| scope.spawn(read)).collect();
        readers.into_iter().try_for_each(|reader| {
            reader.join().unwrap_or_else(|_| Err(Error::failed("a bug: a reading thread panicked")))
        })
    });
    read.map_err(|error| match &administrator {
        // Its sessions are another role's, which whoever cleans up behind the candidate's does not see.
        Some((_, tools)) => leftovers::after(tools, error),
        None => error,
    })?;
    let (results, _) = results.into_inner().expect("no panic while held");
    if results.len() != readings.len() {
        return Err(Error::failed(format!("{} of {} tables were read", results.len(), readings.len())));
    }
    let mut rows = 0;
    for (table, found) in results {
        let expected = &facts.tables[table];
        match found {
            Read::Rows(sum) => {
                rows += sum.rows;
                compare_rows(expected, sum, findings);
            }
            Read::OtherColumns(e) => listed(
                findings,
                Finding::error(
                    "table-columns",
                    format!("table {} has other columns than in the backup: {}", expected.name, e.message),
                    "stage the backup again",
                ),
            ),
        }
    }
    Ok(rows)
}

enum Read {
    Rows(RowSum),
    /// Such a column does not exist: a difference, not a check that could not run.
    OtherColumns(Error),
}

/// Reads one table after the other, in sessions that it opens when it needs them.
struct Reader<'a> {
    candidate: &'a Candidate<'a>,
    administrator: Option<&'a (&'a Cluster<'a>, Tools<'a>)>,
    /// Rows come through its client.
    sent: Option<Session<'a>>,
    written: Option<WrittenRows<'a>>,
}

impl<'a> Reader<'a> {
    fn read(&mut self, reading: &Reading) -> Result<Read> {
        // A query may call what the archive brought: not as a superuser.
        if !reading.is_query
            && reading.size_bytes >= WRITTEN_BYTES_MIN
            && let Some(read) = self.read_written(reading)?
        {
            return Ok(read);
        }
        let open = match &mut self.sent {
            Some(open) => open,
            none => none.insert(self.candidate.session(self.candidate.tools)?),
        };
        match open.hash(&reading.what) {
            Ok(sum) => Ok(Read::Rows(sum)),
            Err(e) if open.failed_with.as_deref() == Some(UNDEFINED_COLUMN) => {
                // The session ended with it.
                self.sent = None;
                Ok(Read::OtherColumns(e))
            }
            Err(e) => Err(e),
        }
    }

    /// The same by the server itself; none where it has no pipe to write to. Then it can still be asked.
    fn read_written(&mut self, reading: &Reading) -> Result<Option<Read>> {
        let Some((private, tools)) = self.administrator else { return Ok(None) };
        let opened = match self.written.take() {
            Some(open) => Ok(open),
            None => self.candidate.session(tools).and_then(|session| WrittenRows::open(session, private.make_pipe()?)),
        };
        let mut open = match opened {
            Ok(open) => open,
            Err(e) => return self.without_pipe(e),
        };
        match open.hash(&reading.what) {
            Ok(sum) => {
                self.written = Some(open);
                Ok(Some(Read::Rows(sum)))
            }
            Err(e) if open.failed_with() == Some(UNDEFINED_COLUMN) => Ok(Some(Read::OtherColumns(e))),
            Err(e) if open.has_no_pipe() => self.without_pipe(e),
            Err(e) => Err(e),
        }
    }

    /// After this failure the tables are asked for; unless the step itself is over.
    fn without_pipe(&mut self, error: Error) -> Result<Option<Read>> {
        if matches!(error.kind, ErrorKind::Cancelled | ErrorKind::TimedOut) {
            return Err(error);
        }
        tracing::warn!(%error, "the private server can't write rows into a pipe: they are asked for");
        self.administrator = None;
        Ok(None)
    }

    fn close(self) -> Result<()> {
        self.written.map_or(Ok(()), WrittenRows::close)?;
        self.sent.map_or(Ok(()), |session| session.close().map(drop))
    }
}

fn compare_rows(expected: &TableFacts, found: RowSum, findings: &mut Vec<Finding>) {
    if found.rows != expected.rows {
        listed(
            findings,
            Finding::error(
                "row-count",
                format!("table {} has {} rows, the backup has {}", expected.name, found.rows, expected.rows),
                "use another backup",
            ),
        );
    } else if found.hex() != expected.hash {
        listed(
            findings,
            Finding::error(
                "content-hash",
                format!("table {} has {} rows as in the backup, but with other contents", expected.name, found.rows),
                "use another backup",
            ),
        );
    }
}
