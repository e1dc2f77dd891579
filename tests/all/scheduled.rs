//! What starts by itself: `lifeboat serve` with a cadence, and what it says to people, to monitoring and to a service manager.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::guests::records;
use crate::support::{Site, free_port, http};

/// A site whose cadence has these duties, in TOML.
fn with_duties(duties: &str) -> Site {
    let site = Site::notes();
    site.configure(&[
        (
            r#"parameters = { service = "notes", shape = "active", store = "local", off-site = "offsite" }"#,
            &format!("parameters = {{ service = \"notes\", duties = [{duties}] }}"),
        ),
        ("rpo-s = 86400", "rpo-s = 600"),
    ]);
    site
}

/// A backup into `local`, whenever the last one is two seconds old.
const OFTEN: &str = r#"{ name = "backup", policy = "backup", every-s = 2, proof = "backup", store = "local", parameters = { copy-to = [] } }"#;

/// Waits; in vain, it shows what `serve` has said.
#[track_caller]
fn wait(site: &Site, what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain until {what}: {}", site.serve_log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn backups(site: &Site) -> Vec<Value> {
    let listed = site.lifeboat(&["--json", "backups", "list", "--store", "local"]);
    assert!(matches!(listed.code, 0 | 4), "{listed:?}");
    listed.json().as_array().unwrap().clone()
}

fn runs(site: &Site, policy: &str) -> Vec<Value> {
    let listed = site.lifeboat(&["--json", "runs", "list", "--policy", policy]);
    assert_eq!(listed.code, 0, "{listed:?}");
    listed.json().as_array().unwrap().clone()
}

#[test]
fn what_is_due_is_started_and_state_stores_and_metrics_agree() {
    let mut site = with_duties(OFTEN);
    let port = free_port();
    site.configure(&[(
        "[environment.demo.serve]",
        &format!("[environment.demo.serve]\nlisten = \"127.0.0.1:{port}\""),
    )]);
    // Nothing is there yet, and that is said.
    let nothing = site.lifeboat(&["status"]).expect(2);
    assert!(nothing.stdout.contains("never") && nothing.stdout.contains("there is no backup of notes"), "{nothing:?}");
    site.serve_on_schedule(&["notes"]);
    wait(&site, "three backups were taken", || backups(&site).len() >= 3);
    assert_eq!(http::ask(port, "GET", "/healthz", None).unwrap().status, 200);
    site.stop_serving();

    let taken = backups(&site);
    let started = runs(&site, "backup");
    assert_eq!(taken.len(), started.len(), "one a run");
    let mut slots = Vec::new();
    for run in &started {
        assert_eq!(run["status"], "ok", "{run}");
        let shown = site.show(run["id"].as_str().or(run["run"].as_str()).unwrap());
        let begun = records(&shown, "run-started")[0].clone();
        assert_eq!(
            (begun["duty"]["name"].as_str(), begun["channel"].as_str()),
            (Some("notes/backup"), Some("serve")),
            "{begun}"
        );
        assert_eq!(begun["duty"]["cadence"], "cadence", "{begun}");
        slots.push(begun["duty"]["slot-ms"].as_u64().unwrap());
    }
    slots.dedup();
    assert_eq!(slots.len(), started.len(), "no slot twice");
    // Every two seconds, and not more often.
    let mut times: Vec<u64> = taken.iter().map(|backup| backup["taken-at-ms"].as_u64().unwrap()).collect();
    times.sort_unstable();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= 2_000), "{times:?}");

    let log = site.serve_log();
    for words in [
        "backup (cadence:notes/backup) starts: it was never done",
        "backup (cadence:notes/backup) is ok: backup ",
        "serve: cadence: ",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    let status = site.lifeboat(&["--json", "status"]).expect(2).json();
    let notes = &status["services"][0];
    assert_eq!(notes["newest"]["taken-at-ms"].as_u64(), times.last().copied());
    assert_eq!(
        (notes["rpo-ms"].as_u64(), notes["stores"][0]["backups"].as_u64()),
        (Some(600_000), Some(times.len() as u64))
    );
    assert_eq!(notes["next"][0]["cadence"], "cadence");
    assert!(notes["next"][0]["wake-at-ms"].as_u64().unwrap() > *times.last().unwrap());
    // Never drilled, and a drill was promised.
    assert!(notes["trouble"][0]["message"].as_str().unwrap().contains("no drill of notes"), "{notes}");
    let shown = site.lifeboat(&["status"]).expect(2).stdout;
    assert!(shown.contains("cadence asked by") && shown.contains("10 min"), "{shown}");
}

