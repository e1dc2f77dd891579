//! Making and removing candidates.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::{Candidate, Options};
use crate::bindings::Source;
use crate::catalog::{self, Backup, manifests};
use crate::context::StepContext;
use crate::error::{Context, Error, Result};
use crate::identifier::check_id;
use crate::manifest::{Manifest, SourceFacts};
use crate::pipeline::StoreSource;
use crate::sources::{Member, StageOptions, Target};
use crate::stores::ObjectStore;
use crate::upload::require_readable;
use crate::work::{GRACE, Work};

/// Jobs of a database restore where nobody says: more would take what the live service needs.
const JOBS_DEFAULT: u32 = 2;

/// Restores all sources of a backup, or leaves nothing behind.
pub(crate) fn stage(
    work: &Work,
    cx: &StepContext,
    store: &Arc<ObjectStore>,
    candidate: &str,
    backup: &Backup,
    target: &str,
    options: &Options,
) -> Result<Candidate> {
    let began = Instant::now();
    check_id("candidate", candidate)?;
    let scratch = match target {
        "scratch" => true,
        "beside" => false,
        _ => {
            return Err(Error::invalid(format!("`{}` is no target", crate::identifier::shown(target)))
                .hint("targets: scratch, beside"));
        }
    };
    let read_from = Some(store.own_name()?);
    catalog::require(store, backup)?;
    // An archive is code: whose it is, is settled before a byte of it is read.
    let manifest = manifests::usable(store, &work.signing, &backup.service, &backup.id, &backup.digest)?;
    check_fit(work, &manifest)?;
    if options.data_only && !work.service.source.values().any(|source| matches!(source, Source::Postgres(_))) {
        return Err(Error::refused(format!("service {} has no PostgreSQL source: there is no structure to keep", work.name))
            .hint("data alone are restored into the tables of a PostgreSQL database; restore the whole backup, without data-only"));
    }
    let key = work.key(&manifest)?;
    // Before anything is made: half of a backup is none.
    require_readable(cx, store, manifest.objects())?;

    let dir = work.candidate_dir(candidate);
    if scratch {
        make_dir(cx, &dir)?;
    }
    let objects = work.objects(store, key);
    let members = stage_all(work, cx, &objects, candidate, &manifest, scratch.then_some(dir.as_path()), options);
    Ok(Candidate {
        id: candidate.to_owned(),
        service: manifest.service.clone(),
        backup: manifest.id.clone(),
        store: store.name().to_owned(),
        read_from,
        digest: backup.digest.clone(),
        target: target.to_owned(),
        taken_at_ms: manifest.taken_at_ms,
        newest_at_ms: manifest.newest_at_ms,
        members: members?,
        elapsed_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
    })
}

/// The environment's sources must be the manifest's: a set with one missing on either side is another set.
fn check_fit(work: &Work, manifest: &Manifest) -> Result<()> {
    for name in work.service.source.keys() {
        manifest.source(name)?;
    }
    for source in &manifest.sources {
        let Some(binding) = work.service.source.get(&source.name) else {
            return Err(Error::unknown("source", &source.name, work.service.source.keys())
                .context(format!("backup {} can't be restored whole", manifest.id)));
        };
        let fits = matches!(
            (binding, &source.facts),
            (Source::Postgres(_), SourceFacts::Postgres(_))
                | (Source::Sqlite(_), SourceFacts::Sqlite(_))
                | (Source::Files(_), SourceFacts::Files(_))
        );
        if !fits {
            return Err(Error::conflict(format!(
                "source {} is of another kind in backup {} than in the environment",
                source.name, manifest.id
            )));
        }
    }
    Ok(())
}

fn make_dir(cx: &StepContext, dir: &Path) -> Result<()> {
    let shown = dir.display();
    match dir.symlink_metadata() {
        // The id was made for this step alone: what is there is an earlier attempt's, and what has its name in it is whole.
        Ok(found) if found.is_dir() && cx.attempt > 1 => return Ok(()),
        Ok(_) => {
            return Err(Error::conflict(format!("{shown} is there already")).hint("discard that candidate first"));
        }
        Err(_) => {}
    }
    if let Some(parent) = dir.parent() {
        crate::disk::private_dir(parent)?;
    }
    std::fs::DirBuilder::new().mode(0o700).create(dir).doing(|| format!("creating {shown}"))
}

