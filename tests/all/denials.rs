//! Every call that can be denied is denied once, on record; what must not even be loaded is refused before that.

use std::fs;

use engine::calls::{CALLS, Class};

use crate::support::guests::records;
use crate::support::{Site, policy};

/// Grants for everything that either guest can ask for, a line a call.
fn grant(call: &engine::calls::Call) -> String {
    let objects: Vec<String> = call
        .objects
        .iter()
        .map(|o| match *o {
            "service" => "service=notes".into(),
            other => format!("{other}=*"),
        })
        .collect();
    format!("{} {}", call.name, objects.join(" ")).trim().to_owned()
}

/// Which guest, in which world, makes a call.
fn guest_of(call: &str) -> (&'static str, &'static str) {
    match call {
        "delete.apply" | "delete.plan" | "confirm.request-delete" => ("deny-delete", "retention"),
        name if name.starts_with("schedule.") => ("deny-cadence", "cadence"),
        _ => ("deny-all", "upgrade"),
    }
}

fn deniable() -> impl Iterator<Item = &'static engine::calls::Call> {
    CALLS.iter().filter(|c| c.class != Class::Pure)
}

/// A call that the guests don't know ends as `invalid`, not as denied: whoever adds one to the contract has to add its case there.
#[test]
fn every_call_that_is_not_pure_is_denied_without_its_grant_and_on_record() {
    let mut site = Site::notes();
    site.serve_some_notes();
    for call in deniable() {
        let (module, world) = guest_of(call.name);
        let interfaces = &engine::contract::contract().worlds[world];
        let others: Vec<String> = deniable()
            .filter(|c| c.name != call.name && interfaces.contains(c.name.split_once('.').unwrap().0))
            .map(grant)
            .collect();
        let others: Vec<&str> = others.iter().map(String::as_str).collect();
        site.guest(&call.name.replace('.', "-"), module, world, &others, "");
    }
    // Three, of which two are proven: so one is there that could go.
    (0..3).for_each(|_| drop(site.run("backup", &[]).expect(0)));
    let listed = site.lifeboat(&["--json", "backups", "list", "--store", "local"]).expect(0).json();
    for n in [1, 2] {
        let id = listed[n]["id"].as_str().unwrap();
        site.lifeboat(&["backups", "verify", id, "--store", "local", "--depth", "content"]).expect(0);
    }
    // So that there is a promotion to undo.
    site.run("restore", &["--yes"]).expect(0);

    let common = ["--param", "service=notes", "--param", "store=local", "--yes"];
    let mut cases = 0;
    for call in deniable() {
        let named = format!("call={}", call.name);
        let mut words = vec!["--param", named.as_str()];
        words.extend(common);
        match call.name {
            "restore.query" | "query.run" => words.extend(["--param", "name=schema"]),
            name if name.starts_with("scratch.") => words.extend(["--param", "target=scratch"]),
            _ => {}
        }
        let outcome = site.run(&call.name.replace('.', "-"), &words);
        assert_eq!(outcome.code, 12, "{}: {}", call.name, outcome.said());
        let shown = site.shown(&outcome);
        let about = |r: &&serde_json::Value| r["request"]["call"] == call.name;
        let answers: Vec<_> = records(&shown, "answered").into_iter().filter(about).collect();
        assert_eq!(answers.len(), 1, "{}: {shown:#}", call.name);
        let words = answers[0]["result"]["err"]["denied"].as_str().unwrap_or_default();
        assert!(words.starts_with(&format!("not granted: {}", call.name)), "{}: {words}", call.name);
        assert!(words.contains("to allow it, add"), "{}: {words}", call.name);
        assert_eq!(records(&shown, "started").into_iter().filter(about).count(), 0, "{} was not begun", call.name);
        // What it opened on the way there is closed, whatever the call.
        for obligation in shown["obligations"].as_array().unwrap() {
            assert!(matches!(obligation["state"].as_str(), Some("settled" | "closed")), "{}: {shown:#}", call.name);
        }
        cases += 1;
    }
    assert_eq!(cases, CALLS.iter().filter(|c| c.class != Class::Pure).count());

    assert!(site.is_up(), "what was stopped on the way runs again");
    let candidates = site.lifeboat(&["--json", "candidates", "list"]).expect(0).json();
    assert_eq!(candidates.as_array().unwrap().len(), 0, "{candidates}");
    let promotions = site.lifeboat(&["--json", "promotions", "list"]).expect(0).json();
    assert_eq!(promotions.as_array().unwrap().len(), 1, "none was made, undone or dropped: {promotions}");
    assert_eq!(promotions[0]["state"], "in-service");
    let listed = site.lifeboat(&["--json", "backups", "list", "--store", "local"]).expect(0).json();
    assert_eq!(listed.as_array().unwrap().len(), 3, "none was taken or deleted: {listed}");
}

