//! Approvers and rules of approval as they stand in the file, and the rules they make.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use host_api::identifier::check_name;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::EnvironmentBinding;
use crate::approvals::rules::{ACTIONS, Approver, Removals, Rule, Rules, TIME_TO_LIVE_MAX};
use crate::approvals::signature::Key;
use crate::error::{Error, Kind, Result};

/// One `[environment.NAME.approval]`, or one `[environment.NAME.approval.action.ACTION]`, where what is left out is as in the former.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ApprovalBinding {
    /// How many approvers must sign.
    pub needed: Option<Spanned<u64>>,
    /// Only members of these groups count.
    pub groups: Option<Vec<Spanned<String>>>,
    /// Whether who started a run counts.
    pub self_approval: Option<Spanned<bool>>,
    /// How long after it was asked.
    pub time_to_live_s: Option<Spanned<u64>>,
    /// Whether a phrase typed at the terminal is enough.
    pub typed_phrase: Option<Spanned<bool>>,
    /// Whether one approver may do it alone, with a reason.
    pub break_glass: Option<Spanned<bool>>,
    /// Rules of single actions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub action: BTreeMap<String, ApprovalBinding>,
}

/// One `[environment.NAME.approver.APPROVER]`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ApproverBinding {
    /// The public key, as in an `id_….pub`.
    pub key: Option<Spanned<String>>,
    /// Or the file it stands in.
    pub key_file: Option<Spanned<PathBuf>>,
    /// Groups they are a member of.
    #[serde(default)]
    pub groups: Vec<Spanned<String>>,
    /// Who they are where they start runs; by default the login name that is their name here.
    pub actors: Option<Vec<String>>,
}

impl ApproverBinding {
    pub(super) fn anchor(&mut self, base: &Path) {
        if let Some(file) = &mut self.key_file {
            *file.get_mut() = base.join(file.get_ref());
        }
    }

    /// The key as it is now.
    fn key(&self) -> Result<Key> {
        let (line, span) = match (&self.key, &self.key_file) {
            (Some(line), None) => (line.get_ref().clone(), line.span()),
            (None, Some(file)) => {
                let path = file.get_ref();
                let text = std::fs::read_to_string(path).map_err(|e| {
                    Error::new(Kind::Configuration, format!("key-file {}: {e}", path.display())).at(file.span())
                })?;
                (text, file.span())
            }
            _ => {
                return Err(Error::new(Kind::Configuration, "needs one of `key` and `key-file`")
                    .hint("key = \"ssh-ed25519 AAAA…\", as it stands in an id_ed25519.pub"));
            }
        };
        Key::read(&line).map_err(|why| {
            Error::new(Kind::Configuration, format!("the key {why}"))
                .hint("ed25519, ecdsa-sha2-nistp256 (both also in hardware) and rsa are taken; `ssh-keygen -t ed25519` makes one")
                .at(span)
        })
    }
}

impl EnvironmentBinding {
    /// Who may consent here; with keys read from where they are now.
    pub fn approval_rules(&self) -> Result<Rules> {
        let mut approvers: BTreeMap<String, Approver> = BTreeMap::new();
        for (name, binding) in &self.approver {
            let context = |e: Error| e.context(format!("approver {name}"));
            check_name("approver", name).map_err(|e| Error { kind: Kind::Configuration, ..e.into() })?;
            let key = binding.key().map_err(context)?;
            if let Some((other, _)) = approvers.iter().find(|(_, a)| a.key == key) {
                return Err(Error::new(Kind::Configuration, format!("approvers {other} and {name} have one key"))
                    .hint("one key is one approver: two could not be told apart"));
            }
            let mut groups = BTreeSet::new();
            for group in &binding.groups {
                check_name("group", group.get_ref())
                    .map_err(|e| context(Error { kind: Kind::Configuration, ..e.into() }).at(group.span()))?;
                groups.insert(group.get_ref().clone());
            }
            let actors = binding.actors.clone().unwrap_or_else(|| vec![name.clone()]);
            approvers.insert(name.clone(), Approver { key, groups, actors });
        }
        let base = Rule { typed_phrase: approvers.is_empty(), ..Rule::default() };
        let mut rules = Rules { approvers, general: base, removals: self.removals(), ..Rules::default() };
        let Some(binding) = &self.approval else { return self.checked(rules) };
        rules.general = binding.over(&rules.general, &rules.approvers).map_err(|e| e.context("approval"))?;
        for (action, binding) in &binding.action {
            let context = |e: Error| e.context(format!("approval.action.{action}"));
            if !ACTIONS.contains(&action.as_str()) {
                return Err(Error::unknown("action", action, ACTIONS.iter().copied()).context("approval.action"));
            }
            if !binding.action.is_empty() {
                return Err(context(Error::new(Kind::Configuration, "an action has no actions of its own")));
            }
            let rule = binding.over(&rules.general, &rules.approvers).map_err(context)?;
            rules.actions.insert(action.clone(), rule);
        }
        self.checked(rules)
    }

