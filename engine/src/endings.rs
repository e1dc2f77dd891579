//! What changes in the derived tables when an effect has ended, well or not. Read from what its `started` record prepared and from nothing
//! else, so that it is the same whether the effect ended at once, in a later engine, or by a person's word.

use serde_json::Value;

use crate::journal::Change;

/// The changes that go with the record of an effect's end.
pub(crate) fn changes(call: &str, prepared: &Value, succeeded: bool) -> Vec<Change> {
    let word = |key: &str| prepared[key].as_str().unwrap_or_default().to_owned();
    match (call, succeeded) {
        ("restore.verify", false) => vec![Change::CandidateVerified(word("candidate"), None)],
        // Also one that failed half-way, with two databases: whoever is asked must know.
        ("restore.park", _) => vec![Change::CandidateState(word("candidate"), "parked")],
        // What was loaded for an import is gone when it has succeeded.
        ("restore.discard" | "backups.import", true) => vec![
            Change::CandidateState(word("candidate"), "discarded"),
            Change::ObligationCloses("candidate", word("candidate")),
        ],
        ("scratch.stop", true) => vec![Change::ObligationCloses("instance", word("instance"))],
        ("service.start", true) => vec![Change::ObligationCloses("service-stopped", word("service"))],
        ("promote.promote", true) => {
            let plan = &prepared["promotion"];
            let word = |key: &str| plan[key].as_str().unwrap_or_default().to_owned();
            vec![
                Change::PromotionState(word("id"), "in-service"),
                Change::CandidateState(word("candidate"), "promoted"),
                Change::ObligationCloses("candidate", word("candidate")),
            ]
        }
        // What a promotion that failed has come to, the host looks at.
        ("promote.undo", true) => vec![
            Change::PromotionState(word("promotion"), "undone"),
            Change::CandidateState(word("candidate"), "undone"),
        ],
        ("promote.undo", false) => vec![Change::PromotionState(word("promotion"), "undo-failed")],
        ("promote.drop-previous", true) => vec![Change::PromotionState(word("promotion"), "dropped")],
        // What a staging or a start that failed has left is settled when the run ends: that nothing of it is left is seen then.
        _ => Vec::new(),
    }
}
