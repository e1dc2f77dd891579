//! Disks that are full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system of its own; unmounted when dropped.
pub struct Tmpfs(pub PathBuf);

impl Tmpfs {
    /// None, loudly, where mounting is not allowed.
    pub fn mount(path: PathBuf, size: &str) -> Option<Self> {
        fs::create_dir_all(&path).unwrap();
        let options = format!("size={size},mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).status();
        if mounted.is_ok_and(|s| s.success()) {
            return Some(Self(path));
        }
        eprintln!("SKIPPED: a tmpfs can't be mounted here (not root?). A full disk was NOT tested.");
        None
    }
}

/// Writes a file below a directory until nothing more fits.
pub fn fill(disk: &Path) -> PathBuf {
    use std::io::Write;
    let path = disk.join("filler");
    let mut file = fs::File::create(&path).unwrap();
    for size in [65_536, 4_096, 1] {
        while file.write_all(&vec![7; size]).is_ok() {}
    }
    path
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
