//! Installing a version beside the others, and switching to it with one rename.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::values::{self, Values};
use crate::bindings::Install;
use crate::child::run_text;
use crate::context::StepContext;
use crate::error::{Context, Error, Result};
use crate::versions::{check_version, current, unfinished};

/// Proves, changing nothing, that a version can be had. Blocking.
pub(crate) fn installable(cx: &StepContext, install: &Install, version: &str) -> Result<()> {
    check_version(version)?;
    let values = Values::from([("version".to_owned(), version.to_owned())]);
    step(cx, install, &install.installable, &values)
        .map(drop)
        .map_err(|e| e.context(format!("version {version} can't be had")))
}

/// Installs a version into a directory of its own and makes it the current one. Blocking.
///
/// Whatever fails before the switch leaves `current` as it was and removes the directory. Asked again by the same attempt after the
/// switch, it is done already.
pub(crate) fn install(cx: &StepContext, install: &Install, version: &str) -> Result<()> {
    check_version(version)?;
    let attempt = cx.attempt_key();
    if !attempt.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        return Err(Error::invalid(format!(
            "`{}` can't be part of a directory's name",
            crate::identifier::shown(&attempt)
        )));
    }
    let link = install.directory.join("current");
    if link.symlink_metadata().is_ok_and(|m| !m.is_symlink()) {
        return Err(Error::refused(format!("{} is no symbolic link", link.display()))
            .hint("move it away; lifeboat makes a link there"));
    }
    let name = format!("{version}@{attempt}");
    let dir = install.directory.join(&name);
    if current(install).is_some_and(|(_, now)| now == dir) {
        return Ok(());
    }
    let mut fresh = Fresh::make(install, &name, dir)?;
    let made = fill(cx, install, version, &fresh.dir).and_then(|()| switch(cx, install, &name, &link));
    match made {
        Ok(()) => {
            fresh.keep = true;
            Ok(())
        }
        // The rename may have happened and only its fsync failed: what is in service is not removed.
        Err(error) if std::fs::read_link(&link).is_ok_and(|to| to == Path::new(&name)) => {
            fresh.keep = true;
            Err(error.context(format!("version {version} is in service, perhaps not safely on disk")))
        }
        Err(error) => Err(fresh.remove(error).context(format!("installing {version}"))),
    }
}

/// A new directory for an install, marked as unfinished until it is kept.
struct Fresh {
    dir: PathBuf,
    mark: PathBuf,
    keep: bool,
}

impl Fresh {
    fn make(install: &Install, name: &str, dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&install.directory).doing(|| format!("creating {}", install.directory.display()))?;
        let mark = unfinished(install, name);
        // A directory that is there is a leftover of this very attempt: nobody knows what is in it.
        if dir.symlink_metadata().is_ok() {
            return Err(Error::conflict(format!("{} is there already", dir.display()))
                .hint("an interrupted install left it: remove it"));
        }
        File::create(&mark).and_then(|f| f.sync_all()).doing(|| format!("writing {}", mark.display()))?;
        let fresh = Self { dir, mark, keep: false };
        sync_dir(&install.directory)?;
        std::fs::create_dir(&fresh.dir).doing(|| format!("creating {}", fresh.dir.display()))?;
        Ok(fresh)
    }

    /// Removes it and adds to the error what could not be.
    fn remove(mut self, error: Error) -> Error {
        self.keep = true;
        match std::fs::remove_dir_all(&self.dir) {
            Ok(()) => {
                // Alone it marks nothing.
                let _ = std::fs::remove_file(&self.mark);
                error
            }
            Err(e) => {
                let hint = format!("{} could not be removed ({e}): remove it by hand", self.dir.display());
                error.hint(hint)
            }
        }
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.keep {
            // On the way out of a panic or an early return; the mark stays if the directory does.
            if std::fs::remove_dir_all(&self.dir).is_ok() || !self.dir.exists() {
                let _ = std::fs::remove_file(&self.mark);
            }
        }
    }
}

