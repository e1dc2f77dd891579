//! An hour of kneo-serv with a backup every minute, in compressed time: every second is a minute. The engine is killed five times.

use std::time::Duration;

use serde_json::Value;

use crate::support::kneo::{Kneo, Mode};
use crate::support::{free_port, http, wait_until, walk};

/// Backups that are waited for: one each minute of the hour.
const MINUTES: usize = 60;
const KILLS: usize = 5;

#[test]
fn an_hour_with_a_backup_every_minute_and_five_kills() {
    let Some(mut kneo) = Kneo::running(Mode::Sqlite, "1.0.0") else { return };
    kneo.completed_run();
    let port = free_port();
    kneo.site.configure(&[
        (
            r#"parameters = { service = "kneo", shape = "active", store = "local", off-site = "offsite" }"#,
            "parameters = { service = \"kneo\", duties = [{ name = \"minute\", policy = \"backup\", when = \"* * * * * *\", proof = \"backup\", \
             store = \"local\", retry-s = 1, parameters = { copy-to = [] } }] }",
        ),
        ("[environment.production.serve]", &format!("[environment.production.serve]\nlisten = \"127.0.0.1:{port}\"")),
    ]);
    // Its services stay those of the `serve` that started them.
    kneo.stop();
    kneo.site.serve_on_schedule(&["kneo"]);
    let taken = |kneo: &Kneo| {
        let listed = kneo.site.lifeboat(&["--json", "backups", "list", "--store", "local"]);
        if listed.code == 4 { Vec::new() } else { listed.json().as_array().unwrap().clone() }
    };
    for kill in 1..=KILLS {
        wait_until("its share of the backups was taken", || taken(&kneo).len() >= kill * MINUTES / (KILLS + 1));
        kneo.site.kill_serve();
        assert_eq!(kneo.status("/livez"), 200, "the service lives on");
        kneo.site.serve_on_schedule(&[]);
    }
    wait_until("the hour is over", || taken(&kneo).len() >= MINUTES);
    wait_until("no run is on its way", || {
        let metrics = http::ask(port, "GET", "/metrics", None).map(|answer| answer.body).unwrap_or_default();
        metrics.contains("lifeboat_runs_open{status=\"running\"} 0.0")
    });
    kneo.site.configure(&[("when = \"* * * * * *\"", "when = \"0 0 1 1 *\"")]);
    kneo.site.signal_serve("-HUP");
    wait_until("nothing is due any more", || {
        let runs = kneo.site.lifeboat(&["--json", "runs", "list", "--open"]);
        runs.code == 4 || runs.json().as_array().unwrap().is_empty()
    });
    // Metrics look at stores every ten seconds at most.
    std::thread::sleep(Duration::from_secs(11));

    let backups = taken(&kneo);
    let runs = kneo.site.lifeboat(&["--json", "runs", "list", "--policy", "backup", "--limit", "1000"]).json();
    let (mut good, mut slots) = (0, Vec::new());
    for run in runs.as_array().unwrap() {
        let status = run["status"].as_str().unwrap();
        assert!(matches!(status, "ok" | "failed"), "each is over: {run}");
        good += usize::from(status == "ok");
        let shown = kneo.site.show(run["run"].as_str().unwrap());
        let begun = &shown["records"][0];
        assert_eq!(begun["duty"]["name"], "kneo/minute", "{begun}");
        if status == "ok" {
            slots.push(begun["duty"]["slot-ms"].as_u64().unwrap());
        }
    }
    assert_eq!(good, backups.len(), "a backup is what a run that came to a good end has left, and the reverse");
    slots.sort_unstable();
    let all = slots.len();
    slots.dedup();
    assert_eq!(slots.len(), all, "no slot was done twice");

    let metrics = http::ask(port, "GET", "/metrics", None).unwrap().body;
    let counted = format!("lifeboat_backups{{service=\"kneo\",store=\"local\"}} {:.1}", backups.len() as f64);
    assert!(metrics.contains(&counted), "{counted}: {metrics}");
    let newest = backups.iter().map(|backup| backup["taken-at-ms"].as_u64().unwrap()).max().unwrap();
    let status = kneo.site.lifeboat(&["--json", "status"]).json();
    assert_eq!(status["services"][0]["newest"]["taken-at-ms"].as_u64(), Some(newest));
    // What the store holds is what the catalog says: manifests are the backups, and each names its objects.
    let mut files = Vec::new();
    walk(&kneo.site.path("backups"), &mut files);
    let manifests = files.iter().filter(|file| file.to_string_lossy().contains("manifest")).count();
    assert_eq!(manifests, backups.len());
    let newest: &Value = backups.iter().max_by_key(|backup| backup["taken-at-ms"].as_u64()).unwrap();
    kneo.site.lifeboat(&["backups", "verify", newest["id"].as_str().unwrap(), "--depth", "content"]).expect(0);
    kneo.site.lifeboat(&["audit", "verify"]).expect(0);
    assert_eq!(kneo.status("/livez"), 200);
    kneo.stop();
}
