//! `lifeboat serve` goes on with what died elsewhere, and leaves alone what does not need it.

use std::fs;
use std::process::Stdio;

use super::paused::{Book, newest};
use super::{Host, Paused, SharedState, can_be_apart};
use crate::support::wait_until;

/// Starts it with its words in a file.
fn serve(host: &Host<'_>, log: &str) -> Paused {
    let log = fs::File::create(host.site.path(log)).unwrap();
    Paused::spawned(host.verb(&["serve", "--no-schedule"]).stdout(Stdio::null()).stderr(log).spawn().unwrap(), true)
}

#[test]
fn serve_goes_on_with_what_died_on_another_host_and_with_nothing_else() {
    if !can_be_apart() {
        return;
    }
    let Some(state) = SharedState::new() else { return };
    let book = Book::new(None);
    let site = &book.site;
    fs::create_dir_all(site.path("other")).unwrap();
    fs::write(site.path("other/file"), "of another service").unwrap();
    let policy = |name: &str, service: &str| {
        format!(
            "[environment.demo.policy.{name}]\nmodule = \"policies/backup.wasm\"\nworld = \"backup\"\ngrants = [\
             \"dump.take service={service} store=local\", \"upload.verify service={service} store=*\"]\n\
             parameters = {{ service = \"{service}\", store = \"local\" }}\n"
        )
    };
    let source =
        |name: &str| format!("[environment.demo.service.{name}.source.files]\nkind = \"files\"\npath = \"{name}\"\n");
    fs::create_dir_all(site.path("third")).unwrap();
    fs::write(site.path("third/file"), "of a third one").unwrap();
    site.append(
        &[source("other"), source("third"), policy("take-other", "other"), policy("take-third", "third")].concat(),
    );
    let (first, second) = (state.host(site, "first", 10, true), state.host(site, "second", 10, true));
    let patient = state.host(site, "patient", 3600, true);

    // One that is worked on; one that died; one that died and can't go on here, for its grants are others.
    let working = patient.paused_at("1 dumped files", "take-other", &[]);
    let worked_on = newest(&second);
    let dying = first.paused_at("1 dumped db", "take", &[]);
    let died = newest(&second);
    dying.kill();
    let dying = first.paused_at("1 started", "take-third", &[]);
    let stuck = newest(&second);
    dying.kill();
    let grant = "\"dump.take service=third store=local\", ";
    second.configure(&[(grant, &format!("{grant}\"upload.copy service=third store=local to=offsite\", "))]);

    let serving = serve(&second, "serve.log");
    let said = || fs::read_to_string(site.path("serve.log")).unwrap();
    let status = |run: &str| state.sql(&format!("select status from run where id = '{run}'"));
    wait_until("the one that died is over", || status(&died) == "ok");
    let over = format!("serve: run {died} came to exit code 0");
    wait_until("serve says so", || said().contains(&over));
    let cannot = format!("error: run {stuck} does not go on: ");
    wait_until("serve says what can't go on", || said().contains(&cannot));
    assert!(said().contains("its grants digest was"), "{}", said());

    // It looks again and again: what dies from here on is found, what can't go on is not said again, what is worked on is left alone.
    let dying = first.paused_at("1 dumped db", "take", &[]);
    let died = newest(&second);
    dying.kill();
    wait_until("the next one that died is over", || status(&died) == "ok");
    assert_eq!(said().matches(&cannot).count(), 1, "it is said once: {}", said());
    assert!(!said().contains(&worked_on), "{}", said());
    assert_eq!((status(&worked_on), status(&stuck)), ("running".to_owned(), "running".to_owned()));

    // The cause is gone: a person goes on with it, beside `serve`, which let go of it.
    second.configure(&[(&format!("{grant}\"upload.copy service=third store=local to=offsite\", "), grant)]);
    second.lifeboat(&["runs", "resume", &stuck]).expect(0);
    let ended = working.wake();
    assert_eq!(ended.code, 0, "{ended:?}");
    serving.kill();
    assert_eq!(book.backups(), 2);
    state.assert_nothing_left();
}

/// On one host, what `serve` could not go on with is not kept from others by its being there.
#[test]
fn a_run_that_serve_gave_up_is_free_for_whoever_is_on_the_same_host() {
    let Some(state) = SharedState::new() else { return };
    let book = Book::new(None);
    let (first, second) = (state.host(&book.site, "first", 900, false), state.host(&book.site, "second", 900, false));
    first.paused_at("1 started", "take", &[]).kill();
    let run = newest(&second);
    let grant = "\"dump.take service=book store=local\", ";
    let more = format!("{grant}\"dump.take service=book store=offsite\", ");
    second.configure(&[(grant, &more)]);
    let log = fs::File::create(book.site.path("serve.log")).unwrap();
    let serving = second.verb(&["serve", "--no-schedule"]).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let serving = Paused::spawned(serving, false);
    let cannot = format!("error: run {run} does not go on: ");
    wait_until("serve says so", || fs::read_to_string(book.site.path("serve.log")).unwrap().contains(&cannot));
    first.lifeboat(&["runs", "resume", &run]).expect(0);
    serving.kill();
    assert_eq!(book.backups(), 1);
    state.assert_nothing_left();
}
