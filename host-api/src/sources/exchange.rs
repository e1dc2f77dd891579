//! Promotion of paths by exchange: one `renameat2` swaps the live file or directory with the candidate beside it.
//!
//! | state | live place | other place |
//! | --- | --- | --- |
//! | before (or undone) | the previous | the promoted |
//! | after | the promoted | the previous |
//!
//! Where nothing was live (a lost database) "the previous" is "nothing", and a plain rename that replaces nothing does it. Identities
//! survive renames, so what lies where decides the state after any crash; whatever fits neither row is a conflict for a person.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use rustix::fs::{AtFlags, CWD, RenameFlags, StatxAttributes, StatxFlags};

use crate::Finding;
use crate::context::StepContext;
use crate::disk::{self, look};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::sources::{Identity, Member, Swap, Target};

/// Which row of the table above holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The previous is live (or nothing is).
    Before,
    /// The promoted is live.
    After,
}

/// What tells one file or directory from every other: device, inode, and the time it was born where the file system keeps that,
/// because an inode's number is used again as soon as its file is gone.
pub(crate) fn identity_of(metadata: &Metadata) -> Identity {
    let mut identity = Identity::from([
        ("device".to_owned(), metadata.dev().to_string()),
        ("inode".to_owned(), metadata.ino().to_string()),
    ]);
    if let Some(born) = metadata.created().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok()) {
        identity.insert("born-ns".to_owned(), born.as_nanos().to_string());
    }
    identity
}

/// Identity of what lies at a path.
pub(crate) fn identity(path: &Path) -> Result<Option<Identity>> {
    Ok(look(path)?.map(|m| identity_of(&m)))
}

/// Identity of a member; an error where it is gone.
pub(crate) fn member_identity(member: &Member) -> Result<Identity> {
    identity(Path::new(&member.place))?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("candidate of {} is gone: {}", member.source, member.place))
            .hint("stage the backup again")
    })
}

/// An error unless the member is what was staged.
pub(crate) fn require_member(member: &Member) -> Result<()> {
    let found = member_identity(member)?;
    if found == member.identity {
        return Ok(());
    }
    Err(Error::conflict(format!(
        "{} is not the candidate that was staged there: {} expected, {} found",
        member.place,
        words(Some(&member.identity)),
        words(Some(&found)),
    ))
    .hint("it was replaced or promoted since: look at `lifeboat promotions list`"))
}

/// The place that a configured path names, with symbolic links resolved, so that an exchange swaps the data and not a link to them.
/// Nothing needs to be there, but its directory must exist.
pub(crate) fn live_place(configured: &Path) -> Result<PathBuf> {
    if let Ok(real) = std::fs::canonicalize(configured) {
        return Ok(real);
    }
    let name = configured.file_name().ok_or_else(|| {
        Error::invalid(format!("{} names no file or directory", configured.display()))
            .hint("a source's `path` must end in a name")
    })?;
    let parent = configured.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let parent = std::fs::canonicalize(parent).map_err(|e| {
        Error::new(ErrorKind::NotFound, format!("directory {}: {e}", parent.display()))
            .hint("mount what belongs there, or on a new host make it: a missing mount is noticed instead of filled")
    })?;
    Ok(parent.join(name))
}

/// Where a candidate of this id would have been left beside the live data; none where the directory that it would lie in is not there.
pub(crate) fn left_beside(configured: &Path, id: &str) -> Result<Option<PathBuf>> {
    match live_place(configured) {
        Ok(live) => beside(&live, id).map(Some),
        Err(e) if e.kind == ErrorKind::NotFound => crate::identifier::check_id("candidate", id).map(|()| None),
        Err(e) => Err(e),
    }
}

/// The directory a path lies in.
pub(crate) fn parent(path: &Path) -> Result<&Path> {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .ok_or_else(|| Error::invalid(format!("{} lies in no directory", path.display())))
}

