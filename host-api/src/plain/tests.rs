use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::testing::World;

/// What lies in a directory.
fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_source_is_exported_into_a_new_private_file() {
    let world = World::new();
    let backup = world.take().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out.tar");
    let exported = export(&world.work, &world.cx, &world.store, &backup, Some("files"), &to).unwrap();
    let bytes = std::fs::read(&to).unwrap();
    assert_eq!(bytes, b"a/1\na/2\n");
    assert_eq!((exported.format.as_str(), exported.bytes), ("tar", 8));
    assert_eq!(exported.sha256, hex::encode(Sha256::digest(&bytes)));
    assert_eq!(std::fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(names(folder.path()), ["out.tar"]);

    let again = |source, to: &Path| export(&world.work, &world.cx, &world.store, &backup, source, to).unwrap_err();
    assert_eq!(again(Some("db"), &to).kind, ErrorKind::Conflict);
    assert_eq!(std::fs::read(&to).unwrap(), bytes, "not touched");
    let error = again(None, &folder.path().join("b"));
    assert!(error.hint.unwrap().contains("db, files"));
    assert_eq!(again(Some("db"), &folder.path().join("no/such")).kind, ErrorKind::NotFound);
    again(Some("nope"), &folder.path().join("b"));
    // A dangling link is something that is there.
    std::os::unix::fs::symlink("/nowhere/at/all", folder.path().join("link")).unwrap();
    assert_eq!(again(Some("db"), &folder.path().join("link")).kind, ErrorKind::Conflict);
    assert_eq!(names(folder.path()), ["link", "out.tar"]);
}

#[test]
fn damage_leaves_no_file() {
    let world = World::new();
    let backup = world.take().unwrap();
    let manifest = manifests::read(&world.store, "notes", &backup.id, &backup.digest).unwrap();
    let path = world.path("local", &manifest.sources[0].objects[0].key);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[6] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("out");
    let error = export(&world.work, &world.cx, &world.store, &backup, Some("db"), &to).unwrap_err();
    assert!(error.message.contains("damaged"), "{error}");
    assert_eq!(names(folder.path()), [""; 0]);
    // The other one is whole; cancelled at its end it leaves nothing either, and a file that came meanwhile stays.
    let cx = world.cx.ended_at("exported");
    let other = export(&world.work, &cx, &world.store, &backup, Some("files"), &to);
    assert!(other.is_ok(), "it was whole and on disk by then");
    std::fs::remove_file(&to).unwrap();
    let meanwhile = to.clone();
    let cx = StepContext {
        waypoint: std::sync::Arc::new(move |at| {
            if at == "exported" {
                std::fs::write(&meanwhile, "another").unwrap();
            }
        }),
        ..world.cx.clone()
    };
    let error = export(&world.work, &cx, &world.store, &backup, Some("files"), &to).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert_eq!(std::fs::read(&to).unwrap(), b"another");
    assert_eq!(names(folder.path()), ["out"]);
}

#[test]
fn an_import_is_of_all_sources_or_of_none() {
    let world = World::new();
    let import = |work: &Work, from: &[&str], taken_at_ms| {
        let from = from.iter().map(|source| ((*source).to_owned(), PathBuf::from("/nowhere"))).collect();
        let wanted = Import { service: "notes".into(), store: "local".into(), from, taken_at_ms };
        super::import(work, &world.cx, &world.store, "20261123t061534123z-7k3f9q", &wanted).unwrap_err()
    };
    let error = import(&world.work, &["db", "files"], None);
    assert!(error.kind == ErrorKind::Refused && error.message.contains("no PostgreSQL database"), "{error}");
    import(&world.work, &["db", "nope"], None);
    let mut work = world.work.clone();
    work.service.source = serde_json::from_value(serde_json::json!({
        "db": { "kind": "postgres", "host": "/nowhere", "database": "a", "user": "u" },
        "more": { "kind": "postgres", "host": "/nowhere", "database": "b", "user": "u" },
    }))
    .unwrap();
    let error = import(&work, &["db"], None);
    assert!(error.message.contains("left out: more"), "{error}");
    assert_eq!(world.logged(), Vec::<String>::new(), "nothing was asked of a driver");
}

#[test]
fn when_it_was_taken_is_said_or_the_files_age() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let aged = std::time::UNIX_EPOCH + std::time::Duration::from_millis(1_700_000_000_123);
    file.as_file().set_modified(aged).unwrap();
    let import = |taken_at_ms| Import {
        service: "s".into(),
        store: "l".into(),
        from: BTreeMap::from([("db".to_owned(), file.path().to_owned())]),
        taken_at_ms,
    };
    assert_eq!(taken_at(&import(None)).unwrap().0, 1_700_000_000_123);
    assert_eq!(taken_at(&import(Some(5))).unwrap().0, 5);
    assert!(taken_at(&import(Some(now_ms() + 60_000))).unwrap_err().message.contains("to come"));
    assert!(crate::identifier::fresh_at(1_700_000_000_123).starts_with("20231114T221320123z-"));
}

#[test]
fn what_a_killed_export_left_goes_with_the_next_one_and_what_is_being_written_stays() {
    let world = World::new();
    let backup = world.take().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let name = |file: &tempfile::NamedTempFile| file.path().file_name().unwrap().to_str().unwrap().to_owned();
    // All of a process that a kill leaves: the file, closed.
    let left = unfinished::make(folder.path()).unwrap().into_temp_path().keep().unwrap();
    let being_written = unfinished::make(folder.path()).unwrap();
    assert!(!left.exists(), "the fault was there, and went");
    // Of another program, to another place, and a directory.
    std::os::unix::fs::symlink(folder.path().join("elsewhere"), folder.path().join(".lifeboat-export-link")).unwrap();
    std::fs::write(folder.path().join("elsewhere"), "stays").unwrap();
    std::fs::create_dir(folder.path().join(".lifeboat-export-directory")).unwrap();
    let to = folder.path().join("out");
    export(&world.work, &world.cx, &world.store, &backup, Some("db"), &to).unwrap();
    let mut expected = vec![
        ".lifeboat-export-directory".to_owned(),
        ".lifeboat-export-link".to_owned(),
        name(&being_written),
        "elsewhere".to_owned(),
        "out".to_owned(),
    ];
    expected.sort();
    assert_eq!(names(folder.path()), expected);
}
