//! Everything that can be wrong around a run: files, names, modules, stores, state, services, disks. Each ends with its documented exit
//! code and words a person can use; no secret is told, and nothing is lost.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use engine::approvals::{Answer, Confirmer, Intent};
use engine::observe::{Event, Observer};
use host_api::sources::postgres::testing::PgServer;
use serde_json::json;

use crate::support::disk::{Tmpfs, fill};
use crate::support::guests::records;
use crate::support::{Outcome, Site, policy, wait_until};

/// Fails unless it ended so, said all of this on stderr, and gave a hint.
#[track_caller]
fn says(outcome: &Outcome, code: i32, words: &[&str]) {
    assert_eq!(outcome.code, code, "{}", outcome.said());
    for word in words {
        assert!(outcome.said().contains(word), "says nothing of {word:?}: {}", outcome.said());
    }
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.stderr);
}

/// What it said, and what the journal kept whole: a guest, and so its summary, is told no paths.
fn in_full(site: &Site, outcome: &Outcome) -> String {
    format!("{}\n{}", outcome.said(), site.shown(outcome))
}

// ── the configuration and names ──────────────────────────────────────────────────────────────────────────────────────

#[test]
fn mistakes_in_the_configuration_are_placed_and_answered_with_what_is_right() {
    let empty = Site::empty();
    let outcome = empty.run("backup", &[]);
    says(&outcome, 10, &["lifeboat.toml", "No such file", "hint: name it with --config"]);

    for (from, to, words) in [
        ("allow-yes = true", "allow-yes = true\nallow-yes = true", &["line 9", "duplicate key"][..]),
        ("[environment.demo]", "[environment.demo", &["line 6, column 18", "unclosed table"]),
        ("allow-yes = true", "alow-yes = true", &["line 8, column 1", "alow-yes", "allow-yes"]),
        ("kind = \"directory\"", "kind = \"directry\"", &["directry", "directory"]),
        ("kind = \"directory\"", "kind = \"directory\"\ncolour = 1", &["colour"]),
        ("world = \"backup\"", "world = \"bakcup\"", &["line ", "did you mean `backup`", "hint:"]),
        (
            "\"dump.take service=notes store=local\"",
            "\"dump.take service=note store=local\"",
            &["did you mean `notes`", "hint:"],
        ),
        ("\"dump.take service=notes store=local\"", "\"dump.take service=notes\"", &["store=*", "hint:"]),
        (
            "\"dump.take service=notes store=local\"",
            "\"dump.take service=notes store=lokal\"",
            &["did you mean `local`", "hint:"],
        ),
        (
            "source = \"db\"\nsql = \"select max",
            "source = \"dbx\"\nsql = \"select max",
            &["did you mean `db`", "hint:"],
        ),
        (
            "endpoint = \"api\"\npath = \"/readyz\"",
            "endpoint = \"apx\"\npath = \"/readyz\"",
            &["did you mean `api`", "hint:"],
        ),
        ("layout = { db = ", "layout = { bd = ", &["did you mean `db`", "hint:"]),
        ("attachments = \"attachments\" }", "attachments = \"../../etc\" }", &["not a plain relative path"]),
        ("[environment.demo.store.local]", "[environment.demo.store.\"../x\"]", &["no name for a store"]),
    ] {
        let site = Site::notes().cold();
        let text = fs::read_to_string(site.path("lifeboat.toml")).unwrap();
        assert!(text.contains(from), "{from}");
        site.write("lifeboat.toml", &text.replacen(from, to, 1));
        for arguments in [&["config", "validate"][..], &["run", "backup"], &["backups", "list"]] {
            let outcome = site.lifeboat(arguments);
            says(&outcome, 10, words);
            assert!(outcome.stderr.starts_with("error: "), "{}", outcome.stderr);
        }
        assert!(!site.path(".lifeboat").exists(), "nothing was begun");
    }
}

#[test]
fn unknown_names_are_answered_with_the_known_ones() {
    let site = Site::notes();
    site.guest(
        "deny-all",
        "deny-all",
        "upgrade",
        &["catalog.latest service=* store=*", "service.get-status service=*"],
        "",
    );
    says(&site.run("bakup", &[]), 10, &["did you mean `backup`", "drill"]);
    says(&site.lifeboat(&["--env", "dmeo", "run", "backup"]), 10, &["did you mean `demo`"]);
    says(&site.run("backup", &["--param", "sevrice=notes"]), 2, &["did you mean `service`"]);
    says(&site.run("backup", &["--param", "service"]), 2, &["KEY=VALUE"]);
    says(&site.run("backup", &["--param", "copy-to=7"]), 2, &["copy-to is array"]);
    says(&site.run("drill", &["--param", "lists=@nowhere.json"]), 2, &["nowhere.json"]);
    says(&site.run("deny-all", &[]), 2, &["needs parameter `call`", "hint: --param call=VALUE"]);
    let asks = |call: &str, service: &str, store: &str| {
        let words = [format!("call={call}"), format!("service={service}"), format!("store={store}")];
        site.run("deny-all", &["--param", &words[0], "--param", &words[1], "--param", &words[2]])
    };
    says(&asks("service.get-status", "notse", "local"), 1, &["no service named `notse`", "configured: notes"]);
    says(&asks("catalog.latest", "notes", "lokal"), 1, &["no store named `lokal`", "configured: local, offsite"]);
    says(&asks("catalog.latest", "../../etc", "local"), 1, &["is no name for a service"]);
    says(&site.lifeboat(&["backups", "list", "--store", "lokal"]), 10, &["did you mean `local`"]);
    says(&site.lifeboat(&["backups", "verify", "nothing"]), 2, &["hint: `lifeboat backups list` shows them"]);
    says(&site.lifeboat(&["runs", "show", "nothing"]), 2, &["hint: `lifeboat runs list` shows them"]);
    says(&site.lifeboat(&["runs", "resume", "nothing"]), 2, &["hint: `lifeboat runs list` shows them"]);
    says(&site.lifeboat(&["candidates", "discard", "nothing"]), 2, &["hint: `lifeboat candidates list` shows them"]);
    says(&site.lifeboat(&["promotions", "undo", "nothing"]), 2, &["hint: `lifeboat promotions list` shows them"]);
    says(&site.lifeboat(&["serve", "--start", "notse"]), 10, &["did you mean `notes`"]);
    says(&site.lifeboat(&["explode"]), 2, &["unrecognized subcommand"]);
    says(&site.lifeboat(&["run"]), 2, &["hint: `lifeboat policy list` shows them"]);
}

