//! An archive's blocks as they stream past, with the chunks of tables' data joined to larger ones.
//!
//! `pg_dump` writes a chunk a row. `pg_restore` reads each by itself, sends it as a message of its own, and passes over what is not its turn
//! chunk by chunk too, with a system call each: for rows of 300 bytes, a sixth of the time of the whole restore. What chunks the data come in
//! means nothing.

use super::damaged;
use super::item::{INT_BYTES, Integers, object_id};
use crate::error::Result;

/// Chunks are joined up to this size, bytes: it fits the fastest part of a processor's cache, and larger ones gain nothing.
const JOINED_BYTES: usize = 32 * 1024;
/// A chunk's length stands in front of it. A place is kept for it while the chunk grows.
const NO_LENGTH: [u8; INT_BYTES] = [0; INT_BYTES];

/// Takes blocks in pieces of any size, from behind the table of contents on, and writes them.
#[derive(Default)]
pub(super) struct Joining {
    state: State,
    integers: Integers,
    /// What is to be written.
    out: Vec<u8>,
    /// Where in it a chunk begins that grows.
    growing: Option<usize>,
}

#[derive(Default, Clone, Copy)]
enum State {
    /// At the beginning of a block, which is also where an archive may end.
    #[default]
    Block,
    /// Before its entry's id.
    BlockId(u8),
    /// Before a chunk's length in a table's data.
    Table,
    TableData(usize),
    /// Before a large object's id.
    Objects,
    /// Before a chunk's length in a large object.
    Object,
    ObjectData(usize),
}

impl Joining {
    /// Takes the next bytes, and gives what can be written.
    pub fn take(&mut self, mut input: &[u8], into: &mut Vec<u8>) -> Result<()> {
        while !input.is_empty() {
            self.state = match self.state {
                State::Block => {
                    let kind = input[0];
                    input = &input[1..];
                    self.out.push(kind);
                    State::BlockId(kind)
                }
                State::TableData(left) => match self.data(left, &mut input) {
                    0 => State::Table,
                    left => State::TableData(left),
                },
                State::ObjectData(left) => match self.data(left, &mut input) {
                    0 => State::Object,
                    left => State::ObjectData(left),
                },
                before => match self.integers.next(&mut input) {
                    None => before,
                    Some(value) => self.behind(before, value)?,
                },
            };
        }
        let ready = self.growing.unwrap_or(self.out.len());
        let growing = self.out[ready..].to_vec();
        self.out.truncate(ready);
        if into.is_empty() {
            std::mem::swap(into, &mut self.out);
        } else {
            into.append(&mut self.out);
        }
        self.out.clear();
        self.out.extend_from_slice(&growing);
        self.growing = self.growing.map(|_| 0);
        Ok(())
    }

    /// The end: an error within a block.
    pub fn finish(self) -> Result<()> {
        match self.state {
            State::Block => Ok(()),
            _ => Err(damaged("it ends in the middle")),
        }
    }

    /// What comes behind an integer.
    fn behind(&mut self, state: State, value: i64) -> Result<State> {
        if matches!(state, State::Objects) {
            let id = object_id(value)?;
            self.signed(value);
            return Ok(if id == 0 { State::Block } else { State::Object });
        }
        let length = u32::try_from(value).map_err(|_| damaged("a negative number stands where none may"))?;
        Ok(match (state, length) {
            (State::Table, 0) => {
                self.end_chunk();
                self.integer(0);
                State::Block
            }
            (State::Table, length) => {
                self.begin(length);
                State::TableData(length as usize)
            }
            (State::BlockId(kind), id) => {
                self.integer(id);
                match kind {
                    1 => State::Table,
                    3 => State::Objects,
                    _ => return Err(damaged(format!("the data block of entry {id} has type {kind}"))),
                }
            }
            (_, length) => {
                self.integer(length);
                if length == 0 { State::Objects } else { State::ObjectData(length as usize) }
            }
        })
    }

    /// Takes data of a chunk; how many bytes of it are left.
    fn data(&mut self, left: usize, input: &mut &[u8]) -> usize {
        let (bytes, rest) = input.split_at(left.min(input.len()));
        *input = rest;
        self.out.extend_from_slice(bytes);
        left - bytes.len()
    }

