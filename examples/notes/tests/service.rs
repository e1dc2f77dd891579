//! The real binaries, started on free ports: what each release does to data, its own and the other's.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

const V1: &str = env!("CARGO_BIN_EXE_notes-1");
const V2: &str = env!("CARGO_BIN_EXE_notes-2");

/// How long a test waits for the worker or for a stop; far above what either takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running service; killed when dropped.
struct Service {
    child: Child,
    address: String,
}

impl Service {
    fn start(binary: &str, data: &Path, environment: &[(&str, &str)]) -> Self {
        let mut child = command(binary, data, environment).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (_, address) = line.trim().split_once("http://").expect("listening line");
        let address = address.to_owned();
        Self { child, address }
    }

    fn send(&self, method: &str, path: &str, body: &str, headers: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: notes\r\nconnection: close\r\n{headers}\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, "", "")
    }

    fn post(&self, path: &str, body: Value) -> (u16, Value) {
        self.send("POST", path, &body.to_string(), "")
    }

    fn create(&self, note: Value) -> String {
        let (status, answer) = self.post("/notes", note);
        assert_eq!(status, 201, "{answer}");
        answer["id"].as_str().unwrap().to_owned()
    }

    fn signal(mut self, signal: Signal) -> ExitStatus {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
        let mut status = None;
        until("the process ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    fn stop(self) {
        assert_eq!(self.signal(Signal::TERM).code(), Some(0));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn command(binary: &str, data: &Path, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary);
    command
        .args(["serve", "--port", "0", "--data"])
        .arg(data)
        .env_remove("NOTES_TOKEN")
        .env_remove("NOTES_WORKER")
        .envs(environment.iter().copied());
    command
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        sleep(Duration::from_millis(10));
    }
}

fn outbox(data: &Path) -> Vec<(String, i64)> {
    let db = Connection::open(data.join("notes.sqlite")).unwrap();
    let mut select = db.prepare("SELECT status, attempts FROM outbox ORDER BY rowid").unwrap();
    let rows = select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap().map(Result::unwrap).collect()
}

fn delivered(data: &Path) -> String {
    fs::read_to_string(data.join("delivered.log")).unwrap_or_default()
}

/// A data directory with one note made by version 1.
fn data_of_version_1() -> (TempDir, String) {
    let data = tempdir().unwrap();
    let service = Service::start(V1, data.path(), &[]);
    let id = service.create(json!({"title": "old", "body": "from version 1"}));
    service.stop();
    (data, id)
}

#[test]
fn life_of_a_note() {
    let data = tempdir().unwrap();
    let service = Service::start(V1, data.path(), &[]);
    let database = data.path().canonicalize().unwrap().join("notes.sqlite");
    let ready = json!({
        "ready": true, "service": "notes", "version": "1.0.0", "worker": "on",
        "store": {"kind": "sqlite", "schema": 1, "path": database},
    });
    assert_eq!(service.get("/readyz"), (200, ready));
    assert_eq!(service.get("/livez").0, 200);

    let plain = service.create(json!({"title": "plain", "body": "b"}));
    let full = service.create(json!({"title": "full", "body": "text", "attachment": "äöü\n"}));
    let (_, note) = service.get(&format!("/notes/{full}"));
    assert_eq!(note["body"], "text");
    assert_eq!(note["attachment"], "äöü\n");
    let created_at = note["created_at"].as_str().unwrap();
    assert!(created_at.len() == 27 && created_at.ends_with('Z'), "{created_at}");

    let (_, list) = service.get("/notes");
    assert_eq!(list["count"], 2);
    let newest = json!({"id": full, "title": "full", "status": "open", "created_at": created_at});
    assert_eq!(list["notes"][0], newest);
    assert_eq!(service.get("/notes?limit=1").1["count"], 1);

    for _ in 0..2 {
        let archived = json!({"id": plain, "status": "archived"});
        let answer = service.post(&format!("/notes/{plain}/archive"), Value::Null);
        assert_eq!(answer, (200, archived));
    }
    let (_, events) = service.get(&format!("/events?note_id={plain}"));
    assert_eq!(events["count"], 2);
    assert_eq!(events["events"][0]["type"], "note.created");
    assert_eq!(events["events"][1]["type"], "note.archived");
    assert_eq!(service.get("/events").1["count"], 3);

    for path in ["/notes/none", "/nowhere"] {
        assert_eq!(service.get(path).0, 404, "{path}");
    }
    assert_eq!(service.post("/notes/none/archive", Value::Null).0, 404);
    for path in ["/notes?limit=0", "/notes?limit=x", "/events?limits=1"] {
        assert_eq!(service.get(path).0, 422, "{path}");
    }
    assert_eq!(service.post("/notes", json!({"title": "no body"})).0, 422);
}

