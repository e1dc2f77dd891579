//! SQL text: quoting, and the few shapes of statements that are taken from outside.

use crate::error::{Error, Result};
use crate::sources::Row;

/// A name as an identifier, always quoted.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a literal. Every session has `standard_conforming_strings` on.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A value in a connection string.
pub fn conninfo_value(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// `schema.table` as the COPY statement writes it, which knows the keywords; where that names another table (a partition's root),
/// quoted by shape.
pub fn table_name(schema: &str, table: &str, copy: &str) -> String {
    for schema in [schema.to_owned(), identifier(schema)] {
        for table in [table.to_owned(), identifier(table)] {
            let name = format!("{schema}.{table}");
            if copy.strip_prefix("COPY ").and_then(|c| c.strip_prefix(&name)).is_some_and(|rest| rest.starts_with(' '))
            {
                return name;
            }
        }
    }
    let quoted = |name: &str| {
        let plain = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if plain { name.to_owned() } else { identifier(name) }
    };
    format!("{}.{}", quoted(schema), quoted(table))
}

/// The parts of an archive's COPY statement: the table, and its column list with brackets or nothing.
///
/// The statement is data from outside and will be run: it must be exactly `COPY schema.table [(column, …)] FROM stdin;`, with nothing
/// but identifiers in it.
pub fn copy_parts(copy: &str) -> Result<(&str, &str)> {
    let refused = || {
        Error::refused(format!("`{}` is not a COPY statement of pg_dump", crate::identifier::shown(copy)))
            .hint("the manifest or the archive was not made by lifeboat and pg_dump")
    };
    let body = copy.trim_end().strip_suffix("FROM stdin;").and_then(|c| c.strip_prefix("COPY ")).ok_or_else(refused)?;
    let mut rest = body;
    let mut parts = 1;
    rest = skip_identifier(rest).ok_or_else(refused)?;
    while let Some(after) = rest.strip_prefix('.') {
        rest = skip_identifier(after).ok_or_else(refused)?;
        parts += 1;
    }
    let table = &body[..body.len() - rest.len()];
    let columns = rest.trim();
    if parts > 2 || !rest.starts_with(' ') {
        return Err(refused());
    }
    if !columns.is_empty() {
        let mut rest = columns.strip_prefix('(').ok_or_else(refused)?;
        loop {
            rest = skip_identifier(rest).ok_or_else(refused)?;
            match rest.strip_prefix(", ") {
                Some(after) => rest = after,
                None if rest == ")" => break,
                None => return Err(refused()),
            }
        }
    }
    Ok((table, columns))
}

/// Names in a column list as [`copy_parts`] gives it, without their quotes.
pub fn column_names(list: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = list.strip_prefix('(').and_then(|l| l.strip_suffix(')')).unwrap_or_default();
    while let Some(after) = skip_identifier(rest) {
        names.push(unquoted(&rest[..rest.len() - after.len()]));
        rest = after.strip_prefix(", ").unwrap_or_default();
    }
    names
}

/// Schema and name of a table written `schema.table`, each quoted or in small letters, without their quotes.
pub fn table_parts(text: &str) -> Result<(String, String)> {
    let part = |text: &str| {
        let plain = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_$".contains(c));
        (plain || (text.starts_with('"') && text.len() > 2)).then(|| unquoted(text))
    };
    skip_identifier(text)
        .and_then(|rest| Some((part(&text[..text.len() - rest.len()])?, rest.strip_prefix('.')?)))
        .filter(|(_, table)| skip_identifier(table) == Some(""))
        .and_then(|(schema, table)| Some((schema, part(table)?)))
        .ok_or_else(|| {
            Error::invalid(format!("`{}` is no table with its schema", crate::identifier::shown(text)))
                .hint("write `schema.table`, as in `public.schema_migrations`; what is not in small letters in quotes: `public.\"Migrations\"`")
        })
}

fn unquoted(identifier: &str) -> String {
    match identifier.strip_prefix('"').and_then(|i| i.strip_suffix('"')) {
        Some(inner) => inner.replace("\"\"", "\""),
        None => identifier.to_owned(),
    }
}

/// What follows an identifier; none if there is none.
pub fn skip_identifier(text: &str) -> Option<&str> {
    if let Some(mut rest) = text.strip_prefix('"') {
        loop {
            rest = &rest[rest.find('"')? + 1..];
            match rest.strip_prefix('"') {
                Some(after) => rest = after,
                None => return Some(rest),
            }
        }
    }
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
    (end > 0).then(|| &text[end..])
}

/// A configured question, without the semicolon at its end; refused unless it is one statement that can stand in brackets.
///
/// Questions come from the environment, not from a guest: this catches slips (two statements, an open quote) before a server sees them,
/// and keeps `psql` from reading a backslash as a command of its own.
pub fn single_statement(sql: &str) -> Result<&str> {
    let sql = sql.trim().trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    let wrong = |what: &str| {
        Err(Error::invalid(format!("the query `{}` {what}", crate::identifier::shown(sql)))
            .hint("a query is one SELECT, without a semicolon in it"))
    };
    if sql.is_empty() {
        return wrong("is empty");
    }
    let mut depth = 0_u32;
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let quoted = skip_quoted(rest);
        match (c, quoted) {
            (_, Some(Some(after))) => {
                rest = after;
                continue;
            }
            (_, Some(None)) => return wrong("has a quote or comment without an end"),
            (';', None) => return wrong("is more than one statement"),
            ('\\', None) => return wrong("has a backslash outside quotes"),
            ('(', None) => depth += 1,
            (')', None) if depth == 0 => return wrong("closes a bracket that is not open"),
            (')', None) => depth -= 1,
            _ => {}
        }
        // A word is skipped whole, so that a `$` within it begins no quote; `E'…'` is left to what skips quotes.
        let word = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(rest.len());
        let escape_string = word == 1 && matches!(c, 'e' | 'E') && rest[1..].starts_with('\'');
        let step = if word > 0 && c != '$' && !escape_string { word } else { c.len_utf8() };
        rest = &rest[step..];
        if escape_string {
            match skip_escape_string(rest) {
                Some(after) => rest = after,
                None => return wrong("has a quote without an end"),
            }
        }
    }
    if depth > 0 { wrong("leaves a bracket open") } else { Ok(sql) }
}

