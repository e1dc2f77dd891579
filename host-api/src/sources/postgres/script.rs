//! A plain dump read as `psql` reads it, as it streams past: what `pg_dump` of one database would not have written is refused before a
//! database is made for it.
//!
//! This finds mistakes, with a line and a reason. That a command of psql's own (`\!`, `\o`) in a text from elsewhere does not run is not left to it:
//! a text can change how psql reads it. psql itself refuses them, under a `\restrict` of ours ([`super::load`]). The text's own `\restrict` and
//! `\unrestrict` are taken out, because one can't stand within the other.

use memchr::memchr;

use super::plain_text::Tail;
use super::sql;
use crate::error::{Error, Result};
use crate::identifier::shown;

/// What is kept of a statement: the longest COPY has 1,600 columns of 63 bytes, quoted.
const STATEMENT_BYTES_MAX: usize = 512 * 1024;
/// What is kept of the beginning: the comments that say what it is.
const HEAD_BYTES: usize = 4 * 1024;
/// Longest line of a psql command that may stand in it.
const META_BYTES_MAX: usize = 256;

/// How statements begin that a dump of one database does not have, and what has them.
const ELSEWHERE: &[(&str, &str)] = &[
    ("CREATE DATABASE", "`pg_dump --create` or `pg_dumpall`"),
    ("DROP DATABASE", "`pg_dump --clean --create` or `pg_dumpall`"),
    ("ALTER DATABASE", "`pg_dump --create` or `pg_dumpall`"),
    ("CREATE ROLE", "`pg_dumpall`"),
    ("ALTER ROLE", "`pg_dumpall`"),
    ("DROP ROLE", "`pg_dumpall`"),
    ("CREATE TABLESPACE", "`pg_dumpall`"),
];

/// What a whole text was found to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Said {
    /// Version of the server it was dumped from, `15.18`.
    pub server: String,
    /// Version of `pg_dump`.
    pub dump: String,
}

/// Reads a text that comes in pieces of any size: [`Script::feed`] them all, then [`Script::finish`].
pub(super) struct Script {
    state: State,
    line: u64,
    head: Vec<u8>,
    tail: Tail,
    /// The statement so far, without comments; a long one only as far as it tells what it is.
    statement: Vec<u8>,
    brackets: u32,
    /// The byte before.
    before: u8,
    /// Length and last byte of the word that ends here.
    word: (usize, u8),
    token: Option<String>,
    is_released: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Sql,
    /// In quotes of this kind; whether a backslash escapes, and does now.
    Quoted {
        quote: u8,
        escapes: bool,
        escaped: bool,
    },
    /// Behind such a quote: the same again goes on with the text.
    Closed {
        quote: u8,
        escapes: bool,
    },
    /// After a `$` that may begin a quote: the tag so far.
    Tag(Vec<u8>),
    /// Until this comes, of which so many bytes have.
    Dollar(Vec<u8>, usize),
    LineComment,
    BlockComment(u32),
    /// Behind the semicolon of a COPY.
    BeforeData,
    /// In COPY data, at the beginning of a line: of it so far.
    DataLine(Vec<u8>),
    /// In COPY data, within a line.
    Data,
    /// A psql command, so far.
    Meta(Vec<u8>),
}

impl Script {
    /// Before the first byte.
    pub fn new() -> Self {
        Self {
            state: State::Sql,
            line: 1,
            head: Vec::new(),
            tail: Tail::default(),
            statement: Vec::new(),
            brackets: 0,
            before: b'\n',
            word: (0, 0),
            token: None,
            is_released: false,
        }
    }

    /// Takes the next bytes and appends to `out` what psql is to be given of them.
    pub fn feed(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        self.head.extend_from_slice(&bytes[..bytes.len().min(HEAD_BYTES.saturating_sub(self.head.len()))]);
        self.tail.feed(bytes);
        let mut rest = bytes;
        while let Some((&b, after)) = rest.split_first() {
            // The loop that most bytes go through.
            if matches!(self.state, State::Data) {
                let end = memchr(b'\n', rest).unwrap_or(rest.len());
                let (line, after) = rest.split_at(end);
                out.extend_from_slice(line);
                rest = after;
                if let Some((_, after)) = rest.split_first() {
                    out.push(b'\n');
                    self.line += 1;
                    self.state = State::DataLine(Vec::new());
                    rest = after;
                }
                continue;
            }
            rest = after;
            self.byte(b)?;
            if !matches!(self.state, State::Meta(_)) {
                out.push(b);
            }
            if b == b'\n' {
                self.line += 1;
            }
        }
        Ok(())
    }

