//! Who can prove what the log says: signed checkpoints of it, the keys that sign them, and the verification that takes both.
//!
//! ```text
//! run ends ─▶ seal ─▶ checkpoint (signed note: size, head) ─▶ evidence, write-only store
//! log ─────▶ verify ◀── checkpoint that somebody held, key that somebody trusts
//! ```

mod checkpoint;
mod keys;
mod note;
mod rotation;
mod seal;
mod verify;

pub use checkpoint::{CHECKPOINT, Checkpoint};
pub use note::{Trust, Verifier};
pub use rotation::ROTATION;
pub use seal::CheckpointStore;
pub use verify::{Held, Proven, Verdict, verify_lines, verify_state};

use ring::rand::SecureRandom;

use crate::error::{Error, Kind, Result};

/// Random bytes for secrets.
pub(crate) fn random() -> Result<[u8; 32]> {
    let mut bytes = [0; 32];
    ring::rand::SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::new(Kind::Failed, "the system gives no randomness"))?;
    Ok(bytes)
}
