//! Three engines on one state, 200 runs, and engines that are killed at random: each run is done exactly once, as counted outside of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use super::recording::Recording;
use super::{Host, SharedState, can_be_apart};
use crate::support::{Site, wait_until};
use crate::sweep::names;

const RUNS: usize = 200;
/// How many runs an engine is given at its start.
const PORTION: usize = 8;
/// How many engines die; then the rest is worked off in peace.
const KILLS: usize = 36;
/// An act of these runs takes a fraction of a second; the machine may be busy.
const LEASE_S: u64 = 20;
/// Sets what is random, to see a failure again.
const SEED: &str = "LIFEBOAT_SHARED_SEED";

/// Numbers that look random, the same for the same seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// An even run sends one request that changes something, with a key by which the service knows it again. An odd one takes the backup of a
/// service of its own and copies it. Each is told by its number in the world.
fn line(number: usize) -> String {
    match number % 2 {
        0 => format!("posts path=/run/{number}"),
        _ => format!("take service=s{number}"),
    }
}

fn configured() -> (Site, Recording) {
    let site = Site::notes();
    let grants = ["http-check.check endpoint=notes/api method=* path=/"];
    site.guest("posts", "posts", "upgrade", &grants, "parameters = { endpoint = \"notes/api\" }");
    let api = "[environment.demo.service.notes.endpoint.api]\n";
    site.configure(&[(api, &format!("{api}idempotency-key = true\n"))]);
    let mut services = String::from(
        "[environment.demo.policy.take]\nmodule = \"policies/backup.wasm\"\nworld = \"backup\"\ngrants = [\
         \"dump.take service=* store=local\", \"upload.verify service=* store=*\", \
         \"upload.copy service=* store=local to=offsite\"]\nparameters = { store = \"local\", copy-to = [\"offsite\"] }\n",
    );
    for number in (1..RUNS).step_by(2) {
        site.write(&format!("data/{number}/file"), &format!("of service {number}\n"));
        let _ = writeln!(
            services,
            "[environment.demo.service.s{number}.source.files]\nkind = \"files\"\npath = \"data/{number}\""
        );
    }
    site.append(&services);
    let recording = Recording::listen(site.port);
    (site, recording)
}

/// One of the three places for engines: starts one after the other until there is nothing left to do.
struct Slot<'t> {
    host: Host<'t>,
    name: &'t str,
    state: &'t SharedState,
    /// Runs that are on record nowhere.
    todo: &'t Mutex<BTreeSet<usize>>,
    kills: &'t AtomicUsize,
    taken: &'t AtomicUsize,
}

impl Slot<'_> {
    fn work(&self, mut random: Random) {
        loop {
            let portion: Vec<usize> = {
                let mut todo = self.todo.lock().unwrap();
                (0..PORTION).map_while(|_| todo.pop_first()).collect()
            };
            let killed = self.engine(&portion, &mut random);
            if !killed && self.todo.lock().unwrap().is_empty() {
                return;
            }
            if killed {
                // What it had sent when it died may still be written; then it is on record, or never will be.
                let sessions = format!("select count(*) from pg_stat_activity where usename = '{}'", self.name);
                wait_until("the server has noticed", || self.state.sql(&sessions) == "0");
            }
            let begun = self.begun();
            let lost = portion.into_iter().filter(|number| !begun.contains(number));
            self.todo.lock().unwrap().extend(lost);
        }
    }

    /// The runs on record, by their number.
    fn begun(&self) -> Vec<usize> {
        let query =
            "select translate(coalesce(line::json->'parameters'->>'service', line::json->'parameters'->>'path'),
                                      's/run', '') from log where kind = 'run-started'";
        self.state.sql(query).lines().map(|number| number.parse().unwrap()).collect()
    }

    /// Starts an engine on some runs; whether it was killed.
    fn engine(&self, portion: &[usize], random: &mut Random) -> bool {
        let dies = self.kills.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        // Half of them at a place between two things that belong together, half at any moment.
        let at_place = dies && random.below(2) == 0;
        let place = if at_place { 1 + random.below(90) } else { 0 };
        let mut command = self.host.crashing(&format!("trail-{}", self.name), &place.to_string(), "work", "demo", &[]);
        let mut engine = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines: String = portion.iter().map(|number| line(*number) + "\n").collect();
        // One that is dead already reads nothing.
        let _ = engine.stdin.take().unwrap().write_all(lines.as_bytes());
        if dies && !at_place {
            std::thread::sleep(Duration::from_millis(200 + random.below(2500)));
            // Of one that is apart, this ends the whole namespace.
            let _ = engine.kill();
        }
        let out = engine.wait_with_output().unwrap();
        let (said, complaints) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
        self.taken.fetch_add(said.lines().filter(|line| line.starts_with("took ")).count(), Ordering::SeqCst);
        // Apart, `sh` says of its child that it was killed.
        let killed = matches!(out.status.code(), None | Some(137));
        assert!(killed || out.status.success(), "{:?}: {said}{complaints}", out.status);
        if dies && !killed {
            // Its time had not come when there was nothing left to do: another one may die.
            self.kills.fetch_add(1, Ordering::SeqCst);
        }
        killed
    }
}

