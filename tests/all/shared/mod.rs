//! A state in PostgreSQL that several engines share, on real servers: engines that die, engines that are paused, a server that goes away.
//!
//! Every engine here is a process of its own, with a state directory of its own, as on hosts of their own. One that is *apart* is in a
//! process-id namespace of its own as well: no other engine can see whether it lives.

mod away;
mod checking;
mod hosts;
mod many;
mod paused;
mod recording;
mod serving;
mod together;
mod verbs;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use host_api::sources::postgres::testing::PgServer;

use crate::support::{Outcome, Site, lifeboat, wait_until};

/// A database for a state, on a server.
pub struct SharedState {
    pub server: Arc<PgServer>,
    pub database: String,
}

impl SharedState {
    /// On the tests' server; none where there is no PostgreSQL.
    pub fn new() -> Option<Self> {
        PgServer::shared().map(Self::on)
    }

    /// On a server of its own, which may be stopped.
    pub fn alone() -> Option<Self> {
        PgServer::start().map(|server| Self::on(Arc::new(server)))
    }

    fn on(server: Arc<PgServer>) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let database = format!("shared_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        server.create(&database);
        Self { server, database }
    }

    /// What a query on the state gives.
    pub fn sql(&self, query: &str) -> String {
        self.server.sql(&self.database, &["set search_path = lifeboat", query])
    }

    /// How many records the log has.
    pub fn records(&self) -> usize {
        self.sql("select count(*) from log").parse().unwrap()
    }

    /// Nothing runs, no lease of a run on record is there that holds anyone back, and no service is held.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        let left = self.sql(
            "select 'runs ' || count(*) from run where status = 'running' union all
             select 'leases ' || count(*) from lease join run on run.id = lease.run where ended_ms is not null union all
             select 'holds ' || count(*) from hold union all
             select 'obligations ' || count(*) from obligation where state not in ('closed', 'settled')",
        );
        assert_eq!(left, "runs 0\nleases 0\nholds 0\nobligations 0");
    }

    /// The log is whole, as a host sees it, all of it.
    #[track_caller]
    pub fn assert_whole(&self, host: &Host<'_>) {
        let verdict = host.lifeboat(&["--json", "audit", "verify"]).expect(0).json();
        assert_eq!(verdict["records"], self.records(), "{verdict}");
    }

    /// The table of a configuration that names it.
    pub fn table(&self, lease_s: u64) -> String {
        format!(
            "\n[state-database]\nhost = {:?}\nport = {}\ndatabase = {:?}\nuser = \"postgres\"\nlease-s = {lease_s}\n",
            self.server.host, self.server.port, self.database
        )
    }

    /// A host whose engines work on the site with this state; apart from all others, or beside them.
    pub fn host<'s>(&self, site: &'s Site, name: &str, lease_s: u64, apart: bool) -> Host<'s> {
        let own = fs::read_to_string(site.path("lifeboat.toml")).unwrap();
        let directory = "state-directory = \".lifeboat\"";
        assert!(own.contains(directory));
        let config = format!("{name}.toml");
        let text = own.replace(directory, &format!("state-directory = \".lifeboat-{name}\""));
        site.write(&config, &format!("{text}{}", self.table(lease_s)));
        Host { site, config, state_directory: format!(".lifeboat-{name}"), apart }
    }
}

impl Drop for SharedState {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.server.sql("postgres", &[&format!("drop database if exists {} with (force)", self.database)]);
        }
    }
}

/// Whether processes can be put into a namespace of process ids of their own here; says loudly if not.
pub fn can_be_apart() -> bool {
    let can = apart(Path::new("true")).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !can {
        eprintln!("SKIPPED: no process-id namespaces here (`unshare --pid`). Nothing was tested.");
    }
    can
}

/// A program in a process-id namespace of its own. It is not the namespace's first process: that one can't stop or kill itself. All of it
/// ends with `unshare`.
pub fn apart(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-c", "\"$@\"; exit $?", "sh"]);
    command.arg(program);
    command
}

/// Where engines run: their configuration, their state directory, and what they see of others.
pub struct Host<'s> {
    pub site: &'s Site,
    config: String,
    pub state_directory: String,
    apart: bool,
}

