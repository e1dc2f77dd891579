//! An archive on its way into the file that it is restored from, changed where that makes the restore faster and nothing else.
//!
//! - Chunks of tables' data are joined: see [`super::joined`].
//! - Tables are filled with rows that are frozen, where that is asked for. To a row that was just copied in, whoever reads it first adds that
//!   its transaction is over, and so writes every page of the table again; years later a vacuum does so once more. `COPY … WITH (FREEZE)`
//!   writes rows as they will be. It takes a table that the same transaction made or emptied; `pg_restore` empties each before it fills it, if
//!   it made it and works with several jobs.

use std::collections::BTreeSet;
use std::io::Write;

use super::super::contents::Entry;
use super::super::sql;
use super::item::INT_BYTES;
use super::joined::Joining;
use super::{Reader, damaged};
use crate::error::Result;
use crate::pipeline::error_of;

/// Takes an archive in pieces of any size and writes it.
pub(in super::super) struct Restorable {
    freeze: bool,
    at: At,
}

enum At {
    /// What of the archive has come, and what it says, until the table of contents is complete.
    Head(Box<Reader>, Vec<u8>),
    Blocks(Joining),
    /// It says itself where its blocks are: it stays as it is.
    Positioned,
}

impl Restorable {
    /// Before the first byte. `freeze`: several jobs will restore all of it.
    pub fn new(freeze: bool) -> Self {
        let reader = Reader { entries: Some(Vec::new()), ..Reader::new() };
        Self { freeze, at: At::Head(Box::new(reader), Vec::new()) }
    }

    /// Takes the next bytes.
    pub fn pass(&mut self, bytes: &[u8], into: &mut dyn Write) -> Result<()> {
        let (reader, head) = match &mut self.at {
            At::Head(reader, head) => (reader, head),
            At::Blocks(joining) => return joining.pass(bytes, into),
            At::Positioned => return into.write_all(bytes).map_err(error_of),
        };
        let fed = reader.feed(bytes);
        head.extend_from_slice(bytes);
        if reader.head().is_none() {
            return fed;
        }
        let (entries, head) = (reader.entries.take().unwrap_or_default(), std::mem::take(head));
        if reader.has_positions {
            self.at = At::Positioned;
            return into.write_all(&head).map_err(error_of);
        }
        let blocks = usize::try_from(reader.head_bytes).unwrap_or(head.len());
        let (head, blocks) = head.split_at(blocks.min(head.len()));
        let mut joining = Joining::default();
        let written = if self.freeze { into.write_all(&frozen(head, &entries)) } else { into.write_all(head) };
        written.map_err(error_of)?;
        joining.pass(blocks, into)?;
        self.at = At::Blocks(joining);
        Ok(())
    }

    /// The end: an error if there was no whole table of contents, or a block has no end.
    pub fn finish(self) -> Result<()> {
        match self.at {
            At::Head(..) => Err(damaged("it ends within its table of contents")),
            At::Blocks(joining) => joining.finish(),
            At::Positioned => Ok(()),
        }
    }
}

/// The beginning of an archive with other COPY statements.
fn frozen(head: &[u8], entries: &[Entry]) -> Vec<u8> {
    let named = |entry: &Entry| (entry.schema.clone(), entry.tag.clone());
    let made: BTreeSet<_> = entries.iter().filter(|entry| entry.kind == "TABLE").map(named).collect();
    let mut written = Vec::with_capacity(head.len() + entries.len() * 16);
    let mut from = 0;
    for entry in entries.iter().filter(|entry| entry.kind == "TABLE DATA" && made.contains(&named(entry))) {
        let (Some(statement), Ok(at)) = (frozen_copy(entry), usize::try_from(entry.at)) else { continue };
        let (Ok(length), at) = (u32::try_from(statement.len()), at + entry.copy_at) else { continue };
        written.extend_from_slice(&head[from..at]);
        written.push(0);
        written.extend_from_slice(&length.to_le_bytes());
        written.extend_from_slice(statement.as_bytes());
        from = at + INT_BYTES + entry.copy.len();
    }
    written.extend_from_slice(&head[from..]);
    written
}