/// The same calls, granted: so the denials above are the grants' doing.
#[test]
fn the_same_calls_are_not_denied_with_their_grant() {
    let mut site = Site::notes();
    site.serve_some_notes();
    for (module, world) in [("deny-all", "upgrade"), ("deny-delete", "retention"), ("deny-cadence", "cadence")] {
        let interfaces = &engine::contract::contract().worlds[world];
        let all: Vec<String> =
            deniable().filter(|c| interfaces.contains(c.name.split_once('.').unwrap().0)).map(grant).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        site.guest(module, module, world, &all, "");
    }
    // To attest is to sign.
    site.make_key("demo");
    site.sign_with(Some("demo"), &[]);
    site.run("backup", &[]).expect(0);
    site.run("restore", &["--yes"]).expect(0);
    // Those that change what later ones need come last.
    let last = ["promote.drop-previous", "promote.undo", "promote.promote", "delete.apply"];
    let place = |name: &str| last.iter().position(|l| *l == name).map_or(0, |p| p + 1);
    let mut calls: Vec<_> = deniable().collect();
    calls.sort_by_key(|c| place(c.name));
    for call in calls {
        let named = format!("call={}", call.name);
        let mut words = vec!["--param", &named, "--param", "service=notes", "--param", "store=local", "--yes"];
        match call.name {
            "restore.query" | "query.run" => words.extend(["--param", "name=schema"]),
            name if name.starts_with("scratch.") => words.extend(["--param", "target=scratch"]),
            // The oldest one goes only where enough others were proven.
            "confirm.request-delete" => {
                for _ in 0..2 {
                    site.run("backup", &[]).expect(0);
                    let verify = ["--param", "call=restore.verify", "--param", "target=scratch"];
                    let of = ["--param", "service=notes", "--param", "store=local"];
                    site.run("deny-all", &[verify, of].concat()).expect(0);
                }
            }
            // Only so that there is one again.
            "promote.undo" => drop(site.run("restore", &["--yes"]).expect(0)),
            _ => {}
        }
        let outcome = site.run(guest_of(call.name).0, &words);
        let shown = site.shown(&outcome);
        let reached = shown["records"].as_array().unwrap().iter().any(|r| r["request"]["call"] == call.name);
        assert!(reached, "{}: {}", call.name, outcome.said());
        // Allowed, and refused for a reason of its own: a version is not installed under a running service.
        let code = if call.name == "service.install" { 1 } else { 0 };
        assert_eq!(outcome.code, code, "{}: {}", call.name, outcome.said());
    }
}

