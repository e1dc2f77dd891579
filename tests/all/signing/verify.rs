//! `backups verify` at each depth: what it finds, what it restores and throws away, what it puts on record.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Outcome, Site};

/// A site with a backup in two stores, and the data object of its database in the first.
fn with_backup(signed: bool) -> (Site, String, PathBuf) {
    let mut site = Site::notes();
    site.serve_some_notes();
    let trust = site.make_key("demo");
    if signed {
        site.sign_with(Some("demo"), &[&trust]);
    }
    let id = site.take();
    let object = site.object("backups", "db");
    (site, id, object)
}

impl Site {
    fn verify(&self, id: &str, depth: &str) -> Outcome {
        self.lifeboat(&["--json", "backups", "verify", id, "--store", "local", "--depth", depth])
    }

    /// Records beside a backup in `local`, by what they are called before the first `-`.
    pub fn records(&self, id: &str) -> Vec<String> {
        let folder = fs::read_dir(self.path("backups/notes/records").join(id));
        let names = folder.into_iter().flatten().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut kinds: Vec<String> = names.map(|name| name.split('-').next().unwrap().to_owned()).collect();
        kinds.sort_unstable();
        kinds
    }
}

#[track_caller]
fn is_whole(outcome: Outcome, record: Option<&str>) -> Value {
    let found = outcome.expect(0).json();
    assert_eq!(
        (&found["whole"], &found["findings"], &found["error"]),
        (&true.into(), &Value::Array(vec![]), &Value::Null)
    );
    assert_eq!(found["record"], record.map_or(Value::Null, Value::from), "{found}");
    found
}

#[test]
fn a_pass_is_on_record_where_there_is_a_key_and_bytes_were_read() {
    let (site, id, _) = with_backup(true);
    is_whole(site.verify(&id, "exists"), None);
    assert_eq!(site.records(&id), Vec::<String>::new());
    is_whole(site.verify(&id, "checksum"), Some("lifeboat/checked/1"));
    assert_eq!(site.records(&id), ["checked"]);
    let state = site.backup_in("local", &id)["state"].clone();
    assert_eq!((&state["checked-by"], &state["checked-depth"]), (&"demo".into(), &"checksum".into()), "{state}");
    assert!(state["verified-at-ms"].is_null());
    let content = is_whole(site.verify(&id, "content"), Some("lifeboat/verified/1"));
    assert!(content["rows"].as_u64().unwrap() > 0 && content["files"] == 2, "{content}");
    assert_eq!(site.records(&id), ["checked", "verified"]);
    let state = site.backup_in("local", &id)["state"].clone();
    assert_eq!(state["verified-by"], "demo");
    // What was restored is gone.
    assert_eq!(site.lifeboat(&["--json", "candidates", "list"]).json(), serde_json::json!([]));
    assert!(fs::read_dir(site.path(".lifeboat/candidates")).unwrap().next().is_none());
    let said = site.outsider("backups", &id, Some(site.lifeboat(&["keys", "show", "demo.key"]).stdout.trim_end()));
    let said = said.expect(0).stdout;
    assert!(said.contains("checked (checksum) at ") && said.contains("verified at "), "{said}");
    // For people, too.
    let words = site.lifeboat(&["backups", "verify", &id]).expect(0).stdout;
    assert!(words.contains("whole (checksum, bytes as stored, on record as lifeboat/checked/1)"), "{words}");
}

#[test]
fn without_a_key_nothing_but_a_restored_copy_is_on_record() {
    let (site, id, _) = with_backup(false);
    is_whole(site.verify(&id, "checksum"), None);
    assert_eq!(site.records(&id), Vec::<String>::new());
    is_whole(site.verify(&id, "content"), Some("lifeboat/verified/1"));
    assert_eq!(site.records(&id), ["verified"]);
    // A key that can't be read keeps nobody from looking.
    site.sign_with(Some("nowhere"), &[]);
    let outcome = site.verify(&id, "checksum");
    assert!(
        outcome.stderr.contains("warning: what is found is not recorded") && outcome.stderr.contains("nowhere.key")
    );
    is_whole(outcome, None);
}

#[test]
fn each_depth_finds_what_it_can_see_and_records_nothing_of_it() {
    let (site, id, object) = with_backup(true);
    let good = fs::read(&object).unwrap();
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    fs::write(&object, &flipped).unwrap();
    is_whole(site.verify(&id, "exists"), None);
    for depth in ["checksum", "content"] {
        let found = site.verify(&id, depth).expect(5).json();
        assert_eq!((&found["whole"], &found["record"]), (&false.into(), &Value::Null), "{found}");
        assert!(found["findings"][0]["message"].as_str().unwrap().contains("SHA-256"), "{found}");
    }
    fs::remove_file(&object).unwrap();
    for depth in ["exists", "checksum", "content"] {
        let found = site.verify(&id, depth).expect(5).json();
        assert_eq!(found["findings"].as_array().unwrap().len(), 1, "{found}");
    }
    assert_eq!(site.records(&id), Vec::<String>::new());
    fs::write(&object, &good).unwrap();
    // Content that is not the manifest's: the backup is sound in its bytes, and what is known of it is not in it.
    site.configure(&[("select id from notes order by created_at, id limit 1", "select 'somebody else'")]);
    is_whole(site.verify(&id, "checksum"), Some("lifeboat/checked/1"));
    let found = site.verify(&id, "content").expect(5).json();
    assert_eq!(found["findings"][0]["rule"], "known-record", "{found}");
    assert_eq!(site.records(&id), ["checked"]);
    assert_eq!(site.lifeboat(&["--json", "candidates", "list"]).json(), serde_json::json!([]));
}

#[test]
fn what_can_not_be_restored_here_is_refused_with_the_reason() {
    let (site, id, _) = with_backup(true);
    // As on a host that has the store, and another service under this name.
    site.configure(&[(
        "[environment.demo.service.notes.source.db]\nkind = \"sqlite\"\npath = \"live/notes.sqlite\"",
        "[environment.demo.service.notes.source.db]\nkind = \"postgres\"\nhost = \"./nowhere\"\ndatabase = \"d\"\nuser = \"u\"",
    )]);
    let found = site.verify(&id, "content").expect(5).json();
    assert!(found["error"].as_str().unwrap().contains("source db is of another kind"), "{found}");
    is_whole(site.verify(&id, "checksum"), Some("lifeboat/checked/1"));
}
