//! Who is told what happened, over HTTP. A message is on its way beside everything else: nothing ever waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::Result;
use engine::config::{Config, NotifyBinding, Occasion};
use engine::run::{Ended, Status};
use engine::schedule::{Due, Happened, has_answered};
use host_api::identifier::{now_ms, shown_long, utc};
use host_api::{Finding, Severity};
use tokio::sync::{Semaphore, watch};

use super::board::Board;
use crate::output;

/// Messages on their way at once: with somebody who never answers, further ones are given up.
const AT_ONCE: usize = 32;
/// How long those on their way are waited for when serving ends.
const REST: Duration = Duration::from_secs(5);

/// Sends messages.
#[derive(Clone)]
pub struct Notifier {
    environment: String,
    configured: watch::Receiver<Arc<Config>>,
    board: Arc<Board>,
    on_their_way: Arc<Semaphore>,
    /// Errors that a cadence found last, without their numbers: the same again is no news.
    known: Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>,
}

/// What a message is about.
#[derive(Default)]
struct About<'a> {
    policy: &'a str,
    duty: String,
    run: &'a str,
    status: &'a str,
    summary: String,
}

impl<'a> About<'a> {
    fn due(due: &'a Due) -> Self {
        Self { policy: &due.policy, duty: due.full_name(), summary: due.why.clone(), ..Self::default() }
    }
}

impl Notifier {
    /// For an environment, as its configuration stands when something happens.
    pub fn new(environment: &str, configured: watch::Receiver<Arc<Config>>, board: Arc<Board>) -> Self {
        let on_their_way = Arc::new(Semaphore::new(AT_ONCE));
        Self { environment: environment.to_owned(), configured, board, on_their_way, known: Arc::default() }
    }

    /// Tells whoever wants to know.
    pub fn happened(&self, what: &Happened<'_>) {
        match what {
            Happened::Starts(due) => self.tell(Occasion::Started, About::due(due)),
            Happened::NotStarted { due, why } => {
                self.tell(Occasion::NotStarted, About { summary: why.to_string(), ..About::due(due) });
            }
            Happened::Ended { due, ended } => self.ended(due, ended),
            Happened::Asked { cadence, ended: Err(error), .. } => {
                let about = About { policy: cadence, summary: error.to_string(), ..About::default() };
                self.tell(Occasion::Unasked, about);
            }
            Happened::Asked { cadence, ended: Ok(ended), .. } if !has_answered(ended) => {
                let (run, status, summary) = (ended.run.as_str(), ended.status.word(), ended.summary.clone());
                self.tell(Occasion::Unasked, About { policy: cadence, run, status, summary, ..About::default() });
            }
            Happened::Asked { cadence, ended: Ok(ended), .. } => self.found(cadence, ended),
            _ => {}
        }
    }

    fn ended(&self, due: &Due, ended: &Result<Ended>) {
        let (occasion, about) = match ended {
            Ok(ended) => {
                let occasion = match ended.status {
                    Status::Ok | Status::NothingToDo => Occasion::Succeeded,
                    Status::Parked | Status::InDoubt => Occasion::Waits,
                    // Another run, or another engine, works on it: it is tried again.
                    Status::LockHeld => return,
                    _ => Occasion::Failed,
                };
                let (run, status, summary) = (ended.run.as_str(), ended.status.word(), ended.summary.clone());
                (occasion, About { run, status, summary, ..About::due(due) })
            }
            Err(error) => (Occasion::Failed, About { status: "failed", summary: error.to_string(), ..About::due(due) }),
        };
        self.tell(occasion, about);
    }

    /// Errors that it did not find when it was asked before.
    fn found(&self, cadence: &str, ended: &Ended) {
        let errors = || ended.findings.iter().filter(|finding| finding.severity == Severity::Error);
        let found: BTreeSet<String> = errors().map(bare).collect();
        let before = self.known.lock().expect("no panic while held").insert(cadence.to_owned(), found);
        for finding in errors().filter(|finding| before.as_ref().is_none_or(|known| !known.contains(&bare(finding)))) {
            let summary = format!("{}: {}", finding.rule, finding.message);
            let about =
                About { policy: cadence, run: &ended.run, status: ended.status.word(), summary, ..About::default() };
            self.tell(Occasion::Promise, about);
        }
    }

    fn tell(&self, occasion: Occasion, about: About<'_>) {
        let config = self.configured.borrow().clone();
        let Ok(environment) = config.environment(Some(&self.environment)) else { return };
        let wants = |notify: &&NotifyBinding| {
            let of_it = notify.policies.is_empty() || notify.policies.iter().any(|policy| policy == about.policy);
            of_it && notify.on.contains(&occasion)
        };
        for (number, notify) in environment.binding.serve.notify.iter().enumerate().filter(|(_, notify)| wants(notify))
        {
            let values = [
                ("environment", self.environment.clone()),
                ("on", occasion.word().to_owned()),
                ("policy", shown_long(about.policy)),
                ("duty", shown_long(&about.duty)),
                ("run", about.run.to_owned()),
                ("status", about.status.to_owned()),
                ("summary", shown_long(&about.summary)),
                ("time", utc(now_ms())),
            ];
            self.send(number, notify, values.map(|(name, value)| (name.to_owned(), value)).into());
        }
    }

    fn send(&self, number: usize, notify: &NotifyBinding, values: BTreeMap<String, String>) {
        let name = format!("notify {}", number + 1);
        let (board, message) = (self.board.clone(), notify.message.clone());
        let undelivered = move |why: String| {
            board.note(|inner| *inner.undelivered.entry(name.clone()).or_default() += 1);
            output::say(&format!("warning: serve: {name}: a message could not be delivered: {why}"));
        };
        let Ok(way) = self.on_their_way.clone().try_acquire_owned() else {
            return undelivered(format!("{AT_ONCE} others are on their way"));
        };
        tokio::spawn(async move {
            if let Err(error) = message.deliver(&values).await {
                undelivered(error.to_string());
            }
            drop(way);
        });
    }

    /// Waits a little for those on their way.
    pub async fn rest(&self) {
        let all = u32::try_from(AT_ONCE).unwrap_or(u32::MAX);
        let _ = tokio::time::timeout(REST, self.on_their_way.acquire_many(all)).await;
    }
}

/// An error without the ages in it, which grow while it stays the same.
fn bare(finding: &Finding) -> String {
    let is_age = |word: &&str| {
        let word = word.trim_matches(|c: char| !c.is_alphanumeric());
        word.starts_with(|c: char| c.is_ascii_digit()) || matches!(word, "s" | "min" | "h" | "d")
    };
    let words: Vec<&str> = finding.message.split_whitespace().filter(|word| !is_age(word)).collect();
    format!("{}: {}", finding.rule, words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_grows_older_is_the_same_and_one_of_another_duty_is_not() {
        let late = |words: &str| bare(&Finding::error("late", words, ""));
        assert_eq!(late("drill was done last 59 min 3 s ago,"), late("drill was done last 1 h ago,"));
        assert_ne!(late("drill was done last 1 h ago"), late("backup was done last 1 h ago"));
    }
}
