//! Every limit is broken by a guest made for it, ends in its own error, and the engine goes on with honest work.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::run::{Ended, Status};
use engine::sandbox::limits::{Breach, Limits};

use crate::support::Site;
use crate::support::guests::{notes, records};

/// A way to break one limit: which field it is, the guest, its parameters, the limits it is given, and what it must end as.
struct Case {
    field: &'static str,
    guest: &'static str,
    words: &'static [&'static str],
    limits: &'static str,
    breach: Breach,
}

const CASES: &[Case] = &[
    Case {
        field: "memory-bytes-max",
        guest: "hog",
        words: &[],
        limits: "memory-bytes-max = 8388608",
        breach: Breach::Memory,
    },
    Case { field: "fuel", guest: "spin", words: &[], limits: "fuel = 5000000", breach: Breach::Fuel },
    Case {
        field: "call-bytes-max",
        guest: "floods",
        words: &["kind=big-string"],
        // The text itself needs memory in the guest first.
        limits: "memory-bytes-max = 268435456",
        breach: Breach::CallBytes,
    },
    Case {
        field: "handles-max",
        guest: "floods",
        words: &["kind=handles"],
        limits: "handles-max = 100",
        breach: Breach::Handles,
    },
    Case {
        field: "steps-max",
        guest: "floods",
        words: &["kind=steps"],
        limits: "steps-max = 5",
        breach: Breach::Steps,
    },
    Case {
        field: "report-bytes-max",
        guest: "floods",
        words: &["kind=notes"],
        limits: "report-bytes-max = 10000",
        breach: Breach::ReportBytes,
    },
    Case {
        field: "report-bytes-max",
        guest: "floods",
        words: &["kind=findings"],
        limits: "report-bytes-max = 10000",
        breach: Breach::ReportBytes,
    },
    Case {
        field: "report-bytes-max",
        guest: "floods",
        words: &["kind=evidence"],
        limits: "report-bytes-max = 10000",
        breach: Breach::ReportBytes,
    },
    // A busy loop with all the fuel there is: the watchdog ends it, after the grace.
    Case {
        field: "grace-s",
        guest: "spin",
        words: &[],
        limits: "deadline-s = 1, grace-s = 1, fuel = 18446744073709551",
        breach: Breach::Deadline,
    },
    // A wait in the host: it ends at the deadline, not after the grace.
    Case {
        field: "deadline-s",
        guest: "sleeper",
        words: &[],
        limits: "deadline-s = 1, grace-s = 30",
        breach: Breach::Deadline,
    },
    Case { field: "stack", guest: "floods", words: &["kind=recursion"], limits: "", breach: Breach::Stack },
];

fn site() -> Site {
    let site = Site::notes();
    for (number, case) in CASES.iter().enumerate() {
        let grants: &[&str] = match case.guest {
            "sleeper" => &["clock.sleep-until"],
            "floods" => &["catalog.list service=notes store=local"],
            _ => &[],
        };
        let limits = format!("limits = {{ {} }}", case.limits);
        site.guest(&format!("breaks-{number}"), case.guest, "backup", grants, &limits);
    }
    site.guest("honest", "says", "cadence", &[], "");
    site.guest("panics", "floods", "backup", &[], "");
    site
}

#[test]
fn the_table_has_every_limit() {
    let fields = serde_json::to_value(Limits::default()).unwrap();
    for field in fields.as_object().unwrap().keys() {
        assert!(CASES.iter().any(|c| c.field == field), "no guest breaks {field}");
    }
}

