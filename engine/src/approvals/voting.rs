//! Taking a vote: checked against the rules, then on record in the run it belongs to.

use serde_json::json;

use super::rules::Rules;
use super::signature::Signature;
use super::votes::{Asked, Choice, Tally, Vote, holds, tally};
use crate::error::{Error, Kind, Result};
use crate::journal::{ApprovalRow, ApprovalState, By, Change, State, Transition};

/// Longest reason for breaking the glass.
const REASON_BYTES_MAX: usize = 500;

/// A vote that someone brings.
pub struct Ballot<'a> {
    /// What it says.
    pub choice: Choice,
    /// The armor.
    pub signature: &'a str,
    /// The approver that it must be by; without, whoever's key signed.
    pub approver: Option<&'a str>,
    /// Why; needed to break the glass.
    pub reason: Option<&'a str>,
    /// Who brings it, and by which way.
    pub by: &'a By,
}

/// What came of a vote.
#[derive(Debug)]
pub struct Taken {
    /// Whose it is.
    pub approver: String,
    /// False if the same vote was on record already.
    pub is_new: bool,
    /// What all votes come to now.
    pub tally: Tally,
}

/// Takes a vote on an approval, and puts it on record. `now_ms`: Unix milliseconds. A refusal says why, and records nothing: an approval that
/// is over or expired, a signature that does not hold, an approver whose vote does not count, a vote that differs from an earlier one.
pub async fn take(state: &State, rules: &Rules, id: &str, ballot: &Ballot<'_>, now_ms: u64) -> Result<Taken> {
    loop {
        let row = state.approval(id).await?;
        let text = row.intent.to_string();
        let asked = Asked { approval: &row.id, text: &text, body: &row.intent };
        let run_is_over = state.run(&row.run).await?.ended_ms.is_some();
        answerable(&row, asked, run_is_over, ballot.choice, now_ms)?;
        let on_record = state.records_of(&row.run, Transition::Voted).await?;
        let mut votes: Vec<Vote> = on_record.iter().filter_map(Vote::of).filter(|v| v.approval == row.id).collect();
        let (vote, fingerprint) = admit(rules, asked, &votes, ballot, now_ms)?;
        let approver = vote.approver.clone();
        // A yes that does not hold any more, because its key was replaced, does not stand in the way of one that does.
        let stands = |vote: &Vote| vote.choice == Choice::Deny || holds(rules, asked, vote).is_ok();
        if votes.iter().any(|v| v.approver == approver && v.choice == ballot.choice && stands(v)) {
            return Ok(Taken { approver, is_new: false, tally: tally(rules, asked, &votes) });
        }
        let mut body = json!({
            "approval": row.id, "vote": vote.choice.word(), "approver": approver, "key": fingerprint,
            "namespace": vote.choice.namespace(), "signature": vote.signature, "intent-sha256": row.intent_sha256,
        });
        if let Some(reason) = &vote.reason {
            body["reason"] = json!(reason);
        }
        votes.push(vote);
        let tally = tally(rules, asked, &votes);
        let mut changes = vec![Change::VoteCounted(row.id.clone(), on_record.len() as u64)];
        changes.extend(
            match &tally {
                Tally::Denied { by } => Some((ApprovalState::Denied, by.clone())),
                Tally::Approved { by, .. } => Some((ApprovalState::Approved, by.join(", "))),
                Tally::Missing { .. } => None,
            }
            .map(|(state, by)| Change::ApprovalDecided(row.id.clone(), state, by, tally.how().into())),
        );
        match state.append(&row.run, ballot.by, Transition::Voted, None, body, &changes).await {
            Ok(_) => {
                if let (Choice::BreakGlass, Some(reason)) = (ballot.choice, ballot.reason) {
                    tracing::warn!(approval = row.id, run = row.run, approver, reason, "the glass was broken");
                }
                return Ok(Taken { approver, is_new: true, tally });
            }
            // Someone else's came first: looked at again with it.
            Err(_) if state.records_of(&row.run, Transition::Voted).await?.len() > on_record.len() => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether anyone can still answer; a refusal says why not. After enough said yes, a no still counts until the approval is spent.
pub fn answerable(row: &ApprovalRow, asked: Asked<'_>, run_is_over: bool, choice: Choice, now_ms: u64) -> Result<()> {
    let refused = |why: String| {
        Err(Error::new(Kind::Failed, format!("approval {} takes no vote: {why}", row.id))
            .hint("`lifeboat approvals list` shows those that do"))
    };
    match row.state {
        ApprovalState::Open | ApprovalState::Approved => {}
        // Saying no again is no news, and no harm.
        ApprovalState::Denied if choice == Choice::Deny && !run_is_over => return Ok(()),
        ApprovalState::Denied => return refused(format!("{} said no", row.decided_by.as_deref().unwrap_or("someone"))),
        ApprovalState::Stale => return refused("it is stale: what it was asked for has changed".into()),
        ApprovalState::Spent | ApprovalState::Expired => return refused(format!("it is {}", row.state.word())),
    }
    if run_is_over {
        return refused(format!("its run {} is over", row.run));
    }
    if asked.is_expired(now_ms) {
        return refused(format!("it expired {}", host_api::identifier::utc(asked.expires_ms())));
    }
    if asked.body["approval"] != asked.approval {
        return refused("its intent is another approval's".into());
    }
    Ok(())
}

/// The vote, if it is one: by an approver, over this text, for this choice, and not another one than before. With the key's fingerprint.
fn admit(rules: &Rules, asked: Asked<'_>, votes: &[Vote], ballot: &Ballot<'_>, now_ms: u64) -> Result<(Vote, String)> {
    let refused = |why: String| Error::new(Kind::Failed, why);
    let signature = Signature::read(ballot.signature).map_err(|why| refused(format!("the signature {why}")))?;
    let names = || rules.approvers.keys().map(String::as_str);
    let (name, approver) = match ballot.approver {
        Some(name) => rules.approvers.get_key_value(name).ok_or_else(|| Error::unknown("approver", name, names()))?,
        None => rules.approvers.iter().find(|(_, a)| a.key.is_of(&signature)).ok_or_else(|| {
            refused(format!("the signature is by key {}, which is no approver's", signature.fingerprint()))
                .hint(format!("approvers: {}", Vec::from_iter(names()).join(", ")))
        })?,
    };
    approver
        .key
        .verify(ballot.choice.namespace(), asked.text, &signature)
        .map_err(|why| refused(format!("the signature of {name} {why}")))?;
    match ballot.choice {
        Choice::Approve => rules.counts(name, asked.action(), asked.actor()).map_err(|why| {
            let who = rules.who_counts(asked.action(), asked.actor());
            refused(format!("the vote would not count: {why}")).hint(format!("who counts: {}", who.join(", ")))
        })?,
        Choice::BreakGlass => {
            if !rules.rule(asked.action()).break_glass {
                return Err(refused("breaking the glass is not allowed in this environment".into()).hint(format!(
                    "break-glass = true in [environment.{}.approval] would allow it",
                    asked.body["environment"].as_str().unwrap_or("E")
                )));
            }
            if ballot.reason.is_none_or(|r| r.trim().is_empty()) {
                return Err(Error::new(Kind::Usage, "breaking the glass needs a reason"));
            }
            if ballot.reason.is_some_and(|r| r.len() > REASON_BYTES_MAX) {
                return Err(Error::new(Kind::Usage, format!("a reason has at most {REASON_BYTES_MAX} bytes")));
            }
        }
        // Any approver's no counts.
        Choice::Deny => {}
    }
    // Breaking the glass after a yes is no change of mind.
    let is_no = |choice| choice == Choice::Deny;
    if let Some(before) = votes.iter().find(|v| v.approver == *name && is_no(v.choice) != is_no(ballot.choice)) {
        return Err(refused(format!(
            "{name} has voted `{}` on approval {}: a vote can't be changed to `{}`",
            before.choice.word(),
            asked.approval,
            ballot.choice.word()
        ))
        .hint("another approver can deny; or abandon the run and start a new one"));
    }
    let vote = Vote {
        approval: asked.approval.to_owned(),
        choice: ballot.choice,
        approver: name.clone(),
        signature: signature.armor().to_owned(),
        reason: ballot.reason.map(str::to_owned),
        time_ms: now_ms,
    };
    Ok((vote, approver.key.fingerprint()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::approvals::rules::Rule;
    use crate::approvals::rules::tests::three;
    use crate::approvals::signature::Key;
    use crate::approvals::signature::tests::{public, signed};
    use crate::approvals::votes::tests::intent;
    use crate::journal::RunRow;

    fn by() -> By {
        By { actor: "x@h".into(), channel: "test".into() }
    }

    /// A run with one open approval, `a1`; it expires at 1,000 ms.
    async fn asked(directory: &std::path::Path) -> State {
        let state = State::open(directory).await.unwrap();
        let row = RunRow {
            id: "r1".into(),
            environment: "e".into(),
            policy: "p".into(),
            module_sha256: "0".into(),
            ..RunRow::default()
        };
        state.append("r1", &by(), Transition::RunStarted, None, json!({}), &[Change::RunBegins(row)]).await.unwrap();
        let opens = Change::ApprovalOpens("a1".into(), 1, intent().to_string(), "sha".into());
        state.append("r1", &by(), Transition::Started, Some(1), json!({}), &[opens]).await.unwrap();
        state
    }

    fn rules() -> Rules {
        three(Rule { needed: 2, typed_phrase: false, ..Rule::default() })
    }

    async fn vote(state: &State, seed: u8, choice: Choice, now_ms: u64) -> Result<Taken> {
        let signature = signed(seed, choice.namespace(), &intent().to_string());
        let ballot = Ballot { choice, signature: &signature, approver: None, reason: None, by: &by() };
        take(state, &rules(), "a1", &ballot, now_ms).await
    }

    async fn on_record(state: &State) -> Vec<Value> {
        state.records_of("r1", Transition::Voted).await.unwrap().into_iter().map(|r| r.body).collect()
    }

    #[tokio::test]
    async fn a_vote_is_a_record_and_enough_of_them_decide() {
        let directory = tempfile::tempdir().unwrap();
        let state = asked(directory.path()).await;
        let first = vote(&state, 1, Choice::Approve, 999).await.unwrap();
        assert_eq!((first.approver.as_str(), first.is_new), ("alice", true));
        assert_eq!(state.approval("a1").await.unwrap().state, ApprovalState::Open);
        assert!(!vote(&state, 1, Choice::Approve, 999).await.unwrap().is_new);
        let record = &on_record(&state).await[0];
        assert_eq!((&record["approver"], &record["namespace"]), (&json!("alice"), &json!("approval@lifeboat")));
        assert!(record["key"].as_str().unwrap().starts_with("SHA256:"), "{record}");
        vote(&state, 2, Choice::Approve, 999).await.unwrap();
        let row = state.approval("a1").await.unwrap();
        assert_eq!((row.state, row.decided_by.as_deref()), (ApprovalState::Approved, Some("alice, bob")));
        // It moved nothing: the step is still open, and ends as if nobody had voted.
        state.append("r1", &by(), Transition::Completed, Some(1), json!({}), &[]).await.unwrap();
        assert_eq!(state.records("r1").await.unwrap().len(), 5);
        state.verify_chain().await.unwrap();
    }

    #[tokio::test]
    async fn what_is_refused_leaves_no_record() {
        let directory = tempfile::tempdir().unwrap();
        let state = asked(directory.path()).await;
        let says = |result: Result<Taken>, words: &str| {
            let error = result.unwrap_err();
            assert!(error.message.contains(words), "{words}: {error}");
        };
        says(vote(&state, 1, Choice::Approve, 1000).await, "it expired 1970-01-01T00:00:01Z");
        says(vote(&state, 4, Choice::Approve, 1).await, "no approver's");
        says(vote(&state, 1, Choice::BreakGlass, 1).await, "not allowed");
        assert!(on_record(&state).await.is_empty());
        vote(&state, 1, Choice::Approve, 1).await.unwrap();
        says(vote(&state, 1, Choice::Deny, 1).await, "can't be changed to `deny`");
        vote(&state, 3, Choice::Deny, 1).await.unwrap();
        assert_eq!(state.approval("a1").await.unwrap().state, ApprovalState::Denied);
        says(vote(&state, 2, Choice::Approve, 1).await, "carol said no");
        says(vote(&state, 3, Choice::Approve, 1).await, "carol said no");
        assert_eq!(on_record(&state).await.len(), 2);
        for (over, words) in [
            (ApprovalState::Stale, "it is stale"),
            (ApprovalState::Expired, "it is expired"),
            (ApprovalState::Spent, "it is spent"),
        ] {
            let row = ApprovalRow { state: over, ..state.approval("a1").await.unwrap() };
            let text = row.intent.to_string();
            let asked = Asked { approval: "a1", text: &text, body: &row.intent };
            assert!(answerable(&row, asked, false, Choice::Deny, 1).unwrap_err().message.contains(words));
        }
        let ends = Change::RunStatus("failed".into(), String::new(), Some(5));
        state.append("r1", &by(), Transition::RunEnded, None, json!({}), &[ends]).await.unwrap();
        says(vote(&state, 2, Choice::Deny, 1).await, "carol said no");
    }

    #[tokio::test]
    async fn who_has_a_new_key_votes_again_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let (state, mut rules) = (asked(directory.path()).await, rules());
        let with = async |rules: &Rules, seed| {
            let signature = signed(seed, Choice::Approve.namespace(), &intent().to_string());
            let ballot = Ballot {
                choice: Choice::Approve,
                signature: &signature,
                approver: Some("alice"),
                reason: None,
                by: &by(),
            };
            take(&state, rules, "a1", &ballot, 1).await.unwrap()
        };
        with(&rules, 1).await;
        rules.approvers.get_mut("alice").unwrap().key = Key::read(&public(4)).unwrap();
        let again = with(&rules, 4).await;
        assert!(again.is_new);
        assert!(matches!(&again.tally, Tally::Missing { by, .. } if by == &["alice"]), "{:?}", again.tally);
        assert!(!with(&rules, 4).await.is_new);
        assert_eq!(on_record(&state).await.len(), 2);
    }

    #[tokio::test]
    async fn votes_at_the_same_moment_are_all_counted_once() {
        let directory = tempfile::tempdir().unwrap();
        drop(asked(directory.path()).await);
        futures::future::join_all([1, 2, 3, 1, 2, 3].map(async |seed| {
            vote(&State::open(directory.path()).await.unwrap(), seed, Choice::Approve, 1).await.unwrap()
        }))
        .await;
        let state = State::open(directory.path()).await.unwrap();
        assert_eq!(on_record(&state).await.len(), 3);
        assert_eq!(state.approval("a1").await.unwrap().state, ApprovalState::Approved);
        state.verify_chain().await.unwrap();
    }

    #[tokio::test]
    async fn a_vote_counted_without_the_one_before_it_is_refused_whole() {
        let directory = tempfile::tempdir().unwrap();
        let state = asked(directory.path()).await;
        vote(&state, 1, Choice::Approve, 1).await.unwrap();
        for (approval, before) in [("a1", 0), ("a1", 2), ("other", 1)] {
            let changes = [Change::VoteCounted(approval.into(), before)];
            assert!(
                state.append("r1", &by(), Transition::Voted, None, json!({}), &changes).await.is_err(),
                "{approval} {before}"
            );
        }
        assert_eq!(on_record(&state).await.len(), 1);
    }
}
