//! Sources: PostgreSQL databases, SQLite files, directories; one driver each, behind one trait.
//!
//! Drivers are blocking code: they live in children, pipes and files. The primitives call them on threads made for that.
//! A driver knows its own kind of data and nothing of manifests as a whole, stores, approvals or runs.

mod beside;
pub(crate) mod exchange;
pub mod files;
mod not_json;
pub mod postgres;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod testing;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Finding;
use crate::checks::{Aspect, Seen};
use crate::context::StepContext;
use crate::error::{Context, Error, Result};
use crate::manifest::{ObjectEntry, SourceFacts, SourceManifest};

/// One row of an answer: each value as text, `None` for NULL.
pub type Row = Vec<Option<String>>;

/// A question in SQL that is answered inside the snapshot that is dumped, or on a candidate.
#[derive(Debug, Clone)]
pub struct Question {
    /// The name the answer goes by.
    pub name: String,
    /// One read-only statement.
    pub sql: String,
    /// More rows than this are an error.
    pub rows_max: usize,
    /// The answer is not the rows but what [`not_json::NotJson`] makes of them.
    pub not_json: bool,
}

/// Answers by the question's name.
pub type Answers = BTreeMap<String, Vec<Row>>;

/// What a driver made of a dump.
#[derive(Debug)]
pub struct Dumped {
    /// When the snapshot was taken, Unix milliseconds.
    pub started_at_ms: u64,
    /// The stored objects; the first is the data.
    pub objects: Vec<ObjectEntry>,
    /// What is true of the content.
    pub facts: SourceFacts,
    /// Answers to the questions asked, from the same snapshot.
    pub answers: Answers,
    /// Things a person should know.
    pub findings: Vec<Finding>,
}

/// Where a driver writes what it dumps: each object is compressed, hashed, counted and stored as it streams.
pub trait ObjectSink {
    /// Begins an object. `expected_bytes`: size of the content where known, for progress.
    fn create(&self, role: &str, extension: &str, expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>>;

    /// The same, of content whose size nobody knows; `about_bytes` is the order of it. A store that takes an object in a limited number of
    /// parts chooses their size by it; it is no progress to show.
    fn create_about(&self, role: &str, extension: &str, about_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        let _ = about_bytes;
        self.create(role, extension, None)
    }
}

/// An object being written. Dropped without [`ObjectWriter::finish`], it is aborted and nothing of it counts.
pub trait ObjectWriter: Write + Send {
    /// Ends the object: on disk, or in the store, when this answers.
    fn finish(self: Box<Self>) -> Result<ObjectEntry>;
}

/// Where a driver reads a backup's objects from.
pub trait ObjectSource: Send + Sync {
    /// Fetches an object into a private file in the engine's scratch space, decompressed. Space is checked first; size and digest of
    /// the stored bytes and of the content have been compared with the entry when this answers.
    fn spool(&self, cx: &StepContext, entry: &ObjectEntry) -> Result<SpooledFile> {
        self.spool_through(cx, entry, &mut |content, file| file.write_all(content).map_err(crate::pipeline::error_of))
    }

    /// The same, but what stands in the file is what `write` makes of the content, which it is given piece by piece.
    fn spool_through(&self, cx: &StepContext, entry: &ObjectEntry, write: &mut SpoolWrite<'_>) -> Result<SpooledFile>;

    /// Streams an object's content, decompressed, without keeping it. Reading to the end compares digests and fails at the end if they
    /// differ: only for readers that can throw away what they did.
    fn stream(&self, cx: &StepContext, entry: &ObjectEntry) -> Result<Box<dyn Read + Send>>;

    /// An empty private file in the engine's scratch space, for what a restore has to keep beside the objects.
    fn private_file(&self, cx: &StepContext) -> Result<tempfile::NamedTempFile>;
}

/// Writes a piece of an object's content into the file that it is spooled to.
pub type SpoolWrite<'a> = dyn FnMut(&[u8], &mut dyn Write) -> Result<()> + 'a;

/// A private file that goes away with this value.
#[derive(Debug)]
pub struct SpooledFile {
    /// The file; mode 0600, in a directory of mode 0700.
    pub file: tempfile::NamedTempFile,
    /// Its size, bytes.
    pub bytes: u64,
}

impl SpooledFile {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

/// Where a candidate goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Into a private directory (files), or a database of its own: for drills, thrown away.
    Scratch {
        /// The candidate's own directory; exists, mode 0700.
        dir: PathBuf,
        /// Where in it this source belongs, relative (`.kneo/kneo_runs.sqlite`).
        relative: PathBuf,
    },
    /// Next to the live data under a generated name; can be promoted.
    Beside,
}

/// One source of a candidate, as restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Member {
    /// The source's name.
    pub source: String,
    /// Where it is: an absolute path, or a database's name.
    pub place: String,
    /// What identifies it: `device`, `inode`; or `system-identifier`, `oid`. Never a name: names say where.
    pub identity: Identity,
    /// True if it lies beside the live data (and could be promoted).
    pub beside: bool,
    /// Where it has only the rows of the backup: which are not even that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_only: Option<DataOnly>,
}

/// A member with the rows of a backup in the structure that the live database had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DataOnly {
    /// Tables whose rows are the live database's, `schema.table`.
    pub kept: Vec<String>,
}

