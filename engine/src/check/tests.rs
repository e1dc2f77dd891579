//! What stands in state, stores and drills against objectives, at times that the tests choose; and checks that hang or have a bug.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use host_api::bindings::Objectives;
use host_api::catalog::{Backup, BackupState};
use host_api::checks::{Bound, Level, Seen, Stocked};
use host_api::identifier::now_ms;

use super::around::Stock;
use super::inventory::{OutsideItem, of_outside};
use super::of_backups::{of_age, of_copies, of_held, of_verified};
use super::of_drills::{of_passed, of_rto};
use super::of_state::{of_obligations, of_runs};
use super::{Options, Report, names, run};
use crate::config::Config;
use crate::error::{Error, Kind};
use crate::journal::{Drilled, ObligationRow, OpenRun, RunRow};

/// The tests' now: ages are reckoned from it, and nobody looks at a clock.
const NOW: u64 = 1_800_000_000_000;
const HOUR: u64 = 3_600_000;

fn backup(id: &str, store: &str, age_ms: u64) -> Stocked {
    let backup: Backup = serde_json::from_value(serde_json::json!({
        "id": id, "service": "s", "store": store, "digest": "d", "label": null, "taken-at-ms": NOW - age_ms,
        "completed-at-ms": NOW - age_ms, "newest-at-ms": null, "version": null, "stored-bytes": 1, "sources": ["db"],
        "findings": [], "known": [],
    }))
    .unwrap();
    Stocked { backup, state: BackupState::default(), plain_bytes: 1, stored_at_ms: None }
}

fn verified(mut stocked: Stocked) -> Stocked {
    stocked.state.verified_at_ms = Some(NOW);
    stocked
}

fn stock(stores: &[(&str, &[Stocked])]) -> Stock {
    let stores = stores.iter().map(|(name, of)| ((*name).to_owned(), Arc::new(Ok(of.to_vec()))));
    Stock { stores: stores.collect(), ..Stock::default() }
}

fn objectives(rpo_s: Option<u64>, drill_every_s: Option<u64>) -> Objectives {
    Objectives { rpo_s, drill_every_s, ..Objectives::default() }
}

#[track_caller]
fn expect(seen: &Seen, level: Level, words: &[&str]) {
    assert_eq!(seen.level, level, "{seen:?}");
    for word in words {
        assert!(seen.message.contains(word), "says nothing of {word:?}: {seen:?}");
    }
}

#[test]
fn what_may_only_be_written_to_is_said_and_is_nothing_that_is_missing() {
    let with = |stores: &[(&str, &[Stocked])]| Stock { unseen: vec!["offsite".into()], ..stock(stores) };
    let nothing = objectives(Some(7200), Some(7200));
    let copies = |stock: &Stock, copies| {
        let objectives = Objectives { copies, ..Objectives::default() };
        of_copies(stock, "s", &objectives, &BTreeMap::new(), NOW)
    };
    for only in [with(&[]), with(&[("local", &[])])] {
        for seen in [of_age(&only, "s", &nothing, NOW), of_verified(&only, "s", &nothing, NOW), copies(&only, None)] {
            expect(&seen, Level::Unknown, &["offsite"]);
        }
    }
    let one = with(&[("local", &[verified(backup("b1", "local", HOUR))])]);
    for seen in [of_age(&one, "s", &nothing, NOW), of_verified(&one, "s", &nothing, NOW)] {
        expect(&seen, Level::Ok, &["may not be read from here: offsite"]);
    }
    // The second copy may be there; a third can't be.
    expect(&copies(&one, None), Level::Unknown, &["b1", "may not be read from here: offsite"]);
    expect(&copies(&one, Some(2)), Level::Unknown, &["offsite"]);
    expect(&copies(&one, Some(3)), Level::Critical, &["lies in 3 stores"]);
    // What can be seen is held against what was promised all the same.
    let old = with(&[("local", &[backup("b1", "local", 9 * HOUR)])]);
    expect(&of_age(&old, "s", &nothing, NOW), Level::Critical, &["9 h"]);
}

