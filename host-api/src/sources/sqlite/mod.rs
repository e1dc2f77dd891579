//! The SQLite driver: an online copy through one private file, and promotion by exchange of the file.
//!
//! `copy` makes the copy, `facts` says what is true of it, `ask` runs the environment's statements, `swap` keeps journals with their own file,
//! `open` is the only way to a database. The live file is opened read-only, except to recover it when a stopped service's file is swapped.

mod ask;
mod copy;
mod facts;
mod open;
mod swap;
#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::bindings::SqliteSource;
use crate::checks::{Aspect, Seen};
use crate::context::StepContext;
use crate::disk;
use crate::error::{Context, Error, Result};
use crate::manifest::{SourceFacts, SourceManifest, SqliteFacts};
use crate::sources::beside;
use crate::sources::exchange::{self, State, suffixed};
use crate::sources::{
    Answers, Dumped, Identity, Member, ObjectSink, ObjectSource, Question, Row, SourceDriver, StageOptions, Swap,
    Target, Verified,
};
use crate::{Finding, Severity};

/// Bytes between two looks at the deadline while streaming.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Key in [`Swap::carried`]: the path, less the suffix, where sidecars of the previous lie that could not be recovered.
const PREVIOUS_ASIDE: &str = "previous-sidecars";
/// The same of the promoted file, after an undo.
const PROMOTED_ASIDE: &str = "promoted-sidecars";

/// Driver of one SQLite file.
#[derive(Debug)]
pub struct SqliteDriver {
    source: String,
    binding: SqliteSource,
    spool: PathBuf,
}

impl SqliteDriver {
    /// A driver of a source by this name. Copies go through the system's temporary directory, if [`Self::with_spool`] names no other.
    pub fn new(source: &str, binding: SqliteSource) -> Self {
        Self { source: source.to_owned(), binding, spool: std::env::temp_dir() }
    }

    /// Sets the directory for private copies; it must exist, and have room for the database.
    #[must_use]
    pub fn with_spool(mut self, directory: &Path) -> Self {
        self.spool = directory.to_owned();
        self
    }

    fn live_place(&self) -> Result<PathBuf> {
        exchange::live_place(&self.binding.path)
    }

    fn what(&self, doing: &str) -> String {
        format!("{doing} {}", self.source)
    }

    fn aside(swap: &Swap, key: &str, name: &str) -> PathBuf {
        swap.carried.get(key).map_or_else(|| suffixed(Path::new(&swap.other_place), name), PathBuf::from)
    }

    /// What is true of a private copy; an error unless it is sound.
    fn look_at_copy(
        &self,
        cx: &StepContext,
        copy: &Path,
        journal_mode: &str,
        questions: &[Question],
    ) -> Result<(SqliteFacts, Answers, Vec<Finding>)> {
        let path = &self.binding.path;
        let conn = open::private(cx, copy)?;
        let failed = |e| open::explain(cx, path, e);
        require_sound(path, &facts::complaints(&conn, "quick_check").map_err(failed)?)?;
        let facts = facts::read(&conn, journal_mode).map_err(failed)?;
        let mut findings = Vec::new();
        let skipped = facts::virtual_tables(&conn).map_err(failed)?;
        if !skipped.is_empty() {
            findings.push(Finding::info(
                "virtual-table",
                format!(
                    "virtual tables have no rows of their own to count (their shadow tables are counted): {}",
                    crate::identifier::shown_long(&skipped.join(", "))
                ),
            ));
        }
        let answers = ask::answers(cx, &conn, path, questions)?;
        Ok((facts, answers, findings))
    }

