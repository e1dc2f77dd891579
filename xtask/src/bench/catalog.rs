//! Looking through a store with many backups.

use anyhow::Result;

use super::Site;
use super::table::{self, Aim};
use super::timed::{Subject, interleaved};
use crate::command::Run;

/// Tiny backups: five minutes apart, close to a year of them.
const BACKUPS: u64 = 100_000;

/// Measures and prints; how many aims were missed.
pub fn run(site: &Site) -> Result<usize> {
    eprintln!("making a store with {BACKUPS} backups");
    site.configure("kind = \"sqlite\"\npath = \"live.sqlite\"\n")?;
    let config = site.root.join("lifeboat.toml");
    let rules = "[environment.bench.retention.bench]\nkeep = { last = 100, hourly = 48, daily = 30, monthly = 12 }\n";
    std::fs::write(&config, std::fs::read_to_string(&config)? + rules)?;
    Run::new(&site.measure)
        .arg("catalog")
        .arg(site.root.join("backups"))
        .arg("bench")
        .arg(BACKUPS.to_string())
        .output()?;
    let lifeboat = site.lifeboat.display();
    let index = || match std::fs::remove_file(site.root.join(".lifeboat/catalog-index.sqlite")) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(e.into()),
        _ => Ok(()),
    };
    let subjects = [
        Subject::new("backups list, without an index", format!("'{lifeboat}' backups list > /dev/null")).before(index),
        Subject::new("backups list", format!("'{lifeboat}' backups list > /dev/null")),
        Subject::new("backups delete --dry-run", format!("'{lifeboat}' backups delete --dry-run > /dev/null")),
        Subject::new("status", format!("'{lifeboat}' status > /dev/null")),
        Subject::new("find: every manifest's name and time", "find backups -printf '%p %T@\\n' > /dev/null".into()),
    ];
    let figures = interleaved(&site.root, site.rounds, &subjects)?;
    table::print(&format!("a directory with {BACKUPS} tiny backups ({} rounds)", site.rounds), &subjects, &figures);
    let missed = table::judge(&[
        Aim { what: "list, s".into(), found: figures[1].wall_s, at_most: 1.0 },
        Aim { what: "plan, s".into(), found: figures[2].wall_s, at_most: 1.0 },
        Aim { what: "status, s".into(), found: figures[3].wall_s, at_most: 1.0 },
    ]);
    site.clear_backups()?;
    Ok(missed)
}
