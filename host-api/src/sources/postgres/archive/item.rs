//! Items of an archive's head (the header, entries of the table of contents), read from a buffer that may end too early.

use crate::error::{Error, Result};

/// Longest item (header or entry of the table of contents). One entry may hold a whole function or view; 64 MiB is far beyond any.
pub(super) const ITEM_BYTES_MAX: usize = 64 * 1024 * 1024;
/// An integer's bytes: its sign, then four of value.
pub(super) const INT_BYTES: usize = 5;

/// Why an item can't be read: its end has not come yet, or it makes no sense.
pub(super) enum Stop {
    More,
    Bad(Error),
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Self::Bad(e)
    }
}

pub(super) fn damaged(what: impl std::fmt::Display) -> Error {
    Error::failed(format!("the archive is damaged: {what}"))
        .hint("it is not what pg_dump wrote: use another copy of this backup, or another backup")
}

pub(super) fn integer(bytes: &[u8]) -> i64 {
    let value = bytes[1..INT_BYTES].iter().rev().fold(0_i64, |value, b| value << 8 | i64::from(*b));
    if bytes[0] == 0 { value } else { -value }
}

/// A large object's id. `pg_dump` writes it as a signed integer: those of the upper half look negative.
pub(super) fn object_id(value: i64) -> Result<u32> {
    let id = u32::try_from(value).ok().or_else(|| i32::try_from(value).ok().map(i32::cast_unsigned));
    id.ok_or_else(|| damaged("a large object has an id that is none"))
}

/// Reads integers from a stream that comes in pieces of any size.
#[derive(Default)]
pub(super) struct Integers {
    /// The beginning of one whose end has not come yet.
    pending: Vec<u8>,
}

impl Integers {
    /// Whether one has begun and not ended.
    pub(super) fn inside(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes the next one off the input; none while its end is missing.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Option<i64> {
        if self.pending.is_empty()
            && let Some((bytes, rest)) = input.split_at_checked(INT_BYTES)
        {
            *input = rest;
            return Some(integer(bytes));
        }
        let (bytes, rest) = input.split_at((INT_BYTES - self.pending.len()).min(input.len()));
        *input = rest;
        self.pending.extend_from_slice(bytes);
        if self.pending.len() < INT_BYTES {
            return None;
        }
        let value = integer(&self.pending);
        self.pending.clear();
        Some(value)
    }

    /// The next one, of which only what is not negative makes sense.
    pub(super) fn length(&mut self, input: &mut &[u8]) -> Result<Option<u32>> {
        self.next(input)
            .map(|length| u32::try_from(length).map_err(|_| damaged("a chunk has a negative length")))
            .transpose()
    }
}

/// Reads one item of the head from a buffer that may end too early.
pub(super) struct Item<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) at: usize,
}

impl<'a> Item<'a> {
    pub(super) fn take(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let rest = &self.bytes[self.at..];
        let taken = rest.get(..length).ok_or(Stop::More)?;
        self.at += length;
        Ok(taken)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Stop> {
        self.take(1).map(|b| b[0])
    }

    pub(super) fn int(&mut self) -> Result<i64, Stop> {
        self.take(INT_BYTES).map(integer)
    }

    pub(super) fn text(&mut self) -> Result<Option<&'a [u8]>, Stop> {
        match usize::try_from(self.int()?) {
            // A negative length stands for an absent text.
            Err(_) => Ok(None),
            Ok(length) if length > ITEM_BYTES_MAX => Err(damaged("a text is longer than 64 MiB").into()),
            Ok(length) => self.take(length).map(Some),
        }
    }
}

/// A text that is kept must be one.
pub(super) fn kept(bytes: Option<&[u8]>) -> Result<Option<String>> {
    bytes.map(|bytes| String::from_utf8(bytes.to_vec())).transpose().map_err(|_| {
        damaged("a name is not UTF-8").hint("names in an SQL_ASCII database must be UTF-8 to be backed up")
    })
}
