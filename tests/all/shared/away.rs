//! The server of the state goes away in the middle of a run, and comes back.

use std::fs;
use std::process::Stdio;

use super::paused::Book;
use super::{Paused, SharedState};
use crate::support::wait_until;

/// Away before a step is on record, in the middle of it, and when it is done: the run waits each time, and nothing is done twice or without
/// a record.
#[test]
fn a_state_that_goes_away_and_comes_back_is_waited_for() {
    let Some(state) = SharedState::alone() else { return };
    let book = Book::new(None);
    let host = state.host(&book.site, "first", 900, false);
    for (number, place) in ["1 prepared", "1 dumped db", "1 acted"].into_iter().enumerate() {
        let trail = format!("trail-{number}");
        let log = book.site.path(format!("log-{number}"));
        let mut command = host.crashing(&trail, &format!("stop:{place}"), "run", "take", &[]);
        let child = command.stdout(Stdio::piped()).stderr(fs::File::create(&log).unwrap()).spawn().unwrap();
        let engine = Paused::spawned(child, false);
        wait_until("it stands there", || engine.stands());
        let backups = book.backups();
        state.server.stop();
        engine.signal("CONT");
        wait_until("it has noticed", || fs::read_to_string(&log).unwrap().contains("waiting for it"));
        if place == "1 prepared" {
            assert_eq!(book.backups(), backups, "nothing is done that is not on record");
        }
        let refused = host.lifeboat(&["runs", "list"]).expect(1);
        let where_it_is = format!("on {}:{}", state.server.host, state.server.port);
        assert!(
            refused.stderr.contains(&where_it_is) && refused.stderr.contains("hint: is the server up"),
            "{refused:?}"
        );
        state.server.start_again();
        let ended = engine.wake();
        assert_eq!(ended.code, 0, "{place}: {}", fs::read_to_string(&log).unwrap());
        assert_eq!(book.backups(), number + 1, "{place}");
        let twice = "select count(*) from log where kind = 'started' group by run, step having count(*) > 1";
        assert_eq!(state.sql(twice), "", "{place}: no step was begun again");
    }
    state.assert_nothing_left();
    state.assert_whole(&host);
}
