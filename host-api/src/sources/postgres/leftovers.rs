//! Sessions that outlive the client we started: its server process finishes a statement first, and behind a prefix the tool itself goes on.
//!
//! Every session has the marker of its attempt as its application name ([`StepContext::marker`]), so the server itself says what is left.

use std::time::{Duration, Instant};

use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};

use super::sql;
use super::tools::Tools;

/// How long a session that was told to end may take; one that rolls much back needs a moment.
const END_LIMIT: Duration = Duration::from_secs(20);
/// How often the server is asked whether they are gone.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// How much time cleaning up gets when the step itself may take no more.
const GRACE: Duration = Duration::from_secs(30);
/// Longest application name, bytes; the server cuts longer ones.
const NAME_BYTES_MAX: usize = 63;

/// Whose sessions are ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempts {
    /// Those of this step before this attempt.
    Earlier,
    /// This one's too.
    All,
}

/// Ends sessions of this step. None is left when this answers.
pub(super) fn end(tools: &Tools<'_>, attempts: Attempts) -> Result<()> {
    let marker = tools.cx.marker();
    let step = marker.rsplit_once('/').map_or(marker.as_str(), |(step, _)| step);
    let cut = |text: &str| format!("pg_catalog.left({}, {NAME_BYTES_MAX})", sql::literal(text));
    let others = match attempts {
        Attempts::Earlier => format!(" AND application_name <> {}", cut(&marker)),
        Attempts::All => String::new(),
    };
    let query = format!(
        "SELECT pid, pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity \
         WHERE usename = current_user AND pid <> pg_catalog.pg_backend_pid() \
         AND pg_catalog.starts_with(application_name, {}){others}",
        cut(&format!("{step}/"))
    );
    let limit = Instant::now() + END_LIMIT.min(tools.cx.remaining());
    loop {
        let left = tools.rows(&tools.binding.maintenance_database, &query)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= limit {
            let pids: Vec<&str> = left.iter().filter_map(|row| row.first()?.as_deref()).collect();
            return Err(Error::new(
                ErrorKind::TimedOut,
                format!(
                    "database sessions of this step are still there after they were told to end: {}",
                    pids.join(", ")
                ),
            )
            .hint("look at them in pg_stat_activity; they are named after the run"));
        }
        std::thread::sleep(LOOK_INTERVAL);
    }
}

/// A context for what must be put right when the step itself may take no more time.
pub(super) fn grace(cx: &StepContext) -> StepContext {
    cx.taking_back(GRACE)
}

/// Whether sessions may be left of what ended with this error: a client was killed, or the client is not the tool.
pub(super) fn may_be_left(tools: &Tools<'_>, error: &Error) -> bool {
    tools.outlive() || matches!(error.kind, ErrorKind::TimedOut | ErrorKind::Cancelled)
}

/// After a failure: ends what may be left of this attempt, and says so where that was not possible.
pub(super) fn after(tools: &Tools<'_>, error: Error) -> Error {
    if !may_be_left(tools, &error) {
        return error;
    }
    let cx = grace(tools.cx);
    match tools.with(&cx).and_then(|tools| end(&tools, Attempts::All)) {
        Ok(()) => error,
        // The server can't be reached in this way at all: that is said once.
        Err(e) if e.message == error.message => error,
        Err(e) => {
            let hint = format!(
                "{}end the sessions named {} in pg_stat_activity by hand, as far as there are any",
                error.hint.as_ref().map(|hint| format!("{hint}; ")).unwrap_or_default(),
                tools.cx.marker()
            );
            error.context(format!("what was left running could not be ended ({})", e.message)).hint(hint)
        }
    }
}
