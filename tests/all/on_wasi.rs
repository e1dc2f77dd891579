//! Modules that import WASI 0.2: refused unless it is allowed for them, and then with nothing in it, the same on every replay.

use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::guests::records;
use crate::support::{Site, policy, wait_until};

/// What the guest noted, as JSON, from a run's records.
fn noted(shown: &Value, when: &str) -> Value {
    let begins = format!("{when}: ");
    let notes = shown["records"]
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|record| record["said"].as_array().cloned().unwrap_or_default());
    let note = notes.filter_map(|said| said["note"].as_str().map(str::to_owned)).find(|note| note.starts_with(&begins));
    serde_json::from_str(&note.unwrap_or_else(|| panic!("no {when}: {shown:#}"))[begins.len()..]).unwrap()
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

#[test]
fn a_module_that_imports_wasi_is_refused_where_it_is_not_allowed() {
    let site = Site::notes();
    site.guest("on-wasi", "on-wasi", "backup", &["clock.sleep-until"], "");
    let refused = site.run("on-wasi", &[]).expect(12);
    assert!(refused.stderr.contains("WASI is not allowed for it here"), "{refused:?}");
    assert!(refused.stderr.contains("wasi = true in [environment.demo.policy.on-wasi]"), "{refused:?}");
    let module = policy("on-wasi");
    let module = module.to_str().unwrap();
    let check = site.lifeboat(&["policy", "check", module]).expect(12);
    assert!(check.stdout.contains("WASI is not allowed for it here"), "{check:?}");
    assert!(site.lifeboat(&["policy", "inspect", "on-wasi"]).expect(0).stdout.contains("which is NOT ALLOWED here"));
    let file = site.lifeboat(&["policy", "inspect", module]).expect(0).stdout;
    assert!(file.contains("which an environment has to allow") && file.contains("wasi:random/random@0.2.0"), "{file}");
    // No value but a boolean is taken.
    site.configure(&[(
        "world = \"backup\"\ngrants = [\"clock.sleep-until\"]",
        "world = \"backup\"\nwasi = \"yes\"\ngrants = [\"clock.sleep-until\"]",
    )]);
    assert!(site.run("on-wasi", &[]).expect(10).stderr.contains("boolean"));
    site.configure(&[("wasi = \"yes\"", "wasi = true")]);
    site.run("on-wasi", &[]).expect(0);
    site.lifeboat(&["policy", "check", module]).expect(0);
    assert!(site.lifeboat(&["policy", "inspect", "on-wasi"]).expect(0).stdout.contains("which is allowed here"));
    // A later version on WASI is more than was accepted.
    let more = site.lifeboat(&["--json", "policy", "diff", "backup", module]).expect(12).json();
    assert!(more["imports-added"].to_string().contains("wasi:random/random@0.2.0"), "{more}");
}

#[test]
fn there_is_nothing_in_it_and_two_runs_have_other_randomness() {
    let site = Site::notes();
    site.guest("on-wasi", "on-wasi", "backup", &["clock.sleep-until"], "wasi = true");
    let run = |_| {
        let mut command = site.command(&["--json", "run", "on-wasi"]);
        let out = command.env("A_SECRET", "seen").output().unwrap();
        assert!(out.status.success(), "{out:?}");
        assert!(!String::from_utf8_lossy(&out.stderr).contains("seen by nobody"), "{out:?}");
        let said: Value = serde_json::from_slice(&out.stdout).unwrap();
        site.show(said["run"].as_str().unwrap())
    };
    let shown: Vec<Value> = (0..2).map(run).collect();
    let first = noted(&shown[0], "first");
    for (key, value) in [
        ("environment", json!(0)),
        ("arguments", json!(0)),
        ("cwd", Value::Null),
        ("directories", json!(0)),
        ("name", json!("permanent-resolver-failure")),
        ("socket", json!("access-denied")),
        ("written", json!(true)),
    ] {
        assert_eq!(first[key], value, "{key}: {first}");
    }
    // Clocks stand at the run's first record, whatever it waited for; randomness goes on.
    let second = noted(&shown[0], "second");
    let began = shown[0]["records"][0]["time-ms"].as_u64().unwrap();
    for note in [&first, &second] {
        assert_eq!((&note["wall-ms"], &note["monotonic-ms"]), (&json!(began), &json!(began)));
    }
    for key in ["random", "insecure"] {
        assert_ne!(first[key], second[key], "{key}");
        assert_ne!(first[key], noted(&shown[1], "first")[key], "{key}");
    }
    assert_ne!(first["seed"], noted(&shown[1], "first")["seed"]);
}

#[test]
fn a_run_that_was_killed_is_told_the_same_again() {
    let site = Site::notes();
    site.guest("on-wasi", "on-wasi", "backup", &["clock.sleep-until"], "wasi = true");
    // What it asks first depends on everything that WASI told it. Then it waits, longer than any test.
    let until = format!("sleep-until-ms={}", now_ms() + 3_600_000);
    let running = site.start_run("on-wasi", &["--param", &until]);
    let runs = || site.lifeboat(&["--json", "runs", "list"]).json();
    let waits = |run: &str| records(&site.show(run), "started").len() == 2;
    wait_until("it waits", || runs()[0]["run"].as_str().is_some_and(waits));
    let run = runs()[0]["run"].as_str().unwrap().to_owned();
    let before = noted(&site.show(&run), "first");
    running.signal("KILL");
    assert_ne!(running.outcome().code, 0);

    // Another engine goes on with it: told anything else, it would ask for another time, and end as nondeterminism.
    let mut command = site.command(&["--json", "runs", "resume", &run]);
    let resumed = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    wait_until("it goes on", || records(&site.show(&run), "started").len() == 3);
    site.lifeboat(&["runs", "cancel", &run, "--reason", "seen enough"]).expect(0);
    let out = resumed.wait_with_output().unwrap();
    let said: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert_eq!((out.status.code(), &said["status"]), (Some(130), &json!("cancelled")), "{said}");
    assert_eq!(noted(&site.show(&run), "first"), before);
    // So is a run that is only replayed, with the randomness of the run it replays.
    let again = site.lifeboat(&["policy", "replay", policy("on-wasi").to_str().unwrap(), "--runs", &run]);
    assert!(!again.said().contains("nondeterminism"), "{again:?}");
}

#[test]
fn what_a_guest_holds_of_wasi_counts_as_what_it_may_hold() {
    let site = Site::notes();
    site.guest("on-wasi", "on-wasi", "backup", &["clock.sleep-until"], "wasi = true\nlimits = { handles-max = 100 }");
    site.run("on-wasi", &["--param", "handles=20"]).expect(0);
    for handles in ["handles=60", "handles=200"] {
        let said = site.run("on-wasi", &["--param", handles]).expect(20);
        assert!(said.stdout.contains("held more resources than handles-max"), "{said:?}");
    }
}
