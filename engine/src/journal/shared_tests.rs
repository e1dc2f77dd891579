//! A state that engines share, on a real PostgreSQL server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use host_api::sources::postgres::testing::PgServer;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UnixStream};

use super::*;
use crate::error::{Kind, Result};

pub(super) const HOLDER: &str = "alice@host1, process 7";

pub(super) fn by() -> By {
    By { actor: "alice@host1".into(), channel: "cli".into() }
}

/// A database of its own for a test; none where there is no server.
pub(super) struct Shared {
    server: Arc<PgServer>,
    database: String,
    directory: tempfile::TempDir,
}

impl Shared {
    pub(super) fn new(name: &str) -> Option<Self> {
        let server = PgServer::shared()?;
        Some(Self::on(server, name))
    }

    fn on(server: Arc<PgServer>, name: &str) -> Self {
        let database = format!("state_{name}_{}", std::process::id());
        server.create(&database);
        Self { server, database, directory: tempfile::tempdir().unwrap() }
    }

    fn binding(&self) -> PostgresState {
        PostgresState {
            host: self.server.host.clone(),
            port: self.server.port,
            database: self.database.clone(),
            user: "postgres".into(),
            password: None,
            ssl_mode: None,
            ssl_root_cert: None,
            lease_s: 60,
        }
    }

    pub(super) async fn open(&self) -> Arc<State> {
        Arc::new(State::shared(self.directory.path(), &self.binding()).await.unwrap())
    }

    pub(super) async fn open_for(&self, lease_s: u64) -> Arc<State> {
        let binding = PostgresState { lease_s, ..self.binding() };
        Arc::new(State::shared(self.directory.path(), &binding).await.unwrap())
    }

    pub(super) fn sql(&self, statement: &str) -> String {
        self.server.sql(&self.database, &[&format!("set search_path = lifeboat; {statement}")])
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.server.sql("postgres", &[&format!("drop database {} with (force)", self.database)]);
        }
    }
}

fn row(run: &str) -> RunRow {
    RunRow {
        id: run.into(),
        environment: "test".into(),
        policy: "p".into(),
        module_sha256: "0".into(),
        ..RunRow::default()
    }
}

pub(super) async fn begin(state: &State, run: &str) -> Result<u64> {
    state.append(run, &by(), Transition::RunStarted, None, json!({}), &[Change::RunBegins(row(run))]).await
}

pub(super) async fn answered(state: &State, run: &str, step: u64) -> Result<u64> {
    state.append(run, &by(), Transition::Answered, Some(step), json!({}), &[]).await
}

#[tokio::test]
async fn the_log_is_a_chain_that_only_grows_and_a_forced_change_is_found() {
    let Some(shared) = Shared::new("chain") else { return };
    let state = shared.open().await;
    let _lease = state.lease("r1", HOLDER, false).await.unwrap();
    begin(&state, "r1").await.unwrap();
    for step in 1..=3 {
        answered(&state, "r1", step).await.unwrap();
    }
    assert_eq!(state.verify_chain().await.unwrap().0, 4);
    for change in ["update log set line = '{}'", "delete from log", "truncate log"] {
        let mut psql = shared.server.psql(&shared.database);
        let refused = psql.args(["-c", &format!("set search_path = lifeboat; {change}")]).output().unwrap();
        assert!(String::from_utf8_lossy(&refused.stderr).contains("append-only"), "{refused:?}");
    }
    shared.sql("drop trigger log_no_change on log; update log set line = replace(line, 'r1', 'r2') where seq = 2");
    let error = state.verify_chain().await.unwrap_err();
    assert!(error.message.contains("record 2"), "{error}");
}

#[tokio::test]
async fn many_engines_add_to_one_chain_and_none_is_lost() {
    let Some(shared) = Shared::new("many") else { return };
    let states = futures::future::join_all((0..3).map(|_| shared.open())).await;
    let runs = (0..24).map(|number| {
        let state = states[number % 3].clone();
        tokio::spawn(async move {
            let run = format!("r{number}");
            let _lease = state.lease(&run, HOLDER, false).await.unwrap();
            begin(&state, &run).await.unwrap();
            for step in 1..=20 {
                answered(&state, &run, step).await.unwrap();
            }
        })
    });
    futures::future::join_all(runs).await.into_iter().for_each(|done| done.unwrap());
    assert_eq!(states[0].verify_chain().await.unwrap().0, 24 * 21);
}

