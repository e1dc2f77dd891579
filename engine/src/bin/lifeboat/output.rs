//! How things are shown: tables for people, one JSON document for programs.

use std::io::Write;

use engine::Result;
use engine::error::{Error, Kind};
use host_api::{Finding, Severity, identifier};
use serde_json::Value;

/// Prints one JSON document.
pub fn json(value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(|e| Error::new(Kind::Failed, e.to_string()))?;
    let text = harmless(&text);
    line(&text)
}

/// The same, in one line.
pub fn json_line(value: &Value) -> Result<()> {
    line(&harmless(&value.to_string()))
}

/// A text with its control characters and marks of direction made visible, but for line feeds and tabulators.
pub fn escaped(text: &str) -> String {
    text.split_inclusive(['\n', '\t'])
        .map(|part| match part.strip_suffix(['\n', '\t']) {
            Some(words) => identifier::shown_whole(words) + &part[words.len()..],
            None => identifier::shown_whole(part),
        })
        .collect()
}

/// Prints a line to stdout; a reader that went away (`| head`) is no failure.
pub fn line(text: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::new(Kind::Failed, format!("stdout: {e}"))),
        _ => Ok(()),
    }
}

/// Says a line to people, on stderr. Whether anyone still listens must not matter to a run that is under way.
pub fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints columns under headings, as wide as they need; names from outside are made safe.
pub fn table(headings: &[&str], rows: &[Vec<String>]) -> Result<()> {
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| identifier::shown(cell)).collect()).collect();
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).chain([headings[column].chars().count()]).max().unwrap_or(0)
    };
    // Once: a store may hold a hundred thousand backups.
    let widths: Vec<usize> = (0..headings.len()).map(width).collect();
    let mut text = String::new();
    let headings: Vec<String> = headings.iter().map(|h| h.to_uppercase()).collect();
    for cells in std::iter::once(&headings).chain(&rows) {
        for (column, cell) in cells.iter().enumerate() {
            text.push_str(cell);
            let last = column + 1 == cells.len();
            let pad = if last { 0 } else { widths[column] + 2 - cell.chars().count() };
            text.extend(std::iter::repeat_n(' ', pad));
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    }
    line(text.trim_end_matches('\n'))
}

/// `1.5 MB`; decimal units, as disks are sold.
pub fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{count} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// `ms` as `0.25 s`, `3 min 12 s`.
pub fn duration_ms(ms: u64) -> String {
    match ms {
        0..60_000 => format!("{:.2} s", ms as f64 / 1000.0),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1000),
    }
}

/// A finding in one or two lines.
pub fn finding(finding: &Finding) -> String {
    let word = match finding.severity {
        Severity::Info => "info",
        Severity::Warning => "warning",
        Severity::Error => "error",
    };
    let mut text =
        format!("{word}[{}]: {}", identifier::shown(&finding.rule), identifier::shown_long(&finding.message));
    if !finding.fix.is_empty() {
        text.push_str(&format!("\n  fix: {}", identifier::shown_long(&finding.fix)));
    }
    text
}

/// JSON with all control characters and marks of direction escaped, not only those that JSON asks for: a terminal may take U+009B for the
/// beginning of an escape. They can stand nowhere but in texts, so it is the same document.
fn harmless(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        // Those below U+0020 are what JSON asks for, or the line feeds between its own words.
        if matches!(c, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}') || identifier::reorders(c) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_could_obey_is_escaped_and_means_the_same() {
        let value = serde_json::json!({"\u{9b}2J": "\u{202e}txt \u{7f} ä \u{1b}[31m"});
        let text = harmless(&value.to_string());
        assert!(text.chars().all(|c| !c.is_control() && c != '\u{202e}'), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }
}
