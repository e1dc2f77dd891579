//! PostgreSQL's custom archive (`pg_dump -Fc -Z0`), read as it streams past: its table of contents, and rows and hash of every
//! data block.
//!
//! The shape: a header, the whole table of contents, then blocks to the end. A block is its type, the dump id of its entry, and
//! length-prefixed chunks up to a zero; a table's chunks together are COPY text. Integers are a sign byte and four little-endian bytes.
//!
//! An archive is hostile until checked: every length is bounded, nothing is allocated on its word, nothing panics.

mod canonical;
mod item;
mod joined;
mod restorable;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

use super::contents::Entry;
use super::definitions::{self, Definition};
use super::rows::{LargeObjectHasher, RowHasher, RowSum};
use super::sql;
use crate::error::{Context, Error, Result};

use item::{INT_BYTES, ITEM_BYTES_MAX, Integers, Item, Stop, damaged, kept, object_id};
pub(super) use restorable::Restorable;

/// Most of the table of contents that is kept: names and COPY statements of tables.
const KEPT_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most entries; PostgreSQL itself has trouble long before.
const ENTRIES_MAX: i64 = 20_000_000;
/// How much is read at a time: larger pieces leave the processor's cache.
pub(super) const READ_BYTES: usize = 1024 * 1024;

/// What an archive was found to hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    /// Version of the format, `1.14`.
    pub version: String,
    /// Version of the server it was dumped from, as the archive says.
    pub server_version: String,
    /// Tables with data, in the archive's order.
    pub tables: Vec<Table>,
    /// Large objects: how many, and the sum of their hashes.
    pub large_objects: RowSum,
    /// Entries by kind. Comments and grants of the database itself are a kind of their own, `DATABASE COMMENT`; so are those of large
    /// objects and subscriptions.
    pub objects: BTreeMap<String, u64>,
    /// Entries that make up the structure, in the archive's order.
    pub definitions: Vec<Definition>,
    /// Owners of entries.
    pub owners: BTreeSet<String>,
    /// The statement that would create the database, with its locale.
    pub create_database: Option<String>,
}

/// A table with data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// `schema.table`, quoted as SQL wants it.
    pub name: String,
    /// The COPY statement that would fill it.
    pub copy: String,
    /// What its data block holds.
    pub rows: RowSum,
}

/// Reads an archive that comes in pieces of any size: [`Reader::feed`] them all, then [`Reader::finish`].
pub struct Reader {
    state: State,
    /// Bytes of an item of the head that is not complete yet.
    pending: Vec<u8>,
    /// Among the data.
    integers: Integers,
    /// The first error; nothing is taken after it.
    broken: Option<Error>,
    minor: u8,
    offset_bytes: usize,
    kept_bytes: usize,
    summary: Summary,
    /// Entries with data by dump id: the index into `summary.tables`, or none for large objects.
    awaited: BTreeMap<u32, Option<usize>>,
    /// Dump ids seen.
    ids: BTreeSet<u32>,
    /// The entries one by one, for whoever asked for them.
    entries: Option<Vec<Entry>>,
    /// Bytes of the header, and of header and table of contents as far as they were read.
    header_bytes: u64,
    head_bytes: u64,
    /// The table of contents says where in the archive blocks begin.
    has_positions: bool,
}

enum State {
    Header,
    /// That many entries are still to come.
    Entries(i64),
    /// At the beginning of a block, which is also where an archive may end.
    Block,
    BlockId(u8),
    Table(Box<TableBlock>),
    /// Before a large object's id.
    Objects,
    Object {
        hasher: LargeObjectHasher,
        left: usize,
    },
}

struct TableBlock {
    table: usize,
    rows: RowHasher,
    /// The line `\.` has come; only empty lines may follow.
    terminated: bool,
    /// What is missing of the chunk.
    left: usize,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new()
    }
}

impl Reader {
    /// Before the first byte.
    pub fn new() -> Self {
        Self {
            state: State::Header,
            pending: Vec::new(),
            integers: Integers::default(),
            broken: None,
            minor: 0,
            offset_bytes: 0,
            kept_bytes: 0,
            summary: Summary::default(),
            awaited: BTreeMap::new(),
            ids: BTreeSet::new(),
            entries: None,
            header_bytes: 0,
            head_bytes: 0,
            has_positions: false,
        }
    }

