//! Who may consent in an environment, how many of them it takes, and for how long they are asked.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::signature::Key;

/// What consent can be asked for.
pub const ACTIONS: &[&str] = &["promote", "undo", "drop-previous", "delete"];
/// How long an intent can be consented to, where nothing is configured.
pub const TIME_TO_LIVE: Duration = Duration::from_secs(24 * 3600);
/// And at most: what was true a week ago is no ground for an act.
pub const TIME_TO_LIVE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// The rules of one environment. By default there are no approvers: whoever is asked by the engine's confirmer answers.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// Approvers by name.
    pub approvers: BTreeMap<String, Approver>,
    /// What holds for an action that has no rule of its own.
    pub general: Rule,
    /// Rules by action.
    pub actions: BTreeMap<String, Rule>,
    /// What may be removed without anybody's consent, by service and store.
    pub removals: BTreeMap<(String, String), Removals>,
}

/// What the rules of one store may let go without a person.
#[derive(Debug, Clone, PartialEq)]
pub struct Removals {
    /// At most so many backups in one run.
    pub at_most: u64,
    /// The rules as they are configured, JSON.
    pub rules: serde_json::Value,
}

/// Someone whose signature counts.
#[derive(Debug, Clone)]
pub struct Approver {
    /// The public key.
    pub key: Key,
    /// Groups they are a member of.
    pub groups: BTreeSet<String>,
    /// Who they are where they start runs: `alice@db1`, or `alice` on any host.
    pub actors: Vec<String>,
}

/// What it takes to do one kind of thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// How many approvers.
    pub needed: u64,
    /// Only members of one of these count; empty: every approver does.
    pub groups: Vec<String>,
    /// Whether who started the run counts.
    pub self_approval: bool,
    /// How long after it was asked.
    pub time_to_live: Duration,
    /// Whether a phrase typed at the terminal is enough.
    pub typed_phrase: bool,
    /// Whether one approver, whoever it is, may do it alone with a reason.
    pub break_glass: bool,
}

impl Default for Rule {
    fn default() -> Self {
        Self {
            needed: 1,
            groups: Vec::new(),
            self_approval: false,
            time_to_live: TIME_TO_LIVE,
            typed_phrase: true,
            break_glass: false,
        }
    }
}

impl Rules {
    /// The rule of an action.
    pub fn rule(&self, action: &str) -> &Rule {
        self.actions.get(action).unwrap_or(&self.general)
    }

    /// Whether an answer without a signature is enough.
    pub fn takes_phrase(&self, action: &str) -> bool {
        self.approvers.is_empty() || self.rule(action).typed_phrase
    }

    /// Whether an approver's yes counts for an action in a run that `actor` started. The error says why not.
    pub fn counts(&self, name: &str, action: &str, actor: &str) -> Result<(), String> {
        let rule = self.rule(action);
        let approver = self.approvers.get(name).ok_or_else(|| format!("{name} is no approver here"))?;
        if !rule.groups.is_empty() && !rule.groups.iter().any(|g| approver.groups.contains(g)) {
            return Err(format!("{name} is in none of the groups that count for {action}: {}", rule.groups.join(", ")));
        }
        if !rule.self_approval && approver.is_actor(actor) {
            return Err(format!(
                "{name} started the run (as {}), and self-approval is off",
                host_api::identifier::shown(actor)
            ));
        }
        Ok(())
    }

    /// Names of those whose yes counts.
    pub fn who_counts(&self, action: &str, actor: &str) -> Vec<&str> {
        self.approvers.keys().map(String::as_str).filter(|name| self.counts(name, action, actor).is_ok()).collect()
    }
}

impl Approver {
    /// Whether they are who acts as `actor`, `user@host`.
    pub fn is_actor(&self, actor: &str) -> bool {
        let user = actor.split_once('@').map_or(actor, |(user, _)| user);
        self.actors.iter().any(|own| own == if own.contains('@') { actor } else { user })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::approvals::signature::tests::public;

    /// Alice (dba), bob (dba) and carol (web), with the keys of seeds 1, 2 and 3.
    pub(crate) fn three(general: Rule) -> Rules {
        let approver = |name: &str, seed, group: &str| {
            let key = Key::read(&public(seed)).unwrap();
            (name.to_owned(), Approver { key, groups: [group.to_owned()].into(), actors: vec![name.to_owned()] })
        };
        let approvers = [approver("alice", 1, "dba"), approver("bob", 2, "dba"), approver("carol", 3, "web")].into();
        Rules { approvers, general, ..Rules::default() }
    }

    #[test]
    fn groups_and_self_approval_decide_who_counts() {
        let mut rules = three(Rule { groups: vec!["dba".into()], typed_phrase: false, ..Rule::default() });
        assert_eq!(rules.who_counts("promote", "dave@h"), ["alice", "bob"]);
        assert_eq!(rules.who_counts("promote", "alice@h"), ["bob"]);
        assert!(rules.counts("alice", "promote", "alice@h").unwrap_err().contains("self-approval"));
        assert!(rules.counts("carol", "promote", "dave@h").unwrap_err().contains("groups"));
        assert!(rules.counts("eve", "promote", "dave@h").unwrap_err().contains("no approver"));
        rules.actions.insert("undo".into(), Rule { self_approval: true, ..Rule::default() });
        assert_eq!(rules.who_counts("undo", "alice@h"), ["alice", "bob", "carol"]);
        assert!(rules.takes_phrase("undo") && !rules.takes_phrase("promote"));
    }

    #[test]
    fn an_actor_is_a_user_anywhere_or_on_one_host() {
        let mut rules = three(Rule::default());
        let alice = rules.approvers.get_mut("alice").unwrap();
        alice.actors = vec!["al@db1".into(), "alice.b".into()];
        assert!(alice.is_actor("al@db1") && alice.is_actor("alice.b@anywhere") && alice.is_actor("alice.b"));
        assert!(!alice.is_actor("al@db2") && !alice.is_actor("alice@db1") && !alice.is_actor("al"));
    }
}
