//! One suite, run against every backend; then what only a directory can suffer.

use std::io::Write;

use super::testing::{conforms, one_winner};
use super::*;

fn directory() -> (tempfile::TempDir, ObjectStore) {
    let dir = tempfile::tempdir().unwrap();
    let binding = bindings::Store::Directory(bindings::DirectoryStore { path: dir.path().join("store") });
    std::fs::create_dir(dir.path().join("store")).unwrap();
    let store = ObjectStore::open("local", &binding).unwrap();
    (dir, store)
}

#[test]
fn a_directory_conforms() {
    let (dir, store) = directory();
    conforms(&store);
    one_winner(&store);
    let leftovers: Vec<_> = walk(dir.path()).into_iter().filter(|p| p.contains(".part")).collect();
    assert_eq!(leftovers, Vec::<String>::new());
}

#[test]
fn memory_conforms() {
    let store = ObjectStore::memory("memory").unwrap();
    conforms(&store);
    one_winner(&store);
}

#[tokio::test]
async fn a_single_threaded_runtime_is_no_deadlock() {
    let (_dir, store) = directory();
    let found = crate::real::blocking(move || {
        store.put_if_absent("a/b", b"1")?;
        store.list("a/")
    });
    assert_eq!(found.await.unwrap(), ["a/b"]);
}

#[test]
fn a_directory_that_is_missing_is_named_and_not_made() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mount");
    let binding = bindings::Store::Directory(bindings::DirectoryStore { path: path.clone() });
    let store = ObjectStore::open("offsite", &binding).unwrap();
    for error in [
        store.list("a/").unwrap_err(),
        store.list_with_times("a/").unwrap_err(),
        store.size("a/b").unwrap_err(),
        store.put_if_absent("a/b", b"").unwrap_err(),
        store.delete("a/b").unwrap_err(),
        store.check().unwrap_err(),
    ] {
        assert!(error.message.contains("store offsite") && error.message.contains("can't be opened"), "{error}");
        assert!(error.hint.as_deref().unwrap().contains("mount"), "{error}");
    }
    assert!(!path.exists());
}

#[test]
fn a_store_that_vanishes_half_way_is_an_error_and_not_an_empty_store() {
    let (dir, store) = directory();
    store.put_if_absent("a/b", b"1").unwrap();
    let mut writer = store.writer("a/c").unwrap();
    writer.write_all(b"half").unwrap();
    std::fs::rename(dir.path().join("store"), dir.path().join("elsewhere")).unwrap();
    assert!(writer.finish(&|| Ok(())).unwrap_err().message.contains("can't be opened"));
    assert!(store.list("a/").unwrap_err().message.contains("can't be opened"));
    // The empty directory that an unmounted file system leaves.
    std::fs::create_dir(dir.path().join("store")).unwrap();
    assert!(store.list("a/").unwrap_err().message.contains("not the directory it was"));
    assert!(store.put_if_absent("a/d", b"").unwrap_err().message.contains("not the directory it was"));
    assert!(store.size("a/b").is_err());
}

#[test]
fn a_listing_with_times_has_what_a_listing_has_and_follows_no_link() {
    let (dir, store) = directory();
    for key in ["a/one", "a/b/two", "a/b/c/three", "b/four"] {
        store.put_if_absent(key, b"text").unwrap();
    }
    let path = |key: &str| dir.path().join("store").join(key);
    std::fs::write(path("a/b/.lifeboat-x.part"), "").unwrap();
    filetime::set_file_mtime(path("a/one"), filetime::FileTime::from_unix_time(1_000_000_000, 7_000_000)).unwrap();
    let listed = store.list_with_times("a/").unwrap();
    assert_eq!(listed.iter().map(|of| of.key.clone()).collect::<Vec<_>>(), store.list("a/").unwrap());
    let one = Listed { key: "a/one".into(), stored_at_ms: Some(1_000_000_000_007), bytes: 4 };
    assert!(listed.contains(&one), "{listed:?}");
    std::os::unix::fs::symlink(path("b"), path("a/link")).unwrap();
    let listed = store.list_with_times("a/").unwrap();
    assert!(!listed.iter().any(|of| of.key.contains("four")), "{listed:?}");
    assert!(store.list_with_times("a/link/").is_err());
}

#[test]
fn symbolic_links_inside_are_not_followed() {
    let (dir, store) = directory();
    std::fs::write(dir.path().join("outside"), "secret").unwrap();
    std::fs::create_dir(dir.path().join("store/a")).unwrap();
    std::os::unix::fs::symlink(dir.path().join("outside"), dir.path().join("store/a/link")).unwrap();
    std::os::unix::fs::symlink(dir.path(), dir.path().join("store/folder")).unwrap();
    assert!(store.read("a/link", 100).is_err());
    assert!(store.read("folder/outside", 100).is_err());
    assert!(store.put_if_absent("folder/new", b"").is_err());
    assert!(store.list("folder/").is_err());
    assert!(!dir.path().join("new").exists());
}

#[test]
fn a_file_in_a_folders_place_is_no_empty_folder() {
    let (dir, store) = directory();
    std::fs::write(dir.path().join("store/a"), "").unwrap();
    assert!(store.list("a/").is_err());
}

#[test]
fn temporary_files_of_a_dead_process_are_not_listed() {
    let (dir, store) = directory();
    store.put_if_absent("a/b", b"1").unwrap();
    std::fs::write(dir.path().join("store/a/.lifeboat-01.part"), "half").unwrap();
    assert_eq!(store.list("a/").unwrap(), ["a/b"]);
}

fn walk(path: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).unwrap() {
        let entry = entry.unwrap();
        found.push(entry.path().display().to_string());
        if entry.file_type().unwrap().is_dir() {
            found.extend(walk(&entry.path()));
        }
    }
    found
}
