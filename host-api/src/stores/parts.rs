//! How large the parts of an upload are.
//!
//! An object may have 10,000 parts of 5 MiB to 5 GiB, and its size is not known before its end. All parts are of one size as long as the
//! object is not far larger than was expected; then they grow, so that the largest object there can be still fits.

const MIB: u64 = 1024 * 1024;
/// Smallest part that is sent, bytes: above the protocol's 5 MiB, and a request for each is still cheap.
const PART_BYTES_MIN: u64 = 8 * MIB;
/// Largest part that the protocol takes, bytes.
const PART_BYTES_MAX: u64 = 5 * 1024 * MIB;
/// How many parts an object of the expected size has at most: half of what may be, because an expectation is none of what comes.
const PARTS_EXPECTED: u64 = 5_000;
/// Parts of the first size.
const PARTS_EVEN: u64 = 6_000;
/// After those, the size doubles with each so many: ten doublings fit.
const PARTS_BETWEEN_DOUBLINGS: u64 = 400;
/// Bytes of one object that are on their way at once, at most, while its parts have their first size: memory is what this costs.
const IN_FLIGHT_BYTES_MAX: u64 = 128 * MIB;

/// The sizes of one object's parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    first_bytes: u64,
}

impl Parts {
    /// For an object that is expected to have so many bytes; none: nobody knows.
    pub(super) fn of(expected_bytes: Option<u64>) -> Self {
        let even = expected_bytes.unwrap_or(0).div_ceil(PARTS_EXPECTED).div_ceil(MIB) * MIB;
        Self { first_bytes: even.clamp(PART_BYTES_MIN, PART_BYTES_MAX) }
    }

    /// Size of a part by its number from 0, bytes.
    pub(super) fn bytes(&self, number: u64) -> u64 {
        let doublings = match number.checked_sub(PARTS_EVEN) {
            None => 0,
            Some(after) => after / PARTS_BETWEEN_DOUBLINGS + 1,
        };
        // At most 10 by the protocol's number of parts.
        (self.first_bytes << doublings.min(16)).min(PART_BYTES_MAX)
    }

    /// How many are on their way at once, of at most so many.
    pub(super) fn at_once(&self, most: usize) -> usize {
        usize::try_from(IN_FLIGHT_BYTES_MAX / self.first_bytes).unwrap_or(1).clamp(1, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIB: u64 = 1024 * 1024 * MIB;

    #[test]
    fn the_largest_object_fits_whatever_was_expected_of_it() {
        for expected in [None, Some(0), Some(1), Some(100 * MIB), Some(TIB), Some(5 * TIB), Some(u64::MAX)] {
            let parts = Parts::of(expected);
            let mut fits = 0_u64;
            for number in 0..10_000 {
                let bytes = parts.bytes(number);
                assert!((5 * MIB..=PART_BYTES_MAX).contains(&bytes), "{expected:?}: part {number} of {bytes}");
                fits += bytes;
            }
            assert!(fits >= 5 * TIB, "{expected:?}: {fits}");
        }
    }

    #[test]
    fn an_object_as_expected_has_even_parts_and_memory_is_bounded() {
        for expected in [1, 100 * MIB, 40_000 * MIB, TIB] {
            let parts = Parts::of(Some(expected));
            let needed = expected.div_ceil(parts.bytes(0));
            assert!(needed <= PARTS_EXPECTED && parts.bytes(needed) == parts.bytes(0), "{expected}");
        }
        assert_eq!(Parts::of(None).at_once(4), 4);
        assert_eq!(Parts::of(None).at_once(16), 16);
        assert_eq!(Parts::of(Some(TIB)).at_once(4), 1);
    }
}