#[test]
fn a_module_that_imports_more_than_it_declares_or_its_world_holds_is_refused_before_it_runs() {
    let site = Site::notes();
    // A guest's bytes with another description of the same length.
    let with = |guest: &str, from: &str, to: &str| {
        assert_eq!(from.len(), to.len());
        let mut bytes = fs::read(policy(guest)).unwrap();
        let at = bytes.windows(from.len()).rposition(|w| w == from.as_bytes()).expect("it stands in the description");
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        bytes
    };
    let cadence = ("\"world\":\"upgrade\"", "\"world\":\"cadence\"");
    for (name, bytes, world, says) in [
        (
            "undeclared",
            with("deny-all", "\"dump.take\"", "\"query.run\""),
            "upgrade",
            "it imports dump.take, which it does not declare",
        ),
        (
            "outside",
            with("trap-between", cadence.0, cadence.1),
            "cadence",
            "it imports service.stop, which world `cadence` does not hold",
        ),
        (
            "holds",
            with("deny-all", cadence.0, cadence.1),
            "cadence",
            "it imports catalog.hold, which changes something: world `cadence` only reads",
        ),
    ] {
        fs::write(site.path(format!("policies/{name}.wasm")), bytes).unwrap();
        site.append(&format!(
            "[environment.demo.policy.{name}]\nmodule = \"policies/{name}.wasm\"\nworld = \"{world}\"\n"
        ));
        let outcome = site.run(name, &["--param", "service=notes"]).expect(12);
        assert!(outcome.stderr.contains(says), "{name}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("hint:"), "{name}: {}", outcome.stderr);
    }
    let runs = site.lifeboat(&["--json", "runs", "list"]).expect(0).json();
    assert_eq!(runs.as_array().unwrap().len(), 0, "nothing of either was run: {runs}");

    // An honest module in another world than its own.
    site.guest("elsewhere", "deny-all", "cadence", &[], "");
    let words = ["--param", "call=dump.take", "--param", "service=notes", "--param", "store=local"];
    let outcome = site.run("elsewhere", &words).expect(12);
    assert!(
        outcome.stderr.contains("is for world `upgrade`, the environment gives it `cadence`"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_drill_does_not_reach_the_live_service_even_if_someone_grants_it() {
    let mut site = Site::notes();
    site.serve_some_notes();
    // In plain words, and by a star.
    for (name, endpoint) in [("plain", "notes/api"), ("star", "*")] {
        let line = format!("http-check.check endpoint={endpoint} method=GET path=/");
        site.guest(name, "asks", "drill", &[&line], "parameters = { endpoint = \"notes/api\" }");
        let outcome = site.run(name, &[]).expect(12);
        let shown = site.shown(&outcome);
        let answer = records(&shown, "answered")[0]["result"]["err"]["denied"].as_str().unwrap_or_default().to_owned();
        assert!(answer.contains("world does not reach the live service"), "{name}: {shown:#}");
    }
    // Reachable it is: another world is allowed to with the same line.
    let line = "http-check.check endpoint=notes/api method=GET path=/";
    site.guest("other-world", "deny-all", "upgrade", &[line], "");
    let words = ["--param", "call=http-check.check", "--param", "service=notes", "--param", "store=local"];
    site.run("other-world", &words).expect(0);
}

#[test]
fn a_grant_for_what_the_world_does_not_hold_is_an_error_of_the_configuration() {
    for (world, line, interface) in [
        ("drill", "promote.promote service=notes", "promote"),
        ("drill", "delete.apply service=notes store=local", "delete"),
        ("drill", "service.stop service=notes", "service"),
        ("backup", "restore.stage service=notes store=local target=beside", "restore"),
        ("cadence", "dump.take service=notes store=local", "dump"),
        ("retention", "promote.undo service=notes", "promote"),
    ] {
        let site = Site::notes();
        site.guest("p", "says", world, &[line], "");
        let outcome = site.lifeboat(&["config", "validate"]).expect(10);
        assert!(outcome.stderr.contains(&format!("world `{world}` does not hold {interface}")), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("line ") && outcome.stderr.contains("hint:"), "{}", outcome.stderr);
        // No verb works on such a file, not only `validate`.
        site.run("backup", &[]).expect(10);
    }
}
