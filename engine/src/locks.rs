//! One run at a time on a service: a lock file each, held from a run's first effect on it to its end, named to whoever waits.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

/// The locks one run holds.
#[derive(Debug)]
pub(crate) struct ServiceLocks {
    directory: PathBuf,
    held: BTreeMap<String, File>,
    /// The run's own lock, a file of its own that goes with it: while it is held, a process works on the run.
    run: Option<(PathBuf, File)>,
}

impl Drop for ServiceLocks {
    fn drop(&mut self) {
        if let Some((path, _)) = &self.run {
            // A file that stays is harmless: nobody holds it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl ServiceLocks {
    /// None yet.
    pub(crate) fn new(state_directory: &Path) -> Self {
        Self { directory: state_directory.join("locks"), held: BTreeMap::new(), run: None }
    }

    /// Holds a service's lock; the error names who has it. The kernel lets go when we die.
    pub(crate) fn hold(&mut self, service: &str, run: &str) -> Result<(), String> {
        if self.held.contains_key(service) {
            return Ok(());
        }
        let file = self.take(&format!("service {service}"), &format!("{service}.lock"), run)?;
        self.held.insert(service.to_owned(), file.1);
        Ok(())
    }

    /// Holds the lock of the run itself.
    pub(crate) fn hold_run(&mut self, run: &str) -> Result<(), String> {
        self.run = Some(self.take(&format!("run {run}"), &format!("run-{run}.lock"), run)?);
        Ok(())
    }

    fn take(&self, what: &str, name: &str, run: &str) -> Result<(PathBuf, File), String> {
        let failed = |e: &dyn std::fmt::Display| format!("the lock of {what}: {e}");
        std::fs::create_dir_all(&self.directory).map_err(|e| failed(&e))?;
        let path = self.directory.join(name);
        let mut file =
            File::options().create(true).read(true).write(true).truncate(false).open(&path).map_err(|e| failed(&e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Who it is helps, but is not needed.
                let _ = file.read_to_string(&mut holder);
                return Err(format!("another run works on {what}: {}", holder.trim()));
            }
            Err(TryLockError::Error(e)) => return Err(failed(&e)),
        }
        let write = |file: &mut File| -> std::io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "run {run}, process {}", std::process::id())
        };
        write(&mut file).map_err(|e| failed(&e))?;
        Ok((path, file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_run_learns_who_holds_the_service() {
        let directory = tempfile::tempdir().unwrap();
        let mut first = ServiceLocks::new(directory.path());
        first.hold("notes", "r1").unwrap();
        first.hold("notes", "r1").unwrap();
        let mut second = ServiceLocks::new(directory.path());
        assert!(second.hold("notes", "r2").unwrap_err().contains("run r1"));
        second.hold("other", "r2").unwrap();
        drop(first);
        second.hold("notes", "r2").unwrap();
    }
}
