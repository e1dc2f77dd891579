mod backup;
mod large;
mod statements;
mod swap;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::error::ErrorKind;
use crate::sources::testing::{Objects, cx, manifest_of};

const ID: &str = "20261123T061534123z-7k3f9q";

/// A live database in a directory of its own, its driver, and what was stored of it.
struct World {
    dir: TempDir,
    path: PathBuf,
    driver: SqliteDriver,
    objects: Objects,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // The temporary directory itself may be reached through a link.
        let path = dir.path().canonicalize().unwrap().join("live.sqlite");
        let driver = SqliteDriver::new("db", SqliteSource { path: path.clone(), lock_budget_ms: 3_000 });
        Self { dir, path, driver, objects: Objects::default() }
    }

    /// With `rows` rows in table `t`.
    fn with_rows(mode: &str, rows: i64) -> Self {
        let world = Self::new();
        let conn = world.open();
        conn.query_row(&format!("PRAGMA journal_mode = {mode}"), [], |_| Ok(())).unwrap();
        conn.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, note TEXT); PRAGMA user_version = 7").unwrap();
        insert(&conn, rows);
        world
    }

    fn open(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    fn dump(&self) -> SourceManifest {
        manifest_of("db", &self.driver.dump(&cx(), &self.objects, &[]).unwrap())
    }

    fn stage(&self, source: &SourceManifest, target: &Target) -> Result<Member> {
        self.driver.stage(&cx(), source, &self.objects, ID, target, &StageOptions::default())
    }

    fn beside(&self, source: &SourceManifest) -> Member {
        self.stage(source, &Target::Beside).unwrap()
    }

    fn verify(&self, member: &Member, source: &SourceManifest) -> Vec<String> {
        let verified = self.driver.verify(&cx(), member, source, &self.objects, &[]).unwrap();
        verified.findings.into_iter().map(|f| f.rule).collect()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn live_rows(&self) -> i64 {
        count(&self.path)
    }
}

fn insert(conn: &Connection, rows: i64) {
    conn.execute(
        "INSERT INTO t (note) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1) SELECT 'note ' || i FROM n",
        [rows],
    )
    .unwrap();
}

fn count(path: &Path) -> i64 {
    let conn = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    conn.query_row("SELECT count(*) FROM t", [], |r| r.get(0)).unwrap()
}

fn question(sql: &str) -> Question {
    Question { name: "q".into(), sql: sql.into(), rows_max: 3, not_json: false }
}

fn sqlite_facts(source: &SourceManifest) -> &SqliteFacts {
    facts_of(source).unwrap()
}

fn finding(dumped: &Dumped) -> &str {
    &dumped.findings.iter().find(|f| f.rule == "copy").unwrap().message
}

/// A crash of the service in the middle: its files as they were, without its process. `leave` says what the service did last.
fn crash(path: &Path, leave: impl FnOnce(&Connection)) {
    let conn = Connection::open(path).unwrap();
    leave(&conn);
    let files: Vec<(PathBuf, Vec<u8>)> = std::iter::once(path.to_owned())
        .chain(open::sidecars(path).unwrap())
        .map(|p| (p.clone(), std::fs::read(&p).unwrap()))
        .collect();
    drop(conn);
    for (path, bytes) in files {
        std::fs::write(path, bytes).unwrap();
    }
}

struct Writer(Arc<AtomicBool>, Option<JoinHandle<u64>>);

/// Commits one row after another, with a pause, until stopped; says how many.
fn writer(path: &Path, pause: Duration) -> Writer {
    let (path, stop) = (path.to_owned(), Arc::new(AtomicBool::new(false)));
    let watched = stop.clone();
    Writer(
        stop,
        Some(std::thread::spawn(move || {
            let conn = Connection::open(path).unwrap();
            conn.busy_timeout(Duration::from_secs(120)).unwrap();
            let mut written = 0;
            while !watched.load(Ordering::Relaxed) {
                // Two rows in one transaction: a copy with an odd number of them is torn.
                conn.execute_batch(
                    "BEGIN IMMEDIATE; INSERT INTO t (note) VALUES ('a'); INSERT INTO t (note) VALUES ('b'); COMMIT",
                )
                .unwrap();
                written += 2;
                std::thread::sleep(pause);
            }
            written
        })),
    )
}

impl Writer {
    fn stop(mut self) -> u64 {
        self.0.store(true, Ordering::Relaxed);
        self.1.take().unwrap().join().unwrap()
    }
}
