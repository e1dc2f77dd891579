//! The manifest: what makes a backup. It is written last, only if absent, under a key that carries its digest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Finding;
use crate::encryption::Sealed;
use crate::error::{Error, Result};
use crate::note::{Note, Signer};
use crate::signing;

/// First field of every manifest, and first line of every signed one: kind and version of the text.
pub const FORMAT: &str = "lifeboat/manifest/1";

/// One backup over all sources of one service. Serialised with sorted keys and no spaces; see `docs/FORMATS.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: String,
    /// The backup's id.
    pub id: String,
    /// The service's name.
    pub service: String,
    /// A word for people.
    pub label: Option<String>,
    /// What wrote it, `lifeboat 0.1.0`.
    pub tool: String,
    /// `RUN-STEP-ATTEMPT` of the step that took it.
    pub attempt: String,
    /// When the first source's snapshot was taken, Unix milliseconds, UTC.
    pub taken_at_ms: u64,
    /// When the last source had been read to its end.
    pub completed_at_ms: u64,
    /// Time of the newest record, where the environment says how to find it.
    pub newest_at_ms: Option<u64>,
    /// Version of the service then installed, where known.
    pub version: Option<String>,
    /// How the objects are encrypted; absent where they are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Sealed>,
    /// The sources, databases first.
    pub sources: Vec<SourceManifest>,
    /// Known records: the environment's name for each, and its value in the snapshot.
    pub known: BTreeMap<String, String>,
    /// What was noticed while it was taken.
    pub findings: Vec<Finding>,
}

/// One source in a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceManifest {
    /// The source's name in its service.
    pub name: String,
    /// When its snapshot was taken, Unix milliseconds, UTC.
    pub started_at_ms: u64,
    /// When it had been read to its end.
    pub completed_at_ms: u64,
    /// The stored objects; the first is the data.
    pub objects: Vec<ObjectEntry>,
    /// What is true of its content.
    pub facts: SourceFacts,
}

/// One object in the store: zstd frames with checksums around `plain-bytes` of content, and age around those where the manifest says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ObjectEntry {
    /// What it is: `data`, `index`, `structure`, `globals`.
    pub role: String,
    /// Its key in the store.
    pub key: String,
    /// Size as stored, bytes.
    pub stored_bytes: u64,
    /// SHA-256 as stored, hexadecimal.
    pub stored_sha256: String,
    /// Size of the content, bytes.
    pub plain_bytes: u64,
    /// SHA-256 of the content, hexadecimal.
    pub plain_sha256: String,
    /// xxh3-128 of the content, hexadecimal: what a restore compares, once the SHA-256 of what is stored agrees. None in manifests that are
    /// older than it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plain_xxh3_128: Option<String>,
}

/// What is true of a source's content, by kind of source.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
#[expect(clippy::large_enum_variant, reason = "a manifest holds a handful of them")]
pub enum SourceFacts {
    /// A PostgreSQL database.
    Postgres(PostgresFacts),
    /// An SQLite file.
    Sqlite(SqliteFacts),
    /// A directory.
    Files(FilesFacts),
}

/// A table's rows: how many, and the sum modulo 2^128 of a 128-bit hash of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TableFacts {
    /// Name, with its schema where the database has schemas: `public.runs`, quoted as SQL wants it.
    pub name: String,
    /// How many rows.
    pub rows: u64,
    /// 32 hexadecimal digits; independent of the rows' order.
    pub hash: String,
    /// How the rows were read: PostgreSQL's COPY statement from the archive; absent elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
}

