//! Backups go by rules, with a reason and a person's consent; and what must stay stays, whoever asks.

use serde_json::Value;

use crate::signing::crash::killed_and_resumed;
use crate::support::guests::records;
use crate::support::{Outcome, Site, walk};

const RULES: &str = "[environment.demo.retention.notes.store.local]\nkeep = { last = 1 }\n";

/// Backups `0` to `count`, oldest first; those of `verified` were restored and compared.
fn site(count: usize, verified: &[usize]) -> (Site, Vec<String>) {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.append(RULES);
    (0..count).for_each(|_| drop(site.run("backup", &[]).expect(0)));
    let listed = site.lifeboat(&["--json", "backups", "list", "--store", "local"]).expect(0).json();
    let ids: Vec<String> = listed.as_array().unwrap().iter().map(|b| b["id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids.len(), count);
    for n in verified {
        site.lifeboat(&["backups", "verify", &ids[*n], "--store", "local", "--depth", "content"]).expect(0);
    }
    (site, ids)
}

impl Site {
    fn delete(&self, words: &[&str]) -> Outcome {
        self.lifeboat(&[&["--json", "backups", "delete", "--store", "local"], words].concat())
    }

    fn left(&self) -> Vec<String> {
        let listed = self.lifeboat(&["--json", "backups", "list", "--store", "local"]).expect(0).json();
        listed.as_array().unwrap().iter().map(|b| b["id"].as_str().unwrap().to_owned()).collect()
    }
}

/// Words of the reasons of each backup of a plan.
fn reasons(outcome: &Outcome) -> Vec<Vec<String>> {
    let document = outcome.json();
    let of = |backup: &Value| {
        backup["reasons"].as_array().unwrap().iter().map(|r| r["word"].as_str().unwrap().into()).collect()
    };
    document["places"][0]["backups"].as_array().unwrap().iter().map(of).collect()
}

#[test]
fn what_no_rule_keeps_goes_with_consent_and_then_nothing_is_due() {
    let (site, ids) = site(5, &[1, 2]);
    let dry = site.delete(&["--dry-run"]).expect(0);
    assert_eq!(
        reasons(&dry),
        [
            vec!["no-rule-keeps-it"],
            vec!["verified-at-least"],
            vec!["newest-verified", "verified-at-least"],
            vec!["no-rule-keeps-it"],
            vec!["newest", "last"]
        ]
    );
    assert_eq!(site.left(), ids, "a dry run removes nothing");
    let shown = site.lifeboat(&["backups", "delete", "--store", "local", "--dry-run"]).expect(0);
    assert!(
        shown.stdout.contains("notes in local: 2 of 5 go") && shown.stdout.contains("no-rule-keeps-it"),
        "{shown:?}"
    );
    // Nobody is here who could consent.
    site.delete(&[]).expect(14);
    assert_eq!(site.left(), ids);
    let done = site.delete(&["--yes"]).expect(0).json();
    assert_eq!(done["places"][0]["ended"]["asked"], 2, "{done:#}");
    assert_eq!(site.left(), [ids[1].clone(), ids[2].clone(), ids[4].clone()]);
    site.delete(&["--yes"]).expect(4);
    // Another store has no rules: nothing goes from there.
    let other = site.lifeboat(&["--json", "backups", "delete", "--store", "offsite", "--yes"]).expect(4);
    assert!(reasons(&other).iter().all(|words| words.contains(&"too-few-verified".to_owned())), "{other:?}");
}

#[test]
fn what_a_person_names_passes_the_floors() {
    let (site, ids) = site(4, &[0, 1, 3]);
    let refused = |id: &str, says: &str| {
        for words in [vec![id, "--yes"], vec![id, "--dry-run"]] {
            let outcome = site.delete(&words).expect(1);
            assert!(outcome.said().contains(says), "{says}: {outcome:?}");
        }
        assert_eq!(site.left(), ids);
    };
    refused(&ids[3], "newest");
    site.lifeboat(&["backups", "hold", &ids[2], "--days", "1", "--why", "audit"]).expect(0);
    refused(&ids[2], "held");
    site.lifeboat(&["backups", "unhold", &ids[2], "--why", "over"]).expect(0);
    let both = site.delete(&[&ids[0], &ids[1], "--yes"]).expect(1);
    assert!(both.said().contains("1 verified backups would be left, and 2 must stay"), "{both:?}");
    site.delete(&["20260101T000000000z-nobody", "--yes"]).expect(2);
    let several = site.lifeboat(&["backups", "delete", &ids[2], "--yes"]).expect(2);
    assert!(several.stderr.contains("is in local, offsite") && several.stderr.contains("--store"), "{several:?}");
    site.delete(&[&ids[2], "--yes"]).expect(0);
    assert_eq!(site.left(), [ids[0].clone(), ids[1].clone(), ids[3].clone()]);
}

#[test]
fn what_a_run_uses_stays_until_the_run_is_over() {
    let (site, ids) = site(4, &[2, 3]);
    let parked = site.run("restore", &["--param", &format!("backup={}", ids[0])]).expect(13);
    let refused = site.delete(&[&ids[0], "--yes"]).expect(1);
    assert!(refused.said().contains("in-use"), "{refused:?}");
    assert!(reasons(&site.delete(&["--dry-run"]).expect(0))[0].contains(&"in-use".to_owned()));
    let run = parked.json()["run"].as_str().unwrap().to_owned();
    site.lifeboat(&["runs", "cancel", &run, "--reason", "not needed"]);
    site.lifeboat(&["runs", "abandon", &run, "--reason", "not needed"]);
    site.delete(&[&ids[0], "--yes"]).expect(0);
    assert_eq!(site.left(), ids[1..]);
}

#[test]
fn the_policy_removes_what_the_rules_let_go() {
    let (site, ids) = site(4, &[1, 2]);
    let grants = [
        "delete.plan service=notes store=local",
        "confirm.request-delete service=notes store=local",
        "delete.apply service=notes store=local",
    ];
    let more = "parameters = { service = \"notes\", store = \"local\" }";
    site.guest("retention", "retention", "retention", &grants, more);
    let outcome = site.run("retention", &["--yes"]).expect(0);
    assert_eq!(site.left(), ids[1..]);
    let evidence = site.evidence(&outcome, "retention.json");
    assert_eq!(evidence["removed"][0], ids[0].as_str(), "{evidence:#}");
    assert_eq!(evidence["kept"], 3, "{evidence:#}");
    site.run("retention", &["--yes"]).expect(4);
}

#[test]
fn a_policy_with_rules_of_its_own_breaks_no_floor() {
    let (site, ids) = site(2, &[0]);
    let grants = [
        "catalog.list service=notes store=local",
        "confirm.request-delete service=notes store=local",
        "delete.apply service=notes store=local",
    ];
    // It wants the oldest gone, whatever that is.
    site.guest("greedy", "deny-delete", "retention", &grants, "");
    let words = ["--param", "call=delete.apply", "--param", "service=notes", "--param", "store=local", "--yes"];
    let outcome = site.run("greedy", &words).expect(1);
    assert!(outcome.json()["summary"].as_str().unwrap().contains("too-few-verified"), "{outcome:?}");
    let shown = site.shown(&outcome);
    assert_eq!(records(&shown, "started").len(), 0, "nobody was asked, nothing was begun: {shown:#}");
    assert_eq!(site.left(), ids);
}

/// The policy that removes what the rules let go, and how many of that may go without anybody's consent.
fn alone(site: &Site, rules: &str, at_most: u64) {
    site.configure(&[(RULES, &format!("{rules}without-consent-at-most = {at_most}\n"))]);
    let grants = [
        "delete.plan service=notes store=local",
        "confirm.request-delete service=notes store=local",
        "delete.apply service=notes store=local",
    ];
    let more = "parameters = { service = \"notes\", store = \"local\" }";
    site.guest("retention", "retention", "retention", &grants, more);
}

/// The decisions of a run's questions to people.
fn decisions(site: &Site, outcome: &Outcome) -> Vec<Value> {
    let shown = site.shown(outcome);
    let all = records(&shown, "completed").into_iter().map(|record| record["decision"].clone());
    all.filter(Value::is_object).collect()
}

#[test]
fn what_the_rules_let_go_goes_without_a_person_where_a_store_says_so_and_no_more_of_it() {
    let (site, ids) = site(5, &[1, 2]);
    // One too many: somebody is asked, and is told why.
    alone(&site, RULES, 1);
    let parked = site.run("retention", &[]).expect(13);
    assert!(decisions(&site, &parked).is_empty());
    let run = parked.json()["run"].as_str().unwrap().to_owned();
    let said = site.lifeboat(&["runs", "show", &run]).expect(0).stdout;
    assert!(said.contains("consent-asked") && said.contains("2 backups would go from local"), "{said}");
    assert_eq!(site.left(), ids);
    site.lifeboat(&["runs", "cancel", &run, "--reason", "asked in vain"]);
    site.lifeboat(&["runs", "abandon", &run, "--reason", "asked in vain"]);

    site.configure(&[("without-consent-at-most = 1\n", "without-consent-at-most = 2\n")]);
    let inspected = site.lifeboat(&["policy", "inspect", "retention"]).expect(0).stdout;
    assert!(inspected.contains("removes WITHOUT ASKING ANYBODY: of notes from local"), "{inspected}");
    // By hand somebody is asked, as ever.
    site.delete(&[]).expect(14);
    assert_eq!(site.left(), ids);
    let done = site.run("retention", &[]).expect(0);
    assert_eq!(site.left(), [ids[1].clone(), ids[2].clone(), ids[4].clone()]);
    let [decision] = decisions(&site, &done).try_into().unwrap();
    assert_eq!(decision["approved-by"], "configuration", "{decision}");
    assert_eq!(decision["how"], "retention-rules", "{decision}");
    assert_eq!(decision["place"], "[environment.demo.retention.notes.store.local]", "{decision}");
    assert_eq!(decision["rules"]["keep"]["last"], 1, "{decision}");
    assert_eq!(decision["at-most"], 2, "{decision}");
    let run = done.json()["run"].as_str().unwrap().to_owned();
    let said = site.lifeboat(&["runs", "show", &run]).expect(0).stdout;
    assert!(said.contains("removed-by-rules") && said.contains("nobody was asked"), "{said}");
    site.lifeboat(&["audit", "verify"]).expect(0);
}

#[test]
fn serve_removes_by_itself_and_one_name_of_two_cadences_is_two_duties() {
    let (mut site, ids) = site(5, &[1, 2]);
    alone(&site, RULES, 5);
    let duty = |policy: &str, parameters: &str| {
        format!(
            "parameters = {{ service = \"notes\", duties = [{{ name = \"tidy\", policy = \"{policy}\", when = \"0 0 1 1 *\", parameters = {parameters} }}] }}"
        )
    };
    let shape = r#"parameters = { service = "notes", shape = "active", store = "local", off-site = "offsite" }"#;
    let (tidies, backs_up) = (duty("retention", "{ store = \"local\" }"), duty("backup", "{ store = \"local\" }"));
    site.configure(&[
        (shape, &tidies),
        ("may-start = [\"backup\", \"drill\"]", "may-start = [\"retention\", \"backup\"]"),
    ]);
    let second = "[environment.demo.policy.second]\nmodule = \"policies/cadence.wasm\"\nworld = \"cadence\"\n\
                  grants = [\"catalog.latest service=notes store=*\", \"schedule.* service=notes policy=*\"]\n";
    site.append(&format!("{second}{backs_up}\n"));
    site.stop_serving();
    site.serve_on_schedule(&["notes"]);
    let began = std::time::Instant::now();
    let ended = |site: &Site| {
        let log = site.serve_log();
        log.contains("retention (cadence:notes/tidy) is ok") && log.contains("backup (second:notes/tidy) is ok")
    };
    while !ended(&site) {
        assert!(began.elapsed() < std::time::Duration::from_secs(60), "{}", site.serve_log());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    site.stop_serving();
    let left = site.left();
    assert!(!left.contains(&ids[0]) && !left.contains(&ids[3]), "{left:?}");
    assert!(left.contains(&ids[1]) && left.contains(&ids[2]), "the proven ones stay: {left:?}");
}

#[test]
fn what_a_policy_chooses_is_asked_for_and_a_floor_is_no_rule() {
    let (site, ids) = site(5, &[3, 4]);
    alone(&site, "[environment.demo.retention.notes.store.local]\nkeep = { last = 5 }\n", 5);
    let grants = [
        "catalog.list service=notes store=local",
        "confirm.request-delete service=notes store=local",
        "delete.apply service=notes store=local",
    ];
    // It wants the oldest gone, which a rule keeps and no floor.
    site.guest("greedy", "deny-delete", "retention", &grants, "");
    let words = ["--param", "call=delete.apply", "--param", "service=notes", "--param", "store=local"];
    let parked = site.run("greedy", &words).expect(13);
    let run = parked.json()["run"].as_str().unwrap().to_owned();
    let said = site.lifeboat(&["runs", "show", &run]).expect(0).stdout;
    assert!(said.contains("consent-asked") && said.contains("do not let backup"), "{said}");
    assert_eq!(site.left(), ids);
    site.lifeboat(&["runs", "cancel", &run, "--reason", "no"]);
    site.lifeboat(&["runs", "abandon", &run, "--reason", "no"]);
    // And what a floor keeps no consent of any kind removes.
    site.lifeboat(&["backups", "hold", &ids[0], "--days", "1", "--why", "audit"]).expect(0);
    let refused = site.run("greedy", &words).expect(1);
    assert!(refused.json()["summary"].as_str().unwrap().contains("held"), "{refused:?}");
    assert_eq!(site.left(), ids);
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    hex::encode(sha2::Sha256::digest(bytes))
}

/// A file whose time of last change is so many hours ago.
fn old_file(site: &Site, path: &str, hours: u64) {
    site.write(path, "left");
    let file = std::fs::File::options().write(true).open(site.path(path)).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(hours * 3600)).unwrap();
}

#[test]
fn what_belongs_to_no_backup_is_swept_with_consent() {
    let (site, ids) = site(2, &[]);
    let lost = "backups/notes/objects/20260101T000000000z-aaaaaa/20260101T000000001z-bbbbbb-3-1/db.data.sqlite.zst";
    let young = "backups/notes/objects/20260101T000000000z-cccccc/20260101T000000001z-bbbbbb-3-1/db.data.sqlite.zst";
    let stranger = "backups/notes/objects/holiday/beach.jpg";
    old_file(&site, lost, 2_000);
    old_file(&site, young, 1);
    old_file(&site, stranger, 2_000);
    let sweep = |words: &[&str]| site.lifeboat(&[&["--json", "backups", "sweep", "--store", "local"], words].concat());
    let dry = sweep(&["--dry-run"]).expect(0).json();
    let because = |n: usize| dry["places"][0]["objects"][n]["because"].as_str().unwrap().to_owned();
    assert_eq!([because(0), because(1), because(2)], ["no-manifest", "young", "not-ours"], "{dry:#}");
    sweep(&[]).expect(14);
    assert!(site.path(lost).exists(), "a dry run, and a run that nobody consented to, remove nothing");
    sweep(&["--yes"]).expect(0);
    assert!(!site.path(lost).exists() && site.path(young).exists() && site.path(stranger).exists());
    sweep(&["--yes"]).expect(4);
    site.lifeboat(&["backups", "verify", &ids[0], "--store", "local"]).expect(0);
}

#[test]
fn a_store_says_by_itself_what_it_holds_and_copies_that_differ_are_found() {
    let (site, ids) = site(2, &[1]);
    site.lifeboat(&["backups", "hold", &ids[0], "--days", "1", "--why", "audit"]).expect(0);
    let reindex = || site.lifeboat(&["--json", "backups", "reindex", "--store", "local"]);
    let first = reindex().expect(0).json();
    let holds = &first["places"][0]["holds"];
    assert_eq!(holds["backups"].as_object().unwrap().len(), 2, "{first:#}");
    assert_eq!(
        (&holds["held"][0], &holds["verified"][0]),
        (&ids[0].as_str().into(), &ids[1].as_str().into()),
        "{first:#}"
    );
    // A machine that never saw it says the same.
    std::fs::remove_dir_all(site.path(".lifeboat")).unwrap();
    assert_eq!(reindex().expect(0).json(), first);

    // Another manifest under the name of one, in the other store.
    let folder = site.path("offsite/notes/manifests");
    let of = |id: &str| {
        std::fs::read_dir(&folder)
            .unwrap()
            .map(|e| e.unwrap().path())
            .find(|p| p.to_string_lossy().contains(id))
            .unwrap()
    };
    let text = std::fs::read_to_string(of(&ids[0])).unwrap();
    let forged = text.replacen("\"label\":null", "\"label\":\"x\"", 1);
    assert_ne!(forged, text);
    std::fs::remove_file(of(&ids[0])).unwrap();
    let digest = sha256(forged.as_bytes());
    std::fs::write(folder.join(format!("{}.{digest}.json", ids[0])), forged).unwrap();
    let found = reindex().expect(5).json();
    assert_eq!(found["places"][0]["findings"][0]["rule"], "copies-differ", "{found:#}");
    assert_eq!(found["places"][0]["findings"].as_array().unwrap().len(), 1, "{found:#}");

    // One that can't be read, where it is looked at.
    let folder = site.path("backups/notes/manifests");
    let of = std::fs::read_dir(&folder)
        .unwrap()
        .map(|e| e.unwrap().path())
        .find(|p| p.to_string_lossy().contains(&ids[1]))
        .unwrap();
    std::fs::write(of, "{}").unwrap();
    let found = reindex().expect(5).json();
    assert_eq!(found["places"][0]["findings"][0]["rule"], "manifest-unreadable", "{found:#}");
    // It does not hide the rest, and nothing goes from a store with one.
    let listed = site.lifeboat(&["backups", "list", "--store", "local"]).expect(3);
    assert!(listed.stdout.contains(&ids[0]) && listed.stderr.contains(&ids[1]), "{listed:?}");
    site.delete(&["--yes"]).expect(3);
}

#[test]
fn a_removal_is_completed_wherever_its_engine_dies() {
    let (site, ids) = site(5, &[2, 3]);
    let grants = [
        "delete.plan service=notes store=local",
        "confirm.request-delete service=notes store=local",
        "delete.apply service=notes store=local",
    ];
    let more = "parameters = { service = \"notes\", store = \"local\" }";
    site.guest("retention", "retention", "retention", &grants, more);
    // Two are due; it dies after the first tombstone, and, with one more that is due then, after the first manifest.
    killed_and_resumed(&site, "tombstone written", "retention", &[]);
    assert_eq!(site.left(), ids[2..]);
    site.run("backup", &[]).expect(0);
    killed_and_resumed(&site, "manifest removed", "retention", &[]);
    let left = site.left();
    assert_eq!((left.len(), &left[..2]), (3, &ids[2..4]), "{left:?}");
    let mut files = Vec::new();
    walk(&site.path("backups/notes/objects"), &mut files);
    assert!(files.iter().all(|file| left.iter().any(|id| file.to_string_lossy().contains(id))), "{files:?}");
}
