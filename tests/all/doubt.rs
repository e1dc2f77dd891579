//! Steps in doubt: what the engine finds out by looking, what it leaves to a person, and what a person may say. And the ends that people
//! ask for: cancelling a run from another process, one that waits, and one whose engine died.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use engine::journal::{By, State, Transition};
use serde_json::{Value, json};

use crate::support::guests::records;
use crate::support::{Outcome, Site, wait_until};
use crate::sweep::crashing;

/// Requests, in order: method, and the key it came with.
type Requests = Arc<Mutex<Vec<(String, Option<String>)>>>;

/// A service that writes down each request.
fn service(site: &Site) -> Requests {
    let listener = TcpListener::bind(("127.0.0.1", site.port)).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream);
            let (mut lines, mut line, mut length) = (Vec::new(), String::new(), 0);
            while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
                let text = line.trim().to_owned();
                if let Some(value) = text.to_ascii_lowercase().strip_prefix("content-length: ") {
                    length = value.parse().unwrap();
                }
                lines.push(text);
                line.clear();
            }
            let mut body = vec![0; length];
            let _ = reader.read_exact(&mut body);
            let Some(first) = lines.first() else { continue };
            let key =
                lines.iter().find_map(|l| l.to_ascii_lowercase().strip_prefix("idempotency-key: ").map(str::to_owned));
            log.lock().unwrap().push((first.split(' ').next().unwrap_or_default().to_owned(), key));
            let _ =
                reader.into_inner().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}");
        }
    });
    seen
}

fn posting(more: &str) -> (Site, Requests) {
    let site = Site::notes();
    let grants = ["http-check.check endpoint=notes/api method=* path=/"];
    site.guest("posts", "posts", "upgrade", &grants, "parameters = { endpoint = \"notes/api\", path = \"/x\" }");
    if !more.is_empty() {
        site.configure(&[("[environment.demo.service.notes.endpoint.api]\n", more)]);
    }
    let seen = service(&site);
    (site, seen)
}

/// Runs a policy whose engine dies at a place; its run.
#[track_caller]
pub fn killed_at(site: &Site, place: &str, policy: &str, words: &[&str]) -> String {
    let (killed, reached) = crashing(site, place, "run", policy, words);
    assert_eq!(killed.code, -1, "{killed:?}");
    assert!(reached.last().is_some_and(|last| last.ends_with(place)), "the fault fired: {reached:?}");
    newest(site)["run"].as_str().unwrap().to_owned()
}

pub fn newest(site: &Site) -> Value {
    site.lifeboat(&["--json", "runs", "list", "--limit", "1"]).expect(0).json()[0].clone()
}

fn resume(site: &Site, run: &str) -> Outcome {
    site.lifeboat(&["--json", "runs", "resume", run])
}

#[test]
fn what_a_lost_request_did_is_a_persons_to_say_and_nothing_is_sent_twice() {
    let (site, seen) = posting("");
    let run = killed_at(&site, "1 acted", "posts", &[]);
    assert_eq!(newest(&site)["status"], "interrupted");
    site.lifeboat(&["runs", "show", &run, "--follow"]).expect(15);
    for _ in 0..2 {
        let doubt = resume(&site, &run).expect(15).json();
        assert!(doubt["summary"].as_str().unwrap().contains("nothing tells whether it was"), "{doubt}");
    }
    let shown = site.lifeboat(&["runs", "show", &run]).expect(0).stdout;
    assert!(shown.contains(&format!("lifeboat runs resolve {run} --step N")), "{shown}");
    assert_eq!(newest(&site)["status"], "in-doubt");

    let resolve = |step: &str, word: &str| {
        site.lifeboat(&["runs", "resolve", &run, "--step", step, "--as", word, "--reason", "looked at the service"])
    };
    assert!(resolve("2", "failed").expect(2).stderr.contains("the step in doubt: 1"));
    assert!(resolve("1", "done").expect(2).stderr.contains("its result is needed"), "an observation can't be made up");
    resolve("1", "failed").expect(0);
    resolve("1", "failed").expect(2);
    let ended = resume(&site, &run).expect(0);
    let summary = ended.json()["summary"].as_str().unwrap().to_owned();
    assert!(summary.contains("not posted") && summary.contains("looked at the service"), "{summary}");
    let resolved = records(&site.show(&run), "resolved")[0].clone();
    assert_eq!((&resolved["as"], &resolved["reason"]), (&"failed".into(), &"looked at the service".into()));
    let methods: Vec<String> = seen.lock().unwrap().iter().map(|(method, _)| method.clone()).collect();
    assert_eq!(methods, ["POST", "GET"]);
}