/// A PostgreSQL database as dumped.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PostgresFacts {
    /// The database's name.
    pub database: String,
    /// The server's version number, `150018`.
    pub server_version_num: u32,
    /// The version that `pg_dump --version` printed, `15.18`.
    pub dump_version: String,
    /// Version of the archive's format, `1.14`.
    pub archive_version: String,
    /// Identifier of the cluster, as text because it is a full 64-bit number.
    pub system_identifier: String,
    /// Encoding, `UTF8`.
    pub encoding: String,
    /// `LC_COLLATE` of the database.
    pub collate: String,
    /// `LC_CTYPE` of the database.
    pub ctype: String,
    /// Every table with rows in the archive.
    pub tables: Vec<TableFacts>,
    /// Large objects: how many, and the hash over all.
    pub large_objects: TableFacts,
    /// Extensions with their versions.
    pub extensions: BTreeMap<String, String>,
    /// Roles that own something or are granted something in it.
    pub roles: Vec<String>,
    /// Objects of the archive's table of contents by kind, `{"TABLE":9,"INDEX":12}`.
    pub objects: BTreeMap<String, u64>,
}

/// An SQLite database as copied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SqliteFacts {
    /// Page size, bytes.
    pub page_bytes: u32,
    /// Number of pages.
    pub pages: u64,
    /// `PRAGMA user_version`.
    pub user_version: i64,
    /// `delete`, `wal`, … of the live database; the copy is in the same mode.
    pub journal_mode: String,
    /// SHA-256 over the sorted schema, hexadecimal.
    pub schema_sha256: String,
    /// Every table.
    pub tables: Vec<TableFacts>,
}

/// A directory as archived.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FilesFacts {
    /// Files, directories and symbolic links.
    pub entries: u64,
    /// Regular files.
    pub files: u64,
    /// Bytes in regular files.
    pub bytes: u64,
    /// Sum modulo 2^128 over a hash of every entry's path, type, mode, size, time and content (or link target).
    pub hash: String,
}

impl Manifest {
    /// The bytes that are stored, signed if there is a key, and their SHA-256 in hexadecimal.
    pub fn encode(&self, signer: Option<&Signer>) -> Result<(Vec<u8>, String)> {
        let bytes = signing::encode(FORMAT, &self.json()?, signer);
        let digest = hex::encode(Sha256::digest(&bytes));
        Ok((bytes, digest))
    }

    /// Canonical JSON.
    fn json(&self) -> Result<String> {
        // Through `Value`, whose maps are sorted: one text for one content.
        serde_json::to_value(self)
            .and_then(|value| serde_json::to_string(&value))
            .map_err(|e| Error::failed(format!("manifest: {e}")))
    }

    /// Reads a manifest and checks it against the digest that its key carries; with the note that it stands in, if it is signed. Whose
    /// signature that is, and whether it holds, is not looked at.
    pub fn decode(bytes: &[u8], digest: &str) -> Result<(Self, Option<Note>)> {
        let found = hex::encode(Sha256::digest(bytes));
        if found != digest {
            return Err(Error::failed(format!("the manifest's bytes hash to {found}, its key says {digest}"))
                .hint("the object was changed after it was written: use another copy of this backup"));
        }
        let bad = |why: String| Error::failed(format!("manifest {digest} can't be read: {why}"));
        let (json, note) = signing::decode(bytes, FORMAT).map_err(bad)?;
        let manifest: Self = serde_json::from_slice(json).map_err(|e| bad(e.to_string()))?;
        if manifest.format != FORMAT {
            return Err(Error::failed(format!(
                "manifest format `{}` is not `{FORMAT}`",
                crate::identifier::shown(&manifest.format)
            ))
            .hint("a newer lifeboat wrote it: use that version"));
        }
        crate::identifier::check_id("backup", &manifest.id)?;
        crate::identifier::check_name("service", &manifest.service)?;
        // What is signed has one reading: no other reader sees another manifest in it.
        if note.is_some() && manifest.json()?.as_bytes() != json {
            return Err(bad("it is signed, and its JSON is not canonical".into()));
        }
        Ok((manifest, note))
    }

    /// The source of a name.
    pub fn source(&self, name: &str) -> Result<&SourceManifest> {
        self.sources.iter().find(|s| s.name == name).ok_or_else(|| {
            Error::failed(format!("backup {} has no source `{name}`", self.id))
                .hint("it was taken before this source was configured: take a new backup")
        })
    }

    /// Every object of every source.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectEntry> + Clone {
        self.sources.iter().flat_map(|s| &s.objects)
    }
}