#[test]
fn a_backup_is_as_old_as_its_snapshot_and_one_second_too_old_is_critical() {
    let of = |stock: &Stock, rpo| of_age(stock, "s", &objectives(rpo, None), NOW);
    let one = stock(&[("a", &[backup("20260101T000000000z-aaaaaa", "a", HOUR)])]);
    expect(&of(&one, Some(3600)), Level::Ok, &["1 h old", "the objective is 1 h"]);
    let late = of(&one, Some(3599));
    expect(&late, Level::Critical, &["1 h old"]);
    assert_eq!(late.measures[0].critical, Some(Bound::Above(3599.0)));
    expect(&of(&one, None), Level::Ok, &["no objective"]);
    expect(&of(&stock(&[("a", &[])]), None), Level::Critical, &["there is no backup of s"]);
    // The newest counts, wherever it lies.
    let two = stock(&[("a", &[backup("b1", "a", 9 * HOUR)]), ("b", &[backup("b2", "b", HOUR)])]);
    expect(&of(&two, Some(3600)), Level::Ok, &["b2 in b"]);
    // One from the future is no fresh one: the others are held against the objective.
    let early = |hours: u64, stock: &Stock| of_age(stock, "s", &objectives(Some(3600), None), NOW - hours * HOUR);
    let mixed = stock(&[("a", &[backup("b1", "a", 6 * HOUR), backup("b2", "a", HOUR)])]);
    expect(&early(2, &mixed), Level::Critical, &["b2 in a was taken 1 h in the future", "b1 in a is 4 h old"]);
    expect(&early(5, &mixed), Level::Warning, &["b2 in a was taken 4 h in the future", "b1 in a is 1 h old"]);
    expect(&early(9, &one), Level::Critical, &["in the future", "there is no backup"]);
}

#[test]
fn what_could_not_be_read_is_said_and_hides_nothing() {
    let away = Error::new(Kind::Failed, "store b is away");
    let mut stock = stock(&[("a", &[backup("b1", "a", 9 * HOUR)])]);
    stock.stores.push(("b".into(), Arc::new(Err(away))));
    expect(&of_age(&stock, "s", &objectives(Some(3600), None), NOW), Level::Critical, &["not read: b"]);
    expect(&of_copies(&stock, "s", &Objectives::default(), &BTreeMap::new(), NOW), Level::Critical, &["not read: b"]);
}

#[test]
fn a_backup_that_nobody_restored_proves_nothing() {
    let fresh = || backup("b2", "a", 0);
    let of = |stock: &Stock, objectives| of_verified(stock, "s", &objectives, NOW);
    expect(&of(&stock(&[("a", &[fresh()])]), objectives(None, None)), Level::Critical, &["ever restored"]);
    let old = stock(&[("a", &[verified(backup("b1", "a", 25 * HOUR)), fresh()])]);
    // A drill a day, of a backup that is an hour old at most then.
    expect(&of(&old, objectives(Some(3600), Some(86_400))), Level::Ok, &["b1"]);
    expect(&of(&old, objectives(Some(3599), Some(86_400))), Level::Critical, &["b1"]);
    expect(&of(&old, objectives(Some(3600), None)), Level::Warning, &["not proven"]);
    expect(&of(&old, objectives(None, Some(1))), Level::Ok, &["no objective"]);
}

#[test]
fn copies_are_counted_where_they_are_the_same() {
    let of = |stock: &Stock, objectives: Objectives, same_disk| {
        let devices = BTreeMap::from([("a".into(), 1), ("b".into(), if same_disk { 1 } else { 2 })]);
        of_copies(stock, "s", &objectives, &devices, NOW)
    };
    let (old, new) = (|store| backup("b1", store, 2 * HOUR), |store| backup("b2", store, 0));
    let both = stock(&[("a", &[old("a"), new("a")]), ("b", &[old("b"), new("b")])]);
    expect(&of(&both, Objectives::default(), false), Level::Ok, &["b2", "a, b"]);
    let promised = Objectives { copies: Some(2), ..Objectives::default() };
    expect(&of(&both, promised.clone(), true), Level::Warning, &["all on one file system"]);
    expect(&of(&both, Objectives::default(), true), Level::Ok, &["all on one file system"]);
    let lagging = stock(&[("a", &[old("a"), new("a")]), ("b", &[old("b")])]);
    expect(&of(&lagging, Objectives::default(), false), Level::Warning, &["b1", "the newest, b2, does not"]);
    expect(&of(&lagging, objectives(Some(7200), None), false), Level::Ok, &["does not yet"]);
    expect(&of(&lagging, objectives(Some(7199), None), false), Level::Critical, &["older than the objective"]);
    let one = stock(&[("a", &[new("a")]), ("b", &[])]);
    expect(&of(&one, Objectives::default(), false), Level::Critical, &["lies in 2 stores, the best in 1"]);
    let three = Objectives { copies: Some(3), ..Objectives::default() };
    expect(&of(&both, three, false), Level::Critical, &["lies in 3 stores, the best in 2"]);
    let alone = stock(&[("a", &[new("a")])]);
    expect(&of(&alone, Objectives::default(), false), Level::Warning, &["no other store"]);
    let accepted = Objectives { copies: Some(1), ..Objectives::default() };
    expect(&of(&alone, accepted, false), Level::Ok, &["b2"]);
    let mut forged = new("b");
    forged.backup.digest = "e".into();
    let differing = stock(&[("a", &[new("a")]), ("b", &[forged])]);
    expect(&of(&differing, Objectives::default(), false), Level::Critical, &["not the same in every store"]);
}

