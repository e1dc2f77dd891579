//! An engine that is paused, and wakes when another one has taken over its run: it does nothing more, and says who has the run.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use host_api::sources::postgres::testing::PgServer;
use serde_json::{Value, json};

use super::recording::Recording;
use super::{Host, Paused, SharedState, can_be_apart};
use crate::support::{Outcome, Site, wait_until};
use crate::sweep::names;

/// Short, and long enough for an act of these tests on a busy machine.
const LEASE_S: u64 = 15;

/// A service of a database and a directory whose manager, a script, can be reached from every host.
pub struct Book {
    pub site: Site,
    server: Option<(Arc<PgServer>, String)>,
    _ready: Recording,
}

const POLICIES: &str = r#"
[environment.demo.policy.take]
module = "policies/backup.wasm"
world = "backup"
grants = ["dump.take service=book store=local", "upload.verify service=book store=*"]
parameters = { service = "book", store = "local" }

[environment.demo.policy.give-back]
module = "policies/restore.wasm"
world = "recovery"
grants = [
    "catalog.latest service=book store=*", "upload.verify service=book store=*",
    "restore.* service=book store=* target=beside query=*", "service.* service=book",
    "confirm.request-promote service=book", "confirm.request-undo service=book",
    "promote.preflight service=book", "promote.promote service=book",
]
parameters = { service = "book", store = "local" }

[environment.demo.service.book.endpoint.api]
url = "http://127.0.0.1:PORT"

[environment.demo.service.book.ready]
endpoint = "api"
path = "/readyz"

[environment.demo.service.book.control]
kind = "command"
start = ["sh", "-c", "echo start >> ROOT/control.log; touch ROOT/up"]
stop = ["sh", "-c", "echo stop >> ROOT/control.log; rm -f ROOT/up"]
status = ["sh", "-c", "test -e ROOT/up || exit 3"]

[environment.demo.service.book.source.files]
kind = "files"
path = "book/files"
"#;

impl Book {
    pub fn new(postgres: Option<&SharedState>) -> Self {
        let site = Site::notes();
        let root = site.path("").display().to_string();
        let root = root.trim_end_matches('/');
        let mut text = POLICIES.replace("ROOT", root).replace("PORT", &site.port.to_string());
        site.write("book/files/page", "first");
        site.write("up", "");
        let server = postgres.map(|state| {
            let database = format!("book_{}", state.database);
            state.server.create(&database);
            let rows = "insert into t select i, 'row ' || i from generate_series(1, 500) i";
            state.server.sql(&database, &["create table t (id int primary key, words text)", rows]);
            (state.server.clone(), database)
        });
        text += &match &server {
            Some((server, database)) => format!(
                "[environment.demo.service.book.source.db]\nkind = \"postgres\"\nhost = {:?}\nport = {}\ndatabase = {database:?}\n\
                 user = \"postgres\"\nbin-dir = {:?}\n",
                server.host, server.port, server.bin_dir
            ),
            None => {
                let db = rusqlite::Connection::open(site.path("book/db.sqlite")).unwrap();
                db.execute_batch(
                    "create table t (id integer primary key, words text); insert into t values (1, 'row 1')",
                )
                .unwrap();
                "[environment.demo.service.book.source.db]\nkind = \"sqlite\"\npath = \"book/db.sqlite\"\n".into()
            }
        };
        site.append(&text);
        site.guest(
            "traps",
            "trap-between",
            "upgrade",
            &["service.stop service=book"],
            "parameters = { service = \"book\" }",
        );
        let ready = Recording::listen(site.port);
        Self { site, server, _ready: ready }
    }

    /// The live data differ from what the backup has.
    pub fn drift(&self) {
        self.site.write("book/files/page", "second");
        match &self.server {
            Some((server, database)) => drop(server.sql(database, &["update t set words = 'drifted'"])),
            None => {
                let db = rusqlite::Connection::open(self.site.path("book/db.sqlite")).unwrap();
                db.execute("update t set words = 'drifted'", ()).unwrap();
            }
        }
    }

    /// How many backups there are.
    pub fn backups(&self) -> usize {
        self.world()["manifests"].as_array().unwrap().len()
    }

