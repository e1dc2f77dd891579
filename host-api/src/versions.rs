//! Installed versions of a service: `DIRECTORY/VERSION@ATTEMPT` each, and one symbolic link `DIRECTORY/current`.

use std::path::PathBuf;

use crate::bindings::Install;
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};
use crate::identifier::shown;

/// Longest version, bytes.
const VERSION_BYTES_MAX: usize = 64;

/// A version as a policy or a person names it: 1 to 64 of `A-Z a-z 0-9 . _ + -`, starting with a letter or digit, so that it can be
/// neither a path nor an option in the commands it is put into.
pub fn check_version(version: &str) -> Result<()> {
    let ok = (1..=VERSION_BYTES_MAX).contains(&version.len())
        && version.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'+' | b'-'))
        && version.as_bytes()[0].is_ascii_alphanumeric();
    if ok {
        Ok(())
    } else {
        Err(Error::invalid(format!("`{}` is no version", shown(version)))
            .hint("use 1 to 64 of A-Z, a-z, 0-9, ., _, + and -, starting with a letter or digit"))
    }
}

/// The installed version and its directory: where the link `current` leads. None where nothing is installed, or where the link is not
/// one of ours.
pub fn current(install: &Install) -> Option<(String, PathBuf)> {
    let target = std::fs::read_link(install.directory.join("current")).ok()?;
    let name = target.to_str()?;
    let version = version_of(name)?;
    let dir = install.directory.join(name);
    dir.is_dir().then(|| (version.to_owned(), dir))
}

/// Every version that was installed to the end, with its directory; of one version, the newest first.
pub fn installed(install: &Install) -> Vec<(String, PathBuf)> {
    let current = current(install).map(|(_, dir)| dir);
    let Ok(entries) = std::fs::read_dir(&install.directory) else { return Vec::new() };
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let name = entry.file_name().into_string().ok()?;
            let version = version_of(&name)?.to_owned();
            // No link is followed: what an install makes is a directory.
            let never_in_service = unfinished(install, &name).exists() || pending(install, &name).is_symlink();
            if !entry.file_type().ok()?.is_dir() || never_in_service {
                return None;
            }
            let made = entry.metadata().and_then(|m| m.modified()).ok();
            let dir = entry.path();
            Some((version, current.as_ref() == Some(&dir), made, dir))
        })
        .collect();
    found.sort();
    found.reverse();
    found.into_iter().map(|(version, _, _, dir)| (version, dir)).collect()
}

/// Directory of an installed version: the one in service where it is that version, otherwise the newest.
pub fn directory(install: &Install, version: &str) -> Result<PathBuf> {
    let all = installed(install);
    if let Some((_, dir)) = all.iter().find(|(v, _)| v == version) {
        return Ok(dir.clone());
    }
    let mut names: Vec<String> = all.into_iter().map(|(v, _)| v).collect();
    names.dedup();
    let hint = if names.is_empty() { "no version is".into() } else { format!("installed: {}", names.join(", ")) };
    Err(Error::new(ErrorKind::NotFound, format!("version `{}` is not installed", shown(version))).hint(hint))
}

/// The mark of an install that has not come to its end: beside the directory, since that must be empty for the install's command.
pub(crate) fn unfinished(install: &Install, name: &str) -> PathBuf {
    install.directory.join(format!(".{name}.unfinished"))
}

/// What is to become the link `current`, under its first name: it is there from before an install is complete until it is in service.
pub(crate) fn pending(install: &Install, name: &str) -> PathBuf {
    install.directory.join(format!(".current.{name}"))
}

/// True for `VERSION@RUN-STEP-ATTEMPT`, a name that an install gives; a person's `1.2.0@by-hand` is none.
pub(crate) fn is_of_attempt(name: &str) -> bool {
    let attempt = name.split_once('@').and_then(|(_, attempt)| StepContext::run_of(attempt));
    version_of(name).is_some() && attempt.is_some()
}

/// `1.2.0` of `1.2.0@RUN-STEP-ATTEMPT`.
fn version_of(name: &str) -> Option<&str> {
    let (version, attempt) = name.split_once('@')?;
    let attempt_ok = !attempt.is_empty() && attempt.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    (attempt_ok && check_version(version).is_ok()).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn install(dir: &std::path::Path) -> Install {
        Install { directory: dir.into(), timeout_s: 60, ..Install::default() }
    }

    #[test]
    fn versions_are_names_and_nothing_else() {
        for good in ["1.2.0", "1.2.0rc1", "2026-11-23_a+b", "v1"] {
            check_version(good).unwrap();
        }
        for bad in
            ["", ".", "..", "../1", "-r", "1/2", "1@2", "1 2", "1\n", "é", "--index-url=x", "{dir}", &"1".repeat(65)]
        {
            assert!(check_version(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn current_is_what_our_link_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let install = install(dir.path());
        let link = dir.path().join("current");
        assert_eq!(current(&install), None);
        std::fs::create_dir(dir.path().join("1.0@r-1-1")).unwrap();
        symlink("1.0@r-1-1", &link).unwrap();
        assert_eq!(current(&install), Some(("1.0".into(), dir.path().join("1.0@r-1-1"))));
        for other in ["/etc", "../1.0@r-1-1", "gone@r-1-1", "plain", "1.0@", "1.0@a/b"] {
            std::fs::remove_file(&link).unwrap();
            symlink(other, &link).unwrap();
            assert_eq!(current(&install), None, "{other}");
        }
    }

    #[test]
    fn an_unfinished_install_is_no_version_and_the_one_in_service_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let install = install(dir.path());
        for name in ["1.0@a-1-1", "1.0@b-1-1", "2.0@a-2-1", "2.0@a-2-2", "junk"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        std::fs::write(unfinished(&install, "2.0@a-2-2"), "").unwrap();
        std::fs::create_dir(dir.path().join("2.0@a-2-3")).unwrap();
        symlink("2.0@a-2-3", pending(&install, "2.0@a-2-3")).unwrap();
        symlink("1.0@a-1-1", dir.path().join("current")).unwrap();
        assert_eq!(directory(&install, "1.0").unwrap(), dir.path().join("1.0@a-1-1"));
        assert_eq!(directory(&install, "2.0").unwrap(), dir.path().join("2.0@a-2-1"));
        let error = directory(&install, "3.0").unwrap_err();
        assert_eq!((error.kind, error.hint.as_deref()), (ErrorKind::NotFound, Some("installed: 2.0, 1.0")));
    }
}
