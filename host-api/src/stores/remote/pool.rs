//! Memory for the parts of an upload, used again and again: freed and taken anew, pieces of megabytes leave holes that nobody fills, and the
//! process grows with the object.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Pieces that are free.
#[derive(Default, Clone)]
pub(super) struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    /// An empty piece with room for so many bytes.
    pub(super) fn take(&self, bytes: usize) -> Vec<u8> {
        let mut piece = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        piece.reserve_exact(bytes);
        piece
    }

    /// What is in a piece, which is free again once nobody holds that any more.
    pub(super) fn lend(&self, piece: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { piece, pool: self.clone() })
    }
}

struct Lent {
    piece: Vec<u8>,
    pool: Pool,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.piece
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut piece = std::mem::take(&mut self.piece);
        piece.clear();
        self.pool.0.lock().unwrap_or_else(PoisonError::into_inner).push(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_used_again_once_nobody_holds_what_was_in_it() {
        let pool = Pool::default();
        let mut piece = pool.take(1000);
        piece.extend_from_slice(b"one");
        let at = piece.as_ptr();
        let lent = pool.lend(piece);
        let held = lent.slice(1..);
        drop(lent);
        let other = pool.take(1000);
        assert_ne!(other.as_ptr(), at, "somebody holds it");
        assert_eq!(&held[..], b"ne");
        drop(held);
        let again = pool.take(1000);
        assert!(again.as_ptr() == at && again.is_empty());
    }
}
