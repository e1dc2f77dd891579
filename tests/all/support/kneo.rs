//! kneo-serv, the reference service, in both of its modes: a site laid out as `examples/kneo-serv` has it, its API and its database.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use host_api::sources::postgres::testing::{ClusterPlace, PgServer};
use serde_json::{Value, json};

use super::http::Answer;
use super::{Outcome, Site, policy};

/// Where kneo-serv keeps its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A database file, and a file for each open human task.
    Sqlite,
    /// A database.
    Postgres,
}

/// A site with kneo-serv.
pub struct Kneo {
    /// The site. Dropped, and so stopped, before the server of its database.
    pub site: Site,
    database: Option<(Arc<PgServer>, String)>,
}

/// What is asked for [`Kneo::content`].
pub const CONTENT: [&str; 6] = [
    "select id, status, updated_at, payload from runs order by id",
    "select id, run_id, sequence, type, payload from checkpoints order by id",
    "select id, event_type, run_id, created_at from audit_events order by id",
    "select id, run_id, status, payload from continuations order by id",
    "select run_id, status, attempts from run_queue order by run_id",
    "select version from schema_migrations order by version",
];

/// Key of the operator that the API is asked as.
pub const KEY: &str = "k3y-of-the-operator";

/// A function step with a side effect: it writes down who began and who ended it. The live service holds it until it is let go.
const DRILLMOD: &str = r#"
import os, time

def slow(*args, **kwargs):
    log, who = os.environ["DRILL_LOG"], os.environ["DRILL_WHO"]
    def say(what):
        with open(log, "a") as file:
            file.write(f"{who} {what}\n")
    say("start")
    end = time.time() + 60
    while who == "live" and time.time() < end and not os.path.exists(log + ".release"):
        time.sleep(0.05)
    say("end")
    return "done"
"#;

/// The virtual environments, one a version; none, with a loud line, where the set-up has not said where they are.
pub fn environments() -> Option<PathBuf> {
    let folder = std::env::var_os("LIFEBOAT_KNEO").map(PathBuf::from);
    if folder.is_none() {
        eprintln!("skipped: kneo-serv is not here (LIFEBOAT_KNEO is not set). Nothing was tested.");
    }
    folder
}

impl Kneo {
    /// A site with this version installed and nothing started; none where kneo-serv or its database server is not to be had.
    pub fn installed(mode: Mode, version: &str) -> Option<Self> {
        let environments = environments()?;
        let server = match mode {
            Mode::Sqlite => None,
            Mode::Postgres => Some(PgServer::shared()?),
        };
        let site = Site::empty();
        for folder in ["backups", "offsite", "live", "policies", "secrets"] {
            std::fs::create_dir_all(site.path(folder)).unwrap();
        }
        for name in ["backup", "drill", "upgrade", "rollback", "restore", "disaster-recovery", "cadence"] {
            std::fs::copy(policy(name), site.path("policies").join(format!("{name}.wasm"))).unwrap();
        }
        // In place of pip: a link to what the set-up has installed.
        let script = format!(
            "#!/bin/sh\nset -eu\ncase $1 in\nwheels) test -x {0}/$2/bin/kneo ;;\ninstall) ln -s {0}/$2/bin $3/bin ;;\nesac\n",
            environments.display()
        );
        site.write("kneo-version", &script);
        std::fs::set_permissions(site.path("kneo-version"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let first = format!("versions/{version}@by-hand");
        std::fs::create_dir_all(site.path(&first)).unwrap();
        symlink(environments.join(version).join("bin"), site.path(&first).join("bin")).unwrap();
        symlink(format!("{version}@by-hand"), site.path("versions/current")).unwrap();
        site.write("secrets/api-keys", &format!("lifeboat:{KEY}:operator\n"));
        site.write("secrets/operator-key", &format!("{KEY}\n"));
        site.write("functions/drillmod.py", DRILLMOD);

        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/kneo-serv").join(match mode {
            Mode::Sqlite => "sqlite.toml",
            Mode::Postgres => "postgres.toml",
        });
        std::fs::copy(example, site.path("lifeboat.toml")).unwrap();
        let mut kneo = Self { site, database: None };
        // A short lease, so that what the live service left running is soon anybody's.
        let functions = |who: &str| {
            format!(
                "PYTHONPATH = \"{}\"\nDRILL_LOG = \"{}\"\nDRILL_WHO = \"{who}\"\nKNEO_SERV_WORKER_LEASE_SECONDS = \"2\"",
                kneo.site.path("functions").display(),
                kneo.effects().display()
            )
        };
        kneo.site.configure(&[
            ("allow-yes = false", "allow-yes = true"),
            ("18200", &kneo.site.port.to_string()),
            ("kneo.control.environment]", &format!("kneo.control.environment]\n{}", functions("live"))),
            ("kneo.scratch.environment]", &format!("kneo.scratch.environment]\n{}", functions("scratch"))),
        ]);
        if let Some(server) = server {
            kneo.make_database(&server);
        }
        Some(kneo)
    }

