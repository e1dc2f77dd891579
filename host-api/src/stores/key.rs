//! Keys of objects: hostile until checked, because they come out of manifests that anyone may have written.

use crate::error::{Error, Result};

/// Longest key, bytes: below every backend's limit (S3: 1,024) with room for a bucket's prefix.
const KEY_BYTES_MAX: usize = 700;
/// Longest part between slashes, bytes: below the 255 of file systems, with room for a temporary name.
const PART_BYTES_MAX: usize = 200;

/// Checks an object's key: parts of `A-Z a-z 0-9 . _ -` between single slashes, none starting with a dot. So there is no absolute key,
/// no `..`, nothing hidden, and nothing that a shell, a URL or a terminal would take for something else.
pub fn check_key(key: &str) -> Result<()> {
    let part_ok = |part: &str| {
        (1..=PART_BYTES_MAX).contains(&part.len())
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    if key.len() <= KEY_BYTES_MAX && key.split('/').all(part_ok) {
        Ok(())
    } else {
        Err(Error::invalid(format!("`{}` is no key of an object", crate::identifier::shown(key)))
            .hint("keys are parts of letters, digits, `.`, `_` and `-`, separated by `/`; none starts with a dot"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_keys_are_refused() {
        let long_part = "a".repeat(201);
        let long = ["abcdefgh"; 90].join("/");
        for key in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "..",
            "a/../b",
            "a/..",
            "./a",
            ".hidden",
            "a/.part",
            "a\\b",
            "a b",
            "a\0b",
            "a\nb",
            "a\u{202e}b",
            "ü",
            "a:b",
            "~/a",
            "$HOME/a",
            &long_part,
            &long,
        ] {
            assert!(check_key(key).is_err(), "{key:?}");
        }
        for key in ["a", "notes/objects/20261123T061534123z-7k3f9q/r-1-1/db.data.dump.zst", "a..b/c"] {
            check_key(key).unwrap();
        }
    }
}