#[tokio::test]
async fn a_run_that_was_taken_over_takes_no_record_of_the_one_before() {
    let Some(shared) = Shared::new("fence") else { return };
    let (first, second) = (shared.open().await, shared.open().await);
    let lease = first.lease("r1", HOLDER, false).await.unwrap().unwrap();
    let cancelled = Arc::new(AtomicBool::new(false));
    lease.watch(&cancelled);
    begin(&first, "r1").await.unwrap();
    // Elsewhere, and silent for too long.
    shared.sql("update lease set place = 'another machine 1 1'");
    let held = second.lease("r1", "bob@host2", false).await.err().unwrap();
    assert!(held.kind == Kind::LockHeld && held.message.contains(HOLDER) && held.message.contains("s more"), "{held}");
    shared.sql("update lease set until_ms = 0 where run = 'r1'");
    let taken = second.lease("r1", "bob@host2, process 9", false).await.unwrap().unwrap();
    let refused = answered(&first, "r1", 1).await.unwrap_err();
    assert!(refused.kind == Kind::TakenOver && refused.message.contains("bob@host2"), "{refused}");
    assert!(cancelled.load(Ordering::Relaxed));
    assert!(lease.lost().unwrap().message.contains("bob@host2, process 9"), "it knows who has it");
    assert_eq!(first.hold("r1", "notes").await.unwrap_err().kind, Kind::TakenOver);
    answered(&second, "r1", 1).await.unwrap();
    assert_eq!(second.lines("r1").await.unwrap().len(), 2);
    // Letting go of what was lost takes nothing from the one who has it.
    drop(lease);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    answered(&second, "r1", 2).await.unwrap();
    assert!(second.is_leased("r1").await.unwrap().unwrap());
    drop(taken);
}

#[tokio::test]
async fn whose_process_is_dead_is_taken_over_at_once_and_whose_is_seen_to_live_never_is() {
    let Some(shared) = Shared::new("place") else { return };
    let (first, second) = (shared.open().await, shared.open().await);
    let _lease = first.lease("r1", HOLDER, false).await.unwrap().unwrap();
    // Another process of this machine that lives: the one that started us all.
    let parent = format!(
        "{} {}",
        place::here().split(' ').next().unwrap(),
        [
            std::os::unix::process::parent_id().into(),
            host_api::child::start_ticks(std::os::unix::process::parent_id()).unwrap()
        ]
        .map(|n: u64| n.to_string())
        .join(" ")
    );
    shared.sql(&format!("update lease set place = '{parent}', until_ms = 0"));
    let refused = second.lease("r1", "bob", false).await.err().unwrap();
    assert!(refused.message.contains("its process is there, and does not move"), "{refused}");
    assert!(second.lease("r1", "bob", true).await.is_err(), "whatever a person says");
    assert!(second.is_leased("r1").await.unwrap().unwrap(), "nobody else may have it: it is not called interrupted");
    shared.sql(&format!("update lease set place = '{parent}9', until_ms = 9000000000000"));
    assert!(!second.is_leased("r1").await.unwrap().unwrap());
    let _kept = second.lease("r1", "bob", false).await.unwrap().unwrap();
    let third = shared.open().await;
    shared.sql("update lease set place = 'another machine 1 1', until_ms = 9000000000000");
    assert!(third.lease("r1", "carol", false).await.is_err());
    third.lease("r1", "carol", true).await.unwrap().unwrap();
}

