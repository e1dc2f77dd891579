//! Where a module lies in a registry of OCI artifacts: `oci://HOST[:PORT]/REPOSITORY@sha256:DIGEST`, always by the digest of its manifest.

use std::fmt;

use crate::error::{Error, Kind, Result};

const SCHEME: &str = "oci://";
/// Registries take no longer ones.
const REPOSITORY_BYTES_MAX: usize = 255;
/// A name of a host has no more, with its port.
const HOST_BYTES_MAX: usize = 261;

/// An artifact of a registry, by its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `registry.example` or `registry.example:5000`.
    pub host: String,
    /// `vendor/nightly`
    pub repository: String,
    /// SHA-256 of the manifest, hexadecimal.
    pub sha256: String,
}

impl Reference {
    /// Reads it. What is not exactly of this form is refused; a tag alone with how its digest is found. The text is not repeated where a
    /// password may stand in it.
    pub fn parse(text: &str) -> Result<Self> {
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong("a reference to a registry begins with oci://"))?;
        let (host, path) = rest.split_once('/').ok_or_else(|| wrong("the reference names no repository"))?;
        check_host(host)?;
        let (named, digest) = match path.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (path, None),
        };
        let (repository, tag) = match named.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (named, None),
        };
        if !is_repository(repository) {
            return Err(wrong("the reference's repository is no name of one"));
        }
        let Some(digest) = digest else {
            // Any tag, as those who make them may write it; what is no tag is not shown.
            let tag = tag.filter(|tag| is_tag(tag)).unwrap_or("latest");
            return Err(Error::new(Kind::Usage, "the reference has no digest: what a tag stands for can change").hint(
                format!("`oras resolve {host}/{repository}:{tag}` says it; then {SCHEME}{host}/{repository}@sha256:…"),
            ));
        };
        if tag.is_some() {
            return Err(wrong("the reference has a tag and a digest: leave the tag out, it would say nothing"));
        }
        let sha256 =
            sha256_of(digest).ok_or_else(|| wrong("the reference's digest is no sha256: of 64 digits 0-9, a-f"))?;
        Ok(Self { host: host.to_owned(), repository: repository.to_owned(), sha256: sha256.to_owned() })
    }

    /// Whether its registry is on this machine: then it is asked without TLS.
    pub fn is_local(&self) -> bool {
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        matches!(name, "localhost" | "127.0.0.1")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}@sha256:{}", self.host, self.repository, self.sha256)
    }
}

/// The digits of `sha256:DIGITS`.
pub(crate) fn sha256_of(digest: &str) -> Option<&str> {
    let digits = digest.strip_prefix("sha256:")?;
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (digits.len() == 64 && digits.bytes().all(is_digit)).then_some(digits)
}

fn wrong(why: &str) -> Error {
    Error::new(Kind::Usage, why).hint("oci://HOST/REPOSITORY@sha256:DIGEST")
}

fn check_host(host: &str) -> Result<()> {
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (host, None),
    };
    let is_name = !name.is_empty()
        && name.split('.').all(|part| {
            !part.is_empty()
                && !part.starts_with('-')
                && !part.ends_with('-')
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        });
    let is_port = port.is_none_or(|port| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok());
    match is_name && is_port && host.len() <= HOST_BYTES_MAX {
        true => Ok(()),
        false => Err(wrong(
            "the reference's host is no name of one, with or without a port; users and passwords stand elsewhere",
        )),
    }
}

/// Parts of lower-case letters and digits, with `.`, `_`, `__` or dashes between those.
fn is_repository(text: &str) -> bool {
    let is_part = |part: &str| {
        let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = part.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.iter().all(|end| end.is_some_and(|b| is_word(*b)))
            && bytes.iter().all(|b| is_word(*b) || matches!(b, b'.' | b'_' | b'-'))
            && !["..", "___", "._", "_.", ".-", "-.", "_-", "-_"].iter().any(|pair| part.contains(pair))
    };
    text.len() <= REPOSITORY_BYTES_MAX && text.split('/').all(is_part)
}

fn is_tag(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_read_and_written_as_it_was() {
        let digits = "0123456789abcdef".repeat(4);
        for (host, repository, local) in [
            ("registry.example", "vendor/nightly", false),
            ("registry.example:5000", "a/b_c/d__e/f-g--h/i.j", false),
            ("localhost:5000", "nightly", true),
            ("127.0.0.1:5000", "nightly", true),
            ("localhost.example", "nightly", false),
            ("127.0.0.1.example", "nightly", false),
        ] {
            let text = format!("oci://{host}/{repository}@sha256:{digits}");
            let reference = Reference::parse(&text).unwrap();
            assert_eq!((reference.host.as_str(), reference.repository.as_str()), (host, repository));
            assert_eq!((reference.to_string(), reference.is_local()), (text, local));
        }
    }

    #[test]
    fn what_is_not_exactly_of_the_form_is_refused_and_no_password_is_repeated() {
        let good = "0".repeat(64);
        for (text, says) in [
            ("registry.example/nightly@sha256:GOOD", "begins with oci://"),
            ("https://registry.example/nightly@sha256:GOOD", "begins with oci://"),
            ("oci://registry.example", "names no repository"),
            ("oci://me:s3cret@registry.example/nightly@sha256:GOOD", "no name of one, with or without a port"),
            ("oci://registry.example:99999/nightly@sha256:GOOD", "no name of one, with or without a port"),
            ("oci://registry.example:+1/nightly@sha256:GOOD", "no name of one, with or without a port"),
            ("oci:///nightly@sha256:GOOD", "no name of one, with or without a port"),
            ("oci://registry.example/Nightly@sha256:GOOD", "repository is no name"),
            ("oci://registry.example/../nightly@sha256:GOOD", "repository is no name"),
            ("oci://registry.example/nightly?x=y@sha256:GOOD", "repository is no name"),
            ("oci://registry.example/a//b@sha256:GOOD", "repository is no name"),
            ("oci://registry.example/nightly", "has no digest"),
            ("oci://registry.example/nightly:1.2.0", "has no digest"),
            ("oci://registry.example/nightly:1.2.0@sha256:GOOD", "a tag and a digest"),
            ("oci://registry.example/nightly@sha256:GOODa", "no sha256:"),
            ("oci://registry.example/nightly@sha512:GOOD", "no sha256:"),
            ("oci://registry.example/nightly@sha256:ABCD", "no sha256:"),
        ] {
            let error = Reference::parse(&text.replace("GOOD", &good)).unwrap_err();
            assert_eq!(error.kind, Kind::Usage);
            assert!(error.message.contains(says) && !error.to_string().contains("s3cret"), "{text}: {error}");
        }
        let error = Reference::parse("oci://registry.example/nightly:1.2.0").unwrap_err();
        assert!(error.hint.unwrap().contains("oras resolve registry.example/nightly:1.2.0"));
    }
}