    /// Takes the next bytes. After an error it takes no more and repeats that error.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        if let Some(e) = &self.broken {
            return Err(e.clone());
        }
        let taken = self.take(bytes);
        if let Err(e) = &taken {
            self.broken = Some(e.clone());
        }
        taken
    }

    /// The end: an error unless the archive is complete, with the data of every entry that has some.
    pub fn finish(self) -> Result<Summary> {
        if let Some(e) = self.broken {
            return Err(e);
        }
        if !matches!(self.state, State::Block) || self.integers.inside() {
            return Err(damaged("it ends in the middle"));
        }
        match self.awaited.len() {
            0 => Ok(self.summary),
            missing => Err(damaged(format!("the data of {missing} entries are missing at its end"))),
        }
    }

    /// The entries that were read since the last time, for whoever asked for them. They are not kept any more.
    fn take_entries(&mut self) -> Vec<Entry> {
        let taken: Vec<Entry> = self.entries.iter_mut().flat_map(std::mem::take).collect();
        for entry in &taken {
            self.kept_bytes -=
                [&entry.schema, &entry.tag, &entry.copy].map(|text| text.len() + 64).iter().sum::<usize>();
        }
        taken
    }

    /// What the header and the table of contents say; none before they are complete. Rows have not been counted.
    fn head(&self) -> Option<&Summary> {
        (!matches!(self.state, State::Header | State::Entries(_))).then_some(&self.summary)
    }

    fn take(&mut self, bytes: &[u8]) -> Result<()> {
        if self.head().is_some() {
            return self.data(bytes);
        }
        let mut buffer = std::mem::take(&mut self.pending);
        buffer.extend_from_slice(bytes);
        let mut used = 0;
        while self.head().is_none() {
            let mut item = Item { bytes: &buffer[used..], at: 0 };
            let read = match self.state {
                State::Entries(left) => self.entry(&mut item, left),
                _ => self.header(&mut item),
            };
            match read {
                Ok(()) => {
                    self.place(item.at);
                    used += item.at;
                }
                Err(Stop::Bad(e)) => return Err(e),
                Err(Stop::More) => {
                    buffer.drain(..used);
                    if buffer.len() > ITEM_BYTES_MAX {
                        return Err(damaged("an entry is longer than 64 MiB"));
                    }
                    self.pending = buffer;
                    return Ok(());
                }
            }
        }
        self.data(&buffer[used..])
    }

    /// Remembers where an item of the head lies.
    fn place(&mut self, bytes: usize) {
        if self.header_bytes == 0 {
            self.header_bytes = bytes as u64;
        } else if let Some(entry) = self.entries.as_mut().and_then(|entries| entries.last_mut()) {
            (entry.at, entry.bytes) = (self.head_bytes, bytes as u64);
        }
        self.head_bytes += bytes as u64;
    }

    fn header(&mut self, item: &mut Item<'_>) -> Result<(), Stop> {
        if item.take(5)? != b"PGDMP" {
            return Err(damaged("it does not start as a custom archive does").into());
        }
        let (major, minor, _revision) = (item.byte()?, item.byte()?, item.byte()?);
        if major != 1 || !(14..=16).contains(&minor) {
            return Err(Error::failed(format!("archive format {major}.{minor} can't be counted"))
                .hint("formats 1.14 to 1.16 (PostgreSQL 13 to 18) are known: use such a pg_dump, or a newer lifeboat")
                .into());
        }
        let (int_bytes, offset_bytes, format) = (item.byte()?, item.byte()?, item.byte()?);
        if usize::from(int_bytes) + 1 != INT_BYTES || !(1..=8).contains(&offset_bytes) {
            return Err(damaged("its numbers have unknown sizes").into());
        }
        if format != 1 {
            return Err(damaged("it is not in the custom format").into());
        }
        let compression = if minor >= 15 { i64::from(item.byte()?) } else { item.int()? };
        if compression != 0 {
            return Err(Error::failed("the archive is compressed by pg_dump itself, so its rows can't be counted")
                .hint("lifeboat calls pg_dump with -Z0 and compresses on its own: something changed that")
                .into());
        }
        for _ in 0..7 {
            item.int()?;
        }
        let _database = item.text()?;
        let server_version = item.text()?;
        let _dump_version = item.text()?;
        let entries = item.int()?;
        if !(0..=ENTRIES_MAX).contains(&entries) {
            return Err(damaged(format!("it announces {entries} entries")).into());
        }
        self.minor = minor;
        self.offset_bytes = usize::from(offset_bytes);
        self.summary.version = format!("{major}.{minor}");
        self.summary.server_version = kept(server_version)?.unwrap_or_default();
        self.state = if entries == 0 { State::Block } else { State::Entries(entries) };
        Ok(())
    }

    fn entry(&mut self, item: &mut Item<'_>, left: i64) -> Result<(), Stop> {
        let id = u32::try_from(item.int()?).map_err(|_| damaged("an entry has a negative id"))?;
        let _had_dumper = item.int()?;
        let (_table_oid, _oid, tag, kind) = (item.text()?, item.text()?, item.text()?, item.text()?);
        let _section = item.int()?;
        let (definition, _drop) = (item.text()?, item.text()?);
        let copy_at = item.at;
        let copy = item.text()?;
        let (namespace, _tablespace, access_method) = (item.text()?, item.text()?, item.text()?);
        if self.minor >= 16 {
            let _relation_kind = item.int()?;
        }
        let (owner, _with_oids) = (item.text()?, item.text()?);
        // Ids of entries that must come before, up to an absent one.
        while item.text()?.is_some() {}
        let has_data = match item.byte()? {
            // "Position not known yet" on a pipe, "known" in a file.
            1 => true,
            2 => {
                self.has_positions = true;
                true
            }
            3 => false,
            other => return Err(damaged(format!("an entry's data are in state {other}")).into()),
        };
        item.take(self.offset_bytes)?;

        // The entry is complete: from here on nothing is read twice.
        if !self.ids.insert(id) {
            return Err(damaged(format!("two entries have the id {id}")).into());
        }
        let (tag, kind) = (kept(tag)?.unwrap_or_default(), kept(kind)?.unwrap_or_default());
        if kind == "DATABASE" {
            self.keep(definition)?;
            self.summary.create_database = kept(definition)?;
        }
        let owner = kept(owner)?.unwrap_or_default();
        if !owner.is_empty() && !self.summary.owners.contains(&owner) {
            self.keep(Some(owner.as_bytes()))?;
            self.summary.owners.insert(owner.clone());
        }
        if self.entries.is_some() {
            let [namespace, copy] = [namespace, copy].map(kept);
            let entry = Entry {
                id,
                kind: kind.clone(),
                schema: namespace?.unwrap_or_default(),
                tag: tag.clone(),
                copy: copy?.unwrap_or_default(),
                copy_at,
                at: 0,
                bytes: 0,
            };
            // Definitions are not kept, only where they lie.
            [&entry.schema, &entry.tag, &entry.copy].iter().try_for_each(|text| self.keep(Some(text.as_bytes())))?;
            self.entries.get_or_insert_default().push(entry);
        }
        if has_data {
            let table = match kind.as_str() {
                "TABLE DATA" => Some(self.table(namespace, &tag, copy)?),
                "BLOBS" => None,
                _ => return Err(damaged(format!("an entry of kind `{kind}` has data")).into()),
            };
            self.awaited.insert(id, table);
        }
        // What belongs to these is not part of the structure that a candidate must have.
        let belongs_to = ["DATABASE", "LARGE OBJECT", "SUBSCRIPTION"]
            .into_iter()
            .find(|of| tag.starts_with(of) && matches!(kind.as_str(), "COMMENT" | "ACL" | "SECURITY LABEL"));
        let kind = belongs_to.map_or(kind.clone(), |of| format!("{of} {kind}"));
        if !self.summary.objects.contains_key(&kind) {
            self.keep(Some(kind.as_bytes()))?;
        }
        if definitions::is_structure(&kind) {
            let schema = kept(namespace)?.unwrap_or_default();
            let sha256 = canonical::digest(definition, access_method);
            let definition = Definition { kind: kind.clone(), name: tag, owner, schema, sha256 };
            let texts = [&definition.name, &definition.owner, &definition.schema, &definition.sha256];
            texts.iter().try_for_each(|text| self.keep(Some(text.as_bytes())))?;
            self.summary.definitions.push(definition);
        }
        *self.summary.objects.entry(kind).or_default() += 1;
        self.state = if left == 1 { State::Block } else { State::Entries(left - 1) };
        Ok(())
    }

    fn table(&mut self, namespace: Option<&[u8]>, tag: &str, copy: Option<&[u8]>) -> Result<usize> {
        self.keep(namespace)?;
        self.keep(copy)?;
        self.keep(Some(tag.as_bytes()))?;
        let Some(copy) = kept(copy)?.filter(|c| !c.is_empty()) else {
            return Err(Error::failed(format!(
                "table `{}` is in the archive as INSERT statements, which can't be counted",
                crate::identifier::shown(tag)
            ))
            .hint("lifeboat calls pg_dump without --inserts: something changed that"));
        };
        let name = sql::table_name(&kept(namespace)?.unwrap_or_default(), tag, &copy);
        self.summary.tables.push(Table { name, copy, rows: RowSum::default() });
        Ok(self.summary.tables.len() - 1)
    }

    /// Counts what will be kept, before it is.
    fn keep(&mut self, bytes: Option<&[u8]>) -> Result<()> {
        self.kept_bytes += bytes.map_or(0, <[u8]>::len) + 64;
        if self.kept_bytes > KEPT_BYTES_MAX {
            return Err(damaged("its table of contents is larger than 256 MiB"));
        }
        Ok(())
    }

    fn data(&mut self, mut input: &[u8]) -> Result<()> {
        while !input.is_empty() {
            // Taken out, so that it can be worked on beside `self`; every arm puts the next one in its place.
            self.state = match std::mem::replace(&mut self.state, State::Block) {
                State::Header | State::Entries(_) => return Err(damaged("its contents come in no order")),
                State::Block => {
                    let kind = input[0];
                    input = &input[1..];
                    State::BlockId(kind)
                }
                State::BlockId(kind) => match self.integers.next(&mut input) {
                    None => State::BlockId(kind),
                    Some(id) => self.block(kind, id)?,
                },
                State::Table(block) => self.table_data(block, &mut input)?,
                State::Objects => match self.integers.next(&mut input) {
                    None => State::Objects,
                    Some(0) => State::Block,
                    Some(oid) => State::Object { hasher: LargeObjectHasher::new(object_id(oid)?), left: 0 },
                },
                State::Object { hasher, left: 0 } => match self.integers.length(&mut input)? {
                    None => State::Object { hasher, left: 0 },
                    Some(0) => {
                        self.summary.large_objects.add(hasher.digest());
                        State::Objects
                    }
                    Some(left) => State::Object { hasher, left: left as usize },
                },
                State::Object { mut hasher, left } => {
                    let (bytes, rest) = input.split_at(left.min(input.len()));
                    input = rest;
                    hasher.update(bytes);
                    State::Object { hasher, left: left - bytes.len() }
                }
            };
        }
        Ok(())
    }

    fn block(&mut self, kind: u8, id: i64) -> Result<State> {
        let awaited = u32::try_from(id).ok().and_then(|id| self.awaited.remove(&id));
        match (kind, awaited) {
            (1, Some(Some(table))) => {
                Ok(State::Table(Box::new(TableBlock { table, rows: RowHasher::new(), terminated: false, left: 0 })))
            }
            (3, Some(None)) => Ok(State::Objects),
            (_, None) => Err(damaged(format!("a data block of entry {id} was not to come"))),
            _ => Err(damaged(format!("the data block of entry {id} has type {kind}"))),
        }
    }

    /// Reads chunks until the input or the block ends: the loop that most bytes go through.
    fn table_data(&mut self, mut block: Box<TableBlock>, input: &mut &[u8]) -> Result<State> {
        while !input.is_empty() {
            if block.left == 0 {
                match self.integers.length(input)? {
                    None => break,
                    Some(0) => {
                        if !block.terminated || block.rows.inside_row() {
                            return Err(damaged("a table's data end without their last line"));
                        }
                        self.summary.tables[block.table].rows = block.rows.total();
                        return Ok(State::Block);
                    }
                    Some(length) => block.left = length as usize,
                }
            }
            let (bytes, rest) = input.split_at(block.left.min(input.len()));
            *input = rest;
            block.left -= bytes.len();
            let behind = if block.terminated {
                bytes
            } else if let Some((_, behind)) = block.rows.feed(bytes, |line| line == b"\\.") {
                block.terminated = true;
                behind
            } else {
                continue;
            };
            if behind.iter().any(|b| *b != b'\n') {
                return Err(damaged("a table's data go on behind their last line"));
            }
        }
        Ok(State::Table(block))
    }
}

