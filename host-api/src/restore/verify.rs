//! Reading a candidate back, and comparing it with its manifest: never with live data.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use super::{Candidate, Verification};
use crate::catalog::{manifests, records};
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::identifier::utc;
use crate::manifest::Manifest;
use crate::signing::VERIFIED;
use crate::sources::{Answers, Member};
use crate::stores::ObjectStore;
use crate::work::Work;
use crate::{Finding, Severity, dump, questions, reference};

pub(crate) fn verify(
    work: &Work,
    cx: &StepContext,
    store: &Arc<ObjectStore>,
    candidate: &Candidate,
) -> Result<Verification> {
    let began = Instant::now();
    cx.check()?;
    questions::check(&work.service)?;
    let manifest = manifests::usable(store, &work.signing, &candidate.service, &candidate.backup, &candidate.digest)?;
    let members = work.in_order(&candidate.members)?;
    check_complete(&manifest, &members, candidate)?;
    let objects = work.objects(store, work.key(&manifest)?);

    let mut verification = Verification {
        passed: false,
        findings: Vec::new(),
        rows: 0,
        files: 0,
        newest_at_ms: None,
        elapsed_ms: 0,
        members: Vec::new(),
        digest: candidate.digest.clone(),
    };
    let mut answers = Answers::new();
    for member in &members {
        cx.check()?;
        let label = format!("verify {}/{}", work.name, member.source);
        let verified = work
            .driver(&member.source)?
            .verify(
                cx,
                member,
                manifest.source(&member.source)?,
                &objects,
                &questions::of_source(&work.service, &member.source),
            )
            .map_err(|e| e.context(label))?;
        verification.findings.extend(verified.findings);
        verification.rows = verification.rows.saturating_add(verified.rows);
        verification.files = verification.files.saturating_add(verified.files);
        answers.extend(verified.answers);
    }
    check_known(work, &manifest, &answers, &mut verification.findings);
    verification.newest_at_ms = check_newest(work, &manifest, &answers, &mut verification.findings);
    check_references(work, cx, &members, &answers, &mut verification.findings)?;
    check_emptiness(&manifest, &mut verification);

    // Read again after everything else: a promotion holds against what these were at the end.
    for member in &members {
        let identity = work.driver(&member.source)?.member_identity(cx, member)?;
        if identity != member.identity {
            return Err(Error::conflict(format!(
                "member {} at {} is not the one that was staged",
                member.source, member.place
            ))
            .hint("something replaced it: discard this candidate and stage the backup again"));
        }
        verification.members.push((*member).clone());
    }
    verification.passed = verification.findings.iter().all(|finding| finding.severity != Severity::Error);
    if verification.passed && candidate.is_data_only() {
        // Neither its structure nor its kept tables were compared: whoever takes the newest proven backup would be told too much.
        verification.findings.push(Finding::info(
            "verification-record",
            "only the rows are proven: it is not put on record beside the backup that it restores",
        ));
    } else if verification.passed {
        record(work, cx, store, candidate, &mut verification);
    }
    verification.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(verification)
}

fn check_complete(manifest: &Manifest, members: &[&Member], candidate: &Candidate) -> Result<()> {
    for source in &manifest.sources {
        let count = members.iter().filter(|member| member.source == source.name).count();
        if count != 1 {
            return Err(Error::conflict(format!(
                "candidate {} has {count} members of source {}, one expected",
                candidate.id, source.name
            )));
        }
    }
    if members.len() != manifest.sources.len() {
        return Err(Error::conflict(format!("candidate {} has members that its backup has not", candidate.id)));
    }
    Ok(())
}