    /// What is in the world: looked at without an engine.
    pub fn world(&self) -> Value {
        let (drifted, beside) = match &self.server {
            Some((server, database)) => {
                let made = format!(
                    "select count(*) filter (where datname like 'lb\\_prev%'), count(*) filter (where datname not like 'lb\\_prev%'),
                            bool_and(datallowconn), (select oid from pg_database where datname = '{database}')
                     from pg_database where datname like 'lb\\_%' or datname = '{database}'"
                );
                // In the middle of a swap it takes no connections.
                let mut asked = server.psql(database);
                let asked = asked.args(["-c", "select count(*) from t where words = 'drifted'"]).output().unwrap();
                let drifted = String::from_utf8_lossy(&asked.stdout).trim().to_owned();
                (drifted, server.sql("postgres", &[&made]))
            }
            None => {
                let db = rusqlite::Connection::open(self.site.path("book/db.sqlite")).unwrap();
                let drifted =
                    db.query_row("select count(*) from t where words = 'drifted'", (), |row| row.get::<_, i64>(0));
                (drifted.unwrap().to_string(), String::new())
            }
        };
        json!({
            "drifted": drifted, "beside": beside, "page": std::fs::read_to_string(self.site.path("book/files/page")).unwrap(),
            "names": names(&self.site.path("book")), "manifests": names(&self.site.path("backups/book/manifests")).into_iter().filter(|n| !n.starts_with('.')).collect::<Vec<_>>(),
            "control": std::fs::read_to_string(self.site.path("control.log")).unwrap_or_default(),
            "up": self.site.path("up").exists(),
        })
    }
}

impl Drop for Book {
    fn drop(&mut self) {
        let Some((server, database)) = self.server.take().filter(|_| !std::thread::panicking()) else { return };
        let all = format!("select datname from pg_database where datname like 'lb\\_%' or datname = '{database}'");
        for name in server.sql("postgres", &[&all]).lines() {
            server.sql("postgres", &[&format!("drop database {name:?} with (force)")]);
        }
    }
}

/// The run that was begun last.
pub fn newest(host: &Host<'_>) -> String {
    host.lifeboat(&["--json", "runs", "list", "--limit", "1"]).expect(0).json()[0]["run"].as_str().unwrap().to_owned()
}

/// What the second engine is refused while the first one may be alive, and what the first one says when it wakes.
struct Story<'s> {
    state: &'s SharedState,
    book: &'s Book,
    first: Host<'s>,
    second: Host<'s>,
}

impl<'s> Story<'s> {
    fn new(state: &'s SharedState, book: &'s Book) -> Self {
        let host = |name| state.host(&book.site, name, LEASE_S, true);
        Self { state, book, first: host("first"), second: host("second") }
    }

    /// Takes over from a paused engine, wakes that, and sees that it changes nothing and says why. Gives the outcome of the one who took over.
    fn taken_over(&self, paused: Paused, place: &str) -> Outcome {
        let run = newest(&self.second);
        let (refused, ended) = self.second.resume_when_free(&run);
        let why = refused.said();
        assert!(why.contains("is on another host") && why.contains("s more"), "{place}: {why}");
        assert!(paused.stands(), "{place}: it was paused all the time");
        let (records, world) = (self.state.records(), self.book.world());
        let woken = paused.wake();
        assert_eq!(woken.code, 11, "{place}: {woken:?}");
        assert!(woken.stderr.contains(&format!("run {run} was taken over by ")), "{place}: {woken:?}");
        assert!(woken.stderr.contains('@') && woken.stderr.contains("which ended it"), "{place}: {woken:?}");
        assert_eq!(self.state.records(), records, "{place}: it wrote nothing: {}", self.shown(&run));
        assert_eq!(self.book.world(), world, "{place}: it did nothing: {}", self.shown(&run));
        self.state.assert_nothing_left();
        self.state.assert_whole(&self.second);
        ended
    }

    fn shown(&self, run: &str) -> String {
        self.second.lifeboat(&["runs", "show", run]).stdout
    }
}

/// A backup: before its step is on record, when it is, in the middle of it, and when it is done and not on record.
#[test]
fn a_paused_backup_is_taken_once_by_whoever_takes_over() {
    if !can_be_apart() {
        return;
    }
    std::thread::scope(|scope| {
        for place in
            ["1 prepared", "1 started", "1 dumped db", "1 before the manifest", "1 manifest written", "1 acted"]
        {
            scope.spawn(move || {
                let Some(state) = SharedState::new() else { return };
                let book = Book::new(None);
                let story = Story::new(&state, &book);
                let paused = story.first.paused_at(place, "take", &[]);
                story.taken_over(paused, place).expect(0);
                assert_eq!(book.world()["manifests"].as_array().unwrap().len(), 1, "{place}");
            });
        }
    });
}

