use std::collections::BTreeMap;

use super::*;
use crate::ErrorKind;
use crate::identifier::fresh;
use crate::sources::Member;
use crate::testing::{World, identity};

/// A candidate beside the live data, which have moved on since its backup.
fn candidate(world: &World) -> (Candidate, Verification) {
    let id = "20261123t061534123z-7k3f9q".to_owned();
    let place = format!("beside-{id}");
    let mut members = Vec::new();
    for (driver, source, content) in [(&world.db, "db", "one\ntwo\n"), (&world.files, "files", "a/1\n")] {
        driver.set(&place, content);
        driver.set("live", "newer\n");
        members.push(Member {
            source: source.into(),
            place: place.clone(),
            identity: identity(3),
            beside: true,
            data_only: None,
        });
    }
    let candidate = Candidate {
        id,
        service: "notes".into(),
        backup: fresh(),
        store: "local".into(),
        read_from: None,
        digest: "0".repeat(64),
        target: "beside".into(),
        taken_at_ms: 1_795_413_600_000,
        newest_at_ms: None,
        elapsed_ms: 0,
        members: members.clone(),
    };
    let verification = Verification {
        passed: true,
        findings: vec![],
        rows: 2,
        files: 1,
        newest_at_ms: None,
        elapsed_ms: 0,
        members,
        digest: candidate.digest.clone(),
    };
    (candidate, verification)
}

fn live(world: &World) -> (Option<String>, Option<String>) {
    (world.db.content("live"), world.files.content("live"))
}

fn is_previous(world: &World) -> bool {
    live(world) == (Some("newer\n".into()), Some("newer\n".into()))
}

fn is_promoted(world: &World) -> bool {
    live(world) == (Some("one\ntwo\n".into()), Some("a/1\n".into()))
}

#[test]
fn a_set_is_promoted_undone_and_cleared() {
    let world = World::new();
    let (candidate, verification) = candidate(&world);
    let plan = swap::plan(&world.work, &world.cx, &fresh(), &candidate).unwrap();
    assert!(is_previous(&world));
    let promote = || swap::promote(&world.work, &world.cx, &candidate, Some(&verification), &plan);
    promote().unwrap();
    assert!(is_promoted(&world));
    assert_eq!(world.logged(), ["promote db", "promote files"]);
    // A second attempt after a crash that lost the answer.
    promote().unwrap();
    assert!(is_promoted(&world));
    world.logged();
    swap::undo(&world.work, &world.cx, &plan).unwrap();
    assert!(is_previous(&world));
    assert_eq!(world.logged(), ["undo files", "undo db"]);
    promote().unwrap();
    swap::drop_previous(&world.work, &world.cx, &plan).unwrap();
    assert!(is_promoted(&world));
    assert_eq!(world.db.content(&candidate.members[0].place), None);
}

#[test]
fn whoever_consents_is_told_what_is_not_the_backups() {
    let world = World::new();
    let (mut candidate, _) = candidate(&world);
    world.db.answer("newest", &["2026-11-23T06:00:00Z"]);
    world.db.answer("queued", &["0"]);
    let lines =
        |candidate: &Candidate| describe::describe(&world.work, &world.cx, candidate).unwrap().consequence.join("\n");
    assert!(!lines(&candidate).contains("DATA ONLY"));
    let kept = vec!["public.schema_migrations".to_owned(), "public.other".to_owned()];
    candidate.members[0].data_only = Some(crate::sources::DataOnly { kept });
    let told = lines(&candidate);
    assert!(told.contains("notes/db: DATA ONLY: the rows are the backup's"), "{told}");
    assert!(told.contains("and so are the rows of public.schema_migrations, public.other"), "{told}");
    assert!(told.contains("notes/files: restored whole, as ever"), "{told}");
}

#[test]
fn half_a_promotion_is_completed_by_the_next_attempt() {
    let world = World::new();
    let (candidate, verification) = candidate(&world);
    let plan = swap::plan(&world.work, &world.cx, &fresh(), &candidate).unwrap();
    // As a crash after the first member leaves it.
    let driver = world.work.driver("db").unwrap();
    driver.promote(&world.cx, &candidate.members[0], &plan.swaps[0]).unwrap();
    assert!(!is_previous(&world) && !is_promoted(&world));
    swap::promote(&world.work, &world.cx, &candidate, Some(&verification), &plan).unwrap();
    assert!(is_promoted(&world));
    assert_eq!(swap::standing(&world.work, &world.cx, &plan).unwrap(), Standing::After);
}