#[test]
fn a_hold_that_ends_soon_is_worth_a_word() {
    let held = |until_ms| {
        let mut held = backup("b1", "a", HOUR);
        held.backup.label = Some("pre-upgrade".into());
        held.state = BackupState {
            held_until_ms: Some(until_ms),
            held_because: Some("the way back\u{1b}[2J".into()),
            ..BackupState::default()
        };
        stock(&[("a", &[held])])
    };
    expect(&of_held(&held(NOW + 48 * HOUR), NOW), Level::Ok, &["b1 (pre-upgrade) until", "the way back"]);
    let soon = of_held(&held(NOW + 23 * HOUR), NOW);
    expect(&soon, Level::Warning, &["ends within a day"]);
    assert!(!soon.message.contains('\u{1b}'), "{soon:?}");
    expect(&of_held(&held(NOW - 1), NOW), Level::Ok, &["no backup is held"]);
}

fn drilled(service: &str, status: &str, ago_ms: u64) -> Drilled {
    Drilled {
        run: format!("run-{status}"),
        status: status.into(),
        summary: "said".into(),
        service: service.into(),
        ended_ms: NOW - ago_ms,
    }
}

#[test]
fn the_last_drill_counts_whatever_passed_before() {
    let of = |drills: &[Drilled], every_s| of_passed(drills, "s", &objectives(None, every_s), NOW);
    let ok = || drilled("s", "ok", HOUR);
    expect(&of(&[ok()], Some(3600)), Level::Ok, &["passed 1 h ago"]);
    expect(&of(&[ok()], Some(3599)), Level::Critical, &["passed 1 h ago", "every 59 min"]);
    expect(
        &of(&[drilled("s", "verification-failed", 0), ok()], None),
        Level::Critical,
        &["came out verification-failed"],
    );
    // Who ended it by hand has not disproved anything, and another service's drill proves nothing here.
    expect(&of(&[drilled("s", "cancelled", 0), drilled("t", "failed", 0), ok()], None), Level::Ok, &["run-ok"]);
    expect(&of(&[drilled("t", "ok", 0)], None), Level::Warning, &["no drill of s"]);
    expect(&of(&[], Some(3600)), Level::Critical, &["no drill of s"]);
}

#[test]
fn a_recovery_time_that_was_not_measured_was_not_kept_either() {
    let promised = Objectives { rto_s: Some(2), ..Objectives::default() };
    let took = |ms| Some(("r".to_owned(), Some(ms)));
    expect(&of_rto(took(2000).as_ref(), &promised), Level::Ok, &["took 2.0 s in drill r"]);
    expect(&of_rto(took(2001).as_ref(), &promised), Level::Critical, &["the objective is 2 s"]);
    expect(&of_rto(took(9000).as_ref(), &Objectives::default()), Level::Ok, &["no objective"]);
    expect(&of_rto(None, &promised), Level::Unknown, &["no drill has passed"]);
    expect(&of_rto(Some(&("r".to_owned(), None)), &promised), Level::Unknown, &["records of drill r"]);
}

#[test]
fn runs_that_stand_half_way_are_told_from_those_that_work_or_wait() {
    let open = |status: &str, is_held| OpenRun {
        row: RunRow { id: format!("r-{status}"), policy: "p".into(), status: status.into(), ..RunRow::default() },
        is_held,
    };
    expect(&of_runs(&[open("running", true)], NOW), Level::Ok, &["at work now: 1"]);
    expect(&of_runs(&[open("parked", false)], NOW), Level::Warning, &["r-parked", "waits"]);
    expect(&of_runs(&[open("parked", false), open("running", false)], NOW), Level::Critical, &["its engine died"]);
    expect(&of_runs(&[open("in-doubt", false)], NOW), Level::Critical, &["in doubt"]);
}