#[test]
fn yes_counts_only_where_the_environment_says_so() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    site.configure(&[("allow-yes = true", "allow-yes = false")]);
    let before = site.http("GET", "/notes", None).unwrap().body;
    says(&site.run("restore", &["--yes"]), 2, &["does not allow --yes", "hint:"]);
    let parked = site.run("restore", &[]).expect(13);
    let run = parked.json()["run"].as_str().unwrap().to_owned();
    says(&site.lifeboat(&["runs", "resume", &run, "--yes"]), 2, &["does not allow --yes"]);
    assert_eq!(site.http("GET", "/notes", None).unwrap().body, before);
    assert!(site.is_up());
}

// ── modules ──────────────────────────────────────────────────────────────────────────────────────────────────────────

/// A component made by hand: exports `run` as every world has it, with these imports and this description.
fn component(imports: &str, world: &str) -> Vec<u8> {
    let description = json!({"name": "by-hand", "version": "1", "world": world}).to_string();
    let text = format!(
        r#"(component
            {imports}
            (core module $m
                (memory (export "memory") 1)
                (func (export "realloc") (param i32 i32 i32 i32) (result i32) i32.const 1024)
                (func (export "run") (param i32 i32) (result i32) i32.const 0))
            (core instance $i (instantiate $m))
            (func (export "run") (param "parameters" string) (result (result (error string)))
                (canon lift (core func $i "run") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
            (@custom "lifeboat:policy" {description:?}))"#
    );
    wat::parse_str(text).unwrap()
}

#[test]
fn a_module_that_is_none_of_ours_is_refused_in_words() {
    let site = Site::notes();
    let core = wat::parse_str("(module)").unwrap();
    let bare = wat::parse_str("(component)").unwrap();
    let good = fs::read(policy("says")).unwrap();
    let mut twice = good.clone();
    let (section, _) = custom_section(&good);
    twice.extend(&good[section..]);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", Vec::new(), "no WebAssembly"),
        ("text", b"#!/bin/sh\nrm -rf /\n".to_vec(), "no WebAssembly"),
        ("core", core, "a core WebAssembly module, not a component"),
        ("bare", bare, "no section `lifeboat:policy`"),
        ("two-descriptions", twice, "more than one section"),
        ("unknown-world", component("", "bakcup"), "did you mean `backup`"),
        (
            "wasi-of-another-version",
            component(
                r#"(import "wasi:clocks/wall-clock@0.3.0" (instance (export "now" (func (result u64)))))"#,
                "backup",
            ),
            "it imports `wasi:clocks/wall-clock@0.3.0`",
        ),
        (
            "wasi-http",
            component(
                r#"(import "wasi:http/proxy@0.2.0" (instance (export "get-arguments" (func (result (list string))))))"#,
                "backup",
            ),
            "of WASI only 0.2's io, clocks, random, cli, filesystem and sockets can be allowed",
        ),
        (
            "another-version",
            component(
                r#"(import "lifeboat:recovery/clock@0.9.0" (instance (export "now" (func (result u64)))))"#,
                "backup",
            ),
            "this engine offers lifeboat:recovery 0.1.0",
        ),
        (
            "no-such-function",
            component(
                r#"(import "lifeboat:recovery/clock@0.1.0" (instance (export "set" (func (param "to" u64)))))"#,
                "backup",
            ),
            "it imports clock.set, which does not exist",
        ),
        (
            "other-types",
            component(
                r#"(import "lifeboat:recovery/clock@0.1.0" (instance (export "now" (func (result string)))))"#,
                "backup",
            ),
            "with other types than the contract has",
        ),
        (
            "a-plain-function",
            component(r#"(import "exec" (func (param "command" string)))"#, "backup"),
            "which is none of our interfaces",
        ),
        (
            "no-run",
            {
                let description = json!({"name": "by-hand", "version": "1", "world": "backup"}).to_string();
                wat::parse_str(format!("(component (@custom \"lifeboat:policy\" {description:?}))")).unwrap()
            },
            "does not export `run",
        ),
    ];
    for (name, bytes, words) in cases {
        fs::write(site.path(format!("policies/{name}.wasm")), bytes).unwrap();
        site.append(&format!(
            "[environment.demo.policy.{name}]\nmodule = \"policies/{name}.wasm\"\nworld = \"backup\"\n"
        ));
        says(&site.run(name, &[]), 12, &[words]);
        says(&site.lifeboat(&["policy", "inspect", name]), 12, &[words]);
    }
    site.append("[environment.demo.policy.gone]\nmodule = \"policies/gone.wasm\"\nworld = \"backup\"\n");
    says(&site.run("gone", &[]), 12, &["gone.wasm", "hint:"]);
    assert_eq!(site.lifeboat(&["--json", "runs", "list"]).expect(0).json(), json!([]), "nothing was run");

    // The proof that hand-made components are refused for their imports, and not for being made by hand.
    fs::write(site.path("policies/by-hand.wasm"), component("", "backup")).unwrap();
    site.append("[environment.demo.policy.by-hand]\nmodule = \"policies/by-hand.wasm\"\nworld = \"backup\"\n");
    site.run("by-hand", &[]).expect(0);
}

/// Where the description begins: its section's id byte; and where its text does.
fn custom_section(bytes: &[u8]) -> (usize, usize) {
    let name = b"lifeboat:policy";
    let at = bytes.windows(name.len()).rposition(|w| w == name).unwrap();
    // Name's length, then the section's size in one to three bytes, then its id 0.
    let id = (2..=6).map(|back| at - back).find(|i| bytes[*i] == 0).unwrap();
    (id, at + name.len())
}

#[test]
fn no_truncation_and_no_flipped_bit_gets_past_the_inspection_unnoticed() {
    let good = fs::read(policy("says")).unwrap();
    let digest = engine::policy::inspect(&good).unwrap().sha256;
    let step = (good.len() / 199).max(1);
    for end in (0..good.len()).step_by(step).chain(good.len() - 20..good.len()) {
        assert!(engine::policy::inspect(&good[..end]).is_err(), "cut to {end} of {} bytes", good.len());
    }
    // Deterministic, spread over the file: refused, or at least another digest, never a panic.
    let mut refused = 0;
    for number in 0..200_usize {
        let at = number.wrapping_mul(2_654_435_761) % good.len();
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (number % 8);
        match engine::policy::inspect(&bytes) {
            Ok(found) => assert_ne!(found.sha256, digest, "byte {at}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0, "no flip hit anything that matters: that is no test");

    // Through the command line, one of each.
    let site = Site::notes();
    let (section, text) = custom_section(&good);
    let mut flipped = good.clone();
    flipped[text + 2] ^= 0x80;
    for (name, bytes) in
        [("cut", good[..section].to_vec()), ("half", good[..good.len() / 2].to_vec()), ("flipped", flipped)]
    {
        fs::write(site.path(format!("policies/{name}.wasm")), bytes).unwrap();
        site.append(&format!(
            "[environment.demo.policy.{name}]\nmodule = \"policies/{name}.wasm\"\nworld = \"cadence\"\n"
        ));
        says(&site.run(name, &[]), 12, &["the module"]);
    }
}

// ── stores ───────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn a_damaged_object_fails_verification_drill_and_restore_and_touches_nothing_live() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let taken = site.run("backup", &[]).expect(0);
    assert_eq!(taken.json()["status"], "ok");
    let listed = site.lifeboat(&["--json", "backups", "list", "--store", "local"]).expect(0).json();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    let verify = || site.lifeboat(&["backups", "verify", &id, "--store", "local"]);
    verify().expect(0);
    let live = site.http("GET", "/notes", None).unwrap().body;

    let (db, files) = (site.object("backups", "db"), site.object("backups", "attachments"));
    let good = fs::read(&db).unwrap();
    let mut flipped = good.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for (how, bytes) in [
        ("flipped", Some(flipped)),
        ("truncated", Some(good[..good.len() - 1].to_vec())),
        ("empty", Some(Vec::new())),
        ("swapped", Some(fs::read(&files).unwrap())),
        ("gone", None),
    ] {
        match bytes {
            Some(bytes) => {
                assert_ne!(bytes, good);
                fs::write(&db, bytes).unwrap();
            }
            None => fs::remove_file(&db).unwrap(),
        }
        says(&verify(), 5, &["NOT VERIFIED", "db.data"]);
        let drill = site.run("drill", &[]);
        assert_eq!(drill.code, 5, "{how}: {}", drill.said());
        let restore = site.run("restore", &["--yes"]);
        assert_ne!(restore.code, 0, "{how}: {}", restore.said());
        let shown = site.shown(&restore);
        assert!(!shown.to_string().contains("\"call\":\"promote.promote\""), "{how}: {shown:#}");
        assert_eq!(site.http("GET", "/notes", None).unwrap().body, live, "{how}");
        fs::write(&db, &good).unwrap();
        verify().expect(0);
    }
    let candidates = site.lifeboat(&["--json", "candidates", "list"]).expect(0).json();
    assert_eq!(candidates, json!([]), "nothing half restored is left");

    // A manifest that was changed.
    let manifest = manifests(&site, "backups").pop().unwrap();
    let text = fs::read(&manifest).unwrap();
    let mut changed = text.clone();
    let at = changed.len() / 3;
    changed[at] ^= 1;
    fs::write(&manifest, changed).unwrap();
    assert_ne!(site.run("drill", &[]).code, 0);
    assert_ne!(site.run("restore", &["--yes"]).code, 0);
    assert_ne!(verify().code, 0);
    assert_eq!(site.http("GET", "/notes", None).unwrap().body, live);
    // The copy elsewhere is as good as it was, and the drill can be pointed at it.
    fs::write(&manifest, text).unwrap();
    fs::write(&db, []).unwrap();
    site.lifeboat(&["backups", "verify", &id, "--store", "offsite"]).expect(0);
    site.run("drill", &["--param", "store=offsite"]).expect(0);
}

fn manifests(site: &Site, store: &str) -> Vec<PathBuf> {
    let folder = site.path(store).join("notes/manifests");
    fs::read_dir(folder).map_or_else(|_| Vec::new(), |d| d.flatten().map(|e| e.path()).collect())
}

#[test]
fn a_store_that_is_not_there_is_never_made_and_never_counts_as_verified() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    let listed = site.lifeboat(&["--json", "backups", "list", "--store", "local"]).expect(0).json();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    fs::rename(site.path("backups"), site.path("unmounted")).unwrap();
    let outcome = site.run("backup", &[]);
    says(&outcome, 1, &["store local", "can't be opened"]);
    let place = site.path("backups").display().to_string();
    assert!(in_full(&site, &outcome).contains(&place), "the journal names the place: {}", in_full(&site, &outcome));
    // What the other store has is listed, and that this is not all.
    let listed = site.lifeboat(&["backups", "list"]);
    says(&listed, 3, &["store local", &place, "can't be opened", "hint: mount it"]);
    assert!(listed.stdout.contains(&id) && listed.stdout.contains("offsite"), "{}", listed.stdout);
    assert_ne!(site.lifeboat(&["backups", "verify", &id, "--store", "local"]).code, 0);
    let drill = site.run("drill", &[]);
    assert!(matches!(drill.code, 1 | 5), "{}", drill.said());
    assert_ne!(site.run("restore", &["--yes"]).code, 0);
    assert!(!site.path("backups").exists(), "nobody filled the empty mount point");
    assert!(site.is_up());
    fs::rename(site.path("unmounted"), site.path("backups")).unwrap();
    site.lifeboat(&["backups", "verify", &id]).expect(0);

    // The copy's store is away: the backup itself is there, and the run says that the copy is not.
    fs::rename(site.path("offsite"), site.path("away")).unwrap();
    let outcome = site.run("backup", &[]);
    assert!(matches!(outcome.code, 1 | 3), "{}", outcome.said());
    assert!(outcome.said().contains("offsite"), "{}", outcome.said());
    assert_eq!(manifests(&site, "backups").len(), 2, "the backup was taken all the same");
}

// ── state ────────────────────────────────────────────────────────────────────────────────────────────────────────────

#[test]
fn state_that_can_not_be_used_is_said_and_left_alone() {
    // Not writable, also for root: below a file, and in a file system without files of ours.
    for place in ["lifeboat.toml/state", "/proc/lifeboat-state"] {
        let site = Site::notes();
        site.configure(&[("state-directory = \".lifeboat\"", &format!("state-directory = \"{place}\""))]);
        let outcome = site.run("backup", &[]);
        says(&outcome, 1, &["state directory", "hint: it must be writable"]);
        assert_eq!(manifests(&site, "backups").len(), 0, "no record, no effect");
    }

    let site = Site::notes();
    fs::create_dir(site.path(".lifeboat")).unwrap();
    let garbage = [0x5a; 8192];
    fs::write(site.path(".lifeboat/state.sqlite"), garbage).unwrap();
    says(&site.run("backup", &[]), 1, &["state.sqlite", "hint: backups are not affected"]);
    says(&site.lifeboat(&["runs", "list"]), 1, &["state.sqlite"]);
    assert_eq!(fs::read(site.path(".lifeboat/state.sqlite")).unwrap(), garbage, "it was not touched");
    // Backups don't need it.
    assert_eq!(site.lifeboat(&["backups", "list"]).code, 4);

    let site = Site::notes();
    assert_eq!(site.lifeboat(&["--json", "runs", "list"]).expect(0).json(), json!([]));
    let database = rusqlite::Connection::open(site.path(".lifeboat/state.sqlite")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    says(&site.run("backup", &[]), 1, &["version 99", "knows 4", "hint: a newer lifeboat"]);
}

#[test]
fn the_second_run_on_a_service_is_told_who_is_first() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    site.guest("holds", "compensates", "upgrade", &["service.* service=notes", "clock.sleep-until"], "");
    let first = site.start_run("holds", &["--param", "service=notes"]);
    wait_until("the first run has stopped the service", || !site.is_up());
    let holder = site.lifeboat(&["--json", "runs", "list"]).expect(0).json()[0]["run"].as_str().unwrap().to_owned();
    for (policy, words) in [("backup", &[][..]), ("restore", &["--yes"])] {
        let outcome = site.run(policy, words);
        says(&outcome, 11, &["another run works on service notes", &holder]);
        assert_eq!(outcome.json()["status"], "lock-held");
    }
    assert_eq!(manifests(&site, "backups").len(), 1, "the second one took none");
    first.signal("INT");
    first.outcome().expect(130);
    wait_until("the service runs again", || site.is_up());
    site.run("backup", &[]).expect(0);
}

// ── services ─────────────────────────────────────────────────────────────────────────────────────────────────────────

const COMMAND: &str = "command = [\"{current}/notes\", \"serve\", \"--port\", ";

fn call(site: &Site, name: &str) -> Outcome {
    let named = format!("call={name}");
    site.run("calls", &["--param", &named, "--param", "service=notes", "--param", "store=local"])
}

fn with_command(script: &str) -> Site {
    let site = Site::notes();
    // The words after it become the script's own, and are not used.
    site.configure(&[(COMMAND, &format!("command = [\"bash\", \"-c\", {script:?}, "))]);
    site.guest("calls", "deny-all", "upgrade", &["service.* service=notes"], "");
    site
}

#[test]
fn a_service_that_does_not_come_up_is_said_with_its_last_words() {
    let mut site = with_command("echo cannot find my shoes >&2; exit 7");
    site.serve(&[]);
    let outcome = call(&site, "service.start");
    says(&outcome, 1, &["exit code 7"]);
    // A service's own words are for people: in the journal, not in what a policy hears.
    assert!(in_full(&site, &outcome).contains("cannot find my shoes"), "{}", in_full(&site, &outcome));
    assert!(!outcome.stdout.contains("shoes"), "{}", outcome.stdout);
    drop(site);

    // Runs, and is never ready.
    let mut site = with_command("exec sleep 600");
    site.configure(&[("path = \"/readyz\"\ntimeout-s = 20", "path = \"/readyz\"\ntimeout-s = 1")]);
    site.serve(&["notes"]);
    says(&call(&site, "service.wait-ready"), 1, &["not ready after", "hint:"]);
    drop(site);

    // Comes up, and dies while it is waited for.
    let mut site = with_command("sleep 1; exit 9");
    site.serve(&["notes"]);
    says(&call(&site, "service.wait-ready"), 1, &["can't become ready", "exit code 9"]);
    drop(site);

    // Nobody is there who could start it.
    let site = with_command("exec sleep 600");
    says(&call(&site, "service.start"), 1, &["lifeboat serve", "does not run", "hint: start `lifeboat serve`"]);
}

#[test]
fn a_service_that_does_not_stop_is_killed_and_a_port_that_stays_open_is_no_stop() {
    let mut site = with_command("trap '' TERM; : > deaf; while :; do sleep 0.05; done");
    site.configure(&[(
        "timeout-s = 20\n\n[environment.demo.service.notes.install]",
        "timeout-s = 1\n\n[environment.demo.service.notes.install]",
    )]);
    site.serve(&["notes"]);
    let child = || fs::read_to_string(site.path(".lifeboat/children/notes.json")).unwrap_or_default();
    // A signal that comes before the trap would end it at once.
    wait_until("it runs, and is deaf to SIGTERM", || !child().is_empty() && site.path("live/deaf").exists());
    let first = child();
    // The run's end starts it again: whoever only stops it declared that.
    call(&site, "service.stop").expect(0);
    assert_ne!(child(), first, "the first process is gone");
    let log = fs::read_to_string(site.path("serve.log")).unwrap();
    assert!(log.contains("killing it"), "it ignored SIGTERM: {log}");
    drop(site);

    // A port that another process has: neither stopped (it is open) nor startable (it is taken).
    let mut site = with_command("exec sleep 600");
    site.serve(&[]);
    let squatter = TcpListener::bind(("127.0.0.1", site.port)).unwrap();
    says(&call(&site, "service.start"), 1, &["taken by another process", "hint:"]);
    drop(squatter);
    drop(site);

    let mut site = Site::notes();
    site.guest("calls", "deny-all", "upgrade", &["service.* service=notes"], "");
    let text = fs::read_to_string(site.path("lifeboat.toml")).unwrap();
    let begin = text.find("[environment.demo.service.notes.control]").unwrap();
    let end = text.find("[environment.demo.service.notes.install]").unwrap();
    let manager = format!(
        "[environment.demo.service.notes.control]\nkind = \"command\"\nstart = [\"touch\", \"./up\"]\nstop = [\"rm\", \"-f\", \"./up\"]\n\
         status = [\"bash\", \"-c\", \"test -e \\\"$0\\\" || exit 3\", \"./up\"]\ntimeout-s = 1\nports = [{}]\n\n",
        site.port
    );
    site.write("lifeboat.toml", &format!("{}{manager}{}", &text[..begin], &text[end..]));
    site.write("up", "");
    let squatter = TcpListener::bind(("127.0.0.1", site.port)).unwrap();
    says(&call(&site, "service.stop"), 1, &["is not stopped after 1 s", &format!("port {} open", site.port), "hint:"]);
    drop(squatter);
    site.write("up", "");
    call(&site, "service.stop").expect(0);
    // Both times the run's end has started it again.
    assert!(site.path("up").exists());
    site.port = 0;
}

// ── full disks ───────────────────────────────────────────────────────────────────────────────────────────────────────

/// Attachments that don't compress.
fn grow(site: &Site, bytes: usize) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    })
    .take(bytes / 8)
    .flatten()
    .collect();
    fs::write(site.path("live/attachments/big"), noise).unwrap();
}