impl Host<'_> {
    /// Changes the configuration; every replacement must hit something.
    #[track_caller]
    pub fn configure(&self, replacements: &[(&str, &str)]) {
        let mut text = fs::read_to_string(self.site.path(&self.config)).unwrap();
        for (from, to) in replacements {
            assert!(text.contains(from), "the configuration has no {from:?}");
            text = text.replace(from, to);
        }
        self.site.write(&self.config, &text);
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = if self.apart { apart(program) } else { Command::new(program) };
        command.current_dir(self.site.path("")).env("LIFEBOAT_CONFIG", &self.config).stdin(Stdio::null());
        command
    }

    /// A verb, to be changed before it is run.
    pub fn verb(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(&lifeboat());
        command.args(arguments);
        command
    }

    /// Runs a verb.
    pub fn lifeboat(&self, arguments: &[&str]) -> Outcome {
        outcome(&self.verb(arguments).output().unwrap())
    }

    /// The engine that dies or stops at a place; see `tests/crashing`.
    pub fn crashing(&self, trail: &str, at: &str, verb: &str, what: &str, words: &[&str]) -> Command {
        let mut command = self.command(Path::new(env!("CARGO_BIN_EXE_lifeboat-crashing")));
        command.arg(self.site.path(trail)).args([at, verb, what]).args(words);
        command
    }

    /// Goes on with a run when that is possible; every refusal before must be that somebody has it. Gives the last of those as well.
    #[track_caller]
    pub fn resume_when_free(&self, run: &str) -> (Outcome, Outcome) {
        let mut refused = None;
        let mut resumed = None;
        wait_until("the run can be taken over", || {
            let tried = self.lifeboat(&["--json", "runs", "resume", run, "--yes"]);
            match tried.code {
                11 => refused = Some(tried),
                _ => resumed = Some(tried),
            }
            resumed.is_some()
        });
        (refused.expect("it was somebody's at first"), resumed.unwrap())
    }

    /// An engine that stops itself at a place, as if it were paused: when this answers, it stands still there.
    #[track_caller]
    pub fn paused_at(&self, place: &str, policy: &str, words: &[&str]) -> Paused {
        let trail = format!("trail-{}", place.replace(' ', "-"));
        let mut command = self.crashing(&trail, &format!("stop:{place}"), "run", policy, words);
        let paused = Paused::of(&mut command, self.apart);
        wait_until(&format!("the engine stands at {place}"), || {
            assert!(!paused.has_ended(), "it did not come to {place}");
            paused.stands()
        });
        let reached = fs::read_to_string(self.site.path(&trail)).unwrap();
        assert!(reached.lines().last().is_some_and(|last| last.ends_with(place)), "the fault fired: {reached}");
        paused
    }
}

fn outcome(out: &std::process::Output) -> Outcome {
    Outcome {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// An engine that is or will be paused. One that a failing test leaves behind is killed.
pub struct Paused {
    child: Option<Child>,
    apart: bool,
}

impl Paused {
    pub fn of(command: &mut Command, apart: bool) -> Self {
        Self::spawned(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap(), apart)
    }

    pub fn spawned(child: Child, apart: bool) -> Self {
        Self { child: Some(child), apart }
    }

    /// The engine's process, by the id that it has here.
    fn engine(&self) -> Option<u32> {
        let outer = self.child.as_ref()?.id();
        // unshare, sh, engine.
        if self.apart { child_of(child_of(outer)?) } else { Some(outer) }
    }

    /// Whether all of its threads stand still.
    pub fn stands(&self) -> bool {
        let threads = |pid: u32| fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        self.engine().is_some_and(|pid| {
            threads(pid).all(|thread| stat(&thread.path().join("stat")).is_some_and(|(state, _)| state == 'T'))
        })
    }

    fn has_ended(&self) -> bool {
        let outer = self.child.as_ref().expect("it was not waited for").id();
        stat(Path::new(&format!("/proc/{outer}/stat"))).is_none_or(|(state, _)| state == 'Z')
    }

    pub fn signal(&self, name: &str) {
        let engine = self.engine().expect("it is there").to_string();
        assert!(Command::new("kill").args([format!("-{name}"), engine]).status().unwrap().success());
    }

    /// Lets it go on; how it ends then.
    pub fn wake(mut self) -> Outcome {
        self.signal("CONT");
        outcome(&self.child.take().unwrap().wait_with_output().unwrap())
    }

    /// Kills it; it is gone when this answers.
    pub fn kill(mut self) {
        self.signal("KILL");
        self.child.take().unwrap().wait().unwrap();
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// State and parent of a process or thread; none where it is gone.
fn stat(path: &Path) -> Option<(char, u32)> {
    let text = fs::read_to_string(path).ok()?;
    // The command's name may hold spaces and brackets.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn child_of(parent: u32) -> Option<u32> {
    let pids = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid: &u32| stat(Path::new(&format!("/proc/{pid}/stat"))).is_some_and(|(_, p)| p == parent))
}
