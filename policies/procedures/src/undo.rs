//! Taking a promotion back, with a person's consent.

use lifeboat_policy::{ErrorKind, Promotion, Record, Result, confirm, note, promote, step};

use crate::live::Live;

/// Says where the previous data are and how to come back to them, or to be rid of them.
pub fn note_previous(promotion: &Promotion) {
    let id = promotion.id();
    note(format!("the data from before are kept as the previous of promotion {id}"));
    note(format!("to come back to them: lifeboat promotions undo {id}"));
    note(format!("to remove them for good: lifeboat promotions drop-previous {id}"));
}

/// Asks whether to take the promotion back, and does it: stop, undo, then `reinstall` the version of before, and start, unless the service
/// was found stopped. Answers whether it was done; without consent everything stays as it is.
///
/// # Errors
///
/// If it could not be asked, or not be done.
pub fn offer(
    promotion: &Promotion,
    live: &Live,
    why: &str,
    record: &mut Record,
    reinstall: impl FnOnce() -> Result<()>,
) -> Result<bool> {
    let id = promotion.id();
    let approval = match step(format!("ask whether to undo promotion {id}"), || confirm::request_undo(promotion, why)) {
        Err(error) if error.is_a_no() || error.kind() == ErrorKind::Denied => {
            note(format!("promotion {id} stays in service: {error}"));
            return Ok(false);
        }
        answer => answer?,
    };
    live.as_running().stopped(record, || {
        step(format!("undo promotion {id}"), || promote::undo(promotion, approval))?;
        reinstall()
    })?;
    if live.was_stopped() {
        note("the service is left stopped, as it was found");
    } else {
        live.start()?;
    }
    Ok(true)
}
