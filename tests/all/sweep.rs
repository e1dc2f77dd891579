//! The crash sweep: the engine kills itself at every place of a run where its death leaves something half-done; then the run is resumed,
//! and must end as an undisturbed one does, with every effect in the world exactly once.
//!
//! `cargo xtask sweep` runs all of it and prints a table. `cargo xtask test` runs it on the example service, and a sample that changes from
//! commit to commit on kneo-serv with PostgreSQL.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::support::{Outcome, Site};

/// A service to sweep over: a place of its own for every case, and what is true of it afterwards.
pub trait World: Sync {
    /// What one case works on.
    type Case;
    /// A fresh copy, with the service running if the policy needs it.
    fn fresh(&self) -> Self::Case;
    /// Its site.
    fn site<'c>(&self, case: &'c Self::Case) -> &'c Site;
    /// Whether the live service is as available as before the run.
    fn is_up(&self, case: &Self::Case) -> bool;
    /// What is in the world beside what every site shows: the live service, counted outside the engine.
    fn world(&self, case: &Self::Case) -> Value;
}

/// A policy's run to be swept.
pub struct Sweep<'w, W> {
    /// The service.
    pub world: &'w W,
    /// The policy.
    pub policy: &'static str,
    /// Its parameters.
    pub words: &'static [&'static str],
    /// The exit code of an undisturbed run.
    pub code: i32,
    /// Cases at once.
    pub threads: usize,
}

/// Every n-th place, from an offset; all where n is 1.
#[derive(Clone, Copy)]
pub struct Sample {
    /// n
    pub every: usize,
    /// The first.
    pub offset: usize,
}

/// Everything.
pub const ALL: Sample = Sample { every: 1, offset: 0 };

impl Sample {
    /// A sample that changes from commit to commit; everything where the whole sweep is asked for.
    pub fn of_commit(every: usize) -> Self {
        if std::env::var("LIFEBOAT_SWEEP").is_ok_and(|what| what == "all") {
            return ALL;
        }
        let commit = std::env::var("LIFEBOAT_SWEEP_SEED").unwrap_or_default();
        let number = commit.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        Self { every, offset: number % every }
    }
}

