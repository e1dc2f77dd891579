//! Looks at real files, stores, programs and listeners, each made wrong for real.

mod buckets;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::identifier::now_ms;

fn cx() -> StepContext {
    StepContext::detached(&crate::identifier::fresh(), Duration::from_secs(60))
}

/// A place with a database, a directory and a store, and a service over them.
struct Place {
    dir: tempfile::TempDir,
    service: Value,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["live/files", "store"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("live/files/one"), "content").unwrap();
        let database = rusqlite::Connection::open(dir.path().join("live/db.sqlite")).unwrap();
        database.execute_batch("pragma journal_mode = wal; create table t (id integer)").unwrap();
        let service = json!({
            "source": {
                "db": {"kind": "sqlite", "path": dir.path().join("live/db.sqlite")},
                "files": {"kind": "files", "path": dir.path().join("live/files")},
            },
        });
        Self { dir, service }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn looker(&self) -> Looker {
        let service = serde_json::from_value(self.service.clone()).unwrap();
        let store = serde_json::from_value(json!({"kind": "directory", "path": self.path("store")})).unwrap();
        let (services, stores) = (BTreeMap::from([("s".into(), service)]), BTreeMap::from([("local".into(), store)]));
        Looker::new(services, stores, &self.path("state"), Arc::new(now_ms), Arc::default())
    }

