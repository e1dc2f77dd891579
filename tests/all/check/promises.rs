//! Ages, drills, copies and holds against objectives, at times that the tests choose.

use std::fs;
use std::sync::Arc;

use engine::check::{Options, Report, run};
use engine::config::Config;
use host_api::checks::{Level, Seen};
use host_api::identifier::now_ms;

use super::well;
use crate::support::Site;

/// What is found on a site after so many seconds.
fn after(site: &Site, seconds: u64) -> Report {
    let config = Arc::new(Config::load(&site.path("lifeboat.toml")).unwrap());
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let options = Options {
        only: ["backup", "drill", "inventory.sources"].map(str::to_owned).to_vec(),
        clock: Arc::new(move || now_ms() + seconds * 1000),
        ..Options::default()
    };
    runtime.block_on(run(&config, "demo", options)).unwrap()
}

#[track_caller]
fn expect<'r>(report: &'r Report, name: &str, level: Level, words: &[&str]) -> &'r Seen {
    let seen = &report.checks.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no {name}")).seen;
    assert_eq!(seen.level, level, "{seen:?}");
    for word in words {
        assert!(seen.message.contains(word), "says nothing of {word:?}: {seen:?}");
    }
    seen
}

const DAY: u64 = 86_400;

#[test]
fn what_was_fine_is_broken_when_its_time_has_passed() {
    let site = well();
    let now = after(&site, 0);
    assert_eq!((now.level(), now.exit_code()), (Level::Ok, 0), "{now:?}");
    // A day's backup is not late yet an hour before.
    expect(&after(&site, DAY - 3600), "backup.age", Level::Ok, &["23 h"]);
    let late = after(&site, DAY + 1);
    expect(&late, "backup.age", Level::Critical, &["the objective is 1 d"]);
    expect(&late, "backup.verified", Level::Ok, &[]);
    expect(&late, "drill.passed", Level::Ok, &["every 7 d"]);
    assert_eq!(late.exit_code(), 2);
    let later = after(&site, 7 * DAY + 1);
    expect(&later, "drill.passed", Level::Critical, &["passed 7 d ago"]);
    expect(&later, "backup.verified", Level::Ok, &[]);
    expect(&after(&site, 8 * DAY + 1), "backup.verified", Level::Critical, &["rpo-s and drill-every-s"]);
    site.configure(&[("rto-s = 60\ndrill", "rto-s = 60\ncopies = 2\ndrill")]);
    expect(&after(&site, 0), "backup.copies", Level::Warning, &["all on one file system"]);
}

#[test]
fn a_backup_that_no_drill_proved_and_a_drill_that_failed_are_named() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let none = after(&site, 0);
    expect(&none, "backup.age", Level::Critical, &["there is no backup of notes"]);
    expect(&none, "inventory.sources", Level::Critical, &["source attachments, db"]);
    expect(&none, "backup.objects", Level::Unknown, &["no backup of notes"]);
    expect(&none, "drill.rto", Level::Unknown, &["no drill has passed"]);

    site.run("backup", &[]).expect(0);
    let unproven = after(&site, 0);
    expect(&unproven, "backup.age", Level::Ok, &[]);
    expect(&unproven, "backup.verified", Level::Critical, &["was ever restored and compared"]);
    expect(&unproven, "drill.passed", Level::Critical, &["no drill of notes is on record"]);
    site.run("drill", &[]).expect(0);
    assert_eq!(after(&site, 0).level(), Level::Ok);
    let took = expect(&after(&site, 0), "drill.rto", Level::Ok, &["from restore to ready took"]).measures[0].value;
    assert!(took > 0.0, "it was measured");

    // It passed, and then one did not.
    let object = site.object("backups", "db");
    let bytes = fs::read(&object).unwrap();
    fs::write(&object, &bytes[..bytes.len() - 1]).unwrap();
    site.run("drill", &[]).expect(5);
    fs::write(&object, bytes).unwrap();
    expect(&after(&site, 0), "drill.passed", Level::Critical, &["came out verification-failed"]);
    site.run("drill", &[]).expect(0);
    assert_eq!(after(&site, 0).level(), Level::Ok);
}

#[test]
fn an_upgrades_backup_is_held_its_copy_is_missed_and_a_new_source_is_in_no_backup() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    // 2.0.0 is broken, and the backup is the way back.
    site.run("upgrade", &["--param", "version=2.0.0"]).expect(1);
    let now = after(&site, 0);
    expect(&now, "backup.held", Level::Ok, &["(pre-upgrade) until", "the way back from the upgrade to 2.0.0"]);
    expect(&now, "backup.copies", Level::Ok, &["does not yet"]);
    expect(&after(&site, 6 * DAY + 3600), "backup.held", Level::Warning, &["ends within a day"]);
    expect(&after(&site, 8 * DAY), "backup.held", Level::Ok, &["no backup is held"]);
    expect(&after(&site, DAY + 1), "backup.copies", Level::Critical, &["newer ones do not"]);
    let object = site.object("backups", "db");
    fs::remove_file(&object).unwrap();
    expect(&after(&site, 0), "backup.held", Level::Critical, &["a held backup is not whole", "db.data"]);

    fs::create_dir(site.path("live/more")).unwrap();
    site.append("[environment.demo.service.notes.source.more]\nkind = \"files\"\npath = \"live/more\"\n");
    expect(&after(&site, 0), "inventory.sources", Level::Critical, &["not in the newest backup: source more"]);
}
