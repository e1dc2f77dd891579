//! The crash sweep on kneo-serv with PostgreSQL: real dumps, restores and renames, cut off at every place. What is special to a server is
//! counted there: sessions of ours, databases under generated names, and whether the live one takes connections.

use std::sync::Arc;

use host_api::sources::postgres::testing::{ClusterPlace, PgServer};
use serde_json::{Value, json};

use crate::support::Site;
use crate::support::kneo::{Kneo, Mode};
use crate::sweep::{Sample, Sweep, World};

/// How many of the places a run of the tests visits: every n-th, which ones changes from commit to commit.
const EVERY: usize = 16;

struct Postgres {
    server: Arc<PgServer>,
    template: Kneo,
    served: bool,
    /// The database is gone when the run begins, and the service with it.
    lost: bool,
    /// Where drills have their private servers.
    place: ClusterPlace,
}

impl Postgres {
    fn new(served: bool, prepare: impl FnOnce(&Kneo)) -> Option<Self> {
        let mut template = Kneo::running(Mode::Postgres, "1.0.0")?;
        template.completed_run();
        template.blocked_run();
        prepare(&template);
        template.stop();
        let place = ClusterPlace::new();
        template.drill_in(&place);
        Some(Self { server: PgServer::shared()?, template, served, lost: false, place })
    }
}

impl World for Postgres {
    type Case = Kneo;

    fn fresh(&self) -> Kneo {
        let mut kneo = Kneo::copy_of(&self.template);
        if self.lost {
            kneo.lose_database();
        }
        match self.served && !self.lost {
            true => kneo.start(),
            false => kneo.supervise(),
        }
        kneo
    }

    fn site<'c>(&self, case: &'c Kneo) -> &'c Site {
        &case.site
    }

    fn is_up(&self, kneo: &Kneo) -> bool {
        !self.served || kneo.ask("GET", "/readyz", None).is_some_and(|answer| answer.status == 200)
    }

    fn world(&self, kneo: &Kneo) -> Value {
        let name = kneo.database_name();
        let all = kneo.site.lifeboat(&["--json", "candidates", "list", "--all"]).expect(0).json();
        let ids: Vec<String> =
            all.as_array().unwrap().iter().map(|c| c["candidate"].as_str().unwrap().to_owned()).collect();
        let ours = |column: &str| {
            let made = ids.iter().map(|id| id.to_ascii_lowercase().replace('-', "_"));
            made.map(|id| format!("{column} LIKE '%{id}%'"))
                .chain([format!("{column} = '{name}'")])
                .collect::<Vec<_>>()
                .join(" OR ")
        };
        let backups = |store: &str| {
            std::fs::read_dir(kneo.site.path(store).join("kneo/manifests")).map_or(0, |folder| folder.count())
        };
        let count = |query: String| self.server.sql("postgres", &[&query]);
        let private = self.place.holds();
        let is_of_case = |path: &std::path::PathBuf| {
            let id = |id: &String| id.to_ascii_lowercase().replace('-', "_");
            ids.iter().any(|of| path.to_string_lossy().contains(&id(of)))
        };
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'lifeboat/%'";
        json!({
            "databases": count(format!("SELECT count(*) FROM pg_database WHERE {}", ours("datname"))),
            "closed": count(format!("SELECT count(*) FROM pg_database WHERE NOT datallowconn AND ({})", ours("datname"))),
            "sessions": count(format!("{sessions} AND ({})", ours("datname"))),
            "private": private.iter().filter(|path| is_of_case(path)).count(),
            "backups": (backups("backups"), backups("offsite")),
            "schema": kneo.schema(),
            "runs": kneo.sql("select count(*) from runs"),
            "up": self.served.then(|| (kneo.version(), kneo.get("/v1/runs")["total"].clone())),
        })
    }
}

#[test]
fn a_drill_survives_a_kill_on_a_server() {
    let Some(world) = Postgres::new(false, |kneo| drop(kneo.site.run("backup", &[]).expect(0))) else { return };
    Sweep { world: &world, policy: "drill", words: &[], code: 0, threads: 2 }.run(Sample::of_commit(EVERY));
}

#[test]
fn a_backup_survives_a_kill_on_a_server() {
    let Some(world) = Postgres::new(false, |_| {}) else { return };
    Sweep { world: &world, policy: "backup", words: &[], code: 0, threads: 2 }.run(Sample::of_commit(EVERY));
}

#[test]
fn an_upgrade_survives_a_kill_on_a_server() {
    let Some(world) = Postgres::new(true, |_| {}) else { return };
    Sweep { world: &world, policy: "upgrade", words: &["version=1.2.0"], code: 0, threads: 2 }
        .run(Sample::of_commit(EVERY));
}

#[test]
fn a_rollback_survives_a_kill_on_a_server() {
    let prepare = |kneo: &Kneo| {
        kneo.site.run("upgrade", &["--param", "version=1.2.0"]).expect(0);
        kneo.completed_run();
    };
    let Some(world) = Postgres::new(true, prepare) else { return };
    let sweep = Sweep { world: &world, policy: "rollback", words: &["version=1.0.0"], code: 0, threads: 2 };
    // Closed to sessions, renamed but not committed, committed and nobody told: always.
    sweep.at(&["sessions kept out", "before the commit", "committed", "promoted db"]);
    sweep.run(Sample::of_commit(EVERY));
}

#[test]
fn a_recovery_from_a_lost_database_survives_a_kill_on_a_server() {
    let Some(world) = Postgres::new(true, |kneo| drop(kneo.site.run("backup", &[]).expect(0))) else { return };
    let world = Postgres { lost: true, ..world };
    let sweep =
        Sweep { world: &world, policy: "disaster-recovery", words: &["scenario=database-lost"], code: 0, threads: 2 };
    sweep.at(&["before the commit", "promoted db"]);
    sweep.run(Sample::of_commit(EVERY));
}

#[test]
fn a_promotion_that_is_abandoned_before_its_first_swap_leaves_the_live_database_open() {
    let prepare = |kneo: &Kneo| drop(kneo.site.run("backup", &[]).expect(0));
    let Some(world) = Postgres::new(true, prepare) else { return };
    let kneo = world.fresh();
    let (killed, _) = crate::sweep::crashing(&kneo.site, "sessions kept out", "run", "restore", &[]);
    let open = format!("SELECT datallowconn FROM pg_database WHERE datname = '{}'", kneo.database_name());
    assert_eq!((killed.code, world.server.sql("postgres", &[&open]).trim()), (-1, "f"), "the fault fired");
    let runs = kneo.site.lifeboat(&["--json", "runs", "list", "--limit", "1"]).expect(0).json();
    let run = runs[0]["run"].as_str().unwrap();
    kneo.site.lifeboat(&["runs", "abandon", run, "--reason", "nobody trusts it"]).expect(0);
    assert_eq!(world.server.sql("postgres", &[&open]).trim(), "t");
}