    /// What goes by the rules of a store alone. That rules of a service as a whole say nothing of it, they are checked for when they are read.
    fn removals(&self) -> BTreeMap<(String, String), Removals> {
        let of_stores = self.retention.iter().flat_map(|(service, of)| of.store.iter().map(move |of| (service, of)));
        let said = of_stores.filter_map(|(service, (store, rules))| {
            let at_most = rules.without_consent_at_most?;
            let rules = serde_json::to_value(rules).unwrap_or_default();
            Some(((service.clone(), store.clone()), Removals { at_most, rules }))
        });
        said.collect()
    }

    fn checked(&self, rules: Rules) -> Result<Rules> {
        if self.allow_yes && !rules.approvers.is_empty() {
            return Err(Error::new(Kind::Configuration, "allow-yes = true, and approvers are configured")
                .hint("--yes would stand for every signature: take allow-yes out, or the approvers"));
        }
        Ok(rules)
    }
}

impl ApprovalBinding {
    /// The rule that this makes over another, if it can be kept by these approvers.
    fn over(&self, base: &Rule, approvers: &BTreeMap<String, Approver>) -> Result<Rule> {
        let wrong = |message: String| Error::new(Kind::Configuration, message);
        let value = |own: &Option<Spanned<bool>>, base| own.as_ref().map_or(base, |own| *own.get_ref());
        let rule = Rule {
            needed: self.needed.as_ref().map_or(base.needed, |n| *n.get_ref()),
            groups: match &self.groups {
                Some(groups) => groups.iter().map(|g| g.get_ref().clone()).collect(),
                None => base.groups.clone(),
            },
            self_approval: value(&self.self_approval, base.self_approval),
            time_to_live: self.time_to_live_s.as_ref().map_or(base.time_to_live, |s| Duration::from_secs(*s.get_ref())),
            typed_phrase: value(&self.typed_phrase, base.typed_phrase),
            break_glass: value(&self.break_glass, base.break_glass),
        };
        if let Some(seconds) = &self.time_to_live_s
            && (rule.time_to_live.is_zero() || rule.time_to_live > TIME_TO_LIVE_MAX)
        {
            return Err(wrong(format!(
                "time-to-live-s is 1 to {}, not {}",
                TIME_TO_LIVE_MAX.as_secs(),
                seconds.get_ref()
            ))
            .hint("what was true a week ago is no ground for an act")
            .at(seconds.span()));
        }
        if approvers.is_empty() {
            let set = [
                self.needed.as_ref().map(|s| ("needed", s.span())),
                self.groups.as_ref().map(|g| ("groups", g.first().map_or(0..0, Spanned::span))),
                self.self_approval.as_ref().map(|s| ("self-approval", s.span())),
                self.typed_phrase.as_ref().map(|s| ("typed-phrase", s.span())),
                self.break_glass.as_ref().map(|s| ("break-glass", s.span())),
            ];
            return match set.into_iter().flatten().next() {
                None => Ok(rule),
                Some((key, span)) => Err(wrong(format!("{key} is set, and no approver is configured"))
                    .hint("add [environment.E.approver.NAME] with key = \"ssh-ed25519 AAAA…\"")
                    .at(span)),
            };
        }
        for group in self.groups.iter().flatten() {
            if !approvers.values().any(|a| a.groups.contains(group.get_ref())) {
                let known: BTreeSet<&str> =
                    approvers.values().flat_map(|a| a.groups.iter().map(String::as_str)).collect();
                return Err(Error::unknown("group with an approver in it", group.get_ref(), known).at(group.span()));
            }
        }
        let count =
            approvers.values().filter(|a| rule.groups.is_empty() || rule.groups.iter().any(|g| a.groups.contains(g)));
        let count = count.count() as u64;
        let place =
            self.needed.as_ref().map(Spanned::span).or_else(|| self.groups.iter().flatten().next().map(Spanned::span));
        let at = |error: Error| match &place {
            Some(span) => error.at(span.clone()),
            None => error,
        };
        if rule.needed == 0 || rule.needed > count {
            return Err(at(wrong(format!("{} signatures are needed, and {count} approvers count", rule.needed))
                .hint("at least 1, and at most as many as there are approvers in the groups")));
        }
        if rule.typed_phrase && rule.needed > 1 {
            return Err(at(wrong(format!("typed-phrase = true, and {} signatures are needed", rule.needed))
                .hint("one person's phrase would stand for all of them: take one of the two out")));
        }
        Ok(rule)
    }
}

#[cfg(test)]
mod tests {
    use crate::approvals::signature::tests::public;
    use crate::config::Config;
    use crate::error::{Kind, Result};