    /// The end: an error unless the text is whole, of one database, of servers that are known, and fits on this one.
    pub fn finish(self, server: u32) -> Result<Said> {
        let said = self.said()?;
        if !self.tail.is_complete() || !matches!(self.state, State::Sql | State::LineComment) {
            return Err(Error::failed("the text does not come to the closing line of pg_dump: it is cut")
                .hint("use another copy; `pg_dump … | gzip` ends without an error when pg_dump was killed"));
        }
        if self.token.is_some() && !self.is_released {
            return Err(Error::failed("the text begins with \\restrict, and its \\unrestrict is missing: it is cut")
                .hint("use another copy"));
        }
        for (what, version) in [("server", &said.server), ("pg_dump", &said.dump)] {
            let major = version.split(|c: char| !c.is_ascii_digit()).next().and_then(|m| m.parse::<u32>().ok());
            match major {
                Some(13..) if major <= Some(server / 10_000) => {}
                _ => {
                    return Err(Error::refused(format!(
                        "the text is of {what} {}, the server here is PostgreSQL {}",
                        shown(version),
                        server / 10_000
                    ))
                    .hint("texts of PostgreSQL 13 up to the server's own version are taken"));
                }
            }
        }
        Ok(said)
    }

    fn said(&self) -> Result<Said> {
        let head = String::from_utf8_lossy(&self.head);
        let after = |mark: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(mark))?;
            line.split_whitespace().next().map(str::to_owned)
        };
        if head.lines().any(|line| line.starts_with("-- PostgreSQL database cluster dump")) {
            return Err(refused("it is a text of `pg_dumpall`, which is of a whole server"));
        }
        match (after("-- Dumped from database version "), after("-- Dumped by pg_dump version ")) {
            (Some(server), Some(dump)) if head.lines().any(|line| line == "-- PostgreSQL database dump") => {
                Ok(Said { server, dump })
            }
            _ => Err(refused("it does not begin as `pg_dump` begins a text: with the versions of server and tool")),
        }
    }

    fn byte(&mut self, b: u8) -> Result<()> {
        let before = std::mem::replace(&mut self.before, b);
        let inside = matches!(self.state, State::Quoted { .. } | State::Tag(_) | State::Dollar(..));
        if inside && self.statement.len() <= STATEMENT_BYTES_MAX {
            self.statement.push(b);
        }
        self.state = match std::mem::replace(&mut self.state, State::Sql) {
            State::Sql => self.sql(b, before)?,
            State::Closed { quote, escapes } if b == quote => {
                self.statement.push(b);
                State::Quoted { quote, escapes, escaped: false }
            }
            State::Closed { .. } => self.sql(b, before)?,
            State::Quoted { escapes: true, escaped: true, quote } => {
                State::Quoted { quote, escapes: true, escaped: false }
            }
            State::Quoted { quote, escapes, .. } if b == quote => State::Closed { quote, escapes },
            State::Quoted { quote, escapes, .. } => State::Quoted { quote, escapes, escaped: escapes && b == b'\\' },
            State::Tag(tag) if b == b'$' => State::Dollar([b"$", &tag[..], b"$"].concat(), 0),
            State::Tag(mut tag) if is_word(b) && (!tag.is_empty() || !b.is_ascii_digit()) && tag.len() < 64 => {
                tag.push(b);
                State::Tag(tag)
            }
            // A parameter or an operator: no quote.
            State::Tag(_) => {
                self.statement.pop();
                self.sql(b, before)?
            }
            State::Dollar(end, come) => {
                let come = if b == end[come] { come + 1 } else { usize::from(b == b'$') };
                if come == end.len() { State::Sql } else { State::Dollar(end, come) }
            }
            State::LineComment if b == b'\n' => State::Sql,
            State::LineComment => State::LineComment,
            State::BlockComment(depth) => match (before, b) {
                (b'/', b'*') => self.within(State::BlockComment(depth + 1)),
                (b'*', b'/') if depth == 1 => self.within(State::Sql),
                (b'*', b'/') => self.within(State::BlockComment(depth - 1)),
                _ => State::BlockComment(depth),
            },
            State::BeforeData => match b {
                b'\n' => State::DataLine(Vec::new()),
                b'\r' => State::BeforeData,
                _ => return Err(self.wrong("something stands behind a COPY, where its data begin")),
            },
            State::DataLine(mut line) => match (line.as_slice(), b) {
                (b"\\.", b'\n') => State::Sql,
                (_, b'\n') => State::DataLine(Vec::new()),
                ([], b'\\') | (b"\\", b'.') => {
                    line.push(b);
                    State::DataLine(line)
                }
                _ => State::Data,
            },
            State::Data => State::Data,
            State::Meta(line) if b == b'\n' => {
                self.meta(&line)?;
                State::Sql
            }
            State::Meta(mut line) => {
                if line.len() >= META_BYTES_MAX {
                    return Err(self.wrong("a command of psql stands in it"));
                }
                line.push(b);
                State::Meta(line)
            }
        };
        Ok(())
    }

    /// After a two-byte mark, its second byte is not the first one of another.
    fn within(&mut self, state: State) -> State {
        self.before = 0;
        state
    }

    /// A byte outside quotes and comments.
    fn sql(&mut self, b: u8, before: u8) -> Result<State> {
        let word = std::mem::take(&mut self.word);
        match (before, b) {
            (b'\n', b'\\') if self.statement.is_empty() => return Ok(State::Meta(Vec::new())),
            (_, b'\\') => return Err(self.wrong("a command of psql stands in it")),
            (b'-', b'-') => {
                self.statement.pop();
                return Ok(State::LineComment);
            }
            (b'/', b'*') => {
                self.statement.pop();
                return Ok(self.within(State::BlockComment(1)));
            }
            _ => {}
        }
        if b == b';' && self.brackets == 0 {
            return self.statement_ends();
        }
        if !(self.statement.is_empty() && b.is_ascii_whitespace()) && self.statement.len() <= STATEMENT_BYTES_MAX {
            self.statement.push(b);
        }
        Ok(match b {
            b'\'' => State::Quoted { quote: b, escapes: word.0 == 1 && matches!(word.1, b'e' | b'E'), escaped: false },
            b'"' => State::Quoted { quote: b, escapes: false, escaped: false },
            b'$' if word.0 == 0 => State::Tag(Vec::new()),
            b'(' => {
                self.brackets += 1;
                State::Sql
            }
            b')' => {
                self.brackets = self.brackets.saturating_sub(1);
                State::Sql
            }
            _ => {
                if is_word(b) || (b == b'$' && word.0 > 0) {
                    self.word = (word.0 + 1, b);
                }
                State::Sql
            }
        })
    }

    fn statement_ends(&mut self) -> Result<State> {
        let statement = String::from_utf8_lossy(&std::mem::take(&mut self.statement)).into_owned();
        let start: String = statement.chars().take(64).collect();
        let start = start.split_whitespace().collect::<Vec<_>>().join(" ").to_ascii_uppercase();
        if let Some((_, whose)) = ELSEWHERE.iter().find(|(begins, _)| start.starts_with(begins)) {
            return Err(self.wrong(&format!("`{}` stands in it: it is a text of {whose}", shown(&start))));
        }
        if start.starts_with("COPY ") {
            return match sql::copy_parts(&format!("{statement};")) {
                Ok(_) => Ok(State::BeforeData),
                Err(_) => Err(self.wrong("a COPY stands in it that is not one of pg_dump")),
            };
        }
        Ok(State::Sql)
    }

    /// A line of its own that begins with a backslash.
    fn meta(&mut self, line: &[u8]) -> Result<()> {
        let line = String::from_utf8_lossy(line);
        let line = line.trim_end();
        let token = |name: &str| {
            line.strip_prefix(name)
                .filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric()))
                .map(str::to_owned)
        };
        if let (Some(token), None) = (token("restrict "), &self.token) {
            self.token = Some(token);
            return Ok(());
        }
        if let (Some(token), false) = (token("unrestrict "), self.is_released)
            && self.token.as_ref() == Some(&token)
        {
            self.is_released = true;
            return Ok(());
        }
        Err(self.wrong(&format!("a command of psql stands in it, `\\{}`", shown(line))))
    }

    fn wrong(&self, what: &str) -> Error {
        refused(&format!("line {}: {what}", self.line))
    }
}