/// Reads only the header and the table of contents.
pub fn read_head(from: impl Read) -> Result<Summary> {
    let mut reader = Reader::new();
    feed_head(&mut reader, from)?;
    Ok(reader.summary)
}

/// Feeds a reader until it has the whole table of contents.
fn feed_head(reader: &mut Reader, mut from: impl Read) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    while reader.head().is_none() {
        let count = from.read(&mut buffer).doing(|| "reading the archive".into())?;
        if count == 0 {
            return Err(damaged("it ends within its table of contents"));
        }
        reader.feed(&buffer[..count])?;
    }
    Ok(())
}

/// Reads only the header and the table of contents, entry by entry: what they say, the entries, the bytes of the header and of both.
pub(super) fn read_entries(from: impl Read) -> Result<(Summary, Vec<Entry>, u64, u64)> {
    let mut reader = Reader { entries: Some(Vec::new()), ..Reader::new() };
    feed_head(&mut reader, from)?;
    let entries = reader.entries.take().unwrap_or_default();
    Ok((reader.summary, entries, reader.header_bytes, reader.head_bytes))
}

/// Reads a whole archive.
pub fn read(mut from: impl Read) -> Result<Summary> {
    let mut reader = Reader::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match from.read(&mut buffer).doing(|| "reading the archive".into())? {
            0 => return reader.finish(),
            count => reader.feed(&buffer[..count])?,
        }
    }
}
