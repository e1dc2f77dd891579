//! Paths of requests, checked so that what the grants compare is what the service sees.
//!
//! A path that two programs may read in two ways (`..`, `//`, doubly encoded, an encoded slash) is refused, not repaired: the
//! difference between the two readings is how a request for `/notes` becomes one for `/admin`.

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::error::{Error, Result};
use crate::identifier::shown;

/// Longest path with its query, bytes; more than any honest request needs, and below every server's limit.
const PATH_BYTES_MAX: usize = 2_048;

/// What is encoded when a decoded path is written again: everything that is no plain character of a path segment.
const SEGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'?')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A path that has one reading only.
///
/// ```
/// use host_api::http_check::{checked_path, under};
/// let path = checked_path("/notes/caf%C3%A9?limit=5").unwrap();
/// assert_eq!(path.path, "/notes/café");
/// assert_eq!(path.query.as_deref(), Some("limit=5"));
/// assert!(under("/notes", &path) && !under("/not", &path));
/// assert!(checked_path("/notes/%2e%2e/admin").is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedPath {
    /// The path, percent-decoded once; decoding it again changes nothing.
    pub path: String,
    /// What stood behind the `?`, as it was written.
    pub query: Option<String>,
}

impl CheckedPath {
    /// The one way to write it in a request: encoded from the decoded form.
    pub(crate) fn written(&self) -> String {
        let mut out = utf8_percent_encode(&self.path, SEGMENT).to_string();
        if let Some(query) = &self.query {
            out.push('?');
            out.push_str(query);
        }
        out
    }
}

/// Checks a path with an optional query, or says what about it has more than one reading.
pub fn checked_path(text: &str) -> Result<CheckedPath> {
    let refuse = |why: &str| Err(Error::invalid(format!("the path `{}` {why}", shown(text))));
    if text.len() > PATH_BYTES_MAX {
        return refuse(&format!("is longer than {PATH_BYTES_MAX} bytes"));
    }
    if !text.starts_with('/') {
        return refuse("does not start with `/`");
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return refuse("has a character that must be percent-encoded");
    }
    if text.contains('#') {
        return refuse("has a `#`");
    }
    if text.contains('\\') {
        return refuse("has a `\\`");
    }
    if !escapes_are_whole(text) {
        return refuse("has a `%` without two hexadecimal digits");
    }
    let (raw, query) = match text.split_once('?') {
        Some((raw, query)) => (raw, Some(query.to_owned())),
        None => (text, None),
    };
    if query.as_deref().is_some_and(|q| percent_decode_str(q).any(|b| b.is_ascii_control())) {
        return refuse("has an encoded control character in its query");
    }
    // Some servers take it for a separator, others for a character of the segment.
    if raw.to_ascii_lowercase().contains("%2f") {
        return refuse("has an encoded `/`");
    }
    let Ok(path) = percent_decode_str(raw).decode_utf8() else { return refuse("does not decode to UTF-8") };
    if percent_decode_str(&path).collect::<Vec<u8>>() != path.as_bytes() {
        return refuse("is percent-encoded twice");
    }
    if path.contains(['\\', '#']) {
        return refuse("has an encoded `\\` or `#`");
    }
    if path.chars().any(char::is_control) {
        return refuse("has an encoded control character");
    }
    if path.contains("//") {
        return refuse("has an empty segment (`//`)");
    }
    // `..;x` is `..` to servers that cut a segment's parameters off.
    if path.split('/').any(|s| matches!(s.split(';').next(), Some("." | ".."))) {
        return refuse("has a `.` or `..` segment");
    }
    Ok(CheckedPath { path: path.into_owned(), query })
}

