//! Named read-only queries of the live service's databases.

use async_trait::async_trait;

use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::real::{RealHost, blocking};
use crate::sources::Row;

/// Longest value that a query or capture lets out, bytes.
pub const VALUE_BYTES_MAX: usize = 256;
/// Most columns that a query lets out.
pub const COLUMNS_MAX: usize = 16;

/// Asking the live service's databases.
#[async_trait]
pub trait Query: Send + Sync {
    /// One row of a configured query.
    async fn run(&self, cx: &StepContext, service: &str, name: &str) -> Result<Row>;
}

#[async_trait]
impl Query for RealHost {
    async fn run(&self, cx: &StepContext, service: &str, name: &str) -> Result<Row> {
        let (work, cx, name) = (self.work(service)?, cx.clone(), name.to_owned());
        blocking(move || {
            cx.check()?;
            let queries = &work.service.query;
            let query = queries.get(&name).ok_or_else(|| Error::unknown("query", &name, queries.keys()))?;
            work.ask(&cx, &name, query, None)
        })
        .await
    }
}

/// The one row of an answer, if it is small enough to be let out. What is too long is refused, not cut: half a value is another value.
pub(crate) fn bounded(name: &str, rows: Vec<Row>) -> Result<Row> {
    let count = rows.len();
    let Ok([row]) = <[Row; 1]>::try_from(rows) else {
        return Err(Error::failed(format!("query {name} gives {count} rows, one expected")));
    };
    if row.len() > COLUMNS_MAX {
        return Err(Error::failed(format!(
            "query {name} gives {} columns, at most {COLUMNS_MAX} are let out",
            row.len()
        )));
    }
    if let Some(long) = row.iter().flatten().find(|value| value.len() > VALUE_BYTES_MAX) {
        return Err(Error::failed(format!(
            "query {name} gives a value of {} bytes, at most {VALUE_BYTES_MAX} are let out",
            long.len()
        )));
    }
    Ok(row)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_let_out_is_bounded() {
        let value = |bytes: usize| Some("x".repeat(bytes));
        assert_eq!(bounded("q", vec![vec![value(256), None]]).unwrap().len(), 2);
        for (rows, words) in [
            (vec![], "0 rows"),
            (vec![vec![], vec![]], "2 rows"),
            (vec![vec![None; 17]], "17 columns"),
            (vec![vec![value(257)]], "257 bytes"),
        ] {
            let error = bounded("q", rows).unwrap_err();
            assert!(error.message.contains(words), "{error}");
        }
    }
}
