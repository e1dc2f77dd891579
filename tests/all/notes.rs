//! The example service, from backup to rollback, through the command line.

use serde_json::json;

use crate::support::Site;

fn with_notes() -> Site {
    let mut site = Site::notes();
    site.serve_notes();
    for (title, attachment) in [("one", Some("text")), ("two", None), ("three", Some("more"))] {
        let note = json!({"title": title, "body": "b", "attachment": attachment, "remind": true});
        assert_eq!(site.http("POST", "/notes", Some(&note)).unwrap().status, 201);
    }
    site
}

#[test]
fn a_failed_upgrade_is_rolled_back_and_that_can_be_undone() {
    let site = with_notes();
    site.run("backup", &[]).expect(0);
    site.run("drill", &[]).expect(0);
    let upgrade = site.run("upgrade", &["--param", "version=2.0.0"]).expect(1);
    assert!(upgrade.json()["summary"].as_str().unwrap().contains("lifeboat run rollback"), "{upgrade:?}");
    assert_eq!(site.http("GET", "/notes", None).unwrap().status, 500);
    let late = json!({"title": "made by 2.0.0", "body": "b"});
    assert_eq!(site.http("POST", "/notes", Some(&late)).unwrap().status, 201);

    site.run("rollback", &["--param", "version=1.0.0", "--yes"]).expect(0);
    let notes = site.http("GET", "/notes", None).unwrap();
    assert_eq!((notes.status, notes.json()["count"].as_u64()), (200, Some(3)));
    assert_eq!(site.http("GET", "/readyz", None).unwrap().json()["version"], "1.0.0");

    let promotions = site.lifeboat(&["--json", "promotions", "list"]).expect(0).json();
    let promotion = promotions[0]["promotion"]["id"].as_str().unwrap().to_owned();
    site.lifeboat(&["promotions", "undo", &promotion, "--install", "2.0.0", "--yes"]).expect(0);
    let ready = site.http("GET", "/readyz", None).unwrap().json();
    assert_eq!((ready["version"].as_str(), ready["store"]["schema"].as_u64()), (Some("2.0.0"), Some(2)));
    let events = site.http("GET", "/events", None).unwrap().json();
    assert!(events["count"].as_u64().unwrap() >= 4, "what 2.0.0 wrote is there again: {events}");
}

#[test]
fn without_anyone_to_ask_a_run_parks_and_goes_on_where_it_stood() {
    let site = with_notes();
    site.run("backup", &[]).expect(0);
    site.configure(&[(
        "parameters = { service = \"notes\", store = \"local\", lists = [\"/notes\", \"/events\"] }\n",
        "",
    )]);
    let before = site.http("GET", "/notes", None).unwrap().body;
    let words = ["--param", "service=notes", "--param", "store=local"];
    let parked = site.run("restore", &words).expect(13).json();
    assert_eq!(site.http("GET", "/notes", None).unwrap().body, before, "a parked run has changed nothing");
    let candidates = site.lifeboat(&["--json", "candidates", "list"]).expect(0).json();
    assert_eq!(candidates.as_array().unwrap().len(), 1, "{candidates}");
    let run = parked["run"].as_str().unwrap();
    let shown = site.lifeboat(&["runs", "show", run]).expect(0).stdout;
    for words in [
        "asks: reminders that will be delivered again",
        "open until the run ends: candidate",
        "to answer: lifeboat runs resume",
    ] {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    // What was written since is in what the person reads now.
    assert_eq!(site.http("POST", "/notes", Some(&json!({"title": "late", "body": "b"}))).unwrap().status, 201);
    let resumed = site.lifeboat(&["--json", "runs", "resume", run, "--yes"]).expect(0);
    assert!(!resumed.stderr.contains("nothing newer is set aside"), "{}", resumed.stderr);
    assert_eq!(resumed.json()["run"], run);
    assert!(site.lifeboat(&["--json", "candidates", "list"]).json().as_array().unwrap().is_empty());
    // Over is over.
    site.lifeboat(&["runs", "resume", run, "--yes"]).expect(2);
}
