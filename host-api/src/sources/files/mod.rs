//! The files driver: a directory as a tar and an index of it, and promotion by exchange of the directory.
//!
//! `walk` finds entries in a fixed order, `look` only counts them, `read` makes archive and index of them, `index` and `archive` are the two formats, `extract` the way
//! back. Kept: content, permission bits, times, links, owners by number (given back where we are root). Not kept: hard links between files
//! (each becomes a file), extended attributes and access control lists, holes in sparse files, sockets, pipes and devices.

mod archive;
mod extract;
mod index;
mod look;
mod read;
#[cfg(test)]
mod tests;
mod walk;

use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::Finding;
use crate::bindings::FilesSource;
use crate::checks::{Aspect, Seen};
use crate::context::StepContext;
use crate::disk;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::identifier::now_ms;
use crate::manifest::{FilesFacts, ObjectEntry, SourceFacts, SourceManifest};
use crate::sources::beside;
use crate::sources::exchange::{self, State};
use crate::sources::{
    Answers, Dumped, Identity, Member, ObjectSink, ObjectSource, Question, Row, SourceDriver, StageOptions, Swap,
    Target, Verified,
};

/// Between many small headers and the pipeline.
const BUFFER_BYTES: usize = 256 * 1024;
/// What a directory entry may take on disk beyond its content, when space is checked.
const ENTRY_BYTES: u64 = 4096;

/// What a file system holds at least before a directory on it is walked through for its size: smaller ones fit into parts of the first size.
const WALKED_FOR_BYTES: u64 = 40_000 * 1024 * 1024;

/// Driver of one directory.
#[derive(Debug)]
pub struct FilesDriver {
    source: String,
    binding: FilesSource,
    spool: PathBuf,
}

impl FilesDriver {
    /// A driver of a source by this name. The index goes through the system's temporary directory, if [`Self::with_spool`] names no other.
    pub fn new(source: &str, binding: FilesSource) -> Self {
        Self { source: source.to_owned(), binding, spool: std::env::temp_dir() }
    }

    /// Sets the directory for the index while it is made; it must exist.
    #[must_use]
    pub fn with_spool(mut self, directory: &Path) -> Self {
        self.spool = directory.to_owned();
        self
    }

    fn live_place(&self) -> Result<PathBuf> {
        exchange::live_place(&self.binding.path)
    }

    /// About how large the archive will be; none where that is not known. Walked for only where the file system holds so much that it matters:
    /// each file is looked at once more.
    fn about_bytes(&self, cx: &StepContext) -> Option<u64> {
        let holds = disk::used_bytes(&self.binding.path).ok()?;
        if holds <= WALKED_FOR_BYTES {
            return Some(holds);
        }
        let walked = look::walked(cx, &self.binding.path).ok()?;
        Some(walked.bytes.saturating_add(walked.entries.saturating_mul(ENTRY_BYTES)))
    }

    fn no_sql(&self) -> Error {
        Error::invalid(format!("source {} is a directory: it answers no SQL", self.source))
            .hint("ask a database source of this service")
    }
}