#[test]
fn one_member_that_fails_takes_all_back() {
    let world = World::new();
    let (candidate, verification) = candidate(&world);
    let plan = swap::plan(&world.work, &world.cx, &fresh(), &candidate).unwrap();
    world.files.fail("promote");
    let error = swap::promote(&world.work, &world.cx, &candidate, Some(&verification), &plan).unwrap_err();
    assert!(world.files.fired() && error.message.contains("injected: promote files"), "{error}");
    assert!(error.message.contains("nothing is in service that was not before"), "{error}");
    assert!(is_previous(&world));
    assert_eq!(world.logged(), ["promote db", "promote files", "undo files", "undo db"]);
}

#[test]
fn a_set_that_stays_mixed_is_said_member_by_member() {
    let world = World::new();
    let (candidate, verification) = candidate(&world);
    let plan = swap::plan(&world.work, &world.cx, &fresh(), &candidate).unwrap();
    world.files.fail("promote");
    world.db.fail("undo");
    let error = swap::promote(&world.work, &world.cx, &candidate, Some(&verification), &plan).unwrap_err();
    assert!(world.files.fired() && world.db.fired());
    assert!(error.message.contains("MIXED") && error.message.contains(&candidate.members[0].place), "{error}");
    assert!(error.hint.unwrap().contains(&format!("lifeboat promotions undo {}", plan.id)));
    assert_eq!(swap::standing(&world.work, &world.cx, &plan).unwrap(), Standing::Mixed);
    // The only way back stays.
    assert_eq!(swap::drop_previous(&world.work, &world.cx, &plan).unwrap_err().kind, crate::ErrorKind::Refused);
    swap::undo(&world.work, &world.cx, &plan).unwrap();
    assert!(is_previous(&world));
    assert_eq!(swap::standing(&world.work, &world.cx, &plan).unwrap(), Standing::Before);
}

#[test]
fn the_record_of_another_installation_moves_nothing() {
    let world = World::new();
    let (candidate, verification) = candidate(&world);
    let mut plan = swap::plan(&world.work, &world.cx, &fresh(), &candidate).unwrap();
    swap::promote(&world.work, &world.cx, &candidate, Some(&verification), &plan).unwrap();
    plan.swaps[0].live_place = "elsewhere".into();
    for act in [swap::undo, swap::drop_previous] {
        assert_eq!(act(&world.work, &world.cx, &plan).unwrap_err().kind, crate::ErrorKind::Conflict);
    }
    assert!(is_promoted(&world));
}

#[test]
fn a_failed_tidying_of_what_was_not_swapped_is_not_a_mixed_set() {
    let world = World::new();
    let (candidate, verification) = candidate(&world);
    let plan = swap::plan(&world.work, &world.cx, &fresh(), &candidate).unwrap();
    world.db.fail("promote");
    world.db.fail("undo");
    let error = swap::promote(&world.work, &world.cx, &candidate, Some(&verification), &plan).unwrap_err();
    assert!(world.db.fired() && !error.message.contains("MIXED") && error.message.contains("tidied"), "{error}");
    assert!(is_previous(&world));
}

#[test]
fn only_what_was_verified_goes_in_service() {
    let world = World::new();
    let (candidate, verification) = candidate(&world);
    let plan = swap::plan(&world.work, &world.cx, &fresh(), &candidate).unwrap();
    let refused = |candidate: &Candidate, verification: Option<&Verification>, words: &str| {
        let error = swap::promote(&world.work, &world.cx, candidate, verification, &plan).unwrap_err();
        assert!(error.kind == ErrorKind::Refused && error.message.contains(words), "{error}");
        assert!(is_previous(&world));
    };
    refused(&candidate, None, "was not verified");
    refused(&candidate, Some(&Verification { passed: false, ..verification.clone() }), "did not pass");
    refused(&candidate, Some(&Verification { digest: "1".repeat(64), ..verification.clone() }), "another manifest");
    let mut other = verification.clone();
    other.members[1].identity = identity(99);
    refused(&candidate, Some(&other), "not the one that was verified");
    refused(
        &candidate,
        Some(&Verification { members: vec![], ..verification.clone() }),
        "not the one that was verified",
    );
    let mut scratch = candidate.clone();
    scratch.members[0].beside = false;
    refused(&scratch, Some(&verification), "in scratch");
    let mut part = candidate.clone();
    part.members.pop();
    refused(&part, Some(&verification), "as a whole");

    let marker = world.work.started_marker(&candidate.id);
    std::fs::create_dir_all(marker.parent().unwrap()).unwrap();
    std::fs::write(&marker, "").unwrap();
    refused(&candidate, Some(&verification), "a service was started");
    let findings = describe::preflight(&world.work, &world.cx, &candidate).unwrap();
    assert!(findings.iter().any(|finding| finding.rule == "not-promotable"));
    std::fs::remove_file(&marker).unwrap();

    world.files.replace(&candidate.members[1].place);
    refused(&candidate, Some(&verification), "not the one that was verified");
}

