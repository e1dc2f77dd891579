//! Everything behind a prefix, end to end; and tools that go on there when we kill what we started.

use std::sync::atomic::Ordering;

use super::*;
use crate::bindings::Secret;
use crate::child::wait_until;
use crate::error::ErrorKind;
use crate::testing::write_program;

/// A program called `docker` that behaves like `docker exec`.
struct Container {
    dir: tempfile::TempDir,
}

impl Container {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        write_program(&dir.path().join("docker"), include_str!("container.sh"));
        Self { dir }
    }

    fn prefix(&self) -> Vec<String> {
        let program = self.dir.path().join("docker").display().to_string();
        [&program, "exec", "-i", "db"].map(String::from).into()
    }

    /// The command lines that it was given.
    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Waits until nothing runs inside. What is stuck, since nobody reads what it says any more, is read from now on.
    #[track_caller]
    fn drained(&self) {
        let drain = self.dir.path().join("drain");
        std::fs::write(&drain, "").unwrap();
        let ended = wait_until(&cx(), Duration::from_secs(30), || self.running().is_empty());
        assert!(ended, "a tool ends without its session: {:?}", self.running());
        std::fs::remove_file(drain).unwrap();
    }

    /// The commands inside that have not ended, by their process ids.
    fn running(&self) -> Vec<u32> {
        let dirs = std::fs::read_dir(self.dir.path()).unwrap();
        let pids = dirs.filter_map(|dir| std::fs::read_to_string(dir.unwrap().path().join("pid")).ok());
        pids.filter_map(|pid| pid.trim().parse().ok()).filter(|pid| crate::child::start_ticks(*pid).is_some()).collect()
    }
}

fn filled(server: &PgServer, database: &str) {
    server.create(database);
    server.sql(
        database,
        &[
            "CREATE TABLE t(a int PRIMARY KEY, at timestamptz, b text)",
            "INSERT INTO t SELECT i, now(), repeat(md5(i::text), 40) FROM generate_series(1, 20000) i",
            "SELECT lo_from_bytea(0, '\\x0001')",
        ],
    );
}

/// Dump, restore, verify, ask, promote, undo: all through one way to the server.
#[track_caller]
fn everything(server: &PgServer, source: PostgresSource) {
    let live = source.database.clone();
    let driver = driver(source);
    driver.check(&cx()).unwrap();
    let taken = take(&driver, &[question("SELECT count(*) FROM t WHERE b <> 'it''s $1; `x`'")]);
    assert_eq!(taken.dumped.findings, []);
    assert_eq!(taken.dumped.answers["q"], [[Some("20000".to_owned())]]);
    let member = stage(&driver, &taken).unwrap();
    assert_eq!(verify(&driver, &member, &taken).findings, []);
    driver.execute(&cx(), &member, &["UPDATE t SET b = 'it''s \"$HOME\" \\ ; *' WHERE a = 1".into()]).unwrap();
    let asked = driver.query(&cx(), Some(&member), &question("SELECT b FROM t WHERE a = 1")).unwrap();
    assert_eq!(asked, [[Some("it's \"$HOME\" \\ ; *".to_owned())]]);
    driver.preflight(&cx(), &member).unwrap();
    let swap = driver.plan_swap(&cx(), &member).unwrap();
    let of_live = || server.sql("postgres", &[&format!("SELECT oid FROM pg_database WHERE datname = '{live}'")]);
    let before = of_live();
    driver.promote(&cx(), &member, &swap).unwrap();
    assert_eq!(of_live(), member.identity["oid"]);
    driver.undo(&cx(), &swap).unwrap();
    assert_eq!(of_live(), before);
    server.sql("postgres", &[&format!("DROP DATABASE \"{}\"", swap.other_place)]);
}

#[test]
fn everything_works_in_a_container() {
    let server = server!();
    filled(&server, "contained");
    let container = Container::new();
    everything(&server, PostgresSource { prefix: container.prefix(), ..server.source("contained") });
    let log = container.log();
    for tool in ["psql", "pg_dump", "pg_restore"] {
        assert!(log.contains(&format!("/{tool} ")), "{tool}: {log}");
    }
    assert_eq!(container.running(), [0; 0]);
}

#[test]
fn a_password_reaches_the_container_and_stands_in_no_arguments() {
    let server = server!();
    filled(&server, "secretive");
    server.sql("postgres", &["CREATE ROLE contained SUPERUSER LOGIN PASSWORD 'hunter2:\\ x'"]);
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "hunter2:\\ x\n").unwrap();
    let password = Some(Secret { file: Some(secret.path().into()), ..Secret::default() });
    let container = Container::new();
    let source = PostgresSource {
        host: "127.0.0.1".into(),
        user: "contained".into(),
        password,
        prefix: container.prefix(),
        ..server.source("secretive")
    };
    everything(&server, source.clone());
    let log = container.log();
    assert!(log.contains("exec -e PGPASSWORD -i db env") && !log.contains("hunter2"), "{log}");

    std::fs::write(secret.path(), "wr0ng\n").unwrap();
    let error = driver(source).check(&cx()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Denied, "{error}");
    assert!(!error.to_string().contains("wr0ng"), "{error}");
}