#[test]
fn three_engines_that_are_killed_at_random_do_each_of_200_runs_exactly_once() {
    let Some(state) = SharedState::alone() else { return };
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.as_nanos() as u64
    });
    println!("{SEED}={seed}");
    let (site, recording) = configured();
    // Two see whether the other's process lives; to the third, and of the third, only leases tell.
    let apart = can_be_apart();
    let todo = Mutex::new((0..RUNS).collect());
    let (kills, taken) = (AtomicUsize::new(KILLS), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for (number, name) in ["one", "two", "three"].into_iter().enumerate() {
            // Roles of their own: whose session it is can be told.
            state.sql(&format!("create role {name} login superuser"));
            let host = state.host(&site, name, LEASE_S, apart && number == 2);
            host.configure(&[("user = \"postgres\"", &format!("user = \"{name}\""))]);
            let slot = Slot { host, name, state: &state, todo: &todo, kills: &kills, taken: &taken };
            scope.spawn(move || slot.work(Random(seed.wrapping_add(number as u64))));
        }
    });
    let (killed, taken) = (KILLS - kills.into_inner(), taken.into_inner());
    println!("{killed} engines were killed, {taken} times a run was taken over");
    assert!(killed >= KILLS / 3 && taken >= KILLS / 3, "{killed} killed, {taken} taken over");

    let host = state.host(&site, "looking", LEASE_S, false);
    let runs = host.lifeboat(&["--json", "runs", "list", "--limit", "1000"]).expect(0).json();
    let outcomes = runs.as_array().unwrap().iter().map(|run| run["status"].as_str().unwrap());
    let counted = outcomes.fold(BTreeMap::<_, usize>::new(), |mut all, status| {
        *all.entry(status).or_default() += 1;
        all
    });
    assert_eq!(counted, BTreeMap::from([("ok", RUNS)]), "{runs}");
    state.assert_nothing_left();
    state.assert_whole(&host);
    counted_outside(&site, &recording, &state);
}

/// One effect a run, whatever happened to its engines: what the stores and the service have seen, held against the log.
fn counted_outside(site: &Site, recording: &Recording, state: &SharedState) {
    let attempts = state.sql(
        "select json_object_agg(path, json_build_array(id, attempts)) from (
             select begun.line::json->'parameters'->>'path' as path, begun.run as id,
                    (select count(*) from log where run = begun.run and kind = 'started') as attempts
             from log begun where begun.kind = 'run-started' and begun.line::json->>'policy' = 'posts') runs",
    );
    let attempts: BTreeMap<String, (String, usize)> = serde_json::from_str(&attempts).unwrap();
    let seen = recording.seen();
    assert_eq!((attempts.len(), seen.len()), (RUNS / 2, RUNS / 2));
    let mut again = 0;
    for (path, keys) in &seen {
        let (run, attempts) = &attempts[path];
        assert!(keys.iter().all(|key| *key == format!("{run}/1")), "{path}: {keys:?}");
        assert!(keys.len() <= *attempts, "{path} was asked for {} times in {attempts} attempts", keys.len());
        again += keys.len() - 1;
    }
    println!("{again} requests were sent again, with their key");
    for number in (1..RUNS).step_by(2) {
        for store in ["backups", "offsite"] {
            // What a killed engine was about to write has a name that no list shows.
            let mut manifests = names(&site.path(format!("{store}/s{number}/manifests")));
            manifests.retain(|name| !name.starts_with('.'));
            assert_eq!(manifests.len(), 1, "{store} of service {number}: {manifests:?}");
        }
    }
    let takes: Value = serde_json::from_str(&state.sql(
        "select json_agg(run) from (select run from log where kind = 'completed'
         and line::json->'request'->>'call' = 'dump.take' group by run having count(*) > 1) twice",
    ))
    .unwrap_or_default();
    assert!(takes.is_null(), "{takes}");
}