    /// What the check of this name finds.
    #[track_caller]
    fn look(&self, name: &str) -> Seen {
        let looker = self.looker();
        let subjects = looker.subjects();
        let subject = subjects.iter().find(|s| s.name() == name).unwrap_or_else(|| panic!("{name}: {subjects:?}"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(looker.look(&cx(), subject))
    }

    #[track_caller]
    fn expect(&self, name: &str, level: Level, words: &[&str]) {
        let seen = self.look(name);
        assert_eq!(seen.level, level, "{name}: {seen:?}");
        for word in words {
            assert!(seen.message.contains(word), "{name} says nothing of {word:?}: {seen:?}");
        }
    }

    /// Every name, size and time below the place.
    fn listing(&self) -> Vec<(PathBuf, u64, Option<std::time::SystemTime>)> {
        fn below(path: &Path, found: &mut Vec<(PathBuf, u64, Option<std::time::SystemTime>)>) {
            for entry in std::fs::read_dir(path).unwrap().flatten() {
                let meta = entry.metadata().unwrap();
                found.push((entry.path(), meta.len(), meta.modified().ok()));
                if meta.is_dir() {
                    below(&entry.path(), found);
                }
            }
        }
        let mut found = Vec::new();
        below(self.dir.path(), &mut found);
        found.sort();
        found
    }
}

#[test]
fn all_is_well_and_nothing_is_changed_or_left() {
    let place = Place::new();
    let before = place.listing();
    let names: Vec<String> = place.looker().subjects().iter().map(Subject::name).collect();
    for name in &names {
        place.expect(name, Level::Ok, &[]);
    }
    assert!(names.len() >= 12, "{names:?}");
    assert_eq!(place.listing(), before, "a WAL database has nothing beside it, and the state directory was not made");
}

#[test]
fn sources_that_are_gone_or_damaged_are_not_reachable() {
    let place = Place::new();
    std::fs::write(place.path("live/db.sqlite"), "no database at all, and long enough to have a header").unwrap();
    place.expect("source.db.reachable", Level::Critical, &["not an SQLite database"]);
    std::fs::remove_file(place.path("live/db.sqlite")).unwrap();
    place.expect("source.db.reachable", Level::Critical, &["no SQLite file at"]);
    place.expect("source.db.space", Level::Unknown, &[]);
    std::fs::remove_dir_all(place.path("live/files")).unwrap();
    place.expect("source.files.reachable", Level::Critical, &["no directory at"]);
    place.expect("source.files.may-read", Level::Unknown, &[]);
}

#[test]
fn a_store_that_is_away_is_not_reachable() {
    let place = Place::new();
    std::fs::rename(place.path("store"), place.path("away")).unwrap();
    place.expect("store.local.reachable", Level::Critical, &["store local", "can't be opened"]);
    place.expect("store.local.writable", Level::Critical, &["nothing can be written"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert!(runtime.block_on(place.looker().store_space(&cx(), "local")).is_err());
    assert!(!place.path("store").exists(), "it was not made");
}

/// As somebody else than root, whom no mode keeps out.
#[test]
fn what_may_not_be_read_or_written_is_named() {
    if rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: root may read and write everything; tests/all has the same as another user.");
        return;
    }
    let place = Place::new();
    let mode = |name: &str, mode| std::fs::set_permissions(place.path(name), PermissionsExt::from_mode(mode)).unwrap();
    mode("live/files/one", 0o000);
    place.expect("source.files.may-read", Level::Critical, &["may not be read: 1 (one)"]);
    mode("live", 0o500);
    place.expect("source.files.may-promote", Level::Critical, &["nothing can be made in"]);
    mode("live", 0o700);
    mode("store", 0o500);
    place.expect("store.local.writable", Level::Critical, &["nothing can be written"]);
    mode("store", 0o700);
}

#[test]
fn secrets_that_are_missing_or_open_to_everybody_are_named_and_never_shown() {
    let mut place = Place::new();
    place.service["endpoint"] = json!({"api": {
        "url": "http://127.0.0.1:1", "header": {"Authorization": {"file": place.path("token")}, "X-Key": {"env": "NO_SUCH_VARIABLE"}},
    }});
    place.expect("service.secrets", Level::Critical, &["header Authorization", "header X-Key", "NO_SUCH_VARIABLE"]);
    place.service["endpoint"]["api"]["header"] = json!({"Authorization": {"file": place.path("token")}});
    std::fs::write(place.path("token"), "s3cret\n").unwrap();
    std::fs::set_permissions(place.path("token"), PermissionsExt::from_mode(0o644)).unwrap();
    let seen = place.look("service.secrets");
    assert!(seen.level == Level::Warning && seen.message.contains("everybody"), "{seen:?}");
    assert!(!format!("{seen:?}").contains("s3cret"));
    std::fs::set_permissions(place.path("token"), PermissionsExt::from_mode(0o640)).unwrap();
    place.expect("service.secrets", Level::Ok, &[]);
}

#[test]
fn tls_files_are_read_and_https_needs_roots() {
    let mut place = Place::new();
    place.service["endpoint"] = json!({"api": {"url": "https://localhost:1", "ca-file": place.path("roots.pem")}});
    place.expect("service.tls-files", Level::Critical, &["endpoint api", "roots.pem"]);
    std::fs::write(place.path("roots.pem"), "no certificate").unwrap();
    place.expect("service.tls-files", Level::Critical, &["roots.pem"]);
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(place.path("roots.pem"), made.cert.pem()).unwrap();
    place.expect("service.tls-files", Level::Ok, &["1, all"]);
    place.service["endpoint"]["api"].as_object_mut().unwrap().remove("ca-file");
    place.expect("service.tls-files", Level::Critical, &["no `ca-file`"]);
}

#[test]
fn programs_that_are_missing_are_named_by_where_they_are_configured() {
    let mut place = Place::new();
    place.service["control"] = json!({
        "kind": "command", "start": ["no-such-program"], "stop": [place.path("stop")], "status": ["true"],
    });
    place.service["install"] = json!({
        "directory": place.path("versions"), "installable": ["true"], "command": ["cp"], "check": ["{dir}/x"],
    });
    place.service["scratch"] = json!({"command": ["{current}/serve"]});
    let words = ["control.start: `no-such-program` is not in PATH", "control.stop:", "scratch.command:"];
    place.expect("service.commands", Level::Critical, &words);
    place.service["control"]["start"] = json!(["true"]);
    std::fs::write(place.path("stop"), "#!/bin/sh\n").unwrap();
    // There, and not executable.
    place.expect("service.commands", Level::Critical, &["control.stop:"]);
    std::fs::set_permissions(place.path("stop"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::create_dir_all(place.path("versions/1.0@by-hand")).unwrap();
    std::fs::copy(place.path("stop"), place.path("versions/1.0@by-hand/serve")).unwrap();
    symlink("1.0@by-hand", place.path("versions/current")).unwrap();
    place.expect("service.commands", Level::Ok, &["not looked at", "install.check"]);
}

#[test]
fn a_manager_that_gives_no_answer_is_told_from_a_service_that_is_stopped() {
    let mut place = Place::new();
    let control = |status: &[&str]| json!({"kind": "command", "start": ["true"], "stop": ["true"], "status": status});
    place.service["control"] = control(&["true"]);
    place.expect("service.control", Level::Ok, &[]);
    place.expect("service.running", Level::Ok, &["s runs"]);
    place.service["control"] = control(&["bash", "-c", "exit 3"]);
    place.expect("service.control", Level::Ok, &[]);
    place.expect("service.running", Level::Warning, &["s is stopped"]);
    place.service["control"] = control(&["false"]);
    place.expect("service.control", Level::Critical, &["gives no answer"]);
    place.expect("service.running", Level::Unknown, &["not known"]);
    // One that is asked and says that the service is on its way has answered.
    let systemctl = |script: &str| json!({"kind": "systemd", "unit": "s.service", "systemctl": ["bash", "-c", script]});
    place.service["control"] = systemctl("echo LoadState=loaded; echo ActiveState=activating");
    place.expect("service.control", Level::Ok, &[]);
    place.expect("service.running", Level::Unknown, &["activating"]);
    place.service["control"] = systemctl("echo LoadState=not-found; echo ActiveState=inactive");
    place.expect("service.control", Level::Critical, &["no usable unit s.service"]);
    place.service["control"] = systemctl("echo no bus >&2; exit 1");
    place.expect("service.control", Level::Critical, &["gives no answer", "no bus"]);
    place.service["control"] = json!({"kind": "child", "command": ["true"]});
    place.expect("service.control", Level::Critical, &["`lifeboat serve`, which does not run"]);
    place.expect("service.running", Level::Warning, &["s is stopped"]);
}

#[test]
fn a_command_that_hangs_ends_with_its_time() {
    let mut place = Place::new();
    place.service["control"] =
        json!({"kind": "command", "start": ["true"], "stop": ["true"], "status": ["sleep", "600"], "timeout-s": 3600});
    let looker = place.looker();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let cx = StepContext::detached("hangs", Duration::from_millis(300));
    let looked = |subject: Subject| runtime.block_on(looker.look(&cx, &subject));
    assert_eq!(looked(Subject::Control("s".into())).level, Level::Critical);
    assert_eq!(looked(Subject::Running("s".into())).level, Level::Unknown);
}

/// Answers every request with this status and body.
fn answering(status: &'static str, body: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
        }
    });
    port
}

#[test]
fn an_endpoint_that_answers_is_not_yet_ready() {
    let mut place = Place::new();
    let at = |port: u16| json!({"api": {"url": format!("http://127.0.0.1:{port}")}});
    place.service["ready"] = json!({"endpoint": "api", "path": "/readyz", "equals": {"/store": "{place.db}"}});
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    place.service["endpoint"] = at(closed);
    place.expect("endpoint.api.reachable", Level::Critical, &["does not answer: connection refused"]);
    place.expect("service.ready", Level::Critical, &["connection refused"]);
    place.service["endpoint"] = at(answering("503 Later", ""));
    place.expect("endpoint.api.reachable", Level::Ok, &["status 503"]);
    place.expect("service.ready", Level::Critical, &["status 503, expected 200"]);
    place.service["endpoint"] = at(answering("200 OK", "{\"store\":\"another\"}"));
    place.expect("service.ready", Level::Critical, &["`store` is not"]);
    place.service["ready"]["equals"] = json!({"/store": "another"});
    place.expect("service.ready", Level::Ok, &["s is ready"]);
}