#[test]
fn a_read_only_state_is_said_and_what_was_exported_still_verifies() {
    let site = Site::notes();
    let Some(disk) = Tmpfs::mount(site.path(".lifeboat"), "64m") else { return };
    site.guest("calls", "calls", "backup", &[], "");
    let words = ["--param", "call=refused", "--param", "times=1"];
    site.run("calls", &words).expect(0);
    let (log, checkpoint, key) = (site.path("log"), site.path("checkpoint"), site.path("key"));
    let [log, checkpoint, key] = [&log, &checkpoint, &key].map(|path| path.to_str().unwrap());
    site.lifeboat(&["audit", "export", log]).expect(0);
    site.lifeboat(&["audit", "checkpoint", checkpoint]).expect(0);
    fs::write(key, site.lifeboat(&["audit", "key"]).expect(0).stdout).unwrap();
    let mounted = Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0).status().unwrap();
    assert!(mounted.success());
    for outcome in [
        site.run("calls", &words),
        site.lifeboat(&["audit", "checkpoint"]),
        site.lifeboat(&["audit", "rotate-key"]),
        site.lifeboat(&["audit", "verify"]),
    ] {
        says(&outcome, 1, &["state directory", "Read-only file system", "hint: it must be writable"]);
    }
    let verdict = site.lifeboat(&["audit", "verify", "--log", log, "--key", key, "--checkpoint", checkpoint]);
    assert!(verdict.expect(0).stdout.starts_with("complete up to record 4, signed by "));
}

