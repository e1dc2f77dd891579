//! Signatures of manifests and verifications: what this environment signs with, and whose signatures it takes.
//!
//! ```text
//! lifeboat/manifest/1          its kind and version
//! {"attempt":…}                what would stand in the object alone, unsigned
//!
//! — NAME BASE64                one signature
//! ```
//!
//! One object holds both, so there is no moment between a text and its signature. A text without a signature is the JSON alone, as all were
//! before there were signatures.

mod key;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use key::{make_key, read_key};

use crate::error::{Error, Result};
use crate::identifier::shown;
use crate::note::{self, Family, Flaw, Names, Note, Signer, Trust};

/// Kind of a manifest's text.
pub const MANIFEST: &str = crate::manifest::FORMAT;
/// Kind of the text of a verification.
pub const VERIFIED: &str = "lifeboat/verified/1";

/// Kind of the text of a check of what is stored.
pub const CHECKED: &str = "lifeboat/checked/1";

/// What may be signed, and how long the longest is: a manifest.
pub const FAMILY: Family =
    Family { kinds: &[MANIFEST, VERIFIED, CHECKED], names: Names::Plain, note_bytes_max: 64 << 20 };

/// What a signed text begins with, and JSON does not.
const SIGNED: &[u8] = b"lifeboat/";

/// Where what an environment says of signatures stands.
const WHERE: &str = "[environment.E.signing]";

/// What an environment says of signatures. By default nothing is signed, and whatever is there is taken.
#[derive(Debug, Clone, Default)]
pub struct Signing {
    key: Option<PathBuf>,
    trust: Option<Trust>,
}

/// Who signed a text, as far as this environment can tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Signature {
    /// How it stands.
    pub standing: Standing,
    /// The key's name. Unless it is trusted, that is what the text says of itself, and proves nothing.
    pub signer: Option<String>,
    /// Why nothing of the text is used here; none: it counts.
    pub refused: Option<String>,
}

/// How a signature stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// There is none.
    #[default]
    Unsigned,
    /// The environment trusts no key, so it was held against none.
    NotHeld,
    /// It holds, by a key that the environment trusts for such texts.
    Trusted,
    /// It does not.
    Untrusted,
}

impl Standing {
    /// As in the JSON.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unsigned => "unsigned",
            Self::NotHeld => "not-held",
            Self::Trusted => "trusted",
            Self::Untrusted => "untrusted",
        }
    }
}

impl Signature {
    /// For people.
    pub fn words(&self) -> String {
        match (self.standing, &self.signer, &self.refused) {
            (_, _, Some(why)) => format!("{}: {why}", self.standing.word()),
            (Standing::Unsigned, ..) => "unsigned".into(),
            (Standing::NotHeld, Some(name), _) => format!("signed by {name}, not held against any trust"),
            (_, Some(name), _) => format!("signed by {name}, which is trusted here"),
            (_, None, _) => self.standing.word().into(),
        }
    }
}

impl Signing {
    /// Signs with the key in this private file, if one is given. With trust, takes no other texts than those that it trusts.
    pub fn new(key: Option<PathBuf>, trust: Option<Trust>) -> Self {
        Self { key, trust }
    }

    /// The key that texts of a kind are signed with; none where nothing is signed. An error before anything is done in vain: the key can't be
    /// read, or what it signs would be refused here.
    pub fn signer(&self, kind: &str) -> Result<Option<Signer>> {
        let Some(path) = &self.key else {
            return match &self.trust {
                None => Ok(None),
                Some(_) => Err(Error::refused(format!(
                    "this environment takes no {kind} that is not signed, and has no key to sign one with"
                ))
                .hint(format!("`lifeboat keys make FILE --name NAME`, and key = \"FILE\" in {WHERE}"))),
            };
        };
        let signer = read_key(path)?;
        match &self.trust {
            Some(trust) if !trust.allows(&signer.verifier, kind) => Err(Error::refused(format!(
                "the key {} in {} may not sign {kind} by this environment's own trust: what it signs would be refused here",
                signer.verifier.name,
                path.display()
            ))
            .hint(format!("what `lifeboat keys show {}` says belongs into the trust of {WHERE}", path.display()))),
            _ => Ok(Some(signer)),
        }
    }

    /// An error if the key can't be read, or may not sign anything here.
    pub fn check(&self) -> Result<()> {
        if self.key.is_none() {
            return Ok(());
        }
        // One that only verifies, or only takes backups, is good for that.
        let manifests = self.signer(MANIFEST);
        manifests.or_else(|_| self.signer(VERIFIED)).or_else(|_| self.signer(CHECKED)).map(drop)
    }

    /// Whether texts that are not signed by trusted keys are refused.
    pub fn has_trust(&self) -> bool {
        self.trust.is_some()
    }

    /// One text for one trust: what was judged under it is judged alike under the same.
    pub(crate) fn fingerprint(&self) -> String {
        use sha2::{Digest, Sha256};
        match &self.trust {
            None => "none".into(),
            Some(trust) => hex::encode(Sha256::digest(trust.to_string())),
        }
    }

    /// Holds a text of a kind against what is trusted. The note is what [`decode`] gave for this kind.
    pub(crate) fn judge(&self, note: Option<&Note>, kind: &str) -> Signature {
        let Some(note) = note else {
            let refused =
                self.trust.as_ref().map(|_| "it is not signed, and only what trusted keys signed is used here");
            return Signature { refused: refused.map(str::to_owned), ..Signature::default() };
        };
        let signer = note.names().first().map(|name| shown(name));
        let Some(trust) = &self.trust else {
            return Signature { standing: Standing::NotHeld, signer, refused: None };
        };
        match trust.signer(note, kind) {
            Ok(_) => Signature { standing: Standing::Trusted, signer, refused: None },
            Err(why) => Signature { standing: Standing::Untrusted, signer, refused: Some(why) },
        }
    }
}

/// The bytes of a text of a kind, whose JSON is canonical: signed if there is a key.
pub(crate) fn encode(kind: &str, json: &str, signer: Option<&Signer>) -> Vec<u8> {
    match signer {
        Some(signer) => note::sign(&format!("{kind}\n{json}\n"), &[signer]).into_bytes(),
        None => json.as_bytes().to_vec(),
    }
}

/// The JSON of a text of a kind, and the note that it stands in if it is signed. No signature is checked yet; that there is one and no more, is.
pub(crate) fn decode<'b>(bytes: &'b [u8], kind: &str) -> Result<(&'b [u8], Option<Note>), Flaw> {
    if !bytes.starts_with(SIGNED) {
        return Ok((bytes, None));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not UTF-8")?;
    let note = Note::parse(text, &FAMILY)?;
    if note.names().len() != 1 {
        return Err(format!("it has {} signatures, 1 expected", note.names().len()));
    }
    // The note's text stands at its beginning as it is.
    let json = note::body(&text[..note.text.len()], kind)?;
    Ok((json.as_bytes(), Some(note)))
}