    fn load(text: &str) -> Result<Config> {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("carol.pub"), format!("{}\n", public(3))).unwrap();
        let path = directory.path().join("lifeboat.toml");
        std::fs::write(&path, text).unwrap();
        let config = Config::load(&path)?;
        // While the key file is there.
        config.environment(None)?.binding.approval_rules()?;
        Ok(config)
    }

    fn good() -> String {
        let (alice, bob) = (public(1), public(2));
        format!(
            r#"[environment.production.approval]
needed = 2
groups = ["dba"]
time-to-live-s = 3600
break-glass = true

[environment.production.approval.action.undo]
needed = 1
groups = []
self-approval = true
typed-phrase = true

[environment.production.approver.alice]
key = "{alice}"
groups = ["dba"]
actors = ["al@db1"]

[environment.production.approver.bob]
key = "{bob}"
groups = ["dba", "web"]

[environment.production.approver.carol]
key-file = "carol.pub"
"#
        )
    }

    #[test]
    fn rules_are_read_with_what_an_action_changes() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("carol.pub"), format!("{}\n", public(3))).unwrap();
        let path = directory.path().join("lifeboat.toml");
        std::fs::write(&path, good()).unwrap();
        let config = Config::load(&path).unwrap();
        let rules = config.environment(None).unwrap().binding.approval_rules().unwrap();
        let promote = rules.rule("promote");
        assert_eq!((promote.needed, promote.groups.len(), promote.self_approval), (2, 1, false));
        assert!(promote.break_glass && !rules.takes_phrase("promote"));
        assert_eq!(promote.time_to_live.as_secs(), 3600);
        let undo = rules.rule("undo");
        assert_eq!((undo.needed, undo.groups.len(), undo.self_approval, undo.break_glass), (1, 0, true, true));
        assert_eq!(undo.time_to_live.as_secs(), 3600);
        assert!(rules.takes_phrase("undo"));
        assert!(rules.approvers["alice"].is_actor("al@db1") && rules.approvers["bob"].is_actor("bob@anywhere"));
        let none = load("[environment.demo]\n").unwrap();
        let rules = none.environment(None).unwrap().binding.approval_rules().unwrap();
        assert!(rules.takes_phrase("promote") && rules.rule("promote").time_to_live.as_secs() == 24 * 3600);
    }

    #[test]
    fn rules_that_nobody_could_keep_are_refused_with_their_place() {
        let (alice, bob) = (public(1), public(2));
        for (from, to, says) in [
            ("needed = 2", "needed = 3", vec!["line 2", "3 signatures are needed, and 2 approvers count"]),
            ("needed = 2", "needed = 0", vec!["line 2", "0 signatures", "hint: at least 1"]),
            ("needed = 2", "need = 2", vec!["line 2", "unknown field `need`", "needed"]),
            ("needed = 2", "needed = -1", vec!["line 2"]),
            ("groups = [\"dba\"]\ntime", "groups = [\"dbas\"]\ntime", vec!["line 3", "did you mean `dba`"]),
            ("3600", "604801", vec!["line 4", "1 to 604800"]),
            ("3600", "0", vec!["line 4", "1 to 604800"]),
            ("break-glass = true", "typed-phrase = true", vec!["line 2", "one person's phrase would stand for all"]),
            ("action.undo", "action.undoo", vec!["did you mean `undo`", "drop-previous"]),
            ("action.undo]", "action.undo.action.undo]", vec!["no actions of its own"]),
            (
                "needed = 1\ngroups = []",
                "needed = 4\ngroups = []",
                vec!["line 8", "approval.action.undo", "3 approvers"],
            ),
            (&alice, "ssh-ed25519 AAAA", vec!["line 14", "approver alice", "is no SSH public key", "ssh-keygen"]),
            (&alice, &bob, vec!["alice and bob have one key"]),
            ("key-file = \"carol.pub\"", "key-file = \"nobody.pub\"", vec!["line 23", "nobody.pub"]),
            ("key-file = \"carol.pub\"", "key-file = \"lifeboat.toml\"", vec!["line 23", "is no SSH public key"]),
            ("key-file = \"carol.pub\"", "", vec!["approver carol", "needs one of `key` and `key-file`"]),
            ("[environment.production.approver.carol]", "[environment.production.approver.Carol]", vec!["no name"]),
            ("[\"dba\", \"web\"]", "[\"dba\", \"W W\"]", vec!["line 20", "no name for a group"]),
            (
                "[environment.production.approval]",
                "[environment.production]\nallow-yes = true\n[environment.production.approval]",
                vec!["--yes would stand for every signature"],
            ),
        ] {
            let error = load(&good().replacen(from, to, 1)).unwrap_err();
            assert_eq!(error.kind, Kind::Configuration, "{error}");
            for word in says {
                assert!(error.to_string().contains(word), "{to}: {word}: {error}");
            }
        }
        let lonely = "[environment.demo.approval]\nbreak-glass = true\n";
        let error = load(lonely).unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("no approver is configured"), "{error}");
        load("[environment.demo.approval]\ntime-to-live-s = 60\n").unwrap();
    }
}