#[test]
fn a_full_store_fails_the_backup_and_nothing_of_it_counts() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let Some(disk) = Tmpfs::mount(site.path("backups"), "1m") else { return };
    grow(&site, 3 << 20);
    let outcome = site.run("backup", &[]);
    says(&outcome, 1, &["store local", "No space left on device"]);
    assert_eq!(manifests(&site, "backups").len(), 0, "no manifest, no backup");
    assert_eq!(site.lifeboat(&["backups", "list"]).code, 4);
    assert!(
        fs::read_dir(site.path("backups"))
            .unwrap()
            .flatten()
            .all(|e| !e.file_name().to_string_lossy().ends_with(".part"))
    );
    assert!(site.is_up());
    // Space again: the next one is whole.
    fs::remove_file(site.path("live/attachments/big")).unwrap();
    site.run("backup", &[]).expect(0);
    assert_eq!(manifests(&site, "backups").len(), 1);
    drop(disk);
}

#[test]
fn a_full_spool_is_noticed_before_anything_is_restored() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    let Some(disk) = Tmpfs::mount(site.path(".lifeboat/spool"), "1m") else { return };
    let live = site.http("GET", "/notes", None).unwrap().body;
    let drill = site.run("drill", &[]);
    assert!(matches!(drill.code, 1 | 5), "{}", drill.said());
    assert!(in_full(&site, &drill).contains(".lifeboat/spool"), "{}", in_full(&site, &drill));
    let restore = site.run("restore", &["--yes"]);
    assert!(matches!(restore.code, 1 | 5), "{}", restore.said());
    assert!(in_full(&site, &restore).contains(".lifeboat/spool"), "{}", in_full(&site, &restore));
    assert_eq!(site.http("GET", "/notes", None).unwrap().body, live);
    assert_eq!(site.lifeboat(&["--json", "candidates", "list"]).expect(0).json(), json!([]));
    drop(disk);
    site.run("drill", &[]).expect(0);
}

