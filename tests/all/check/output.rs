//! What is said, and how: exit codes, the plugin's line, the inventory; and that nothing is left of a look.

use super::{KEPT, listing, well};
use crate::support::Site;

#[test]
fn where_all_is_well_it_says_so_and_changes_nothing() {
    let site = well();
    let records = site.lifeboat(&["--json", "audit", "verify"]).expect(0).json()["records"].clone();
    // The service itself works on its outbox and its journal; the look at its database must leave nothing beside it.
    let before = listing(&site.path(""));
    site.check(&[]).only(&[], 0);
    assert!(site.lifeboat(&["check"]).expect(0).stdout.starts_with("ok: environment demo: "));
    let after = listing(&site.path(""));
    let live = site.path("live");
    let ours = |of: &std::collections::BTreeMap<std::path::PathBuf, _>| {
        of.clone().into_iter().filter(|(path, _)| !path.starts_with(&live)).collect::<Vec<(std::path::PathBuf, _)>>()
    };
    assert_eq!(ours(&after), ours(&before));
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!(site.lifeboat(&["--json", "audit", "verify"]).expect(0).json()["records"], records, "no record of it");
    assert_eq!(site.lifeboat(&["--json", "runs", "list"]).json().as_array().unwrap().len(), 2, "no run either");
}

#[test]
fn a_plugins_first_line_says_it_all_and_has_its_data() {
    let site = well();
    let fine = site.lifeboat(&["check", "--plugin"]).expect(0).stdout;
    assert_eq!(fine.lines().count(), 1, "{fine}");
    let (said, data) = fine.trim().split_once(" | ").unwrap();
    assert!(said.starts_with("LIFEBOAT OK - ") && said.ends_with(" ok"), "{said}");
    for label in
        ["'notes/backup.age:age'=", "'notes/drill.rto:took'=", "'store.local.space:free'=", "'state.audit:records'="]
    {
        assert!(data.contains(label), "{label}: {data}");
    }
    let age = data.split(' ').find(|word| word.starts_with("'notes/backup.age:age'=")).unwrap();
    assert!(age.ends_with("s;;86400"), "{age}");

    // One warning: exit code 1.
    site.configure(&[(KEPT, "[environment.demo.kept]\n\"nowhere\" = \"x\"\n"), ("\"nowhere\" = \"x\"\n", "")]);
    site.configure(&[("\".lifeboat\" = \"nowhere, it is a test\"\n", "")]);
    let warned = site.lifeboat(&["check", "--plugin"]).expect(1).stdout;
    assert!(warned.starts_with("LIFEBOAT WARNING - 1 warning, "), "{warned}");
    assert!(warned.lines().next().unwrap().contains(": inventory.outside | "), "{warned}");
    assert!(warned.lines().nth(1).unwrap().starts_with("[warning] inventory.outside: "), "{warned}");

    // Worse: 2, the critical one first. What a tool or a person wrote begins no performance data.
    std::fs::rename(site.path("offsite"), site.path("off|site")).unwrap();
    site.configure(&[("path = \"offsite\"", "path = \"off|sight\"")]);
    let critical = site.lifeboat(&["check", "--plugin"]).expect(2).stdout;
    assert!(critical.starts_with("LIFEBOAT CRITICAL - "), "{critical}");
    assert!(critical.lines().next().unwrap().contains(": store.offsite.reachable"), "{critical}");
    assert!(critical.lines().skip(1).all(|line| !line.contains('|')), "{critical}");
    // Left out on purpose: that it is shows in the line.
    let chosen = ["check", "--plugin", "--only", "backup.age", "state"];
    let chosen = site.lifeboat(&chosen).expect(0).stdout;
    assert!(chosen.contains(" not chosen | "), "{chosen}");
}

#[test]
fn what_keeps_all_checks_from_being_made_is_unknown_to_monitoring_and_an_error_otherwise() {
    let site = Site::notes();
    let plugin = |words: &[&str]| site.lifeboat(&[&["check", "--plugin"], words].concat()).expect(3).stdout;
    assert!(plugin(&["--only", "backup.agee"]).starts_with("LIFEBOAT UNKNOWN - no check named `backup.agee`"));
    assert!(plugin(&["--service", "note"]).contains("did you mean `notes`"));
    assert!(site.lifeboat(&["check", "--only", "backup.agee"]).expect(2).stderr.contains("did you mean `backup.age`"));
    site.lifeboat(&["check", "--plugin", "--json"]).expect(2);
    site.configure(&[("rpo-s = 86400", "rpo-s = 0")]);
    assert!(site.lifeboat(&["check"]).expect(10).stderr.contains("`rpo-s` is 0"));
    assert!(plugin(&[]).contains("objectives: `rpo-s` is 0"));
}

