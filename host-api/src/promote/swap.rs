//! Swapping the whole set, and back: every driver's swap is atomic and decided by identities, so the set is completed or taken back
//! whatever state a crash left it in.

use super::describe::promotable;
use super::{Promotion, Standing};
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::identifier::{check_id, now_ms};
use crate::restore::{Candidate, Verification};
use crate::sources::{Member, Swap};
use crate::work::{GRACE, Work};

pub(super) fn plan(work: &Work, cx: &StepContext, id: &str, candidate: &Candidate) -> Result<Promotion> {
    check_id("promotion", id)?;
    promotable(work, candidate)?;
    let mut swaps = Vec::new();
    for member in work.in_order(&candidate.members)? {
        cx.check()?;
        swaps.push(work.driver(&member.source)?.plan_swap(cx, member)?);
    }
    Ok(Promotion {
        id: id.to_owned(),
        service: candidate.service.clone(),
        candidate: candidate.id.clone(),
        backup: candidate.backup.clone(),
        at_ms: now_ms(),
        swaps,
    })
}

pub(super) fn promote(
    work: &Work,
    cx: &StepContext,
    candidate: &Candidate,
    verification: Option<&Verification>,
    plan: &Promotion,
) -> Result<()> {
    cx.check()?;
    promotable(work, candidate)?;
    let verification = passing(candidate, verification)?;
    let steps = steps(work, candidate, plan)?;
    for (member, swap) in &steps {
        let driver = work.driver(&member.source)?;
        let verified = verification.members.iter().find(|verified| verified.source == member.source);
        if verified.is_none_or(|verified| verified.identity != member.identity) || swap.promoted != member.identity {
            return Err(Error::refused(format!(
                "member {} is not the one that was verified and planned for",
                member.source
            ))
            .hint("verify the candidate again, and ask for a new approval"));
        }
        // An earlier attempt may have come so far already; then its place holds the previous.
        if driver.live_identity(cx)?.as_ref() == Some(&swap.promoted) {
            continue;
        }
        if driver.member_identity(cx, member)? != member.identity {
            return Err(Error::refused(format!(
                "member {} at {} is not the one that was verified",
                member.source, member.place
            ))
            .hint("something replaced it: discard this candidate and stage the backup again"));
        }
        if driver.live_identity(cx)? != swap.previous {
            return Err(Error::refused(format!(
                "the live data of {} are not those that the promotion was planned for",
                member.source
            ))
            .hint("plan again, and ask for a new approval"));
        }
    }

    for (n, (member, swap)) in steps.iter().enumerate() {
        let swapped =
            cx.check().and_then(|()| work.driver(&member.source)).and_then(|driver| driver.promote(cx, member, swap));
        if let Err(e) = swapped {
            let e = e.context(format!("promote {}/{}", work.name, member.source));
            return Err(take_back(work, &cx.taking_back(GRACE), &steps, n, plan, e));
        }
        cx.at(&format!("promoted {}", member.source));
    }
    Ok(())
}

fn passing<'v>(candidate: &Candidate, verification: Option<&'v Verification>) -> Result<&'v Verification> {
    let refused = |what: &str| {
        Err(Error::refused(format!("candidate {} {what}", candidate.id))
            .hint("verify it; only what was read back and found whole goes in service"))
    };
    match verification {
        None => refused("was not verified"),
        Some(verification) if !verification.passed => refused("did not pass its verification"),
        Some(verification) if verification.digest != candidate.digest => {
            refused("was verified against another manifest than it was made from")
        }
        Some(verification) => Ok(verification),
    }
}

/// Members with their swaps, databases first; an error unless each has exactly one.
fn steps<'a>(work: &Work, candidate: &'a Candidate, plan: &'a Promotion) -> Result<Vec<(&'a Member, &'a Swap)>> {
    let members = work.in_order(&candidate.members)?;
    let fits = (&plan.service, &plan.candidate, &plan.backup) == (&candidate.service, &candidate.id, &candidate.backup)
        && plan.swaps.len() == members.len();
    let steps: Option<Vec<_>> = members
        .into_iter()
        .map(|member| Some((member, plan.swaps.iter().find(|swap| swap.source == member.source)?)))
        .collect();
    match steps {
        Some(steps) if fits => Ok(steps),
        _ => Err(Error::invalid(format!("promotion {} was not planned for candidate {}", plan.id, candidate.id))),
    }
}

