//! How large the parts of an upload are.
//!
//! A store takes only so many parts of an object, and parts are held in memory while they are on their way. So their size is chosen by the
//! size that the object is expected to have, and fewer are on their way at once where they are large. Nobody can be sure of that size, so
//! after the number of parts that the expected object has they grow in steps, up to what the memory bears: past that, an object is refused.

const MIB: u64 = 1024 * 1024;
/// Smallest part that is sent, bytes: above the 5 MiB that S3 demands, and a request for each is still cheap.
const PART_BYTES_MIN: u64 = 8 * MIB;
/// Most bytes of one object that are held at once, whatever its size. The largest object of S3, 5 TiB, fits in 10,000 parts of a third of it.
const HELD_BYTES_MAX: u64 = 1_600 * MIB;
/// Parts that are held besides those on their way: the one that is filled, and the one that waits for its turn.
const HELD_BESIDES: u64 = 2;

/// What a protocol allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most parts of one object.
    parts_max: u64,
    /// Whether parts may be of a size of our choice; otherwise opendal sends pieces of 8 MiB, one after the other, as many as it takes.
    is_free: bool,
}

impl Limits {
    /// 10,000 parts of 5 MiB to 5 GiB.
    pub(super) const S3: Self = Self { parts_max: 10_000, is_free: true };
    /// 50,000 blocks of up to 4,000 MiB.
    pub(super) const AZURE: Self = Self { parts_max: 50_000, is_free: true };
    /// No limit on the pieces of a resumable upload, which go one after the other.
    pub(super) const PIECES: Self = Self { parts_max: u64::MAX, is_free: false };

    /// How many parts an object of the expected size has at most: half of what may be, because an expectation is none of what comes.
    fn parts_expected(self) -> u64 {
        self.parts_max / 2
    }

    /// After those, the size doubles with each so many: it is five times what it was long before the last part.
    fn parts_between_doublings(self) -> u64 {
        (self.parts_max / 20).max(1)
    }
}

/// The sizes of one object's parts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    limits: Limits,
    first_bytes: u64,
    most_bytes: u64,
    at_once: usize,
}

impl Parts {
    /// For an object that is expected to have so many bytes (none: nobody knows), with at most so many parts on their way at once.
    pub(super) fn of(limits: Limits, expected_bytes: Option<u64>, at_once_max: usize) -> Self {
        let held = |at_once: u64| HELD_BYTES_MAX / (at_once + HELD_BESIDES) / MIB * MIB;
        let at_once_max = if limits.is_free { at_once_max.max(1) as u64 } else { 1 };
        let even = expected_bytes.unwrap_or(0).div_ceil(limits.parts_expected()).div_ceil(MIB).saturating_mul(MIB);
        let first_bytes = match limits.is_free {
            true => even.clamp(PART_BYTES_MIN, held(1)),
            false => PART_BYTES_MIN,
        };
        // As many as memory bears, with room to grow once where nothing was said of the size.
        let at_once = (1..=at_once_max).rev().find(|&n| held(n) >= first_bytes).unwrap_or(1);
        let most_bytes = if limits.is_free { held(at_once) } else { first_bytes };
        Self { limits, first_bytes, most_bytes, at_once: usize::try_from(at_once).unwrap_or(1) }
    }

    /// Size of a part by its number from 0, bytes; none where there can be no such part.
    pub(super) fn bytes(&self, number: u64) -> Option<u64> {
        if number >= self.limits.parts_max {
            return None;
        }
        let doublings = match number.checked_sub(self.limits.parts_expected()) {
            None => 0,
            Some(after) => after / self.limits.parts_between_doublings() + 1,
        };
        Some((self.first_bytes << doublings.min(16)).min(self.most_bytes))
    }

    /// How many are on their way at once.
    pub(super) fn at_once(&self) -> usize {
        self.at_once
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * MIB;
    const TIB: u64 = 1024 * GIB;

    /// The largest object that fits.
    fn fits(parts: &Parts) -> u64 {
        (0..parts.limits.parts_max).map(|number| parts.bytes(number).unwrap()).sum()
    }

    /// Most bytes that are held of it.
    fn held(parts: &Parts) -> u64 {
        (parts.at_once() as u64 + HELD_BESIDES) * parts.most_bytes
    }

    #[test]
    fn memory_is_bounded_whatever_is_expected_and_whatever_comes() {
        for limits in [Limits::S3, Limits::AZURE] {
            for expected in [None, Some(0), Some(1), Some(100 * MIB), Some(TIB), Some(5 * TIB), Some(u64::MAX)] {
                for most in [1, 2, 4, 16] {
                    let parts = Parts::of(limits, expected, most);
                    assert!(held(&parts) <= HELD_BYTES_MAX, "{parts:?}");
                    assert!(parts.at_once() <= most && parts.bytes(0).unwrap() >= PART_BYTES_MIN, "{parts:?}");
                    let all = (0..limits.parts_max).map(|number| parts.bytes(number).unwrap());
                    assert!(all.is_sorted() && parts.bytes(limits.parts_max).is_none(), "{parts:?}");
                }
            }
        }
    }

    #[test]
    fn any_object_fits_whose_size_is_known_and_the_stated_ones_where_it_is_not() {
        // The largest object of S3; half of that as long as it is expected right; and twice what is expected up to there.
        assert!(fits(&Parts::of(Limits::S3, Some(5 * TIB), 4)) >= 5 * TIB);
        for expected in [GIB, 40 * GIB, 500 * GIB, TIB, 5 * TIB / 2] {
            let parts = Parts::of(Limits::S3, Some(expected), 4);
            assert!(fits(&parts) >= 2 * expected, "{expected}: {parts:?}");
        }
        // The documentation states these.
        assert!(fits(&Parts::of(Limits::S3, None, 4)) >= 870 * GIB);
        assert!(fits(&Parts::of(Limits::S3, None, 1)) >= 3 * TIB / 2);
        assert!(fits(&Parts::of(Limits::AZURE, None, 4)) >= 4 * TIB);
        assert!(fits(&Parts::of(Limits::AZURE, Some(12 * TIB), 4)) >= 12 * TIB);
    }

    #[test]
    fn an_object_as_expected_has_even_parts() {
        for expected in [1, 100 * MIB, 40_000 * MIB, TIB] {
            let parts = Parts::of(Limits::S3, Some(expected), 4);
            let needed = expected.div_ceil(parts.bytes(0).unwrap());
            assert!(needed <= Limits::S3.parts_expected() && parts.bytes(needed - 1) == parts.bytes(0), "{expected}");
        }
        assert_eq!(Parts::of(Limits::S3, None, 4).at_once(), 4);
        assert_eq!(Parts::of(Limits::S3, None, 16).at_once(), 16);
        assert_eq!(Parts::of(Limits::S3, Some(TIB), 4).at_once(), 4);
        assert_eq!(Parts::of(Limits::S3, Some(5 * TIB), 4).at_once(), 1);
        assert_eq!(Parts::of(Limits::PIECES, Some(5 * TIB), 4).bytes(1_000_000), Some(PART_BYTES_MIN));
    }
}