fn fill(cx: &StepContext, install: &Install, version: &str, dir: &Path) -> Result<()> {
    let values =
        Values::from([("version".to_owned(), version.to_owned()), ("dir".to_owned(), dir.display().to_string())]);
    step(cx, install, &install.command, &values)?;
    cx.at("version installed");
    let said = step(cx, install, &install.check, &values).map_err(|e| e.context("its check"))?;
    if !says(&said, version) {
        return Err(Error::failed(format!(
            "its check does not print {version}; it prints `{}`",
            crate::identifier::shown(said.trim())
        )));
    }
    // One call for however many files a package has; on disk before anything points here.
    let open = File::open(dir).doing(|| format!("opening {}", dir.display()))?;
    rustix::fs::syncfs(&open).doing(|| format!("writing {} to disk", dir.display()))
}

fn step(cx: &StepContext, install: &Install, command: &[String], values: &Values) -> Result<String> {
    run_text(&cx.within(Duration::from_secs(install.timeout_s)), &values::command(command, values)?)
}

fn switch(cx: &StepContext, install: &Install, name: &str, link: &Path) -> Result<()> {
    // Only now is it a version that others may choose.
    let mark = unfinished(install, name);
    std::fs::remove_file(&mark).doing(|| format!("removing {}", mark.display()))?;
    cx.at("before the switch");
    cx.check()?;
    let temporary = install.directory.join(format!(".current.{name}"));
    let made = std::os::unix::fs::symlink(name, &temporary)
        .and_then(|()| std::fs::rename(&temporary, link))
        .doing(|| format!("switching {}", link.display()));
    if made.is_err() {
        // It may not be there.
        let _ = std::fs::remove_file(&temporary);
    }
    made?;
    cx.at("switched");
    sync_dir(&install.directory)?;
    match std::fs::read_link(link) {
        Ok(to) if to == Path::new(name) => Ok(()),
        _ => Err(Error::conflict(format!("{} was changed by someone else", link.display()))),
    }
}

fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).doing(|| format!("writing {} to disk", dir.display()))
}

