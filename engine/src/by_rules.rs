//! Consent that an environment has given beforehand: what its own rules let go of a store may go without a person, at most so many in a run.
//!
//! It is for what the rules remove, and not for what somebody chose: each backup is held against the rules anew, when consent is asked for and
//! when it is used. A policy that wants others, a verb by hand, `--despite-times`, or one backup too many: a person is asked, as ever. The floors
//! know nothing of it.

use std::collections::BTreeMap;

use host_api::Error as HostError;
use host_api::identifier::shown;
use serde_json::{Value, json};

use crate::approvals::rules::Removals;
use crate::direct::NO_MODULE;
use crate::journal::{ApprovalRow, ApprovalState};
use crate::step::Stepper;

/// Who decided, and how, as the records have it.
pub(crate) const BY: &str = "configuration";
pub(crate) const HOW: &str = "retention-rules";

/// Consent by configuration, with what it rests on.
pub(crate) struct ByRules {
    place: String,
    removals: Removals,
    /// How many went so in this run before.
    before: u64,
    count: u64,
}

impl ByRules {
    /// As it goes on record: the lines of the configuration, whole.
    pub(crate) fn record(&self) -> Value {
        json!({
            "approved-by": BY, "how": HOW, "place": self.place, "rules": self.removals.rules,
            "at-most": self.removals.at_most, "before": self.before,
        })
    }

    /// For people.
    pub(crate) fn words(&self) -> String {
        format!(
            "nobody was asked: {} backups go by the rules of {}, {} before them in this run; at most {} may",
            self.count, self.place, self.before, self.removals.at_most
        )
    }
}

impl Stepper {
    /// Whether the environment consents by itself to what an approval asks for. None: it says nothing of the kind; an error: why a person is
    /// asked all the same.
    pub(crate) async fn by_rules(&self, row: &ApprovalRow) -> Option<Result<ByRules, String>> {
        let intent = &row.intent;
        if intent["action"] != "delete" || self.run.module_sha256 == NO_MODULE {
            return None;
        }
        let objects = intent["object"].as_array()?;
        let (service, store) = (intent["service"].as_str()?, objects.first()?["store"].as_str()?);
        let removals = self.approval_rules.removals.get(&(service.to_owned(), store.to_owned()))?;
        Some(self.within(removals, row, (service, store), objects).await)
    }

    async fn within(
        &self,
        removals: &Removals,
        row: &ApprovalRow,
        (service, store): (&str, &str),
        objects: &[Value],
    ) -> Result<ByRules, String> {
        let place = format!("[environment.{}.retention.{service}.store.{store}]", self.run.environment);
        let unread = |e: HostError| format!("what goes by the rules of {place} can't be told: {}", e.message);
        let rows = self.approvals().await.map_err(unread)?;
        let others = rows.iter().filter(|other| other.id != row.id && other.how.as_deref() == Some(HOW));
        let given = others.filter(|other| matches!(other.state, ApprovalState::Approved | ApprovalState::Spent));
        let before = given.map(|other| other.intent["object"].as_array().map_or(0, Vec::len) as u64).sum::<u64>();
        let count = objects.len() as u64;
        if before.saturating_add(count) > removals.at_most {
            return Err(format!(
                "{count} backups would go from {store}, {before} went in this run before, and without a person at most {} may: \
                 without-consent-at-most of {place}",
                removals.at_most
            ));
        }
        let regard = self.regard(&Value::Null).await.map_err(unread)?;
        let host = self.host.clone();
        let plan = host.delete.removal_plan(&self.context(), service, store, &regard).await.map_err(unread)?;
        let due = plan.iter().filter(|entry| !entry.planned.keep).map(|entry| &entry.backup);
        let due: BTreeMap<&str, &str> = due.map(|backup| (backup.id.as_str(), backup.digest.as_str())).collect();
        let by_rule = |object: &&Value| {
            let digest = object["backup"].as_str().and_then(|id| due.get(id));
            object["store"] == store
                && object["despite-times"].is_null()
                && object["manifest-sha256"].as_str() == digest.copied()
                && digest.is_some()
        };
        if let Some(chosen) = objects.iter().find(|object| !by_rule(object)) {
            let id = shown(chosen["backup"].as_str().unwrap_or_default());
            return Err(format!("the rules of {place} do not let backup {id} go: whoever wants it gone asks a person"));
        }
        Ok(ByRules { place, removals: removals.clone(), before, count })
    }
}