/// A restore of files and an SQLite database: between the two exchanges, and before them.
#[test]
fn a_paused_exchange_of_a_set_is_completed_by_whoever_takes_over() {
    if !can_be_apart() {
        return;
    }
    std::thread::scope(|scope| {
        for place in ["staged db", "promoted db"] {
            scope.spawn(move || {
                let Some(state) = SharedState::new() else { return };
                let book = Book::new(None);
                let story = Story::new(&state, &book);
                story.first.lifeboat(&["run", "take"]).expect(0);
                book.drift();
                let paused = story.first.paused_at(place, "give-back", &[]);
                story.taken_over(paused, place).expect(0);
                let world = book.world();
                assert_eq!((&world["drifted"], &world["page"]), (&json!("0"), &json!("first")), "{place}: {world}");
                assert_eq!(world["control"], "stop\nstart\n", "{place}");
            });
        }
    });
}

/// The same with a PostgreSQL database: while a candidate is filled, and inside the transaction of the promotion.
#[test]
fn a_paused_restore_in_postgres_is_ended_in_the_server_and_completed_by_whoever_takes_over() {
    if !can_be_apart() {
        return;
    }
    std::thread::scope(|scope| {
        for place in ["database created", "sessions kept out", "before the commit", "committed"] {
            scope.spawn(move || {
                let Some(state) = SharedState::alone() else { return };
                let book = Book::new(Some(&state));
                let story = Story::new(&state, &book);
                story.first.lifeboat(&["run", "take"]).expect(0);
                book.drift();
                let paused = story.first.paused_at(place, "give-back", &[]);
                story.taken_over(paused, place).expect(0);
                let world = book.world();
                assert_eq!((&world["drifted"], &world["page"]), (&json!("0"), &json!("first")), "{place}: {world}");
                // One previous, nothing half-made, all of it takes connections.
                assert!(world["beside"].as_str().unwrap().starts_with("1|1|t|"), "{place}: {world}");
            });
        }
    });
}

/// Both are inside the same step: the one that wakes takes nothing back that is the other one's by now.
#[test]
fn one_that_wakes_in_the_middle_of_the_next_ones_step_leaves_it_alone() {
    if !can_be_apart() {
        return;
    }
    std::thread::scope(|scope| {
        // A database under the generated name that both have in hand; a live one that takes no connections meanwhile.
        // Files that have a name of an unfinished one, which is made of the step's own.
        for (postgres, place, next) in [
            (true, "database created", "staged db"),
            (true, "sessions kept out", "sessions kept out"),
            (false, "file written", "file written"),
            (false, "tree written", "tree written"),
        ] {
            scope.spawn(move || {
                let Some(state) = SharedState::alone() else { return };
                let book = Book::new(postgres.then_some(&state));
                let story = Story::new(&state, &book);
                story.first.lifeboat(&["run", "take"]).expect(0);
                book.drift();
                let first = story.first.paused_at(place, "give-back", &[]);
                let run = newest(&story.second);
                let now = "extract(epoch from clock_timestamp()) * 1000";
                let lapsed = format!("select until_ms < {now} from lease where run = '{run}'");
                wait_until("the lease has lapsed", || state.sql(&lapsed) == "t");
                let stop = format!("stop:{next}");
                let mut command = story.second.crashing("trail-second", &stop, "resume", &run, &[]);
                let second = Paused::of(&mut command, true);
                wait_until("the second one is inside the same step", || second.stands());
                let (records, world) = (state.records(), book.world());
                let woken = first.wake();
                assert!(woken.code == 11 && woken.stderr.contains("was taken over by"), "{place}: {woken:?}");
                assert_eq!(book.world(), world, "{place}");
                assert_eq!(state.records(), records, "{place}");
                // In time: it goes on.
                let ended = second.wake();
                assert_eq!(ended.code, 0, "{place}: {ended:?} {}", story.shown(&run));
                let world = book.world();
                assert_eq!((&world["drifted"], &world["page"]), (&json!("0"), &json!("first")), "{place}: {world}");
                state.assert_nothing_left();
            });
        }
    });
}

