//! An engine that dies around a signature leaves a signed object or none, and whoever goes on makes no second one.

use serde_json::Value;

use crate::support::Site;

/// Runs a policy in an engine that kills itself at a place, and goes on with the run to a good end.
#[track_caller]
pub fn killed_and_resumed(site: &Site, place: &str, policy: &str, words: &[&str]) {
    let (outcome, trail) = crate::sweep::crashing(site, place, "run", policy, words);
    assert_eq!(outcome.code, -1, "{place}: {outcome:?}");
    assert!(trail.last().is_some_and(|last| last.ends_with(place)), "it died there: {trail:?}");
    let open = site.lifeboat(&["--json", "runs", "list", "--status", "interrupted"]).json();
    let run = open[0]["run"].as_str().unwrap();
    site.lifeboat(&["runs", "resume", run]).expect(0);
}

#[test]
fn a_backup_is_signed_once_wherever_its_engine_dies() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let trust = site.make_key("demo");
    site.sign_with(Some("demo"), &[&trust]);
    for (at, place) in ["before the manifest", "manifest written", "manifest copied"].into_iter().enumerate() {
        killed_and_resumed(&site, place, "backup", &[]);
        for (name, store) in [("local", "backups"), ("offsite", "offsite")] {
            let all = site.lifeboat(&["--json", "backups", "list", "--store", name]).expect(0).json();
            let all = all.as_array().unwrap();
            assert_eq!(all.len(), at + 1, "{place}: {all:?}");
            let newest = all.last().unwrap();
            assert_eq!(newest["state"]["signature"]["standing"], "trusted", "{place}: {newest}");
            site.outsider(store, newest["id"].as_str().unwrap(), Some(&trust)).expect(0);
        }
    }
}

#[test]
fn a_check_is_on_record_once_wherever_its_engine_dies() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let trust = site.make_key("demo");
    site.sign_with(Some("demo"), &[&trust]);
    let id = site.take();
    let grants = ["catalog.latest service=notes store=local", "upload.attest service=notes store=local"];
    site.guest(
        "attests",
        "deny-all",
        "upgrade",
        &grants,
        "parameters = { call = \"upload.attest\", service = \"notes\", store = \"local\" }",
    );
    let checked = |site: &Site| site.backup_in("local", &id)["state"]["checked-by"].clone();
    assert_eq!(checked(&site), Value::Null);
    for (at, place) in ["looked", "check recorded"].into_iter().enumerate() {
        killed_and_resumed(&site, place, "attests", &[]);
        assert_eq!(site.records(&id), vec!["checked"; at + 1], "{place}");
        assert_eq!(checked(&site), "demo");
    }
}