#[test]
fn live_data_that_changed_their_identity_are_not_replaced() {
    let world = World::new();
    let (candidate, verification) = candidate(&world);
    let plan = swap::plan(&world.work, &world.cx, &fresh(), &candidate).unwrap();
    world.db.replace("live");
    let error = swap::promote(&world.work, &world.cx, &candidate, Some(&verification), &plan).unwrap_err();
    assert!(error.message.contains("not those that the promotion was planned for"), "{error}");
    assert!(is_previous(&world));
    let other = Promotion { candidate: fresh(), ..plan };
    let error = swap::promote(&world.work, &world.cx, &candidate, Some(&verification), &other).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
}

#[test]
fn an_undo_goes_on_and_says_every_failure() {
    let world = World::new();
    let (candidate, verification) = candidate(&world);
    let plan = swap::plan(&world.work, &world.cx, &fresh(), &candidate).unwrap();
    swap::promote(&world.work, &world.cx, &candidate, Some(&verification), &plan).unwrap();
    world.files.fail("undo");
    let error = swap::undo(&world.work, &world.cx, &plan).unwrap_err();
    assert!(world.files.fired() && error.message.contains("files: the backup's data may be live"), "{error}");
    assert_eq!(world.db.content("live").as_deref(), Some("newer\n"));
    swap::undo(&world.work, &world.cx, &plan).unwrap();
    assert!(is_previous(&world));
}

#[test]
fn the_consequence_says_what_is_lost_and_what_runs_again() {
    let world = World::new();
    let (candidate, _) = candidate(&world);
    world.db.answer("newest", &["2026-11-23T06:00:00Z"]);
    world.db.answer("live:newest", &["2026-11-23T06:05:01Z"]);
    world.db.answer("queued", &["7"]);
    let described = describe::describe(&world.work, &world.cx, &candidate).unwrap();
    let text = described.consequence.join("\n");
    assert!(text.contains("5 min (301000 ms) of data are set aside"), "{text}");
    assert!(text.contains("items that will run again: 7"), "{text}");
    assert!(text.contains(&candidate.backup), "{text}");
    let expected = BTreeMap::from([
        ("candidate.db".to_owned(), identity(3)),
        ("candidate.files".to_owned(), identity(3)),
        ("live.db".to_owned(), identity(1)),
        ("live.files".to_owned(), identity(1)),
    ]);
    assert_eq!(described.identities, expected);

    // What will run again must be known; what was lost need not be.
    world.db.fail("query-live");
    world.db.lose_live();
    let described = describe::describe(&world.work, &world.cx, &candidate).unwrap();
    assert!(world.db.fired());
    let text = described.consequence.join("\n");
    assert!(text.contains("can't be asked") && text.contains("takes the place of nothing"), "{text}");
    world.db.answer("queued", &[]);
    assert!(describe::describe(&world.work, &world.cx, &candidate).is_err());
}

#[tokio::test]
async fn a_service_that_runs_is_not_swapped_under() {
    let dir = tempfile::tempdir().unwrap();
    let service: crate::bindings::Service = serde_json::from_value(serde_json::json!({
        "source": { "files": { "kind": "files", "path": dir.path().join("live") } },
        // Says at once that it runs.
        "control": { "kind": "command", "start": ["true"], "stop": ["true"], "status": ["true"] },
    }))
    .unwrap();
    let services = BTreeMap::from([("notes".to_owned(), service)]);
    let host = RealHost::new(services, &BTreeMap::new(), &dir.path().join("state")).unwrap();
    let cx = StepContext::detached("test", std::time::Duration::from_secs(60));
    let world = World::new();
    let (candidate, verification) = candidate(&world);
    let plan = swap::plan(&world.work, &world.cx, &fresh(), &candidate).unwrap();
    for error in [
        host.promote(&cx, &candidate, Some(&verification), &plan).await.unwrap_err(),
        host.undo(&cx, &plan).await.unwrap_err(),
    ] {
        assert!(error.kind == ErrorKind::Conflict && error.message.contains("must be stopped"), "{error}");
    }
}