#[test]
fn metrics_say_what_monitoring_needs() {
    let mut site = with_duties(OFTEN);
    let port = free_port();
    site.configure(&[(
        "[environment.demo.serve]",
        &format!("[environment.demo.serve]\nlisten = \"127.0.0.1:{port}\""),
    )]);
    site.serve_on_schedule(&["notes"]);
    let metrics = || http::ask(port, "GET", "/metrics", None).map(|answer| answer.body).unwrap_or_default();
    wait(&site, "a run was counted and its backup seen", || {
        let text = metrics();
        text.contains("lifeboat_runs_ended_total{policy=\"backup\",status=\"ok\"}")
            && text.contains("lifeboat_backup_taken_timestamp_seconds{service=\"notes\"}")
    });
    let text = metrics();
    for line in [
        "lifeboat_objective_recovery_point_seconds{service=\"notes\"} 600.0",
        "lifeboat_store_readable{service=\"notes\",store=\"offsite\"} 1.0",
        "lifeboat_service_level{service=\"notes\"} 3.0",
        "lifeboat_approvals_open 0.0",
        "lifeboat_obligations_unsettled 0.0",
        "lifeboat_state_readable 1.0",
        "lifeboat_cadence_failures_total 0",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(text.ends_with("# EOF\n"), "{text}");
    let status = http::ask(port, "GET", "/status", None).unwrap().json();
    assert_eq!(status["status"]["services"][0]["service"], "notes");
    // Nothing can be changed through it.
    assert_eq!(http::ask(port, "POST", "/status", Some(&json!({}))).unwrap().status, 405);
    // An address that is taken is told at once.
    let refused = site.lifeboat(&["serve"]).expect(1);
    assert!(refused.stderr.contains("serve: listen on"), "{refused:?}");
}

#[test]
fn only_what_may_start_starts_and_what_it_says_is_looked_at() {
    let mut site = with_duties(OFTEN);
    site.configure(&[("may-start = [\"backup\", \"drill\"]", "may-start = [\"drill\"]")]);
    let says = |policy: &str, parameters: &str| {
        format!(
            "parameters = {{ call = \"schedule.due\", service = \"notes\", store = \"local\", policy = \"{policy}\", parameters = '{parameters}' }}"
        )
    };
    for (name, policy, parameters) in [
        ("unknown", "nowhere", "{}"),
        ("no-object", "drill", "[]"),
        ("no-parameter", "drill", "{\"sotre\":\"local\"}"),
        ("control", "drill\\u001b[2J", "{}"),
    ] {
        site.guest(name, "deny-cadence", "cadence", &[], &says(policy, parameters));
    }
    site.serve_on_schedule(&[]);
    wait(&site, "all were asked", || site.serve_log().matches("is NOT started").count() >= 5);
    site.stop_serving();
    let log = site.serve_log();
    for words in [
        "backup (cadence:notes/backup) is NOT started: cadence may not start backup",
        "[environment.demo.serve] may-start = [\"backup\"]",
        "unknown may not start nowhere",
        "its parameters are no JSON object",
        "sotre",
        "may not start drill\\u{1b}[2J",
    ] {
        assert!(log.contains(words), "{words}: {log}");
    }
    assert!(!log.contains('\u{1b}'));
    assert!(runs(&site, "backup").is_empty() && runs(&site, "drill").is_empty());
    // What may not be started at all is known when the configuration is read.
    site.configure(&[("may-start = [\"drill\"]", "may-start = [\"dril\"]")]);
    let wrong = site.lifeboat(&["status"]).expect(10);
    assert!(wrong.stderr.contains("did you mean `drill`"), "{wrong:?}");
    site.configure(&[("may-start = [\"dril\"]", "may-start = [\"cadence\"]")]);
    assert!(site.lifeboat(&["status"]).expect(10).stderr.contains("it is woken, not started"));
}

#[test]
fn a_run_that_waits_for_a_person_is_not_started_again() {
    let restore = r#"{ name = "restore", policy = "restore", every-s = 1, retry-s = 1 }"#;
    let mut site = with_duties(&format!("{OFTEN}, {restore}"));
    site.configure(&[("may-start = [\"backup\", \"drill\"]", "may-start = [\"backup\", \"restore\"]")]);
    // An empty one could not be restored: its known record is missing.
    site.serve_some_notes();
    site.stop_serving();
    site.serve_on_schedule(&["notes"]);
    wait(&site, "the restore waits", || runs(&site, "restore").iter().any(|run| run["status"] == "parked"));
    let asked = runs(&site, "cadence").len();
    wait(&site, "it was asked some more", || runs(&site, "cadence").len() >= asked + 3);
    site.stop_serving();
    let waiting = runs(&site, "restore");
    assert_eq!(waiting.iter().filter(|run| run["status"] == "parked").count(), 1, "{waiting:?}");
    // What waits lets go of the service meanwhile.
    assert!(runs(&site, "backup").len() > 1);
    let newest = site.lifeboat(&["--json", "runs", "list", "--policy", "cadence"]).json()[0].clone();
    let shown = site.show(newest["id"].as_str().or(newest["run"].as_str()).unwrap()).to_string();
    assert!(shown.contains("has been parked for"), "{shown}");
}

#[test]
fn a_configuration_is_read_again_if_it_is_valid() {
    let mut site = with_duties(OFTEN);
    site.configure(&[("may-start = [\"backup\", \"drill\"]", "may-start = [\"drill\"]")]);
    site.serve_on_schedule(&["notes"]);
    wait(&site, "it was refused", || site.serve_log().contains("may not start backup"));
    site.configure(&[("may-start = [\"drill\"]", "may-start = [\"bakcup\"]")]);
    site.signal_serve("-HUP");
    wait(&site, "it is not taken", || site.serve_log().contains("the configuration is NOT taken"));
    assert!(site.serve_log().contains("did you mean `backup`"), "{}", site.serve_log());
    site.configure(&[("may-start = [\"bakcup\"]", "may-start = [\"backup\"]")]);
    assert!(runs(&site, "backup").is_empty());
    site.signal_serve("-HUP");
    wait(&site, "a backup is taken", || !backups(&site).is_empty());
}

/// Answers whoever asks, the first time with 500; what was asked, in order: method and path, header, body.
fn listener() -> (u16, std::sync::mpsc::Receiver<(String, String, String)>) {
    use std::io::{BufRead, BufReader, Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut first, mut header, mut length) = (String::new(), String::new(), 0);
            reader.read_line(&mut first).unwrap();
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                let lower = line.trim().to_lowercase();
                if let Some(count) = lower.strip_prefix("content-length: ") {
                    length = count.parse().unwrap();
                } else if lower.starts_with("authorization: ") {
                    header = line.trim().to_owned();
                } else if lower.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let status = if number == 0 { "500 No" } else { "200 OK" };
            let _ = write!(reader.get_mut(), "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            if told.send((first.trim().to_owned(), header, String::from_utf8(body).unwrap())).is_err() {
                return;
            }
        }
    });
    (port, heard)
}

