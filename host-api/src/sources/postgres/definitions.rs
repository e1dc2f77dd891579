//! What a database is made of: of each object its kind, name and owner, and a digest of the statements that make it, as `pg_dump` writes them.
//! A backup keeps them beside its archive, in an object that its manifest names, so that a candidate can be held against them one by one.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};

use serde::{Deserialize, Serialize};

use crate::context::StepContext;
use crate::error::{Context, Error, Result};
use crate::manifest::{ObjectEntry, SourceManifest};
use crate::sources::{ObjectSink, ObjectSource};

/// The object's role in a manifest.
pub(super) const ROLE: &str = "structure";
/// Most that is read of it, bytes; more than an archive's table of contents may hold.
const BYTES_MAX: u64 = 1024 * 1024 * 1024;
/// Longest line, bytes: names have at most some hundreds, lists of a function's arguments some thousands.
const LINE_BYTES_MAX: u64 = 1024 * 1024;

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

/// Whether entries of this kind are part of the structure that a candidate must have. The database itself has other settings and comments,
/// large objects are data, and subscriptions are left out.
pub(super) fn is_structure(kind: &str) -> bool {
    !NOT_STRUCTURE.contains(&kind)
        && !["DATABASE", "LARGE OBJECT", "SUBSCRIPTION"].iter().any(|of| kind.starts_with(of))
}

/// One object of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    /// `TABLE`, `FUNCTION`, `POLICY`, …, as the archive has it.
    pub kind: String,
    /// Name, not quoted; `add(integer, integer)`, `table constraint`, `TABLE table`, by its kind.
    pub name: String,
    /// The role it belongs to; empty where it has none of its own.
    pub owner: String,
    /// The schema's name, not quoted; empty where there is none.
    pub schema: String,
    /// SHA-256 of its canonical definition, hexadecimal.
    pub sha256: String,
}

/// Kind, schema and name.
pub(super) type Key<'a> = (&'a str, &'a str, &'a str);

impl Definition {
    /// What it is called. Several may be called the same: operators of one name.
    pub fn key(&self) -> Key<'_> {
        (&self.kind, &self.schema, &self.name)
    }
}

/// By what they are called, in order.
pub(super) fn by_key(definitions: &[Definition]) -> BTreeMap<Key<'_>, Vec<&Definition>> {
    let mut by_key: BTreeMap<Key<'_>, Vec<&Definition>> = BTreeMap::new();
    for definition in definitions {
        by_key.entry(definition.key()).or_default().push(definition);
    }
    by_key
}

/// Stores them, a line each.
pub(super) fn store(sink: &dyn ObjectSink, definitions: &[Definition]) -> Result<ObjectEntry> {
    let doing = || "storing the structure".to_owned();
    let mut writer = sink.create(ROLE, "jsonl", None)?;
    for definition in definitions {
        let mut line = serde_json::to_vec(definition).map_err(|e| Error::failed(format!("structure: {e}")))?;
        line.push(b'\n');
        writer.write_all(&line).doing(doing)?;
    }
    writer.finish()
}

/// Those of a backup; none where it has none: it was taken before they were kept.
pub(super) fn of_backup(
    cx: &StepContext,
    source: &SourceManifest,
    objects: &dyn ObjectSource,
) -> Result<Option<Vec<Definition>>> {
    let Some(entry) = source.objects.iter().find(|object| object.role == ROLE) else { return Ok(None) };
    if entry.plain_bytes > BYTES_MAX {
        return Err(Error::refused(format!("{} has {} bytes, too many to compare", entry.key, entry.plain_bytes)));
    }
    let definitions = read(objects.stream(cx, entry)?).map_err(|e| e.context(format!("reading {}", entry.key)))?;
    Ok(Some(definitions))
}

/// Reads lines to their end, which is where the stream fails if it is not what the manifest says.
fn read(stream: impl Read) -> Result<Vec<Definition>> {
    let mut reader = BufReader::new(stream);
    let (mut definitions, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        let count =
            reader.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line).doing(|| "the structure".into())?;
        if count == 0 {
            return Ok(definitions);
        }
        let bad = |why: String| {
            Error::failed(format!("line {} of the structure {why}", definitions.len() + 1))
                .hint("lifeboat did not write it, or a newer one did: use that version, or another copy of this backup")
        };
        if line.pop() != Some(b'\n') {
            return Err(bad("has no end".into()));
        }
        let definition: Definition = serde_json::from_slice(&line).map_err(|e| bad(format!("can't be read: {e}")))?;
        definitions.push(definition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        "{\"kind\":\"SCHEMA\",\"name\":\"app\",\"owner\":\"postgres\",\"schema\":\"\",\"sha256\":\"9d\"}\n";

    #[test]
    fn lines_are_read_to_their_end_or_not_at_all() {
        let [definition] = &read(LINE.as_bytes()).unwrap()[..] else { panic!("one line") };
        assert_eq!(definition.key(), ("SCHEMA", "", "app"));
        let long = format!("{{\"kind\":\"{}\"}}\n", "x".repeat(usize::try_from(LINE_BYTES_MAX).unwrap()));
        for (bad, why) in [
            (LINE.trim_end(), "line 1 of the structure has no end"),
            (&format!("{LINE}{{}}\n"), "line 2 of the structure can't be read"),
            (&LINE.replace("owner", "other"), "can't be read"),
            (&long, "has no end"),
        ] {
            let error = read(bad.as_bytes()).unwrap_err();
            assert!(error.message.contains(why) && error.hint.is_some(), "{error}");
        }
    }
}