#[test]
fn everything_works_as_another_user_and_over_a_shell() {
    let server = server!();
    filled(&server, "elsewhere");
    let through = |prefix: &[&str]| {
        let prefix = prefix.iter().map(|w| (*w).to_owned()).collect();
        everything(&server, PostgresSource { prefix, ..server.source("elsewhere") });
    };
    // Words of the environment on that side that libpq would put before our settings.
    through(&["env", "PGDATESTYLE=German", "PGTZ=Asia/Kolkata", "LC_ALL=xx", "PGOPTIONS=-c bytea_output=escape"]);
    // What a real ssh does with what it is given: joins it with spaces, for a shell.
    let dir = tempfile::tempdir().unwrap();
    let ssh = dir.path().join("ssh");
    write_program(&ssh, "#!/bin/sh\nshift\nexec env -i PATH=\"$PATH\" sh -c \"$*\"\n");
    through(&[&ssh.display().to_string(), "db1", "nice"]);

    let user = std::env::var("LIFEBOAT_PG_USER").unwrap_or_else(|_| "postgres".into());
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: not root, so nothing can run as {user}. Prefixes that change the user were NOT tested.");
        return;
    }
    let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
    through(&["setpriv", &uid, &gid, "--clear-groups", "--reset-env", "--"]);
    match std::process::Command::new("sudo").args(["-n", "-u", &user, "true"]).status() {
        Ok(status) if status.success() => {
            through(&["sudo", "-n", "-u", &user]);
            let secret = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(secret.path(), "over sudo\n").unwrap();
            server.sql("postgres", &["CREATE ROLE sudoer LOGIN SUPERUSER PASSWORD 'over sudo'"]);
            let source = PostgresSource {
                host: "127.0.0.1".into(),
                user: "sudoer".into(),
                password: Some(Secret { file: Some(secret.path().into()), ..Secret::default() }),
                prefix: ["sudo", "-n", "-u", &user].map(str::to_owned).into(),
                ..server.source("elsewhere")
            };
            driver(source).check(&cx()).unwrap();
        }
        _ => eprintln!("SKIPPED: no sudo that needs no password. sudo was NOT tested."),
    }
}

/// A tool's sessions, by what the server says.
fn sessions(server: &PgServer, cx: &StepContext) -> String {
    let query = format!("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'lifeboat/{}/%'", cx.run);
    server.sql("postgres", &[&query])
}

/// A table that someone else holds: whoever reads or writes it waits.
fn held(server: &PgServer, database: &str, statement: &str) -> std::process::Child {
    let mut command = server.psql(database);
    command.args(["-c", "BEGIN", "-c", statement, "-c", "SELECT pg_sleep(600)"]);
    let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND query LIKE '%pg_sleep(600)%' AND state = 'active'"
    );
    assert!(wait_until(&cx(), Duration::from_secs(20), || server.sql("postgres", &[&query]) == "1"), "it is held");
    child
}

/// Cancels a step once its tool is at work inside, and gives the step's error and whether that was seen.
fn cancelled_at<T: std::fmt::Debug>(
    cx: &StepContext,
    at_work: impl Fn() -> bool + Sync,
    act: impl FnOnce() -> Result<T>,
) -> crate::Error {
    let seen = std::sync::atomic::AtomicBool::new(false);
    let error = std::thread::scope(|scope| {
        scope.spawn(|| {
            let waiting = StepContext::detached("waiting", Duration::from_secs(60));
            seen.store(wait_until(&waiting, Duration::from_secs(30), &at_work), Ordering::Relaxed);
            cx.cancelled.store(true, Ordering::Relaxed);
        });
        act().unwrap_err()
    });
    assert!(seen.load(Ordering::Relaxed), "the tool was at work: {error}");
    error
}

