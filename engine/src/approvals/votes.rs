//! Votes on an intent, and what they come to.
//!
//! A vote is an approver's signature over the intent's text. It stands in the journal; what it is worth is found anew each time, from the
//! signature and the keys and rules of now. So neither a row nor a record makes an approval.

use serde_json::{Value, json};

use super::rules::Rules;
use super::signature::Signature;
use crate::journal::Record;

/// What a vote says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Yes.
    Approve,
    /// No; one is enough.
    Deny,
    /// Yes, alone, whatever number and groups the rule asks for.
    BreakGlass,
}

impl Choice {
    const ALL: [Self; 3] = [Self::Approve, Self::Deny, Self::BreakGlass];

    /// The word in a record.
    pub fn word(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
            Self::BreakGlass => "break-glass",
        }
    }

    /// The namespace it is signed in: a signature for one choice is none for another.
    pub fn namespace(self) -> &'static str {
        match self {
            Self::Approve => "approval@lifeboat",
            Self::Deny => "denial@lifeboat",
            Self::BreakGlass => "break-glass@lifeboat",
        }
    }

    fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.word() == word)
    }
}

/// A vote on record.
#[derive(Debug, Clone)]
pub struct Vote {
    /// The approval it is on.
    pub approval: String,
    /// What it says.
    pub choice: Choice,
    /// Who, by the name in the environment.
    pub approver: String,
    /// The armor.
    pub signature: String,
    /// Why, for breaking the glass.
    pub reason: Option<String>,
    /// When it was taken, Unix milliseconds.
    pub time_ms: u64,
}

impl Vote {
    /// Reads a `voted` record; none if it is no vote that this engine knows.
    pub fn of(record: &Record) -> Option<Self> {
        let text = |key: &str| record.body[key].as_str().map(str::to_owned);
        Some(Self {
            approval: text("approval")?,
            choice: Choice::parse(record.body["vote"].as_str()?)?,
            approver: text("approver")?,
            signature: text("signature")?,
            reason: text("reason"),
            time_ms: record.time_ms,
        })
    }
}

/// An intent as it was signed.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The approval's id.
    pub approval: &'a str,
    /// The text.
    pub text: &'a str,
    /// The text, parsed.
    pub body: &'a Value,
}

impl Asked<'_> {
    /// What consent is asked for.
    pub fn action(&self) -> &str {
        self.body["action"].as_str().unwrap_or_default()
    }

    /// Who started the run.
    pub fn actor(&self) -> &str {
        self.body["actor"].as_str().unwrap_or_default()
    }

    /// When it is too late, Unix milliseconds. An intent that does not say is of another time.
    pub fn expires_ms(&self) -> u64 {
        self.body["expires-ms"].as_u64().unwrap_or(0)
    }

    /// Whether it is too late.
    pub fn is_expired(&self, now_ms: u64) -> bool {
        now_ms >= self.expires_ms()
    }
}

/// What the votes on an intent come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tally {
    /// Someone said no.
    Denied {
        /// Who.
        by: String,
    },
    /// Enough said yes.
    Approved {
        /// Who.
        by: Vec<String>,
        /// Why, if one approver broke the glass.
        broke_glass: Option<String>,
    },
    /// Not enough yet.
    Missing {
        /// Whose yes counts so far.
        by: Vec<String>,
        /// Votes that do not count, and why.
        void: Vec<String>,
    },
}

impl Tally {
    /// How consent was given: the word on record.
    pub fn how(&self) -> &'static str {
        match self {
            Self::Approved { broke_glass: Some(_), .. } => "break-glass",
            _ => "signatures",
        }
    }
}

/// Counts the votes. A denial counts whether or not its signature still holds: stopping is the safe side. A yes counts once an approver,
/// if its signature holds against the key of now, and the approver is one whose yes counts by the rules of now.
pub fn tally(rules: &Rules, asked: Asked<'_>, votes: &[Vote]) -> Tally {
    let mut by: Vec<String> = Vec::new();
    let mut void = Vec::new();
    let mut alone = None;
    for vote in votes.iter().filter(|v| v.approval == asked.approval) {
        if vote.choice == Choice::Deny {
            return Tally::Denied { by: vote.approver.clone() };
        }
        match holds(rules, asked, vote) {
            Err(why) => void.push(why),
            Ok(()) if vote.choice == Choice::BreakGlass => {
                alone.get_or_insert((vote.approver.clone(), vote.reason.clone().unwrap_or_default()));
            }
            Ok(()) if by.contains(&vote.approver) => {}
            Ok(()) => by.push(vote.approver.clone()),
        }
    }
    let rule = rules.rule(asked.action());
    if !by.is_empty() && by.len() as u64 >= rule.needed {
        return Tally::Approved { by, broke_glass: None };
    }
    match alone {
        Some((approver, reason)) => Tally::Approved { by: vec![approver], broke_glass: Some(reason) },
        None => Tally::Missing { by, void },
    }
}

