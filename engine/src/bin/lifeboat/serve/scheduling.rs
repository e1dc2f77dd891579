//! What the scheduler needs of the command line: engines that ask nobody, and somebody who tells people what happened.

use std::sync::Arc;

use async_trait::async_trait;
use engine::config::Config;
use engine::schedule::{Due, Happened, Opens, Watcher, has_answered};
use engine::{Engine, Result};
use host_api::Severity;
use host_api::identifier::{now_ms, shown, shown_long, utc};

use super::board::Board;
use super::notifying::Notifier;
use crate::output;

/// Engines that ask nobody: what wants consent parks.
pub struct Unattended {
    /// Whether only what needs a person is shown.
    pub quiet: bool,
}

#[async_trait]
impl Opens for Unattended {
    async fn engine(&self, config: &Config) -> Result<Engine> {
        crate::run::unattended(config, self.quiet).await
    }
}

/// Tells people, keeps the board, and has others notified.
pub struct Tells {
    board: Arc<Board>,
    notifier: Notifier,
}

impl Tells {
    /// On a board, and to whom the configuration says.
    pub fn new(board: Arc<Board>, notifier: Notifier) -> Self {
        Self { board, notifier }
    }
}

fn named(due: &Due) -> String {
    format!("{} ({})", shown(&due.policy), shown(&due.full_name()))
}

impl Watcher for Tells {
    fn happened(&self, what: &Happened<'_>) {
        self.notifier.happened(what);
        match what {
            Happened::Turns => self.board.note(|inner| inner.turned_ms = Some(now_ms())),
            Happened::Asks(_) => self.board.note(|inner| inner.asking = true),
            Happened::Asked { cadence, ended, next_ms } => {
                let count = |severity| {
                    let findings = ended.as_ref().map(|ended| ended.findings.as_slice()).unwrap_or_default();
                    findings.iter().filter(|finding| finding.severity == severity).count() as u64
                };
                self.board.note(|inner| {
                    inner.asking = false;
                    let asked = inner.cadences.entry((*cadence).to_owned()).or_default();
                    (asked.at_ms, asked.next_ms) = (now_ms(), *next_ms);
                    (asked.errors, asked.warnings) = (count(Severity::Error), count(Severity::Warning));
                    asked.failures += u64::from(!ended.as_ref().is_ok_and(has_answered));
                });
                match ended {
                    Ok(ended) if has_answered(ended) => {
                        output::say(&format!("serve: {cadence}: {}", shown_long(&ended.summary)));
                    }
                    Ok(ended) => output::say(&format!(
                        "error: {cadence} has not answered, and is asked again at {}: {}: {} (run {})",
                        utc(*next_ms),
                        ended.status.word(),
                        shown_long(&ended.summary),
                        ended.run
                    )),
                    Err(error) => output::say(&format!(
                        "error: {cadence} can't be asked, and is asked again at {}: {error}",
                        utc(*next_ms)
                    )),
                }
            }
            Happened::NotStarted { due, why } => {
                self.board.note(|inner| *inner.not_started.entry(due.policy.clone()).or_default() += 1);
                output::say(&format!("serve: {} is NOT started: {why}", named(due)));
            }
            Happened::Starts(due) => {
                self.board.note(|inner| {
                    inner.under_way.insert(due.full_name(), now_ms());
                });
                output::say(&format!("serve: {} starts: {}", named(due), shown_long(&due.why)));
            }
            Happened::Ended { due, ended } => {
                let status = ended.as_ref().map_or("failed", |ended| ended.status.word());
                self.board.note(|inner| {
                    inner.under_way.remove(&due.full_name());
                    *inner.ended.entry((due.policy.clone(), status.to_owned())).or_default() += 1;
                });
                match ended {
                    Ok(ended) => {
                        let summary = shown_long(&ended.summary);
                        output::say(&format!("serve: {} is {status}: {summary} (run {})", named(due), ended.run));
                        ended.unsettled.iter().for_each(|left| output::say(&format!("error: LEFT OPEN: {left}")));
                        ended.warnings.iter().for_each(|warning| output::say(&format!("warning: {warning}")));
                    }
                    Err(error) => output::say(&format!("error: {} has no end on record: {error}", named(due))),
                }
            }
            Happened::Left(due) => output::say(&format!(
                "serve: {} is left as it is; the next `lifeboat serve` goes on with it",
                named(due)
            )),
            Happened::ClockJumped { by_ms } => {
                output::say(&format!(
                    "warning: the clock went by {by_ms} ms more than time passed: cadences are asked at once"
                ));
            }
            _ => {}
        }
    }
}