#[tokio::test]
async fn a_full_state_disk_stops_effects_but_not_the_service_from_running_again() {
    let mut site = Site::notes();
    let Some(disk) = Tmpfs::mount(site.path(".lifeboat"), "32m") else { return };
    site.serve_some_notes();
    site.guest(
        "stops",
        "compensates",
        "upgrade",
        &["service.* service=notes", "clock.sleep-until"],
        "parameters = { service = \"notes\", if-aborted = \"start\" }",
    );
    site.run("backup", &[]).expect(0);

    let filler = fill(&disk.0);
    says(&site.run("backup", &[]), 1, &["state", "hint: the disk of the state directory is full"]);
    assert_eq!(manifests(&site, "backups").len(), 1, "what can't be recorded does not happen");
    assert!(site.is_up());
    fs::remove_file(&filler).unwrap();

    // It fills up while the service is stopped: no step can be recorded any more, and the service runs again all the same.
    let run = site.start_run("stops", &[]);
    wait_until("the policy has stopped the service", || !site.is_up());
    wait_until("it sleeps", || {
        let runs = site.lifeboat(&["--json", "runs", "list", "--limit", "1"]).expect(0).json();
        let shown = site.show(runs[0]["run"].as_str().unwrap());
        records(&shown, "started").iter().any(|r| r["request"]["call"] == "clock.sleep-until")
    });
    let filler = fill(&disk.0);
    run.signal("INT");
    let outcome = run.outcome();
    assert_ne!(outcome.code, 0, "{}", outcome.said());
    says(&outcome, 1, &["full", "what it opened may still be open"]);
    wait_until("the service runs again", || site.is_up());
    fs::remove_file(filler).unwrap();
    site.engine().await.state().verify_chain().await.unwrap();
    // Its end is not on record: until it is, the service is that run's.
    let unended = site.lifeboat(&["--json", "runs", "list", "--status", "interrupted"]).expect(0).json();
    let unended = unended[0]["run"].as_str().unwrap();
    says(&site.run("backup", &[]), 11, &[&format!("lifeboat runs resume {unended}")]);
    site.lifeboat(&["runs", "cancel", unended, "--reason", "its disk was full"]).expect(130);
    assert!(site.is_up());
    site.run("backup", &[]).expect(0);
}

