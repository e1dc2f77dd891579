//! The encryption of backups as it stands in the file: whom they are encrypted for, and the key to read them with.

use std::path::Path;

use host_api::bindings::Secret;
use host_api::encryption::Encryption;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Environment, EnvironmentBinding};
use crate::error::{Error, Kind, Result};

/// One `[environment.NAME.encryption]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct EncryptionBinding {
    /// Public keys, `age1…`; objects of backups that are taken here can be read by holders of any of the private ones. Empty: not encrypted.
    #[serde(default)]
    pub recipients: Vec<Spanned<String>>,
    /// The private keys to read backups with, `AGE-SECRET-KEY-1…`, a line each; only on hosts that restore.
    pub identity: Option<Secret>,
}

impl EncryptionBinding {
    pub(super) fn anchor(&mut self, base: &Path) {
        if let Some(identity) = &mut self.identity {
            identity.anchor(base);
        }
    }
}

impl EnvironmentBinding {
    /// Whom backups are encrypted for here; the private key is read when a backup is.
    pub fn encryption(&self) -> Result<Encryption> {
        let Some(binding) = &self.encryption else { return Ok(Encryption::default()) };
        let wrong = |e: host_api::Error| Error { kind: Kind::Configuration, ..e.into() }.context("encryption");
        if binding.recipients.is_empty() && binding.identity.is_none() {
            return Err(Error::new(Kind::Configuration, "encryption: neither recipients nor an identity are given")
                .hint(
                    "recipients = [\"age1…\"] encrypts; identity = { file = \"…\" } reads; `age-keygen` makes a pair",
                ));
        }
        // One by one, so that the message has a place.
        let mut texts = Vec::new();
        for recipient in &binding.recipients {
            texts.push(recipient.get_ref().clone());
            Encryption::new(&texts, None).map_err(|e| wrong(e).at(recipient.span()))?;
        }
        Encryption::new(&texts, binding.identity.clone()).map_err(wrong)
    }
}

impl Environment<'_> {
    /// An error if the private key of this environment can't be used.
    pub fn check_encryption(&self) -> Result<()> {
        let context = |e: Error| e.context(format!("environment {}: encryption", self.name));
        let checked = self.binding.encryption()?.check();
        checked.map_err(|e| context(Error { kind: Kind::Configuration, ..e.into() }))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;
    use crate::error::{Kind, Result};

    fn load(table: &str) -> Result<()> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lifeboat.toml");
        std::fs::write(&path, format!("[environment.demo.encryption]\n{table}\n")).unwrap();
        std::fs::write(directory.path().join("bad.key"), "AGE-SECRET-KEY-1NO").unwrap();
        Config::load(&path)?.environment(None)?.check_encryption()
    }

    #[test]
    fn keys_are_read_and_mistakes_are_placed() {
        // Of the format's own specification: nobody's.
        let public = "age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa";
        load(&format!("recipients = [\"{public}\"]")).unwrap();
        for (bad, says) in [
            (String::new(), vec!["neither"]),
            (format!("recipients = [\"{public}\",\n\"{public}\"]"), vec!["line 3", "twice"]),
            ("recipients = [\"age1x\"]".into(), vec!["line 2", "no public key"]),
            ("recipients = [\"AGE-SECRET-KEY-1XYZ\"]".into(), vec!["private key", "another pair"]),
            ("identity = { file = \"nowhere.key\" }".into(), vec!["nowhere.key"]),
            ("identity = { file = \"bad.key\" }".into(), vec!["no private key of age"]),
            ("recipient = []".into(), vec!["unknown field"]),
        ] {
            let error = load(&bad).unwrap_err();
            assert_eq!(error.kind, Kind::Configuration, "{error}");
            assert!(!error.message.contains("SECRET-KEY-1"), "{error}");
            for word in says {
                assert!(error.to_string().contains(word), "{bad}: {word}: {error}");
            }
        }
    }
}