/// The statement that fills an entry's own table; none where it fills another, a partition's root, which can't be filled so.
fn frozen_copy(entry: &Entry) -> Option<String> {
    let (table, columns) = sql::copy_parts(&entry.copy).ok()?;
    let own = sql::table_parts(table).ok()? == (entry.schema.clone(), entry.tag.clone());
    own.then(|| format!("COPY {table} {columns} FROM stdin WITH (FREEZE);\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Vec<u8> {
        [&[0], &u32::try_from(text.len()).unwrap().to_le_bytes()[..], text.as_bytes()].concat()
    }

    fn int(value: u32) -> Vec<u8> {
        [&[0], &value.to_le_bytes()[..]].concat()
    }

    fn entry(id: u32, kind: &str, schema: &str, tag: &str, copy: &str, data: u8) -> Vec<u8> {
        let absent = [1, 1, 0, 0, 0];
        let mut bytes = [int(id), int(0), text("0"), text("0"), text(tag), text(kind), int(2)].concat();
        // Definition, drop, copy, schema, tablespace, access method, owner, "with OIDs", dependencies, state and offset of the data.
        bytes.extend([text(""), text(""), text(copy), text(schema), text(""), text("")].concat());
        bytes.extend([text("me"), text("false"), absent.to_vec(), vec![data], vec![0; 8]].concat());
        bytes
    }

    /// An archive of format 1.14 with one block.
    fn archive(data: u8, entries: &[(&str, &str, &str, &str)], chunks: &[&[u8]]) -> Vec<u8> {
        let mut bytes = [&b"PGDMP"[..], &[1, 14, 0, 4, 8, 1]].concat();
        bytes.extend([int(0), (0..7).flat_map(|_| int(0)).collect(), text("db"), text("15"), text("15")].concat());
        bytes.extend(int(u32::try_from(entries.len()).unwrap()));
        for (at, (kind, schema, tag, copy)) in entries.iter().enumerate() {
            let data = if *kind == "TABLE DATA" { data } else { 3 };
            bytes.extend(entry(u32::try_from(at).unwrap() + 1, kind, schema, tag, copy, data));
        }
        bytes.extend([vec![1], int(4)].concat());
        for chunk in chunks {
            bytes.extend(int(u32::try_from(chunk.len()).unwrap()));
            bytes.extend_from_slice(chunk);
        }
        bytes.extend(int(0));
        bytes
    }

    /// Through, in pieces of this size.
    fn passed(archive: &[u8], freeze: bool, size: usize) -> Result<Vec<u8>> {
        let (mut restorable, mut written) = (Restorable::new(freeze), Vec::new());
        archive.chunks(size).try_for_each(|piece| restorable.pass(piece, &mut written))?;
        restorable.finish().map(|()| written)
    }

    const CHUNKS: &[&[u8]] = &[b"COPY public.a (x) FROM stdin;\n", b"2\n", b"\\.\n"];

    const ENTRIES: &[(&str, &str, &str, &str)] = &[
        ("TABLE", "public", "a", ""),
        ("TABLE", "public", "leaf", ""),
        ("TABLE", "s x", "empty", ""),
        ("TABLE DATA", "public", "a", "COPY public.a (x) FROM stdin;\n"),
        ("TABLE DATA", "public", "leaf", "COPY public.root (x) FROM stdin;\n"),
        ("TABLE DATA", "s x", "empty", "COPY \"s x\".empty  FROM stdin;\n"),
        ("TABLE DATA", "ext", "of_extension", "COPY ext.of_extension (x) FROM stdin;\n"),
        ("TABLE DATA", "public", "a", "COPY public.a (x) FROM stdin; DROP TABLE b;\n"),
    ];

    #[test]
    fn statements_that_fill_a_table_which_the_archive_makes_are_changed_and_nothing_else() {
        let (given, joined) = (archive(1, ENTRIES, CHUNKS), CHUNKS.concat());
        let mut frozen = ENTRIES.to_vec();
        frozen[3].3 = "COPY public.a (x) FROM stdin WITH (FREEZE);\n";
        frozen[5].3 = "COPY \"s x\".empty  FROM stdin WITH (FREEZE);\n";
        for size in [1, 7, 1 << 20] {
            assert_eq!(passed(&given, true, size).unwrap(), archive(1, &frozen, &[&joined]), "{size}");
            assert_eq!(passed(&given, false, size).unwrap(), archive(1, ENTRIES, &[&joined]), "{size}");
        }
    }

    #[test]
    fn an_archive_that_says_where_its_blocks_are_stays_as_it_is() {
        let positioned = archive(2, ENTRIES, CHUNKS);
        assert_eq!(passed(&positioned, true, 7).unwrap(), positioned);
    }

    #[test]
    fn an_archive_that_ends_too_early_is_damaged() {
        let whole = archive(1, ENTRIES, CHUNKS);
        let head = whole.windows(6).rposition(|w| w == [vec![1], int(4)].concat()).unwrap();
        for bytes in [0, 3, head / 2, head - 1] {
            assert!(passed(&whole[..bytes], true, 5).unwrap_err().message.contains("table of contents"), "{bytes}");
        }
        for bytes in [head + 1, head + 8, whole.len() - 1] {
            assert!(passed(&whole[..bytes], true, 5).unwrap_err().message.contains("in the middle"), "{bytes}");
        }
        assert!(passed(&whole[..head], true, 5).is_ok(), "an archive without data");
    }
}