/// Fills a disk when a call has succeeded.
struct Fills {
    disk: PathBuf,
    after: &'static str,
    line: Mutex<String>,
    filled: AtomicBool,
}

impl Observer for Fills {
    fn event(&self, _: &str, event: &Event) {
        match event {
            Event::StepStarted { line, .. } => line.clone_into(&mut self.line.lock().unwrap()),
            Event::StepEnded { error: None, .. }
                if self.line.lock().unwrap().starts_with(self.after) && !self.filled.swap(true, Ordering::Relaxed) =>
            {
                fill(&self.disk);
            }
            _ => {}
        }
    }
}

/// Approves whatever it is asked.
struct Consents;

impl Confirmer for Consents {
    fn ask<'s, 'i, 'f>(&'s self, _: &'i Intent) -> Pin<Box<dyn Future<Output = Answer> + Send + 'f>>
    where
        's: 'f,
        'i: 'f,
        Self: 'f,
    {
        Box::pin(async { Answer::Approved { by: "a test".into(), how: "always".into() } })
    }
}

/// A stopped service and a candidate are open when the disk fills up: that the first can't be recorded as settled does not keep the other
/// from being settled.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_full_state_disk_all_that_is_open_is_settled_not_only_the_first() {
    let mut site = Site::notes();
    // A restore wants 64 MiB of it to stay free.
    let Some(disk) = Tmpfs::mount(site.path(".lifeboat"), "128m") else { return };
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    site.guest(
        "promotes",
        "deny-all",
        "upgrade",
        &[
            "catalog.latest service=notes store=local",
            "restore.* service=notes store=local target=beside query=*",
            "confirm.request-promote service=notes",
            "service.stop service=notes",
            "promote.promote service=notes",
        ],
        "parameters = { call = \"promote.promote\", service = \"notes\", store = \"local\" }",
    );
    let names = || {
        let mut names: Vec<_> = fs::read_dir(site.path("live")).unwrap().map(|e| e.unwrap().file_name()).collect();
        // The service's log and SQLite's sidecars come and go.
        names.retain(|n| n.to_string_lossy().starts_with('.') || n == "attachments" || n == "notes.sqlite");
        names.sort();
        names
    };
    let before = names();
    let fills = Arc::new(Fills {
        disk: disk.0.clone(),
        after: "service.stop",
        line: Mutex::default(),
        filled: AtomicBool::new(false),
    });
    let engine = engine::Engine::builder()
        .state_directory(site.path(".lifeboat"))
        .confirmer(Arc::new(Consents))
        .observer(fills.clone())
        .build()
        .await
        .unwrap();
    let config = engine::config::Config::load(&site.path("lifeboat.toml")).unwrap();
    let environment = config.environment(None).unwrap();
    let binding = environment.policy("promotes").unwrap();
    let module = engine.load(&binding.read_module().unwrap()).unwrap();
    let parameters = binding.parameters(&module.inspected.description, &[]).unwrap();
    let options = environment.run_options("promotes", &binding, parameters, "embedded").unwrap();
    let error = engine.run(&module, options).await.unwrap_err();
    assert!(fills.filled.load(Ordering::Relaxed), "the fault fired");
    assert_eq!(error.kind, engine::error::Kind::Journal, "{error}");
    wait_until("the service runs again", || site.is_up());
    assert_eq!(names(), before, "the candidate is gone");
}

