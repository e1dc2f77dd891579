//! What is true of a database's content, and the comparison of two such sets of facts.
//!
//! A row's hash is xxh3-128 over its columns in the order of the table, generated-virtual ones left out; each as a tag byte and its value:
//! `0` NULL; `1` integer, 8 bytes big-endian; `2` real, 8 bytes of IEEE 754 big-endian; `3` text and `4` blob, 8 bytes of length big-endian
//! and the bytes (text as UTF-8). A table's hash is the sum of its rows' modulo 2^128, so order does not matter and doubled rows do. Row ids
//! are not part of it, except as the column that names them. The schema's digest is SHA-256 over one JSON line
//! `[type,name,table,sql]` for each entry of `sqlite_schema`, sorted by bytes, each ended by a line feed.

use std::collections::BTreeMap;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::xxh3_128;

use crate::Finding;
use crate::manifest::{SqliteFacts, TableFacts};

/// A row larger than this does not keep its buffer for the next.
const ROW_BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// This many messages of a check are shown.
const MESSAGES_MAX: usize = 10;

/// Reads every table. `journal_mode` is the live database's: a private copy has none of its own.
pub(super) fn read(conn: &Connection, journal_mode: &str) -> rusqlite::Result<SqliteFacts> {
    let pragma = |name: &str| conn.query_row(&format!("PRAGMA {name}"), [], |r| r.get::<_, i64>(0));
    let mut tables = Vec::new();
    for name in names(conn, "type = 'table' AND rootpage > 0")? {
        tables.push(table(conn, name)?);
    }
    Ok(SqliteFacts {
        page_bytes: u32::try_from(pragma("page_size")?).unwrap_or(0),
        pages: u64::try_from(pragma("page_count")?).unwrap_or(0),
        user_version: pragma("user_version")?,
        journal_mode: journal_mode.to_owned(),
        schema_sha256: schema_digest(conn)?,
        tables,
    })
}

/// Virtual tables: they hold no rows of their own, their shadow tables do, and those are counted like any other.
pub(super) fn virtual_tables(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    names(conn, "type = 'table' AND rootpage = 0")
}

fn names(conn: &Connection, which: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(&format!("SELECT name FROM sqlite_schema WHERE {which} ORDER BY name"))?;
    statement.query_map([], |row| row.get(0))?.collect()
}

fn schema_digest(conn: &Connection) -> rusqlite::Result<String> {
    let mut statement = conn.prepare("SELECT type, name, tbl_name, sql FROM sqlite_schema")?;
    let mut lines = Vec::new();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let entry: (String, String, String, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        lines.push(serde_json::json!([entry.0, entry.1, entry.2, entry.3]).to_string());
    }
    lines.sort_unstable();
    let mut digest = Sha256::new();
    for line in lines {
        digest.update(line.as_bytes());
        digest.update(b"\n");
    }
    Ok(hex::encode(digest.finalize()))
}

fn table(conn: &Connection, name: String) -> rusqlite::Result<TableFacts> {
    let mut statement = conn.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden IN (0, 3) ORDER BY cid")?;
    let columns: Vec<String> = statement.query_map([&name], |row| row.get(0))?.collect::<Result<_, _>>()?;
    // Qualified, because a quoted name that is no column would silently be taken as a text.
    let list: Vec<String> = columns.iter().map(|c| format!("x.{}", quoted(c))).collect();
    // The table itself is read, not an index that happens to cover it and may disagree.
    let sql = format!("SELECT {} FROM main.{} AS x NOT INDEXED", list.join(", "), quoted(&name));
    let mut statement = conn.prepare(&sql)?;
    let count = statement.column_count();
    let mut rows = statement.query([])?;
    let (mut total, mut sum, mut buffer) = (0_u64, 0_u128, Vec::new());
    while let Some(row) = rows.next()? {
        buffer.clear();
        for column in 0..count {
            encode(&mut buffer, row.get_ref(column)?);
        }
        sum = sum.wrapping_add(xxh3_128(&buffer));
        total += 1;
        buffer.shrink_to(ROW_BUFFER_BYTES_MAX);
    }
    Ok(TableFacts { name, rows: total, hash: format!("{sum:032x}"), copy: None })
}

fn encode(buffer: &mut Vec<u8>, value: ValueRef<'_>) {
    let mut bytes = |tag: u8, content: &[u8]| {
        buffer.push(tag);
        buffer.extend_from_slice(&(content.len() as u64).to_be_bytes());
        buffer.extend_from_slice(content);
    };
    match value {
        ValueRef::Text(text) => bytes(3, text),
        ValueRef::Blob(blob) => bytes(4, blob),
        ValueRef::Null => buffer.push(0),
        ValueRef::Integer(integer) => {
            buffer.push(1);
            buffer.extend_from_slice(&integer.to_be_bytes());
        }
        ValueRef::Real(real) => {
            buffer.push(2);
            buffer.extend_from_slice(&real.to_bits().to_be_bytes());
        }
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What `PRAGMA quick_check` or `integrity_check` complains about; empty where all is well.
pub(super) fn complaints(conn: &Connection, check: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(&format!("PRAGMA {check}({MESSAGES_MAX})"))?;
    let messages: Vec<String> = statement.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(if messages == ["ok"] { Vec::new() } else { messages })
}

/// Deviations of what was found from what the manifest says.
pub(super) fn compare(expected: &SqliteFacts, found: &SqliteFacts, findings: &mut Vec<Finding>) {
    const FIX: &str = "do not promote it: stage the backup again, then try another backup";
    let mut differ = |rule: &str, message: String| findings.push(Finding::error(rule, message, FIX));
    if (expected.page_bytes, expected.pages) != (found.page_bytes, found.pages) {
        differ(
            "archive",
            format!(
                "{} pages of {} bytes expected, {} of {} found",
                expected.pages, expected.page_bytes, found.pages, found.page_bytes
            ),
        );
    }
    if expected.user_version != found.user_version {
        differ("schema", format!("user_version {} expected, {} found", expected.user_version, found.user_version));
    }
    if expected.schema_sha256 != found.schema_sha256 {
        differ("schema", format!("schema {} expected, {} found", expected.schema_sha256, found.schema_sha256));
    }
    let by_name = |facts: &SqliteFacts| -> BTreeMap<String, TableFacts> {
        facts.tables.iter().map(|t| (t.name.clone(), t.clone())).collect()
    };
    let (expected, mut found) = (by_name(expected), by_name(found));
    for (name, wanted) in expected {
        let shown = crate::identifier::shown(&name);
        match found.remove(&name) {
            None => differ("table-missing", format!("table {shown} with {} rows is missing", wanted.rows)),
            Some(has) if has.rows != wanted.rows => {
                differ("row-count", format!("table {shown}: {} rows expected, {} found", wanted.rows, has.rows));
            }
            Some(has) if has.hash != wanted.hash => {
                differ("content-hash", format!("table {shown}: {} rows, but not the same content", has.rows));
            }
            Some(_) => {}
        }
    }
    for name in found.keys() {
        differ("schema", format!("table {} is not in the backup", crate::identifier::shown(name)));
    }
}
