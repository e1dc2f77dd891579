//! The structure of a database, through `pg_dump` itself: kinds and numbers of the entries that it would write.

use std::collections::BTreeMap;

use crate::Finding;
use crate::child::Child;
use crate::error::{Error, Result};
use crate::manifest::PostgresFacts;

use super::super::archive;
use super::super::dump::session_encoding;
use super::super::tools::Tools;

/// Kinds of entries that are no structure, or that a candidate does not have on purpose.
const NOT_STRUCTURE: &[&str] = &[
    "TABLE DATA",
    "SEQUENCE SET",
    "BLOB",
    "BLOBS",
    "BLOB METADATA",
    "MATERIALIZED VIEW DATA",
    "STATISTICS DATA",
    "ENCODING",
    "STDSTRINGS",
    "SEARCHPATH",
];

/// Compares kinds and numbers of the entries that `pg_dump` would write with the manifest.
pub(super) fn check(
    tools: &Tools<'_>,
    place: &str,
    facts: &PostgresFacts,
    server: u32,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let version = tools.matching_version("pg_dump", server)?;
    if facts.server_version_num / 10_000 != server / 10_000 {
        findings.push(Finding::info(
            "object-count",
            format!(
                "numbers of objects are not compared: the backup is of PostgreSQL {}, pg_dump here is {version}",
                facts.server_version_num / 10_000
            ),
        ));
        return Ok(());
    }
    for (kind, found, expected) in other_counts(tools, place, facts)? {
        findings.push(Finding::error(
            "object-count",
            format!("{found} objects of kind {}, the backup has {expected}", crate::identifier::shown(&kind)),
            "use another backup, or stage this one again",
        ));
    }
    Ok(())
}

/// An error unless a database has the structure of another one of this server, whose facts these are.
pub(in super::super) fn same_structure(tools: &Tools<'_>, place: &str, facts: &PostgresFacts) -> Result<()> {
    let others: Vec<String> = other_counts(tools, place, facts)?
        .into_iter()
        .map(|(kind, found, expected)| format!("{found} of kind {}, {expected} there", crate::identifier::shown(&kind)))
        .collect();
    if others.is_empty() {
        return Ok(());
    }
    Err(Error::failed(format!("the candidate has not the structure of the live database: {}", others.join("; ")))
        .hint("stage the backup again; the live database was not touched"))
}

/// Kinds of objects of which a database has another number than these facts: kind, found, expected.
fn other_counts(tools: &Tools<'_>, place: &str, facts: &PostgresFacts) -> Result<Vec<(String, u64, u64)>> {
    let mut spec = tools.connected("pg_dump", place, session_encoding(&facts.encoding))?;
    for argument in ["-Fc", "-Z0", "--schema-only"] {
        spec = spec.arg(tools.word(argument));
    }
    let mut child = Child::spawn(tools.cx, &spec)?;
    drop(child.stdin());
    let found = archive::read(child.stdout());
    tools.succeeded("pg_dump", &child.wait()?)?;
    let found = found?.objects;
    let structure = |kind: &str| {
        !NOT_STRUCTURE.contains(&kind)
            && !["DATABASE", "LARGE OBJECT", "SUBSCRIPTION"].iter().any(|of| kind.starts_with(of))
    };
    let mut kinds: Vec<&String> = facts.objects.keys().chain(found.keys()).filter(|kind| structure(kind)).collect();
    kinds.sort_unstable();
    kinds.dedup();
    let count = |of: &BTreeMap<String, u64>, kind: &str| of.get(kind).copied().unwrap_or(0);
    Ok(kinds
        .into_iter()
        .map(|kind| (kind.clone(), count(&found, kind), count(&facts.objects, kind)))
        .filter(|(_, found, expected)| found != expected)
        .collect())
}