#[test]
fn a_dump_that_goes_on_in_the_container_is_ended() {
    let server = server!();
    filled(&server, "dumped");
    // More than pipes hold, so that nobody comes to an end by himself.
    server.sql(
        "dumped",
        &["INSERT INTO t SELECT i, now(), repeat(md5(i::text), 40) FROM generate_series(20001, 60000) i"],
    );
    let container = Container::new();
    let source = PostgresSource { prefix: container.prefix(), ..server.source("dumped") };
    let step = cx();
    let copying = |step: &StepContext| {
        let query = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}' AND query LIKE 'COPY%' AND wait_event = 'ClientWrite'",
            step.marker()
        );
        server.sql("postgres", &[&query]) == "1"
    };
    let error = cancelled_at(&step, || copying(&step), || driver(source.clone()).dump(&step, &Blocked(&step), &[]));
    assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
    assert_eq!(sessions(&server, &step), "0");
    container.drained();

    // At a deadline the same; a longer one, where the machine is too slow to come to the point before it.
    for seconds in [3, 20, 90] {
        let step = StepContext { deadline: std::time::Instant::now() + Duration::from_secs(seconds), ..cx() };
        let seen = std::sync::atomic::AtomicBool::new(false);
        let error = std::thread::scope(|scope| {
            scope
                .spawn(|| seen.store(wait_until(&step, Duration::from_secs(90), || copying(&step)), Ordering::Relaxed));
            driver(source.clone()).dump(&step, &Blocked(&step), &[]).unwrap_err()
        });
        assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
        assert_eq!(sessions(&server, &step), "0");
        if seen.load(Ordering::Relaxed) {
            container.drained();
            return;
        }
    }
    panic!("pg_dump was never at work before the deadline");
}

/// A sink that takes nothing more once it has begun, until the step is cancelled: what is dumped stands in the pipes.
struct Blocked<'a>(&'a StepContext);

struct BlockedWriter(StepContext);

impl ObjectSink for Blocked<'_> {
    fn create(&self, _: &str, _: &str, _: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(BlockedWriter(self.0.clone())))
    }
}

impl Write for BlockedWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        while self.0.check().is_ok() {
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl ObjectWriter for BlockedWriter {
    fn finish(self: Box<Self>) -> Result<ObjectEntry> {
        unreachable!("a dump that was cancelled is not finished")
    }
}

#[test]
fn a_restore_that_goes_on_in_the_container_is_ended_and_leaves_nothing() {
    let server = server!();
    filled(&server, "restored");
    let taken = take(&driver(server.source("restored")), &[]);
    let container = Container::new();
    let source = PostgresSource { prefix: container.prefix(), ..server.source("restored") };
    let step = cx();
    let id = crate::identifier::fresh();
    let place = driver(source.clone()).generated(&id).unwrap();
    let restoring = || {
        let query = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}' AND datname = '{place}'",
            step.marker()
        );
        if server.sql("postgres", &[&query]) != "1" {
            return false;
        }
        // From here it can't go on: `pg_restore` itself is stopped, as if it were slow.
        let stopped = container.running();
        stopped.iter().for_each(|pid| signal(*pid, rustix::process::Signal::STOP));
        !stopped.is_empty()
    };
    let error = cancelled_at(&step, restoring, || {
        driver(source.clone()).stage(
            &step,
            &taken.manifest,
            &taken.objects,
            &id,
            &Target::Beside,
            &StageOptions { jobs: 2, ..StageOptions::default() },
        )
    });
    assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
    assert_eq!(sessions(&server, &step), "0");
    assert_eq!(server.sql("postgres", &[&format!("SELECT count(*) FROM pg_database WHERE datname = '{place}'")]), "0");
    container.running().iter().for_each(|pid| signal(*pid, rustix::process::Signal::CONT));
    container.drained();
    assert_eq!(server.sql("postgres", &[&format!("SELECT count(*) FROM pg_database WHERE datname = '{place}'")]), "0");
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

#[test]
fn a_cancellation_holds_although_the_tool_goes_on_with_our_pipes() {
    let server = server!();
    filled(&server, "waiting");
    // In a session of its own: killing the group does not reach it, and its pipes stay open.
    let prefix = ["setsid", "--wait"].map(str::to_owned).into();
    let driver = driver(PostgresSource { prefix, ..server.source("waiting") });
    let member = stage(&driver, &take(&driver, &[])).unwrap();
    let mut holder = held(&server, &member.place, "LOCK TABLE t");
    let step = cx();
    let waits = || {
        let query = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}' AND wait_event_type = 'Lock'",
            step.marker()
        );
        server.sql("postgres", &[&query]) == "1"
    };
    // Nothing else would end it: the lock is held for ten minutes.
    let error = cancelled_at(&step, waits, || driver.execute(&step, &member, &["UPDATE t SET b = ''".into()]));
    assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
    assert_eq!(sessions(&server, &step), "0", "{error}");
    driver.discard(&cx(), &member).unwrap();
    assert!(!holder.wait().unwrap().success(), "ended with its database");
}

