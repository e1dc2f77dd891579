//! The engine's side of consent: opening an approval, asking whoever can answer, holding an approval against what a call would do, and the
//! subjects of the intents.

use std::time::Duration;

use host_api::catalog::Backup;
use host_api::promote::{Description, Promotion};
use host_api::restore::Candidate;
use host_api::{Error as HostError, ErrorKind, Finding, identifier};
use serde_json::{Value, json};

use crate::approvals::fresh;
use crate::approvals::votes::{self, Asked, Tally, Vote};
use crate::approvals::{Answer, Intent, RunOf, Subject, Terms};
use crate::by_rules::{self, ByRules};
use crate::direct::NO_MODULE;
use crate::dispatch::Performed;
use crate::journal::{ApprovalRow, ApprovalState, Change, Transition};
use crate::step::{ASKING_FAILED, INTENT_NOW, Prepared, Stepper, Stop};

/// How often a run by hand, which can't be parked, looks for votes.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// Consent that holds now.
enum Given {
    Votes(Tally),
    /// An answer without a signature, where that is enough.
    Phrase,
    Rules(ByRules),
}

/// Why an approval is not, or not any more.
enum Refusal {
    Expired,
    Denied(String),
    Missing(Vec<String>),
}

impl Stepper {
    /// An approval to be asked for, or the unspent one for the same intent.
    pub(crate) async fn open_approval(&self, subject: Subject<'_>) -> Result<Prepared, HostError> {
        let (id, now_ms) = (identifier::fresh(), identifier::now_ms());
        let intent = self.intent(subject, &id, now_ms).await?;
        for row in self.approvals().await? {
            let unspent = row.state == ApprovalState::Approved && intent.same_thing(&row.intent);
            if unspent && self.consent(&row, now_ms).await.is_ok() {
                return Ok(Prepared::with(json!({"approval": row.id})));
            }
        }
        Ok(Prepared {
            body: json!({"approval": id, "intent": intent.body, "intent-sha256": intent.sha256}),
            on_start: vec![Change::ApprovalOpens(id, self.step, intent.text, intent.sha256)],
        })
    }

    /// Asks whoever can answer.
    pub(crate) async fn ask(&mut self, prepared: &Value) -> Result<Performed, Stop> {
        let id = prepared["approval"].as_str().unwrap_or_default().to_owned();
        let mut told = false;
        loop {
            let row = match self.approvals().await.map(|rows| rows.into_iter().find(|r| r.id == id)) {
                Ok(Some(row)) => row,
                Ok(None) => {
                    return Ok(Err(HostError::failed("a bug: an approval was asked for without a record")).into());
                }
                Err(error) => return Ok(Err(error).into()),
            };
            let (intent, how) = match self.standing(&row, prepared).await {
                Standing::Decided(performed) => return Ok(performed),
                Standing::Open(intent, how) => (intent, how),
            };
            if !told && let Some(Err(why)) = self.by_rules(&row).await {
                self.said.finding(Finding::info("consent-asked", why));
            }
            if self.approval_rules.takes_phrase(&intent.action) {
                return self.answered(&row, &intent).await;
            }
            if !std::mem::replace(&mut told, true) {
                self.around.confirmer.show(&intent, &how);
            }
            if self.run.module_sha256 != NO_MODULE {
                return Err(Stop::Parked { approval: id });
            }
            // A run by hand can't be parked: it waits for the votes.
            tokio::select! {
                () = tokio::time::sleep(LOOK_AGAIN) => {}
                () = self.cancellation() => return Ok(cancelled().into()),
            }
        }
    }