#[test]
fn where_the_service_knows_the_key_a_request_is_sent_again_with_the_same_one() {
    let (site, seen) = posting("[environment.demo.service.notes.endpoint.api]\nidempotency-key = true\n");
    let run = killed_at(&site, "1 acted", "posts", &[]);
    let ended = resume(&site, &run).expect(0);
    assert!(ended.json()["summary"].as_str().unwrap().contains("passed: true"), "{ended:?}");
    let seen = seen.lock().unwrap();
    assert_eq!(seen.len(), 3, "{seen:?}");
    assert!(seen[0].1.is_some() && seen[0] == seen[1], "{seen:?}");
    let attempts: Vec<_> = records(&site.show(&run), "started").iter().map(|r| r["attempt"].clone()).collect();
    assert_eq!(attempts, [1, 2]);
}

#[test]
fn what_can_not_be_looked_at_waits_until_it_can() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let run = killed_at(&site, "1 dumped attachments", "backup", &[]);
    // A store that went away: whether the backup is there can't be told.
    std::fs::rename(site.path("backups"), site.path("elsewhere")).unwrap();
    let doubt = resume(&site, &run).expect(15).json();
    assert!(doubt["summary"].as_str().unwrap().contains("step 1 (dump.take)"), "{doubt}");
    std::fs::rename(site.path("elsewhere"), site.path("backups")).unwrap();
    resume(&site, &run).expect(0);
    assert_eq!(
        site.lifeboat(&["--json", "backups", "list", "--store", "local"]).expect(0).json().as_array().unwrap().len(),
        1
    );
}

#[test]
fn a_run_whose_engine_died_keeps_its_service_and_goes_on_with_the_next_serve() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let run = killed_at(&site, "before the switch", "upgrade", &["version=2.0.0"]);
    assert!(!site.is_up(), "it died between stop and start");
    let refused = site.lifeboat(&["service", "start", "notes"]).expect(11);
    assert!(refused.said().contains(&format!("lifeboat runs resume {run}")), "{refused:?}");
    assert!(!site.is_up());

    // The machine comes up again: the service is not started behind the run's back, the run itself goes on.
    site.stop_serving();
    site.serve(&[]);
    wait_until("the run is over", || site.show(&run)["status"] == "failed");
    let over = format!("serve: run {run} came to exit code 1");
    wait_until("serve says so", || std::fs::read_to_string(site.path("serve.log")).unwrap().contains(&over));
    assert_eq!(site.http("GET", "/readyz", None).unwrap().json()["version"], "2.0.0");
    site.lifeboat(&["service", "status", "notes"]).expect(0);
}

#[test]
fn a_module_or_grants_that_differ_do_not_go_on_and_both_digests_are_named() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let run = killed_at(&site, "1 started", "backup", &[]);
    let module = std::fs::read(site.path("policies/backup.wasm")).unwrap();
    // An empty custom section named `x`: the same code, and another module.
    let other = [module.as_slice(), &[0, 2, 1, b'x']].concat();
    std::fs::write(site.path("policies/backup.wasm"), other).unwrap();
    let refused = resume(&site, &run).expect(12);
    let digests = refused.stderr.split(|c: char| !c.is_ascii_hexdigit()).filter(|word| word.len() == 64).count();
    assert_eq!(digests, 2, "{}", refused.stderr);
    std::fs::write(site.path("policies/backup.wasm"), module).unwrap();
    let grant = "    \"dump.take service=notes store=local\",\n    \"upload.verify service=notes store=*\",\n";
    site.configure(&[(grant, "    \"dump.take service=notes store=local\",\n")]);
    assert!(resume(&site, &run).expect(12).stderr.contains("its grants digest was"));
    site.configure(&[(
        "    \"dump.take service=notes store=local\",\n    \"upload.copy",
        &format!("{grant}    \"upload.copy"),
    )]);
    resume(&site, &run).expect(0);
}