#[test]
fn a_service_left_down_is_worse_than_a_copy_left_over() {
    let left = |kind: &str| ObligationRow {
        id: 1,
        run: "r".into(),
        kind: kind.into(),
        object: "thing".into(),
        if_aborted: "start".into(),
        body: serde_json::Value::Null,
        state: "unsettled".into(),
        note: "why".into(),
    };
    expect(&of_obligations(&[]), Level::Ok, &[]);
    expect(&of_obligations(&[left("candidate")]), Level::Warning, &["discard candidate thing (run r): why"]);
    let down = of_obligations(&[left("candidate"), left("service-stopped")]);
    expect(&down, Level::Critical, &["start service thing again"]);
    assert!(down.fix.contains("lifeboat service start thing"), "{down:?}");
}

#[test]
fn what_no_backup_holds_is_missing_uncovered_or_kept() {
    let item = |there, kept: Option<&str>| OutsideItem {
        what: "secret".into(),
        service: None,
        place: "/x".into(),
        there,
        kept: kept.map(str::to_owned),
    };
    expect(&of_outside(&[item(Some(false), Some("vault"))]), Level::Critical, &["is missing: secret (/x)"]);
    expect(&of_outside(&[item(Some(true), None)]), Level::Warning, &["secret (/x)"]);
    expect(&of_outside(&[item(Some(true), Some("vault")), item(None, Some("vault"))]), Level::Ok, &["2"]);
}

// ── whole environments ───────────────────────────────────────────────────────────────────────────────────────────────

/// A configuration with a service that has a directory, and more lines of the file.
fn configured(more: &str) -> (tempfile::TempDir, Arc<Config>) {
    let directory = tempfile::tempdir().unwrap();
    for folder in ["live", "store"] {
        std::fs::create_dir(directory.path().join(folder)).unwrap();
    }
    let text = format!(
        "[environment.e.store.local]\nkind = \"directory\"\npath = \"store\"\n\
         [environment.e.service.s.source.files]\nkind = \"files\"\npath = \"live\"\n{more}"
    );
    let path = directory.path().join("lifeboat.toml");
    std::fs::write(&path, text).unwrap();
    let config = Arc::new(Config::load(&path).unwrap());
    (directory, config)
}

