//! The one text of a definition: what is left of two texts that PostgreSQL itself makes of one object, before and after a restore.
//!
//! `pg_dump` prints what the server's parser made of a statement. Read back, nearly all of it is printed the same; what is not:
//!
//! - `(ARRAY['a'::character varying])::text[]`, which is what `in ('a')` becomes on a column of type `varchar`. The parser hands the cast of
//!   an array constructor on to its elements: after a restore it is `ARRAY[('a'::character varying)::text]`.
//! - The columns of a table that inherits: whatever their order was, those of its parents come first.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use sha2::{Digest, Sha256};

/// How an array constructor that is cast as a whole begins.
const CAST: &[u8] = b"(ARRAY[";
/// The array constructor itself.
const ARRAY: &[u8] = b"ARRAY[";
/// Deepest nesting of array constructors that is looked into; arrays have at most six dimensions.
const DEPTH_MAX: usize = 16;
/// Longest name of a type, bytes: a schema, a name, both quoted, and what stands in brackets behind them.
const TYPE_BYTES_MAX: usize = 300;

/// Digest of what an object is: its statements, and how a table is stored where that is said beside them; hexadecimal.
pub(super) fn digest(definition: Option<&[u8]>, access_method: Option<&[u8]>) -> String {
    let mut digest = Sha256::new();
    digest.update(canonical(definition.unwrap_or_default()));
    if let Some(method) = access_method.filter(|method| !method.is_empty()) {
        digest.update([0]);
        digest.update(method);
    }
    hex::encode(digest.finalize())
}

/// A definition as it is after a restore; with its lines sorted where it is of a table that inherits.
fn canonical(definition: &[u8]) -> Cow<'_, [u8]> {
    let text = match find(definition, CAST, 0) {
        None => Cow::Borrowed(definition),
        Some(_) => Cow::Owned(Text::new(definition).with_casts_pushed_down()),
    };
    if !text.starts_with(b"CREATE ") || find(&text, b"\nINHERITS (", 0).is_none() {
        return text;
    }
    // The last column has no comma behind it, whichever that is.
    let mut lines: Vec<&[u8]> =
        text.split(|b| *b == b'\n').map(|line| line.strip_suffix(b",").unwrap_or(line)).collect();
    lines.sort_unstable();
    Cow::Owned(lines.join(&b'\n'))
}

/// A text with its brackets, each looked for once: it may be hostile, and long.
struct Text<'a> {
    bytes: &'a [u8],
    /// Where what is opened here is closed.
    closing: HashMap<usize, usize>,
}

impl<'a> Text<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let (mut closing, mut open, mut at) = (HashMap::new(), Vec::new(), 0);
        while at < bytes.len() {
            match bytes[at] {
                b'(' | b'[' => open.push(at),
                b')' | b']' => closing.extend(open.pop().map(|from| (from, at))),
                _ => {}
            }
            at = past(bytes, at);
        }
        Self { bytes, closing }
    }

    fn with_casts_pushed_down(&self) -> Vec<u8> {
        let mut into = Vec::with_capacity(self.bytes.len() + 64);
        self.push_casts_down(0..self.bytes.len(), DEPTH_MAX, &mut into);
        into
    }

    fn push_casts_down(&self, range: Range<usize>, depth: usize, into: &mut Vec<u8>) {
        let mut at = range.start;
        while at < range.end {
            if let Some((elements, of, end)) = self.whole_cast(at).filter(|_| depth > 0) {
                self.cast_elements(elements, of, depth - 1, into);
                at = end;
                continue;
            }
            let end = past(self.bytes, at).min(range.end);
            into.extend_from_slice(&self.bytes[at..end]);
            at = end;
        }
    }

    /// `(ARRAY[…])::type[]` that begins here: where its elements are, the type, and its end.
    fn whole_cast(&self, at: usize) -> Option<(Range<usize>, &'a [u8], usize)> {
        if !self.bytes[at..].starts_with(CAST) {
            return None;
        }
        let begin = at + CAST.len();
        let end = *self.closing.get(&(begin - 1))?;
        let behind = self.bytes[end + 1..].strip_prefix(b")::")?;
        let length = behind[..behind.len().min(TYPE_BYTES_MAX)].windows(2).position(|two| two == b"[]")?;
        let of = &behind[..length];
        // `character varying(10)`, `app."a type"`, `timestamp with time zone`.
        let is_type = of.iter().all(|b| b.is_ascii_alphanumeric() || b" _.,()\"$".contains(b) || !b.is_ascii());
        is_type.then_some((begin..end, of, end + 1 + b")::".len() + length + b"[]".len()))
    }

    /// Writes an array constructor with each of its elements cast.
    fn cast_elements(&self, elements: Range<usize>, of: &[u8], depth: usize, into: &mut Vec<u8>) {
        into.extend_from_slice(ARRAY);
        let mut begin = elements.start;
        while begin < elements.end {
            while begin < elements.end && self.bytes[begin] == b' ' {
                begin += 1;
            }
            let end = self.next_comma(begin..elements.end);
            match self.inner(begin..end).filter(|_| depth > 0) {
                Some(inner) => self.cast_elements(inner, of, depth - 1, into),
                None => {
                    into.push(b'(');
                    self.push_casts_down(begin..end, depth, into);
                    into.extend_from_slice(b")::");
                    into.extend_from_slice(of);
                }
            }
            if end < elements.end {
                into.extend_from_slice(b", ");
            }
            begin = end + 1;
        }
        into.push(b']');
    }

    /// The elements of an element that is an array constructor.
    fn inner(&self, element: Range<usize>) -> Option<Range<usize>> {
        let begin = element.start + ARRAY.len();
        let is_whole = self.bytes[element.clone()].starts_with(ARRAY)
            && self.closing.get(&(begin - 1)).is_some_and(|end| end + 1 == element.end);
        is_whole.then(|| begin..element.end - 1)
    }

    /// The next comma that is in no brackets, or the end.
    fn next_comma(&self, range: Range<usize>) -> usize {
        let mut at = range.start;
        while at < range.end && self.bytes[at] != b',' {
            at = self.closing.get(&at).map_or_else(|| past(self.bytes, at), |end| end + 1);
        }
        at.min(range.end)
    }
}