#[test]
fn a_run_is_cancelled_from_another_process_and_its_policy_compensates() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let grants = ["service.stop service=notes", "clock.sleep-until", "service.start service=notes"];
    site.guest("own", "compensates", "upgrade", &grants, "");
    let running = site.start_run("own", &["--param", "service=notes"]);
    wait_until("the policy has stopped the service", || !site.is_up());
    let run = newest(&site)["run"].as_str().unwrap().to_owned();
    site.lifeboat(&["runs", "cancel", &run, "--reason", "wrong night"]).expect(0);
    let ended = running.outcome().expect(130);
    assert!(ended.json()["summary"].as_str().unwrap().contains("compensated"), "{ended:?}");
    wait_until("the service runs again", || site.is_up());
    let asked = records(&site.show(&run), "cancel-requested")[0].clone();
    assert_eq!(asked["reason"], "wrong night");
    site.lifeboat(&["runs", "cancel", &run, "--reason", "again"]).expect(2);
}

#[test]
fn a_run_that_waits_or_died_is_cancelled_with_what_it_opened() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    let parked = site.run("restore", &[]).expect(13).json();
    let run = parked["run"].as_str().unwrap();
    let ended = site.lifeboat(&["--json", "runs", "cancel", run, "--reason", "not today"]).expect(130).json();
    assert_eq!(ended["status"], "cancelled", "{ended}");
    assert!(site.lifeboat(&["--json", "candidates", "list"]).json().as_array().unwrap().is_empty());

    let run = killed_at(&site, "staged db", "restore", &[]);
    let left = || crate::sweep::names(&site.path("live")).iter().filter(|n| n.contains(".lifeboat-")).count();
    assert_eq!(left(), 1, "a candidate that no record of its end names");
    site.lifeboat(&["runs", "cancel", &run, "--reason", "not today"]).expect(130);
    assert_eq!(left(), 0);

    let run = killed_at(&site, "staged db", "restore", &[]);
    site.lifeboat(&["runs", "abandon", &run, "--reason", "nor ever"]).expect(0);
    assert_eq!(left(), 0);
}

#[tokio::test]
async fn a_policy_that_does_something_else_than_the_record_says_ends_with_both_texts() {
    let site = Site::notes();
    site.guest("calls", "calls", "backup", &["clock.sleep-until"], "parameters = { call = \"refused\", times = 1 }");
    let by = By { actor: "a@h".into(), channel: "test".into() };
    let recorded = async |run: &str, step: u64, call: &str, time_ms: u64| {
        let state = State::open(&site.path(".lifeboat")).await.unwrap();
        let request = json!({"call": call, "arguments": {"time-ms": time_ms}});
        let body = json!({"request": request, "result": {"ok": null}});
        state.append(run, &by, Transition::Answered, Some(step), body, &[]).await.unwrap();
    };
    let killed = || killed_at(&site, "2 prepared", "calls", &["then-sleep=true"]);
    let now_ms = |run: &str| records(&site.show(run), "answered")[0]["time-ms"].as_u64().unwrap();

    // Another call than the policy makes.
    let run = killed();
    recorded(&run, 2, "clock.sleep-until", 1).await;
    let ended = resume(&site, &run).expect(20).json();
    let summary = ended["summary"].as_str().unwrap();
    let now = format!("\"time-ms\":{}", now_ms(&run));
    assert!(summary.contains("nondeterminism at step 2") && summary.contains("\"time-ms\":1}"), "{summary}");
    assert!(summary.contains(&now), "{summary}");

    // A call more than it makes.
    let run = killed();
    recorded(&run, 2, "clock.sleep-until", now_ms(&run)).await;
    recorded(&run, 3, "clock.sleep-until", now_ms(&run)).await;
    let ended = resume(&site, &run).expect(20).json();
    assert!(ended["summary"].as_str().unwrap().contains("the policy ended before step 3"), "{ended}");
}

