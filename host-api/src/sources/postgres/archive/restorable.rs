//! An archive on its way into the file that it is restored from, changed where that makes the restore faster and nothing else.
//!
//! - Chunks of tables' data are joined: see [`super::joined`].
//! - Tables are filled with rows that are frozen, where that is asked for. To a row that was just copied in, whoever reads it first adds that
//!   its transaction is over, and so writes every page of the table again; years later a vacuum does so once more. `COPY … WITH (FREEZE)`
//!   writes rows as they will be. It takes a table that the same transaction made or emptied; `pg_restore` empties each before it fills it, if
//!   it made it, works with several jobs, and finds the table's name in the statement as it would write it itself.

use std::collections::BTreeSet;
use std::io::Write;

use super::super::contents::Entry;
use super::super::sql;
use super::item::INT_BYTES;
use super::joined::Joining;
use super::{Reader, damaged};
use crate::error::{Error, Result};
use crate::pipeline::error_of;

/// Takes an archive in pieces of any size and writes it.
pub(in super::super) struct Restorable {
    at: At,
    /// What is to be written next.
    out: Vec<u8>,
    /// Why it makes no sense. What is wrong with the stored object is said first: it is read to its end.
    failed: Option<Error>,
}

enum At {
    Head(Head),
    Blocks(Joining),
    /// It says itself where its blocks are: they stay as they are.
    Positioned,
}

/// The header and the table of contents, as far as they have come.
struct Head {
    reader: Box<Reader>,
    /// What is not written yet: an item whose end has not come.
    pending: Vec<u8>,
    /// How much of the archive is done with, bytes.
    passed: u64,
    /// Tables that the archive makes: schema and name.
    made: BTreeSet<(String, String)>,
    frozen: bool,
}

impl Restorable {
    /// Before the first byte. `freeze`: several jobs of a `pg_restore` of the same major version as `pg_dump` will restore all of it. One of
    /// another version may quote other names, and takes such a table for one that is filled through a root.
    pub fn new(freeze: bool) -> Self {
        let reader = Reader { entries: freeze.then(Vec::new), ..Reader::new() };
        let (pending, made) = (Vec::new(), BTreeSet::new());
        let head = Head { reader: Box::new(reader), pending, passed: 0, made, frozen: false };
        Self { at: At::Head(head), out: Vec::new(), failed: None }
    }

    /// Takes the next bytes; an error only where they can't be written.
    pub fn pass(&mut self, bytes: &[u8], into: &mut dyn Write) -> Result<()> {
        if self.failed.is_some() {
            return Ok(());
        }
        let out = &mut self.out;
        out.clear();
        let taken = match &mut self.at {
            At::Head(head) => head.take(bytes, out).map(|next| {
                if let Some(next) = next {
                    self.at = next;
                }
            }),
            At::Blocks(joining) => joining.take(bytes, out),
            At::Positioned => return into.write_all(bytes).map_err(error_of),
        };
        self.failed = taken.err();
        into.write_all(out).map_err(error_of)
    }

    /// The end, once the object was compared: an error if it makes no sense, has no whole table of contents, or a block has no end.
    pub fn finish(self) -> Result<()> {
        match (self.failed, self.at) {
            (Some(e), _) => Err(e),
            (None, At::Head(_)) => Err(damaged("it ends within its table of contents")),
            (None, At::Blocks(joining)) => joining.finish(),
            (None, At::Positioned) => Ok(()),
        }
    }
}

impl Head {
    /// Takes the next bytes; what comes behind the table of contents, once that is complete.
    fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<At>> {
        let fed = self.reader.feed(bytes);
        self.pending.extend_from_slice(bytes);
        let is_whole = self.reader.head().is_some();
        if !is_whole {
            fed?;
        }
        let whole = usize::try_from(self.reader.head_bytes - self.passed).unwrap_or(usize::MAX);
        let rest = self.pending.split_off(whole.min(self.pending.len()));
        let items = std::mem::replace(&mut self.pending, rest);
        self.write(&items, out)?;
        self.passed = self.reader.head_bytes;
        if !is_whole {
            return Ok(None);
        }
        let blocks = std::mem::take(&mut self.pending);
        if self.reader.has_positions {
            out.extend_from_slice(&blocks);
            return Ok(Some(At::Positioned));
        }
        let mut joining = Joining::default();
        joining.take(&blocks, out)?;
        Ok(Some(At::Blocks(joining)))
    }

    /// Writes whole items, with other COPY statements where that is wanted.
    fn write(&mut self, items: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let mut from = 0;
        for entry in self.reader.take_entries() {
            let name = (entry.schema.clone(), entry.tag.clone());
            match entry.kind.as_str() {
                // Before their data: that is the order in which pg_restore makes them.
                "TABLE" => drop(self.made.insert(name)),
                "TABLE DATA" if self.made.contains(&name) && !self.reader.has_positions => {
                    let Some(statement) = frozen_copy(&entry) else { continue };
                    let (Ok(length), Ok(at)) =
                        (u32::try_from(statement.len()), usize::try_from(entry.at - self.passed))
                    else {
                        continue;
                    };
                    let at = at + entry.copy_at;
                    out.extend_from_slice(&items[from..at]);
                    out.push(0);
                    out.extend_from_slice(&length.to_le_bytes());
                    out.extend_from_slice(statement.as_bytes());
                    from = at + INT_BYTES + entry.copy.len();
                    self.frozen = true;
                }
                _ => {}
            }
        }
        out.extend_from_slice(&items[from..]);
        if self.frozen && self.reader.has_positions {
            // Another length before them has moved the blocks from where it says.
            return Err(damaged("it says of some of its blocks where they are, and of others not"));
        }
        Ok(())
    }
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
        // One that says so of its last entry only.
        let mut mixed = archive(1, ENTRIES, CHUNKS);
        let at = mixed.windows(9).rposition(|w| *w == [1, 0, 0, 0, 0, 0, 0, 0, 0]).unwrap();
        mixed[at] = 2;
        assert!(passed(&mixed, true, 7).unwrap_err().message.contains("of some of its blocks"));
        assert_eq!(passed(&mixed, true, mixed.len()).unwrap(), mixed);
    }

    #[test]
    fn what_makes_no_sense_is_said_at_the_end_and_nothing_is_written_after_it() {
        let mut whole = archive(1, ENTRIES, CHUNKS);
        whole[6] = 9;
        let (mut restorable, mut written) = (Restorable::new(true), Vec::new());
        whole.chunks(50).try_for_each(|piece| restorable.pass(piece, &mut written)).unwrap();
        assert_eq!(written, b"");
        assert!(restorable.finish().unwrap_err().message.contains("format 1.9"));
    }

    #[test]
    fn no_more_of_a_table_of_contents_is_kept_than_an_entry() {
        let entries: Vec<_> =
            (0..40_000).map(|_| ("STATISTICS DATA", "public", "a long name that says much", "")).collect();
        let (whole, mut restorable) = (archive(1, &entries, CHUNKS), Restorable::new(true));
        for piece in whole.chunks(10_000) {
            restorable.pass(piece, &mut std::io::sink()).unwrap();
            if let At::Head(head) = &restorable.at {
                assert!(head.pending.len() < 1000);
                assert!(head.reader.kept_bytes < 10_000, "{}", head.reader.kept_bytes);
            }
        }
        restorable.finish().unwrap();
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
