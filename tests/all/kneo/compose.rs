//! kneo-serv as the operator page runs it: a Compose stack of a database and the service, with a real Docker. Dump, off the host, destroy the
//! volume, recover. Only where `LIFEBOAT_TEST_DOCKER` says how Docker is reached (`docker --host unix:///…`).

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use host_api::sources::postgres::testing::{ClusterPlace, PgServer};

use crate::support::kneo::{CONTENT, KEY, Kneo, Mode, environments};
use crate::support::wait_until;

/// The database server, as an image of PostgreSQL has it: made on a volume that is empty, reached by password but through its own socket.
const DATABASE: &str = r#"set -eu
mkdir -p /run/postgresql
if [ ! -s /data/here/PG_VERSION ]; then
    install -d -o postgres -g postgres -m 700 /data/here
    $AS BIN/initdb -D /data/here -U postgres --auth-local=trust --auth-host=scram-sha-256 -E UTF8 --no-locale
    echo "host all all all scram-sha-256" >>/data/here/pg_hba.conf
fi
chown postgres /run/postgresql
exec $AS BIN/postgres -D /data/here -c listen_addresses='*' -k /run/postgresql
"#;

/// A stack, taken down with its volume when it is dropped.
struct Stack {
    docker: Vec<String>,
    compose: Vec<String>,
    role: String,
}

impl Stack {
    /// Written beside the environment of a site; none, with a loud line, without Docker.
    fn beside(kneo: &Kneo) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let Ok(docker) = std::env::var("LIFEBOAT_TEST_DOCKER") else {
            eprintln!("SKIPPED: LIFEBOAT_TEST_DOCKER is not set. A Compose stack was NOT tested.");
            return None;
        };
        let docker: Vec<String> = docker.split_whitespace().map(str::to_owned).collect();
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let project = format!("lifeboat{}x{number}", std::process::id());
        let mut compose = vec!["docker-compose".to_owned()];
        compose.extend(docker[1..].iter().cloned());
        compose.extend(["--project-name", &project, "--file"].map(str::to_owned));
        compose.push(kneo.site.path("compose.yml").display().to_string());
        compose.extend(["--env-file".to_owned(), kneo.site.path("production.env").display().to_string()]);
        let stack = Self { docker, compose, role: kneo.database_name().to_owned() };
        stack.write(kneo);
        Some(stack)
    }

    fn write(&self, kneo: &Kneo) {
        let image = host_image(&self.docker);
        let versions = environments().expect("kneo-serv is here");
        // Where the interpreter of the environments lies, if not below /usr.
        let python = std::fs::canonicalize(versions.join("1.2.0/bin/python")).unwrap();
        let home = python.parent().and_then(Path::parent).unwrap().to_owned();
        let bin = bin_dir();
        let mut volumes = vec!["/usr:/usr:ro".to_owned(), format!("{0}:{0}:ro", versions.display())];
        if !home.starts_with("/usr") {
            volumes.push(format!("{0}:{0}:ro", home.display()));
        }
        let volumes: String = volumes.iter().map(|volume| format!("      - {volume}\n")).collect();
        let script = DATABASE
            .replace("$AS", "setpriv --reuid=postgres --regid=postgres --clear-groups")
            .replace("BIN", &bin)
            .replace('$', "$$")
            .replace('\n', "\n        ");
        let role = &self.role;
        let port = kneo.site.port;
        kneo.site.write("production.env", &format!("KEYS=lifeboat:{KEY}:operator\nPASSWORD=secret-of-{role}\n"));
        kneo.site.write(
            "compose.yml",
            &format!(
                r#"version: "3.4"
services:
  db:
    image: {image}
    init: true
    command:
      - bash
      - -c
      - |
        {script}
    volumes:
{volumes}      - data:/data
  api:
    image: {image}
    init: true
    command: ["{versions}/1.2.0/bin/kneo", "service", "serve", "--host", "0.0.0.0", "--port", "18200"]
    working_dir: /srv
    environment:
      KNEO_SERV_DATABASE_URL: postgresql://{role}@db:5432/{role}
      KNEO_SERV_API_KEYS: $KEYS
      PGPASSWORD: $PASSWORD
    ports:
      - "127.0.0.1:{port}:18200"
    volumes:
{volumes}volumes:
  data: {{}}
"#,
                versions = versions.display(),
            ),
        );
    }

    fn compose(&self, words: &[&str]) -> String {
        self.compose_with(words, b"")
    }

    fn compose_with(&self, words: &[&str], input: &[u8]) -> String {
        let command = [&self.compose[..], &words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>()].concat();
        ran(&command, input)
    }

    /// As the page has it: `exec -T db psql`.
    fn sql(&self, database: &str, sql: &str) -> String {
        let psql = format!("{}/psql", bin_dir());
        let words = ["exec", "-T", "db", &psql, "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres"];
        self.compose_with(&[&words[..], &["-d", database]].concat(), sql.as_bytes()).trim_end().to_owned()
    }

    fn content(&self) -> String {
        CONTENT.map(|query| self.sql(&self.role, query)).join("\n--\n")
    }

    /// A database server on a new, empty volume.
    fn provision(&self) {
        self.compose(&["up", "--detach", "--no-deps", "db"]);
        let psql = format!("{}/psql", bin_dir());
        let asks = [&self.compose[..], &words(&["exec", "-T", "db", &psql, "-X", "-U", "postgres", "-c", "select 1"])]
            .concat();
        wait_until("the database server of the stack answers", || {
            let asked = Command::new(&asks[0]).args(&asks[1..]).stdin(Stdio::null()).output().unwrap();
            asked.status.success()
        });
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = Command::new(&self.compose[0]).args(&self.compose[1..]).args(["logs", "--no-color"]).output();
            eprintln!(
                "{}",
                logs.map_or_else(|e| e.to_string(), |out| String::from_utf8_lossy(&out.stdout).into_owned())
            );
        }
        let _ = Command::new(&self.compose[0])
            .args(&self.compose[1..])
            .args(["down", "--volumes", "--timeout", "1"])
            .output();
    }
}