#[test]
fn a_start_in_quarantine_that_is_not_repeated_leaves_no_process() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    let run = killed_at(&site, "instance runs", "drill", &[]);
    let instance = records(&site.show(&run), "started").last().unwrap()["prepared"]["instance"].clone();
    let mark = format!("LIFEBOAT_INSTANCE={}", instance.as_str().unwrap());
    let runs = || {
        let pids = crate::sweep::names("/proc".as_ref()).into_iter();
        let environments = pids.filter_map(|pid| std::fs::read(format!("/proc/{pid}/environ")).ok());
        environments.filter(|e| String::from_utf8_lossy(e).contains(&mark)).count()
    };
    assert_eq!(runs(), 1, "it survives its engine");
    site.lifeboat(&["runs", "cancel", &run, "--reason", "not today"]).expect(130);
    assert_eq!(runs(), 0, "{}", site.lifeboat(&["runs", "show", &run]).stdout);
}

#[test]
fn a_set_that_is_half_promoted_can_be_undone_after_its_run_was_abandoned() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    let before = site.http("GET", "/notes", None).unwrap().body;
    let run = killed_at(&site, "promoted db", "restore", &[]);
    let abandoned = site.lifeboat(&["runs", "abandon", &run, "--reason", "nobody trusts it"]).expect(1);
    assert!(abandoned.stderr.contains("LEFT OPEN: start service notes again"), "{abandoned:?}");
    assert!(!site.is_up());

    // The machine comes up again: nothing starts on a set of two times.
    site.stop_serving();
    let mut serve =
        site.command(&["serve", "--no-schedule", "--start", "notes"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(serve.stderr.as_mut().unwrap()).read_line(&mut said).unwrap();
    assert!(Command::new("kill").arg(serve.id().to_string()).status().unwrap().success());
    serve.wait().unwrap();
    assert!(said.contains("notes is NOT started") && said.contains("left its sources mixed"), "{said}");

    site.serve(&[]);
    let candidates = site.lifeboat(&["--json", "candidates", "list"]).expect(0).json();
    let candidate = candidates[0]["candidate"].as_str().unwrap();
    let kept = site.lifeboat(&["candidates", "discard", candidate]).expect(1);
    assert!(kept.said().contains("belongs to the way back"), "{kept:?}");
    let promotions = site.lifeboat(&["--json", "promotions", "list"]).expect(0).json();
    let promotion = promotions[0]["promotion"]["id"].as_str().unwrap();
    site.lifeboat(&["promotions", "undo", promotion, "--yes"]).expect(0);
    wait_until("it is ready", || site.http("GET", "/readyz", None).is_some_and(|answer| answer.status == 200));
    assert_eq!(site.http("GET", "/notes", None).unwrap().body, before);
    site.lifeboat(&["candidates", "discard", candidate]).expect(0);
    assert!(!crate::sweep::names(&site.path("live")).iter().any(|name| name.contains(".lifeboat-")));
}

#[test]
fn a_run_that_waited_goes_on_waiting_while_another_works_on_its_service() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    let parked = site.run("restore", &[]).expect(13).json();
    let run = parked["run"].as_str().unwrap();
    let other = killed_at(&site, "staged db", "restore", &[]);
    let refused = site.lifeboat(&["runs", "resume", run, "--yes"]).expect(11);
    assert!(refused.stderr.contains(&format!("run {other} has service notes")), "{refused:?}");
    assert_eq!(site.show(run)["status"], "parked", "{refused:?}");
    site.lifeboat(&["runs", "abandon", &other, "--reason", "it has died"]).expect(0);
    site.lifeboat(&["runs", "resume", run, "--yes"]).expect(0);
}

#[test]
fn a_call_by_hand_that_waits_is_cancelled_from_another_process() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    site.run("restore", &["--yes"]).expect(0);
    let promotions = site.lifeboat(&["--json", "promotions", "list"]).expect(0).json();
    let promotion = promotions[0]["promotion"]["id"].as_str().unwrap().to_owned();
    // With approvers, a call by hand waits for their votes.
    crate::approvals::make_key(&site.path("alice"), "ed25519");
    let public = std::fs::read_to_string(site.path("alice.pub")).unwrap();
    let public = public.trim();
    site.configure(&[("allow-yes = true", "")]);
    site.append(&format!("[environment.demo.approver.alice]\nkey = {public:?}\n"));
    let mut undo = site.command(&["promotions", "undo", &promotion]).stdin(Stdio::null()).spawn().unwrap();
    wait_until("it asks", || {
        let run = newest(&site);
        run["policy"] == "promotions-undo" && !records(&site.show(run["run"].as_str().unwrap()), "started").is_empty()
    });
    let run = newest(&site)["run"].as_str().unwrap().to_owned();
    site.lifeboat(&["runs", "cancel", &run, "--reason", "wrong night"]).expect(0);
    wait_until("it ends", || undo.try_wait().unwrap().is_some());
    assert!(!records(&site.show(&run), "run-ended").is_empty());
    assert!(site.is_up());
}