/// A candidate's place beside the live data: the same directory, so the same file system, under a name made of the candidate's id.
pub(crate) fn beside(live: &Path, id: &str) -> Result<PathBuf> {
    crate::identifier::check_id("candidate", id)?;
    let name = live.file_name().ok_or_else(|| Error::invalid(format!("{} names nothing", live.display())))?;
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".lifeboat-{id}"));
    Ok(parent(live)?.join(hidden))
}

/// Where a candidate goes, and whether that is beside the live data. Directories above it in scratch are made.
pub(crate) fn candidate_place(configured: &Path, id: &str, target: &Target) -> Result<(PathBuf, bool)> {
    match target {
        Target::Beside => Ok((beside(&live_place(configured)?, id)?, true)),
        Target::Scratch { dir, relative } => {
            let plain = relative.components().all(|c| matches!(c, Component::Normal(_)));
            if !plain || relative.as_os_str().is_empty() {
                return Err(Error::invalid(format!("`{}` is no relative path below a candidate", relative.display()))
                    .hint("in the service's `scratch.layout`, name a path such as `.app/data`"));
            }
            let place = dir.join(relative);
            disk::private_dir(parent(&place)?)?;
            Ok((place, false))
        }
    }
}

/// What a candidate is called until it is whole.
pub(crate) fn unfinished(place: &Path) -> PathBuf {
    suffixed(place, ".part")
}

/// The member that an earlier attempt at this step gave its name, which it has only when it is whole; none where nothing lies there. Whatever
/// lies there at a first attempt is somebody's.
pub(crate) fn made_before(cx: &StepContext, source: &str, place: &Path, beside: bool) -> Result<Option<Member>> {
    match (disk::exists(place)?, cx.attempt) {
        (false, _) => Ok(None),
        (true, 2..) => member(source, place, beside).map(Some),
        (true, _) => Err(Error::conflict(format!("{} exists already", place.display()))
            .hint("discard that candidate, or stage under a new id")),
    }
}

/// Flushes the directory that something was removed from, which may be gone itself.
pub(crate) fn sync_removal(place: &Path) -> Result<()> {
    match parent(place)? {
        directory if disk::exists(directory)? => disk::sync_directory(directory),
        _ => Ok(()),
    }
}

/// The member that was just made.
pub(crate) fn member(source: &str, place: &Path, beside: bool) -> Result<Member> {
    let identity =
        identity(place)?.ok_or_else(|| Error::failed(format!("{} vanished as it was made", place.display())))?;
    Ok(Member { source: source.to_owned(), place: text(place)?, identity, beside, data_only: None })
}

/// An error if a member is the live data: whatever changes or removes it must not touch those.
pub(crate) fn require_not_live(configured: &Path, member: &Member) -> Result<()> {
    // Where even the live path's directory is gone, nothing is live.
    let Ok(live) = live_place(configured) else { return Ok(()) };
    if Path::new(&member.place) != live && identity(&live)?.as_ref() != Some(&member.identity) {
        return Ok(());
    }
    Err(Error::refused(format!("{} is live, no longer a candidate", member.place))
        .hint("a promotion is taken back with `lifeboat promotions undo`"))
}

/// A path with text appended to its last name.
pub(crate) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut text = path.as_os_str().to_owned();
    text.push(suffix);
    text.into()
}

/// A path as text, for records.
pub(crate) fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| {
        Error::invalid(format!("{} is not UTF-8", path.display()))
            .hint("records are text: configure a path that is UTF-8")
    })
}

/// Renames without replacing anything, and flushes the directory.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<()> {
    rename_with(from, to, RenameFlags::NOREPLACE)
}

fn rename_with(from: &Path, to: &Path, flags: RenameFlags) -> Result<()> {
    rustix::fs::renameat_with(CWD, from, CWD, to, flags).map_err(|e| rename_error(from, to, e))?;
    disk::sync_directory(parent(to)?)
}