fn check_known(work: &Work, manifest: &Manifest, answers: &Answers, findings: &mut Vec<Finding>) {
    for (name, expected) in &manifest.known {
        if !work.service.known.contains_key(name) {
            findings.push(Finding::warning(
                "known-record",
                format!("known record {name} stands in the manifest, but no query in the environment asks for it"),
                "configure it again, or take a new backup",
            ));
            continue;
        }
        let found = questions::known(answers, name);
        let found = match &found {
            Ok(value) if value == expected => continue,
            // The values are rows of the service: nobody is told them here.
            Ok(_) => format!("known record {name} is another one than in the backup"),
            Err(why) => format!("{}; it is in the backup", why.message),
        };
        findings.push(Finding::error(
            "known-record",
            found,
            "the restored data are not the backup's: use another copy",
        ));
    }
    for name in work.service.known.keys().filter(|name| !manifest.known.contains_key(*name)) {
        findings.push(match questions::known(answers, name) {
            // It may have been configured after the backup was taken.
            Ok(_) => Finding::info(
                "known-record",
                format!("known record {name} is not in the backup's manifest: not compared"),
            ),
            // A service that lost everything looks like this: it is whole, and it is ready.
            Err(why) => Finding::error(
                "known-record",
                format!("{}, neither in the restored data nor in the backup's manifest", why.message),
                format!("find out why it was not there to back up; if it need not be, remove `known.{name}`"),
            ),
        });
    }
}

fn check_newest(work: &Work, manifest: &Manifest, answers: &Answers, findings: &mut Vec<Finding>) -> Option<u64> {
    work.service.newest.as_ref()?;
    let newest = match questions::newest(answers) {
        Ok(newest) => newest,
        Err(finding) => {
            if manifest.newest_at_ms.is_some() {
                findings.push(Finding { severity: Severity::Error, ..finding });
            }
            return None;
        }
    };
    match manifest.newest_at_ms {
        Some(expected) if expected == newest => {}
        Some(expected) => findings.push(Finding::error(
            "newest-record",
            format!("the newest record is of {}, of {} in the backup", utc(newest), utc(expected)),
            "the restored data are not the backup's: use another copy",
        )),
        None => findings.push(Finding::info("newest-record", "the backup does not say how new it is: not compared")),
    }
    Some(newest)
}

fn check_references(
    work: &Work,
    cx: &StepContext,
    members: &[&Member],
    answers: &Answers,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    for (name, reference) in &work.service.reference {
        let rows = answers.get(&questions::reference_key(name)).ok_or_else(|| {
            Error::failed(format!("a bug: reference {name} was not asked of source {}", reference.source))
        })?;
        let Some(member) = members.iter().find(|member| member.source == reference.files) else {
            return Err(Error::unknown("source", &reference.files, work.service.source.keys()));
        };
        let files = reference::files_below(cx, Path::new(&member.place))?;
        findings.extend(reference::compare(name, reference, rows, &files));
    }
    Ok(())
}

/// Every other check passes on nothing.
fn check_emptiness(manifest: &Manifest, verification: &mut Verification) {
    let fix = "check what the configuration names, and take a new backup";
    let expected = manifest.sources.iter().fold(0, |sum: u64, s| sum.saturating_add(dump::content(&s.facts)));
    if expected == 0 {
        let message = "the backup itself holds no row and no file: restoring it proves nothing";
        verification.findings.push(Finding::error("empty-restore", message, fix));
    } else if verification.rows == 0 && verification.files == 0 {
        let message = format!("the candidate holds no row and no file; {expected} are in the backup");
        verification.findings.push(Finding::error("empty-restore", message, fix));
    }
}

/// The verification stands whether or not it can be written down: a read-only copy of the store must not stop a recovery.
fn record(work: &Work, cx: &StepContext, store: &ObjectStore, candidate: &Candidate, verification: &mut Verification) {
    let compared = (verification.rows, verification.files);
    let recorded = work.signing.signer(VERIFIED).and_then(|signer| {
        let verified = records::Verified::new(cx, candidate, compared);
        records::write_verified(cx, store, &candidate.service, &verified, signer.as_ref())
    });
    if let Err(e) = recorded {
        let fix = "`latest(verified)` does not know of this one: do away with the cause, and verify again";
        verification.findings.push(Finding::warning(
            "verification-record",
            format!("the backup is verified, but that could not be recorded beside it: {}", e.message),
            e.hint.map_or_else(|| fix.to_owned(), |hint| format!("{fix}: {hint}")),
        ));
    }
}