fn stage_all(
    work: &Work,
    cx: &StepContext,
    objects: &StoreSource,
    candidate: &str,
    manifest: &Manifest,
    scratch: Option<&Path>,
    options: &Options,
) -> Result<Vec<Member>> {
    let mut members = Vec::new();
    for name in work.service.dump_order() {
        let staged =
            cx.check().and_then(|()| stage_one(work, cx, objects, candidate, manifest, scratch, options, name));
        match staged {
            Ok(member) => {
                cx.at(&format!("staged {name}"));
                members.push(member);
            }
            Err(mut e) => {
                e = e.context(format!("stage {}/{name}", work.name));
                // What an earlier attempt left of sources that this one did not reach.
                if cx.attempt > 1 {
                    members.clear();
                }
                // The deadline may be what failed: taking back has its own.
                if let Err(left) = discard(work, &cx.taking_back(GRACE), candidate, &members) {
                    e.message =
                        format!("{}; and what was staged before could not all be removed: {}", e.message, left.message);
                    e = e.hint(format!("once the cause is gone: lifeboat candidates discard {candidate}"));
                }
                return Err(e);
            }
        }
    }
    Ok(members)
}

#[expect(clippy::too_many_arguments, reason = "one call of the driver with what it takes")]
fn stage_one(
    work: &Work,
    cx: &StepContext,
    objects: &StoreSource,
    candidate: &str,
    manifest: &Manifest,
    scratch: Option<&Path>,
    options: &Options,
    name: &str,
) -> Result<Member> {
    let target = match scratch {
        Some(dir) => Target::Scratch { dir: dir.to_owned(), relative: layout(work, name)? },
        None => Target::Beside,
    };
    let cores = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
    let jobs = options.jobs.unwrap_or(JOBS_DEFAULT).clamp(1, cores.max(1));
    let how = StageOptions { jobs, data_only: options.data_only };
    let member = work.driver(name)?.stage(cx, manifest.source(name)?, objects, candidate, &target, &how)?;
    Ok(member)
}

/// Where a source belongs below the scratch directory. The configuration may say so, but not leave the directory.
fn layout(work: &Work, source: &str) -> Result<PathBuf> {
    let configured = work.service.scratch.as_ref().and_then(|scratch| scratch.layout.get(source));
    let relative = configured.cloned().unwrap_or_else(|| PathBuf::from(source));
    let inside = relative.components().all(|part| matches!(part, Component::Normal(_)));
    if inside && relative.components().next().is_some() {
        Ok(relative)
    } else {
        Err(Error::invalid(format!("the scratch layout of {source}, {}, leads out of it", relative.display()))
            .hint("give a relative path without `..`"))
    }
}

/// Removes a candidate's members, then what the engine made for it. Goes on after a failure, and says all of them. Without members, its
/// staging did not come to its end: then whatever every source has under its id is removed.
pub(crate) fn discard(work: &Work, cx: &StepContext, candidate: &str, members: &[Member]) -> Result<()> {
    check_id("candidate", candidate)?;
    let mut failures = Vec::new();
    let mut kind = None;
    for member in members {
        // After a pause they may be another engine's, and in service.
        let removed =
            cx.check().and_then(|()| work.driver(&member.source)).and_then(|driver| driver.discard(cx, member));
        if let Err(e) = removed {
            kind.get_or_insert(e.kind);
            failures.push(format!("{} at {}: {}", member.source, member.place, e.message));
        }
        cx.at(&format!("discarded {}", member.source));
    }
    for (source, driver) in work.drivers.iter().filter(|_| members.is_empty()) {
        // Each by itself: what can be removed is, also where something else does not answer.
        let removed = cx.check().and_then(|()| {
            let ended = driver.end_attempts(cx);
            let cleared = driver.clear(cx, candidate);
            ended.and(cleared)
        });
        if let Err(e) = removed {
            kind.get_or_insert(e.kind);
            failures.push(format!("{source}: {}", e.message));
        }
    }
    // A driver that refused had a reason to leave its member alone; the directory may hold that member.
    if failures.is_empty() {
        crate::scratch::forget(&work.state_dir, candidate);
        let dir = work.candidate_dir(candidate);
        let log = dir.with_file_name(format!("{candidate}.log"));
        let files = [work.started_marker(candidate), log].map(std::fs::remove_file);
        for gone in [std::fs::remove_dir_all(&dir)].into_iter().chain(files) {
            if let Err(e) = gone
                && e.kind() != std::io::ErrorKind::NotFound
            {
                failures.push(format!("{}: {e}", dir.display()));
            }
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    Err(Error::new(
        kind.unwrap_or(crate::ErrorKind::Failed),
        format!("candidate {candidate} is not wholly removed: {}", failures.join("; ")),
    )
    .hint("what is named here is still there; discard again once the cause is gone"))
}