/// The text is not one that is taken.
fn refused(why: &str) -> Error {
    Error::refused(format!("it is no text of `pg_dump` of one database: {why}"))
        .hint("take what `pg_dump DATABASE | gzip` writes")
}

fn is_word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const HEAD: &str = "--\n-- PostgreSQL database dump\n--\n\n\\restrict abcDEF1\n\n-- Dumped from database version 15.18 (Debian)\n\
        -- Dumped by pg_dump version 15.18\n\n";
    const END: &str = "--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abcDEF1\n\n";

    /// The text through a reader, whole and byte by byte.
    fn read(text: &str) -> Result<String> {
        let mut answers = Vec::new();
        for size in [usize::MAX, 1, 7] {
            let mut script = Script::new();
            let mut out = Vec::new();
            let fed =
                text.as_bytes().chunks(size.min(text.len().max(1))).try_for_each(|piece| script.feed(piece, &mut out));
            answers.push(fed.and_then(|()| script.finish(150_018)).map(|_| String::from_utf8(out).unwrap()));
        }
        let texts: Vec<String> = answers.iter().map(|a| format!("{a:?}")).collect();
        assert!(texts.iter().all(|t| *t == texts[0]), "{texts:#?}");
        answers.remove(0)
    }

    fn with(body: &str) -> Result<String> {
        read(&format!("{HEAD}{body}\n{END}"))
    }

    #[test]
    fn a_dump_passes_without_its_own_restriction() {
        let body = "SET x = 'a\\b';\nCREATE FUNCTION f() AS $_$ \\! id ; $$ $_$;\nSELECT E'it\\'s \\\\';\nCOMMENT ON TABLE \"a\\b\" IS 'x''\\';\n\
            /* \\! /* nested */ \\! */\n-- \\! a comment\nCOPY public.a (id, \"b c\") FROM stdin;\n1\t\\N\n\\\\.\n\\.x\n\\\\! id\n\\.\n\n\
            CREATE RULE r AS ON INSERT TO a DO (SELECT 1; SELECT 2);\nSELECT $1, a$b$c, 1-1;\n";
        let passed = with(body).unwrap();
        assert!(passed.contains(body), "{passed}");
        assert!(!passed.contains("restrict"), "{passed}");
        // Older minor versions have none.
        let plain =
            format!("{HEAD}{body}\n{END}").replace("\\restrict abcDEF1\n", "").replace("\\unrestrict abcDEF1\n", "");
        assert_eq!(read(&plain).unwrap(), plain);
    }

    #[test]
    fn what_pg_dump_does_not_write_is_refused_with_its_line() {
        for (body, part) in [
            ("\\! touch x", "`\\! touch x`"),
            ("SELECT 1;\n\\o /x", "line 11: a command of psql"),
            ("SELECT 1 \\g /x", "a command of psql"),
            ("SELECT 'a\\';\\! id'", "a command of psql"),
            ("\\restrict other", "a command of psql"),
            ("\\unrestrict other", "a command of psql"),
            ("\\connect other", "`\\connect other`"),
            ("COPY a FROM PROGRAM 'id';", "a COPY"),
            ("copy a from stdin;", "a COPY"),
            ("COPY public.a (id) FROM stdin; SELECT 1;", "behind a COPY"),
            ("CREATE DATABASE x;", "pg_dump --create"),
            ("create  role x;", "pg_dumpall"),
        ] {
            let error = with(body).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Refused, "{body}");
            assert!(error.message.contains(part), "{body}: {error}");
        }
        let cluster = with("").map(|_| ()).and(read(&format!("-- PostgreSQL database cluster dump\n{HEAD}{END}")));
        assert!(cluster.unwrap_err().message.contains("pg_dumpall"));
        let end = END.replace("\\unrestrict abcDEF1\n", "");
        assert!(read(&format!("SELECT 1;\n{end}")).unwrap_err().message.contains("does not begin"));
    }

    #[test]
    fn other_versions_are_refused() {
        for (from, to) in [
            ("version 15.18 (", "version 12.9 ("),
            ("version 15.18 (", "version 16.1 ("),
            ("pg_dump version 15", "pg_dump version 18"),
            ("pg_dump version 15", "pg_dump version x"),
        ] {
            let error = read(&format!("{HEAD}{END}").replace(from, to)).unwrap_err();
            assert!(error.message.contains("PostgreSQL 15"), "{from} {to}: {error}");
        }
    }

    #[test]
    fn a_cut_text_is_no_text_wherever_it_is_cut() {
        let text = format!("{HEAD}SELECT 'x';\nCOPY public.a (id) FROM stdin;\n1\n2\n\\.\n\n{END}");
        let whole = text.len() - 1;
        for cut in 0..whole {
            assert!(read(&text[..cut]).is_err(), "cut at {cut} of {whole}");
        }
    }
}
