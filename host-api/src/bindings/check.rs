//! What can be told of a binding without looking at the world, beyond its form: checked when a configuration is read.

use super::{PostgresSource, Service, Source};
use crate::error::Result;
use crate::sources::postgres::prefix::Prefix;

impl Service {
    /// Checks its sources and how it is controlled and installed. An error says what is wrong, and where.
    pub fn check(&self) -> Result<()> {
        for (name, source) in &self.source {
            if let Source::Postgres(postgres) = source {
                postgres.check().map_err(|e| e.context(format!("source {name}")))?;
            }
        }
        Ok(())
    }
}

impl PostgresSource {
    /// Checks that tools can be used behind its prefix, and that its password can be handed through.
    pub fn check(&self) -> Result<()> {
        let prefix = Prefix::parse(&self.prefix)?;
        if self.password.is_some() { prefix.check_password() } else { Ok(()) }
    }
}
