//! A real migration (schema 3 to 4), taken back, and that taken back.

use crate::support::kneo::{Kneo, Mode};

#[test]
fn an_upgrade_is_rolled_back_and_that_is_undone_sqlite() {
    there_and_back(Mode::Sqlite);
}

#[test]
fn an_upgrade_is_rolled_back_and_that_is_undone_postgres() {
    there_and_back(Mode::Postgres);
}

fn there_and_back(mode: Mode) {
    let Some(kneo) = Kneo::running(mode, "1.0.0") else { return };
    let old = [kneo.completed_run(), kneo.completed_run(), kneo.blocked_run()];
    let before = kneo.content();
    assert_eq!((kneo.version().as_str(), kneo.schema().as_str()), ("1.0.0", "3"));

    // The upgrade works: what follows is a person's decision, not a rescue.
    kneo.site.run("upgrade", &["--param", "version=1.2.0"]).expect(0);
    assert_eq!((kneo.version().as_str(), kneo.schema().as_str()), ("1.2.0", "4"));
    let newer = kneo.completed_run();
    assert_eq!(kneo.get("/v1/runs")["total"], 4);

    kneo.site.run("rollback", &["--param", "version=1.0.0", "--yes"]).expect(0);
    assert_eq!((kneo.version().as_str(), kneo.schema().as_str()), ("1.0.0", "3"));
    assert_eq!(kneo.get("/v1/runs")["total"], 3, "the list, where the old version on the new data answers 500");
    for run in &old {
        assert_eq!(&kneo.get(&format!("/v1/runs/{run}"))["run_id"], run);
    }
    assert_eq!(kneo.status(&format!("/v1/runs/{newer}")), 404);
    assert_eq!(kneo.get("/v1/human-tasks")["total"], 1);
    assert_eq!(kneo.content(), before);

    let promotions = kneo.site.lifeboat(&["--json", "promotions", "list"]).expect(0).json();
    assert_eq!((promotions.as_array().unwrap().len(), &promotions[0]["state"]), (1, &"in-service".into()));
    let swaps = promotions[0]["promotion"]["swaps"].as_array().unwrap();
    assert!(!swaps.is_empty() && swaps.iter().all(|swap| !swap["previous"].is_null()), "kept: {promotions}");
    let promotion = promotions[0]["promotion"]["id"].as_str().unwrap();
    kneo.site.lifeboat(&["promotions", "undo", promotion, "--install", "1.2.0", "--yes"]).expect(0);
    assert_eq!((kneo.version().as_str(), kneo.schema().as_str()), ("1.2.0", "4"));
    assert_eq!(kneo.get("/v1/runs")["total"], 4);
    assert_eq!(kneo.get(&format!("/v1/runs/{newer}"))["run_id"], newer);
}
