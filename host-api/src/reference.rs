//! Records in a database that name files in a directory, and the reverse: both were read at different moments, so both ways are checked.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::Deserialize;

use crate::Finding;
use crate::bindings::Reference;
use crate::context::StepContext;
use crate::error::{Context, Error, Result};
use crate::identifier::shown;
use crate::manifest::SourceManifest;
use crate::pipeline::error_of;
use crate::sources::{ObjectSource, Row};

/// How many names a finding shows of each kind.
const EXAMPLES: usize = 5;
/// Longest line of an index, bytes: a path has at most 4,096, each of which JSON may write as six.
const LINE_BYTES_MAX: u64 = 64 * 1024;

/// A line of a files source's index; what else stands in it is the driver's.
#[derive(Deserialize)]
struct IndexLine {
    path: String,
    r#type: String,
}

/// Paths of the regular files in a backup, from the index that the files driver stored.
pub(crate) fn stored_files(
    cx: &StepContext,
    objects: &dyn ObjectSource,
    source: &SourceManifest,
) -> Result<BTreeSet<String>> {
    let index = source
        .objects
        .iter()
        .find(|object| object.role == "index")
        .ok_or_else(|| Error::failed(format!("source {} has no index of its files", source.name)))?;
    let mut reader = BufReader::new(objects.stream(cx, index)?);
    let mut files = BTreeSet::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut limited = std::io::Read::take(&mut reader, LINE_BYTES_MAX);
        if limited.read_until(b'\n', &mut line).map_err(error_of)? == 0 {
            return Ok(files);
        }
        let entry: IndexLine = serde_json::from_slice(&line).doing(|| format!("a line of the index {}", index.key))?;
        if entry.r#type == "file" {
            files.insert(entry.path);
        }
    }
}

/// Paths of the regular files below a directory, relative to it; no link is followed.
pub(crate) fn files_below(cx: &StepContext, root: &Path) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        cx.check()?;
        for entry in std::fs::read_dir(&folder).doing(|| format!("reading {}", folder.display()))? {
            let entry = entry.doing(|| format!("reading {}", folder.display()))?;
            let kind = entry.file_type().doing(|| format!("looking at {}", entry.path().display()))?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                let path = entry.path();
                let relative = path.strip_prefix(root).unwrap_or(&path);
                files.insert(relative.to_string_lossy().into_owned());
            }
        }
    }
    Ok(files)
}

/// Compares what the records name with the files there are. No finding: exactly the same.
pub(crate) fn compare(name: &str, reference: &Reference, rows: &[Row], files: &BTreeSet<String>) -> Option<Finding> {
    let named: BTreeSet<&str> = rows.iter().filter_map(|row| row.first()?.as_deref()).collect();
    let missing: Vec<&str> = named.iter().copied().filter(|path| !files.contains(*path)).collect();
    let unnamed: Vec<&str> = files.iter().map(String::as_str).filter(|path| !named.contains(path)).collect();
    let deviations = missing.len() + unnamed.len();
    if deviations == 0 {
        return None;
    }
    let message = format!(
        "{name}: {} records of {} without a file in {}{}, {} files without a record{} ({} tolerated in all)",
        missing.len(),
        reference.source,
        reference.files,
        examples(&missing),
        unnamed.len(),
        examples(&unnamed),
        reference.tolerance,
    );
    Some(if deviations as u64 > reference.tolerance {
        Finding::error(
            "reference",
            message,
            "take another backup at a quieter moment; if it stays, records or files are lost",
        )
    } else {
        Finding::info("reference", message)
    })
}

fn examples(paths: &[&str]) -> String {
    if paths.is_empty() {
        return String::new();
    }
    let shown: Vec<String> = paths.iter().take(EXAMPLES).map(|path| shown(path)).collect();
    let more = if paths.len() > EXAMPLES { ", …" } else { "" };
    format!(" ({}{more})", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Severity;

    fn compared(tolerance: u64, named: &[&str], files: &[&str]) -> Option<Finding> {
        let reference = Reference { source: "db".into(), sql: String::new(), files: "files".into(), tolerance };
        let rows: Vec<Row> = named.iter().map(|path| vec![Some((*path).to_owned())]).chain([vec![None]]).collect();
        compare("artifacts", &reference, &rows, &files.iter().map(|path| (*path).to_owned()).collect())
    }

    #[test]
    fn both_ways_are_compared_and_the_tolerance_is_a_sum() {
        assert_eq!(compared(0, &["a", "b"], &["b", "a"]), None);
        assert_eq!(compared(2, &["a", "b"], &["a", "c"]).unwrap().severity, Severity::Info);
        let finding = compared(1, &["a", "b"], &["a", "c"]).unwrap();
        assert_eq!(finding.severity, Severity::Error);
        assert!(finding.message.contains("(b)") && finding.message.contains("(c)"), "{}", finding.message);
    }

    #[test]
    fn examples_are_few_and_harmless() {
        let finding = compared(0, &["1", "2", "3", "4", "5", "6", "\u{1b}[2J"], &[]).unwrap();
        assert!(finding.message.contains("7 records") && finding.message.contains('…'));
        assert!(!finding.message.contains('\u{1b}'));
    }

    #[test]
    fn a_directory_is_walked_without_following_links() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("a/b")).unwrap();
        std::fs::write(dir.path().join("a/b/file"), "").unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("a/link")).unwrap();
        let cx = StepContext::detached("test", std::time::Duration::from_secs(10));
        assert_eq!(files_below(&cx, dir.path()).unwrap(), BTreeSet::from(["a/b/file".to_owned()]));
    }
}
