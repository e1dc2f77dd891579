//! A directory whose file system is full: the upload fails clearly, nothing of it is there, and what was there before is whole.
//!
//! The file system is a tmpfs in a mount namespace of a child: this test binary, started again.

use std::io::Write;
use std::process::Command;

use super::*;

/// Names the directory in the child.
const DIRECTORY: &str = "LIFEBOAT_FULL_DIRECTORY";

/// Starts this binary again at `inside`, by a shell that prepares what is too small.
fn run(prepare: &str, says: &str) {
    let dir = tempfile::tempdir().unwrap();
    let script = format!("{prepare} && exec \"$0\" --exact stores::full_tests::inside --include-ignored --nocapture");
    let program = std::env::current_exe().unwrap();
    let shell = ["sh", "-c", &script];
    let mut command = match prepare.contains("mount") {
        true => {
            let mut command = Command::new("unshare");
            command.args(["--user", "--map-root-user", "--mount"]).args(shell);
            command
        }
        false => {
            let mut command = Command::new("sh");
            command.args(&shell[1..]);
            command
        }
    };
    let ended = command.arg(program).env(DIRECTORY, dir.path()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    if err.contains("unshare") || err.contains("permission denied") {
        eprintln!("SKIPPED: no mount namespace of our own here ({err}). Nothing was tested.");
        return;
    }
    assert!(ended.status.success() && out.contains(says), "{out}{err}");
}

#[test]
fn a_full_file_system_is_said_and_leaves_nothing_half_there() {
    run("mount -t tmpfs -o size=1m none \"$LIFEBOAT_FULL_DIRECTORY\"", "No space left on device");
}

#[test]
fn a_limit_on_the_size_of_files_is_said_and_leaves_nothing_half_there() {
    run("trap '' XFSZ && ulimit -f 1000", "File too large");
}

#[test]
#[ignore = "only in a child whose directory is too small"]
fn inside() {
    let Some(path) = std::env::var_os(DIRECTORY) else { return };
    let path = std::path::PathBuf::from(path);
    let binding = bindings::Store::Directory(bindings::DirectoryStore { path: path.clone() });
    let store = ObjectStore::open("local", &binding).unwrap();
    store.put_if_absent("a/before", b"whole").unwrap();

    let mut writer = store.writer("a/large").unwrap();
    let chunk = vec![7; 100_000];
    let error = (0..40).find_map(|_| writer.write_all(&chunk).err()).map(crate::pipeline::error_of);
    let error = error.unwrap_or_else(|| writer.finish(&|| Ok(())).unwrap_err());
    println!("{error}");

    assert_eq!(store.list("a/").unwrap(), ["a/before"]);
    assert_eq!(store.read("a/before", 10).unwrap(), b"whole");
    let left: Vec<_> = std::fs::read_dir(path.join("a")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left, ["before"], "the room is free again");
    assert_eq!(store.put_if_absent("a/after", b"fits").unwrap(), Put::Created);
}