impl<W: World> Sweep<'_, W> {
    /// Sweeps a sample of the places; fails the test with every case that did not end as the undisturbed run.
    pub fn run(&self, sample: Sample) {
        self.sweep(|at, _| at % sample.every == sample.offset);
    }

    /// Sweeps the places of these names.
    pub fn at(&self, names: &[&str]) {
        let named =
            |place: &str| names.iter().any(|name| place.split_once(' ').is_some_and(|(_, point)| point == *name));
        self.sweep(|_, place| named(place));
    }

    /// Sweeps a sample of the places, and ends the run instead of going on with it: now with its policy's compensation, now without.
    pub fn end(&self, sample: Sample) {
        self.visit(|at, _| at % sample.every == sample.offset, |at, place, before, _| self.ended(at, place, before));
    }

    fn sweep(&self, wanted: impl Fn(usize, &str) -> bool) {
        self.visit(wanted, |at, place, before, expected| self.case(at, place, before, expected));
    }

    fn visit(
        &self,
        wanted: impl Fn(usize, &str) -> bool,
        case_of: impl Fn(usize, &str, &[String], &Value) -> Result<String, String> + Sync,
    ) {
        let case = self.world.fresh();
        let site = self.world.site(&case);
        let ended = run_crashing(site, 0, "run", self.policy, self.words).expect(self.code);
        let expected = self.left(&case, &ended_run(&ended));
        let places = trail(site);
        drop(case);
        assert!(places.len() > 5, "the engine tells where it is: {places:?}");

        let chosen: Vec<usize> = (0..places.len()).filter(|at| wanted(*at, &places[*at])).collect();
        let (next, failures, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(BTreeMap::new()));
        std::thread::scope(|scope| {
            for _ in 0..self.threads {
                scope.spawn(|| {
                    loop {
                        let Some(&at) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                        let place = &places[at];
                        let outcome = case_of(at, place, &places[..at], &expected);
                        let word = outcome.as_ref().map_or("FAILED", String::as_str).to_owned();
                        rows.lock().unwrap().insert(at, (place.clone(), word));
                        if let Err(why) = outcome {
                            failures.lock().unwrap().push(format!(
                                "{} killed at {} `{place}`: {why}",
                                self.policy,
                                at + 1
                            ));
                        }
                    }
                });
            }
        });
        let rows = rows.into_inner().unwrap();
        println!("{}: {} of {} places", self.policy, rows.len(), places.len());
        println!("  {:>4}  {:<40} OUTCOME", "NO", "STEP POINT");
        for (at, (place, outcome)) in &rows {
            println!("  {:>4}  {place:<40} {outcome}", at + 1);
        }
        assert!(!rows.is_empty(), "a sweep that visits nothing proves nothing");
        let failures = failures.into_inner().unwrap();
        assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), rows.len(), failures.join("\n"));
    }

    /// One case that is ended; how, in a word.
    fn ended(&self, at: usize, place: &str, before: &[String]) -> Result<String, String> {
        let case = self.world.fresh();
        let site = self.world.site(&case);
        let run = self.killed(site, at, place, before)?;
        let verb = if at.is_multiple_of(2) { "cancel" } else { "abandon" };
        let ended = site.lifeboat(&["runs", verb, &run, "--reason", "the sweep says so"]);
        let shown = site.show(&run);
        let told = || format!("{verb}: {ended:?}\n{}", site.lifeboat(&["runs", "show", &run]).stdout);
        let over = !matches!(shown["status"].as_str().unwrap(), "running" | "interrupted" | "parked" | "in-doubt");
        if !over || processes(&shown) > 0 {
            return Err(format!("it is not over: {}", told()));
        }
        let open = shown["obligations"].as_array().unwrap().iter();
        let open = open.filter(|o| matches!(o["state"].as_str(), Some("open" | "unsettled"))).count();
        match (open, ended.stderr.contains("LEFT OPEN")) {
            (0, false) if self.world.is_up(&case) => Ok(format!("{verb}: all settled")),
            // Loudly, and for a reason: sources of two times.
            (1.., true) if ended.stderr.contains("left its sources mixed") => Ok(format!("{verb}: mixed, and said so")),
            _ => Err(format!("left open {open}, up {}: {}", self.world.is_up(&case), told())),
        }
    }

    /// Runs the policy until its engine dies at a place; its run.
    fn killed(&self, site: &Site, at: usize, place: &str, before: &[String]) -> Result<String, String> {
        let killed = run_crashing(site, at + 1, "run", self.policy, self.words);
        let reached = trail(site);
        // The fault fired, and where it was meant to.
        if killed.code != -1 || reached.last().map(String::as_str) != Some(place) || reached[..at] != *before {
            return Err(format!("the kill did not happen there: {killed:?} after {reached:?}"));
        }
        let listed = site.lifeboat(&["--json", "runs", "list", "--limit", "1"]).expect(0).json();
        Ok(listed[0]["run"].as_str().unwrap().to_owned())
    }

    /// One case; how it ended, in a word.
    fn case(&self, at: usize, place: &str, before: &[String], expected: &Value) -> Result<String, String> {
        let case = self.world.fresh();
        let site = self.world.site(&case);
        let run = self.killed(site, at, place, before)?;
        let run = run.as_str();
        let status = site.show(run)["status"].clone();
        let mut how = "resumed";
        if status == "interrupted" {
            // Every third one dies again on the way.
            if at.is_multiple_of(3) {
                fs::remove_file(site.path("trail")).unwrap();
                let again = run_crashing(site, at % 5 + 1, "resume", run, &[]);
                if again.code == -1 {
                    how = "resumed twice";
                }
            }
            let resumed = site.lifeboat(&["--json", "runs", "resume", run, "--yes"]);
            let over = resumed.code == 2 && resumed.stderr.contains("is over");
            if resumed.code != self.code && !over {
                return Err(format!("resumed: {resumed:?}\n{}", site.lifeboat(&["runs", "show", run]).stdout));
            }
        } else {
            how = "was over";
        }
        let left = self.left(&case, run);
        if left == *expected {
            return Ok(how.to_owned());
        }
        Err(format!("left\n  {left}\nnot\n  {expected}\n{}", site.lifeboat(&["runs", "show", run]).stdout))
    }

    /// What a run left, without what differs from run to run: times, ids.
    fn left(&self, case: &W::Case, run: &str) -> Value {
        let site = self.world.site(case);
        let shown = site.show(run);
        let records = shown["records"].as_array().unwrap();
        let said = records.iter().flat_map(|r| r["said"].as_array().into_iter().flatten());
        let mut findings: Vec<String> = said
            .filter(|item| item["finding"].is_object())
            .map(|item| format!("{} {}", item["finding"]["severity"], item["finding"]["rule"]))
            .collect();
        findings.sort();
        let open = shown["obligations"].as_array().unwrap().iter();
        let open = open.filter(|o| matches!(o["state"].as_str(), Some("open" | "unsettled"))).count();
        let candidates = site.lifeboat(&["--json", "candidates", "list"]).expect(0).json();
        let promotions = site.lifeboat(&["--json", "promotions", "list"]).expect(0).json();
        let promotions: Vec<_> = promotions.as_array().unwrap().iter().map(|p| p["state"].clone()).collect();
        json!({
            "status": shown["status"], "findings": findings, "open": open,
            "candidates": candidates.as_array().unwrap().len(), "promotions": promotions,
            "stores": (kinds(&site.path("backups")), kinds(&site.path("offsite"))),
            "private": (names(&site.path(".lifeboat/candidates")).len(), names(&site.path(".lifeboat/spool")).len()),
            "processes": processes(&shown),
            "world": self.world.world(case),
        })
    }
}