/// What follows the quote or comment that begins here: `None` if none begins, `Some(None)` if it has no end.
fn skip_quoted(text: &str) -> Option<Option<&str>> {
    let behind = |from: usize, end: &str| text[from..].find(end).map(|at| &text[from + at + end.len()..]);
    if text.starts_with('\'') {
        return Some(behind(1, "'"));
    }
    if text.starts_with('"') {
        return Some(behind(1, "\""));
    }
    if text.starts_with("--") {
        return Some(Some(text.find('\n').map_or("", |at| &text[at..])));
    }
    if text.starts_with("/*") {
        return Some(behind(2, "*/"));
    }
    let tag = text.strip_prefix('$')?;
    let end = tag.find('$')?;
    let plain =
        tag[..end].chars().all(|c| c.is_alphanumeric() || c == '_') && !tag.starts_with(|c: char| c.is_numeric());
    plain.then(|| behind(end + 2, &text[..end + 2]))
}

fn skip_escape_string(text: &str) -> Option<&str> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' => return Some(&text[at + 1..]),
            _ => {}
        }
    }
    None
}

/// A line of COPY text as a row.
pub fn copy_row(line: &[u8]) -> Row {
    line.split(|b| *b == b'\t')
        .map(
            |field| if field == b"\\N" { None } else { Some(String::from_utf8_lossy(&copy_field(field)).into_owned()) },
        )
        .collect()
}

