//! The wire format of SSH: lengths of four bytes in front of bytes, read without trust.

/// What is left to read.
pub(super) struct Reader<'b>(pub(super) &'b [u8]);

/// It ends early, or says something that can't be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

impl<'b> Reader<'b> {
    /// So many bytes.
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'b [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number of four bytes, the highest first.
    pub(super) fn number(&mut self) -> Result<u32, Malformed> {
        self.bytes(4)?.try_into().map(u32::from_be_bytes).map_err(|_| Malformed)
    }

    /// A length and so many bytes.
    pub(super) fn string(&mut self) -> Result<&'b [u8], Malformed> {
        let length = self.number()?;
        self.bytes(usize::try_from(length).map_err(|_| Malformed)?)
    }

    /// The same, of text.
    pub(super) fn text(&mut self) -> Result<&'b str, Malformed> {
        std::str::from_utf8(self.string()?).map_err(|_| Malformed)
    }

    /// A number above zero of any length, without the zeros in front; only its one spelling is taken.
    pub(super) fn large_number(&mut self) -> Result<&'b [u8], Malformed> {
        let bytes = self.string()?;
        match bytes {
            // The highest bit is the sign: a zero stands before it, and nowhere else.
            [0, first, ..] if first & 0x80 != 0 => Ok(&bytes[1..]),
            [first, ..] if *first != 0 && first & 0x80 == 0 => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    /// Nothing may be left.
    pub(super) fn end(&self) -> Result<(), Malformed> {
        if self.0.is_empty() { Ok(()) } else { Err(Malformed) }
    }
}

/// Appends a string with its length.
pub(super) fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    // Digests, names and namespaces: never near four gigabytes.
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_early_or_goes_on_is_malformed() {
        let mut written = Vec::new();
        put(&mut written, b"abc");
        assert_eq!(Reader(&written).string(), Ok(&b"abc"[..]));
        for end in 0..written.len() {
            assert_eq!(Reader(&written[..end]).string(), Err(Malformed), "{end}");
        }
        assert_eq!(Reader(&[0xff; 8]).string(), Err(Malformed));
        assert_eq!(Reader(&[0]).end(), Err(Malformed));
        assert_eq!(Reader(&[0, 0, 0, 1, 0xff]).text(), Err(Malformed));
    }

    #[test]
    fn a_large_number_has_one_spelling() {
        let read = |bytes: &[u8]| {
            let mut written = Vec::new();
            put(&mut written, bytes);
            Reader(&written).large_number().map(<[u8]>::to_vec)
        };
        assert_eq!(read(&[0x7f]), Ok(vec![0x7f]));
        assert_eq!(read(&[0, 0x80]), Ok(vec![0x80]));
        for other in [&[][..], &[0], &[0x80], &[0, 0x7f], &[0, 0, 0x80]] {
            assert_eq!(read(other), Err(Malformed), "{other:?}");
        }
    }
}
