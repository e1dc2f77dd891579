//! The engine inside another program: `examples/embed`.

use std::sync::{Arc, Mutex};

use embed::Program;
use engine::run::Status;

use crate::support::policy;

fn on_duty(program: &Program, person: &str) {
    *program.duty.person.lock().unwrap() = Some(person.to_owned());
}

async fn filled(directory: &std::path::Path) -> (Program, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::<Mutex<Vec<String>>>::default();
    let sink = lines.clone();
    let program =
        Program::start(directory, policy("backup").parent().unwrap(), move |line| sink.lock().unwrap().push(line))
            .await
            .unwrap();
    program.ledger.add("rent -40").unwrap();
    assert_eq!(program.run("backup").await.unwrap().status, Status::Ok);
    program.ledger.lose_all().unwrap();
    (program, lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_puts_its_own_primitives_consent_and_progress_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let (program, lines) = filled(directory.path()).await;
    let nobody = program.run("restore").await.unwrap();
    assert_eq!(nobody.status, Status::Rejected, "{}", nobody.summary);
    assert_eq!(*program.duty.asked.lock().unwrap(), ["promote"]);
    assert!(program.ledger.is_open() && program.ledger.entries().unwrap().is_empty(), "nothing was done");

    on_duty(&program, "ada");
    let done = program.run("restore").await.unwrap();
    assert_eq!(done.status, Status::Ok, "{}", done.summary);
    assert_eq!(program.ledger.entries().unwrap(), ["rent -40"]);
    // Stopped, started and asked by the program itself: the configuration says nothing of how.
    let lines = lines.lock().unwrap().join("\n");
    for step in ["service.stop service=ledger", "service.start service=ledger", "http-check.check", "bytes"] {
        assert!(lines.contains(step), "{step}: {lines}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_cancels_a_run_and_its_service_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (program, _) = filled(directory.path()).await;
    on_duty(&program, "ada");
    for step in ["restore.stage", "service.stop"] {
        let ended = program.run_until("restore", Some(step)).await.unwrap();
        assert_eq!(ended.status, Status::Cancelled, "{step}: {}", ended.summary);
        assert!(ended.unsettled.is_empty(), "{step}: {:?}", ended.unsettled);
        assert!(program.ledger.is_open() && program.ledger.entries().unwrap().is_empty(), "{step}");
    }
    assert_eq!(program.run("restore").await.unwrap().status, Status::Ok);
    assert_eq!(program.ledger.entries().unwrap(), ["rent -40"]);
}

/// What promotes sees only services that it was told how to control; this one is controlled by the program.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_promoted_below_a_service_that_runs_again() {
    let directory = tempfile::tempdir().unwrap();
    let ledger = Arc::<std::sync::OnceLock<Arc<embed::ledger::Ledger>>>::default();
    let (reopened, fired) = (ledger.clone(), Arc::<std::sync::atomic::AtomicBool>::default());
    let fires = fired.clone();
    let program = Program::start(directory.path(), policy("backup").parent().unwrap(), move |line| {
        // Somebody starts it between the stop and the promotion.
        if line.contains("promote.promote")
            && let Some(ledger) = reopened.get()
            && !ledger.is_open()
        {
            ledger.open().unwrap();
            fires.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    })
    .await
    .unwrap();
    program.ledger.add("rent -40").unwrap();
    assert_eq!(program.run("backup").await.unwrap().status, Status::Ok);
    program.ledger.lose_all().unwrap();
    on_duty(&program, "ada");
    ledger.set(program.ledger.clone()).ok().unwrap();
    let ended = program.run("restore").await.unwrap();
    assert!(fired.load(std::sync::atomic::Ordering::SeqCst), "nobody started it");
    assert_eq!(ended.status, Status::Failed, "{}", ended.summary);
    assert!(ended.summary.contains("service ledger is running, and must be stopped"), "{}", ended.summary);
    assert!(program.ledger.is_open() && program.ledger.entries().unwrap().is_empty(), "the data were not touched");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_programs_live_side_by_side_in_one_process() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (first, second) = (filled(one.path()).await.0, filled(two.path()).await.0);
    on_duty(&first, "ada");
    let (done, rejected) = tokio::join!(first.run("restore"), second.run("restore"));
    assert_eq!((done.unwrap().status, rejected.unwrap().status), (Status::Ok, Status::Rejected));
    assert_eq!(first.ledger.entries().unwrap(), ["rent -40"]);
    assert!(second.ledger.entries().unwrap().is_empty());
}
