//! Counting and hashing the rows of COPY text: the same code for an archive's data blocks and for a table that is read back.
//!
//! A table's hash is the sum modulo 2^128 of a 128-bit hash of each row: independent of the rows' order, and a row that is there
//! twice counts twice (XOR would cancel it).

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

/// A row that crosses chunks is collected up to this size, then hashed piece by piece: memory stays bounded whatever a row's length.
const CARRY_BYTES_MAX: usize = 64 * 1024;

/// How many rows, and the sum of their hashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowSum {
    /// How many.
    pub rows: u64,
    /// Sum modulo 2^128.
    pub sum: u128,
}

impl RowSum {
    /// Adds a row by its hash.
    pub fn add(&mut self, hash: u128) {
        self.rows += 1;
        self.sum = self.sum.wrapping_add(hash);
    }

    /// The sum as 32 hexadecimal digits.
    pub fn hex(&self) -> String {
        format!("{:032x}", self.sum)
    }
}

/// Takes COPY text in pieces of any size, up to the line that ends it.
pub(super) struct RowHasher {
    total: RowSum,
    /// The beginning of a row whose end has not come yet.
    carry: Vec<u8>,
    /// Takes over from `carry` for a long row.
    long: Option<Box<Xxh3>>,
}

impl RowHasher {
    pub fn new() -> Self {
        Self { total: RowSum::default(), carry: Vec::new(), long: None }
    }

    /// What was counted so far.
    pub fn total(&self) -> RowSum {
        self.total
    }

    /// True while a row's end is missing.
    pub fn inside_row(&self) -> bool {
        self.long.is_some() || !self.carry.is_empty()
    }

    /// Takes rows. A line for which `ends` is true ends the text: the bytes behind it are left over, and that line and they are
    /// the answer; `None` while no such line has come. `ends` sees short lines only as a whole.
    pub fn feed<'a>(&mut self, mut bytes: &'a [u8], ends: impl Fn(&[u8]) -> bool) -> Option<(Vec<u8>, &'a [u8])> {
        if self.inside_row() {
            let Some(end) = memchr::memchr(b'\n', bytes) else {
                self.keep(bytes);
                return None;
            };
            self.keep(&bytes[..end]);
            bytes = &bytes[end + 1..];
            if let Some(long) = self.long.take() {
                self.total.add(long.digest128());
            } else {
                if ends(&self.carry) {
                    return Some((std::mem::take(&mut self.carry), bytes));
                }
                self.total.add(xxh3_128(&self.carry));
                self.carry.clear();
            }
        }
        // Whole rows are hashed where they lie.
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', bytes) {
            let row = &bytes[start..end];
            start = end + 1;
            // A backslash that begins no escape of COPY text is the only way an end line can look.
            if row.first() == Some(&b'\\') && ends(row) {
                return Some((row.to_vec(), &bytes[start..]));
            }
            self.total.add(xxh3_128(row));
        }
        self.keep(&bytes[start..]);
        None
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Some(long) = &mut self.long {
            long.update(bytes);
        } else if self.carry.len() + bytes.len() > CARRY_BYTES_MAX {
            let mut long = Box::new(Xxh3::new());
            long.update(&self.carry);
            long.update(bytes);
            self.carry.clear();
            self.long = Some(long);
        } else {
            self.carry.extend_from_slice(bytes);
        }
    }
}

/// One large object's hash: over its id, four bytes little-endian, and its content.
pub(super) struct LargeObjectHasher(Box<Xxh3>);

impl LargeObjectHasher {
    pub fn new(oid: u32) -> Self {
        let mut hasher = Box::new(Xxh3::new());
        hasher.update(&oid.to_le_bytes());
        Self(hasher)
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub fn digest(&self) -> u128 {
        self.0.digest128()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(line: &[u8]) -> bool {
        line == b"\\."
    }

    #[test]
    fn order_does_not_matter_and_copies_do() {
        let sum = |text: &[u8]| {
            let mut hasher = RowHasher::new();
            assert!(hasher.feed(text, ends).is_none());
            hasher.total()
        };
        assert_eq!(sum(b"a\nb\n"), sum(b"b\na\n"));
        assert_ne!(sum(b"a\na\n").sum, 0);
        assert_ne!(sum(b"a\n").sum, sum(b"a \n").sum);
        assert_eq!(sum(b"\n\n").rows, 2);
    }

    #[test]
    fn pieces_of_any_size_give_the_same_sum() {
        let mut text = vec![b'x'; CARRY_BYTES_MAX * 3];
        text.extend_from_slice(b"\nshort\n\n\\\\.\n\\.\nrest");
        let mut whole = RowHasher::new();
        let (line, rest) = whole.feed(&text, ends).expect("it ends");
        assert_eq!((line.as_slice(), rest), (b"\\.".as_slice(), b"rest".as_slice()));
        assert_eq!(whole.total().rows, 4);
        for size in [1, 2, 7, 4096, CARRY_BYTES_MAX + 1] {
            let mut pieces = RowHasher::new();
            let ended = text.chunks(size).any(|piece| pieces.feed(piece, ends).is_some());
            assert!(ended);
            assert_eq!(pieces.total(), whole.total(), "{size}");
        }
    }
}