fn rename_error(from: &Path, to: &Path, e: rustix::io::Errno) -> Error {
    let error = Error::failed(format!("renaming {} to {}: {e}", from.display(), to.display()));
    match e {
        rustix::io::Errno::BUSY => error.hint("one of them is a mount point: configure a directory below it"),
        rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS => error
            .hint("this file system can't exchange two names: move the data to one that can (ext4, xfs, btrfs, tmpfs)"),
        rustix::io::Errno::EXIST => error.hint("something else appeared there meanwhile: look, and move it away"),
        _ => error,
    }
}

/// True if a path is a mount point; a bind mount of the same file system counts.
pub(super) fn is_mount_point(path: &Path, metadata: &Metadata) -> Result<bool> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS)
        .doing(|| format!("looking at {}", path.display()))?;
    if stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT) {
        return Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT));
    }
    let above = std::fs::metadata(parent(path)?).doing(|| format!("looking above {}", path.display()))?;
    Ok(above.dev() != metadata.dev())
}

/// What stands in the way of an exchange. It touches nothing that exists; to learn whether the file system can exchange names and we may,
/// two empty files are made in the directory, exchanged and removed.
pub(crate) fn obstacles(live: &Path, member: &Member) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    if !member.beside {
        findings.push(Finding::error(
            "beside",
            format!("candidate of {} lies in scratch, not beside the live data", member.source),
            "stage it again with target `beside`",
        ));
        return Ok(findings);
    }
    require_member(member)?;
    let place = Path::new(&member.place);
    if parent(place)? != parent(live)? {
        findings.push(Finding::error(
            "beside",
            format!("{} and {} are in different directories", place.display(), live.display()),
            "the source's `path` changed since: stage the backup again",
        ));
    }
    let candidate = look(place)?;
    let current = look(live)?;
    if let Some(current) = &current {
        if current.is_symlink() {
            findings.push(Finding::error(
                "symlink",
                format!("{} is a symbolic link that leads nowhere", live.display()),
                "remove the link or restore what it led to",
            ));
        }
        if is_mount_point(live, current)? {
            findings.push(Finding::error(
                "mount-point",
                format!("{} is a mount point and can't be exchanged", live.display()),
                "configure a directory below the mount point",
            ));
        }
    }
    if let (Some(current), Some(candidate)) = (&current, &candidate) {
        if current.dev() != candidate.dev() {
            findings.push(Finding::error(
                "device",
                format!("{} and {} are on different file systems", place.display(), live.display()),
                "an exchange needs one file system: configure a path below the mount point",
            ));
        }
        if (current.uid(), current.gid()) != (candidate.uid(), candidate.gid()) {
            findings.push(Finding::warning(
                "owner",
                format!(
                    "the candidate of {} belongs to {}:{}, the live data to {}:{}",
                    member.source,
                    candidate.uid(),
                    candidate.gid(),
                    current.uid(),
                    current.gid()
                ),
                "check that the service may read and write it",
            ));
        }
    }
    if let Err(e) = try_exchange(parent(live)?) {
        findings.push(Finding::error("rights", e.message, e.hint.unwrap_or_default()));
    }
    Ok(findings)
}

fn try_exchange(directory: &Path) -> Result<()> {
    let one = || {
        tempfile::Builder::new().prefix(".lifeboat-probe-").tempfile_in(directory).map_err(|e| {
            Error::failed(format!("no file can be made in {}: {e}", directory.display()))
                .hint("give the engine's user write permission on this directory")
        })
    };
    let (a, b) = (one()?, one()?);
    rustix::fs::renameat_with(CWD, a.path(), CWD, b.path(), RenameFlags::EXCHANGE)
        .map_err(|e| rename_error(a.path(), b.path(), e))
}

/// The plan of a swap: who is who and what goes where.
pub(crate) fn plan(live: &Path, member: &Member) -> Result<Swap> {
    if let Some(obstacle) = obstacles(live, member)?.into_iter().find(|f| f.severity == crate::Severity::Error) {
        return Err(Error::refused(obstacle.message).hint(obstacle.fix));
    }
    Ok(Swap {
        source: member.source.clone(),
        live_place: text(live)?,
        other_place: member.place.clone(),
        previous: identity(live)?,
        promoted: member.identity.clone(),
        carried: Default::default(),
    })
}