/// Resident memory of this process, bytes.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn each_limit_has_its_own_error_and_the_same_engine_runs_honest_policies_after_it() {
    let site = site();
    let engine = Arc::new(site.engine().await);
    for (number, case) in CASES.iter().enumerate() {
        let began = Instant::now();
        let ended = site.embedded(&engine, &format!("breaks-{number}"), case.words).await;
        let took = began.elapsed();
        let field = case.field;
        assert_eq!(ended.status, Status::LimitBroken, "{field}: {ended:?}");
        assert_eq!(ended.breach, Some(case.breach), "{field}: {ended:?}");
        assert_eq!(ended.status.exit_code(), 20);
        if field != "stack" && field != "grace-s" {
            assert!(ended.summary.contains(field), "the summary names the limit {field}: {}", ended.summary);
        }
        match field {
            "deadline-s" => assert!(took < Duration::from_secs(15), "the host wait was not cut short: {took:?}"),
            "grace-s" => {
                assert!(took >= Duration::from_secs(2), "it had deadline and grace: {took:?}");
                assert!(took < Duration::from_secs(20), "the watchdog came late: {took:?}");
            }
            _ => {}
        }
        // The journal says the same.
        let last = engine.state().records(&ended.run).await.unwrap().pop().unwrap();
        assert_eq!(last.body["status"], "limit-broken", "{field}");
        assert_eq!(last.body["breach"], serde_json::to_value(case.breach).unwrap(), "{field}");
        // And the engine is as good as new.
        let honest = site.embedded(&engine, "honest", &[]).await;
        assert_eq!((honest.status, honest.summary.as_str()), (Status::Ok, "as said"), "after {field}: {honest:?}");
    }
    engine.state().verify_chain().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_guests_took_comes_back() {
    let site = site();
    let engine = Arc::new(site.engine().await);
    let site = Arc::new(site);
    // 100 MiB each.
    site.guest("greedy", "hog", "backup", &[], "limits = { memory-bytes-max = 104857600 }");
    let mut after = Vec::new();
    for _ in 0..4 {
        let ended = site.embedded(&engine, "greedy", &[]).await;
        assert_eq!(ended.breach, Some(Breach::Memory), "{ended:?}");
        after.push(resident_bytes());
    }
    // Other tests of this process run beside this one: what is looked for is a leak of whole guests.
    let grown = after[3].saturating_sub(after[0]);
    assert!(grown < 150 << 20, "three more guests of 100 MiB left {} MiB", grown >> 20);

    // Several at once, hostile and honest: nobody starves.
    let mut runs = Vec::new();
    for number in 0..8 {
        let (site, engine) = (site.clone(), engine.clone());
        runs.push(tokio::spawn(async move {
            match number % 4 {
                0 => site.embedded(&engine, "breaks-1", &[]).await,
                1 => site.embedded(&engine, "breaks-0", &[]).await,
                _ => site.embedded(&engine, "honest", &[]).await,
            }
        }));
    }
    let mut ended: Vec<Ended> = Vec::new();
    for run in runs {
        ended.push(run.await.unwrap());
    }
    let count = |status| ended.iter().filter(|e| e.status == status).count();
    assert_eq!((count(Status::LimitBroken), count(Status::Ok)), (4, 4), "{ended:?}");
}

#[test]
fn on_the_command_line_a_broken_limit_and_a_panic_are_exit_code_20_and_say_why() {
    let site = site();
    let outcome = site.run("breaks-4", &["--param", "kind=steps"]).expect(20);
    let said = outcome.json();
    assert_eq!((&said["status"], &said["breach"]), (&"limit-broken".into(), &"steps".into()), "{said}");
    // Five calls were made, the sixth was not.
    assert_eq!(records(&site.shown(&outcome), "answered").len(), 5);

    let outcome = site.run("panics", &["--param", "kind=panic"]).expect(20);
    let said = outcome.json();
    assert_eq!((&said["status"], &said["breach"]), (&"trapped".into(), &serde_json::Value::Null), "{said}");
    let notes = notes(&site.shown(&outcome));
    assert!(notes.iter().any(|n| n.starts_with("panicked") && n.contains("asked to")), "{notes:?}");
    let outcome = site.lifeboat(&["run", "panics", "--param", "kind=panic"]).expect(20);
    assert!(outcome.stderr.contains("asked to"), "people see it too: {}", outcome.said());
}

/// Room for many runs is set aside as addresses, which some places give out sparingly.
#[test]
fn where_addresses_are_few_there_is_room_for_fewer_runs_and_where_there_are_none_the_limit_is_named() {
    let site = Site::notes();
    let limited = |bytes: &str| {
        let script = format!("ulimit -v {bytes} && exec \"$0\" run backup");
        let mut shell = std::process::Command::new("sh");
        shell.arg("-c").arg(script).arg(crate::support::lifeboat()).current_dir(site.path(""));
        crate::support::Outcome::of(shell.stdin(std::process::Stdio::null()).output().unwrap())
    };
    // 64 GiB, in KiB. There is no database: a run that begins fails at it.
    let few = limited("67108864");
    assert!(few.code == 1 && few.stderr.contains("runs at once; further ones wait"), "{few:?}");
    let none = limited("4194304");
    assert!(
        none.code == 1 && none.stderr.contains("ulimit -v") && none.stderr.contains("GiB of addresses"),
        "{none:?}"
    );
}
