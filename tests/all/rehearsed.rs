//! Policies on answers that are given beforehand: no service, no database, no state; and what earlier runs were answered.

use std::fs;

use crate::support::{Site, policy};

/// A cadence that is asked half a minute after the hour, with one duty.
const CADENCE: &str = r#"
begins = "2026-11-26T12:00:30Z"

[expect]
due = ["backup"]
findings = []

[parameters]
service = "notes"
duties = [{ name = "hourly", policy = "backup", when = "0 * * * *", proof = "backup", store = "local" }]

[[call]]
name = "schedule.terms-of"
arguments = { service = "notes" }
answer = '{"service":"notes","rpo-ms":null,"drill-every-ms":null,"prunes":[],"unread":[]}'

[[call]]
name = "schedule.runs"
answer = '[]'

[[call]]
name = "catalog.latest"
answer = 'null'

[[call]]
name = "schedule.previous-time"
answer = '1795694400000'

[[call]]
name = "schedule.next-time"
answer = '1795698000000'

[[call]]
name = "catalog.latest"
answer = 'null'

[[call]]
name = "catalog.latest"
answer = 'null'
"#;

#[test]
fn a_policy_is_tested_with_nothing_but_a_file() {
    let site = Site::empty();
    let module = policy("cadence");
    let module = module.to_str().unwrap();
    let test = |text: &str| {
        site.write("scenario.toml", text);
        site.lifeboat(&["policy", "test", module, "scenario.toml"])
    };
    let good = test(CADENCE).expect(0);
    assert!(good.stdout.contains("1 of 1 passed"), "{good:?}");
    // Nothing else was made: there is no configuration and no state here.
    let left: Vec<_> = fs::read_dir(site.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["scenario.toml"]);

    let other = test(&CADENCE.replace("due = [\"backup\"]", "due = [\"drill\"]")).expect(5);
    assert!(other.stdout.contains("due: backup; expected drill"), "{other:?}");
    // A store that can't be read is a fault that is written in a line.
    let fault = CADENCE.replacen(
        "name = \"catalog.latest\"\nanswer = 'null'",
        "name = \"catalog.latest\"\nerror = \"failed: it is away\"",
        1,
    );
    let failed = test(&fault).expect(5);
    assert!(failed.stdout.contains("on record") || failed.stdout.contains("unread"), "{failed:?}");
    let asked = test(&CADENCE.replace("{ service = \"notes\" }\nanswer", "{ service = \"other\" }\nanswer")).expect(5);
    assert!(asked.stdout.contains("nondeterminism at step 1"), "{asked:?}");
    let short = CADENCE.rsplit_once("[[call]]").unwrap().0;
    assert!(test(short).expect(5).stdout.contains("it asks for more than the scenario answers: catalog.latest"));
    let long = format!("{CADENCE}\n[[call]]\nname = \"catalog.list\"\nanswer = '[]'\n");
    assert!(test(&long).expect(5).stdout.contains("ended before step 8"));
    for (from, to, says) in [
        ("schedule.runs", "schedule.run", "did you mean `schedule.runs`"),
        ("answer = '[]'", "answer = '['", "no JSON"),
        ("2026-11-26T12:00:30Z", "noon", "no time"),
        ("service = \"notes\"\nduties", "sevice = \"notes\"\nduties", "sevice"),
        ("[expect]", "[expects]", "expects"),
    ] {
        let wrong = test(&CADENCE.replacen(from, to, 1));
        assert!(wrong.code == 2 && wrong.stderr.contains(says), "{says}: {wrong:?}");
    }
}

#[test]
fn what_a_run_was_answered_becomes_a_scenario_and_a_measure_for_the_next_version() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let run = site.run("backup", &[]).expect(0).json()["run"].as_str().unwrap().to_owned();
    site.run("backup", &[]).expect(0);
    let scenario = site.lifeboat(&["policy", "scenario", &run]).expect(0).stdout;
    let begins = scenario.lines().find(|line| line.starts_with("begins")).unwrap();
    assert!(begins.contains('.'), "times that a policy computes go by milliseconds: {begins}");
    site.write("scenario.toml", &scenario);
    let backups = || site.lifeboat(&["--json", "backups", "list"]).expect(0).json().as_array().unwrap().len();
    let before = backups();
    site.lifeboat(&["policy", "test", "policies/backup.wasm", "scenario.toml"]).expect(0);
    // The copy fails: the backup is there all the same, and that is what it says.
    let (first, rest) = scenario.split_once("name = \"upload.copy\"").unwrap();
    let (call, after) = rest.split_once("[[call]]").unwrap();
    let answer = call.lines().find(|line| line.starts_with("answer")).unwrap();
    let faulty =
        format!("{first}name = \"upload.copy\"{}", call.replace(answer, "error = \"failed: the other site is away\""));
    assert!(after.contains("upload.verify"), "what was read back there is not asked for now");
    let faulty = faulty.replace("status = \"ok\"", "status = \"partly-done\"\nsummary = \"but not in offsite\"");
    let findings = faulty.lines().find(|line| line.starts_with("findings")).unwrap().to_owned();
    site.write("faulty.toml", &faulty.replace(&findings, ""));
    site.lifeboat(&["policy", "test", "policies/backup.wasm", "faulty.toml"]).expect(0);

    let same = site.lifeboat(&["policy", "replay", "policies/backup.wasm"]).expect(0);
    assert!(same.stdout.contains("2 of 2 runs would have gone the same way"), "{same:?}");
    let guest = policy("sleeper");
    let other =
        site.lifeboat(&["--json", "policy", "replay", guest.to_str().unwrap(), "--policy", "backup", "--runs", &run]);
    assert_eq!(other.code, 5, "{other:?}");
    assert!(other.json()["results"][0]["elsewhere"][0].as_str().unwrap().contains("step 1"), "{other:?}");
    assert_eq!(backups(), before, "nothing was done");
    assert_eq!(site.lifeboat(&["policy", "replay", "policies/drill.wasm"]).expect(4).code, 4);
    // A drill asks the service for what it answered before: those values are not on record, and stand in its requests.
    site.run("drill", &[]).expect(0);
    let same = site.lifeboat(&["policy", "replay", "policies/drill.wasm"]).expect(0);
    assert!(same.stdout.contains("1 of 1 runs would have gone the same way"), "{same:?}");
}

#[test]
fn whether_a_module_fits_is_known_before_it_is_put_in_its_place() {
    let site = Site::notes();
    assert!(
        site.lifeboat(&["policy", "check", "policies/backup.wasm"])
            .expect(0)
            .stdout
            .contains("fits backup of environment demo")
    );
    let other = site.lifeboat(&["policy", "check", "policies/restore.wasm", "--policy", "drill"]).expect(12);
    assert!(
        other.stdout.contains("does not fit") && other.stdout.contains("it would be denied promote.promote"),
        "{other:?}"
    );
    site.configure(&[("copy-to = [\"offsite\"]", "copy-too = [\"offsite\"]")]);
    assert!(site.lifeboat(&["policy", "check", "policies/backup.wasm"]).expect(12).stdout.contains("copy-too"));
}
