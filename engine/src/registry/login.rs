//! Names and passwords of registries, as the file of Docker, Podman and ORAS holds them (`config.json`, `auth.json`).

use std::collections::BTreeMap;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use crate::error::{Error, Kind, Result};
use crate::policy::{Reference, read_bounded};

/// A larger file is no such file.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Whom a registry knows us as. It is shown nowhere: there is no `Debug` of it.
pub struct Login {
    /// `user:password`, in base64.
    pair: String,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
struct Entry {
    auth: Option<String>,
    identitytoken: Option<String>,
}

impl Login {
    /// The entry of a file for a repository: that of `HOST/PART/OF/IT` with the longest name, or that of `HOST`.
    ///
    /// # Errors
    ///
    /// [`Kind::Usage`]: the file can't be read, has none for it, or one that only a helper program could tell. Nothing of the file stands in any error.
    pub fn read(path: &Path, reference: &Reference) -> Result<Self> {
        let wrong = |why: &str| Error::new(Kind::Usage, format!("{}: {why}", path.display()));
        let bytes = read_bounded(path, FILE_BYTES_MAX).map_err(|e| Error { kind: Kind::Usage, ..e })?;
        // Its errors may quote what they found.
        let file: File = serde_json::from_slice(&bytes).map_err(|_| wrong("it is no JSON with `auths`"))?;
        let whole = format!("{}/{}", reference.host, reference.repository);
        let mut name = whole.as_str();
        let entry = loop {
            match (file.auths.get(name), name.rsplit_once('/')) {
                (Some(entry), _) => break entry,
                (None, Some((shorter, _))) => name = shorter,
                (None, None) => {
                    return Err(wrong(&format!("it has no entry for {}", reference.host)).hint(format!(
                        "`oras login {} --registry-config FILE` or `podman login --authfile FILE` makes one; what everybody may read needs no file",
                        reference.host
                    )));
                }
            }
        };
        let here = |why: &str| wrong(&format!("its entry for {name}: {why}"));
        if entry.identitytoken.as_deref().is_some_and(|token| !token.is_empty()) {
            return Err(here("an identity token can't be used; a name with a password or an access token can"));
        }
        let Some(pair) = entry.auth.as_deref().filter(|auth| !auth.is_empty()) else {
            return Err(here(
                "it holds no password; programs that would tell it (`credsStore`, `credHelpers`) are not run",
            ));
        };
        let is_pair =
            STANDARD.decode(pair).is_ok_and(|bytes| std::str::from_utf8(&bytes).is_ok_and(|t| t.contains(':')));
        match is_pair {
            true => Ok(Self { pair: pair.to_owned() }),
            false => Err(here("it is no `user:password` in base64")),
        }
    }

    /// The header that tells it, marked so that no log shows it.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_str(&format!("Basic {}", self.pair)).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_entry_is_taken_and_a_secret_is_in_no_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("auth.json");
        let reference = Reference::parse(&format!("oci://r.example:5000/a/b@sha256:{}", "0".repeat(64))).unwrap();
        let pair = |of: &str| STANDARD.encode(format!("{of}:s3cret"));
        let file = |entries: &[(&str, &str)]| {
            let entries: Vec<String> = entries.iter().map(|(name, entry)| format!("\"{name}\":{entry}")).collect();
            std::fs::write(&path, format!("{{\"credsStore\":\"x\",\"auths\":{{{}}}}}", entries.join(","))).unwrap();
            Login::read(&path, &reference).map(|login| login.pair)
        };
        let auth = |of: &str| format!("{{\"auth\":\"{}\"}}", pair(of));
        assert_eq!(file(&[("r.example:5000", &auth("host")), ("other", &auth("x"))]).unwrap(), pair("host"));
        let all = [
            ("r.example:5000", &*auth("host")),
            ("r.example:5000/a", &*auth("a")),
            ("r.example:5000/a/c", &*auth("c")),
        ];
        assert_eq!(file(&all).unwrap(), pair("a"));
        for (name, entry, says) in [
            ("r.example", auth("x"), "no entry for r.example:5000"),
            ("r.example:5000", "{}".into(), "are not run"),
            ("r.example:5000", format!("{{\"identitytoken\":\"{}\"}}", pair("x")), "identity token"),
            ("r.example:5000", "{\"auth\":\"s3cret\"}".into(), "in base64"),
            ("r.example:5000", format!("{{\"auth\":\"{}\"}}", STANDARD.encode("s3cret")), "in base64"),
            ("r.example:5000", "{\"auth\":7}".into(), "no JSON with `auths`"),
            ("r.example:5000", "s3cret".into(), "no JSON with `auths`"),
        ] {
            let error = file(&[(name, &entry)]).unwrap_err();
            assert_eq!(error.kind, Kind::Usage);
            let said = error.to_string();
            assert!(said.contains(says) && !said.contains("s3cret") && !said.contains(&pair("x")), "{said}");
        }
        let error = Login::read(&folder.path().join("none"), &reference).err().unwrap();
        assert_eq!(error.kind, Kind::Usage);
    }
}
