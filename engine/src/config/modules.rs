//! `[environment.NAME.modules]`: whose signatures modules need here, and whether what is run must have been accepted.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Environment, PolicyBinding};
use crate::COMPILED;
use crate::error::{Error, Kind, Result};
use crate::policy::lock::{Lock, Pin};
use crate::policy::signatures::{Rule, Signer};
use crate::policy::{Inspected, inspect_kept};
use crate::sandbox::kept::Kept;

/// Whose signatures modules need. Without it, unsigned ones are taken.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ModulesBinding {
    /// Whose signatures count, by name.
    #[serde(default)]
    pub signer: BTreeMap<String, SignerBinding>,
    /// All of these must have signed.
    #[serde(default)]
    pub all_of: Vec<String>,
    /// At least so many of the signers must have; one, if there are signers and nothing else is said.
    pub at_least: Option<usize>,
    /// Only what `lifeboat.lock` has accepted is run, also where nothing of the environment is pinned yet.
    #[serde(default)]
    pub pinned: bool,
}

/// Someone whose signature on modules counts.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SignerBinding {
    /// A public key of minisign: the line that begins with `RW`.
    pub key: String,
    /// Which policies it may sign, by their own names; all, if it is left out.
    #[serde(default)]
    pub policies: Vec<String>,
    /// From when on its signatures count no more: `2027-12-31T00:00:00Z`.
    pub not_after: Option<String>,
}

impl ModulesBinding {
    /// The rule, checked.
    pub fn rule(&self) -> Result<Rule> {
        let wrong = |why: String| Error::new(Kind::Configuration, format!("modules: {why}"));
        let mut rule = Rule::default();
        for (name, binding) in &self.signer {
            host_api::identifier::check_name("signer", name).map_err(|e| wrong(e.to_string()))?;
            let mut signer = Signer::parse(&binding.key).map_err(|e| e.context(format!("modules: signer {name}")))?;
            signer.policies = binding.policies.iter().cloned().collect();
            if let Some(time) = &binding.not_after {
                let at_ms = host_api::identifier::parse_time_ms(time);
                signer.not_after_ms = Some(at_ms.ok_or_else(|| {
                    wrong(format!("signer {name}: `{}` is no time", host_api::identifier::shown(time)))
                        .hint("2027-12-31T00:00:00Z")
                })?);
            }
            if let Some((other, _)) = rule.signers.iter().find(|(_, other)| other.key_number() == signer.key_number()) {
                return Err(wrong(format!("signers {other} and {name} have one key")));
            }
            rule.signers.insert(name.clone(), signer);
        }
        if let Some(unknown) = self.all_of.iter().find(|name| !self.signer.contains_key(*name)) {
            let known = self.signer.keys().map(String::as_str);
            return Err(Error::unknown("signer", unknown, known).context("modules: all-of"));
        }
        rule.all_of = self.all_of.iter().cloned().collect();
        let none_said = usize::from(!self.signer.is_empty() && self.all_of.is_empty());
        rule.at_least = self.at_least.unwrap_or(none_said);
        if rule.at_least > self.signer.len() {
            return Err(wrong(format!(
                "at-least is {}, and there are {} signers: no module could ever be run",
                rule.at_least,
                self.signer.len()
            )));
        }
        Ok(rule)
    }
}

/// A module that may be run here.
pub struct Admitted {
    // Kept together, and from being changed: what was found is of these bytes.
    bytes: Vec<u8>,
    inspected: Inspected,
    known: bool,
    /// What there is of it now, to be held against what was accepted.
    pub pin: Pin,
}

impl Admitted {
    /// Its bytes: those that were looked at, and that are compiled.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it says and imports.
    pub fn inspected(&self) -> &Inspected {
        &self.inspected
    }

    /// Whether that was kept from an earlier time.
    pub(crate) fn is_known(&self) -> bool {
        self.known
    }
}

impl Environment<'_> {
    /// A policy's module, if its signatures and what was accepted let it be run. Nothing of it is compiled before.
    pub fn admit(&self, name: &str, policy: &PolicyBinding) -> Result<Admitted> {
        // Only looked at: whoever asks what is there makes no directory. What is wrong with one is said by the engine that would use it.
        let kept = Kept::to_look(&self.config.state_directory().join(COMPILED)).ok().flatten();
        let admitted = self.look(name, policy, kept.as_ref()).map_err(|e| e.context(format!("policy {name}")))?;
        let lock = Lock::read(&self.config.lock_path())?;
        let must = self.binding.modules.pinned || lock.as_ref().is_some_and(|lock| lock.covers(&self.name));
        if must {
            lock.unwrap_or_default().check(&self.name, name, &admitted.pin)?;
        }
        Ok(admitted)
    }

    /// The same, whatever was accepted. Nothing that was kept of the module from an earlier time is used: this is what is accepted then.
    pub fn examine(&self, name: &str, policy: &PolicyBinding) -> Result<Admitted> {
        self.look(name, policy, None)
    }

    fn look(&self, name: &str, policy: &PolicyBinding, kept: Option<&Kept>) -> Result<Admitted> {
        let bytes = policy.read_module()?;
        let rule = self.binding.modules.rule()?;
        rule.precheck(&policy.module, &bytes)?;
        let (inspected, known) = inspect_kept(&bytes, kept)?;
        // A good signature is one of a module of this name. Under another name it is that other module.
        let expected = policy.module_name.as_deref().unwrap_or(name);
        if !rule.is_open() && inspected.description.name != expected {
            let is = &inspected.description.name;
            return Err(Error::new(
                Kind::PolicyRefused,
                format!("the module is refused: it is {is}, and {expected} was to be run"),
            )
            .hint(format!("if it is meant: module-name = \"{is}\" in [environment.{}.policy.{name}]", self.name)));
        }
        let now_ms = host_api::identifier::now_ms();
        let verdicts = match rule.signers.is_empty() {
            true => Vec::new(),
            false => rule.verdicts(&policy.module, &bytes, &inspected.description, now_ms)?,
        };
        let signers = rule.admit(&verdicts)?;
        policy.fits(&self.name, name, &inspected)?;
        let lines: BTreeSet<String> = policy.grants.iter().map(|line| line.get_ref().clone()).collect();
        let pin = Pin::of(&inspected, signers, &policy.grants()?, lines);
        Ok(Admitted { bytes, inspected, known, pin })
    }
}
