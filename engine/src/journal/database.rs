//! What the journal asks of its database: statements inside one transaction, the same text for SQLite and for PostgreSQL.

use std::sync::Arc;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::error::{Error, Kind, Result};

/// A parameter, or a column of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    /// A 64-bit number.
    Integer(Option<i64>),
    /// A text.
    Text(Option<String>),
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        // PostgreSQL's texts hold no NUL. A record is JSON, which has none; a summary or a name that a policy gave may.
        Self::Text(Some(if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }))
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl From<&String> for Cell {
    fn from(text: &String) -> Self {
        text.clone().into()
    }
}

impl From<Option<&str>> for Cell {
    fn from(text: Option<&str>) -> Self {
        text.map_or(Self::Text(None), Self::from)
    }
}

impl From<Option<String>> for Cell {
    fn from(text: Option<String>) -> Self {
        text.map_or(Self::Text(None), Self::from)
    }
}

impl From<i64> for Cell {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}

/// Numbers of records, steps and milliseconds: far below 2^63.
impl From<u64> for Cell {
    fn from(number: u64) -> Self {
        Self::Integer(Some(number.cast_signed()))
    }
}

impl From<Option<u64>> for Cell {
    fn from(number: Option<u64>) -> Self {
        Self::Integer(number.map(u64::cast_signed))
    }
}

/// The cells of a statement: `cells![run, step]`.
macro_rules! cells {
    ($($cell:expr),* $(,)?) => { &[$($crate::journal::database::Cell::from($cell)),*] };
}
pub(super) use cells;

/// A row of an answer.
#[derive(Debug, Clone)]
pub(super) struct Row(pub(super) Vec<Cell>);

impl Row {
    pub(super) fn optional_text(&self, at: usize) -> Result<Option<&str>> {
        match self.0.get(at) {
            Some(Cell::Text(text)) => Ok(text.as_deref()),
            // A NULL may come as either.
            Some(Cell::Integer(None)) => Ok(None),
            _ => Err(unexpected(at)),
        }
    }

    pub(super) fn text(&self, at: usize) -> Result<&str> {
        self.optional_text(at)?.ok_or_else(|| unexpected(at))
    }

    pub(super) fn string(&self, at: usize) -> Result<String> {
        self.text(at).map(str::to_owned)
    }

    pub(super) fn integer(&self, at: usize) -> Result<i64> {
        match self.0.get(at) {
            Some(Cell::Integer(Some(number))) => Ok(*number),
            _ => Err(unexpected(at)),
        }
    }

    pub(super) fn number(&self, at: usize) -> Result<u64> {
        u64::try_from(self.integer(at)?).map_err(|_| unexpected(at))
    }

    pub(super) fn optional_number(&self, at: usize) -> Result<Option<u64>> {
        match self.0.get(at) {
            Some(Cell::Integer(None) | Cell::Text(None)) => Ok(None),
            _ => self.number(at).map(Some),
        }
    }
}

fn unexpected(at: usize) -> Error {
    Error::new(Kind::Journal, format!("the state database: column {at} of a row is not what its table says"))
}

/// One transaction. Parameters stand as `$1`, `$2`, … in a statement.
#[async_trait]
pub(super) trait Transaction: Send {
    /// Gives the number of rows that were changed.
    async fn execute(&mut self, sql: &'static str, cells: &[Cell]) -> Result<u64>;

    /// Gives the rows.
    async fn rows(&mut self, sql: &'static str, cells: &[Cell]) -> Result<Vec<Row>>;
}

/// A change that is made in a transaction, alone or beside others. It may be made again, after the transaction that it was in failed.
pub(super) type Write = Arc<dyn for<'t> Fn(&'t mut dyn Transaction) -> BoxFuture<'t, Result<u64>> + Send + Sync>;

/// Reads that see one moment.
pub(super) type Look<T> = Box<dyn for<'t> FnOnce(&'t mut dyn Transaction) -> BoxFuture<'t, Result<T>> + Send>;
