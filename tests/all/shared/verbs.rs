//! The verbs on a shared state, from the host that began and from another one; and a state that can't be opened.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::paused::{Book, newest};
use super::{Host, SharedState};
use crate::support::Outcome;

fn status(host: &Host<'_>, run: &str) -> Value {
    host.lifeboat(&["--json", "runs", "show", run]).expect(0).json()["status"].clone()
}

#[test]
fn what_one_host_began_another_one_sees_answers_and_ends() {
    let Some(state) = SharedState::new() else { return };
    let book = Book::new(None);
    let (first, second) = (state.host(&book.site, "first", 900, false), state.host(&book.site, "second", 900, false));
    first.lifeboat(&["run", "take"]).expect(0);
    let listed = second.lifeboat(&["--json", "runs", "list"]).expect(0).json();
    assert_eq!((&listed[0]["policy"], &listed[0]["status"]), (&"take".into(), &"ok".into()));
    assert!(second.lifeboat(&["runs", "show", &newest(&second)]).expect(0).stdout.contains("ended: ok"));

    // It waits for a person, who cancels it, from elsewhere.
    book.drift();
    let parked = first.lifeboat(&["--json", "run", "give-back"]).expect(13).json()["run"].as_str().unwrap().to_owned();
    assert_eq!(second.lifeboat(&["--json", "approvals", "list"]).expect(0).json().as_array().unwrap().len(), 1);
    assert_eq!(second.lifeboat(&["--json", "candidates", "list"]).expect(0).json().as_array().unwrap().len(), 1);
    second.lifeboat(&["runs", "cancel", &parked, "--reason", "not today"]).expect(130);
    assert!(first.lifeboat(&["--json", "candidates", "list"]).expect(0).json().as_array().unwrap().is_empty());

    // The next one is answered there.
    let parked = first.lifeboat(&["--json", "run", "give-back"]).expect(13).json()["run"].as_str().unwrap().to_owned();
    second.lifeboat(&["runs", "resume", &parked, "--yes"]).expect(0);
    assert_eq!(book.world()["page"], "first");
    let promotions = first.lifeboat(&["--json", "promotions", "list"]).expect(0).json();
    let promotion = promotions[0]["promotion"]["id"].as_str().unwrap();
    first.lifeboat(&["promotions", "drop-previous", promotion, "--yes"]).expect(0);

    // One that died there is abandoned here.
    first.paused_at("1 dumped db", "take", &[]).kill();
    let run = newest(&second);
    assert_eq!(status(&second, &run), "interrupted");
    second.lifeboat(&["runs", "abandon", &run, "--reason", "not wanted"]).expect(0);
    assert_eq!(status(&first, &run), "abandoned");
    state.assert_nothing_left();
}

#[test]
fn a_promotion_made_on_one_host_is_taken_back_on_another() {
    let Some(state) = SharedState::new() else { return };
    let book = Book::new(Some(&state));
    let (first, second) = (state.host(&book.site, "first", 900, false), state.host(&book.site, "second", 900, false));
    first.lifeboat(&["run", "take"]).expect(0);
    book.drift();
    let live = || {
        let world = book.world();
        (world["page"].clone(), world["drifted"].clone(), world["up"].clone())
    };
    let before = live();
    first.lifeboat(&["run", "give-back", "--yes"]).expect(0);
    assert_eq!(live(), ("first".into(), "0".into(), true.into()), "the backup is in service");
    let listed = |host: &Host<'_>| host.lifeboat(&["--json", "promotions", "list"]).expect(0).json();
    let promotion = listed(&second)[0]["promotion"]["id"].as_str().unwrap().to_owned();
    // Nobody is there to consent.
    second.lifeboat(&["promotions", "undo", &promotion]).expect(14);
    assert_eq!(live().0, "first");
    second.lifeboat(&["promotions", "undo", &promotion, "--yes"]).expect(0);
    assert_eq!(live(), before, "what was live before is in service again");
    assert_eq!(listed(&first), listed(&second));
    assert_ne!(first.lifeboat(&["promotions", "undo", &promotion, "--yes"]).code, 0, "once is all");
    assert_eq!(live(), before);
    state.assert_nothing_left();
    state.assert_whole(&first);
}

