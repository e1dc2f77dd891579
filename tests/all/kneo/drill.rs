//! A backup under load proves itself, and a drill executes nothing of what it restored.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use host_api::sources::postgres::testing::ClusterPlace;

use crate::support::kneo::{Kneo, Mode, ask, blocking, completing};
use crate::support::wait_until;

/// Clients that write at the same time: as many as the example tolerates in flight.
const WRITERS: usize = 3;

#[test]
fn a_backup_under_load_passes_its_drill_sqlite() {
    backup_under_load(Mode::Sqlite);
}

#[test]
fn a_backup_under_load_passes_its_drill_postgres() {
    backup_under_load(Mode::Postgres);
}

/// Tells the writers to stop, also when the test fails: their scope would wait for them for ever.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn backup_under_load(mode: Mode) {
    let Some(kneo) = Kneo::running(mode, "1.2.0") else { return };
    // Something that a restored copy would do again: one run under way, one behind it in the queue.
    kneo.queued_run();
    wait_until("the worker has begun", || kneo.begun("live") == 1);
    kneo.queued_run();
    assert_eq!(kneo.sql("select status from run_queue order by created_at"), "running\nqueued");

    let (done, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    let during = std::thread::scope(|scope| {
        let _ended = Ends(&done);
        for n in 0..WRITERS {
            let (done, written, port) = (&done, &written, kneo.site.port);
            scope.spawn(move || {
                let body = if n == 0 { blocking() } else { completing() };
                while !done.load(Ordering::Relaxed) {
                    let answer = ask(port, "POST", "/v1/runs", Some(&body)).expect("it answers while it is backed up");
                    assert_eq!(answer.status, 200, "{}", answer.body);
                    written.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        wait_until("the writers write", || written.load(Ordering::Relaxed) >= 6);
        // A backup may be quicker than any of the writers: the one that counts is one during which runs were made.
        let (mut during, mut failed) = (0, None);
        for _ in 0..20 {
            let before = written.load(Ordering::Relaxed);
            let backup = kneo.site.run("backup", &[]);
            during = written.load(Ordering::Relaxed) - before;
            failed = (backup.code != 0).then_some(backup);
            if during > 0 || failed.is_some() {
                break;
            }
        }
        assert!(failed.is_none(), "{failed:?}");
        during
    });
    assert!(during > 0, "nobody wrote while the backup was taken");

    let drill = kneo.site.run("drill", &[]).expect(0);
    let evidence = kneo.site.evidence(&drill, "drill.json");
    let measured = |pointer: &str| evidence.pointer(pointer).and_then(|v| v.as_u64());
    assert!(measured("/recovery-point/newest-to-taken-ms").is_some_and(|ms| ms < 60_000), "{evidence}");
    assert!(measured("/recovery-point/newest-to-now-ms").is_some(), "{evidence}");
    assert!(measured("/recovery-time/stage-to-ready-ms").is_some_and(|ms| ms > 0), "{evidence}");
    assert!(measured("/rows-compared").is_some_and(|rows| rows > 20), "{evidence}");
    assert_eq!((kneo.begun("live"), kneo.begun("scratch")), (1, 0), "the drill executed what it restored");

    assert_eq!(kneo.leftovers(), [""; 0]);

    // The same drill without its quarantine does execute it, and says so: the silence above means something.
    let text = std::fs::read_to_string(kneo.site.path("lifeboat.toml")).unwrap();
    let (from, to) = (
        text.find("[environment.production.service.kneo.scratch.quarantine]").unwrap(),
        text.find("[environment.production.service.kneo.scratch.unchanged").unwrap(),
    );
    kneo.site.configure(&[(&text[from..to], "")]);
    let drill = kneo.site.run("drill", &[]).expect(5);
    let errors = kneo.errors(&drill, "drill.json");
    assert!(errors.iter().any(|e| e.starts_with("quarantine: queue")), "{errors:?}");
    assert!(kneo.begun("scratch") >= 1, "the queued run, and as a rule the one whose lease is over");
    assert_eq!(kneo.begun("live"), 1);
}

/// The live server takes no part in it: there, the role may not even make a database.
#[test]
fn a_drill_on_a_private_server_needs_nothing_of_the_live_one() {
    let Some(kneo) = Kneo::running(Mode::Postgres, "1.2.0") else { return };
    kneo.completed_run();
    kneo.site.run("backup", &[]).expect(0);
    kneo.admin(&format!("ALTER ROLE {} NOCREATEDB", kneo.database_name()));
    let refused = kneo.site.run("drill", &[]).expect(5).said();
    assert!(refused.contains("creating database") && refused.contains("lacks a right"), "{refused}");

    // What a new server would need first is in the backup, for a person to run.
    let backups = kneo.site.lifeboat(&["--json", "backups", "list", "--store", "local"]).expect(0).json();
    let backup = backups[0]["id"].as_str().unwrap();
    let globals = kneo.site.lifeboat(&["backups", "globals", backup]).expect(0).stdout;
    assert!(globals.contains(&format!("CREATE ROLE {};", kneo.database_name())), "{globals}");
    assert!(!globals.contains("PASSWORD") && !globals.contains("secret-of"), "{globals}");

    let place = ClusterPlace::new();
    kneo.drill_in(&place);
    kneo.site.lifeboat(&["check", "--only", "source.db.drill"]).expect(0);
    let drill = kneo.site.run("drill", &[]).expect(0);
    let evidence = kneo.site.evidence(&drill, "drill.json");
    assert!(evidence["rows-compared"].as_u64().is_some_and(|rows| rows > 5), "{evidence}");
    assert!(evidence["recovery-time"]["stage-to-ready-ms"].as_u64().is_some_and(|ms| ms > 0), "{evidence}");
    assert_eq!((place.holds().len(), place.processes()), (0, 0), "it is gone with its candidate");

    // And without a network: what the service needs, it reaches through the private server's socket.
    let scratch = "[environment.production.service.kneo.scratch]\n";
    kneo.site.configure(&[(scratch, &format!("{scratch}network = \"isolated\"\n"))]);
    if std::fs::metadata("/proc/self").is_ok_and(|of| std::os::unix::fs::MetadataExt::uid(&of) == 0) {
        kneo.site.run("drill", &[]).expect(0);
    } else {
        assert!(kneo.site.run("drill", &[]).said().contains("can only be made by root"));
    }
    assert_eq!((place.holds().len(), place.processes()), (0, 0));
    assert_eq!(kneo.leftovers(), [""; 0]);
}
