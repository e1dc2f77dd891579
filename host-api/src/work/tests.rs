//! The whole way with the real drivers of SQLite and directories, through the traits that the engine uses.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::catalog::Catalog;
use crate::delete::Delete;
use crate::dump::Dump;
use crate::probe::Probe;
use crate::promote::Promote;
use crate::query::Query;
use crate::restore::Restore;
use crate::upload::{Depth, Upload};
use crate::{ErrorKind, bindings, dump, identifier, restore};

struct Notes {
    dir: tempfile::TempDir,
    host: RealHost,
    cx: StepContext,
}

fn sql(path: &Path, statements: &str) {
    rusqlite::Connection::open(path).unwrap().execute_batch(statements).unwrap();
}

fn count(path: &Path) -> u64 {
    rusqlite::Connection::open(path).unwrap().query_row("select count(*) from notes", [], |row| row.get(0)).unwrap()
}

/// Nothing worse than remarks.
fn quiet(backup: &crate::catalog::Backup) -> bool {
    backup.findings.iter().all(|finding| finding.severity == crate::Severity::Info)
}

impl Notes {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for name in ["live", "live/files", "local", "offsite"] {
            std::fs::create_dir(path(name)).unwrap();
        }
        sql(
            &path("live/notes.sqlite"),
            "create table notes (id integer primary key, file text, at text);
             insert into notes values (1, 'a.txt', '2026-11-23T06:00:00Z'), (2, 'b.txt', '2026-11-23T06:01:00Z')",
        );
        std::fs::write(path("live/files/a.txt"), "a").unwrap();
        std::fs::write(path("live/files/b.txt"), "b").unwrap();
        let service: bindings::Service = serde_json::from_value(serde_json::json!({
            "source": {
                "db": { "kind": "sqlite", "path": path("live/notes.sqlite") },
                "files": { "kind": "files", "path": path("live/files") },
            },
            "known": { "first": { "source": "db", "sql": "select file from notes where id = 1" } },
            "newest": { "source": "db", "sql": "select max(at) from notes" },
            "rerun": { "notes": { "source": "db", "sql": "select count(*) from notes" } },
            "query": { "count": { "source": "db", "sql": "select count(*) from notes" } },
            "reference": { "attachments": { "source": "db", "sql": "select file from notes", "files": "files" } },
        }))
        .unwrap();
        let store =
            |name: &str| (name.to_owned(), bindings::Store::Directory(bindings::DirectoryStore { path: path(name) }));
        let stores = BTreeMap::from([store("local"), store("offsite")]);
        let services = BTreeMap::from([("notes".to_owned(), service)]);
        let host = RealHost::new(services, &stores, &path("state")).unwrap();
        Self { host, cx: StepContext::detached("test", Duration::from_secs(120)), dir }
    }

    fn database(&self) -> std::path::PathBuf {
        self.dir.path().join("live/notes.sqlite")
    }
}