/// Swaps back what was swapped, last first, and says in the error how far that came. `failed`: the member that would not go.
fn take_back(
    work: &Work,
    cx: &StepContext,
    steps: &[(&Member, &Swap)],
    failed: usize,
    plan: &Promotion,
    mut e: Error,
) -> Error {
    let (mut stuck, mut left) = (Vec::new(), Vec::new());
    for (n, (member, swap)) in steps.iter().enumerate().rev() {
        let Ok(driver) = work.driver(&member.source) else { continue };
        let in_place = || driver.live_identity(cx).is_ok_and(|live| live == swap.previous);
        // Those after the failed one were not touched now, but an earlier attempt may have swapped them.
        if n > failed && in_place() {
            continue;
        }
        // The failed one too: what it had changed around the swap (a database closed to sessions, say) goes back with it.
        if let Err(why) = driver.undo(cx, swap) {
            let why = format!("{}: {}", whereabouts(swap), why.message);
            if in_place() { left.push(why) } else { stuck.push(why) }
        }
    }
    if stuck.is_empty() {
        e.message =
            format!("{}; nothing is in service that was not before: what had been swapped was swapped back", e.message);
        if !left.is_empty() {
            e.message = format!("{}, but look at what could not be tidied up: {}", e.message, left.join("; "));
        }
        return e;
    }
    e.message =
        format!("{}; and taking back failed: the set is MIXED until this is undone: {}", e.message, stuck.join("; "));
    e.hint(format!("leave the service stopped, remove the cause, then `lifeboat promotions undo {}`", plan.id))
}

fn whereabouts(swap: &Swap) -> String {
    format!(
        "{}: the backup's data may be live at {}, and what was live before at {}",
        swap.source, swap.live_place, swap.other_place
    )
}

pub(super) fn standing(work: &Work, cx: &StepContext, promotion: &Promotion) -> Result<Standing> {
    let (mut before, mut after) = (true, true);
    for swap in &promotion.swaps {
        let live = work.driver(&swap.source)?.live_identity(cx)?;
        before &= live == swap.previous;
        after &= live.as_ref() == Some(&swap.promoted);
    }
    Ok(match (before, after) {
        (true, _) => Standing::Before,
        (_, true) => Standing::After,
        _ => Standing::Mixed,
    })
}

pub(super) fn undo(work: &Work, cx: &StepContext, promotion: &Promotion) -> Result<()> {
    let again =
        format!("leave the service stopped, remove the cause, then `lifeboat promotions undo {}` again", promotion.id);
    each(work, cx, promotion, "taken back", &again, |swap| {
        work.driver(&swap.source)?.undo(cx, swap).map_err(|e| e.context(whereabouts(swap)))
    })
}

pub(super) fn drop_previous(work: &Work, cx: &StepContext, promotion: &Promotion) -> Result<()> {
    // What was there before is the only way back as long as the set is not promoted as a whole.
    if standing(work, cx, promotion)? != Standing::After {
        return Err(Error::refused(format!(
            "promotion {} is not in service as a whole: its previous is kept",
            promotion.id
        ))
        .hint("where the live data were replaced on purpose, remove the previous by hand"));
    }
    let again = format!("remove the cause, then `lifeboat promotions drop-previous {}` again", promotion.id);
    each(work, cx, promotion, "cleared of its previous", &again, |swap| {
        work.driver(&swap.source)?
            .drop_previous(cx, swap)
            .map_err(|e| e.context(format!("{} at {}", swap.source, swap.other_place)))
    })
}

/// Does something to every swap, last first; goes on after a failure, and says all of them.
fn each(
    work: &Work,
    cx: &StepContext,
    promotion: &Promotion,
    done: &str,
    again: &str,
    act: impl Fn(&Swap) -> Result<()>,
) -> Result<()> {
    cx.check()?;
    // A source that the environment lost meanwhile is noticed before anything moves, and so is one that has moved: the record's paths are
    // another installation's where its state was copied.
    for swap in &promotion.swaps {
        let place = work.driver(&swap.source)?.place()?;
        if place != swap.live_place {
            return Err(Error::conflict(format!(
                "promotion {} is of {} at {}, the configuration has it at {place}",
                promotion.id, swap.source, swap.live_place
            ))
            .hint("use the configuration and the state of the installation that was promoted"));
        }
    }
    let mut failures = Vec::new();
    for swap in promotion.swaps.iter().rev() {
        if let Err(e) = act(swap) {
            failures.push(e);
        }
        cx.at(&format!("{done} {}", swap.source));
    }
    let Some(first) = failures.first() else { return Ok(()) };
    let messages: Vec<&str> = failures.iter().map(|e| e.message.as_str()).collect();
    Err(Error::new(first.kind, format!("promotion {} is not wholly {done}: {}", promotion.id, messages.join("; ")))
        .hint(again))
}
