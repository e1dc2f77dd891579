//! A checkpoint: how long the log was, and the hash of its last record. Whoever holds one can tell a log that goes on from it from every
//! other.

use host_api::note::Note;

use super::note::{Flaw, Signer, check_digest, check_id, fields, number, parse, sign};

/// The kind of this text.
pub const CHECKPOINT: &str = "lifeboat/checkpoint/1";
/// Stands where a run's id would, in one that was made by hand.
const BY_HAND: &str = "none";

/// What a checkpoint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's own id.
    pub origin: String,
    /// Number of records.
    pub size: u64,
    /// SHA-256 of the last one, hexadecimal; zeros of an empty log.
    pub head: String,
    /// When it was signed, Unix milliseconds.
    pub time_ms: u64,
    /// The run at whose end it was made.
    pub run: Option<String>,
    /// Which of the log's keys signed it.
    pub epoch: u64,
}

impl Checkpoint {
    /// The text that is signed.
    pub(crate) fn text(&self) -> String {
        format!(
            "{CHECKPOINT}\norigin {}\nsize {}\nhead {}\ntime-ms {}\nrun {}\nepoch {}\n",
            self.origin,
            self.size,
            self.head,
            self.time_ms,
            self.run.as_deref().unwrap_or(BY_HAND),
            self.epoch,
        )
    }

    pub(crate) fn signed(&self, signer: &Signer) -> String {
        sign(&self.text(), &[signer])
    }

    /// Reads a signed one; its signature is not checked yet.
    pub(crate) fn parse(note: &str) -> Result<(Self, Note), Flaw> {
        let note = parse(note)?;
        let keys = ["origin", "size", "head", "time-ms", "run", "epoch"];
        let [origin, size, head, time_ms, run, epoch] = fields(&note.text, CHECKPOINT, keys)?;
        check_id(origin)?;
        check_id(run)?;
        check_digest(head)?;
        let checkpoint = Self {
            origin: origin.to_owned(),
            size: number(size)?,
            head: head.to_owned(),
            time_ms: number(time_ms)?,
            run: (run != BY_HAND).then(|| run.to_owned()),
            epoch: number(epoch)?,
        };
        Ok((checkpoint, note))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::note::NAMES;

    #[test]
    fn what_is_read_is_what_was_signed_and_any_other_form_is_refused() {
        let signer = Signer::new("log/1", &[5; 32], NAMES).unwrap();
        let checkpoint = Checkpoint {
            origin: "log".into(),
            size: 12,
            head: "ab".repeat(32),
            time_ms: 1_795_419_417_632,
            run: None,
            epoch: 1,
        };
        let signed = checkpoint.signed(&signer);
        let (read, note) = Checkpoint::parse(&signed).unwrap();
        assert_eq!(read, checkpoint);
        note.verify(&[&signer.verifier]).unwrap();
        for (from, to) in [
            ("size 12", "size 012"),
            ("size 12", "size +12"),
            ("size 12", "size  12"),
            ("size 12", "Size 12"),
            ("size 12\nhead", "head"),
            ("epoch 1", "epoch 1\nmore 1"),
            ("head ab", "head AB"),
            ("checkpoint/1", "key-rotation/1"),
            ("run none", "run ../x"),
            ("origin log", "origin l g"),
        ] {
            assert!(signed.contains(from));
            assert!(Checkpoint::parse(&signed.replacen(from, to, 1)).is_err(), "{to}");
        }
    }
}