/// True if a text names this version, and not one that only contains it (`1.2.0` in `11.2.0`, `1.2.0rc1`, `1.2.0.1`).
fn says(text: &str, version: &str) -> bool {
    text.match_indices(version).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let mut after = text[at + version.len()..].chars();
        let goes_on = match after.next() {
            Some('.') => after.next().is_some_and(char::is_alphanumeric),
            Some(c) => c.is_alphanumeric() || matches!(c, '+' | '-' | '_'),
            None => false,
        };
        !goes_on && !before.is_some_and(|c| c.is_ascii_digit() || c == '.')
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const COMMAND: &str = "printf '%s\\n' \"$1\" > \"$2/version\"; test \"$1\" != 9.9.9";

    fn binding(dir: &Path) -> Install {
        let bash = |script: &str, values: &[&str]| {
            ["bash", "-c", script, "test"].iter().chain(values).map(|s| (*s).to_owned()).collect::<Vec<_>>()
        };
        Install {
            directory: dir.join("versions"),
            installable: bash("test \"$1\" != 9.9.9 || (echo no such version >&2; exit 1)", &["{version}"]),
            command: bash(COMMAND, &["{version}", "{dir}"]),
            check: bash("echo service $(cat \"$1/version\")", &["{dir}"]),
            timeout_s: 60,
        }
    }

    fn attempt(run: &str) -> StepContext {
        StepContext::detached(run, Duration::from_secs(60))
    }

    fn names(install: &Install) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(&install.directory)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_version_is_installed_beside_the_others_and_put_in_service() {
        let dir = tempfile::tempdir().unwrap();
        let binding = binding(dir.path());
        install(&attempt("r1"), &binding, "1.0.0").unwrap();
        install(&attempt("r2"), &binding, "2.0.0").unwrap();
        install(&attempt("r3"), &binding, "1.0.0").unwrap();
        assert_eq!(names(&binding), ["1.0.0@r1-0-1", "1.0.0@r3-0-1", "2.0.0@r2-0-1", "current"]);
        let (version, now) = current(&binding).unwrap();
        assert_eq!((version.as_str(), now), ("1.0.0", binding.directory.join("1.0.0@r3-0-1")));
        assert_eq!(std::fs::read_link(binding.directory.join("current")).unwrap(), Path::new("1.0.0@r3-0-1"));
        // The same attempt again, as after a crash before the step's record: done already, nothing is made.
        install(&attempt("r3"), &binding, "1.0.0").unwrap();
        assert_eq!(names(&binding).len(), 4);
    }

    #[test]
    fn the_link_always_leads_to_a_version_while_it_is_switched() {
        let dir = tempfile::tempdir().unwrap();
        let binding = binding(dir.path());
        install(&attempt("r0"), &binding, "1.0.0").unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            let watcher = scope.spawn(|| {
                let mut seen = std::collections::BTreeSet::new();
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    seen.insert(current(&binding).expect("never without a version").0);
                }
                seen
            });
            for n in 1..6 {
                install(&attempt(&format!("r{n}")), &binding, if n % 2 == 0 { "1.0.0" } else { "2.0.0" }).unwrap();
            }
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(watcher.join().unwrap().len(), 2, "both were seen");
        });
    }

    #[test]
    fn a_failed_install_leaves_everything_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut binding = binding(dir.path());
        install(&attempt("r1"), &binding, "1.0.0").unwrap();
        let before = names(&binding);

        let error = install(&attempt("r2"), &binding, "9.9.9").unwrap_err();
        assert!(error.message.contains("exit code 1"), "{error}");
        assert_eq!(names(&binding), before);

        binding.check = vec!["echo".into(), "service 2.0.0rc1".into()];
        let error = install(&attempt("r3"), &binding, "2.0.0").unwrap_err();
        assert!(error.message.contains("does not print 2.0.0"), "{error}");
        assert_eq!(names(&binding), before);

        binding.check = vec!["false".into()];
        let error = install(&attempt("r4"), &binding, "2.0.0").unwrap_err();
        assert!(error.message.contains("its check"), "{error}");
        assert_eq!(names(&binding), before);

        binding.check = vec!["sleep".into(), "600".into()];
        binding.timeout_s = 1;
        let error = install(&attempt("r5"), &binding, "2.0.0").unwrap_err();
        assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
        assert_eq!(names(&binding), before);
        assert_eq!(current(&binding).unwrap().0, "1.0.0");
    }

    #[test]
    fn leftovers_are_never_used() {
        let dir = tempfile::tempdir().unwrap();
        let binding = binding(dir.path());
        let leftover = binding.directory.join("1.0.0@r1-0-1");
        std::fs::create_dir_all(&leftover).unwrap();
        std::fs::write(leftover.join("half"), "").unwrap();
        let error = install(&attempt("r1"), &binding, "1.0.0").unwrap_err();
        assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
        assert!(leftover.join("half").exists() && current(&binding).is_none());
        install(&attempt("r2"), &binding, "1.0.0").unwrap();
        assert!(!current(&binding).unwrap().1.join("half").exists());
    }

    #[test]
    fn a_directory_in_the_links_place_is_refused_before_anything_runs() {
        let dir = tempfile::tempdir().unwrap();
        let binding = binding(dir.path());
        std::fs::create_dir_all(binding.directory.join("current")).unwrap();
        assert_eq!(install(&attempt("r1"), &binding, "1.0.0").unwrap_err().kind, ErrorKind::Refused);
        assert_eq!(names(&binding), ["current"]);
    }

    #[test]
    fn a_version_that_can_not_be_had_says_so_and_one_that_is_none_runs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let binding = binding(dir.path());
        installable(&attempt("r"), &binding, "1.0.0").unwrap();
        let error = installable(&attempt("r"), &binding, "9.9.9").unwrap_err();
        assert!(error.message.contains("no such version"), "{error}");
        for call in [installable, install] {
            assert_eq!(call(&attempt("r"), &binding, "--help").unwrap_err().kind, ErrorKind::Invalid);
        }
        assert!(!binding.directory.exists());
    }

    #[test]
    fn a_version_is_told_from_one_that_contains_it() {
        for text in
            ["1.2.0", "service 1.2.0\n", "v1.2.0", "kneo-serv-1.2.0", "version 1.2.0.", "(1.2.0)", "11.2.0, 1.2.0"]
        {
            assert!(says(text, "1.2.0"), "{text}");
        }
        for text in ["", "11.2.0", "1.2.0rc1", "1.2.0.1", "1.2.0-beta", "0.1.2.0", "1.2.0+local", "1x2.0"] {
            assert!(!says(text, "1.2.0"), "{text}");
        }
    }
}
