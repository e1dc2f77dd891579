//! `[environment.NAME.serve]`: what `lifeboat serve` does by itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use host_api::notification::Notification;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::PolicyBinding;
use crate::error::{Error, Kind, Result};

/// Policies of this world are woken; nothing else of an environment starts by itself.
pub(crate) const CADENCE_WORLD: &str = "cadence";

/// What `lifeboat serve` does in an environment by itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ServeBinding {
    /// Policies that a cadence may have started, by name. What it says of others is told, and not done.
    #[serde(default)]
    pub may_start: Vec<Spanned<String>>,
    /// Where health and metrics are answered, `127.0.0.1:9464`; nowhere, if it is left out.
    pub listen: Option<SocketAddr>,
    /// Who is told what, over HTTP.
    #[serde(default)]
    pub notify: Vec<NotifyBinding>,
    /// How long runs under way may go on when serving is to end; what is not over then is left, and the next `serve` goes on with it.
    #[serde(default = "default_finish_within_s")]
    pub finish_within_s: u64,
}

/// One `[[environment.NAME.serve.notify]]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NotifyBinding {
    /// Of which events.
    pub on: Vec<Occasion>,
    /// Only of these policies; of all, if it is left out.
    #[serde(default)]
    pub policies: Vec<String>,
    /// Where to, and what.
    pub message: Notification,
}

/// Something that somebody may want to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    /// A run begins.
    Started,
    /// It did what it was for, or there was nothing to do.
    Succeeded,
    /// It ended in any other way.
    Failed,
    /// It waits for a person, or a step of it is in doubt.
    Waits,
    /// Something was due and was not started.
    NotStarted,
    /// A cadence found an error: a promise is broken.
    Promise,
    /// A cadence could not be asked.
    Unasked,
}

impl Occasion {
    /// The word in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Waits => "waits",
            Self::NotStarted => "not-started",
            Self::Promise => "promise",
            Self::Unasked => "unasked",
        }
    }
}

/// What a message may speak of. What an occasion does not have is empty.
pub const NOTIFY_NAMES: [&str; 8] = ["environment", "on", "policy", "duty", "run", "status", "summary", "time"];

impl Default for ServeBinding {
    fn default() -> Self {
        let finish_within_s = default_finish_within_s();
        Self { may_start: Vec::new(), listen: None, notify: Vec::new(), finish_within_s }
    }
}

fn default_finish_within_s() -> u64 {
    // systemd kills after 90 s.
    60
}

impl ServeBinding {
    /// Checks it against the environment's policies.
    pub(super) fn check(&self, policies: &BTreeMap<String, PolicyBinding>) -> Result<()> {
        for name in &self.may_start {
            let known = policies.keys().map(String::as_str);
            let policy = policies.get(name.get_ref().as_str()).ok_or_else(|| {
                Error::unknown("policy", name.get_ref(), known).context("serve: may-start").at(name.span())
            })?;
            if policy.world.get_ref() == CADENCE_WORLD {
                let why = format!("serve: may-start: {} is a cadence: it is woken, not started", name.get_ref());
                return Err(Error::new(Kind::Configuration, why).at(name.span()));
            }
        }
        for (number, notify) in self.notify.iter().enumerate() {
            let wrong = |e: Error| e.context(format!("serve: notify {}", number + 1));
            if notify.on.is_empty() {
                return Err(wrong(Error::new(Kind::Configuration, "`on` is empty: it would never tell anything")));
            }
            if let Some(name) = notify.policies.iter().find(|name| !policies.contains_key(*name)) {
                return Err(wrong(Error::unknown("policy", name, policies.keys().map(String::as_str))));
            }
            let message = notify.message.check(&NOTIFY_NAMES);
            message.map_err(|e| wrong(Error { kind: Kind::Configuration, ..e.into() }))?;
        }
        Ok(())
    }

    /// Makes relative paths absolute, from the configuration file's directory.
    pub(super) fn anchor(&mut self, base: &Path) {
        self.notify.iter_mut().for_each(|notify| notify.message.anchor(base));
    }

    /// Whether a cadence may have a policy started.
    pub fn may_start(&self, policy: &str) -> bool {
        self.may_start.iter().any(|name| name.get_ref() == policy)
    }
}