/// A field of COPY text with its escapes undone.
pub fn copy_field(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter().copied();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'\\' => match bytes.next() {
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'n') => b'\n',
                Some(b'r') => b'\r',
                Some(b't') => b'\t',
                Some(b'v') => 11,
                Some(other) => other,
                None => b'\\',
            },
            b => b,
        });
    }
    out
}

/// The elements of a setting that is a list of names (`"$user", public`), without their quotes.
pub fn list_elements(value: &str) -> Vec<String> {
    let mut elements = Vec::new();
    let mut current = String::new();
    let mut inside = false;
    let mut chars = value.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' if inside && chars.peek() == Some(&'"') => {
                current.push('"');
                chars.next();
            }
            '"' => inside = !inside,
            ',' if !inside => elements.push(std::mem::take(&mut current)),
            c if c.is_whitespace() && !inside => {}
            c => current.push(c),
        }
    }
    elements.push(current);
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pg_dumps_own_copy_statements_pass() {
        assert_eq!(copy_parts("COPY public.a (id, \"Ä (x)\"\"; \") FROM stdin;\n").unwrap().1, "(id, \"Ä (x)\"\"; \")");
        assert_eq!(copy_parts("COPY public.z  FROM stdin;\n").unwrap(), ("public.z", ""));
        for hostile in [
            "COPY a TO PROGRAM 'touch /tmp/x'; -- FROM stdin;",
            "COPY public.a (id); DROP TABLE a; COPY a FROM stdin;",
            "COPY (SELECT 1) FROM stdin;",
            "COPY public.a (id) FROM stdin; \\! id\n FROM stdin;",
            "COPY public.\"a FROM stdin;",
            "COPY  FROM stdin;",
            "",
        ] {
            assert!(copy_parts(hostile).is_err(), "{hostile}");
        }
    }

    #[test]
    fn names_lose_their_quotes() {
        let (_, list) = copy_parts("COPY public.a (id, \"Ä (x)\"\"; \", \"select\") FROM stdin;\n").unwrap();
        assert_eq!(column_names(list), ["id", "Ä (x)\"; ", "select"]);
        assert_eq!(column_names(""), [""; 0]);
        let parts = |text: &str| table_parts(text).map(|(schema, table)| format!("{schema}|{table}")).ok();
        assert_eq!(parts("public.schema_migrations").as_deref(), Some("public|schema_migrations"));
        assert_eq!(parts("\"Ä \"\"s.x\".\"t\"").as_deref(), Some("Ä \"s.x|t"));
        for bad in ["", "a", "a.", ".a", "a.b.c", "public.Runs", "public.\"\"", "public.a ", "public.a;", "public.\"a"]
        {
            assert_eq!(parts(bad), None, "{bad}");
        }
    }

    #[test]
    fn questions_are_one_statement() {
        for good in [
            "select 1;",
            "select ';)', E'\\';', \"a;\", $$;$$, $x$;$$;$x$ -- ;\n",
            "select (a$b) /* ; */",
            "select 'a\\'",
        ] {
            assert!(single_statement(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            ";",
            "select 1; drop table a",
            "select 1) to stdout; (",
            "select (1",
            "select 'x",
            "select 1 \\! id",
            "select /* ",
        ] {
            assert!(single_statement(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn copy_text_is_read_back() {
        assert_eq!(
            copy_row(b"a\\tb\t\\N\t\\\\N\t"),
            [Some("a\tb".into()), None, Some("\\N".into()), Some(String::new())]
        );
        assert_eq!(list_elements("\"$user\", public, \"a\"\"b, c\""), ["$user", "public", "a\"b, c"]);
        assert_eq!(list_elements("\"\""), [""]);
    }

    #[test]
    fn names_are_those_of_the_copy_statement() {
        assert_eq!(table_name("public", "order", "COPY public.\"order\" (a) FROM stdin;"), "public.\"order\"");
        assert_eq!(table_name("S", "leaf", "COPY public.root (a) FROM stdin;"), "\"S\".leaf");
    }
}
