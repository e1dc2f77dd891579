//! What a guest is not told: a host's errors name paths, addresses and URLs, because people need them. The guest gets the same words without
//! those; the journal and whoever watches get them whole.

/// The words as a guest may read them: absolute paths, URLs and network addresses become `(a path)`, `(a URL)`, `(an address)`.
pub(crate) fn for_guest(words: &str) -> String {
    without_tools_words(words).split_inclusive(char::is_whitespace).map(conceal_word).collect()
}

/// What a tool or a service said may quote anything: addresses, accounts, rows. How it ended is told, what it said is not.
fn without_tools_words(words: &str) -> String {
    words.lines().map(cut_tools_words).collect::<Vec<_>>().join("\n")
}

fn cut_tools_words(line: &str) -> String {
    let cut_after = |mark: &str, also_number: bool| {
        let at = line.find(mark)? + mark.len();
        let number = line[at..].bytes().take_while(|b| also_number && b.is_ascii_digit()).count();
        (line.len() > at + number).then(|| format!("{} (what it said is in the journal)", &line[..at + number]))
    };
    cut_after("ended with exit code ", true)
        .or_else(|| cut_after("ended with signal ", true))
        .or_else(|| cut_after("its log ends", false))
        .unwrap_or_else(|| line.to_owned())
}

fn conceal_word(word: &str) -> String {
    let bare = word.trim_end();
    let space = &word[bare.len()..];
    // What surrounds a word in a sentence stays, so that the sentence can still be read.
    let start = bare.find(|c: char| !matches!(c, '"' | '\'' | '`' | '(' | '[' | '<')).unwrap_or(bare.len());
    let (front, rest) = bare.split_at(start);
    let end = rest
        .rfind(|c: char| !matches!(c, '"' | '\'' | '`' | ')' | ']' | '>' | ',' | ';' | ':' | '.' | '!'))
        .map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
    let (core, back) = rest.split_at(end);
    match kind_of(core) {
        Some(kind) => format!("{front}({kind}){back}{space}"),
        None => word.to_owned(),
    }
}

fn kind_of(core: &str) -> Option<&'static str> {
    if core.contains("://") {
        return Some("a URL");
    }
    // `KEY=/path` and `host:/path` as well; `notes/api` and `text/plain` are names.
    let absolute = |text: &str| {
        text.len() > 1
            && (text.starts_with('/') || text.starts_with("~/") || text.starts_with("./") || text.starts_with("../"))
    };
    if absolute(core) || core.split(['=', ':', '"', '\'']).skip(1).any(absolute) {
        return Some("a path");
    }
    let host =
        core.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())).map_or(core, |(h, _)| h);
    let host = host.trim_matches(|c| c == '[' || c == ']');
    if host.parse::<std::net::IpAddr>().is_ok() {
        return Some("an address");
    }
    None
}

#[cfg(test)]
mod tests {
    use super::for_guest;

    #[test]
    fn paths_urls_and_addresses_stay_with_the_host() {
        for (words, told) in [
            ("copying /var/lib/notes.sqlite: no space left", "copying (a path): no space left"),
            (
                r#"connection to server on socket "/tmp/x/.s.PGSQL.5432" failed"#,
                r#"connection to server on socket "(a path)" failed"#,
            ),
            ("server at \"10.0.0.5\", port 5432", "server at \"(an address)\", port 5432"),
            ("asked http://10.0.0.5:80/readyz, no answer", "asked (a URL), no answer"),
            ("127.0.0.1:8080 refused", "(an address) refused"),
            ("[::1]:80 refused", "[(an address) refused"),
            ("PGPASSFILE=/run/x is gone", "(a path) is gone"),
            (
                "not granted: http-check.check endpoint=notes/api method=GET",
                "not granted: http-check.check endpoint=notes/api method=GET",
            ),
            (
                "pg_restore ended with exit code 1: ERROR: role \"app\", row alice@example.org\nhint: look",
                "pg_restore ended with exit code 1 (what it said is in the journal)\nhint: look",
            ),
            ("it died; its log ends: password=hunter2", "it died; its log ends (what it said is in the journal)"),
            ("status 500, expected 200 to 299", "status 500, expected 200 to 299"),
            ("no backup 20261123T072218296z-0a4cbd in local", "no backup 20261123T072218296z-0a4cbd in local"),
        ] {
            assert_eq!(for_guest(words), told);
        }
    }

    #[test]
    fn a_granted_path_of_a_request_is_the_guests_own_word_and_is_told_as_a_path() {
        assert_eq!(for_guest("path=/notes"), "(a path)");
    }
}
