//! A module's digest: the SHA-256 of its file, by which pins, the journal and people name it.
//!
//! Of a module with the runtime of a language, computing it takes longer than everything else of loading. So it is kept under the BLAKE3 of the
//! same bytes, which takes a fifth of that and is computed at every load, of every byte: bytes that are changed have another BLAKE3, as surely as
//! they have another SHA-256 (decision 0047).

use sha2::{Digest, Sha256};

use super::description::refused;
use super::module::BYTES_MAX;
use crate::error::Result;
use crate::sandbox::kept::{Kept, Key};

/// Ending of the files' names.
const ENDING: &str = "digest";
/// Smaller modules are not looked up: opening a file takes as long as the SHA-256 of some hundred kB.
const LOOKED_UP_BYTES_MIN: usize = 1 << 20;

/// SHA-256 of a module's bytes, hexadecimal; refuses what is too large to be one.
pub(super) fn compute(bytes: &[u8]) -> Result<String> {
    if bytes.len() > BYTES_MAX {
        return Err(refused(format!("it has {} bytes, at most {BYTES_MAX} are read", bytes.len())));
    }
    Ok(hex::encode(Sha256::digest(bytes)))
}

/// The same, and whether [`keep`] has nothing to do: it was kept, or there is no need to.
pub(super) fn of(bytes: &[u8], kept: Option<&Kept>) -> Result<(String, bool)> {
    let Some(kept) = kept.filter(|_| (LOOKED_UP_BYTES_MIN..=BYTES_MAX).contains(&bytes.len())) else {
        return Ok((compute(bytes)?, true));
    };
    match kept.content(ENDING, &key(bytes), "the digest of a module") {
        Some(sha256) if sha256.len() == Sha256::output_size() => Ok((hex::encode(sha256), true)),
        _ => Ok((compute(bytes)?, false)),
    }
}

/// Keeps what [`compute`] made of these bytes.
pub(super) fn keep(bytes: &[u8], sha256: &str, kept: &Kept) {
    if bytes.len() < LOOKED_UP_BYTES_MIN {
        return;
    }
    // Hexadecimal: `compute` made it.
    let Ok(sha256) = hex::decode(sha256) else { return };
    kept.keep_or_say(ENDING, &key(bytes), &sha256, "the digest of a module");
}

fn key(bytes: &[u8]) -> Key {
    *blake3::Hasher::new_derive_key("lifeboat/digest/1").update_rayon(bytes).finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn large(last: u8) -> Vec<u8> {
        let mut bytes = vec![7; LOOKED_UP_BYTES_MIN];
        bytes.push(last);
        bytes
    }

    #[test]
    fn it_is_the_sha256_of_these_bytes_whatever_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::open(&folder.path().join("compiled")).unwrap();
        let (one, other) = (large(1), large(2));
        let sha256 = compute(&one).unwrap();
        assert_eq!(of(&one, Some(&kept)).unwrap(), (sha256.clone(), false), "nothing is kept");
        keep(&one, &sha256, &kept);
        assert_eq!(of(&one, Some(&kept)).unwrap(), (sha256.clone(), true));
        assert_eq!(of(&one, None).unwrap(), (sha256.clone(), true));
        assert_eq!(of(&other, Some(&kept)).unwrap(), (compute(&other).unwrap(), false), "one byte is another");

        // What is no digest is computed again, and so is what is damaged: each byte of the file in turn.
        let file = folder.path().join("compiled").join(format!("{}.{ENDING}", hex::encode(key(&one))));
        let whole = std::fs::read(&file).unwrap();
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 1;
            std::fs::write(&file, &damaged).unwrap();
            assert_eq!(of(&one, Some(&kept)).unwrap(), (sha256.clone(), false), "byte {at}");
        }
        kept.keep(ENDING, &key(&one), b"short").unwrap();
        assert_eq!(of(&one, Some(&kept)).unwrap(), (sha256.clone(), false));
        keep(&one, &sha256, &kept);
        assert_eq!(std::fs::read(&file).unwrap(), whole);
    }

    #[test]
    fn of_a_small_module_nothing_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("compiled");
        let kept = Kept::open(&path).unwrap();
        let sha256 = compute(b"small").unwrap();
        keep(b"small", &sha256, &kept);
        assert_eq!(of(b"small", Some(&kept)).unwrap(), (sha256, true));
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
    }
}