    /// Role and database of this site alone, of the same name.
    fn make_database(&mut self, server: &Arc<PgServer>) {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("kneo_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let password = format!("secret-of-{name}");
        server.sql("postgres", &[&format!("CREATE ROLE {name} LOGIN CREATEDB PASSWORD '{password}'")]);
        server.sql("postgres", &[&format!("CREATE DATABASE {name} OWNER {name} TEMPLATE template0")]);
        self.site.write("secrets/database-password", &format!("{password}\n"));
        self.site.configure(&[
            ("database = \"kneo_serv\"", &format!("database = \"{name}\"")),
            ("user = \"kneo_serv\"", &format!("user = \"{name}\"\nbin-dir = \"{}\"", server.bin_dir.display())),
            ("port = 5432", &format!("port = {}", server.port)),
            ("//kneo_serv@127.0.0.1:5432/", &format!("//{name}@127.0.0.1:{}/", server.port)),
        ]);
        self.database = Some((Arc::clone(server), name));
    }

    /// PostgreSQL mode: what the operator page takes as a backup, `pg_dump | gzip`, in a file of the site.
    pub fn dump_as_the_page_does(&self, file: &str) {
        let (server, name) = self.database.as_ref().expect("PostgreSQL mode");
        let script = format!(
            "{}/pg_dump -U postgres -h {} -p {} {name} | gzip > {}",
            server.bin_dir.display(),
            server.host,
            server.port,
            self.site.path(file).display()
        );
        assert!(std::process::Command::new("sh").args(["-c", &script]).status().unwrap().success());
    }

    /// PostgreSQL mode: the server's programs with one of them replaced by a script, in which `REAL` stands for the true ones' directory.
    pub fn replace_program(&self, tool: &str, script: &str) {
        let (server, _) = self.database.as_ref().expect("PostgreSQL mode");
        let real = server.bin_dir.display().to_string();
        std::fs::create_dir_all(self.site.path("bin")).unwrap();
        for name in ["psql", "pg_dump", "pg_restore"].into_iter().filter(|name| *name != tool) {
            symlink(server.bin_dir.join(name), self.site.path("bin").join(name)).unwrap();
        }
        let path = self.site.path("bin").join(tool);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n").replace("REAL", &real)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        self.site.configure(&[(&format!("bin-dir = \"{real}\""), "bin-dir = \"bin\"")]);
    }

    /// Installs another version by hand, while the service is stopped.
    pub fn install(&self, version: &str) {
        let environments = environments().expect("they were there before");
        let folder = format!("versions/{version}@by-hand");
        std::fs::create_dir_all(self.site.path(&folder)).unwrap();
        symlink(environments.join(version).join("bin"), self.site.path(&folder).join("bin")).unwrap();
        std::fs::remove_file(self.site.path("versions/current")).unwrap();
        symlink(format!("{version}@by-hand"), self.site.path("versions/current")).unwrap();
    }

    /// PostgreSQL mode: a copy of a site whose service is stopped, with a copy of its database, which belongs to the same role.
    pub fn copy_of(template: &Self) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (server, from) = template.database.as_ref().expect("PostgreSQL mode");
        let name = format!("{from}_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        // Copying a database takes turns.
        static COPYING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let copying = COPYING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let role = from.as_str();
        server.sql("postgres", &[&format!("CREATE DATABASE {name} OWNER {role} TEMPLATE {from}")]);
        drop(copying);
        let site = Site::copy_of(&template.site);
        site.configure(&[(&format!("database = \"{from}\""), &format!("database = \"{name}\""))]);
        Self { site, database: Some((Arc::clone(server), name)) }
    }

    /// PostgreSQL mode: drills restore into private servers at this place.
    pub fn drill_in(&self, place: &ClusterPlace) {
        let binding = place.binding();
        let scratch = format!(
            "scratch = {{ kind = \"cluster\", directory = {:?}, prefix = {:?} }}",
            binding.directory, binding.prefix
        );
        let database = format!("database = \"{}\"", self.database_name());
        self.site.configure(&[(&database, &format!("{database}\n{scratch}"))]);
    }

    /// PostgreSQL mode: the live database.
    pub fn database_name(&self) -> &str {
        &self.database.as_ref().expect("PostgreSQL mode").1
    }

    /// A site with this version running.
    pub fn running(mode: Mode, version: &str) -> Option<Self> {
        let mut kneo = Self::installed(mode, version)?;
        kneo.start();
        Some(kneo)
    }

    /// Starts `lifeboat serve` with the service as its child, and waits until it is ready.
    pub fn start(&mut self) {
        self.site.serve(&["kneo"]);
        let began = Instant::now();
        while self.ask("GET", "/readyz", None).is_none_or(|answer| answer.status != 200) {
            let late = began.elapsed() > Duration::from_secs(60);
            assert!(!late, "kneo-serv is not ready: {}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the supervisor and the service have written.
    fn logs(&self) -> String {
        ["serve.log", ".lifeboat/logs/kneo.log"]
            .map(|log| format!("{log}:\n{}", std::fs::read_to_string(self.site.path(log)).unwrap_or_default()))
            .join("\n")
    }

    /// Starts `lifeboat serve` alone: the service stays stopped.
    pub fn supervise(&mut self) {
        self.site.serve(&[]);
    }

    /// Ends `lifeboat serve`, and with it the service.
    pub fn stop(&mut self) {
        self.site.stop_serving();
        assert!(self.ask("GET", "/livez", None).is_none(), "the service goes with its supervisor");
    }

    /// Asks the API as the operator.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
        ask(self.site.port, method, path, body)
    }

    /// A GET that must answer 200; its body.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let answer = self.ask("GET", path, None).unwrap_or_else(|| panic!("GET {path}: no answer"));
        assert_eq!(answer.status, 200, "GET {path}: {}", answer.body);
        answer.json()
    }

    /// The status of a GET.
    #[track_caller]
    pub fn status(&self, path: &str) -> u16 {
        self.ask("GET", path, None).unwrap_or_else(|| panic!("GET {path}: no answer")).status
    }

    /// The version that answers.
    pub fn version(&self) -> String {
        self.get("/readyz")["version"].as_str().unwrap().to_owned()
    }

    /// A run that completes; its id.
    pub fn completed_run(&self) -> String {
        self.run(&completing(), "completed")
    }

    /// A run that waits for a person; its id.
    pub fn blocked_run(&self) -> String {
        self.run(&blocking(), "blocked")
    }

    /// A run that the worker is given, and holds once it has begun; its id.
    pub fn queued_run(&self) -> String {
        let body = body(
            json!([{"id": "s1", "kind": "function", "ref": "slow"}]),
            json!({"functions": {"slow": {"implementation": "drillmod.slow"}}}),
            true,
        );
        self.run(&body, "running")
    }

    fn run(&self, body: &Value, expected: &str) -> String {
        let answer = self.ask("POST", "/v1/runs", Some(body)).expect("kneo-serv answers");
        assert!(matches!(answer.status, 200 | 202), "{}", answer.body);
        let run = answer.json();
        assert_eq!(run["status"], expected, "{run}");
        run["run_id"].as_str().unwrap().to_owned()
    }

    /// The file that function steps write into.
    pub fn effects(&self) -> PathBuf {
        self.site.path("effects.log")
    }

    /// How often a function step has begun, in the service of this name (`live`, `scratch`).
    pub fn begun(&self, who: &str) -> usize {
        let log = std::fs::read_to_string(self.effects()).unwrap_or_default();
        log.lines().filter(|line| *line == format!("{who} start")).count()
    }

    /// Lets go of the function steps that the live service holds.
    pub fn let_go(&self) {
        std::fs::write(self.site.path("effects.log.release"), "").unwrap();
    }

    /// Rows of a query on the live database, columns separated by `|`, a line each.
    pub fn sql(&self, query: &str) -> String {
        match &self.database {
            Some((server, name)) => server.sql(name, &[query]),
            None => {
                let connection = self.connection();
                let mut statement = connection.prepare(query).unwrap();
                let columns = statement.column_count();
                let mut rows = statement.query([]).unwrap();
                let mut lines = Vec::new();
                while let Some(row) = rows.next().unwrap() {
                    let value = |n| match row.get_ref(n).unwrap() {
                        rusqlite::types::ValueRef::Null => String::new(),
                        rusqlite::types::ValueRef::Integer(i) => i.to_string(),
                        rusqlite::types::ValueRef::Real(r) => r.to_string(),
                        rusqlite::types::ValueRef::Text(t) | rusqlite::types::ValueRef::Blob(t) => {
                            String::from_utf8_lossy(t).into_owned()
                        }
                    };
                    lines.push((0..columns).map(value).collect::<Vec<_>>().join("|"));
                }
                lines.join("\n")
            }
        }
    }

    /// Changes the live database behind the service's back; something must be hit.
    pub fn damage(&self, statement: &str) {
        let hit = match &self.database {
            Some((server, name)) => {
                server.sql(name, &[&format!("WITH hit AS ({statement} RETURNING 1) SELECT count(*) FROM hit")]) != "0"
            }
            None => self.connection().execute(statement, []).unwrap() > 0,
        };
        assert!(hit, "{statement} hit nothing");
    }

    fn connection(&self) -> rusqlite::Connection {
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE;
        let connection = rusqlite::Connection::open_with_flags(self.database_file(), flags).unwrap();
        connection.busy_timeout(Duration::from_secs(10)).unwrap();
        connection
    }

    /// PostgreSQL mode: a statement of the server's administrator.
    pub fn admin(&self, statement: &str) {
        let (server, _) = self.database.as_ref().expect("PostgreSQL mode");
        server.sql("postgres", &[statement]);
    }

    /// SQLite mode: the live database.
    pub fn database_file(&self) -> PathBuf {
        self.site.path("live/.kneo/kneo_runs.sqlite")
    }

    /// SQLite mode: the files of the open human tasks.
    pub fn task_files(&self) -> Vec<PathBuf> {
        let folder = std::fs::read_dir(self.site.path("live/.kneo/continuations")).unwrap();
        let mut files: Vec<_> = folder.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// Takes from the host all that a new one would not have: versions, state, local backups. `offsite` and the configuration are elsewhere.
    pub fn lose_host(&self) {
        for folder in ["versions", ".lifeboat", "backups"] {
            std::fs::remove_dir_all(self.site.path(folder)).unwrap();
        }
        for folder in ["versions", "backups"] {
            std::fs::create_dir(self.site.path(folder)).unwrap();
        }
    }

    /// Loses the database, while the service is stopped.
    pub fn lose_database(&self) {
        match &self.database {
            Some((server, name)) => drop(server.sql("postgres", &[&format!("DROP DATABASE {name}")])),
            None => std::fs::remove_file(self.database_file()).unwrap(),
        }
        assert!(!self.has_database());
    }

    /// PostgreSQL mode: a new, empty database in place of a lost one.
    pub fn new_database(&self) {
        let name = self.database_name();
        self.admin(&format!("CREATE DATABASE {name} OWNER {name} TEMPLATE template0"));
    }

    /// Leaves the database there and nothing in it, not even a table, while the service is stopped.
    pub fn empty_database(&self) {
        match &self.database {
            Some((server, name)) => drop(server.sql(name, &["DROP SCHEMA public CASCADE", "CREATE SCHEMA public"])),
            None => std::fs::write(self.database_file(), "").unwrap(),
        }
        assert!(self.has_database());
    }

    /// Whether there is a live database at all.
    pub fn has_database(&self) -> bool {
        match &self.database {
            Some((server, name)) => {
                let query = format!("SELECT count(*) FROM pg_database WHERE datname = '{name}'");
                server.sql("postgres", &[&query]) == "1"
            }
            None => self.database_file().exists(),
        }
    }

    /// The schema's version, read in the database itself.
    pub fn schema(&self) -> String {
        self.sql("select max(version) from schema_migrations")
    }

    /// All that is in the live database of runs, their checkpoints, tasks and queue: the same text means the same data.
    pub fn content(&self) -> String {
        CONTENT.map(|query| self.sql(query)).join("\n--\n")
    }

    /// What is left of candidates: databases of this site's role, or files beside the live data and in scratch.
    pub fn leftovers(&self) -> Vec<String> {
        if let Some((server, name)) = &self.database {
            let query = format!(
                "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = '{name}' AND datname <> '{name}'"
            );
            return server.sql("postgres", &[&query]).lines().map(str::to_owned).collect();
        }
        let below = |folder: &str| std::fs::read_dir(self.site.path(folder)).into_iter().flatten().flatten();
        below(".lifeboat/candidates")
            .chain(below("live/.kneo").filter(|entry| entry.file_name().to_string_lossy().contains("lifeboat")))
            .map(|entry| entry.path().display().to_string())
            .collect()
    }

    /// The error findings of a policy's run as `RULE: MESSAGE`, out of its evidence.
    pub fn errors(&self, outcome: &Outcome, evidence: &str) -> Vec<String> {
        let file = self.site.evidence(outcome, evidence);
        let findings = file["findings"].as_array().unwrap().clone();
        let text = |finding: &Value, key: &str| finding[key].as_str().unwrap_or_default().to_owned();
        findings
            .iter()
            .filter(|finding| finding["severity"] == "error")
            .map(|finding| format!("{}: {}", text(finding, "rule"), text(finding, "message")))
            .collect()
    }
}

impl Drop for Kneo {
    fn drop(&mut self) {
        // A step that is held would make the service's end wait for it.
        self.let_go();
    }
}

fn body(steps: Value, components: Value, asynchronous: bool) -> Value {
    json!({
        "input": "drill input",
        "target": "workflow",
        "async_mode": asynchronous,
        "spec": {
            "version": "v1",
            "agent": agent("root"),
            "workflow": {"type": "sequential", "name": "drill", "steps": steps},
            "components": components,
        },
    })
}

fn agent(name: &str) -> Value {
    json!({
        "name": name,
        "system_prompt": "Answer.",
        "model": {"provider": "dummy", "name": "drill-model"},
        "strategy": {"type": "simple"},
        "runtime_preferences": {"preferred_mode": "bridge", "allowed_modes": ["bridge"]},
    })
}

/// Body of a run that completes.
pub fn completing() -> Value {
    body(json!([{"id": "s1", "kind": "agent", "ref": "a1"}]), json!({"agents": {"a1": agent("a1")}}), false)
}

/// Body of a run that waits for a person.
pub fn blocking() -> Value {
    let reviewer = json!({
        "description": "Approve the drill.",
        "assignee": "reviewer@example.com",
        "timeout_seconds": 3600,
        "on_timeout": "escalate",
    });
    body(
        json!([{"id": "approve", "kind": "human", "ref": "reviewer"}, {"id": "respond", "kind": "agent", "ref": "a1"}]),
        json!({"agents": {"a1": agent("a1")}, "humans": {"reviewer": reviewer}}),
        false,
    )
}

/// Asks kneo-serv on a port as the operator; none if nobody answers.
pub fn ask(port: u16, method: &str, path: &str, body: Option<&Value>) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let body = body.map(Value::to_string).unwrap_or_default();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split_whitespace().nth(1)?.parse().ok()?;
    Some(Answer { status, body: body.to_owned() })
}