    /// A chunk of this length comes: it goes to the one that grows, or begins anew.
    fn begin(&mut self, length: u32) {
        let joined = self.growing.map_or(0, |start| self.out.len() - start - INT_BYTES) + length as usize;
        if self.growing.is_some() && joined <= JOINED_BYTES {
            return;
        }
        self.end_chunk();
        if length as usize >= JOINED_BYTES {
            // Its length is known: it need not be kept until its end.
            self.integer(length);
            return;
        }
        self.growing = Some(self.out.len());
        self.out.extend_from_slice(&NO_LENGTH);
    }

    /// Nothing more joins the chunk that grew.
    fn end_chunk(&mut self) {
        if let Some(start) = self.growing.take() {
            let data = start + INT_BYTES;
            let length = u32::try_from(self.out.len() - data).expect("no longer than JOINED_BYTES");
            self.out[start + 1..data].copy_from_slice(&length.to_le_bytes());
        }
    }

    fn integer(&mut self, value: u32) {
        self.signed(i64::from(value));
    }

    fn signed(&mut self, value: i64) {
        self.out.push(u8::from(value < 0));
        // Its sign stands by itself; no integer has more than four bytes.
        self.out.extend_from_slice(&value.unsigned_abs().to_le_bytes()[..INT_BYTES - 1]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn int(value: usize) -> Vec<u8> {
        [&[0], &u32::try_from(value).unwrap().to_le_bytes()[..]].concat()
    }

    fn table(id: usize, chunks: &[&[u8]]) -> Vec<u8> {
        let chunks: Vec<u8> = chunks.iter().flat_map(|chunk| [int(chunk.len()), chunk.to_vec()].concat()).collect();
        [vec![1], int(id), chunks, int(0)].concat()
    }

    fn objects(id: usize, objects: &[(usize, &[&[u8]])]) -> Vec<u8> {
        let objects: Vec<u8> =
            objects.iter().flat_map(|(oid, chunks)| [int(*oid), table(0, chunks)[6..].to_vec()].concat()).collect();
        [vec![3], int(id), objects, int(0)].concat()
    }

    fn passed(blocks: &[u8], size: usize) -> Result<Vec<u8>> {
        let (mut joining, mut written) = (Joining::default(), Vec::new());
        blocks.chunks(size).try_for_each(|piece| joining.take(piece, &mut written))?;
        Ok(written)
    }

    #[test]
    fn chunks_of_tables_are_joined_and_all_else_stays() {
        let (row, half, long) = ([b'r'; 300], vec![b'h'; JOINED_BYTES / 2], vec![b'l'; 3 * JOINED_BYTES]);
        let rows = vec![&row[..]; 200];
        let mut objects = objects(3, &[(4711, &[b"some", b"more"]), (4712, &[]), (4713, &[&long])]);
        // An id of the upper half.
        objects.splice(6..11, [1, 5, 0, 0, 0]);
        let blocks = [
            table(1, &rows),
            table(2, &[]),
            objects.clone(),
            table(4, &[b"a", &half, &half, b"b", &long, b"c", b"d", &[b'x'; JOINED_BYTES], b"e"]),
        ]
        .concat();
        let a_chunk = JOINED_BYTES / row.len();
        let [first, second] = [&rows[..a_chunk], &rows[a_chunk..]].map(<[_]>::concat);
        let ahead = [b"a", &half[..]].concat();
        let both = [&half[..], b"b"].concat();
        assert!(second.len() < JOINED_BYTES && both.len() < JOINED_BYTES);
        let expected = [
            table(1, &[&first, &second]),
            table(2, &[]),
            objects,
            table(4, &[&ahead, &both, &long, b"cd", &[b'x'; JOINED_BYTES], b"e"]),
        ]
        .concat();
        for size in [1, 5, 299, 65_537, 1 << 20] {
            assert!(passed(&blocks, size).unwrap() == expected, "{size}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_damaged() {
        let negative = [vec![1], int(1), vec![1, 5, 0, 0, 0]].concat();
        let unknown = [vec![7], int(1)].concat();
        for (blocks, words) in [(negative, "negative"), (unknown, "type 7")] {
            for size in [1, 100] {
                let error = passed(&blocks, size).unwrap_err();
                assert!(error.message.contains(words), "{error}");
            }
        }
    }

    #[test]
    fn a_chunk_that_grows_is_all_that_is_kept() {
        let blocks = table(1, &vec![&[b'r'; 300][..]; 10_000]);
        let (mut joining, mut written) = (Joining::default(), Vec::new());
        for piece in blocks.chunks(100_000) {
            joining.take(piece, &mut written).unwrap();
            assert!(joining.out.len() <= INT_BYTES + JOINED_BYTES);
        }
        assert!(joining.out.is_empty());
    }
}
