//! Named read-only queries of the live service's databases.

use async_trait::async_trait;

use crate::context::StepContext;
use crate::error::Result;
use crate::sources::Row;

/// Longest value that a query or capture lets out, bytes.
pub const VALUE_BYTES_MAX: usize = 256;

/// Asking the live service's databases.
#[async_trait]
pub trait Query: Send + Sync {
    /// One row of a configured query.
    async fn run(&self, cx: &StepContext, service: &str, name: &str) -> Result<Row>;
}
