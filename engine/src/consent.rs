//! The engine's side of consent: opening an approval, asking whoever can answer, holding an approval against what a call would do, and the
//! subjects of the intents.

use std::time::Duration;

use host_api::catalog::Backup;
use host_api::promote::{Description, Promotion};
use host_api::restore::Candidate;
use host_api::{Error as HostError, ErrorKind, identifier};
use serde_json::{Value, json};

use crate::approvals::{Answer, Intent, RunOf, Subject};
use crate::dispatch::Performed;
use crate::journal::{ApprovalRow, ApprovalState, Change};
use crate::step::{ASKING_FAILED, INTENT_NOW, Prepared, Stepper, Stop};

impl Stepper {
    /// An approval to be asked for, or the unspent one for the same intent.
    pub(crate) fn open_approval(&self, subject: Subject<'_>) -> Result<Prepared, HostError> {
        let intent = Intent::build(&self.run_of(), subject);
        let rows = self.approvals()?;
        if let Some(row) = rows.into_iter().find(|r| r.state == ApprovalState::Approved && intent.same_thing(&r.intent))
        {
            return Ok(Prepared::with(json!({"approval": row.id})));
        }
        let id = identifier::fresh();
        Ok(Prepared {
            body: json!({"approval": id, "intent": intent.body, "intent-sha256": intent.sha256}),
            on_start: vec![Change::ApprovalOpens(id, self.step, intent.text, intent.sha256)],
        })
    }

    /// Asks whoever can answer.
    pub(crate) async fn ask(&mut self, prepared: &Value) -> Result<Performed, Stop> {
        let id = prepared["approval"].as_str().unwrap_or_default().to_owned();
        let row = match self.approvals().map(|rows| rows.into_iter().find(|r| r.id == id)) {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(Err(HostError::failed("a bug: an approval was asked for without a record")).into()),
            Err(error) => return Ok(Err(error).into()),
        };
        let granted = json!({"id": id});
        match row.state {
            ApprovalState::Approved => return Ok(Ok(granted).into()),
            ApprovalState::Denied => {
                return Ok(Err(rejected(row.decided_by.as_deref().unwrap_or("someone"))).into());
            }
            ApprovalState::Spent | ApprovalState::Expired => {
                return Ok(
                    Err(HostError::new(ErrorKind::Expired, format!("approval {id} is {}", row.state.word()))).into()
                );
            }
            ApprovalState::Open => {}
        }
        if let Err(ending) = self.plain_context().check() {
            return Ok(Err(ending).into());
        }
        if let Some(why) = prepared[ASKING_FAILED].as_str() {
            return Ok(Err(HostError::failed(format!("approval {id} can't be asked for any more: {why}"))).into());
        }
        let shown = match &prepared[INTENT_NOW] {
            Value::Null => row.intent.clone(),
            now if row.intent.is_object() && Intent::is_same_thing(now, &row.intent) => now.clone(),
            _ => {
                let stale = format!("approval {id} is stale: what it was asked for has changed");
                return Ok(Performed {
                    result: Err(HostError::new(ErrorKind::Expired, stale)),
                    record: Some(json!({"expired": "identities changed while the run waited"})),
                    changes: vec![Change::ApprovalDecided(id, ApprovalState::Expired, "host".into(), "stale".into())],
                });
            }
        };
        let intent = Intent {
            action: row.intent["action"].as_str().unwrap_or_default().to_owned(),
            service: row.intent["service"].as_str().unwrap_or_default().to_owned(),
            text: row.intent.to_string(),
            sha256: row.intent_sha256,
            body: shown,
        };
        let confirmer = self.around.confirmer.clone();
        let answer = tokio::select! {
            answer = confirmer.ask(&intent) => answer,
            () = self.cancellation() => {
                return Ok(Err(HostError::new(ErrorKind::Cancelled, "cancelled while a person was asked")).into());
            }
        };
        match answer {
            Answer::Approved { by, how } => Ok(Performed {
                result: Ok(granted),
                record: Some(json!({"approved-by": by, "how": how})),
                changes: vec![Change::ApprovalDecided(id, ApprovalState::Approved, by, how)],
            }),
            Answer::Denied { by } => Ok(Performed {
                result: Err(rejected(&by)),
                record: Some(json!({"denied-by": by})),
                changes: vec![Change::ApprovalDecided(id, ApprovalState::Denied, by, "answer".into())],
            }),
            Answer::NobodyHere => Err(Stop::Parked { approval: id }),
        }
    }

    /// Comes back when the run is cancelled or past its deadline.
    async fn cancellation(&self) {
        while self.plain_context().check().is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The approval that a destructive call brings, held against what the call would do now.
    pub(crate) fn approval_for(&self, full: &Value, subject: Subject<'_>) -> Result<ApprovalRow, HostError> {
        let id = full["approval"]["id"].as_str().unwrap_or_default().to_owned();
        let intent = Intent::build(&self.run_of(), subject);
        let row = self
            .approvals()?
            .into_iter()
            .find(|r| r.id == id)
            .ok_or_else(|| HostError::refused(format!("approval {} is not of this run", identifier::shown(&id))))?;
        if row.state != ApprovalState::Approved {
            return Err(HostError::refused(format!("approval {id} is {}", row.state.word())));
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
        Ok(row)
    }

    fn approvals(&self) -> Result<Vec<ApprovalRow>, HostError> {
        self.around.state.approvals(&self.run.id).map_err(|e| HostError::failed(e.to_string()))
    }

    fn run_of(&self) -> RunOf<'_> {
        RunOf {
            run: &self.run.id,
            environment: &self.run.environment,
            policy: &self.run.policy,
            module_sha256: &self.run.module_sha256,
            grants_sha256: &self.grants.sha256,
        }
    }
}

fn rejected(by: &str) -> HostError {
    HostError::new(ErrorKind::Rejected, format!("{} said no", identifier::shown(by)))
}

pub(crate) fn promote_subject<'a>(candidate: &'a Candidate, description: Description, why: &'a str) -> Subject<'a> {
    Subject {
        action: "promote",
        service: &candidate.service,
        object: json!({"candidate": candidate.id, "backup": candidate.backup, "manifest-sha256": candidate.digest}),
        description,
        why,
    }
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

pub(crate) fn delete_subject<'a>(backups: &'a [Backup], why: &'a str) -> Subject<'a> {
    let consequence = backups
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
    Subject {
        action: "delete",
        service: backups.first().map_or("", |b| b.service.as_str()),
        object: backups
            .iter()
            .map(|b| json!({"backup": b.id, "store": b.store, "manifest-sha256": b.digest}))
            .collect(),
        description: Description { identities: Default::default(), consequence },
        why,
    }
}