#[track_caller]
fn ran(command: &[String], input: &[u8]) -> String {
    let mut child = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// An image with nothing in it but mount points and accounts: programs are this machine's own, mounted read-only. It needs no registry.
fn host_image(docker: &[String]) -> String {
    let image = "lifeboat-test-host:latest".to_owned();
    let root = tempfile::tempdir().unwrap();
    for folder in ["usr", "etc", "run", "tmp", "proc", "sys", "dev", "var", "data", "srv", "root", "sbin"] {
        std::fs::create_dir(root.path().join(folder)).unwrap();
    }
    // Docker's own init goes into /sbin.
    for link in ["bin", "lib", "lib64"] {
        std::os::unix::fs::symlink(format!("usr/{link}"), root.path().join(link)).unwrap();
    }
    std::os::unix::fs::symlink("../run", root.path().join("var/run")).unwrap();
    for file in ["passwd", "group", "nsswitch.conf", "ld.so.cache"] {
        std::fs::copy(Path::new("/etc").join(file), root.path().join("etc").join(file)).unwrap();
    }
    let tar = root.path().with_extension("tar");
    ran(&words(&["tar", "-C", &root.path().display().to_string(), "-cf", &tar.display().to_string(), "."]), b"");
    ran(&[docker, &words(&["import", &tar.display().to_string(), &image])].concat(), b"");
    std::fs::remove_file(tar).unwrap();
    image
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// PostgreSQL's programs, which the containers see at the same place.
fn bin_dir() -> String {
    let server = PgServer::shared().expect("PostgreSQL is here");
    assert!(server.bin_dir.starts_with("/usr"), "{} is not mounted into containers", server.bin_dir.display());
    server.bin_dir.display().to_string()
}

/// The environment of the example, with the stack in place of a server and a child.
fn configure(kneo: &Kneo, stack: &Stack, place: &ClusterPlace) {
    let quoted = |words: &[String]| format!("{words:?}");
    let exec = [&stack.compose[..], &words(&["exec", "-T", "db"])].concat();
    let text = std::fs::read_to_string(kneo.site.path("lifeboat.toml")).unwrap();
    let section = |name: &str| text.find(&format!("[environment.production.service.kneo.{name}]")).unwrap();
    let control = &text[section("control")..section("install")];
    let port = text.lines().find(|line| line.starts_with("port = ")).unwrap();
    let compose = format!(
        "[environment.production.service.kneo.control]\nkind = \"compose\"\nservice = \"api\"\ncompose = {}\ndocker = {}\nports = [{}]\n\n",
        quoted(&stack.compose),
        quoted(&stack.docker),
        kneo.site.port
    );
    kneo.site.configure(&[
        (control, &compose),
        (port, "port = 5432"),
        ("password = {", &format!("prefix = {}\npassword = {{", quoted(&exec))),
    ]);
    kneo.drill_in(place);
}

#[test]
fn the_page_on_a_compose_stack() {
    let Some(kneo) = Kneo::installed(Mode::Postgres, "1.2.0") else { return };
    let Some(stack) = Stack::beside(&kneo) else { return };
    let place = ClusterPlace::new();
    configure(&kneo, &stack, &place);
    let role = stack.role.clone();
    stack.provision();
    stack.sql("postgres", &format!("CREATE ROLE {role} LOGIN CREATEDB PASSWORD 'secret-of-{role}'"));
    stack.sql("postgres", &format!("CREATE DATABASE {role} OWNER {role} TEMPLATE template0"));
    kneo.site.lifeboat(&["service", "start", "kneo"]).expect(0);
    wait_until("the stack's service is ready", || kneo.ask("GET", "/readyz", None).is_some_and(|a| a.status == 200));
    let runs = [kneo.completed_run(), kneo.blocked_run()];
    let before = stack.content();

    // Dump, and off the host. A drill needs nothing of the stack.
    kneo.site.run("backup", &[]).expect(0);
    kneo.site.run("drill", &[]).expect(0);
    assert_eq!((place.holds().len(), place.processes()), (0, 0));

    // A restore while the stack goes on: what came after the backup is gone, and the service is the same container's.
    let later = kneo.completed_run();
    kneo.site.run("restore", &["--yes"]).expect(0);
    assert_eq!(stack.content(), before);
    assert_eq!(kneo.status(&format!("/v1/runs/{later}")), 404);

    // Host and volume are destroyed; the off-site copy and the configuration are elsewhere.
    stack.compose(&["down", "--volumes", "--timeout", "5"]);
    kneo.lose_host();
    stack.provision();
    let listed = kneo.site.lifeboat(&["--json", "backups", "list", "--store", "offsite"]).expect(0).json();
    let backup = listed[0]["id"].as_str().unwrap().to_owned();
    // The role of the old server, by the text that is in the backup; its password, from where it is kept.
    let globals = kneo.site.lifeboat(&["backups", "globals", &backup]).expect(0).stdout;
    let of_role: Vec<&str> = globals.lines().filter(|line| line.contains(&format!("ROLE {role}"))).collect();
    assert!(!of_role.is_empty(), "{globals}");
    stack.sql("postgres", &of_role.join("\n"));
    stack.sql("postgres", &format!("ALTER ROLE {role} PASSWORD 'secret-of-{role}'"));
    let recovered = kneo.site.run("disaster-recovery", &["--param", "scenario=all-lost", "--yes"]).expect(0);
    assert_eq!(kneo.site.evidence(&recovered, "disaster-recovery.json")["state"], "recovered");
    assert_eq!(stack.content(), before);
    for run in runs {
        assert_eq!(kneo.get(&format!("/v1/runs/{run}"))["run_id"], run);
    }
}