    fn write_candidate(&self, cx: &StepContext, spooled: &Path, bytes: u64, part: &Path) -> Result<()> {
        let live = disk::look(&self.live_place()?)?.filter(std::fs::Metadata::is_file);
        let directory = exchange::parent(part)?;
        disk::require_space(directory, bytes)?;
        let doing = || format!("writing {}", part.display());
        let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(part).doing(doing)?;
        let mut input = File::open(spooled).doing(|| "reading the spooled copy".into())?;
        stream(cx, &self.what("stage"), &mut input, &mut out, bytes)?;
        // Like the live file. A lost file's owner is guessed from its directory: the service keeps its data in its own.
        let (uid, gid) = match &live {
            Some(m) => (m.uid(), m.gid()),
            None => std::fs::metadata(directory).map(|m| (m.uid(), m.gid())).doing(doing)?,
        };
        let made = out.metadata().doing(doing)?;
        if (made.uid(), made.gid()) != (uid, gid) {
            std::os::unix::fs::fchown(&out, Some(uid), Some(gid)).map_err(|e| {
                Error::failed(format!("{} can't be given to {uid}:{gid}: {e}", part.display()))
                    .hint("run the engine as the file's owner, or as root")
            })?;
        }
        let mode = live.map_or(0o600, |m| m.mode() & 0o777);
        out.set_permissions(std::fs::Permissions::from_mode(mode)).doing(doing)?;
        out.sync_all().doing(doing)?;
        drop((out, input));
        let conn = open::private(cx, part)?;
        let complaints = facts::complaints(&conn, "quick_check").map_err(|e| open::explain(cx, part, e))?;
        require_sound(part, &complaints)
    }
}

impl SourceDriver for SqliteDriver {
    fn check(&self, cx: &StepContext) -> Result<()> {
        open::live(cx, &self.binding.path).map(drop)
    }

