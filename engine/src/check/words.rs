//! Times in words.

/// `12 s`, `5 min`, `3 h 20 min`, `2 d 4 h` of milliseconds.
pub fn lasting(ms: u64) -> String {
    let s = ms / 1000;
    let two = |first: u64, one: &str, second: u64, other: &str| match second {
        0 => format!("{first} {one}"),
        second => format!("{first} {one} {second} {other}"),
    };
    match s {
        0..60 => format!("{s} s"),
        60..3600 => two(s / 60, "min", 0, ""),
        3600..86_400 => two(s / 3600, "h", s % 3600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::lasting;

    #[test]
    fn a_time_has_the_units_that_matter() {
        for (s, words) in
            [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3600, "1 h"), (12_000, "3 h 20 min"), (187_200, "2 d 4 h")]
        {
            assert_eq!(lasting(s * 1000 + 999), words);
        }
    }
}