// ── PostgreSQL, and secrets ──────────────────────────────────────────────────────────────────────────────────────────

/// Fails if the secret stands in anything that was said, or in any file below these.
#[track_caller]
fn nowhere(secret: &str, said: &[Outcome], roots: &[PathBuf]) {
    for outcome in said {
        assert!(!outcome.said().contains(secret), "told: {}", outcome.said());
    }
    let mut looked_at = 0;
    for root in roots {
        look_below(root, &mut |path, bytes| {
            looked_at += 1;
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{} holds it", path.display());
        });
    }
    assert!(looked_at > 3, "hardly anything was looked at: that is no test");
}

fn look_below(path: &Path, look: &mut dyn FnMut(&Path, &[u8])) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap().flatten() {
            look_below(&entry.path(), look);
        }
    } else if let Ok(meta) = fs::metadata(path)
        && meta.is_file()
    {
        // A socket has no text; a file that is gone meanwhile neither.
        if let Ok(bytes) = fs::read(path) {
            look(path, &bytes);
        }
    }
}

#[test]
fn a_postgres_source_that_can_not_be_reached_says_why_and_never_its_password() {
    let Some(server) = PgServer::shared() else { return };
    let password = "correct-horse-9f31-battery";
    server.create("bad_input");
    server.sql(
        "bad_input",
        &[
            &format!("create role bad_input login superuser password '{password}'"),
            "create table t (id int primary key, words text)",
            "insert into t select i, 'row ' || i from generate_series(1, 50) i",
        ],
    );
    let site = Site::notes();
    site.write("secret/password", &format!("{password}\n"));
    site.write("secret/wrong", "not-the-right-one-77aa\n");
    let text = fs::read_to_string(site.path("lifeboat.toml")).unwrap();
    let source = |bin: &str, database: &str, file: &str| {
        let more = format!(
            "[environment.demo.service.pg.source.db]\nkind = \"postgres\"\nhost = \"127.0.0.1\"\nport = {}\ndatabase = \"{database}\"\n\
             user = \"bad_input\"\nbin-dir = {bin:?}\npassword = {{ file = \"secret/{file}\" }}\n\
             [environment.demo.policy.pg]\nmodule = \"policies/backup.wasm\"\nworld = \"backup\"\n\
             grants = [\"dump.take service=pg store=local\", \"upload.verify service=pg store=local\"]\n\
             parameters = {{ service = \"pg\", store = \"local\" }}\n",
            server.port
        );
        site.write("lifeboat.toml", &format!("{text}\n{more}"));
    };
    let bin = server.bin_dir.display().to_string();
    let mut said = Vec::new();
    for (bin, database, file, words) in [
        ("/nowhere/bin", "bad_input", "password", "/nowhere/bin"),
        (&*bin, "bad_input", "wrong", "refuses the password"),
        (&*bin, "no_such_database", "password", "no_such_database"),
        (&*bin, "bad_input", "missing-file", "secret/missing-file"),
    ] {
        source(bin, database, file);
        let outcome = site.run("pg", &[]);
        says(&outcome, 1, &["hint:"]);
        assert!(in_full(&site, &outcome).contains(words), "{words}: {}", in_full(&site, &outcome));
        // Who the server is, is none of a policy's business, also when it is the server that refuses.
        assert!(!outcome.stdout.contains("127.0.0.1"), "{}", outcome.stdout);
        said.push(site.lifeboat(&["runs", "show", outcome.json()["run"].as_str().unwrap()]));
        said.push(outcome);
        assert_eq!(site.lifeboat(&["backups", "list", "--service", "pg"]).code, 4, "{words}: nothing counts");
    }
    source(&bin, "bad_input", "password");
    said.push(site.run("pg", &[]).expect(0));
    said.push(site.lifeboat(&["config", "show"]).expect(0));
    let roots = [site.path(".lifeboat"), site.path("backups")];
    nowhere(password, &said, &roots);
    nowhere("not-the-right-one-77aa", &said, &roots);
}