#[tokio::test]
async fn a_drill_of_a_copy_from_dump_to_discard() {
    let notes = Notes::new();
    let (host, cx) = (&notes.host, &notes.cx);
    let backup = host.take(cx, "notes", "local", &dump::Options::default()).await.unwrap();
    assert!(quiet(&backup), "{:?}", backup.findings);
    assert_eq!(backup.known, [("first".to_owned(), "a.txt".to_owned())]);
    assert_eq!(host.backup_of_attempt(cx, "notes", "local", &cx.attempt_key()).await.unwrap().as_ref(), Some(&backup));
    let copied = host.copy(cx, &backup, "offsite").await.unwrap();
    assert_eq!(Upload::verify(host, cx, &copied, Depth::Content).await.unwrap(), []);

    // The drill compares with the manifest: what happens to the live data meanwhile is nothing to it.
    sql(&notes.database(), "insert into notes values (3, 'c.txt', '2026-11-23T07:00:00Z')");
    let id = identifier::fresh();
    let candidate = host.stage(cx, &id, &copied, "scratch", &restore::Options::default()).await.unwrap();
    let verification = Restore::verify(host, cx, &candidate).await.unwrap();
    assert!(verification.passed, "{:?}", verification.findings);
    assert_eq!((verification.rows, verification.files), (2, 2));
    assert_eq!(verification.newest_at_ms, identifier::parse_time_ms("2026-11-23T06:01:00Z"));
    let two = vec![Some("2".to_owned())];
    assert_eq!(Restore::query(host, cx, &candidate, "count").await.unwrap(), two);
    assert_eq!(Query::run(host, cx, "notes", "count").await.unwrap(), [Some("3".to_owned())]);
    assert_eq!(Query::run(host, cx, "notes", "nothing").await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(host.latest(cx, "notes", "offsite", true).await.unwrap(), Some(copied.clone()));
    assert_eq!(host.latest(cx, "notes", "local", true).await.unwrap(), None);

    // A row that changes in the candidate is found.
    let member = candidate.members.iter().find(|member| member.source == "db").unwrap();
    sql(Path::new(&member.place), "update notes set file = 'b.txt' where id = 1");
    assert!(!Restore::verify(host, cx, &candidate).await.unwrap().passed);
    host.discard(cx, &candidate).await.unwrap();
    assert!(!Path::new(&member.place).exists());

    // The only one there: whoever asks, it stays.
    let refused =
        host.apply(cx, std::slice::from_ref(&copied), &"0".repeat(64), &Default::default()).await.unwrap_err();
    assert!(refused.kind == ErrorKind::Refused && refused.message.contains("newest"), "{refused}");
    assert_eq!(host.list(cx, "notes", "offsite").await.unwrap(), [copied]);
    assert_eq!(host.list(cx, "notes", "local").await.unwrap(), [backup]);
}

#[tokio::test]
async fn a_lost_row_and_file_come_back_and_go_again() {
    let notes = Notes::new();
    let (host, cx) = (&notes.host, &notes.cx);
    let backup = host.take(cx, "notes", "local", &dump::Options::default()).await.unwrap();
    sql(&notes.database(), "delete from notes where id = 1");
    let lost = notes.dir.path().join("live/files/a.txt");
    std::fs::remove_file(&lost).unwrap();

    let id = identifier::fresh();
    let candidate = host.stage(cx, &id, &backup, "beside", &restore::Options::default()).await.unwrap();
    let verification = Restore::verify(host, cx, &candidate).await.unwrap();
    assert!(verification.passed, "{:?}", verification.findings);
    let findings = host.preflight(cx, &candidate).await.unwrap();
    assert!(findings.iter().all(|finding| finding.severity != crate::Severity::Error), "{findings:?}");
    let described = host.describe(cx, &candidate).await.unwrap();
    assert_eq!(described.identities.len(), 4);
    assert!(described.consequence.iter().any(|line| line == "notes: 2"), "{:?}", described.consequence);

    let plan = host.plan(cx, &identifier::fresh(), &candidate).await.unwrap();
    assert_eq!(host.promote(cx, &candidate, None, &plan).await.unwrap_err().kind, ErrorKind::Refused);
    assert_eq!(count(&notes.database()), 1);
    host.promote(cx, &candidate, Some(&verification), &plan).await.unwrap();
    assert!(count(&notes.database()) == 2 && lost.exists());
    // The next backup is one of the promoted data, and knows nothing of the previous beside them.
    let mut next = cx.clone();
    next.step = 1;
    let next = host.take(&next, "notes", "local", &dump::Options::default()).await.unwrap();
    assert!(quiet(&next), "{:?}", next.findings);
    host.undo(cx, &plan).await.unwrap();
    assert!(count(&notes.database()) == 1 && !lost.exists());
    host.promote(cx, &candidate, Some(&verification), &plan).await.unwrap();
    host.drop_previous(cx, &plan).await.unwrap();
    assert!(count(&notes.database()) == 2 && lost.exists());
    let left = std::fs::read_dir(notes.dir.path().join("live")).unwrap().count();
    assert_eq!(left, 2, "the database and the directory");
}

#[tokio::test]
async fn a_flipped_byte_stops_before_the_drivers() {
    let notes = Notes::new();
    let (host, cx) = (&notes.host, &notes.cx);
    let backup = host.take(cx, "notes", "local", &dump::Options::default()).await.unwrap();
    let objects = notes.dir.path().join(format!("local/notes/objects/{}", backup.id));
    let files = crate::reference::files_below(cx, &objects).unwrap();
    let path = objects.join(files.iter().find(|path| path.contains("files.data")).unwrap());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let staged = host.stage(cx, &identifier::fresh(), &backup, "beside", &restore::Options::default()).await;
    assert!(staged.unwrap_err().message.contains("is damaged"));
    let left = std::fs::read_dir(notes.dir.path().join("live")).unwrap().count();
    assert_eq!(left, 2, "nothing of the candidate stays beside the live data");
}
