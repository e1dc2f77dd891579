//! What runs were given of a service stands in the log as digests, and nowhere in the state once they have ended.

use std::collections::BTreeSet;
use std::fs;

use engine::journal::State;
use serde_json::Value;

use crate::support::Site;
use crate::support::guests::records;

const ROW: &str = "row-7f3a91c2-of-alice";

#[test]
fn no_value_of_the_service_stands_in_the_log_or_outlives_its_run_in_the_state() {
    let mut site = Site::notes();
    site.configure(&[(
        "sql = \"select max(version) from schema_migrations\"",
        &format!("sql = \"select '{ROW}', null\""),
    )]);
    site.serve_some_notes();
    for (name, call, grants) in [
        ("queries", "query.run", &["query.run service=notes query=*"][..]),
        (
            "asks-candidate",
            "restore.query",
            &["catalog.latest service=notes store=*", "restore.* service=notes store=* target=* query=*"],
        ),
    ] {
        let parameters =
            format!("parameters = {{ call = {call:?}, service = \"notes\", store = \"local\", name = \"schema\" }}");
        site.guest(name, "deny-all", "upgrade", grants, &parameters);
    }
    site.run("backup", &[]).expect(0);
    let smoke = r#"smoke=[{"method":"POST","path":"/notes","body":{"title":"drill","body":"b"},"expect-status":201},
        {"method":"POST","path":"/notes/{id}/archive"},{"path":"/notes/{known.oldest}","contains":["{known.oldest}"]}]"#;
    let drill = site.run("drill", &["--param", smoke]).expect(0);
    let queries = site.run("queries", &[]).expect(0);
    site.run("asks-candidate", &[]).expect(0);

    // Values were given: the drill's evidence names the paths it asked.
    let evidence = site.evidence(&drill, "drill.json").to_string();
    let ids = evidence.split("/notes/").skip(1).filter_map(|rest| rest.get(..26));
    let ids: BTreeSet<&str> = ids.filter(|id| id.bytes().all(|b| b.is_ascii_alphanumeric())).collect();
    assert_eq!(ids.len(), 2, "a note that was made, and the oldest: {evidence}");
    let log = site.path("log");
    site.lifeboat(&["audit", "export", log.to_str().unwrap()]).expect(0);
    let log = fs::read_to_string(&log).unwrap();
    for value in ids.iter().chain([&ROW]) {
        assert!(!log.contains(value), "{value}: {}", log.lines().find(|line| line.contains(value)).unwrap());
    }
    assert!(log.contains("/notes/(withheld "), "the paths stand there with marks");
    let answered = site.shown(&queries);
    let row = &records(&answered, "answered")[0]["result"]["ok"];
    assert!(row[0]["withheld"].as_str().is_some_and(|digest| digest.len() == 64) && row[1].is_null(), "{row}");

    // Every run is over: what was kept of it is gone, from the file as well.
    for file in fs::read_dir(site.path(".lifeboat")).unwrap().map(|e| e.unwrap().path()) {
        if file.file_name().unwrap().to_str().unwrap().starts_with("state.sqlite") {
            let bytes = fs::read(&file).unwrap();
            assert!(!bytes.windows(ROW.len()).any(|w| w == ROW.as_bytes()), "{}", file.display());
        }
    }
    site.lifeboat(&["audit", "verify"]).expect(0);
}

#[tokio::test]
async fn every_record_says_who_wrote_it_and_a_resumed_run_is_given_its_values_again() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    let parked = site.run("restore", &[]).expect(13).json();
    let run = parked["run"].as_str().unwrap();
    let database = rusqlite::Connection::open(site.path(".lifeboat/state.sqlite")).unwrap();
    let count = || database.query_row("select count(*) from withheld", [], |r| r.get::<_, u64>(0)).unwrap();
    assert!(count() >= 2, "the salt, and what the backup's manifest knows");
    let resumed = site.command(&["--json", "runs", "resume", run, "--yes"]).env("USER", "bob").output().unwrap();
    assert!(resumed.status.success(), "{resumed:?}");
    assert_eq!(count(), 0);
    let mut actors = Vec::new();
    let note = |line: &str| {
        let record: Value = serde_json::from_str(line).unwrap();
        assert_eq!(record["channel"], "cli", "{line}");
        let actor = record["actor"].as_str().unwrap().split('@').next().unwrap().to_owned();
        let resumed = record["kind"] == "resumed" || actors.contains(&"bob".to_owned());
        assert_eq!(actor == "bob", resumed, "{line}");
        actors.push(actor);
        Ok(())
    };
    State::open(&site.path(".lifeboat")).await.unwrap().export(Some(run), note).await.unwrap();
    assert!(actors.len() > 5 && actors.last().unwrap() == "bob", "{actors:?}");
}

#[test]
fn a_resumed_run_takes_no_other_value_than_the_one_it_was_given() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    for change in [
        "update withheld set body = replace(body, '[\"oldest\",\"', '[\"oldest\",\"X') where step > 0",
        "update withheld set body = replace(hex(zeroblob(32)), '00', 'ab') where step = 0",
        "delete from withheld where step > 0",
    ] {
        let run = site.run("restore", &[]).expect(13).json()["run"].as_str().unwrap().to_owned();
        let database = rusqlite::Connection::open(site.path(".lifeboat/state.sqlite")).unwrap();
        assert!(database.execute(change, []).unwrap() > 0, "{change}");
        let outcome = site.lifeboat(&["--json", "runs", "resume", &run, "--yes"]).expect(1).json();
        let summary = outcome["summary"].as_str().unwrap();
        assert!(summary.contains("record ") && summary.contains("kept"), "{change}: {summary}");
        assert_eq!(site.lifeboat(&["--json", "promotions", "list"]).expect(0).json(), serde_json::json!([]));
    }
    site.lifeboat(&["audit", "verify"]).expect(0);
}