#[test]
fn a_step_in_doubt_on_one_host_is_resolved_on_another() {
    let Some(state) = SharedState::new() else { return };
    let book = Book::new(None);
    let grants = ["http-check.check endpoint=book/api method=* path=/"];
    book.site.guest("posts", "posts", "upgrade", &grants, "parameters = { endpoint = \"book/api\", path = \"/x\" }");
    let (first, second) = (state.host(&book.site, "first", 900, false), state.host(&book.site, "second", 900, false));
    first.paused_at("1 acted", "posts", &[]).kill();
    let run = newest(&second);
    second.lifeboat(&["runs", "resume", &run]).expect(15);
    assert_eq!(status(&first, &run), "in-doubt");
    let resolve = ["runs", "resolve", &run, "--step", "1", "--as", "failed", "--reason", "looked at it"];
    second.lifeboat(&resolve).expect(0);
    first.lifeboat(&["runs", "resume", &run]).expect(0);
    state.assert_nothing_left();
}

#[test]
fn a_host_without_the_logs_key_says_so_and_its_runs_go_on() {
    let Some(state) = SharedState::new() else { return };
    let book = Book::new(None);
    let (first, second) = (state.host(&book.site, "first", 900, false), state.host(&book.site, "second", 900, false));
    first.lifeboat(&["run", "take"]).expect(0);
    let without = second.lifeboat(&["run", "take"]).expect(0);
    let clear = |said: &Outcome| said.stderr.contains("is not on this host") && said.stderr.contains("copy keys/ from");
    assert!(without.stderr.contains("warning: the log was not sealed") && clear(&without), "{without:?}");
    let checkpoint = book.site.path("checkpoint.txt").display().to_string();
    let refused = second.lifeboat(&["audit", "checkpoint", &checkpoint]).expect(1);
    assert!(clear(&refused), "{refused:?}");
    // Verifying takes no private key.
    state.assert_whole(&second);
    let exported = book.site.path("log.jsonl").display().to_string();
    second.lifeboat(&["audit", "export", &exported]).expect(0);
    assert_eq!(fs::read_to_string(&exported).unwrap().lines().count(), state.records());

    let keys = |host: &Host<'_>| book.site.path(&host.state_directory).join("keys");
    copy_directory(&keys(&first), &keys(&second));
    let with = second.lifeboat(&["run", "take"]).expect(0);
    assert!(!with.stderr.contains("warning: the log"), "{with:?}");
    second.lifeboat(&["audit", "checkpoint", &checkpoint]).expect(0);
    first.lifeboat(&["audit", "verify", "--checkpoint", &checkpoint]).expect(0);
}

fn copy_directory(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

#[test]
fn a_state_that_can_not_be_opened_says_why_and_never_its_password() {
    let Some(state) = SharedState::new() else { return };
    let book = Book::new(None);
    let password = "correct-horse-77c1-battery";
    let role = format!("role_{}", state.database);
    state.sql(&format!("create role {role} login superuser password '{password}'"));
    book.site.write("secret/right", &format!("{password}\n"));
    book.site.write("secret/wrong", "not-the-right-one-31aa\n");
    let host = state.host(&book.site, "first", 900, false);
    let socket = format!("host = {:?}\n", state.server.host);
    let local = |secret: &str| format!("host = \"127.0.0.1\"\npassword = {{ file = \"secret/{secret}\" }}\n");
    host.configure(&[(&socket, &local("right")), ("user = \"postgres\"", &format!("user = {role:?}"))]);
    host.lifeboat(&["run", "take"]).expect(0);
    let refused = |words: &[&str]| {
        for verb in [&["runs", "list"][..], &["--json", "run", "take"], &["audit", "verify"]] {
            let outcome = host.lifeboat(verb);
            assert!(matches!(outcome.code, 1 | 10), "{outcome:?}");
            for word in words {
                assert!(outcome.stderr.contains(word), "{word}: {outcome:?}");
            }
            let said = outcome.said();
            assert!(!said.contains(password) && !said.contains("not-the-right-one"), "{said}");
        }
    };
    host.configure(&[("secret/right", "secret/wrong")]);
    refused(&["password authentication failed", "hint: [state-database]"]);
    host.configure(&[("secret/wrong", "secret/none")]);
    refused(&["secret/none", "hint: "]);
    let port = format!("port = {}\n", state.server.port);
    host.configure(&[("secret/none", "secret/right"), (&port, "port = 1\n")]);
    refused(&["127.0.0.1:1", "hint: is the server up"]);
    host.configure(&[("port = 1\n", &port)]);
    state.sql("update version set version = 99");
    refused(&["has version 99, this engine knows 4", "hint: a newer lifeboat wrote it"]);
    state.sql("update version set version = 3");
    state.assert_whole(&host);
    state.sql(&format!("drop owned by {role}; drop role {role}"));
}
