//! The text that `pg_dump` writes in its plain format: how it begins and ends.

/// The last line that says something: without it the text is cut.
const COMPLETE: &[u8] = b"-- PostgreSQL database dump complete";
/// How much of a text's end is kept: the closing line, and what newer versions write behind it.
const TAIL_BYTES: usize = 1024;

/// The end of a text that comes in pieces.
#[derive(Default)]
pub(super) struct Tail(Vec<u8>);

impl Tail {
    /// Takes the next piece.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        let over = self.0.len().saturating_sub(TAIL_BYTES);
        self.0.drain(..over);
    }

    /// Whether the text came to its end: behind the closing line there are only comments, empty lines and, since the minor versions of August
    /// 2025, the end of what `\restrict` began.
    pub fn is_complete(&self) -> bool {
        let lines: Vec<&[u8]> = self.0.split(|b| *b == b'\n').collect();
        let Some(closing) = lines.iter().rposition(|line| *line == COMPLETE) else { return false };
        // Its own line end is there too.
        closing + 1 < lines.len()
            && lines[closing + 1..]
                .iter()
                .all(|line| line.is_empty() || *line == b"--" || line.starts_with(b"\\unrestrict "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_complete_with_its_closing_line_and_nothing_behind_it() {
        let end = "--\n-- PostgreSQL database dump complete\n--\n\n";
        let complete = |text: &str| {
            // In pieces of every size.
            let answers: Vec<bool> = [1, 3, 1000, 100_000]
                .into_iter()
                .map(|size| {
                    let mut tail = Tail::default();
                    text.as_bytes().chunks(size).for_each(|piece| tail.feed(piece));
                    tail.is_complete()
                })
                .collect();
            assert!(answers.iter().all(|a| *a == answers[0]), "{answers:?}");
            answers[0]
        };
        let body = "SELECT 1;\n".repeat(500);
        assert!(complete(&format!("{body}{end}")));
        assert!(complete(&format!("{body}{end}\\unrestrict abc\n\n")));
        for cut in 0..end.len() - "\n--\n\n".len() {
            assert!(!complete(&format!("{body}{}", &end[..cut])), "{cut}");
        }
        assert!(!complete(&format!("{body}{end}SELECT 2;\n")));
        assert!(!complete(&format!("{body}-- PostgreSQL database dump complete")));
        assert!(!complete(&format!("{end}{}", "--\n".repeat(1000))), "too far from the end to be it");
        assert!(!complete(""));
    }
}