/// What `serve` has said so far.
fn serve_log(site: &Site) -> String {
    std::fs::read_to_string(site.path("serve.log")).unwrap()
}

#[test]
fn a_serve_that_is_told_to_stop_leaves_the_run_that_it_took_up_to_the_next() {
    let mut site = Site::notes();
    site.guest("sleeps", "sleeper", "backup", &["clock.sleep-until"], "");
    let run = killed_at(&site, "1 started", "sleeps", &[]);
    for resumed in 1..=2 {
        site.serve(&[]);
        wait_until("serve went on with it, and it waits again", || {
            let shown = site.show(&run);
            records(&shown, "resumed").len() == resumed && records(&shown, "started").len() == resumed + 1
        });
        site.stop_serving();
        let said = serve_log(&site);
        assert!(said.contains(&format!("serve: run {run} is left as it is")), "{said}");
        assert!(!said.contains("cancelling"), "{said}");
        // As after a kill: nothing of the end is on record.
        let shown = site.show(&run);
        assert_eq!(newest(&site)["status"], "interrupted", "{shown}");
        assert!(records(&shown, "ending").is_empty(), "{shown}");
    }
    site.lifeboat(&["runs", "cancel", &run, "--reason", "slept enough"]).expect(130);
}

#[test]
fn an_instance_in_quarantine_lives_on_when_serve_leaves_its_run() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    // Its start is on record, and so is its process.
    let run = killed_at(&site, "5 completed", "drill", &[]);
    let shown = site.show(&run);
    let started = records(&shown, "started").into_iter().find(|r| r["request"]["call"] == "scratch.start").unwrap();
    let instance = started["prepared"]["instance"].as_str().unwrap();
    let file = std::fs::read(site.path(format!(".lifeboat/candidates/{instance}.instance.json"))).unwrap();
    let pid = serde_json::from_slice::<Value>(&file).unwrap()["running"]["pid"].to_string();
    let signal = |signal: &str| assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    // It answers nobody, so that the run waits for it.
    signal("-STOP");
    site.stop_serving();
    site.serve(&[]);
    wait_until("serve went on with it", || serve_log(&site).contains(&format!("run {run} resumed")));
    site.stop_serving();
    assert!(serve_log(&site).contains(&format!("serve: run {run} is left as it is")), "{}", serve_log(&site));
    signal("-CONT");
    let ended = resume(&site, &run).expect(0);
    assert!(ended.json()["summary"].as_str().unwrap().contains("scratch is clean"), "{ended:?}");
}

#[test]
fn a_run_that_serve_takes_up_at_a_terminal_asks_nobody_there_and_parks() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    let run = killed_at(&site, "staged db", "restore", &[]);
    site.stop_serving();
    // A terminal of its own, on which nobody ever types a word.
    let command = format!("{} serve", crate::support::lifeboat().display());
    let mut terminal = Command::new("script");
    terminal.args(["-qec", &command, "/dev/null"]).current_dir(site.path("")).env_remove("LIFEBOAT_CONFIG");
    let mut terminal = terminal.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut shown, mut screen) = (String::new(), terminal.stdout.take().unwrap());
    let mut chunk = [0; 1024];
    while !shown.contains("came to exit code") && !shown.contains("to approve, type") {
        // Not by lines: a prompt does not end one.
        let read = screen.read(&mut chunk).unwrap();
        assert_ne!(read, 0, "{shown}");
        shown.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    // The terminal's interrupt character ends it.
    terminal.stdin.take().unwrap().write_all(b"\x03").unwrap();
    terminal.wait().unwrap();
    assert!(shown.contains(&format!("serve: run {run} came to exit code 13")), "{shown}");
    assert!(!shown.contains("to approve, type"), "{shown}");
    assert_eq!(site.show(&run)["status"], "parked", "{shown}");
}
