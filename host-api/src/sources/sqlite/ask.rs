//! Statements from the environment: questions, which may only read, and quarantine, which may only change its own candidate.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};
use rusqlite::types::ValueRef;

use super::open::explain;
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};
use crate::sources::not_json::NotJson;
use crate::sources::{Answers, Question, Row};

/// One answer may hold this much text; it is kept in memory, and what leaves the host is bounded far below.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Pragmas that a question may read, also as table-valued functions (which full-text search uses itself).
const PRAGMAS: [&str; 15] = [
    "application_id",
    "collation_list",
    "data_version",
    "encoding",
    "foreign_key_list",
    "freelist_count",
    "index_info",
    "index_list",
    "page_count",
    "page_size",
    "schema_version",
    "table_info",
    "table_list",
    "table_xinfo",
    "user_version",
];

/// Answers all questions.
pub(super) fn answers(cx: &StepContext, conn: &Connection, path: &Path, questions: &[Question]) -> Result<Answers> {
    questions.iter().map(|q| Ok((q.name.clone(), answer(cx, conn, path, q)?))).collect()
}

/// Answers one question: one statement that can only read. Numbers come in SQL's notation, blobs as `\x` and hexadecimal digits.
pub(super) fn answer(cx: &StepContext, conn: &Connection, path: &Path, question: &Question) -> Result<Vec<Row>> {
    let named = |e: Error| e.context(format!("query `{}`", question.name));
    let failed =
        |e: rusqlite::Error| named(if e.sqlite_error().is_some() { statement_error(cx, path, e) } else { invalid(&e) });
    conn.authorizer(Some(may_read)).map_err(failed)?;
    let rows = (|| {
        let mut statement = conn.prepare(&question.sql).map_err(failed)?;
        if !statement.readonly() || statement.column_count() == 0 {
            return Err(named(Error::invalid("the statement is not one that only reads")).hint("use one SELECT"));
        }
        let columns = statement.column_count();
        let mut rows = statement.query([]).map_err(failed)?;
        let mut answer = Vec::new();
        let mut bytes = 0;
        let mut damaged = NotJson::default();
        while let Some(row) = rows.next().map_err(failed)? {
            if question.not_json {
                damaged
                    .take((0..columns).map(|c| Ok(shown(row.get_ref(c)?))).collect::<Result<_, _>>().map_err(failed)?);
                continue;
            }
            if answer.len() == question.rows_max {
                return Err(named(Error::failed(format!("more than {} rows", question.rows_max)))
                    .hint("let the statement give fewer rows (LIMIT, an aggregate)"));
            }
            let mut values = Row::with_capacity(columns);
            for column in 0..columns {
                let value = shown(row.get_ref(column).map_err(failed)?);
                bytes += value.as_ref().map_or(0, String::len);
                values.push(value);
            }
            if bytes > ANSWER_BYTES_MAX {
                return Err(named(Error::failed(format!("the answer is larger than {ANSWER_BYTES_MAX} bytes"))));
            }
            answer.push(values);
        }
        if question.not_json {
            answer.push(damaged.answer());
        }
        Ok(answer)
    })();
    forbid_nothing(conn);
    rows
}

/// Runs statements in one transaction, which is taken back if one fails. They can change this database and nothing else.
pub(super) fn execute(cx: &StepContext, conn: &Connection, path: &Path, statements: &[String]) -> Result<()> {
    let run = |sql: &str| conn.execute_batch(sql).map_err(|e| explain(cx, path, e));
    run("BEGIN IMMEDIATE")?;
    let done = (|| {
        conn.authorizer(Some(may_change)).map_err(|e| explain(cx, path, e))?;
        for (number, sql) in statements.iter().enumerate() {
            cx.check()?;
            // A statement that gives rows (RETURNING) is run to its end too; several in one text are fine.
            conn.execute_batch(sql)
                .map_err(|e| statement_error(cx, path, e).context(format!("statement {}", number + 1)))?;
        }
        // The last one may have taken any time.
        cx.check()
    })();
    forbid_nothing(conn);
    match done {
        Ok(()) => run("COMMIT"),
        Err(e) => {
            // Some errors have rolled back already. An interrupted connection still can; closing it would do the same.
            let _ = conn.execute_batch("ROLLBACK");
            Err(e)
        }
    }
}

/// Takes the authorizer away: our own statements between two of the environment's are not its business.
fn forbid_nothing(conn: &Connection) {
    // It fails only for a connection that this crate does not own.
    let _ = conn.authorizer(None::<fn(AuthContext<'_>) -> Authorization>);
}

fn may_read(context: AuthContext<'_>) -> Authorization {
    match context.action {
        AuthAction::Select | AuthAction::Read { .. } | AuthAction::Recursive => Authorization::Allow,
        AuthAction::Function { function_name } if harmless(function_name) => Authorization::Allow,
        AuthAction::Pragma { pragma_name, pragma_value } if readable(pragma_name, pragma_value) => Authorization::Allow,
        _ => Authorization::Deny,
    }
}

fn may_change(context: AuthContext<'_>) -> Authorization {
    match context.action {
        // Other files, other settings, or an end of the one transaction.
        AuthAction::Attach { .. }
        | AuthAction::Detach { .. }
        | AuthAction::Transaction { .. }
        | AuthAction::Savepoint { .. }
        | AuthAction::Unknown { .. } => Authorization::Deny,
        AuthAction::Function { function_name } if !harmless(function_name) => Authorization::Deny,
        // Setting `user_version` is data; other settings are not.
        AuthAction::Pragma { pragma_name, pragma_value } => {
            if readable(pragma_name, pragma_value) || pragma_name.eq_ignore_ascii_case("user_version") {
                Authorization::Allow
            } else {
                Authorization::Deny
            }
        }
        _ => Authorization::Allow,
    }
}

fn harmless(function: &str) -> bool {
    !["load_extension", "fts3_tokenizer"].iter().any(|f| function.eq_ignore_ascii_case(f))
}

fn readable(pragma: &str, value: Option<&str>) -> bool {
    let known = PRAGMAS.iter().any(|p| pragma.eq_ignore_ascii_case(p));
    // `table_info(runs)` reads, `user_version(7)` writes.
    let takes_a_name = pragma.to_ascii_lowercase().ends_with("info") || pragma.to_ascii_lowercase().ends_with("list");
    known && (value.is_none() || takes_a_name)
}

fn invalid(e: &rusqlite::Error) -> Error {
    match e {
        rusqlite::Error::MultipleStatement => Error::invalid("it is more than one statement").hint("use one SELECT"),
        e => Error::invalid(e.to_string()),
    }
}

fn statement_error(cx: &StepContext, path: &Path, e: rusqlite::Error) -> Error {
    use rusqlite::ErrorCode;
    match e.sqlite_error_code() {
        Some(ErrorCode::AuthorizationForStatementDenied) => Error::new(ErrorKind::Refused, format!("{e}")).hint(
            "a question may only read; quarantine may change only its own database, in one transaction that is ours",
        ),
        _ => explain(cx, path, e),
    }
}

fn shown(value: ValueRef<'_>) -> Option<String> {
    match value {
        ValueRef::Null => None,
        ValueRef::Integer(i) => Some(i.to_string()),
        // SQL's notation tells 1.0 from 1; the digits are the shortest that read back as the same number.
        ValueRef::Real(r) => Some(format!("{r:?}")),
        ValueRef::Text(t) => Some(String::from_utf8_lossy(t).into_owned()),
        ValueRef::Blob(b) => Some(format!("\\x{}", hex::encode(b))),
    }
}
