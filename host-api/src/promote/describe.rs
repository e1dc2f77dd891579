//! What a promotion would need, and what it would mean: nothing here changes anything.

use std::collections::BTreeMap;

use super::Description;
use crate::Finding;
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::identifier::{now_ms, parse_time_ms, shown, utc};
use crate::restore::Candidate;
use crate::sources::{DataOnly, Member};
use crate::work::Work;

/// Said where something would run again, and the environment knows how to keep it from that.
const PARK_OFFER: &str = "to park them instead of letting them run: deny this, and ask again with --param park=true";

pub(super) fn preflight(work: &Work, cx: &StepContext, candidate: &Candidate) -> Result<Vec<Finding>> {
    cx.check()?;
    let mut findings = Vec::new();
    if let Err(e) = promotable(work, candidate) {
        findings.push(Finding::error("not-promotable", e.message, e.hint.unwrap_or_default()));
        return Ok(findings);
    }
    if work.service.control.is_none() {
        findings.push(Finding::warning(
            "service-control",
            format!("lifeboat does not know how to see whether service {} runs", work.name),
            "stop it yourself before the promotion, or configure its control",
        ));
    }
    for member in work.in_order(&candidate.members)? {
        cx.check()?;
        findings.extend(work.driver(&member.source)?.preflight(cx, member)?);
    }
    Ok(findings)
}

/// An error for a candidate that no check could make promotable.
pub(super) fn promotable(work: &Work, candidate: &Candidate) -> Result<()> {
    crate::identifier::check_id("candidate", &candidate.id)?;
    if candidate.target != "beside" || !candidate.members.iter().all(|member| member.beside) {
        return Err(Error::refused(format!(
            "candidate {} was staged in scratch, not beside the live data",
            candidate.id
        ))
        .hint("stage the backup again with the target `beside`"));
    }
    if work.was_started(&candidate.id)? {
        return Err(Error::refused(format!(
            "a service was started on candidate {}: its data are not the backup's any more",
            candidate.id
        ))
        .hint("stage the backup again for the promotion"));
    }
    for source in work.service.source.keys() {
        let count = candidate.members.iter().filter(|member| member.source == *source).count();
        if count != 1 {
            return Err(Error::refused(format!(
                "candidate {} has {count} members of source {source}, one expected: the set goes in service as a whole",
                candidate.id
            ))
            .hint("take and stage a backup of all sources"));
        }
    }
    work.in_order(&candidate.members).map(drop)
}

pub(super) fn describe(work: &Work, cx: &StepContext, candidate: &Candidate) -> Result<Description> {
    cx.check()?;
    let mut identities = BTreeMap::new();
    let mut consequence = Vec::new();
    for member in work.in_order(&candidate.members)? {
        let driver = work.driver(&member.source)?;
        identities.insert(format!("candidate.{}", member.source), driver.member_identity(cx, member)?);
        // Nothing live is an identity too, the empty one: if something appears there later, it is not what was consented to.
        let live = driver.live_identity(cx)?.unwrap_or_default();
        let replaced = if live.is_empty() {
            "takes the place of nothing: there are no live data"
        } else {
            "replaces the live data"
        };
        consequence.push(format!("{}/{}: {} {replaced}", work.name, member.source, shown(&member.place)));
        identities.insert(format!("live.{}", member.source), live);
        if candidate.is_data_only() {
            consequence.push(format!("{}/{}: {}", work.name, member.source, what_is_restored(member)));
        }
    }
    consequence.push(format!(
        "the data become those of backup {}, taken {} ({} ago)",
        candidate.backup,
        utc(candidate.taken_at_ms),
        span(now_ms().saturating_sub(candidate.taken_at_ms))
    ));
    if let Some(line) = loss(work, cx, candidate)? {
        consequence.push(line);
    }
    let mut runs_again = false;
    for (name, query) in &work.service.rerun {
        let row = work.ask(cx, name, query, Some(&candidate.members))?;
        let [Some(count)] = row.as_slice() else {
            return Err(Error::failed(format!("query {name} must give one number: what will run again can't be said")));
        };
        consequence.push(format!("{}: {}", shown(query.words.as_deref().unwrap_or(name)), shown(count)));
        runs_again |= count != "0";
    }
    if runs_again && !work.service.park.is_empty() {
        consequence.push(PARK_OFFER.to_owned());
    }
    Ok(Description { identities, consequence })
}

/// What of a member is the backup's, where that is not all of the set.
fn what_is_restored(member: &Member) -> String {
    match &member.data_only {
        None => "restored whole, as ever".to_owned(),
        Some(DataOnly { kept }) => format!(
            "DATA ONLY: the rows are the backup's, the structure is the live database's as it was when this was staged{}",
            match kept.is_empty() {
                true => String::new(),
                false => format!(", and so are the rows of {}", shown(&kept.join(", "))),
            }
        ),
    }
}

/// What was written after the backup, as far as the environment says how to tell.
fn loss(work: &Work, cx: &StepContext, candidate: &Candidate) -> Result<Option<String>> {
    let Some(query) = &work.service.newest else { return Ok(None) };
    let time = |row: Vec<Option<String>>| row.into_iter().next().flatten().and_then(|text| parse_time_ms(&text));
    let restored = time(work.ask(cx, "newest", query, Some(&candidate.members))?);
    // The live data may be what was lost: that they can't be asked must not stop their recovery, only be said.
    let live = match work.ask(cx, "newest", query, None).map(time) {
        Ok(live) => live,
        Err(e) => {
            cx.check()?;
            return Ok(Some(format!(
                "newest record: {} in the backup; the live data can't be asked ({})",
                restored.map_or_else(|| "unknown".into(), utc),
                shown(&e.message)
            )));
        }
    };
    Ok(Some(match (restored, live) {
        (Some(restored), Some(live)) if live > restored => format!(
            "newest record: {} live, {} in the backup: {} ({} ms) of data are set aside",
            utc(live),
            utc(restored),
            span(live - restored),
            live - restored
        ),
        (Some(restored), Some(live)) => {
            format!("newest record: {} live, {} in the backup: nothing newer is set aside", utc(live), utc(restored))
        }
        (restored, live) => format!(
            "newest record: {} live, {} in the backup",
            live.map_or_else(|| "unknown".into(), utc),
            restored.map_or_else(|| "unknown".into(), utc)
        ),
    }))
}

/// `3 d 4 h`, `12 min`, `5 s`: for people.
fn span(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min", s / 60),
        3600..86_400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86_400, s % 86_400 / 3600),
    }
}