    fn aspects(&self) -> &'static [Aspect] {
        &[Aspect::Reachable, Aspect::MayPromote, Aspect::Space]
    }

    fn look(&self, cx: &StepContext, aspect: Aspect, _clock: &dyn Fn() -> u64) -> Result<Seen> {
        let path = &self.binding.path;
        match aspect {
            Aspect::MayPromote => beside::may_promote(path),
            Aspect::Space => {
                let bytes = std::fs::metadata(path).doing(|| format!("looking at {}", path.display()))?.len();
                beside::space(path, bytes)
            }
            _ => {
                open::looked_at(cx, path)?;
                Ok(Seen::ok(format!("{} is there and is a database", path.display())))
            }
        }
    }

    fn dump(&self, cx: &StepContext, sink: &dyn ObjectSink, questions: &[Question]) -> Result<Dumped> {
        let path = &self.binding.path;
        let live = open::live(cx, path)?;
        let size = std::fs::metadata(path).doing(|| format!("looking at {}", path.display()))?.len();
        disk::require_space(&self.spool, size)?;
        // Mode 0600: the copy holds all that the database does.
        let spooled = tempfile::Builder::new()
            .prefix(&cx.spool_prefix())
            .tempfile_in(&self.spool)
            .doing(|| format!("making a copy in {}", self.spool.display()))?;
        let budget = Duration::from_millis(self.binding.lock_budget_ms);
        let copied = copy::copy(cx, &live, path, spooled.path(), budget, &self.what("copy"))?;
        drop(live);

        let bytes = spooled.as_file().metadata().doing(|| "looking at the copy".into())?.len();
        let mut writer = sink.create("data", "sqlite", Some(bytes))?;
        let mut input = File::open(spooled.path()).doing(|| "reading the copy".into())?;
        // Stored while it is looked at: it counts only if both come to a good end.
        let (looked, streamed) = std::thread::scope(|scope| {
            let streaming = scope.spawn(|| stream(cx, &self.what("dump"), &mut input, &mut writer, bytes));
            (self.look_at_copy(cx, spooled.path(), &copied.journal_mode, questions), streaming.join())
        });
        let (facts, answers, mut findings) = looked?;
        streamed.unwrap_or_else(|_| Err(Error::failed("a bug: the streaming thread panicked")))?;
        findings.insert(0, copied.finding);
        Ok(Dumped {
            started_at_ms: copied.started_at_ms,
            objects: vec![writer.finish()?],
            facts: SourceFacts::Sqlite(facts),
            answers,
            findings,
        })
    }

    fn stage(
        &self,
        cx: &StepContext,
        source: &SourceManifest,
        objects: &dyn ObjectSource,
        id: &str,
        target: &Target,
        _options: &StageOptions,
    ) -> Result<Member> {
        let facts = facts_of(source)?;
        let data = source
            .objects
            .first()
            .filter(|o| o.role == "data")
            .ok_or_else(|| Error::failed(format!("backup of {} names no data", source.name)))?;
        if u64::from(facts.page_bytes).checked_mul(facts.pages) != Some(data.plain_bytes) {
            return Err(Error::failed(format!(
                "backup of {}: {} pages of {} bytes are not {} bytes",
                source.name, facts.pages, facts.page_bytes, data.plain_bytes
            )));
        }
        let (place, beside) = exchange::candidate_place(&self.binding.path, id, target)?;
        if let Some(member) = exchange::made_before(cx, &self.source, &place, beside)? {
            return Ok(member);
        }
        if let Some(left) = open::sidecars(&place)?.first() {
            return Err(Error::conflict(format!("{} lies where a candidate would go", left.display()))
                .hint("it would be applied to the restored file: move it away"));
        }
        let part = exchange::unfinished(&place);
        // Left by an attempt that died: the name is made of this candidate's id.
        disk::remove_file(&part)?;
        let spooled = objects.spool(cx, data)?;
        let staged = self.write_candidate(cx, spooled.path(), spooled.bytes, &part).and_then(|()| {
            cx.at("file written");
            // Whole and on disk before it has its name; and ours, which it may not be after a pause.
            cx.check()?;
            exchange::rename_new(&part, &place)
        });
        if let Err(e) = staged {
            if !cx.may_take_back() {
                return Err(e);
            }
            return Err(match disk::remove_file(&part) {
                Ok(()) => e,
                Err(left) => e.hint(format!("{} was left behind: {}", part.display(), left.message)),
            });
        }
        exchange::member(&self.source, &place, beside)
    }

    fn verify(
        &self,
        cx: &StepContext,
        member: &Member,
        source: &SourceManifest,
        _: &dyn ObjectSource,
        questions: &[Question],
    ) -> Result<Verified> {
        let expected = facts_of(source)?;
        exchange::require_member(member)?;
        let path = Path::new(&member.place);
        let mut verified = Verified::default();
        for sidecar in open::sidecars(path)? {
            verified.findings.push(Finding::error(
                "sidecar",
                format!("{} lies beside the candidate: something opened and did not close it", sidecar.display()),
                "discard this candidate and stage the backup again",
            ));
        }
        let unsound = |message: String| {
            Finding::error("integrity", message, "do not promote it: stage the backup again, then try another backup")
        };
        let conn = match open::candidate(cx, path) {
            Ok(conn) => conn,
            // It is the staged file, and its content is why it can't be opened: that is a result.
            Err(e) if open::is_damaged(path) => {
                verified.findings.push(unsound(e.message));
                return Ok(verified);
            }
            Err(e) => return Err(e),
        };
        let read = facts::complaints(&conn, "integrity_check").and_then(|complaints| {
            verified.findings.extend(complaints.into_iter().map(|c| unsound(crate::identifier::shown_long(&c))));
            facts::read(&conn, &expected.journal_mode)
        });
        match read {
            Ok(found) => {
                facts::compare(expected, &found, &mut verified.findings);
                verified.rows = found.tables.iter().map(|t| t.rows).sum();
            }
            Err(e) if open::is_corrupt(&e) => {
                verified.findings.push(unsound(open::explain(cx, path, e).message));
                return Ok(verified);
            }
            Err(e) => return Err(open::explain(cx, path, e)),
        }
        let deviates = verified.findings.iter().any(|f| f.severity == Severity::Error);
        match ask::answers(cx, &conn, path, questions) {
            Ok(answers) => verified.answers = answers,
            // A question about data that are not what they must be may have no answer; that has been found already.
            Err(_) if deviates => cx.check()?,
            Err(e) => return Err(e),
        }
        Ok(verified)
    }

    fn query(&self, cx: &StepContext, member: Option<&Member>, question: &Question) -> Result<Vec<Row>> {
        match member {
            None => {
                let conn = open::live(cx, &self.binding.path)?;
                ask::answer(cx, &conn, &self.binding.path, question)
            }
            Some(member) => {
                exchange::require_member(member)?;
                let path = Path::new(&member.place);
                ask::answer(cx, &open::candidate(cx, path)?, path, question)
            }
        }
    }

    fn execute(&self, cx: &StepContext, member: &Member, statements: &[String]) -> Result<()> {
        exchange::require_not_live(&self.binding.path, member)?;
        exchange::require_member(member)?;
        let path = Path::new(&member.place);
        let conn = open::writable(cx, path)?;
        ask::execute(cx, &conn, path, statements)?;
        conn.close().map_err(|(_, e)| open::explain(cx, path, e))
    }

    fn discard(&self, cx: &StepContext, member: &Member) -> Result<()> {
        exchange::require_not_live(&self.binding.path, member)?;
        cx.check()?;
        let place = Path::new(&member.place);
        disk::remove_file(&exchange::unfinished(place))?;
        if disk::exists(place)? {
            exchange::require_member(member)?;
            disk::remove_file(place)?;
        }
        for sidecar in open::sidecars(place)? {
            disk::remove_file(&sidecar)?;
        }
        exchange::sync_removal(place)
    }

    fn clear(&self, cx: &StepContext, id: &str) -> Result<()> {
        let Some(place) = exchange::left_beside(&self.binding.path, id)? else { return Ok(()) };
        cx.check()?;
        disk::remove_file(&exchange::unfinished(&place))?;
        disk::remove_file(&place)?;
        for sidecar in open::sidecars(&place)? {
            disk::remove_file(&sidecar)?;
        }
        disk::sync_directory(exchange::parent(&place)?)
    }

    fn place(&self) -> Result<String> {
        Ok(self.live_place()?.display().to_string())
    }

    fn live_identity(&self, _cx: &StepContext) -> Result<Option<Identity>> {
        exchange::identity(&self.live_place()?)
    }

    fn member_identity(&self, _cx: &StepContext, member: &Member) -> Result<Identity> {
        exchange::member_identity(member)
    }

    fn preflight(&self, _cx: &StepContext, member: &Member) -> Result<Vec<Finding>> {
        let live = self.live_place()?;
        let mut findings = exchange::obstacles(&live, member)?;
        if disk::look(&live)?.is_some_and(|m| !m.is_file() && !m.is_symlink()) {
            findings.push(Finding::error(
                "kind",
                format!("{} is not a regular file", live.display()),
                "move it away, or correct the source's `path`",
            ));
        }
        if let Some(left) = open::sidecars(Path::new(&member.place))?.first() {
            findings.push(Finding::error(
                "sidecar",
                format!("{} lies beside the candidate", left.display()),
                "something opened the candidate and did not close it: discard it and stage the backup again",
            ));
        }
        Ok(findings)
    }

    fn plan_swap(&self, _cx: &StepContext, member: &Member) -> Result<Swap> {
        let mut swap = exchange::plan(&self.live_place()?, member)?;
        for (key, name) in [(PREVIOUS_ASIDE, ".previous"), (PROMOTED_ASIDE, ".promoted")] {
            swap.carried.insert(key.to_owned(), format!("{}{name}", swap.other_place));
        }
        Ok(swap)
    }

    fn promote(&self, cx: &StepContext, member: &Member, swap: &Swap) -> Result<()> {
        exchange::require_planned(&self.live_place()?, member, swap)?;
        let live = Path::new(&swap.live_place);
        if exchange::state(swap)? == State::After {
            return disk::sync_directory(exchange::parent(live)?);
        }
        cx.check()?;
        if let Some(left) = open::sidecars(Path::new(&swap.other_place))?.first() {
            return Err(Error::refused(format!("{} lies beside the candidate", left.display()))
                .hint("something opened the candidate and did not close it: discard it and stage the backup again"));
        }
        let aside = Self::aside(swap, PREVIOUS_ASIDE, ".previous");
        let settled = swap::settle(cx, live, &aside).inspect(|()| cx.at("journals settled"));
        settled
            .and_then(|()| exchange::swap_to(cx, swap, State::After))
            .inspect_err(|_| swap::unsettle_if(swap, State::Before, &aside))
    }

    fn undo(&self, cx: &StepContext, swap: &Swap) -> Result<()> {
        let (live, other) = (Path::new(&swap.live_place), Path::new(&swap.other_place));
        if exchange::state(swap)? == State::After {
            cx.check()?;
            let aside = Self::aside(swap, PROMOTED_ASIDE, ".promoted");
            swap::settle(cx, live, &aside)
                .and_then(|()| match swap.previous {
                    // Somebody may have looked into the previous, which leaves journals at its present name.
                    Some(_) => swap::settle(cx, other, &suffixed(other, ".stray")),
                    None => Ok(()),
                })
                .inspect(|()| cx.at("journals settled"))
                .and_then(|()| exchange::swap_to(cx, swap, State::Before))
                .inspect_err(|_| swap::unsettle_if(swap, State::After, &aside))?;
        }
        // Also when the exchange was done already: a crash may have come between it and this.
        swap::unsettle(live, &Self::aside(swap, PREVIOUS_ASIDE, ".previous"))?;
        disk::sync_directory(exchange::parent(live)?)
    }

    fn drop_previous(&self, cx: &StepContext, swap: &Swap) -> Result<()> {
        cx.check()?;
        let other = Path::new(&swap.other_place);
        let aside = Self::aside(swap, PREVIOUS_ASIDE, ".previous");
        if exchange::may_drop(swap)? {
            disk::remove_file(other)?;
        } else if exchange::identity(Path::new(&swap.live_place))?.as_ref() != Some(&swap.promoted) {
            // Nothing at the other place, and what is live is not what was promoted: an undone promotion of a lost database. Journals set
            // aside went back with it; none are ours to remove.
            return Ok(());
        }
        for sidecar in open::sidecars(other)?.into_iter().chain(open::sidecars(&aside)?) {
            disk::remove_file(&sidecar)?;
        }
        disk::sync_directory(exchange::parent(other)?)
    }
}

fn facts_of(source: &SourceManifest) -> Result<&SqliteFacts> {
    match &source.facts {
        SourceFacts::Sqlite(facts) => Ok(facts),
        _ => Err(Error::failed(format!("backup of {} is not of an SQLite file", source.name))
            .hint("the source's kind changed since: restore with the configuration of that time")),
    }
}

fn require_sound(path: &Path, complaints: &[String]) -> Result<()> {
    let Some(first) = complaints.first() else { return Ok(()) };
    Err(Error::failed(format!(
        "{} is damaged: {} (quick_check; {} messages)",
        path.display(),
        crate::identifier::shown_long(first),
        complaints.len()
    ))
    .hint("restore the last good backup, or save what `sqlite3 FILE .recover` can read"))
}

fn stream(cx: &StepContext, what: &str, from: &mut impl Read, into: &mut impl Write, bytes: u64) -> Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    let mut done = 0;
    loop {
        cx.check()?;
        let read = from.read(&mut buffer).doing(|| format!("{what}: reading"))?;
        if read == 0 {
            return Ok(());
        }
        into.write_all(&buffer[..read]).doing(|| format!("{what}: writing"))?;
        done += read as u64;
        cx.report(what, done, Some(bytes));
    }
}
