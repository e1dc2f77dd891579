//! Two runs on one service, from two engines.

use super::SharedState;
use super::paused::{Book, newest};

#[test]
fn the_second_run_on_a_service_is_told_who_has_it_and_goes_when_that_is_over() {
    let Some(state) = SharedState::new() else { return };
    let book = Book::new(None);
    let (first, second) = (state.host(&book.site, "first", 900, false), state.host(&book.site, "second", 900, false));
    let working = first.paused_at("1 dumped db", "take", &[]);
    let run = newest(&second);
    let refused = second.lifeboat(&["--json", "run", "take"]).expect(11).json();
    assert_eq!(refused["status"], "lock-held", "{refused}");
    assert!(
        refused["summary"].as_str().unwrap().contains(&format!("another run works on service book: {run}")),
        "{refused}"
    );
    assert_eq!(book.backups(), 0);
    assert_eq!(working.wake().code, 0);
    second.lifeboat(&["run", "take"]).expect(0);

    // One that died has the service until somebody went on with it; whoever wants it is told how.
    let died = first.paused_at("1 dumped files", "take", &[]);
    let run = newest(&second);
    died.kill();
    let refused = second.lifeboat(&["--json", "run", "take"]).expect(11).json();
    let summary = refused["summary"].as_str().unwrap();
    assert!(
        summary.contains("its engine died") && summary.contains(&format!("lifeboat runs resume {run}")),
        "{refused}"
    );
    second.lifeboat(&["runs", "resume", &run]).expect(0);
    second.lifeboat(&["run", "take"]).expect(0);
    assert_eq!(book.backups(), 4);
    state.assert_nothing_left();
}