/// Whether a yes counts. The error says whose does not, and why.
pub(super) fn holds(rules: &Rules, asked: Asked<'_>, vote: &Vote) -> Result<(), String> {
    let name = host_api::identifier::shown(&vote.approver);
    let approver = rules.approvers.get(&vote.approver).ok_or_else(|| format!("{name} is no approver here"))?;
    if asked.body["approval"] != asked.approval {
        return Err(format!("the vote of {name} is on the intent of another approval"));
    }
    Signature::read(&vote.signature)
        .and_then(|signature| approver.key.verify(vote.choice.namespace(), asked.text, &signature))
        .map_err(|why| format!("the signature of {name} {why}"))?;
    match vote.choice {
        Choice::BreakGlass if !rules.rule(asked.action()).break_glass => {
            Err(format!("{name} broke the glass, which is not allowed here"))
        }
        Choice::BreakGlass | Choice::Deny => Ok(()),
        Choice::Approve => rules.counts(&vote.approver, asked.action(), asked.actor()),
    }
}

/// What is still missing, and how to give it: lines for people.
pub fn how_to_approve(rules: &Rules, asked: Asked<'_>, given: &[String]) -> Vec<String> {
    let (id, rule) = (asked.approval, rules.rule(asked.action()));
    let who: Vec<&str> = rules
        .who_counts(asked.action(), asked.actor())
        .into_iter()
        .filter(|name| !given.iter().any(|g| g == name))
        .collect();
    let mut lines = vec![format!(
        "approval {id} has {} of {} signatures; who can sign: {}",
        given.len(),
        rule.needed,
        if who.is_empty() { "nobody else".to_owned() } else { who.join(", ") }
    )];
    lines.push(format!("it expires {}", host_api::identifier::utc(asked.expires_ms())));
    lines.push(format!(
        "to sign here: lifeboat approve {id} --key KEYFILE (without --key, the SSH agent signs); or: lifeboat deny {id}"
    ));
    lines.push(format!(
        "to sign elsewhere: lifeboat approvals show {id} --intent FILE; carry it; ssh-keygen -Y sign -f KEYFILE -n {} FILE; carry FILE.sig \
         back; lifeboat approve {id} --signature FILE.sig",
        Choice::Approve.namespace()
    ));
    if rule.break_glass {
        lines.push(format!(
            "if nobody can be reached: lifeboat approve {id} --break-glass REASON, by any approver, alone"
        ));
    }
    lines
}