/// Properties that together tell one thing from every other; compared as a whole.
pub type Identity = BTreeMap<String, String>;

/// A plain file from outside, as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlainFile {
    /// Its name, without its directory.
    pub file: String,
    /// Its size as it lies there, bytes.
    pub bytes: u64,
    /// Its SHA-256 as it lies there, hexadecimal.
    pub sha256: String,
    /// Version of the server it says it is of.
    pub server: String,
    /// Version of the tool that it says has made it.
    pub dump: String,
}

/// A plain file that was loaded.
pub struct Loaded {
    /// What dumps the place that it was loaded into.
    pub driver: std::sync::Arc<dyn SourceDriver>,
    /// What was said while it was loaded.
    pub findings: Vec<Finding>,
}

/// Options of a restore.
#[derive(Debug, Clone, Default)]
pub struct StageOptions {
    /// Parallel jobs, where the driver has such.
    pub jobs: u32,
    /// Of a PostgreSQL database only the rows, in the structure that the live one has. Other kinds are restored as ever.
    pub data_only: bool,
}

/// What reading a member back found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Deviations from the manifest.
    pub findings: Vec<Finding>,
    /// Rows compared.
    pub rows: u64,
    /// Files compared.
    pub files: u64,
    /// Answers to the questions asked.
    pub answers: Answers,
}

/// A member that was swapped with the live data. Enough to recognise every half-way state, to undo and to drop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Swap {
    /// The source's name.
    pub source: String,
    /// Where the live data are: an absolute path, or a database's name.
    pub live_place: String,
    /// Where the other side is: the previous while the promotion is in service, the promoted data after an undo. For files this is the
    /// candidate's former place; for databases a generated name.
    pub other_place: String,
    /// Identity of what was live before; none where nothing was there (a lost database).
    pub previous: Option<Identity>,
    /// Identity of what was promoted.
    pub promoted: Identity,
    /// What else must be carried or put back, by name (`datallowconn`, …).
    pub carried: BTreeMap<String, String>,
}

/// One kind of source. All methods block; all respect the context's deadline and cancellation, and kill their children then.
pub trait SourceDriver: Send + Sync {
    /// Everything that can be checked before a dump begins: tools, versions, reachability, rights. An error names what to do.
    fn check(&self, cx: &StepContext) -> Result<()>;

