//! The log's family of signed notes: which kinds of texts there are, and what may be trusted for them.

use std::fmt;
use std::ops::Deref;

pub use host_api::note::Verifier;
use host_api::note::{self, Family, Names, Note};
pub(crate) use host_api::note::{Flaw, Signer, check_digest, check_id, fields, number, sign};

use super::checkpoint::CHECKPOINT;
use super::rotation::ROTATION;

/// The log's texts have some hundred bytes. Its keys are named `ORIGIN/EPOCH`.
const LOG: Family = Family { kinds: &[CHECKPOINT, ROTATION], names: NAMES, note_bytes_max: 16 << 10 };
/// How a log's keys are named.
pub(crate) const NAMES: Names = Names::Epochs;

/// Takes a note of a log apart.
pub(crate) fn parse(text: &str) -> Result<Note, Flaw> {
    Note::parse(text, &LOG)
}

/// Reads a key of a log.
pub(crate) fn verifier(text: &str) -> Result<Verifier, Flaw> {
    Verifier::parse(text, NAMES)
}

/// Keys of logs that somebody trusts, and for which kinds of texts.
#[derive(Debug, Clone, Default)]
pub struct Trust(note::Trust);

impl Trust {
    /// Reads lines `NAME+HASH+BASE64 KIND KIND…`, as `lifeboat audit key` says them.
    pub fn parse(text: &str) -> Result<Self, String> {
        note::Trust::parse(text, &LOG).map(Self)
    }

    /// These keys, for all kinds that a log's key signs.
    pub(crate) fn of(verifiers: impl IntoIterator<Item = Verifier>) -> Self {
        Self(note::Trust::of(verifiers, &LOG))
    }
}

impl Deref for Trust {
    type Target = note::Trust;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trust_names_keys_of_logs_and_their_kinds() {
        let one = Signer::new("log/1", &[1; 32], NAMES).unwrap().verifier;
        let both = Trust::of([one.clone()]);
        assert!(both.allows(&one, CHECKPOINT) && both.allows(&one, ROTATION));
        assert_eq!(Trust::parse(&both.to_string()).unwrap().to_string(), both.to_string());
        let plain = Signer::new("backups", &[1; 32], Names::Plain).unwrap().verifier;
        for (bad, why) in [
            (format!("{one} lifeboat/manifest/1\n"), "there is: lifeboat/checkpoint/1"),
            (format!("{plain} {CHECKPOINT}\n"), "ORIGIN/EPOCH"),
        ] {
            let flaw = Trust::parse(&bad).unwrap_err();
            assert!(flaw.contains(why), "{flaw}");
        }
    }
}