/// Runs the engine that kills itself at the waypoint of this number; 0 for none.
fn run_crashing(site: &Site, kill_at: usize, verb: &str, what: &str, words: &[&str]) -> Outcome {
    run_crashing_at(site, &kill_at.to_string(), verb, what, words)
}

fn run_crashing_at(site: &Site, kill_at: &str, verb: &str, what: &str, words: &[&str]) -> Outcome {
    let out = Command::new(env!("CARGO_BIN_EXE_lifeboat-crashing"))
        .arg(site.path("trail"))
        .args([kill_at, verb, what])
        .args(words)
        .current_dir(site.path(""))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    Outcome {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// Runs the engine that kills itself at the first waypoint of this name; the waypoints it came to.
pub fn crashing(site: &Site, place: &str, verb: &str, what: &str, words: &[&str]) -> (Outcome, Vec<String>) {
    let _ = fs::remove_file(site.path("trail"));
    let outcome = run_crashing_at(site, place, verb, what, words);
    (outcome, trail(site))
}

fn ended_run(ended: &Outcome) -> String {
    ended.stdout.split_whitespace().nth(1).unwrap_or_else(|| panic!("it says its run: {ended:?}")).to_owned()
}

fn trail(site: &Site) -> Vec<String> {
    fs::read_to_string(site.path("trail")).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Names in a directory.
pub fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// How many manifests, holds and verifications a directory store has. Objects of attempts that came to nothing may lie there as well.
fn kinds(store: &Path) -> BTreeMap<&'static str, usize> {
    let mut found = BTreeMap::new();
    for service in names(store) {
        let service = store.join(service);
        *found.entry("manifests").or_default() += names(&service.join("manifests")).len();
        for backup in names(&service.join("records")) {
            for record in names(&service.join("records").join(backup)) {
                let kind = if record.starts_with("hold-") { "holds" } else { "verifications" };
                *found.entry(kind).or_default() += 1;
            }
        }
    }
    found
}

/// How many processes work for a run, or are services in quarantine of it.
fn processes(shown: &Value) -> usize {
    let records = shown["records"].as_array().unwrap().iter();
    let instances = records.filter_map(|r| Some(format!("LIFEBOAT_INSTANCE={}", r["prepared"]["instance"].as_str()?)));
    let step = format!("LIFEBOAT_STEP=lifeboat/{}/", shown["run"].as_str().unwrap());
    let marks: Vec<String> = instances.chain([step]).collect();
    let pids = names(Path::new("/proc")).into_iter().filter(|name| name.bytes().all(|b| b.is_ascii_digit()));
    pids.filter(|pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let environment = String::from_utf8_lossy(&environment);
        marks.iter().any(|mark| environment.contains(mark))
    })
    .count()
}

/// The example service: an SQLite file and a directory.
struct Notes {
    template: Site,
    served: bool,
}

impl Notes {
    /// A site that is copied for every case; `prepare` may use the running service.
    fn new(served: bool, prepare: impl FnOnce(&Site)) -> Self {
        let mut template = Site::notes();
        template.serve_some_notes();
        // What is queued is delivered first: a restored copy would do it again, or not, by chance.
        crate::support::wait_until("the outbox is empty", || {
            fs::read_to_string(template.path("live/delivered.log")).unwrap_or_default().lines().count() == 3
        });
        prepare(&template);
        template.stop_serving();
        Self { template, served }
    }
}

impl World for Notes {
    type Case = Site;

    fn fresh(&self) -> Site {
        let mut site = Site::copy_of(&self.template);
        if self.served {
            site.serve_notes();
        }
        site
    }

    fn site<'c>(&self, case: &'c Site) -> &'c Site {
        case
    }

    fn is_up(&self, site: &Site) -> bool {
        !self.served || site.is_up()
    }

    fn world(&self, site: &Site) -> Value {
        let ask = |path: &str| site.http("GET", path, None).map(|answer| (answer.status, answer.body));
        let ready = site.http("GET", "/readyz", None).map(|answer| answer.json()["version"].clone());
        let current = fs::read_link(site.path("versions/current")).unwrap();
        let version = current.to_string_lossy().split('@').next().unwrap().to_owned();
        let log = fs::read_to_string(site.path(".lifeboat/logs/notes.log")).unwrap_or_default();
        // However often it was killed: no directory stays of what never was in service.
        let versions = names(&site.path("versions")).len();
        let beside = names(&site.path("live")).into_iter().filter(|name| name.contains(".lifeboat-")).count();
        let delivered = fs::read_to_string(site.path("live/delivered.log")).unwrap_or_default().lines().count();
        json!({
            "notes": ask("/notes"), "ready": ready, "installed": version, "versions": versions, "starts": log.matches("listening on").count(),
            "beside": beside, "delivered": delivered,
        })
    }
}