/// A note, so that there is one to know again.
fn post_note(port: u16, token: &str) {
    use std::io::{Read, Write};
    let body = json!({"title": "one", "body": "b", "attachment": "text"}).to_string();
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "POST /notes HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(" 201 "), "{answer}");
}

#[test]
fn a_token_is_given_to_the_service_and_to_nobody_else() {
    let token = "tok-5e9c1f-do-not-tell";
    let mut site = Site::notes();
    site.write("secret/token", &format!("{token}\n"));
    let secret = "{ file = \"secret/token\" }";
    site.configure(&[
        ("\n[environment.demo.service.notes.install]", &format!("secret = {{ NOTES_TOKEN = {secret} }}\n\n[environment.demo.service.notes.install]")),
        ("environment = { NOTES_WORKER = \"off\" }", &format!("environment = {{ NOTES_WORKER = \"off\" }}\nsecret = {{ NOTES_TOKEN = {secret} }}")),
        (
            "[environment.demo.service.notes.endpoint.api.capture.id]",
            "[environment.demo.service.notes.endpoint.api.header]\nAuthorization = { file = \"secret/token\", prefix = \"Bearer \" }\n\n[environment.demo.service.notes.endpoint.api.capture.id]",
        ),
    ]);
    site.serve_notes();
    assert_eq!(site.http("GET", "/notes", None).unwrap().status, 401, "the token is asked for");
    post_note(site.port, token);
    site.guest(
        "card",
        "card",
        "upgrade",
        &[
            "dump.take service=notes store=local",
            "upload.copy service=notes store=local to=offsite",
            "restore.* service=notes store=local target=beside query=*",
            "http-check.check endpoint=notes/api method=GET path=/",
            "confirm.request-promote service=notes",
        ],
        "parameters = { service = \"notes\", store = \"local\", copy = \"offsite\", endpoint = \"notes/api\" }",
    );
    let mut said = vec![
        site.run("card", &["--yes"]).expect(0),
        site.run("backup", &[]).expect(0),
        // The token got through to the scratch service: its lists are answered.
        site.run("drill", &[]).expect(0),
        site.run("restore", &["--yes"]).expect(0),
        site.lifeboat(&["config", "show"]).expect(0),
        site.lifeboat(&["policy", "inspect", "drill"]).expect(0),
    ];
    for run in site.lifeboat(&["--json", "runs", "list"]).expect(0).json().as_array().unwrap() {
        said.push(site.lifeboat(&["--json", "runs", "show", run["run"].as_str().unwrap()]).expect(0));
    }
    // A wrong one in the header alone: the answer 401 is told, the token is not.
    site.configure(&[("Authorization = { file = \"secret/token\"", "Authorization = { file = \"secret/wrong\"")]);
    site.write("secret/wrong", "tok-another-4d4d\n");
    let wrong = site.run("drill", &[]);
    assert_ne!(wrong.code, 0, "{}", wrong.said());
    said.push(site.lifeboat(&["--json", "runs", "show", wrong.json()["run"].as_str().unwrap()]));
    said.push(wrong);
    let roots = [site.path(".lifeboat"), site.path("backups"), site.path("offsite"), site.path("serve.log")];
    nowhere(token, &said, &roots);
    nowhere("tok-another-4d4d", &said, &roots);
}
