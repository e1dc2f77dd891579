//! The person at the terminal: watches a run, and is asked.

use std::io::{BufRead, IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use engine::approvals::{Answer, Confirmer, Intent};
use engine::observe::{Event, Observer};
use host_api::{Severity, identifier};
use indicatif::{ProgressBar, ProgressStyle};

use crate::output;

/// Asks at the terminal: the person reads the intent and types the service's name. Without a terminal, nobody is there.
pub struct AtTerminal {
    /// `--yes` was given, and the environment allows it.
    pub yes: bool,
    /// Who sits there.
    pub actor: String,
}

impl AtTerminal {
    fn say(intent: &Intent) {
        output::say("");
        for line in intent.lines() {
            output::say(&format!("  {line}"));
        }
        output::say("");
    }
}

#[async_trait]
impl Confirmer for AtTerminal {
    fn show(&self, intent: &Intent, how: &[String]) {
        Self::say(intent);
        for line in how {
            output::say(line);
        }
    }

    async fn ask(&self, intent: &Intent) -> Answer {
        Self::say(intent);
        if self.yes {
            output::say("approved by --yes, which this environment allows");
            return Answer::Approved { by: self.actor.clone(), how: "yes-flag".into() };
        }
        if !std::io::stdin().is_terminal() {
            return Answer::NobodyHere;
        }
        let service = intent.service.clone();
        // The prompt is text without a line end; whether it can be read decides nothing here.
        let mut stderr = std::io::stderr();
        let _ = write!(stderr, "to approve, type the service's name ({service}); anything else denies: ");
        let _ = stderr.flush();
        let typed = tokio::task::spawn_blocking(|| {
            let mut typed = String::new();
            std::io::stdin().lock().read_line(&mut typed).map(|read| (read, typed))
        })
        .await;
        match typed {
            Ok(Ok((read, typed))) if read > 0 => {
                if typed.trim() == service {
                    Answer::Approved { by: self.actor.clone(), how: "typed-phrase".into() }
                } else {
                    Answer::Denied { by: self.actor.clone() }
                }
            }
            // The terminal went away before an answer: that is no answer.
            _ => Answer::NobodyHere,
        }
    }
}

/// Shows a run as it goes, on stderr.
pub struct Watch {
    began: Instant,
    bar: Mutex<Option<ProgressBar>>,
    quiet: bool,
}

impl Watch {
    /// Begins to watch; quiet shows only what needs a person.
    pub fn new(quiet: bool) -> Self {
        Self { began: Instant::now(), bar: Mutex::new(None), quiet }
    }

    fn line(&self, text: &str) {
        let at = format!("{:>8.2}s", self.began.elapsed().as_secs_f64());
        let bar = self.bar.lock().expect("no panic while held");
        match &*bar {
            Some(bar) => bar.println(format!("{at}  {text}")),
            None => output::say(&format!("{at}  {text}")),
        }
    }
}

impl Observer for Watch {
    fn event(&self, run: &str, event: &Event) {
        match event {
            Event::Settling { what, error: Some(error) } => self.line(&format!("✗ could not {what}: {error}")),
            Event::Finding(finding) if finding.severity == Severity::Error => self.line(&output::finding(finding)),
            _ if self.quiet => {}
            Event::RunStarted { policy, environment, resumed } => {
                let verb = if *resumed { "resumed" } else { "started" };
                self.line(&format!("run {run} {verb}: {policy} in {environment}"));
            }
            Event::StepStarted { step, line } => self.line(&format!("▸ {step:>2} {}", identifier::shown(line))),
            Event::Progress { progress, .. } => {
                self.progress(&progress.what, progress.done_bytes, progress.total_bytes)
            }
            Event::StepEnded { step, error, elapsed } => {
                if let Some(bar) = self.bar.lock().expect("no panic while held").take() {
                    bar.finish_and_clear();
                }
                match error {
                    Some(error) => self.line(&format!("✗ {step:>2} {}", identifier::shown_long(error))),
                    None if *elapsed > Duration::from_millis(200) => {
                        self.line(&format!("✓ {step:>2} after {:.2} s", elapsed.as_secs_f64()));
                    }
                    None => {}
                }
            }
            Event::Note(text) => self.line(&format!("· {}", identifier::shown_long(text))),
            Event::Finding(finding) => self.line(&output::finding(finding)),
            Event::Settling { what, error: None } => self.line(&format!("↺ {what}")),
            _ => {}
        }
    }
}

impl Watch {
    fn progress(&self, what: &str, done: u64, total: Option<u64>) {
        if !std::io::stderr().is_terminal() {
            return;
        }
        let mut bar = self.bar.lock().expect("no panic while held");
        let bar = bar.get_or_insert_with(|| {
            let bar = ProgressBar::new(total.unwrap_or(0));
            let template = match total {
                Some(_) => "           {msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                None => "           {msg} {bytes} {bytes_per_sec}",
            };
            // The template is constant and was tried.
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        if let Some(total) = total {
            bar.set_length(total);
        }
        bar.set_message(what.to_owned());
        bar.set_position(done);
    }
}
