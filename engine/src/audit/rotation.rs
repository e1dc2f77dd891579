//! A change of the log's signing key: a text that the old key and the new one sign, which stands in the log as a record of its own.

use super::note::{Flaw, Signer, Verifier, check_id, fields, number, parse, sign, verifier};

/// The kind of this text.
pub const ROTATION: &str = "lifeboat/key-rotation/1";

/// What a rotation says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// The log's own id.
    pub(crate) origin: String,
    /// The epoch that begins.
    pub(crate) epoch: u64,
    /// The key that signed until here.
    pub(crate) old: Verifier,
    /// The key that signs from here on.
    pub(crate) new: Verifier,
}

impl Rotation {
    pub(crate) fn signed(origin: &str, epoch: u64, old: &Signer, new: &Signer) -> String {
        let text = format!("{ROTATION}\norigin {origin}\nepoch {epoch}\nold {}\nnew {}\n", old.verifier, new.verifier);
        sign(&text, &[old, new])
    }

    /// Reads a signed one, and holds both signatures against the keys that it names.
    pub(crate) fn parse(note: &str) -> Result<Self, Flaw> {
        let note = parse(note)?;
        let [origin, epoch, old, new] = fields(&note.text, ROTATION, ["origin", "epoch", "old", "new"])?;
        check_id(origin)?;
        let rotation =
            Self { origin: origin.to_owned(), epoch: number(epoch)?, old: verifier(old)?, new: verifier(new)? };
        if rotation.epoch < 2
            || rotation.old.name != key_name(origin, rotation.epoch - 1)
            || rotation.new.name != key_name(origin, rotation.epoch)
        {
            return Err("its keys have not the names of its epochs".into());
        }
        note.verify(&[&rotation.old, &rotation.new])?;
        Ok(rotation)
    }
}

/// The name of a log's key.
pub(crate) fn key_name(origin: &str, epoch: u64) -> String {
    format!("{origin}/{epoch}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::note::NAMES;

    #[test]
    fn both_keys_must_have_signed_it_under_the_names_of_their_epochs() {
        let key = |name: &str, seed| Signer::new(name, &[seed; 32], NAMES).unwrap();
        let (old, new) = (key("log/1", 1), key("log/2", 2));
        let good = Rotation::signed("log", 2, &old, &new);
        assert_eq!(Rotation::parse(&good).unwrap().new, new.verifier);
        for bad in [
            Rotation::signed("log", 3, &old, &new),
            Rotation::signed("other", 2, &old, &new),
            Rotation::signed("log", 2, &new, &old),
            Rotation::signed("log", 2, &old, &key("log/3", 3)),
            // The new key alone says so.
            good.lines().filter(|line| !line.starts_with("\u{2014} log/1")).map(|line| format!("{line}\n")).collect(),
            good.replace(&old.verifier.to_string(), &key("log/1", 9).verifier.to_string()),
        ] {
            assert!(Rotation::parse(&bad).is_err(), "{bad}");
        }
    }
}
