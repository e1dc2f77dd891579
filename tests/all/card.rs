//! The card: a guest that tries five kinds of calls. With all granted it runs; with any one missing, that one is denied, named with the
//! grant that would allow it, and leaves no trace in the world.

use crate::support::Site;
use crate::support::guests::records;

const GRANTS: &[(&str, &str)] = &[
    ("dump.take", "dump.take service=notes store=local"),
    ("upload.copy", "upload.copy service=notes store=local to=offsite"),
    ("restore.stage", "restore.stage service=notes store=local target=beside"),
    ("http-check.check", "http-check.check endpoint=notes/api method=GET path=/readyz"),
    ("confirm.request-promote", "confirm.request-promote service=notes"),
];
const PARAMETERS: &str =
    "parameters = { service = \"notes\", store = \"local\", copy = \"offsite\", endpoint = \"notes/api\" }";

fn backups(site: &Site, store: &str) -> usize {
    let listed = site.lifeboat(&["--json", "backups", "list", "--store", store]);
    assert!(matches!(listed.code, 0 | 4), "{listed:?}");
    listed.json().as_array().unwrap().len()
}

#[test]
fn each_of_five_calls_is_made_if_granted_and_denied_with_the_line_that_is_missing() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let discard = "restore.discard service=notes";
    let all: Vec<&str> = GRANTS.iter().map(|(_, line)| *line).chain([discard]).collect();
    site.guest("card", "card", "upgrade", &all, PARAMETERS);
    for (call, missing) in GRANTS {
        let rest: Vec<&str> = all.iter().copied().filter(|line| line != missing).collect();
        site.guest(&call.replace('.', "-"), "card", "upgrade", &rest, PARAMETERS);
    }

    let run = site.run("card", &["--yes"]).expect(0);
    let shown = site.shown(&run);
    for (call, _) in GRANTS {
        let done = shown["records"]
            .as_array()
            .unwrap()
            .iter()
            .any(|r| r["request"]["call"] == *call && !r["result"]["ok"].is_null());
        assert!(done, "{call} was made: {shown:#}");
    }
    assert_eq!((backups(&site, "local"), backups(&site, "offsite")), (1, 1));

    for (call, line) in GRANTS {
        let before = (backups(&site, "local"), backups(&site, "offsite"));
        let outcome = site.run(&call.replace('.', "-"), &["--yes"]).expect(12);
        let said = outcome.json();
        assert_eq!((&said["status"], &said["exit-code"]), (&"denied".into(), &12.into()), "{said}");
        assert_eq!(said["summary"], format!("denied: {call}"), "only this one was denied");

        // On record: one answer, a denial with the line; the effect was never started.
        let shown = site.shown(&outcome);
        let about = |r: &&serde_json::Value| r["request"]["call"] == *call;
        let denied: Vec<_> = records(&shown, "answered").into_iter().filter(about).collect();
        assert_eq!(denied.len(), 1, "{call}: {shown:#}");
        let words = denied[0]["result"]["err"]["denied"].as_str().unwrap_or_default();
        assert!(words.contains(line) && words.contains("[environment.demo.policy."), "{call}: {words}");
        assert_eq!(records(&shown, "started").into_iter().filter(about).count(), 0, "{call} was not begun");
        let notes = crate::support::guests::notes(&shown);
        assert!(notes.iter().any(|n| n.contains(&format!("denied: {call}")) && n.contains(line)), "{notes:?}");

        // And not in the world either.
        let after = (backups(&site, "local"), backups(&site, "offsite"));
        match *call {
            "dump.take" => assert_eq!(after, before),
            "upload.copy" => assert_eq!(after, (before.0 + 1, before.1)),
            _ => assert_eq!(after, (before.0 + 1, before.1 + 1)),
        }
        if matches!(*call, "dump.take" | "restore.stage") {
            assert!(!shown.to_string().contains("\"prepared\":{\"candidate\""), "nothing was staged: {shown:#}");
        }
        if *call == "confirm.request-promote" {
            assert!(!outcome.said().contains("approved by"), "nobody was asked: {}", outcome.said());
        }
    }
    let candidates = site.lifeboat(&["--json", "candidates", "list"]).expect(0).json();
    assert_eq!(candidates.as_array().unwrap().len(), 0, "{candidates}");
    assert!(site.is_up(), "the live service never noticed");
}
