//! Finds a Python that is new enough and whole.

use std::path::{Path, PathBuf};

use crate::command::Run;

/// Asked in this order. 3.12 first: it is the oldest the reference service takes and the one its
/// pins were made with.
const NAMES: [&str; 5] = ["python3.12", "python3.13", "python3.14", "python3", "python"];

/// What a Python must have.
pub struct Need {
    /// The oldest version that will do, (major, minor).
    pub version: (u32, u32),
    /// Modules it can import. Debian ships some parts of the standard library as packages.
    pub modules: &'static [&'static str],
}

impl Need {
    /// The first Python on the `PATH`, then of pyenv's, that has it all.
    pub fn find(&self) -> Option<PathBuf> {
        NAMES
            .iter()
            .find_map(|name| self.try_out(Path::new(name)))
            .or_else(|| self.pyenv_pythons().iter().find_map(|python| self.try_out(python)))
    }

    /// Runs `python`, because one on the `PATH` may be a shim that fails or something else; the
    /// result is the path it knows itself by.
    fn try_out(&self, python: &Path) -> Option<PathBuf> {
        let (major, minor) = self.version;
        let modules = self.modules.join(", ");
        let check = format!(
            "import sys; assert sys.version_info >= ({major}, {minor}); import {modules}; \
             print(sys.executable)"
        );
        let path = Run::new(python).args(["-c", &check]).output().ok()?;
        Some(PathBuf::from(path))
    }

    /// Those pyenv has installed, whether selected or not, the oldest first.
    fn pyenv_pythons(&self) -> Vec<PathBuf> {
        let versions = Run::new("pyenv").args(["versions", "--bare"]).output().unwrap_or_default();
        versions
            .lines()
            .filter(|version| parse(version).is_some_and(|version| version >= self.version))
            .filter_map(|version| Run::new("pyenv").args(["prefix", version]).output().ok())
            .map(|prefix| Path::new(&prefix).join("bin").join("python3"))
            .collect()
    }
}

/// `3.12.1` → `(3, 12)`; names such as `pypy3.10-7.3` have no such version.
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn versions_are_numbers_not_text() {
        assert_eq!(parse("3.12.1"), Some((3, 12)));
        assert!(parse("3.9.18") < parse("3.12.1"));
        assert_eq!(parse("pypy3.10-7.3.17"), None);
        assert_eq!(parse("miniconda3-latest"), None);
    }
}