/// A path that never answers; here it is the configuration's own.
#[test]
fn a_configuration_that_hangs_is_said_in_time() {
    let site = Site::empty();
    let made = std::process::Command::new("mkfifo").arg(site.path("lifeboat.toml")).status().unwrap();
    assert!(made.success());
    let hangs = site.lifeboat(&["check", "--plugin", "--time-limit", "1"]).expect(3).stdout;
    assert!(
        hangs.starts_with("LIFEBOAT UNKNOWN - the configuration can't be checked: no answer within 1 s"),
        "{hangs}"
    );
    site.lifeboat(&["check", "--time-limit", "1"]).expect(10);
}

#[test]
fn the_names_are_listed_and_none_is_made() {
    let site = Site::notes();
    std::fs::remove_dir_all(site.path("backups")).unwrap();
    let listed = site.lifeboat(&["--json", "check", "--list"]).expect(0).json();
    let names: Vec<(&str, Option<&str>)> = listed
        .as_array()
        .unwrap()
        .iter()
        .map(|check| (check["name"].as_str().unwrap(), check["service"].as_str()))
        .collect();
    for name in [("source.db.reachable", Some("notes")), ("store.local.space", None), ("drill.rto", Some("notes"))] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert!(!site.path(".lifeboat").exists());
}

#[test]
fn the_inventory_names_what_is_backed_up_and_what_is_not() {
    let site = well();
    site.write("secrets/token", "s3cret-of-the-inventory\n");
    site.configure(&[(
        "[environment.demo.service.notes.endpoint.api]\n",
        "[environment.demo.service.notes.endpoint.api]\nheader = { X-One = { file = \"secrets/token\" }, X-Two = { env = \"NO_SUCH_TOKEN\" } }\n",
    )]);
    let outcome = site.lifeboat(&["--json", "check", "--inventory"]).expect(0);
    let inventory = outcome.json();
    let sources = inventory["sources"].as_array().unwrap();
    assert_eq!(sources.len(), 2);
    for source in sources {
        assert_eq!(source["covered"], true, "{source}");
        assert_eq!(source["newest"]["stores"].as_array().unwrap().len(), 2, "{source}");
    }
    let outside = inventory["outside"].as_array().unwrap();
    let at = |end: &str| {
        let found = outside.iter().find(|item| item["place"].as_str().unwrap().ends_with(end));
        found.unwrap_or_else(|| panic!("{end}: {outside:#?}"))
    };
    assert_eq!(at("policies/drill.wasm")["kept"], "built from Lifeboat's repository, policies");
    assert_eq!(at(".lifeboat/keys")["there"], true);
    assert_eq!((&at("secrets/token")["there"], &at("secrets/token")["kept"]), (&true.into(), &serde_json::Value::Null));
    assert_eq!((&at("$NO_SUCH_TOKEN")["there"], &at("$NO_SUCH_TOKEN")["service"]), (&false.into(), &"notes".into()));
    let people = site.lifeboat(&["check", "--inventory"]).expect(0).stdout;
    assert!(
        people.contains("MISSING") && people.contains("NOT SAID") && people.contains("SQLite's backup API"),
        "{people}"
    );
    assert!(!format!("{people}{}", outcome.said()).contains("s3cret-of-the-inventory"));
    let missing = ["endpoint api: header X-Two ($NO_SUCH_TOKEN)"];
    site.check(&["--only", "inventory.outside"]).expect("inventory.outside", "critical", &missing);
    // What only people know of: it must exist.
    site.configure(&[(
        KEPT,
        &format!("{KEPT}\"functions\" = \"git\"\n\"$NO_SUCH_TOKEN\" = \"the vault\"\n\"secrets\" = \"the vault\"\n"),
    )]);
    site.check(&["--only", "inventory.outside"]).expect(
        "inventory.outside",
        "critical",
        &["named in `kept`", "functions"],
    );
}