#[test]
fn a_dump_in_a_container_whose_engine_died_is_ended_by_the_probe() {
    let server = server!();
    filled(&server, "orphaned");
    let container = Container::new();
    let source = PostgresSource { prefix: container.prefix(), ..server.source("orphaned") };
    let first = cx();
    // The client as an engine starts it, killed as when the engine's group is.
    let mut arguments = source.prefix.clone();
    let conninfo = format!(
        "host={} port={} user=postgres dbname=orphaned application_name={}",
        server.host,
        server.port,
        first.marker()
    );
    arguments.extend([
        "env".into(),
        server.bin_dir.join("pg_dump").display().to_string(),
        "-Fc".into(),
        "-Z0".into(),
        "-d".into(),
        conninfo,
    ]);
    let client = crate::child::Child::spawn(&first, &crate::child::Spec::new(arguments)).unwrap();
    assert!(wait_until(&cx(), Duration::from_secs(20), || sessions(&server, &first) == "1"), "pg_dump is connected");
    drop(client);
    assert_eq!(
        (sessions(&server, &first).as_str(), container.running().len()),
        ("1", 1),
        "it goes on without its client"
    );
    // A step with a number that begins in the same way is another one.
    let other = StepContext { step: 10, ..first.clone() };
    driver(source.clone()).end_attempts(&StepContext { attempt: 2, ..other }).unwrap();
    assert_eq!(sessions(&server, &first), "1");
    driver(source).end_attempts(&StepContext { attempt: 2, ..first.clone() }).unwrap();
    assert_eq!(sessions(&server, &first), "0");
    container.drained();
}

/// A container of a real Docker, removed when it is dropped.
struct Real {
    docker: Vec<String>,
    id: String,
}

impl Real {
    /// Of `LIFEBOAT_TEST_DOCKER_IMAGE`, which has the tools of the tests' server at the same place; reached by the words of
    /// `LIFEBOAT_TEST_DOCKER` (`docker --host …`).
    fn start(server: &PgServer) -> Option<Self> {
        let (Ok(docker), Ok(image)) =
            (std::env::var("LIFEBOAT_TEST_DOCKER"), std::env::var("LIFEBOAT_TEST_DOCKER_IMAGE"))
        else {
            eprintln!(
                "SKIPPED: LIFEBOAT_TEST_DOCKER and LIFEBOAT_TEST_DOCKER_IMAGE are not set. A real Docker was NOT tested."
            );
            return None;
        };
        let mut real = Self { docker: docker.split_whitespace().map(str::to_owned).collect(), id: String::new() };
        let volume = format!("{0}:{0}", server.host);
        real.id =
            real.run(&["run", "--detach", "--init", "--network", "host", "--volume", &volume, &image, "sleep", "3600"]);
        Some(real)
    }

    fn run(&self, arguments: &[&str]) -> String {
        let out = std::process::Command::new(&self.docker[0]).args(&self.docker[1..]).args(arguments).output().unwrap();
        assert!(out.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        let mut command = std::process::Command::new(&self.docker[0]);
        // What is left is seen in `docker ps`.
        let _ = command.args(&self.docker[1..]).args(["rm", "--force", &self.id]).output();
    }
}

#[test]
fn everything_works_in_a_real_docker() {
    let server = server!();
    let Some(container) = Real::start(&server) else { return };
    filled(&server, "docked");
    server.sql("postgres", &["CREATE ROLE docked SUPERUSER LOGIN PASSWORD 'in docker'"]);
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), "in docker\n").unwrap();
    let mut prefix = container.docker.clone();
    prefix.extend(["exec", "-i", container.id.as_str()].map(str::to_owned));
    let over_socket = PostgresSource { prefix, ..server.source("docked") };
    everything(&server, over_socket.clone());
    everything(
        &server,
        PostgresSource {
            host: "127.0.0.1".into(),
            user: "docked".into(),
            password: Some(Secret { file: Some(secret.path().into()), ..Secret::default() }),
            ..over_socket.clone()
        },
    );

    // Something that waits inside, and whose client is killed.
    let driver = driver(over_socket);
    let member = stage(&driver, &take(&driver, &[])).unwrap();
    let mut holder = held(&server, &member.place, "LOCK TABLE t");
    let step = cx();
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = '{}' AND wait_event_type = 'Lock'",
        step.marker()
    );
    let waits = || server.sql("postgres", &[&query]) == "1";
    let inside = || container.run(&["exec", &container.id, "sh", "-c", "cat /proc/[0-9]*/comm"]).contains("psql");
    let error =
        cancelled_at(&step, || waits() && inside(), || driver.execute(&step, &member, &["UPDATE t SET b = ''".into()]));
    assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
    assert_eq!(sessions(&server, &step), "0");
    assert!(wait_until(&cx(), Duration::from_secs(20), || !inside()), "psql ends with its session");
    driver.discard(&cx(), &member).unwrap();
    let _ = holder.wait();
}