#[test]
fn others_are_told_and_nothing_waits_for_them() {
    let mut site = with_duties(OFTEN);
    let (port, heard) = listener();
    let dead = free_port();
    site.write("ping-url", &format!("http://127.0.0.1:{port}/ping/s3cret\n"));
    site.write("token", "t0ken\n");
    site.append(&format!(
        r#"
[[environment.demo.serve.notify]]
on = ["started"]
policies = ["backup"]
message = {{ url = {{ file = "ping-url" }}, path = "/start", method = "GET" }}

[[environment.demo.serve.notify]]
on = ["succeeded", "failed", "promise"]
message = {{ url = {{ file = "ping-url" }}, header = {{ Authorization = {{ file = "token", prefix = "Bearer " }} }}, body = '{{{{"text": "{{on}} {{policy}} {{status}}: {{summary}}"}}}}' }}

[[environment.demo.serve.notify]]
on = ["started"]
message = {{ url = {{ command = ["echo", "http://127.0.0.1:{dead}/s3cret"] }} }}
"#
    ));
    site.serve_on_schedule(&["notes"]);
    let mut all = Vec::new();
    let mut until = |wanted: &dyn Fn(&(String, String, String)) -> bool| {
        while !all.last().is_some_and(wanted) {
            let next = heard.recv_timeout(Duration::from_secs(60));
            all.push(next.unwrap_or_else(|e| panic!("{e}: {all:?}\n{}", site.serve_log())));
        }
    };
    until(&|(_, _, body)| body.contains("succeeded backup ok: backup "));
    // One of the first was answered with an error, and came again.
    until(&|(first, ..)| first == "GET /ping/s3cret/start HTTP/1.1");
    until(&|(first, ..)| first == "GET /ping/s3cret/start HTTP/1.1");
    let promise = all.iter().find(|(_, _, body)| body.contains("promise cadence"));
    let (first, header, body) = promise.expect("there was no backup when it began");
    assert_eq!((first.as_str(), header.as_str()), ("POST /ping/s3cret HTTP/1.1", "authorization: Bearer t0ken"));
    let body: Value = serde_json::from_str(body).unwrap();
    assert!(body["text"].as_str().unwrap().contains("rpo: there is no backup"), "{body}");
    wait(&site, "further backups are taken", || backups(&site).len() >= 3);
    site.stop_serving();
    let log = site.serve_log();
    assert!(!log.contains("s3cret") && !log.contains("t0ken"), "{log}");
    // A typo is known when the configuration is read.
    site.configure(&[("{on} {policy}", "{on} {polcy}")]);
    assert!(site.lifeboat(&["status"]).expect(10).stderr.contains("{polcy}"));
}