    /// What can be looked at of it for [`crate::checks`].
    fn aspects(&self) -> &'static [Aspect] {
        &[Aspect::Reachable]
    }

    /// Looks at one aspect, changing nothing and leaving nothing. An error is what is wrong, or why nobody can tell. `clock`: our time, for
    /// holding another one against it.
    fn look(&self, cx: &StepContext, aspect: Aspect, _clock: &dyn Fn() -> u64) -> Result<Seen> {
        match aspect {
            Aspect::Reachable => self.check(cx).map(|()| Seen::ok("it is there and answers")),
            _ => Err(Error::invalid(format!("there is no `{}` of this kind of source", aspect.word()))),
        }
    }

    /// Dumps one consistent snapshot into the sink and answers questions from the same snapshot. No object counts unless this succeeds.
    fn dump(&self, cx: &StepContext, sink: &dyn ObjectSink, questions: &[Question]) -> Result<Dumped>;

    /// Restores beside the live data or into scratch. `id` is the candidate's id, from which every name is generated. The data in the
    /// objects have been digest-checked by the time a tool reads them. On failure nothing is left behind, or the error says what is.
    fn stage(
        &self,
        cx: &StepContext,
        source: &SourceManifest,
        objects: &dyn ObjectSource,
        id: &str,
        target: &Target,
        options: &StageOptions,
    ) -> Result<Member>;

    /// Writes a backup of this source as a file that people without Lifeboat have a tool for. The data in the objects have been digest-checked by
    /// the time a tool reads them; what was written counts only if this succeeds.
    fn export(
        &self,
        cx: &StepContext,
        source: &SourceManifest,
        objects: &dyn ObjectSource,
        into: &mut dyn Write,
    ) -> Result<()> {
        let entry =
            source.objects.first().ok_or_else(|| Error::failed(format!("source `{}` has no object", source.name)))?;
        let mut content = objects.stream(cx, entry)?;
        std::io::copy(&mut content, into).doing(|| format!("exporting source {}", source.name))?;
        Ok(())
    }

    /// Reads a plain file of this kind of source to its end, from outside, and looks at all that can be told of it; nothing is made.
    fn inspect_plain(&self, _cx: &StepContext, file: &Path) -> Result<PlainFile> {
        Err(Error::refused(format!("{}: only plain dumps of PostgreSQL databases can be imported", file.display()))
            .hint(
                "put an SQLite file or a directory in its place while the service is stopped, and take a backup of it",
            ))
    }

    /// Loads a file that was inspected into a place of its own, whose name is generated from `id`: [`SourceDriver::clear`] removes it. On
    /// failure nothing is left behind, or the error says what is.
    fn load_plain(&self, cx: &StepContext, _id: &str, path: &Path, _file: &PlainFile) -> Result<Loaded> {
        self.inspect_plain(cx, path).and(Err(Error::failed("a bug: a file was inspected that can't be loaded")))
    }

    /// Reads a member back and compares it with the manifest and what it names beside the data. An error means the check could not run, never
    /// that it passed.
    fn verify(
        &self,
        cx: &StepContext,
        member: &Member,
        source: &SourceManifest,
        objects: &dyn ObjectSource,
        questions: &[Question],
    ) -> Result<Verified>;

    /// Answers one question, read-only, on a member or (`None`) on the live data.
    fn query(&self, cx: &StepContext, member: Option<&Member>, question: &Question) -> Result<Vec<Row>>;

    /// Runs statements on a member in one transaction (quarantine). Never on live data.
    fn execute(&self, cx: &StepContext, member: &Member, statements: &[String]) -> Result<()>;

    /// Removes a member, at its place or where a promotion that was taken back has put it; done already is fine. Refuses what is not a member
    /// of ours (identity differs), and what is live.
    fn discard(&self, cx: &StepContext, member: &Member) -> Result<()>;

    /// Ends whatever earlier attempts at this step left running where the data are (sessions on a server). Nothing for what is a file.
    fn end_attempts(&self, _cx: &StepContext) -> Result<()> {
        Ok(())
    }

    /// Removes whatever an unfinished staging under this candidate's id left beside the live data, whole or not. Nothing there is fine.
    /// Only for a candidate that never was one: after a promotion, its place holds the previous.
    fn clear(&self, cx: &StepContext, id: &str) -> Result<()>;

    /// Where the live data are by the configuration of now, as [`Swap::live_place`] has it.
    fn place(&self) -> Result<String>;

    /// Identity of the live data now; none where nothing is there.
    fn live_identity(&self, cx: &StepContext) -> Result<Option<Identity>>;

    /// Identity of a member now; an error where it is gone.
    fn member_identity(&self, cx: &StepContext, member: &Member) -> Result<Identity>;

    /// Checks rights, names and file systems for a promotion, changing nothing. No finding of severity error: it can be done.
    fn preflight(&self, cx: &StepContext, member: &Member) -> Result<Vec<Finding>>;

    /// What a promotion of this member will do, written down before it is done.
    fn plan_swap(&self, cx: &StepContext, member: &Member) -> Result<Swap>;

    /// Puts the member in service and keeps the previous at `swap.other_place`. Done already is fine: identities decide.
    fn promote(&self, cx: &StepContext, member: &Member, swap: &Swap) -> Result<()>;

    /// Swaps back: the previous in service, the promoted data at `swap.other_place`. Done already is fine: identities decide.
    fn undo(&self, cx: &StepContext, swap: &Swap) -> Result<()>;

    /// Removes what is at `swap.other_place`, if it is the previous. Done already is fine.
    fn drop_previous(&self, cx: &StepContext, swap: &Swap) -> Result<()>;
}