/// A dump whose `pg_dump` or `psql` is at work while the engine stands still.
#[test]
fn of_a_paused_dump_no_session_is_left_when_the_next_one_begins() {
    if !can_be_apart() {
        return;
    }
    let Some(state) = SharedState::alone() else { return };
    let book = Book::new(Some(&state));
    let story = Story::new(&state, &book);
    let (server, database) = book.server.as_ref().unwrap();
    // Somebody's lock: the dump waits for it.
    let mut locking = server.psql(database);
    locking.args(["-c", "begin; lock table t; select pg_sleep(3600)"]);
    let mut lock = locking.stdout(std::process::Stdio::null()).spawn().unwrap();
    let sessions = |attempt: u32| {
        let query = format!(
            "select count(*) from pg_stat_activity where application_name like 'lifeboat/%/1/{attempt}' and datname = '{database}'"
        );
        server.sql("postgres", &[&query]).parse::<usize>().unwrap()
    };
    let mut command = story.first.crashing("trail", "0", "run", "take", &[]);
    let paused = Paused::of(&mut command, true);
    wait_until("the dump waits for the lock", || {
        let waits = format!(
            "select count(*) from pg_stat_activity where application_name like 'lifeboat/%' and wait_event_type = 'Lock' and datname = '{database}'"
        );
        server.sql("postgres", &[&waits]) != "0"
    });
    paused.signal("STOP");
    wait_until("it stands still", || paused.stands());
    let run = newest(&story.second);
    let ended = std::thread::scope(|scope| {
        let taking = scope.spawn(|| story.second.resume_when_free(&run).1);
        wait_until("the next attempt is at work", || sessions(2) > 0);
        assert_eq!(sessions(1), 0, "what the first attempt had in the server is gone before the second begins");
        assert!(paused.stands(), "and it was not the engine that ended it");
        let unlock = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity where query like '%pg_sleep(3600)%' and datname = '{database}'"
        );
        server.sql("postgres", &[&unlock]);
        lock.wait().unwrap();
        taking.join().unwrap()
    });
    ended.expect(0);
    let (records, world) = (state.records(), book.world());
    assert_eq!(world["manifests"].as_array().unwrap().len(), 1);
    let woken = paused.wake();
    assert!(woken.code == 11 && woken.stderr.contains("was taken over by"), "{woken:?}");
    assert_eq!((state.records(), book.world()), (records, world));
    state.assert_nothing_left();
}

/// A run whose policy trapped after it had stopped a service: the host settles, in an engine that is paused meanwhile.
#[test]
fn what_a_paused_engine_settles_is_settled_once_by_whoever_takes_over() {
    if !can_be_apart() {
        return;
    }
    std::thread::scope(|scope| {
        for place in ["ending", "settling service-stopped", "acted for service-stopped"] {
            scope.spawn(move || {
                let Some(state) = SharedState::new() else { return };
                let book = Book::new(None);
                let story = Story::new(&state, &book);
                let paused = story.first.paused_at(place, "traps", &[]);
                story.taken_over(paused, place).expect(20);
                let world = book.world();
                assert_eq!(world["up"], true, "{place}");
                assert_eq!(world["control"], "stop\nstart\n", "{place}");
            });
        }
    });
}

/// Of one whose process can be seen, nothing is guessed: it is not taken over while it is there, however long it is silent.
#[test]
fn one_that_can_be_seen_is_named_and_not_taken_over_until_it_is_dead() {
    let Some(state) = SharedState::new() else { return };
    let book = Book::new(None);
    let host = |name| state.host(&book.site, name, 10, false);
    let (first, second) = (host("first"), host("second"));
    let paused = first.paused_at("1 dumped db", "take", &[]);
    let run = newest(&second);
    let refused = second.lifeboat(&["runs", "resume", &run]).expect(11);
    let process = format!("process {} works on run {run}: its process is there", paused.engine().unwrap());
    assert!(refused.stderr.contains(&process), "{refused:?}");
    assert!(refused.stderr.contains("hint: "), "{refused:?}");
    let lapsed =
        format!("select until_ms < extract(epoch from clock_timestamp()) * 1000 from lease where run = '{run}'");
    wait_until("its lease has lapsed", || state.sql(&lapsed) == "t");
    for verb in [&["runs", "resume", &run][..], &["runs", "abandon", &run, "--reason", "it hangs"]] {
        let refused = second.lifeboat(verb).expect(11);
        assert!(refused.stderr.contains("does not move; end it"), "{refused:?}");
    }
    let shown = second.lifeboat(&["--json", "runs", "list"]).expect(0).json();
    assert_eq!(shown[0]["status"], "running", "somebody has it: {shown}");
    assert!(paused.stands());
    paused.kill();
    second.lifeboat(&["--json", "runs", "resume", &run]).expect(0);
    assert_eq!(book.world()["manifests"].as_array().unwrap().len(), 1);
    state.assert_nothing_left();
}

/// One that was paused for less than its lease just goes on.
#[test]
fn one_that_wakes_in_time_goes_on() {
    if !can_be_apart() {
        return;
    }
    let Some(state) = SharedState::new() else { return };
    let book = Book::new(None);
    let first = state.host(&book.site, "first", 60, true);
    let paused = first.paused_at("1 dumped db", "take", &[]);
    std::thread::sleep(Duration::from_millis(300));
    let woken = paused.wake();
    assert_eq!(woken.code, 0, "{woken:?}");
    assert!(Path::new(&book.site.path(&first.state_directory)).exists());
    state.assert_nothing_left();
}