    /// Where an approval stands before anyone is asked.
    async fn standing(&self, row: &ApprovalRow, prepared: &Value) -> Standing {
        let id = &row.id;
        let over = |result: HostError| Standing::Decided(Err(result).into());
        match row.state {
            ApprovalState::Denied => return over(rejected(row.decided_by.as_deref().unwrap_or("someone"))),
            ApprovalState::Spent | ApprovalState::Expired | ApprovalState::Stale => {
                return over(HostError::new(ErrorKind::Expired, format!("approval {id} is {}", row.state.word())));
            }
            ApprovalState::Open | ApprovalState::Approved => {}
        }
        if let Err(ending) = self.plain_context().check() {
            return over(ending);
        }
        if let Some(why) = prepared[ASKING_FAILED].as_str() {
            return over(HostError::failed(format!("approval {id} can't be asked for any more: {why}")));
        }
        let shown = match &prepared[INTENT_NOW] {
            Value::Null => row.intent.clone(),
            now if row.intent.is_object() && Intent::is_same_thing(now, &row.intent) => now.clone(),
            _ => {
                let why = format!("approval {id} is stale: what it was asked for has changed");
                let record = json!({"stale": "identities, rules or format changed while the run waited"});
                return Standing::Decided(self.ended(row, ApprovalState::Stale, why, record));
            }
        };
        let by_hand = self.run.module_sha256 == NO_MODULE;
        let how = match self.consent(row, identifier::now_ms()).await {
            // A run by hand has waited since it read the keys and rules: by those of now, as who took the newest vote found, it is not enough.
            Ok(Given::Votes(_)) if by_hand && row.state == ApprovalState::Open => Vec::new(),
            Ok(given) => {
                let (record, by) = match given {
                    Given::Votes(tally) => (Some(votes::decision(&tally)), Some((names(&tally), tally.how()))),
                    Given::Phrase => (None, None),
                    Given::Rules(rules) => (Some(rules.record()), Some((by_rules::BY.to_owned(), by_rules::HOW))),
                };
                let changes = by.map(|(by, how)| decided(id, ApprovalState::Approved, &by, how)).into_iter().collect();
                return Standing::Decided(Performed { result: Ok(json!({"id": id})), record, changes });
            }
            Err(Refusal::Expired) => return Standing::Decided(self.expired(row)),
            Err(Refusal::Denied(by)) => {
                return Standing::Decided(Performed {
                    result: Err(rejected(&by)),
                    record: Some(json!({"denied-by": by})),
                    changes: vec![decided(id, ApprovalState::Denied, &by, "signatures")],
                });
            }
            Err(Refusal::Missing(how)) => how,
        };
        let intent = Intent {
            action: row.intent["action"].as_str().unwrap_or_default().to_owned(),
            service: row.intent["service"].as_str().unwrap_or_default().to_owned(),
            text: row.intent.to_string(),
            sha256: row.intent_sha256.clone(),
            body: shown,
        };
        Standing::Open(intent, how)
    }

    /// Asks for an answer without a signature.
    async fn answered(&mut self, row: &ApprovalRow, intent: &Intent) -> Result<Performed, Stop> {
        let confirmer = self.around.confirmer.clone();
        let answer = tokio::select! {
            answer = confirmer.ask(intent) => answer,
            () = self.cancellation() => return Ok(cancelled().into()),
        };
        Ok(match answer {
            // Hours may pass at the prompt.
            Answer::Approved { .. } if asked(row, &intent.text).is_expired(identifier::now_ms()) => self.expired(row),
            Answer::Approved { by, how } => Performed {
                result: Ok(json!({"id": row.id})),
                record: Some(json!({"approved-by": by, "how": how})),
                changes: vec![decided(&row.id, ApprovalState::Approved, &by, &how)],
            },
            Answer::Denied { by } => Performed {
                result: Err(rejected(&by)),
                record: Some(json!({"denied-by": by})),
                changes: vec![decided(&row.id, ApprovalState::Denied, &by, "answer")],
            },
            Answer::NobodyHere => return Err(Stop::Parked { approval: row.id.clone() }),
        })
    }

    /// Whether consent is given now: by votes that hold (with what they come to), by an answer without a signature where that is enough, or by the
    /// environment itself.
    async fn consent(&self, row: &ApprovalRow, now_ms: u64) -> Result<Given, Refusal> {
        let text = row.intent.to_string();
        let asked = asked(row, &text);
        if asked.is_expired(now_ms) {
            return Err(Refusal::Expired);
        }
        let on_record = self.around.state.records_of(&self.run.id, Transition::Voted).await;
        // What can't be read is no consent.
        let on_record = on_record.map_err(|e| Refusal::Missing(vec![e.to_string()]))?;
        let all: Vec<Vote> = on_record.iter().filter_map(Vote::of).collect();
        match votes::tally(&self.approval_rules, asked, &all) {
            Tally::Denied { by } => Err(Refusal::Denied(by)),
            tally @ Tally::Approved { .. } => Ok(Given::Votes(tally)),
            Tally::Missing { by, void } => {
                let signed = matches!(row.how.as_deref(), Some("signatures" | "break-glass" | by_rules::HOW));
                let phrase = row.state == ApprovalState::Approved && !signed;
                if phrase && self.approval_rules.takes_phrase(asked.action()) {
                    return Ok(Given::Phrase);
                }
                let asked_all_the_same = match self.by_rules(row).await {
                    Some(Ok(given)) => return Ok(Given::Rules(given)),
                    Some(Err(why)) => Some(why),
                    None => None,
                };
                let mut how = votes::how_to_approve(&self.approval_rules, asked, &by);
                how.extend(void.into_iter().map(|why| format!("does not count: {why}")));
                how.extend(asked_all_the_same);
                Err(Refusal::Missing(how))
            }
        }
    }

