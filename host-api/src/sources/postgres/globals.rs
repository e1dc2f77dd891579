//! What a database hangs on and no dump of it holds: the server's roles, their memberships and settings, and its tablespaces, as
//! `pg_dumpall --globals-only` writes them, without passwords. Kept beside the dump, for people: nothing of it is ever run by itself.

use std::io::Write;
use std::time::Duration;

use crate::Finding;
use crate::child;
use crate::error::{Context, Error, Result};
use crate::identifier::shown_long;
use crate::manifest::ObjectEntry;
use crate::sources::ObjectSink;

use super::tools::Tools;

/// The object's role in a manifest.
pub const ROLE: &str = "globals";
/// Most that is taken of it, bytes: a server with a hundred thousand roles has some 10 MB.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long it may take: it reads a few shared tables.
const LIMIT: Duration = Duration::from_secs(60);
/// How it ends; without it, it was cut off.
const TRAILER: &str = "-- PostgreSQL database cluster dump complete";

/// Stores them. A server or a role that does not give them leaves a backup without, which says so.
pub(super) fn dump(tools: &Tools<'_>, sink: &dyn ObjectSink) -> Result<(Option<ObjectEntry>, Option<Finding>)> {
    let text = match ask(tools) {
        Ok(text) => text,
        Err(error) => {
            // Late or cancelled is the dump's own end.
            tools.cx.check()?;
            let finding = Finding::warning(
                ROLE,
                format!("roles and tablespaces of the server are not in this backup: {}", shown_long(&error.message)),
                "keep the output of `pg_dumpall --globals-only` beside it",
            );
            return Ok((None, Some(finding)));
        }
    };
    let mut writer = sink.create(ROLE, "sql", Some(text.len() as u64))?;
    writer.write_all(&text).doing(|| "storing roles and tablespaces".into())?;
    Ok((Some(writer.finish()?), None))
}

fn ask(tools: &Tools<'_>) -> Result<Vec<u8>> {
    let mut spec = tools.connected("pg_dumpall", &tools.binding.maintenance_database, "UTF8")?;
    // It takes the name of the database to connect to from here, and not from the connection string.
    for argument in ["--globals-only", "--no-role-passwords", "-l", &tools.binding.maintenance_database] {
        spec = spec.arg(tools.word(argument));
    }
    // An extra: it does not cost the backup that waits for it.
    let (text, ended) = child::run(&tools.cx.within(LIMIT), &spec, b"", BYTES_MAX)?;
    tools.succeeded("pg_dumpall", &ended)?;
    if !String::from_utf8_lossy(&text).contains(TRAILER) {
        return Err(Error::failed("pg_dumpall ended with exit code 0, but its text has no end"));
    }
    Ok(text)
}