/// A note of the live service that is about to be delivered: a copy of it in service would be delivered again.
fn about_to_be_delivered(site: &Site) {
    let live = rusqlite::Connection::open(site.path("live/notes.sqlite")).unwrap();
    live.busy_timeout(std::time::Duration::from_secs(10)).unwrap();
    let begin = "insert into outbox (note_id, status, attempts, updated_at) select note_id, 'running', 1, updated_at from outbox limit 1";
    assert_eq!(live.execute(begin, []).unwrap(), 1);
}

const UPGRADE: &[&str] = &["version=2.0.0"];
const ROLLBACK: &[&str] = &["version=1.0.0"];

#[test]
fn a_backup_survives_a_kill_anywhere() {
    let world = Notes::new(false, |_| {});
    Sweep { world: &world, policy: "backup", words: &[], code: 0, threads: 3 }.run(ALL);
}

#[test]
fn a_drill_survives_a_kill_anywhere() {
    let world = Notes::new(false, |site| drop(site.run("backup", &[]).expect(0)));
    Sweep { world: &world, policy: "drill", words: &[], code: 0, threads: 3 }.run(ALL);
}

#[test]
fn an_upgrade_survives_a_kill_anywhere() {
    let world = Notes::new(true, |_| {});
    Sweep { world: &world, policy: "upgrade", words: UPGRADE, code: 1, threads: 3 }.run(ALL);
}

#[test]
fn whatever_survives_a_kill_can_be_ended() {
    let third = Sample::of_commit(3);
    let world = Notes::new(true, |site| drop(site.run("backup", &[]).expect(0)));
    Sweep { world: &world, policy: "drill", words: &[], code: 0, threads: 3 }.end(third);
    Sweep { world: &world, policy: "upgrade", words: UPGRADE, code: 1, threads: 3 }.end(third);
    let world = Notes::new(true, |site| drop(site.run("upgrade", &["--param", "version=2.0.0"]).expect(1)));
    Sweep { world: &world, policy: "rollback", words: ROLLBACK, code: 0, threads: 3 }.end(third);
}

#[test]
fn a_rollback_survives_a_kill_anywhere() {
    let world = Notes::new(true, |site| drop(site.run("upgrade", &["--param", "version=2.0.0"]).expect(1)));
    Sweep { world: &world, policy: "rollback", words: ROLLBACK, code: 0, threads: 3 }.run(ALL);
}

#[test]
fn a_restore_that_parks_survives_a_kill() {
    let world = Notes::new(true, |site| {
        about_to_be_delivered(site);
        site.run("backup", &[]).expect(0);
    });
    let sweep = Sweep { world: &world, policy: "restore", words: &["park=true"], code: 0, threads: 3 };
    // Each step has acted, and nobody was told: always.
    sweep.at(&["acted"]);
    sweep.run(Sample::of_commit(6));
}