/// True if a path is this prefix or lies below it: `/notes` covers `/notes` and `/notes/1`, never `/notes-private`; `/notes/`
/// covers what is below only; `/` covers everything.
pub fn under(prefix: &str, path: &CheckedPath) -> bool {
    if prefix.ends_with('/') {
        return path.path.starts_with(prefix);
    }
    !prefix.is_empty() && path.path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn escapes_are_whole(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes
        .iter()
        .enumerate()
        .filter(|(_, b)| **b == b'%')
        .all(|(at, _)| bytes.get(at + 1..at + 3).is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_one_reading_pass_and_are_written_back_the_same() {
        for (text, decoded, query) in [
            ("/", "/", None),
            ("/notes", "/notes", None),
            ("/notes/", "/notes/", None),
            ("/notes?limit=5&q=a%20b", "/notes", Some("limit=5&q=a%20b")),
            ("/notes/caf%C3%A9", "/notes/café", None),
            ("/a%20b", "/a b", None),
            ("/100%25", "/100%", None),
            ("/what%3Fnow", "/what?now", None),
            ("/v1/a.b..c/...", "/v1/a.b..c/...", None),
            ("/notes?next=/../x", "/notes", Some("next=/../x")),
            ("/notes?", "/notes", Some("")),
        ] {
            let path = checked_path(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!((path.path.as_str(), path.query.as_deref()), (decoded, query), "{text}");
            assert_eq!(path.written(), text, "one way to write it");
        }
        // Needless escapes go away: what is sent is written from what was compared.
        assert_eq!(checked_path("/%6eotes").unwrap().written(), "/notes");
    }

    #[test]
    fn paths_with_two_readings_are_refused() {
        for (text, why) in [
            ("", "does not start"),
            ("notes", "does not start"),
            ("http://elsewhere/notes", "does not start"),
            ("@elsewhere/", "does not start"),
            ("//elsewhere/notes", "`//`"),
            ("/notes//1", "`//`"),
            ("/notes/../admin", "segment"),
            ("/notes/..", "segment"),
            ("/./notes", "segment"),
            ("/notes/%2e%2e/admin", "segment"),
            ("/notes/%2E./admin", "segment"),
            ("/notes/.%2e/admin", "segment"),
            ("/notes/..;x/admin", "segment"),
            ("/notes/%2e%2e%3bx/admin", "segment"),
            ("/notes/%252e%252e/admin", "twice"),
            ("/notes/%25252e/admin", "twice"),
            ("/notes%2fadmin", "encoded `/`"),
            ("/notes%2Fadmin", "encoded `/`"),
            ("/notes%252fadmin", "twice"),
            ("/notes\\admin", "`\\`"),
            ("/notes%5cadmin", "encoded `\\`"),
            ("/notes#x", "`#`"),
            ("/notes%23x", "or `#`"),
            ("/notes%00", "control"),
            ("/notes%0d%0aX:1", "control"),
            ("/notes?a=%0d%0aX:1", "control"),
            ("/notes%7f", "control"),
            ("/notes%C2%85", "control"),
            ("/notes\r\nX: 1", "must be percent-encoded"),
            ("/a b", "must be percent-encoded"),
            ("/café", "must be percent-encoded"),
            ("/100%", "hexadecimal"),
            ("/%zz", "hexadecimal"),
            ("/%2", "hexadecimal"),
            ("/notes?x=%", "hexadecimal"),
            ("/%c0%ae%c0%ae/admin", "UTF-8"),
            ("/%ff", "UTF-8"),
        ] {
            let error = checked_path(text).expect_err(text);
            assert!(error.message.contains(why), "{text}: {error}");
        }
        assert!(checked_path(&format!("/{}", "a".repeat(PATH_BYTES_MAX))).is_err());
    }

    #[test]
    fn prefixes_end_at_segments() {
        for (prefix, path, expected) in [
            ("/notes", "/notes", true),
            ("/notes", "/notes/1", true),
            ("/notes", "/notes?x=1", true),
            ("/notes", "/notes-private", false),
            ("/notes", "/%6eotes/1", true),
            ("/notes", "/notes;x/1", false),
            ("/notes/", "/notes/1", true),
            ("/notes/", "/notes", false),
            ("/", "/anything", true),
            ("", "/anything", false),
        ] {
            assert_eq!(under(prefix, &checked_path(path).unwrap()), expected, "{prefix} {path}");
        }
    }
}