/// Behind the byte, or the whole quoted text or name, that begins here. What is quoted is nobody's syntax.
fn past(text: &[u8], at: usize) -> usize {
    let quote = match text[at] {
        b'\'' | b'"' => &text[at..=at],
        b'$' => {
            let tag = text[at + 1..].iter().position(|b| !b.is_ascii_alphanumeric() && *b != b'_');
            match tag.filter(|length| text[at + 1 + length] == b'$') {
                Some(length) => &text[at..at + length + 2],
                None => return at + 1,
            }
        }
        _ => return at + 1,
    };
    // A doubled quote ends one text and begins the next: that is the same to whoever only passes.
    find(text, quote, at + quote.len()).map_or(text.len(), |end| end + quote.len())
}

fn find(text: &[u8], what: &[u8], from: usize) -> Option<usize> {
    text.get(from..)?.windows(what.len()).position(|window| window == what).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> String {
        String::from_utf8(canonical(text.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn a_cast_of_an_array_goes_to_its_elements_as_the_parser_has_it() {
        for (before, after) in [
            (
                "CHECK (((s)::text = ANY ((ARRAY['new'::character varying, 'x''y,]'::character varying])::text[])))",
                "CHECK (((s)::text = ANY (ARRAY[('new'::character varying)::text, ('x''y,]'::character varying)::text])))",
            ),
            (
                "(ARRAY[f(1, 2), \"a]\", (b)[1]])::app.\"a type\"[]",
                "ARRAY[(f(1, 2))::app.\"a type\", (\"a]\")::app.\"a type\", ((b)[1])::app.\"a type\"]",
            ),
            (
                "(ARRAY[ARRAY['a'::x], ARRAY[b, c]])::numeric(5,2)[]",
                "ARRAY[ARRAY[('a'::x)::numeric(5,2)], ARRAY[(b)::numeric(5,2), (c)::numeric(5,2)]]",
            ),
            ("(ARRAY[g((ARRAY[a])::text[])])::b[]", "ARRAY[(g(ARRAY[(a)::text]))::b]"),
        ] {
            assert_eq!(of(before), after);
            assert_eq!(of(after), after);
        }
    }

    #[test]
    fn what_is_quoted_or_something_else_stays() {
        for text in [
            "SELECT '(ARRAY[a])::text[]'",
            "AS $_$ (ARRAY[a])::text[] $_$",
            "AS $$ it's (ARRAY[a])::text[] $$",
            "(ARRAY[a])",
            "(ARRAY[a])::app.list",
            "(ARRAY[a",
            "(ARRAY['a",
            "(ARRAY[a])::te;xt[]",
            "((ARRAY[1, 2, 3])[2:3])::text",
            "$",
            "$a",
            "(ARRAY[$",
            "])(ARRAY[a)::text[]",
        ] {
            assert_eq!(of(text), text);
        }
        // Beyond what is looked into: as it is, in no time and with no deep stack.
        let deep = format!("{}a{}", "(ARRAY[".repeat(200_000), "])::b[]".repeat(200_000));
        let canonical = of(&deep);
        assert!(canonical.starts_with("ARRAY[(ARRAY[") && canonical.contains(&"(ARRAY[".repeat(1_000)));
        assert_eq!(of(&"(ARRAY[".repeat(200_000)), "(ARRAY[".repeat(200_000));
    }

    #[test]
    fn columns_of_a_table_that_inherits_have_no_order_and_others_have() {
        let table = |columns: &str, behind: &str| of(&format!("CREATE TABLE app.c (\n{columns}\n){behind};\n"));
        let (one, other) = ("    z integer,\n    x integer NOT NULL", "    x integer NOT NULL,\n    z integer");
        assert_eq!(table(one, "\nINHERITS (app.p)"), table(other, "\nINHERITS (app.p)"));
        assert_ne!(table(one, "\nINHERITS (app.p)"), table("    x integer,\n    z integer", "\nINHERITS (app.p)"));
        assert_ne!(table(one, ""), table(other, ""));
    }
}