    fn expired(&self, row: &ApprovalRow) -> Performed {
        let why = format!("approval {} has expired: nobody answered in time", row.id);
        self.ended(row, ApprovalState::Expired, why, json!({"expired": row.intent["expires-ms"]}))
    }

    /// An approval that came to its end unanswered.
    fn ended(&self, row: &ApprovalRow, state: ApprovalState, why: String, record: Value) -> Performed {
        Performed {
            result: Err(HostError::new(ErrorKind::Expired, why)),
            record: Some(record),
            changes: vec![decided(&row.id, state, "host", state.word())],
        }
    }

    /// Comes back when the run is cancelled or past its deadline.
    async fn cancellation(&self) {
        while self.plain_context().check().is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The approval that a destructive call brings, held against what the call would do now, and its votes against the keys of now.
    pub(crate) async fn approval_for(&mut self, full: &Value, subject: Subject<'_>) -> Result<ApprovalRow, HostError> {
        let id = full["approval"]["id"].as_str().unwrap_or_default().to_owned();
        let now_ms = identifier::now_ms();
        let intent = self.intent(subject, &id, now_ms).await?;
        let row = self
            .approvals()
            .await?
            .into_iter()
            .find(|r| r.id == id)
            .ok_or_else(|| HostError::refused(format!("approval {} is not of this run", identifier::shown(&id))))?;
        fresh::check_recorded(&self.around.state, &row).await.map_err(|e| HostError::refused(e.to_string()))?;
        match row.state {
            ApprovalState::Approved => {}
            ApprovalState::Denied => return Err(rejected(row.decided_by.as_deref().unwrap_or("someone"))),
            _ => return Err(HostError::refused(format!("approval {id} is {}", row.state.word()))),
        }
        if row.intent["action"] != intent.body["action"] || row.intent["object"] != intent.body["object"] {
            return Err(HostError::refused(format!("approval {id} is for something else: {}", row.intent["action"])));
        }
        if !intent.same_thing(&row.intent) {
            return Err(HostError::new(
                ErrorKind::Expired,
                format!("approval {id} is stale: what it was given for has changed"),
            )
            .hint("ask again: the identities of live data or candidate are not those that were shown"));
        }
        match self.consent(&row, now_ms).await {
            Ok(Given::Votes(Tally::Approved { by, broke_glass: Some(reason) })) => {
                let what = format!("{} broke the glass to {}: {reason}", by.join(", "), intent.action);
                let fix = "tell the other approvers, and look at what was done";
                self.said.finding(Finding::warning("break-glass", what, fix));
                self.said.tell(&*self.around.observer, &self.run.id);
            }
            Ok(Given::Rules(rules)) => {
                self.said.finding(Finding::info("removed-by-rules", rules.words()));
                self.said.tell(&*self.around.observer, &self.run.id);
            }
            Ok(Given::Votes(_) | Given::Phrase) => {}
            Err(Refusal::Denied(by)) => return Err(rejected(&by)),
            Err(Refusal::Expired) => {
                return Err(HostError::new(ErrorKind::Expired, format!("approval {id} has expired"))
                    .hint("ask again: it was given, and not used in time"));
            }
            Err(Refusal::Missing(_)) => {
                return Err(HostError::new(ErrorKind::Expired, format!("approval {id} is not given, or not any more"))
                    .hint(format!("`lifeboat approvals show {id}` says whose signature does not hold")));
            }
        }
        Ok(row)
    }

    pub(crate) async fn approvals(&self) -> Result<Vec<ApprovalRow>, HostError> {
        self.around.state.approvals(Some(&self.run.id)).await.map_err(|e| HostError::failed(e.to_string()))
    }

    async fn intent(&self, subject: Subject<'_>, id: &str, now_ms: u64) -> Result<Intent, HostError> {
        let begun = self.around.state.records_of(&self.run.id, Transition::RunStarted).await;
        let begun = begun.map_err(|e| HostError::failed(e.to_string()))?;
        let of = RunOf {
            run: &self.run.id,
            // Who resumes it does not change who began it.
            actor: begun.first().and_then(|r| r.body["actor"].as_str()).unwrap_or_default(),
            environment: &self.run.environment,
            policy: &self.run.policy,
            module_sha256: &self.run.module_sha256,
            grants_sha256: &self.grants.sha256,
        };
        let rule = self.approval_rules.rule(subject.action);
        let lives_ms = u64::try_from(rule.time_to_live.as_millis()).unwrap_or(u64::MAX);
        let expires_ms = now_ms.saturating_add(lives_ms);
        Ok(Intent::build(&of, subject, &Terms { approval: id, expires_ms, rule }))
    }
}

/// Before anyone is asked: decided, or open, with what is shown and what is missing.
enum Standing {
    Decided(Performed),
    Open(Intent, Vec<String>),
}

fn asked<'a>(row: &'a ApprovalRow, text: &'a str) -> Asked<'a> {
    Asked { approval: &row.id, text, body: &row.intent }
}

fn decided(id: &str, state: ApprovalState, by: &str, how: &str) -> Change {
    Change::ApprovalDecided(id.to_owned(), state, by.to_owned(), how.to_owned())
}

fn names(tally: &Tally) -> String {
    match tally {
        Tally::Approved { by, .. } | Tally::Missing { by, .. } => by.join(", "),
        Tally::Denied { by } => by.clone(),
    }
}

fn cancelled() -> Result<Value, HostError> {
    Err(HostError::new(ErrorKind::Cancelled, "cancelled while a person was asked"))
}

fn rejected(by: &str) -> HostError {
    HostError::new(ErrorKind::Rejected, format!("{} said no", identifier::shown(by)))
}

pub(crate) fn promote_subject<'a>(candidate: &'a Candidate, description: Description, why: &'a str) -> Subject<'a> {
    let mut object =
        json!({"candidate": candidate.id, "backup": candidate.backup, "manifest-sha256": candidate.digest});
    if candidate.is_data_only() {
        object["data-only"] = json!(true);
    }
    Subject { action: "promote", service: &candidate.service, object, description, why }
}

/// Intent of undoing a promotion or removing its previous.
pub(crate) fn promotion_subject<'a>(action: &'a str, promotion: &'a Promotion, why: &'a str) -> Subject<'a> {
    let mut description = Description { identities: Default::default(), consequence: Vec::new() };
    for swap in &promotion.swaps {
        description.identities.insert(format!("promoted.{}", swap.source), swap.promoted.clone());
        if let Some(previous) = &swap.previous {
            description.identities.insert(format!("previous.{}", swap.source), previous.clone());
        }
        let line = match action {
            "undo" => format!(
                "{}: what was there before the promotion comes back; what was written since is kept at {}",
                swap.source, swap.other_place
            ),
            _ => format!(
                "{}: what was there before the promotion is removed for good ({})",
                swap.source, swap.other_place
            ),
        };
        description.consequence.push(line);
    }
    Subject {
        action,
        service: &promotion.service,
        object: json!({"promotion": promotion.id, "backup": promotion.backup}),
        description,
        why,
    }
}

pub(crate) fn delete_subject<'a>(backups: &'a [Backup], despite_times: bool, why: &'a str) -> Subject<'a> {
    let mut consequence: Vec<String> = backups
        .iter()
        .map(|b| {
            format!(
                "backup {} of {} ({} bytes) is removed from store {} for good",
                b.id,
                identifier::utc(b.taken_at_ms),
                b.stored_bytes,
                b.store
            )
        })
        .collect();
    if despite_times {
        consequence
            .push("also those go whose own time and whose store's time disagree: nobody knows how old they are".into());
    }
    Subject {
        action: "delete",
        service: backups.first().map_or("", |b| b.service.as_str()),
        object: backups
            .iter()
            .map(|b| {
                let mut one = json!({"backup": b.id, "store": b.store, "manifest-sha256": b.digest});
                if despite_times {
                    one["despite-times"] = json!(true);
                }
                one
            })
            .collect(),
        description: Description { identities: Default::default(), consequence },
        why,
    }
}
