//! `lifeboat check` on the example service: each thing that can be wrong, made wrong for real, and found by the check of its name; silence
//! where all is well; and that it only looks.
//!
//! | part | what |
//! | --- | --- |
//! | `world` | sources, stores, secrets, commands, disks |
//! | `promises` | ages, drills, copies, holds, at times that the tests choose |
//! | `standing` | what the state says: runs, promotions, the log |
//! | `output` | exit codes, the plugin's line, the inventory |

mod output;
mod promises;
mod standing;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use crate::support::{Outcome, Site};

/// What nothing else keeps on a test's site.
const KEPT: &str = "[environment.demo.kept]\n";

/// A site whose service runs, is backed up and drilled, and on which all is well.
fn well() -> Site {
    let mut site = Site::notes();
    site.configure(&[(KEPT, &format!("{KEPT}\".lifeboat\" = \"nowhere, it is a test\"\n"))]);
    site.serve_some_notes();
    site.run("backup", &[]).expect(0);
    site.run("drill", &[]).expect(0);
    site
}

impl Site {
    /// Everything that `lifeboat check` finds.
    fn check(&self, words: &[&str]) -> Checked {
        let outcome = self.lifeboat(&[&["--json", "check"], words].concat());
        let report = outcome.json();
        let checks = report["checks"].as_array().unwrap_or_else(|| panic!("{outcome:?}"));
        let found = checks.iter().map(|check| (check["name"].as_str().unwrap().to_owned(), check.clone())).collect();
        Checked { found, outcome }
    }
}

/// A report.
pub struct Checked {
    found: BTreeMap<String, Value>,
    pub outcome: Outcome,
}

impl Checked {
    /// From another site's command.
    pub fn of(outcome: Outcome) -> Self {
        let report = outcome.json();
        let checks = report["checks"].as_array().unwrap_or_else(|| panic!("{outcome:?}"));
        let found = checks.iter().map(|check| (check["name"].as_str().unwrap().to_owned(), check.clone())).collect();
        Self { found, outcome }
    }

    /// Fails unless the check of this name stands at this level and says all of this.
    #[track_caller]
    pub fn expect(&self, name: &str, level: &str, words: &[&str]) -> &Self {
        let check = self.found.get(name).unwrap_or_else(|| panic!("no check {name}: {:?}", self.found.keys()));
        assert_eq!(check["level"], level, "{check:#}");
        for word in words {
            assert!(check.to_string().contains(word), "{name} says nothing of {word:?}: {check:#}");
        }
        self
    }

    /// Fails unless these, and no others, are not ok.
    #[track_caller]
    pub fn only(&self, names: &[&str], code: i32) -> &Self {
        let bad: Vec<&str> =
            self.found.iter().filter(|(_, check)| check["level"] != "ok").map(|(name, _)| name.as_str()).collect();
        let mut names = names.to_vec();
        names.sort_unstable();
        assert_eq!(bad, names, "{}", self.outcome.stdout);
        assert_eq!(self.outcome.code, code, "{}", self.outcome.said());
        self
    }
}

/// Every name below a directory with its size and time, but what a service and its supervisor write all the time.
fn listing(directory: &Path) -> BTreeMap<PathBuf, (u64, SystemTime)> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(at) = left.pop() {
        for entry in std::fs::read_dir(&at).unwrap().flatten() {
            let path = entry.path();
            if path.ends_with(".lifeboat/logs") || path.ends_with("serve.log") || path.ends_with("delivered.log") {
                continue;
            }
            let meta = entry.metadata().unwrap();
            if meta.is_dir() {
                left.push(path);
            } else {
                found.insert(path, (meta.len(), meta.modified().unwrap()));
            }
        }
    }
    found
}
