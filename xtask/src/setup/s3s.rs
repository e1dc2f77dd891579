//! s3s-fs, an S3 for measuring throughput: a program below `target/s3s`.
//!
//! It has no access control, and of several who put one key at the same time more than one wins: not for tests.

use std::path::PathBuf;

use anyhow::Result;

use super::stamp::Stamp;
use crate::command::Run;
use crate::workspace::Workspace;

const VERSION: &str = "0.14.1";

/// Finds the program, or builds it.
///
/// # Errors
///
/// If it can't be had.
pub fn find_or_install(workspace: &Workspace) -> Result<PathBuf> {
    let folder = workspace.target.join("s3s");
    let stamp = Stamp::new(&folder, VERSION);
    if !stamp.is_there() {
        eprintln!("installing s3s-fs, an S3 for measuring, below target/s3s; this takes minutes");
        stamp.make(|root| {
            Run::cargo()
                .args([
                    "install",
                    "s3s-fs",
                    "--quiet",
                    "--locked",
                    "--version",
                    VERSION,
                    "--features",
                    "binary",
                    "--root",
                ])
                .arg(root)
                .arg("--target-dir")
                .arg(root.join("build"))
                .hint("it needs the Rust package registry")
                .run()?;
            Ok(std::fs::remove_dir_all(root.join("build"))?)
        })?;
    }
    Ok(folder.join("bin/s3s-fs"))
}