#[test]
fn an_attachment_is_a_private_file_and_its_loss_shows() {
    let data = tempdir().unwrap();
    let service = Service::start(V1, data.path(), &[]);
    let id = service.create(json!({"title": "t", "body": "b", "attachment": "a"}));
    let directory = data.path().join("attachments");
    let file = directory.join(format!("{id}.txt"));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    fs::remove_file(&file).unwrap();
    let (status, answer) = service.get(&format!("/notes/{id}"));
    assert_eq!(status, 500);
    assert!(answer["error"].as_str().unwrap().contains("attachment"));
    assert_eq!(service.get("/notes").0, 200);
}

#[test]
fn data_survive_a_restart() {
    let (data, id) = data_of_version_1();
    let wal = data.path().join("notes.sqlite-wal");
    assert!(!wal.exists(), "a graceful stop leaves one file");
    let service = Service::start(V1, data.path(), &[]);
    let second = service.create(json!({"title": "second", "body": "b", "attachment": "a"}));
    assert!(wal.exists());
    assert!(!service.signal(Signal::KILL).success());
    let service = Service::start(V1, data.path(), &[]);
    assert_eq!(service.get(&format!("/notes/{id}")).1["title"], "old");
    assert_eq!(service.get(&format!("/notes/{second}")).1["attachment"], "a");
    assert_eq!(service.get("/events").1["count"], 2);
    assert_eq!(service.signal(Signal::INT).code(), Some(0));
}