#[tokio::test]
async fn engines_that_look_at_the_same_time_take_each_interrupted_run_once() {
    let Some(shared) = Shared::new("skip") else { return };
    let states = futures::future::join_all((0..4).map(|_| shared.open())).await;
    for number in 0..20 {
        let run = format!("r{number}");
        let _lease = states[0].lease(&run, HOLDER, false).await.unwrap();
        begin(&states[0], &run).await.unwrap();
        std::mem::forget(_lease);
    }
    // Of these nobody takes one: over, waiting, another environment's, worked on.
    let ended = Change::RunStatus("ok".into(), String::new(), Some(1));
    states[0].append("r0", &by(), Transition::RunEnded, None, json!({}), &[ended]).await.unwrap();
    let parked = Change::RunStatus("parked".into(), String::new(), None);
    states[0].append("r1", &by(), Transition::Parked, None, json!({}), &[parked]).await.unwrap();
    shared.sql("update run set environment = 'other' where id = 'r2'");
    shared.sql(
        "update lease set place = 'another machine 1 1', until_ms = case when run = 'r3' then until_ms else 0 end",
    );
    let taking = states.iter().skip(1).map(|state| {
        let state = state.clone();
        tokio::spawn(async move {
            let mut taken = Vec::new();
            while let Some(lease) = state.lease_of_interrupted("test", "bob", &["r4".into()]).await.unwrap() {
                taken.push(lease.run().to_owned());
                std::mem::forget(lease);
            }
            taken
        })
    });
    let mut taken: Vec<String> = futures::future::join_all(taking).await.into_iter().flat_map(|t| t.unwrap()).collect();
    taken.sort_by_key(|run| run[1..].parse::<u32>().unwrap());
    assert_eq!(taken, (5..20).map(|number| format!("r{number}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_that_crashes_and_comes_back_is_waited_for_and_nothing_is_lost_or_doubled() {
    let Some(server) = PgServer::start() else { return };
    let shared = Shared::on(Arc::new(server), "away");
    let state = shared.open().await;
    let done = Arc::new(AtomicUsize::new(0));
    let runs: Vec<_> = (0..4)
        .map(|number| {
            let (state, done) = (state.clone(), done.clone());
            tokio::spawn(async move {
                let run = format!("r{number}");
                let _lease = state.lease(&run, HOLDER, false).await.unwrap();
                begin(&state, &run).await.unwrap();
                for step in 1..=200 {
                    answered(&state, &run, step).await.unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
            })
        })
        .collect();
    for _ in 0..3 {
        let before = done.load(Ordering::Relaxed);
        while done.load(Ordering::Relaxed) < before + 100 {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
        let server = shared.server.clone();
        tokio::task::spawn_blocking(move || {
            server.stop();
            server.start_again();
        })
        .await
        .unwrap();
    }
    assert!(done.load(Ordering::Relaxed) < 800, "the server was away while there was writing");
    futures::future::join_all(runs).await.into_iter().for_each(|run| run.unwrap());
    assert_eq!(state.verify_chain().await.unwrap().0, 4 * 201);
}

#[tokio::test]
async fn a_record_that_nobody_waits_for_makes_a_lease_shorter_at_once_and_is_written() {
    let Some(shared) = Shared::new("shorter") else { return };
    let binding = PostgresState { lease_s: 600, ..shared.binding() };
    let state = Arc::new(State::shared(shared.directory.path(), &binding).await.unwrap());
    let lease = state.lease("r1", HOLDER, false).await.unwrap().unwrap();
    begin(&state, "r1").await.unwrap();
    state.append("r1", &by(), Transition::Started, Some(1), json!({}), &[]).await.unwrap();
    let long = lease.deadlines().1;
    {
        let (by, changes) = (by(), []);
        let completed = state.append("r1", &by, Transition::Completed, Some(1), json!({}), &changes);
        assert!(futures::poll!(Box::pin(completed)).is_pending(), "it is on its way");
    }
    assert!(lease.deadlines().1 + std::time::Duration::from_secs(400) < long);
    state.written().await.unwrap();
    assert_eq!(state.records("r1").await.unwrap().len(), 3);
}

/// A way to the server on which the answer to the next words gets lost that have `part` in them: `after` the server has them, or before.
async fn losing(server: &PgServer, lose: Arc<AtomicUsize>, after: bool, part: &'static [u8]) -> u16 {
    losing_and_refusing(server, lose, after, part, Arc::default()).await
}

/// The same; so many sessions that are asked for are refused, as by a server that is being set up or a pooler that knows of none.
async fn losing_and_refusing(
    server: &PgServer,
    lose: Arc<AtomicUsize>,
    after: bool,
    part: &'static [u8],
    refuse: Arc<AtomicUsize>,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, socket) = (listener.local_addr().unwrap().port(), format!("{}/.s.PGSQL.{}", server.host, server.port));
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            if refuse.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                let fields = b"SFATAL\0VFATAL\0C3D000\0Mno such database\0\0";
                let mut refusal = b"E".to_vec();
                refusal.extend(u32::try_from(fields.len() + 4).unwrap().to_be_bytes());
                refusal.extend(fields);
                let mut asked = [0; 1024];
                let _ = client.read(&mut asked).await;
                client.write_all(&refusal).await.unwrap();
                continue;
            }
            let (lose, server) = (lose.clone(), UnixStream::connect(&socket).await.unwrap());
            tokio::spawn(async move {
                let ((mut from, mut to), (mut answers, mut asks)) = (client.into_split(), server.into_split());
                let cut = Arc::new(AtomicBool::new(false));
                let back = tokio::spawn({
                    let cut = cut.clone();
                    async move {
                        let mut buffer = vec![0; 1 << 16];
                        while let Ok(n @ 1..) = answers.read(&mut buffer).await {
                            // The answer came, so it happened; nobody is told.
                            if cut.load(Ordering::SeqCst) || to.write_all(&buffer[..n]).await.is_err() {
                                return;
                            }
                        }
                    }
                });
                let mut buffer = vec![0; 1 << 16];
                while let Ok(n @ 1..) = from.read(&mut buffer).await {
                    let meant = buffer[..n].windows(part.len()).any(|w| w == part);
                    if meant && lose.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok() {
                        if after {
                            cut.store(true, Ordering::SeqCst);
                            asks.write_all(&buffer[..n]).await.unwrap();
                            back.await.unwrap();
                        } else {
                            back.abort();
                        }
                        return;
                    }
                    if asks.write_all(&buffer[..n]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[tokio::test]
async fn of_a_commit_whose_answer_was_lost_the_log_tells_whether_it_happened() {
    let Some(shared) = Shared::new("commit") else { return };
    // A commit of its own, and, once the log has been quiet for long enough, a record whose statement is its own transaction.
    for (part, quiet) in [(b"commit\0".as_slice(), 0), (b"\"kind\":\"answered\"".as_slice(), 20)] {
        for after in [true, false] {
            let lose = Arc::new(AtomicUsize::new(0));
            let port = losing(&shared.server, lose.clone(), after, part).await;
            let binding = PostgresState {
                host: "127.0.0.1".into(),
                port,
                ssl_mode: Some(host_api::bindings::SslMode::Disable),
                ..shared.binding()
            };
            let state = Arc::new(State::shared(shared.directory.path(), &binding).await.unwrap());
            let run = format!("run-{after}-{quiet}");
            let _lease = state.lease(&run, HOLDER, false).await.unwrap();
            begin(&state, &run).await.unwrap();
            for step in 1..=quiet {
                answered(&state, &run, step).await.unwrap();
            }
            for step in quiet + 1..=quiet + 5 {
                // Done the first time, it is not done again.
                lose.store(if after { 1 } else { usize::try_from(step % 3).unwrap() }, Ordering::SeqCst);
                answered(&state, &run, step).await.unwrap();
                assert_eq!(lose.load(Ordering::SeqCst), 0, "the fault fired");
            }
            let steps: Vec<Value> =
                state.records(&run).await.unwrap().into_iter().map(|r| r.body["step"].clone()).skip(1).collect();
            assert_eq!(steps, (1..=quiet + 5).map(Value::from).collect::<Vec<_>>(), "{run}");
            state.verify_chain().await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_is_not_known_to_have_failed_is_not_done_again_one_by_one() {
    let Some(shared) = Shared::new("doubled") else { return };
    let (lose, refuse) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let port = losing_and_refusing(&shared.server, lose.clone(), true, b"commit\0", refuse.clone()).await;
    let binding = PostgresState {
        host: "127.0.0.1".into(),
        port,
        ssl_mode: Some(host_api::bindings::SslMode::Disable),
        ..shared.binding()
    };
    let state = Arc::new(State::shared(shared.directory.path(), &binding).await.unwrap());
    let runs = ["r0", "r1", "r2"];
    let mut leases = Vec::new();
    for run in runs {
        leases.push(state.lease(run, HOLDER, false).await.unwrap());
        begin(&state, run).await.unwrap();
    }
    // The commit happens, nobody hears of it, and who asks is turned away once with an error that is no absence.
    lose.store(1, Ordering::SeqCst);
    refuse.store(1, Ordering::SeqCst);
    let answers = futures::future::join_all(runs.iter().map(|run| answered(&state, run, 1))).await;
    assert_eq!((lose.load(Ordering::SeqCst), refuse.load(Ordering::SeqCst)), (0, 0), "the faults fired");
    assert_eq!(shared.sql("select count(*) from log where kind = 'answered'").trim(), "3");
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[tokio::test]
async fn two_that_take_one_run_in_one_process_are_one_who_has_it_and_one_who_is_refused() {
    let Some(shared) = Shared::new("twins") else { return };
    let (first, second) = (shared.open().await, shared.open().await);
    for run in ["r1", "r2", "r3"] {
        for (one, other) in [(&first, &first), (&first, &second)] {
            let (one, other) = tokio::join!(one.lease(run, HOLDER, false), other.lease(run, HOLDER, false));
            assert!(one.is_ok() != other.is_ok(), "{:?} {:?}", one.err(), other.err());
        }
    }
    let lease = first.lease("r4", HOLDER, false).await.unwrap().unwrap();
    begin(&first, "r4").await.unwrap();
    let refused = second.lease("r4", HOLDER, false).await.err().unwrap();
    assert_eq!(refused.kind, Kind::LockHeld, "{refused}");
    // Also where it could not be renewed for a while.
    shared.sql("update lease set until_ms = 0 where run = 'r4'");
    assert!(second.lease_of_interrupted("test", "bob", &[]).await.unwrap().is_none());
    answered(&first, "r4", 1).await.unwrap();
    drop(lease);
    second.lease("r4", HOLDER, false).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_run_that_was_lost_is_not_taken_again_beside_whoever_still_ends_his_work_on_it() {
    let Some(shared) = Shared::new("lost") else { return };
    let state = shared.open().await;
    let lease = state.lease("r1", HOLDER, false).await.unwrap().unwrap();
    begin(&state, "r1").await.unwrap();
    // Another host had it, and died.
    shared.sql("update lease set token = token + 1, place = 'another machine 1 1', until_ms = 0");
    assert_eq!(answered(&state, "r1", 1).await.unwrap_err().kind, Kind::TakenOver);
    assert!(state.lease_of_interrupted("test", HOLDER, &[]).await.unwrap().is_none());
    assert_eq!(state.lease("r1", HOLDER, false).await.err().unwrap().kind, Kind::LockHeld);
    assert_eq!(answered(&state, "r1", 1).await.unwrap_err().kind, Kind::TakenOver);
    drop(lease);
    let _again = state.lease_of_interrupted("test", HOLDER, &[]).await.unwrap().unwrap();
    answered(&state, "r1", 1).await.unwrap();
}

#[tokio::test]
async fn a_row_that_an_engine_from_before_still_writes_is_understood() {
    let Some(shared) = Shared::new("before") else { return };
    let (old, new) = (shared.open().await, shared.open().await);
    let _lease = old.lease("r1", HOLDER, false).await.unwrap();
    begin(&old, "r1").await.unwrap();
    old.append("r1", &by(), Transition::Started, Some(5), json!({}), &[]).await.unwrap();
    shared.sql("update run set stand = 'in-step 5'");
    new.append("r1", &by(), Transition::CancelRequested, None, json!({}), &[]).await.unwrap();
    old.append("r1", &by(), Transition::Completed, Some(5), json!({}), &[]).await.unwrap();
    // Left over: the records tell.
    shared.sql("update run set stand = 'in-step 5'");
    new.append("r1", &by(), Transition::CancelRequested, None, json!({}), &[]).await.unwrap();
    old.append("r1", &by(), Transition::Started, Some(6), json!({}), &[]).await.unwrap();
}

#[tokio::test]
async fn a_newer_state_a_role_without_rights_and_a_server_that_is_not_there_are_refused_in_words() {
    let Some(shared) = Shared::new("refused") else { return };
    drop(shared.open().await);
    shared.sql("update version set version = 99");
    let open = async |binding: PostgresState| State::shared(shared.directory.path(), &binding).await.err().unwrap();
    let error = open(shared.binding()).await;
    assert!(error.message.contains("version 99") && error.message.contains("knows 4"), "{error}");
    shared.sql("drop schema lifeboat cascade");
    let role = format!("r_{}", std::process::id());
    shared.server.sql("postgres", &[&format!("create role {role} login")]);
    let error = open(PostgresState { user: role.clone(), ..shared.binding() }).await;
    assert!(error.message.contains("permission denied") && error.hint.unwrap().contains("own the schema"));
    shared.server.sql("postgres", &[&format!("drop role {role}")]);
    let error = open(PostgresState { host: "127.0.0.1".into(), port: 1, ..shared.binding() }).await;
    assert!(error.kind == Kind::StateAway && error.message.contains("127.0.0.1:1"), "{error}");
}

mod same {
    //! The same stream of records into both databases leaves the same state.

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};

    use super::*;

    /// What a stream is made of; ids are small numbers, so that records meet.
    #[derive(Debug, Clone)]
    struct Event {
        run: u8,
        kind: usize,
        step: Option<u64>,
        text: String,
        changes: Vec<(u8, u8, u8)>,
    }

    const KINDS: [Transition; 12] = [
        Transition::RunStarted,
        Transition::Answered,
        Transition::Answered,
        Transition::Started,
        Transition::Completed,
        Transition::Parked,
        Transition::Resumed,
        Transition::Voted,
        Transition::CancelRequested,
        Transition::Ending,
        Transition::Settled,
        Transition::RunEnded,
    ];

    fn event() -> impl Strategy<Value = Event> {
        let changes = vec((0..14_u8, 0..4_u8, 0..3_u8), 0..3);
        let text = "[ -~\\x00\\n\u{e9}\u{1f600}'\"$\\\\]{0,12}";
        (0..4_u8, 0..KINDS.len(), prop::option::weighted(0.8, 1..4_u64), text, changes)
            .prop_map(|(run, kind, step, text, changes)| Event { run, kind, step, text, changes })
    }

    fn change(run: &str, (what, id, state): (u8, u8, u8), text: &str) -> Change {
        let (id, states) = (format!("x{id}"), ["staged", "discarded", "promoted"]);
        let approval = [ApprovalState::Approved, ApprovalState::Denied, ApprovalState::Expired][usize::from(state)];
        let word = states[usize::from(state)];
        match what {
            0 => Change::RunBegins(row(run)),
            1 => Change::RunStatus(text.to_owned(), text.to_owned(), (state == 0).then_some(7)),
            2 => Change::ServiceHeld(id),
            3 => Change::ServicesLetGo,
            4 => Change::CandidateBegins(id),
            5 => Change::CandidateVerified(id, None),
            6 => Change::CandidateState(id, word),
            7 => Change::ApprovalOpens(id, u64::from(state), json!({"text": text}).to_string(), text.to_owned()),
            8 => Change::ApprovalDecided(id, approval, text.to_owned(), word.to_owned()),
            9 => Change::ApprovalSpent(id, text.to_owned()),
            10 => Change::VoteCounted(id, u64::from(state)),
            11 => Change::ObligationOpens("candidate", id, "discard".into(), json!({"text": text})),
            12 => Change::ObligationCloses("candidate", id),
            _ => Change::Withholds(u64::from(state) + 1, json!(text).to_string(), Salt([state; 32])),
        }
    }

    /// What a state holds, without what a clock has made.
    async fn contents(state: &State) -> Vec<String> {
        let mut all = Vec::new();
        for run in (0..4).map(|n| format!("r{n}")) {
            for record in state.records(&run).await.unwrap() {
                let mut body = record.body;
                ["time-ms", "prev"].iter().for_each(|key| drop(body.as_object_mut().unwrap().remove(*key)));
                all.push(body.to_string());
            }
            let (salt, kept) = state.withheld(&run).await.unwrap();
            all.push(format!("{:?} {kept:?} {}", salt.map(|s| s.0), state.cancel_requested(&run).await.unwrap()));
        }
        for mut run in state.runs(&RunFilter::default()).await.unwrap() {
            run.started_ms = 0;
            all.push(format!("{run:?}"));
        }
        all.sort();
        all.extend(state.candidates().await.unwrap().iter().map(|c| format!("{c:?}")));
        all.extend(state.approvals(None).await.unwrap().iter().map(|a| format!("{a:?}")));
        // Numbers that were given to what was rolled back are lost in one of them.
        all.extend(
            state
                .obligations(None)
                .await
                .unwrap()
                .iter()
                .map(|o| format!("{:?}", ObligationRow { id: 0, ..o.clone() })),
        );
        for service in (0..4).map(|n| format!("x{n}")) {
            all.push(format!("{:?}", state.holder(&service).await.unwrap()));
        }
        all
    }

    #[test]
    fn the_same_records_into_both_databases_leave_the_same_state() {
        let Some(shared) = Shared::new("same") else { return };
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let mut runner = TestRunner::new(Config { cases: 40, failure_persistence: None, ..Config::default() });
        let (written, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let done = runner.run(&vec(event(), 1..60), |events| {
            runtime.block_on(async {
                let directory = tempfile::tempdir().unwrap();
                let own = Arc::new(State::open(directory.path()).await.unwrap());
                let other = shared.open().await;
                let mut leases = Vec::new();
                for run in (0..4).map(|n| format!("r{n}")) {
                    leases.push(other.lease(&run, HOLDER, false).await.unwrap());
                    begin(&own, &run).await.unwrap();
                    begin(&other, &run).await.unwrap();
                }
                for event in &events {
                    let run = format!("r{}", event.run);
                    let kind = KINDS[event.kind];
                    let mut changes: Vec<Change> =
                        event.changes.iter().map(|c| change(&run, *c, &event.text)).collect();
                    if kind == Transition::RunStarted {
                        changes.insert(0, Change::RunBegins(row(&run)));
                    }
                    let body = json!({"text": event.text, "status": "ok"});
                    let one = own.append(&run, &by(), kind, event.step, body.clone(), &changes).await;
                    // A run that is over has no lease any more.
                    let two = other.append(&run, &by(), kind, event.step, body, &changes).await;
                    prop_assert_eq!(one.is_ok(), two.is_ok(), "{:?}: {:?} and {:?}", event, one, two);
                    if let (Err(one), Err(two)) = (&one, &two)
                        && !two.message.contains("not claimed")
                    {
                        let (sql, other) = ("the state database", one.message.as_str());
                        prop_assert!(
                            other == two.message || other.starts_with(sql) && two.message.starts_with(sql),
                            "{} | {}",
                            one,
                            two
                        );
                    }
                    if one.is_ok() { &written } else { &refused }.fetch_add(1, Ordering::Relaxed);
                }
                prop_assert_eq!(contents(&own).await, contents(&other).await);
                prop_assert_eq!(
                    own.verify_chain().await.map(|c| c.0).ok(),
                    other.verify_chain().await.map(|c| c.0).ok()
                );
                drop((leases, other));
                shared.sql("drop schema lifeboat cascade");
                Ok(())
            })
        });
        done.unwrap();
        let (written, refused) = (written.into_inner(), refused.into_inner());
        assert!(written > 200 && refused > 200, "{written} written, {refused} refused");
    }
}
