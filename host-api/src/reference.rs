//! Records in a database that name files in a directory, and the reverse: both were read at different moments, so both ways are checked.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;

use crate::Finding;
use crate::bindings::Reference;
use crate::context::StepContext;
use crate::error::{Context, Error, Result};
use crate::identifier::shown;
use crate::sources::Row;

/// How many names a finding shows of each kind.
const EXAMPLES: usize = 5;
/// Longest line of an index, bytes: a path has at most 4,096, each of which JSON may write as six.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// A line of a files source's index; what else stands in it is the driver's.
#[derive(Deserialize)]
struct IndexLine {
    path: String,
    r#type: String,
}

/// The regular files of a source, out of its index while that is written: a store need not be one that we may read, nor its objects ones
/// that we can decrypt.
#[derive(Clone, Default)]
pub(crate) struct SharedIndex(Arc<Mutex<Index>>);

#[derive(Default)]
struct Index {
    /// None until anything was written.
    files: Option<BTreeSet<String>>,
    /// The line that is not over yet.
    line: Vec<u8>,
    /// What a line can't be read for.
    unreadable: Option<Error>,
}

impl SharedIndex {
    /// Takes what is written next. What it can't read is said at the end: storing the index comes first.
    pub(crate) fn add(&self, mut bytes: &[u8]) {
        let mut index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            index.line.extend_from_slice(&bytes[..end]);
            bytes = &bytes[end + 1..];
            index.end_line();
        }
        if index.line.len() + bytes.len() <= LINE_BYTES_MAX {
            index.line.extend_from_slice(bytes);
        } else {
            index.unreadable.get_or_insert_with(|| Error::failed("a line of it is too long"));
        }
    }

    /// Reads the paths of the regular files.
    pub(crate) fn read<T>(&self, with: impl FnOnce(&BTreeSet<String>) -> T) -> Result<T> {
        let mut index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !index.line.is_empty() {
            index.end_line();
        }
        match (&index.unreadable, &index.files) {
            (Some(e), _) => Err(e.clone()),
            (None, Some(files)) => Ok(with(files)),
            (None, None) => Err(Error::failed("there is none")),
        }
    }

    /// An index is there, and nothing has been written into it yet.
    pub(crate) fn begin(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).files.get_or_insert_default();
    }
}

impl Index {
    fn end_line(&mut self) {
        match serde_json::from_slice::<IndexLine>(&std::mem::take(&mut self.line)) {
            Ok(entry) if entry.r#type == "file" => drop(self.files.get_or_insert_default().insert(entry.path)),
            Ok(_) => drop(self.files.get_or_insert_default()),
            Err(e) => drop(self.unreadable.get_or_insert_with(|| Error::failed(format!("a line of it: {e}")))),
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