fn of<'r>(report: &'r Report, name: &str) -> &'r Seen {
    &report.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name}")).seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_environment_where_nothing_has_run_has_no_state_made_for_it() {
    let (directory, config) = configured("");
    let report = run(&config, "e", Options::default()).await.unwrap();
    assert_eq!(of(&report, "state.readable").level, Level::Warning);
    assert_eq!(of(&report, "backup.age").level, Level::Critical);
    assert_eq!(of(&report, "source.files.reachable").level, Level::Ok);
    assert!(!directory.path().join(".lifeboat").exists(), "it only looks");
    assert_eq!((report.level(), report.exit_code(), report.left_out), (Level::Critical, 2, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn checks_are_chosen_by_name_and_service_and_an_unknown_one_is_an_error() {
    let (_directory, config) = configured("");
    let chosen = |only: &[&str], except: &[&str], services: &[&str]| {
        let list = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect();
        Options { only: list(only), except: list(except), services: list(services), ..Options::default() }
    };
    let report = run(&config, "e", chosen(&["source", "store.local.reachable"], &["source.files.space"], &[])).await;
    let report = report.unwrap();
    let found: Vec<&str> = report.checks.iter().map(|check| check.name.as_str()).collect();
    let expected =
        ["store.local.reachable", "source.files.reachable", "source.files.may-read", "source.files.may-promote"];
    assert_eq!(found, expected);
    assert_eq!((report.level(), report.exit_code()), (Level::Ok, 0));
    assert!(report.left_out > 10);
    let of_service = run(&config, "e", chosen(&[], &[], &["s"])).await.unwrap();
    assert!(of_service.checks.iter().all(|check| check.service.as_deref() == Some("s")));
    for (options, says) in [
        (chosen(&["source.db"], &[], &[]), "no check named `source.db`"),
        (chosen(&[], &["backup.ages"], &[]), "no check named `backup.ages`"),
        (chosen(&[], &[], &["t"]), "no service named `t`"),
        (chosen(&["backup"], &["backup"], &[]), "no check is left"),
    ] {
        let error = run(&config, "e", options).await.unwrap_err();
        assert!(error.kind == Kind::Usage && error.message.contains(says), "{error}");
    }
}

/// A secret in a pipe that nobody writes to: reading it never ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_hangs_hides_none_of_the_others() {
    let endpoint = "[environment.e.service.s.endpoint.api]\nurl = \"http://127.0.0.1:1\"\n\
                    header = { Authorization = { file = \"pipe\" } }\n\
                    [environment.e.service.s.ready]\nendpoint = \"api\"\npath = \"/\"\n";
    let (directory, config) = configured(endpoint);
    let made = std::process::Command::new("mkfifo").arg(directory.path().join("pipe")).status().unwrap();
    assert!(made.success());
    let options = Options { limit: Duration::from_secs(3), ..Options::default() };
    let report = run(&config, "e", options).await.unwrap();
    let secrets = of(&report, "service.secrets");
    assert!(secrets.level == Level::Unknown && secrets.message.contains("no answer within"), "{secrets:?}");
    for reached in ["endpoint.api.reachable", "service.ready"] {
        let seen = of(&report, reached);
        assert!(seen.level == Level::Critical && seen.message.contains("no answer within"), "{reached}: {seen:?}");
    }
    assert_eq!(of(&report, "source.files.reachable").level, Level::Ok);
    assert_eq!(report.checks.len(), names(&config, "e", &Options::default().clock).unwrap().len());
    // So that the threads that wait for it end with the test.
    for _ in 0..3 {
        drop(std::fs::OpenOptions::new().read(true).write(true).open(directory.path().join("pipe")).unwrap());
    }
}

/// The clock is a bug wherever a check asks it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_panics_hides_none_of_the_others() {
    let (_directory, config) = configured("");
    let test = std::thread::current().id();
    let clock = Arc::new(move || {
        assert_eq!(std::thread::current().id(), test, "a bug that was put in");
        now_ms()
    });
    let report = run(&config, "e", Options { clock, ..Options::default() }).await.unwrap();
    let buggy = of(&report, "drill.passed");
    assert!(buggy.level == Level::Unknown && buggy.message.contains("a bug"), "{buggy:?}");
    assert_eq!(of(&report, "source.files.reachable").level, Level::Ok);
    assert_eq!(of(&report, "store.local.reachable").level, Level::Ok);
}

#[test]
fn every_check_stands_in_the_documentation() {
    let everything = "[state-database]\nhost = \"db\"\ndatabase = \"lifeboat\"\nuser = \"lifeboat\"\n\
        [environment.e.service.s.source.db]\nkind = \"postgres\"\nhost = \"db\"\ndatabase = \"d\"\nuser = \"u\"\n\
        scratch = { kind = \"server\", host = \"drills\", user = \"u\" }\n\
        [environment.e.store.bucket]\nkind = \"s3\"\nbucket = \"bucket\"\nregion = \"r\"\nexpect = {}\ncredentials = { default-chain = true }\n\
        [environment.e.service.s.source.file]\nkind = \"sqlite\"\npath = \"file.sqlite\"\n\
        [environment.e.service.s.control]\nkind = \"child\"\ncommand = [\"true\"]\n\
        [environment.e.service.s.endpoint.api]\nurl = \"http://127.0.0.1:1\"\n\
        [environment.e.service.s.ready]\nendpoint = \"api\"\npath = \"/\"\n";
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lifeboat.toml");
    let (_first, config) = configured("");
    let text = format!("{everything}{}", std::fs::read_to_string(config.path()).unwrap());
    std::fs::write(&path, text).unwrap();
    let config = Arc::new(Config::load(&path).unwrap());
    let general = |name: &str| {
        let parts: Vec<&str> = name.split('.').collect();
        match parts[..] {
            ["source", _, last] => format!("source.SOURCE.{last}"),
            ["store", _, last] => format!("store.STORE.{last}"),
            ["endpoint", _, last] => format!("endpoint.ENDPOINT.{last}"),
            _ => name.to_owned(),
        }
    };
    let names = names(&config, "e", &Options::default().clock).unwrap();
    let here: BTreeSet<String> = names.iter().map(|(_, name)| general(name)).collect();
    let documentation = std::fs::read_to_string(documentation()).unwrap();
    let rows = documentation.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let there: BTreeSet<String> = rows.map(|(name, _)| name.to_owned()).filter(|name| name.contains('.')).collect();
    assert_eq!(here, there);
}

fn documentation() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/checks.md")
}