/// An error unless a swap is this member's, and its live place still the configured one.
pub(crate) fn require_planned(live: &Path, member: &Member, swap: &Swap) -> Result<()> {
    let same = swap.source == member.source
        && swap.other_place == member.place
        && swap.promoted == member.identity
        && Path::new(&swap.live_place) == live;
    if same {
        return Ok(());
    }
    Err(Error::conflict(format!("the planned swap of {} is not of this candidate and this path", member.source))
        .hint("the configuration changed since the plan: make a new one"))
}

/// Which state a swap is in; a conflict where neither fits.
pub(crate) fn state(swap: &Swap) -> Result<State> {
    let live = identity(Path::new(&swap.live_place))?;
    let other = identity(Path::new(&swap.other_place))?;
    let promoted = Some(&swap.promoted);
    if live == swap.previous && other.as_ref() == promoted {
        Ok(State::Before)
    } else if live.as_ref() == promoted && other == swap.previous {
        Ok(State::After)
    } else {
        let name = |found: &Option<Identity>| {
            if found.is_none() {
                "nothing".to_owned()
            } else if found.as_ref() == promoted {
                "what was to be promoted".to_owned()
            } else if *found == swap.previous {
                "the previous".to_owned()
            } else {
                format!("something unknown ({})", words(found.as_ref()))
            }
        };
        Err(Error::conflict(format!(
            "neither before nor after the swap of {}: {} is {}, {} is {}",
            swap.source,
            swap.live_place,
            name(&live),
            swap.other_place,
            name(&other),
        ))
        .hint("something else moved these: look at both, and put them where they belong by hand"))
    }
}

/// Exchanges from before to after, or back, unless the step is late. What is at the live place must be flushed by whoever made it.
pub(crate) fn swap_to(cx: &StepContext, swap: &Swap, to: State) -> Result<()> {
    // Whatever came before may have taken any time.
    cx.check()?;
    let (live, other) = (Path::new(&swap.live_place), Path::new(&swap.other_place));
    // A link or a mount point could have come after the plan; the identities that `state` compared would differ for a link.
    match (&swap.previous, to) {
        (Some(_), _) => rename_with(other, live, RenameFlags::EXCHANGE),
        (None, State::After) => rename_new(other, live),
        (None, State::Before) => rename_new(live, other),
    }
}

/// True if the other place holds the previous, false where nothing is there any more; a conflict for anything else.
pub(crate) fn may_drop(swap: &Swap) -> Result<bool> {
    let Some(found) = identity(Path::new(&swap.other_place))? else { return Ok(false) };
    if Some(&found) == swap.previous.as_ref() {
        return Ok(true);
    }
    let what = if found == swap.promoted { "what was promoted (it was undone)" } else { "something unknown" };
    Err(Error::conflict(format!("{} is not the previous of {} but {what}", swap.other_place, swap.source))
        .hint("only the previous is dropped; a candidate goes with `lifeboat candidates discard`"))
}

fn words(identity: Option<&Identity>) -> String {
    identity
        .map_or_else(|| "nothing".into(), |i| i.iter().map(|(k, v)| format!("{k} {v}")).collect::<Vec<_>>().join(", "))
}

/// Who else has this file open, `process 123 (python3)`; as far as we may look. Our own readers don't count: they are short.
pub(crate) fn holder(path: &Path) -> Option<String> {
    let wanted = std::fs::metadata(path).ok()?;
    let name = path.file_name()?;
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        // Not ours to look into, or gone: the service's stop is checked elsewhere too.
        let Ok(fds) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for fd in fds.flatten() {
            // The name first: looking at every open file could wait for a network file system that is down.
            if !std::fs::read_link(fd.path()).is_ok_and(|target| target.file_name() == Some(name)) {
                continue;
            }
            if std::fs::metadata(fd.path()).is_ok_and(|m| (m.dev(), m.ino()) == (wanted.dev(), wanted.ino())) {
                let command = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
                return Some(format!("process {pid} ({})", crate::identifier::shown(command.trim())));
            }
        }
    }
    None
}