#[test]
fn a_stop_does_not_wait_for_an_idle_connection() {
    let data = tempdir().unwrap();
    let service = Service::start(V1, data.path(), &[]);
    let _silent = TcpStream::connect(&service.address).unwrap();
    assert_eq!(service.get("/livez").0, 200);
    let start = Instant::now();
    service.stop();
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_lost_database_is_silently_replaced_by_an_empty_one() {
    let (data, _) = data_of_version_1();
    fs::remove_file(data.path().join("notes.sqlite")).unwrap();
    let service = Service::start(V1, data.path(), &[]);
    assert_eq!(service.get("/readyz").0, 200);
    assert_eq!(service.get("/notes"), (200, json!({"count": 0, "notes": []})));
}

#[test]
fn version_2_lists_its_own_notes_by_priority() {
    let data = tempdir().unwrap();
    let service = Service::start(V2, data.path(), &[]);
    let later = service.create(json!({"title": "later", "body": "b", "priority": 5}));
    let first = service.create(json!({"title": "first", "body": "b", "priority": 1}));
    let (status, list) = service.get("/notes");
    assert_eq!(status, 200);
    assert_eq!(list["notes"][0]["id"], *first);
    assert_eq!(list["notes"][1]["id"], *later);
}

#[test]
fn version_2_fails_to_list_notes_of_version_1_and_says_it_is_ready() {
    let (data, old) = data_of_version_1();
    let service = Service::start(V2, data.path(), &[]);
    let (status, ready) = service.get("/readyz");
    assert_eq!((status, &ready["ready"]), (200, &json!(true)));
    assert_eq!(ready["version"], "2.0.0");
    assert_eq!(ready["store"]["schema"], 2);
    assert_eq!(service.get("/notes").0, 500);
    let new = service.create(json!({"title": "new", "body": "from version 2"}));
    assert_eq!(service.get("/notes?limit=1").0, 500);
    for (id, content) in [(old, "from version 1"), (new, "from version 2")] {
        assert_eq!(service.get(&format!("/notes/{id}")).1["content"], content);
    }
    assert_eq!(service.get("/readyz").0, 200);
}

#[test]
fn version_1_starts_on_schema_2_and_fails_to_list() {
    let (data, id) = data_of_version_1();
    Service::start(V2, data.path(), &[]).stop();
    let service = Service::start(V1, data.path(), &[]);
    let (status, ready) = service.get("/readyz");
    assert_eq!((status, &ready["store"]["schema"]), (200, &json!(2)));
    assert_eq!(service.get("/notes").0, 500);
    assert_eq!(service.get(&format!("/notes/{id}")).0, 500);
    let note = json!({"title": "t", "body": "b"});
    assert_eq!(service.post("/notes", note).0, 500);
}

#[test]
fn only_a_worker_delivers() {
    let data = tempdir().unwrap();
    let service = Service::start(V1, data.path(), &[("NOTES_WORKER", "off")]);
    assert_eq!(service.get("/readyz").1["worker"], "off");
    let id = service.create(json!({"title": "t", "body": "b", "remind": true}));
    service.create(json!({"title": "quiet", "body": "b"}));
    // Several of the worker's polls.
    sleep(Duration::from_secs(1));
    assert_eq!(outbox(data.path()), [("queued".to_owned(), 0)]);
    assert!(!data.path().join("delivered.log").exists());
    service.stop();

    let service = Service::start(V1, data.path(), &[]);
    let done = [("done".to_owned(), 1)];
    until("the note is delivered", || outbox(data.path()) == done);
    assert_eq!(delivered(data.path()), format!("delivered {id}\n"));
    service.stop();
}

#[test]
fn a_restored_copy_delivers_again_what_was_running() {
    let data = tempdir().unwrap();
    let service = Service::start(V1, data.path(), &[]);
    let id = service.create(json!({"title": "t", "body": "b", "remind": true}));
    let done = [("done".to_owned(), 1)];
    until("the note is delivered", || outbox(data.path()) == done);
    service.stop();
    // As in a backup taken between the delivery and its record.
    let db = Connection::open(data.path().join("notes.sqlite")).unwrap();
    db.execute("UPDATE outbox SET status = 'running'", []).unwrap();
    drop(db);

    let quarantined = Service::start(V1, data.path(), &[("NOTES_WORKER", "off")]);
    quarantined.stop();
    assert_eq!(outbox(data.path()), [("running".to_owned(), 1)]);

    let _service = Service::start(V1, data.path(), &[]);
    let again = [("done".to_owned(), 2)];
    until("the note is delivered again", || outbox(data.path()) == again);
    let line = format!("delivered {id}\n");
    assert_eq!(delivered(data.path()), line.repeat(2));
}

#[test]
fn a_token_guards_all_but_the_probes() {
    let data = tempdir().unwrap();
    let service = Service::start(V1, data.path(), &[("NOTES_TOKEN", "secret")]);
    assert_eq!(service.get("/readyz").0, 200);
    assert_eq!(service.get("/livez").0, 200);
    for path in ["/notes", "/events", "/nowhere"] {
        assert_eq!(service.get(path).0, 401, "{path}");
    }
    let with = |token: &str| {
        let header = format!("authorization: {token}\r\n");
        service.send("GET", "/notes", "", &header).0
    };
    assert_eq!(with("Bearer wrong"), 401);
    assert_eq!(with("secret"), 401);
    assert_eq!(with("Bearer secret"), 200);
}

#[test]
fn settings_that_could_be_misread_are_refused() {
    for setting in [("NOTES_WORKER", "of"), ("NOTES_WORKER", ""), ("NOTES_TOKEN", "")] {
        let data = tempdir().unwrap();
        let output = command(V1, data.path(), &[setting]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{setting:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(setting.0));
        assert_eq!(fs::read_dir(data.path()).unwrap().count(), 0);
    }
}

#[test]
fn a_taken_port_stops_the_start_before_the_migration() {
    let (data, _) = data_of_version_1();
    let service = Service::start(V1, data.path(), &[]);
    let port = service.address.rsplit(':').next().unwrap();
    let output = Command::new(V2).args(["serve", "--port", port, "--data"]).arg(data.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(service.get("/readyz").1["store"]["schema"], 1);
    assert_eq!(service.get("/notes").0, 200);
}

#[test]
fn each_binary_names_its_version() {
    for (binary, line) in [(V1, "notes 1.0.0\n"), (V2, "notes 2.0.0\n")] {
        let output = Command::new(binary).arg("--version").output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), line);
    }
}