/// The decision as it stands in the record of the step that asked.
pub(crate) fn decision(tally: &Tally) -> Value {
    match tally {
        Tally::Approved { by, broke_glass: Some(reason) } => {
            json!({"approved-by": by.join(", "), "how": tally.how(), "reason": reason})
        }
        Tally::Approved { by, .. } => json!({"approved-by": by.join(", "), "how": tally.how()}),
        Tally::Denied { by } => json!({"denied-by": by}),
        Tally::Missing { .. } => Value::Null,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::approvals::rules::Rule;
    use crate::approvals::rules::tests::three;
    use crate::approvals::signature::tests::signed;

    pub(crate) fn intent() -> Value {
        json!({"approval": "a1", "action": "promote", "actor": "dave@h", "expires-ms": 1000, "run": "r1"})
    }

    fn vote(approver: &str, seed: u8, choice: Choice, text: &str) -> Vote {
        Vote {
            approval: "a1".into(),
            choice,
            approver: approver.into(),
            signature: signed(seed, choice.namespace(), text),
            reason: Some("because".into()),
            time_ms: 1,
        }
    }

    fn count(rules: &Rules, votes: &[Vote]) -> Tally {
        let body = intent();
        tally(rules, Asked { approval: "a1", text: &body.to_string(), body: &body }, votes)
    }

    fn two() -> Rules {
        three(Rule { needed: 2, groups: vec!["dba".into()], typed_phrase: false, ..Rule::default() })
    }

    fn missing(tally: &Tally) -> (&[String], String) {
        let Tally::Missing { by, void } = tally else { panic!("{tally:?}") };
        (by, void.join("; "))
    }

    #[test]
    fn two_distinct_approvers_of_the_group_are_enough_and_fewer_are_not() {
        let (rules, text) = (two(), intent().to_string());
        let yes = |name, seed| vote(name, seed, Choice::Approve, &text);
        assert_eq!(missing(&count(&rules, &[])).0.len(), 0);
        assert_eq!(missing(&count(&rules, &[yes("alice", 1)])).0, ["alice"]);
        assert_eq!(missing(&count(&rules, &[yes("alice", 1), yes("alice", 1)])).0, ["alice"], "the same twice is one");
        let web = count(&rules, &[yes("alice", 1), yes("carol", 3)]);
        assert!(missing(&web).1.contains("groups"), "{web:?}");
        let enough = count(&rules, &[yes("alice", 1), yes("bob", 2)]);
        assert_eq!(enough, Tally::Approved { by: vec!["alice".into(), "bob".into()], broke_glass: None });
    }

    #[test]
    fn a_denial_wins_wherever_it_stands_and_however_it_is_signed() {
        let (rules, text) = (two(), intent().to_string());
        let (alice, bob) = (vote("alice", 1, Choice::Approve, &text), vote("bob", 2, Choice::Approve, &text));
        let glass = vote("alice", 1, Choice::BreakGlass, &text);
        let mut no = vote("carol", 3, Choice::Deny, &text);
        no.signature = "not a signature any more".into();
        for votes in [[no.clone(), alice.clone(), bob.clone(), glass.clone()], [alice, bob, glass, no]] {
            assert_eq!(count(&rules, &votes), Tally::Denied { by: "carol".into() });
        }
    }

    #[test]
    fn what_was_signed_otherwise_is_void() {
        let (rules, text) = (two(), intent().to_string());
        let mut cases = vec![
            (vote("alice", 2, Choice::Approve, &text), "another key"),
            (vote("alice", 1, Choice::Approve, &text.replace("r1", "r2")), "not one of this text"),
            (vote("eve", 1, Choice::Approve, &text), "no approver here"),
            (vote("alice", 1, Choice::BreakGlass, &text), "not allowed here"),
        ];
        let mut relabelled = vote("alice", 1, Choice::Deny, &text);
        relabelled.choice = Choice::Approve;
        cases.push((relabelled, "another purpose"));
        for (vote, says) in cases {
            let tally = count(&rules, &[vote, self::vote("bob", 2, Choice::Approve, &text)]);
            let (by, void) = missing(&tally);
            assert_eq!(by, ["bob"]);
            assert!(void.contains(says), "{says}: {void}");
        }
        // A row of another approval that holds this one's intent, and so its signatures.
        let body = intent();
        let copied = Asked { approval: "a2", text: &body.to_string(), body: &body };
        let votes = [("alice", 1), ("bob", 2)]
            .map(|(name, seed)| Vote { approval: "a2".into(), ..vote(name, seed, Choice::Approve, copied.text) });
        assert!(missing(&tally(&rules, copied, &votes)).1.contains("another approval"));
    }

    #[test]
    fn the_one_who_started_the_run_does_not_count_unless_allowed() {
        let mut rules = three(Rule { typed_phrase: false, ..Rule::default() });
        rules.approvers.get_mut("alice").unwrap().actors = vec!["dave".into()];
        let votes = [vote("alice", 1, Choice::Approve, &intent().to_string())];
        assert!(missing(&count(&rules, &votes)).1.contains("self-approval"));
        rules.general.self_approval = true;
        assert_eq!(count(&rules, &votes).how(), "signatures");
        assert!(matches!(count(&rules, &votes), Tally::Approved { .. }));
    }

    #[test]
    fn a_key_that_was_replaced_takes_its_vote_with_it() {
        let (mut rules, text) = (two(), intent().to_string());
        let votes = [vote("alice", 1, Choice::Approve, &text), vote("bob", 2, Choice::Approve, &text)];
        assert!(matches!(count(&rules, &votes), Tally::Approved { .. }));
        rules.approvers.get_mut("bob").unwrap().key = rules.approvers["carol"].key.clone();
        assert!(missing(&count(&rules, &votes)).1.contains("another key"));
        rules.approvers.remove("bob");
        assert_eq!(missing(&count(&rules, &votes)).0, ["alice"]);
    }

    #[test]
    fn one_approver_breaks_the_glass_where_that_is_allowed() {
        let (mut rules, text) = (two(), intent().to_string());
        let votes = [vote("carol", 3, Choice::BreakGlass, &text)];
        assert!(missing(&count(&rules, &votes)).1.contains("not allowed"));
        rules.general.break_glass = true;
        let tally = count(&rules, &votes);
        assert_eq!(tally, Tally::Approved { by: vec!["carol".into()], broke_glass: Some("because".into()) });
        assert_eq!(decision(&tally)["how"], "break-glass");
    }

    #[test]
    fn an_intent_is_open_until_its_moment_and_not_in_it() {
        let body = intent();
        let asked = Asked { approval: "a1", text: "", body: &body };
        assert!(!asked.is_expired(999) && asked.is_expired(1000));
        assert!(Asked { approval: "a1", text: "", body: &Value::Null }.is_expired(0), "one that does not say");
    }
}
