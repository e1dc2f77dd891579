//! Client-side encryption: objects that only holders of a private key can read, in the format of `age` (age-encryption.org/v1).
//!
//! A host that takes backups knows public keys alone. What is encrypted is the compressed content of each object; digests of stored bytes
//! are of the encrypted ones, so that copies are made and checked without a key. A private key is read when a step needs it, and forgotten
//! at its end.

#[cfg(test)]
mod tests;

use std::str::FromStr;
use std::sync::Arc;

use age::x25519;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::bindings::Secret;
use crate::error::{Error, Result};
use crate::identifier::shown;

/// Format of encrypted objects.
pub const FORMAT: &str = "age/1";

/// Most keys that a backup is encrypted for: each costs every object some 100 bytes.
const RECIPIENTS_MAX: usize = 64;
/// Length of a fingerprint, hexadecimal digits.
const FINGERPRINT_DIGITS: usize = 32;

/// Where what an environment says of encryption stands.
const WHERE: &str = "[environment.E.encryption]";

/// What a manifest says of how its objects are encrypted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Sealed {
    /// [`FORMAT`].
    pub format: String,
    /// Fingerprints of the keys whose holders can read them.
    pub recipients: Vec<String>,
}

impl Sealed {
    /// Checks what a manifest says: it is as hostile as the rest of it. Of another format nothing is known, and it is refused when it is used.
    pub(crate) fn check(&self) -> Result<()> {
        let digits = |text: &String| text.len() == FINGERPRINT_DIGITS && text.bytes().all(|b| b.is_ascii_hexdigit());
        let sound = (1..=RECIPIENTS_MAX).contains(&self.recipients.len()) && self.recipients.iter().all(digits);
        if self.format == FORMAT && !sound {
            return Err(Error::failed("the manifest is not sound: its `encryption` names no fingerprints of keys"));
        }
        Ok(())
    }
}

/// What an environment says of encryption. By default nothing is encrypted, and nothing that is can be read.
#[derive(Debug, Clone, Default)]
pub struct Encryption {
    recipients: Vec<x25519::Recipient>,
    identity: Option<Secret>,
}

/// A private key, held for one step.
#[derive(Clone)]
pub struct Key(Arc<Vec<x25519::Identity>>);

/// The fingerprint of a public key: the first 128 bits of the SHA-256 of its text, hexadecimal.
pub fn fingerprint(recipient: &str) -> String {
    hex::encode(&Sha256::digest(recipient.as_bytes())[..16])
}

impl Encryption {
    /// Encrypts for the holders of these keys (`age1…`); reads with the private keys in this secret (`AGE-SECRET-KEY-1…`, a line each).
    pub fn new(recipients: &[String], identity: Option<Secret>) -> Result<Self> {
        if recipients.len() > RECIPIENTS_MAX {
            return Err(Error::invalid(format!("recipients: at most {RECIPIENTS_MAX}")));
        }
        let mut parsed: Vec<x25519::Recipient> = Vec::new();
        for text in recipients {
            let recipient = x25519::Recipient::from_str(text).map_err(|_| {
                let hint = match text.starts_with("AGE-SECRET-KEY") {
                    true => "that is a private key: make another pair, and keep its private half out of this file"
                        .to_owned(),
                    false => "`age-keygen -o FILE` makes a pair and says the public key: age1…".to_owned(),
                };
                // Not shown: it may be a private key.
                Error::invalid("recipients: one is no public key of age").hint(hint)
            })?;
            if parsed.iter().any(|other| other.to_string() == recipient.to_string()) {
                return Err(Error::invalid(format!("recipients: {text} stands there twice")));
            }
            parsed.push(recipient);
        }
        Ok(Self { recipients: parsed, identity })
    }

    /// What a manifest says of objects that are encrypted here; none: they are not.
    pub fn sealed(&self) -> Option<Sealed> {
        let recipients: Vec<String> = self.recipients.iter().map(|r| fingerprint(&r.to_string())).collect();
        (!recipients.is_empty()).then(|| Sealed { format: FORMAT.into(), recipients })
    }

    /// The keys that objects are encrypted for.
    pub(crate) fn recipients(&self) -> &[x25519::Recipient] {
        &self.recipients
    }

    /// The key for objects of a manifest; none where they are not encrypted. An error before anything is done in vain: there is no key here, or
    /// none of those that open them.
    pub fn key(&self, sealed: Option<&Sealed>) -> Result<Option<Key>> {
        let Some(sealed) = sealed else { return Ok(None) };
        if sealed.format != FORMAT {
            return Err(Error::failed(format!(
                "its objects are encrypted as `{}`, not `{FORMAT}`",
                shown(&sealed.format)
            ))
            .hint("a newer lifeboat wrote it: use that version"));
        }
        let wanted = sealed.recipients.iter().map(|f| shown(f)).collect::<Vec<_>>().join(", ");
        let Some(secret) = &self.identity else {
            return Err(Error::refused(format!(
                "its objects are encrypted, and this environment has no private key; the fingerprints of those that open them: {wanted}"
            ))
            .hint(format!("identity = {{ file = \"…\" }} in {WHERE}, on a host that restores")));
        };
        let key = Key::parse(&Zeroizing::new(secret.read().map_err(|e| e.context("private key of backups"))?))?;
        let held = key.fingerprints();
        if held.iter().any(|fingerprint| sealed.recipients.contains(fingerprint)) {
            return Ok(Some(key));
        }
        Err(Error::refused(format!(
            "its objects are encrypted for others: the fingerprints of keys that open them: {wanted}; of those that this environment has: {}",
            held.join(", ")
        ))
        .hint(format!("name the file of one of the former as `identity` in {WHERE}")))
    }

    /// An error if the private key is configured, and can't be read.
    pub fn check(&self) -> Result<()> {
        match &self.identity {
            None => Ok(()),
            Some(secret) => Key::parse(&Zeroizing::new(secret.read()?)).map(drop),
        }
    }
}

impl Key {
    fn parse(text: &str) -> Result<Self> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let identities: Vec<x25519::Identity> = lines
            .map(x25519::Identity::from_str)
            .collect::<std::result::Result<_, _>>()
            // Not said what is wrong with it: a part of it could be quoted.
            .map_err(|_| Error::failed("the secret in `identity` has a line that is no private key of age"))?;
        if identities.is_empty() {
            return Err(Error::failed("the secret in `identity` holds no private key of age")
                .hint("`age-keygen -o FILE` makes one: AGE-SECRET-KEY-1…"));
        }
        Ok(Self(Arc::new(identities)))
    }

    /// Of the public halves.
    pub fn fingerprints(&self) -> Vec<String> {
        self.0.iter().map(|identity| fingerprint(&identity.to_public().to_string())).collect()
    }

    pub(crate) fn identities(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|identity| identity as &dyn age::Identity)
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "private key of {}", self.fingerprints().join(", "))
    }
}