#[test]
fn a_service_manager_is_told() {
    let mut site = with_duties(OFTEN);
    let path = site.path("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = site.command(&["serve"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    site.serve_as(command, &["notes"]);
    let hear = || {
        let mut bytes = [0; 4096];
        let count = manager.recv(&mut bytes).expect("something is told within a minute");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let until = |word: &str| while !hear().contains(word) {};
    until("READY=1");
    assert!(site.is_up(), "ready is when what it was to start is started");
    until("WATCHDOG=1");
    until("WATCHDOG=1");
    site.signal_serve("-HUP");
    until("RELOADING=1");
    until("READY=1");
    site.signal_serve("-TERM");
    until("STOPPING=1");
    assert_eq!(site.serve_ended(), Some(0));
}

/// A run that sleeps, as the duty of a cadence.
fn sleeping(for_ms: u64, finish_within_s: u64) -> Site {
    let site = with_duties(r#"{ name = "sleep", policy = "sleep", when = "0 0 1 1 *" }"#);
    site.guest("sleep", "sleeper", "backup", &["clock.sleep-until"], &format!("parameters = {{ for-ms = {for_ms} }}"));
    let serve = "may-start = [\"backup\", \"drill\"]";
    site.configure(&[(serve, &format!("may-start = [\"sleep\"]\nfinish-within-s = {finish_within_s}"))]);
    site
}

#[test]
fn what_is_under_way_is_finished_or_left_for_the_next() {
    let mut site = sleeping(2_000, 60);
    let started = |site: &Site| runs(site, "sleep").iter().any(|run| run["status"] == "running");
    site.serve_on_schedule(&[]);
    wait(&site, "it sleeps", || started(&site));
    site.signal_serve("-TERM");
    assert_eq!(site.serve_ended(), Some(0));
    assert_eq!(runs(&site, "sleep")[0]["status"], "ok", "{}", site.serve_log());

    let mut site = sleeping(4_000, 0);
    site.serve_on_schedule(&[]);
    wait(&site, "it sleeps", || started(&site));
    site.signal_serve("-TERM");
    assert_eq!(site.serve_ended(), Some(0));
    assert_eq!(runs(&site, "sleep")[0]["status"], "interrupted", "as if it had been killed");
    assert!(site.serve_log().contains("sleep (cadence:notes/sleep) is left as it is"), "{}", site.serve_log());
    // And the next one goes on with it, and starts no other.
    site.serve_on_schedule(&[]);
    wait(&site, "it is over", || runs(&site, "sleep")[0]["status"] == "ok");
    wait(&site, "the cadence was asked since", || site.serve_log().matches("serve: cadence: ").count() >= 2);
    site.stop_serving();
    assert_eq!(runs(&site, "sleep").len(), 1);
}

#[test]
fn a_cadence_by_hand_says_what_is_due_and_starts_nothing() {
    let site = Site::notes();
    let outcome = site.lifeboat(&["run", "cadence"]);
    assert_eq!(outcome.code, 3, "with findings of severity error: {outcome:?}");
    assert!(
        outcome.stdout.contains("due: off-site, drill"),
        "the hour's backup is done with the one off site: {outcome:?}"
    );
    let run = runs(&site, "cadence")[0].clone();
    let timeline =
        site.lifeboat(&["runs", "show", run["id"].as_str().or(run["run"].as_str()).unwrap()]).expect(0).stdout;
    for words in ["due: backup (notes/off-site): it was never done", "error[rpo]: there is no backup", "asked again by"]
    {
        assert!(timeline.contains(words), "{words}: {timeline}");
    }
    assert!(backups(&site).is_empty());
    // What is wrong with a duty is said, not guessed.
    site.configure(&[("shape = \"active\"", "shape = \"active\", zone = \"Europe/Berln\"")]);
    let wrong = site.lifeboat(&["run", "cadence"]);
    assert!(wrong.said().contains("no time zone `Europe/Berln`"), "{wrong:?}");
}