impl SourceDriver for FilesDriver {
    fn check(&self, _cx: &StepContext) -> Result<()> {
        let path = &self.binding.path;
        let metadata = std::fs::metadata(path).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => {
                Error::new(ErrorKind::NotFound, format!("no directory at {}", path.display()))
                    .hint("check the source's `path`; a lost directory is restored with a candidate")
            }
            _ => Error::failed(format!("looking at {}: {e}", path.display())),
        })?;
        if !metadata.is_dir() {
            return Err(Error::invalid(format!("{} is not a directory", path.display())));
        }
        exchange::parent(&self.live_place()?)?;
        std::fs::read_dir(path).map(drop).map_err(|e| {
            Error::failed(format!("reading {}: {e}", path.display()))
                .hint("give the engine's user read permission, or run it as the directory's owner")
        })
    }

    fn aspects(&self) -> &'static [Aspect] {
        &[Aspect::Reachable, Aspect::MayRead, Aspect::MayPromote, Aspect::Space]
    }

    fn look(&self, cx: &StepContext, aspect: Aspect, _clock: &dyn Fn() -> u64) -> Result<Seen> {
        let path = &self.binding.path;
        match aspect {
            Aspect::MayRead => Ok(look::walked(cx, path)?.readable()),
            Aspect::MayPromote => beside::may_promote(path),
            Aspect::Space => {
                let walked = look::walked(cx, path)?;
                beside::space(path, walked.bytes.saturating_add(walked.entries.saturating_mul(ENTRY_BYTES)))
            }
            _ => self.check(cx).map(|()| Seen::ok(format!("{} is there and can be listed", path.display()))),
        }
    }

    fn dump(&self, cx: &StepContext, sink: &dyn ObjectSink, questions: &[Question]) -> Result<Dumped> {
        if !questions.is_empty() {
            return Err(self.no_sql());
        }
        self.check(cx)?;
        let started_at_ms = now_ms();
        let mut data = sink.create_about("data", "tar", self.about_bytes(cx))?;
        // Without a name: a killed engine leaves nothing of it.
        let mut index =
            tempfile::tempfile_in(&self.spool).doing(|| format!("making an index in {}", self.spool.display()))?;
        let (facts, findings) = {
            let mut archive = BufWriter::with_capacity(BUFFER_BYTES, &mut data);
            let mut lines = BufWriter::with_capacity(BUFFER_BYTES, &mut index);
            let mut reader =
                read::Reader::new(cx, format!("dump {}", self.source), Some(&mut archive), Some(&mut lines));
            walk::walk(cx, &self.binding.path, &mut reader)?;
            let done = reader.finish()?;
            archive.flush().doing(|| "writing the archive".into())?;
            lines.flush().doing(|| "writing the index".into())?;
            done
        };
        let data = data.finish()?;
        let spooling = || "reading the index back".to_owned();
        let mut lines = index;
        lines.rewind().doing(spooling)?;
        let mut index = sink.create("index", "jsonl", Some(lines.metadata().doing(spooling)?.len()))?;
        std::io::copy(&mut lines, &mut index).doing(spooling)?;
        Ok(Dumped {
            started_at_ms,
            objects: vec![data, index.finish()?],
            facts: SourceFacts::Files(facts),
            answers: Answers::new(),
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
        let index = objects.spool(cx, object(source, "index")?)?;
        extract::check_index(index.path(), facts)?;
        let (place, beside) = exchange::candidate_place(&self.binding.path, id, target)?;
        if let Some(member) = exchange::made_before(cx, &self.source, &place, beside)? {
            return Ok(member);
        }
        let room = facts.bytes.saturating_add(facts.entries.saturating_mul(ENTRY_BYTES));
        disk::require_space(exchange::parent(&place)?, room)?;
        let part = exchange::unfinished(&place);
        // Left by an attempt that died: the name is made of this candidate's id.
        disk::remove_tree(&part)?;
        std::fs::DirBuilder::new().mode(0o700).create(&part).doing(|| format!("making {}", part.display()))?;
        let staged = objects.stream(cx, object(source, "data")?).and_then(|archive| {
            let mut archive: Box<dyn Read> = Box::new(BufReader::with_capacity(BUFFER_BYTES, archive));
            extract::extract(cx, &format!("stage {}", self.source), index.path(), &mut archive, &part)?;
            cx.at("tree written");
            // Whole and on disk before it has its name; and ours, which it may not be after a pause.
            cx.check()?;
            exchange::rename_new(&part, &place)
        });
        if let Err(e) = staged {
            if !cx.may_take_back() {
                return Err(e);
            }
            return Err(match disk::remove_tree(&part) {
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
        const FIX: &str = "do not promote it: stage the backup again (staging names each file that differs)";
        if !questions.is_empty() {
            return Err(self.no_sql());
        }
        let expected = facts_of(source)?;
        exchange::require_member(member)?;
        let mut reader = read::Reader::new(cx, format!("verify {}", self.source), None, None);
        walk::walk(cx, Path::new(&member.place), &mut reader)?;
        let (found, mut findings) = reader.finish()?;
        // What no backup holds can't have come out of one, and is not in the hash.
        for finding in &mut findings {
            finding.severity = crate::Severity::Error;
            finding.fix = FIX.to_owned();
        }
        if (expected.entries, expected.files, expected.bytes) != (found.entries, found.files, found.bytes) {
            let words = |f: &FilesFacts| format!("{} entries, {} files, {} bytes", f.entries, f.files, f.bytes);
            findings.push(Finding::error(
                "file-count",
                format!("{} expected, {} found", words(expected), words(&found)),
                FIX,
            ));
        } else if expected.hash != found.hash {
            findings.push(Finding::error(
                "content-hash",
                "as many entries and bytes as in the backup, but a content, name, mode, time or link differs",
                FIX,
            ));
        }
        Ok(Verified { findings, rows: 0, files: found.files, answers: Answers::new() })
    }

    fn query(&self, _cx: &StepContext, _member: Option<&Member>, _question: &Question) -> Result<Vec<Row>> {
        Err(self.no_sql())
    }

    fn execute(&self, _cx: &StepContext, _member: &Member, _statements: &[String]) -> Result<()> {
        Err(self.no_sql())
    }

    fn discard(&self, cx: &StepContext, member: &Member) -> Result<()> {
        exchange::require_not_live(&self.binding.path, member)?;
        cx.check()?;
        let place = Path::new(&member.place);
        disk::remove_tree(&exchange::unfinished(place))?;
        if disk::exists(place)? {
            exchange::require_member(member)?;
            disk::remove_tree(place)?;
        }
        exchange::sync_removal(place)
    }

    fn clear(&self, cx: &StepContext, id: &str) -> Result<()> {
        let Some(place) = exchange::left_beside(&self.binding.path, id)? else { return Ok(()) };
        cx.check()?;
        disk::remove_tree(&exchange::unfinished(&place))?;
        disk::remove_tree(&place)?;
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
        if disk::look(&live)?.is_some_and(|m| !m.is_dir() && !m.is_symlink()) {
            findings.push(Finding::error(
                "kind",
                format!("{} is not a directory", live.display()),
                "move it away, or correct the source's `path`",
            ));
        }
        Ok(findings)
    }

    fn plan_swap(&self, _cx: &StepContext, member: &Member) -> Result<Swap> {
        exchange::plan(&self.live_place()?, member)
    }

    fn promote(&self, cx: &StepContext, member: &Member, swap: &Swap) -> Result<()> {
        exchange::require_planned(&self.live_place()?, member, swap)?;
        if exchange::state(swap)? == State::After {
            return disk::sync_directory(exchange::parent(Path::new(&swap.live_place))?);
        }
        exchange::swap_to(cx, swap, State::After)
    }

    fn undo(&self, cx: &StepContext, swap: &Swap) -> Result<()> {
        if exchange::state(swap)? == State::Before {
            return disk::sync_directory(exchange::parent(Path::new(&swap.live_place))?);
        }
        exchange::swap_to(cx, swap, State::Before)
    }

    fn drop_previous(&self, cx: &StepContext, swap: &Swap) -> Result<()> {
        let other = Path::new(&swap.other_place);
        if exchange::may_drop(swap)? {
            cx.check()?;
            disk::remove_tree(other)?;
        }
        disk::sync_directory(exchange::parent(other)?)
    }
}

fn facts_of(source: &SourceManifest) -> Result<&FilesFacts> {
    match &source.facts {
        SourceFacts::Files(facts) => Ok(facts),
        _ => Err(Error::failed(format!("backup of {} is not of a directory", source.name))
            .hint("the source's kind changed since: restore with the configuration of that time")),
    }
}

fn object<'a>(source: &'a SourceManifest, role: &str) -> Result<&'a ObjectEntry> {
    source
        .objects
        .iter()
        .find(|o| o.role == role)
        .ok_or_else(|| Error::failed(format!("backup of {} has no object `{role}`", source.name)))
}
