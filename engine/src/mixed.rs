//! Sets that a promotion left mixed: it failed half-way, or was cut off, and some sources are promoted and some are from before.

use host_api::promote::{Promote, Standing};
use host_api::{Error as HostError, StepContext};

use crate::journal::{PromotionRow, State};

/// An error if the newest promotion of a service left its sources mixed: a service that starts on data of two times does harm.
pub async fn refuse_start(
    state: &State,
    host: &dyn Promote,
    cx: &StepContext,
    environment: &str,
    service: &str,
) -> Result<(), HostError> {
    let ours = promotions(state)
        .await?
        .into_iter()
        .rev()
        .filter(|r| r.environment == environment && r.promotion.service == service);
    // The newest first: what stands behind one that came to an end is history.
    for row in ours.take_while(|row| !matches!(row.state.as_str(), "in-service" | "undone" | "dropped")) {
        if is_mixed(&row, host, cx).await? {
            let id = &row.promotion.id;
            return Err(HostError::refused(format!(
                "service {service} is not started: promotion {id} left its sources mixed, some from before and some promoted"
            ))
            .hint(format!("remove the cause, then `lifeboat promotions undo {id}`")));
        }
    }
    Ok(())
}

/// An error if a promotion of this candidate left the set mixed: what of the candidate is not in service is the way on, and part of the way
/// back.
pub(crate) async fn refuse_discard(
    state: &State,
    host: &dyn Promote,
    cx: &StepContext,
    candidate: &str,
) -> Result<(), HostError> {
    let of_it = promotions(state).await?.into_iter().filter(|row| row.promotion.candidate == candidate);
    for row in of_it.filter(|row| !matches!(row.state.as_str(), "in-service" | "undone" | "dropped")) {
        if is_mixed(&row, host, cx).await? {
            let id = &row.promotion.id;
            return Err(HostError::refused(format!(
                "candidate {candidate} is not removed: promotion {id} left some of it in service, and the rest belongs to the way back"
            ))
            .hint(format!("`lifeboat promotions undo {id}` first")));
        }
    }
    Ok(())
}

async fn promotions(state: &State) -> Result<Vec<PromotionRow>, HostError> {
    state.promotions().await.map_err(|e| HostError::failed(e.to_string()))
}

async fn is_mixed(row: &PromotionRow, host: &dyn Promote, cx: &StepContext) -> Result<bool, HostError> {
    Ok(row.state != "taken-back" && host.standing(cx, &row.promotion).await? == Standing::Mixed)
}
