//! PostgreSQL databases, through PostgreSQL's own tools.
//!
//! | module | what it does |
//! | --- | --- |
//! | [`tools`], [`session`], [`sql`] | run `pg_dump`, `pg_restore` and `psql`; one open `psql`; quoting |
//! | [`prefix`] | the command in front of every tool: how words, variables and pipes come through |
//! | [`leftovers`] | sessions that outlive the client we started |
//! | [`archive`], [`rows`] | read the custom archive as it streams; count and hash rows |
//! | [`dump`] | one consistent snapshot, every table locked, questions answered within it |
//! | [`definitions`] | of each object in it a digest of what makes it, beside it |
//! | [`globals`] | roles and tablespaces of the server, beside it |
//! | [`stage`], [`restoring`], [`statistics`] | a candidate: a database of its own |
//! | [`elsewhere`], [`cluster`] | where scratch candidates go, if not next to the live database: another server, a private one |
//! | [`migrated`], [`contents`] | one with the structure of the live database, and of the backup only the rows |
//! | [`export`] | a backup as the text that `pg_dump` writes, compressed |
//! | [`load`], [`script`], [`plain_text`] | such a text from elsewhere in a database of its own; what it is held against before |
//! | [`compare`], [`written`] | read a candidate back and compare it with the manifest; where a private server writes the rows itself |
//! | [`look`] | what can be seen of a server without changing anything: versions, rights, room, clock |
//! | [`preflight`], [`swap`] | put it in service by two renames in one transaction; take that back |

pub mod archive;
mod cluster;
mod compare;
mod contents;
mod definitions;
mod dump;
pub(crate) mod elsewhere;
mod export;
pub(crate) mod globals;
mod leftovers;
mod load;
mod look;
mod migrated;
mod plain_text;
pub mod prefix;
mod preflight;
mod restoring;
mod rows;
mod script;
mod session;
mod sql;
mod stage;
mod statistics;
mod swap;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod tools;
mod written;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use crate::Finding;
use crate::bindings::{PostgresSource, ScratchPostgres};
use crate::checks::{Aspect, Seen};
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::{PostgresFacts, SourceFacts, SourceManifest};
use crate::sources::{
    DataOnly, Dumped, Identity, Loaded, Member, ObjectSink, ObjectSource, PlainFile, Question, Row, SourceDriver,
    StageOptions, Swap, Target, Verified,
};

pub(crate) use sql::table_parts;
use stage::{Manner, Tablespaces};
use tools::Tools;

/// What every name of a database that we generate starts with; nothing else is ever dropped.
const GENERATED_PREFIX: &str = "lb_";
/// Longest name of a database, bytes; the server cuts longer ones with no more than a notice.
const NAME_BYTES_MAX: usize = 63;
/// Longest a query may take, so that one on the live database can't weigh on it for long.
const QUERY_LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// A PostgreSQL database as a source.
pub struct PostgresDriver {
    source: String,
    binding: PostgresSource,
}

impl PostgresDriver {
    /// A driver for the source of this name.
    pub fn new(source: &str, binding: PostgresSource) -> Self {
        Self { source: source.to_owned(), binding }
    }

    /// Does one thing with the tools. When it answers, nothing of it runs on, also where a client was killed or lost.
    fn work<T>(&self, cx: &StepContext, act: impl FnOnce(&Tools<'_>) -> Result<T>) -> Result<T> {
        Self::work_at(cx, &self.binding, act)
    }

    /// The same, where a member is.
    fn work_on<T>(&self, cx: &StepContext, member: &Member, act: impl FnOnce(&Tools<'_>) -> Result<T>) -> Result<T> {
        Self::work_at(cx, &elsewhere::of(&self.binding, member), act).map_err(|error| elsewhere::explain(member, error))
    }

    fn work_at<T>(cx: &StepContext, binding: &PostgresSource, act: impl FnOnce(&Tools<'_>) -> Result<T>) -> Result<T> {
        let tools = Tools::new(cx, binding)?;
        act(&tools).map_err(|error| leftovers::after(&tools, error))
    }

    /// A generated name, `lb_ID_SOURCE`: two sources of one service may lie on one server.
    fn generated(&self, id: &str) -> Result<String> {
        crate::identifier::check_id("candidate", id)?;
        let name = format!("{GENERATED_PREFIX}{}_{}", sanitised(id), sanitised(&self.source));
        // Room for the `prev_` of the database that it replaces.
        if name.len() + PREVIOUS.len() <= NAME_BYTES_MAX {
            return Ok(name);
        }
        let digest = short_digest(&self.source);
        let name = format!("{GENERATED_PREFIX}{}_{digest}", sanitised(id));
        if name.len() + PREVIOUS.len() > NAME_BYTES_MAX {
            return Err(Error::invalid(format!("`{id}` is too long for the name of a database")));
        }
        Ok(name)
    }
}

/// Text in a form that names on a server have.
fn sanitised(text: &str) -> String {
    text.to_ascii_lowercase().replace('-', "_")
}

/// Stands for a source's name where that is too long.
fn short_digest(source: &str) -> String {
    format!("{:08x}", xxhash_rust::xxh3::xxh3_64(source.as_bytes()) as u32)
}

/// What the name of a previous has in front of its candidate's: `lb_prev_ID_SOURCE`.
const PREVIOUS: &str = "prev_";

/// The identity of a database: by OID, which survives a rename.
fn identity(tools: &Tools<'_>, database: &str) -> Result<Option<Identity>> {
    let maintenance = &tools.binding.maintenance_database;
    let query = format!("SELECT oid, {MAY_READ_SYSTEM} FROM pg_database WHERE datname = {}", sql::literal(database));
    let found = tools.rows(maintenance, &query)?.pop().unwrap_or_default();
    let [Some(oid), Some(may_read)] = found.as_slice() else { return Ok(None) };
    let system = if may_read == "t" { read_system(tools, maintenance)? } else { UNKNOWN_SYSTEM.into() };
    Ok(Some(Identity::from([("system-identifier".into(), system), ("oid".into(), oid.clone())])))
}

/// What is said where the server does not let the role read its identifier.
const UNKNOWN_SYSTEM: &str = "unknown";

/// Whether the role may read the server's identifier.
const MAY_READ_SYSTEM: &str = "has_function_privilege('pg_catalog.pg_control_system()', 'EXECUTE')";

fn system_identifier(tools: &Tools<'_>, database: &str) -> Result<String> {
    match tools.value(database, &format!("SELECT {MAY_READ_SYSTEM}"))?.as_deref() {
        Some("t") => read_system(tools, database),
        _ => Ok(UNKNOWN_SYSTEM.into()),
    }
}

fn read_system(tools: &Tools<'_>, database: &str) -> Result<String> {
    let id = tools.value(database, "SELECT system_identifier FROM pg_catalog.pg_control_system()")?;
    Ok(id.unwrap_or_else(|| UNKNOWN_SYSTEM.into()))
}

/// A value of an identity, which was made here and must have it.
fn part<'a>(identity: &'a Identity, name: &str) -> Result<&'a str> {
    identity.get(name).map(String::as_str).ok_or_else(|| {
        Error::failed(format!("the identity of a database has no `{name}`")).hint("the record is damaged")
    })
}

fn facts(source: &SourceManifest) -> Result<&PostgresFacts> {
    match &source.facts {
        SourceFacts::Postgres(facts) => Ok(facts),
        _ => Err(Error::failed(format!("source `{}` of the backup is not a PostgreSQL database", source.name))
            .hint("the configuration has another kind of source under this name than the backup")),
    }
}

/// Ends every session on databases, waiting for each; `pg_terminate_backend` waits up to 5 seconds.
fn end_sessions(databases: &[&str]) -> String {
    let names: Vec<String> = databases.iter().map(|d| sql::literal(d)).collect();
    format!(
        "SELECT count(*) FILTER (WHERE pg_catalog.pg_terminate_backend(pid, 5000)) FROM pg_catalog.pg_stat_activity \
         WHERE datname IN ({}) AND backend_type = 'client backend' AND pid <> pg_catalog.pg_backend_pid()",
        names.join(", ")
    )
}

/// The identity of a member, which must be what was staged.
fn staged(tools: &Tools<'_>, member: &Member) -> Result<Identity> {
    let found = identity(tools, &member.place)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("database `{}` is gone", crate::identifier::shown(&member.place)))
            .hint("stage the backup again")
    })?;
    // Where it is, is how it was reached.
    if found.iter().eq(member.identity.iter().filter(|(name, _)| *name != cluster::IDENTITY_KEY)) {
        return Ok(member.identity.clone());
    }
    Err(Error::conflict(format!("database `{}` is not the one that was staged: {found:?}", member.place))
        .hint("something replaced it: stage the backup again"))
}

/// Removes a database with a generated name that has this OID. Gone already is fine.
fn drop_generated(tools: &Tools<'_>, name: &str, oid: &str) -> Result<()> {
    let maintenance = &tools.binding.maintenance_database;
    if !name.starts_with(GENERATED_PREFIX) {
        return Err(Error::refused(format!("database `{}` has no generated name", crate::identifier::shown(name)))
            .hint("only databases that lifeboat made or moved aside are dropped"));
    }
    let found = tools.rows(
        maintenance,
        &format!(
            "SELECT oid, datname FROM pg_database WHERE datname = {} OR oid::text = {}",
            sql::literal(name),
            sql::literal(oid)
        ),
    )?;
    if found.is_empty() {
        return Ok(());
    }
    if found != [vec![Some(oid.to_owned()), Some(name.to_owned())]] {
        return Err(Error::refused(format!("database `{name}` with OID {oid} is not what is there now: {found:?}"))
            .hint("something renamed or replaced it: look before anything is dropped"));
    }
    tools.drop_database(name)
}

impl SourceDriver for PostgresDriver {
    fn check(&self, cx: &StepContext) -> Result<()> {
        self.work(cx, |tools| {
            let server = tools.server_version(&self.binding.database)?;
            dump::check_server(server)?;
            for tool in ["psql", "pg_dump", "pg_restore"] {
                tools.matching_version(tool, server)?;
            }
            Ok(())
        })
    }

    fn aspects(&self) -> &'static [Aspect] {
        // The last one is of a place that the environment may name.
        const ALL: &[Aspect] = &[
            Aspect::Reachable,
            Aspect::Tools,
            Aspect::MayRead,
            Aspect::MayRestore,
            Aspect::MayPromote,
            Aspect::Space,
            Aspect::Clock,
            Aspect::Drill,
        ];
        if self.binding.scratch.is_some() { ALL } else { &ALL[..ALL.len() - 1] }
    }

    fn look(&self, cx: &StepContext, aspect: Aspect, clock: &dyn Fn() -> u64) -> Result<Seen> {
        match aspect {
            Aspect::Drill => elsewhere::look(cx, &self.binding),
            _ => self.work(cx, |tools| look::look(tools, aspect, clock)),
        }
    }

    fn dump(&self, cx: &StepContext, sink: &dyn ObjectSink, questions: &[Question]) -> Result<Dumped> {
        self.work(cx, |tools| {
            let (mut dumped, definitions) = dump::dump(tools, &self.source, sink, questions)?;
            dumped.objects.push(definitions::store(sink, &definitions)?);
            let (globals, missing) = globals::dump(tools, sink)?;
            dumped.objects.extend(globals);
            dumped.findings.extend(missing);
            Ok(dumped)
        })
    }

    fn stage(
        &self,
        cx: &StepContext,
        source: &SourceManifest,
        objects: &dyn ObjectSource,
        id: &str,
        target: &Target,
        options: &StageOptions,
    ) -> Result<Member> {
        let place = self.generated(id)?;
        let beside = *target == Target::Beside;
        // What is kept is the environment's word, and goes on record with the candidate.
        let data_only = options.data_only.then(|| DataOnly { kept: self.binding.data_only_keeps.clone() });
        let jobs = restoring::side_by_side(options.jobs);
        let manner = |tablespaces| Manner { tablespaces, jobs, data_only: data_only.as_ref() };
        let identity = if beside {
            let manner = manner(Tablespaces::AsLive);
            self.work(cx, |tools| stage::stage(tools, source, objects, &place, &manner, None))?
        } else {
            let names = elsewhere::Names { database: &place, cluster: &cluster::name(id, &self.source) };
            elsewhere::stage(cx, &self.binding, source, objects, &names, &manner)?
        };
        Ok(Member { source: self.source.clone(), place, identity, beside, data_only })
    }

    fn export(
        &self,
        cx: &StepContext,
        source: &SourceManifest,
        objects: &dyn ObjectSource,
        into: &mut dyn Write,
    ) -> Result<()> {
        // No server is asked: it may be what was lost.
        let tools = Tools::new(cx, &self.binding)?;
        export::export(&tools, source, facts(source)?, objects, into)
    }

    fn inspect_plain(&self, cx: &StepContext, file: &Path) -> Result<PlainFile> {
        self.work(cx, |tools| load::inspect(tools, file))
    }

    fn load_plain(&self, cx: &StepContext, id: &str, path: &Path, file: &PlainFile) -> Result<Loaded> {
        let place = self.generated(id)?;
        let findings = self.work(cx, |tools| load::load(tools, path, file, &place))?;
        let binding = PostgresSource { database: place, ..self.binding.clone() };
        Ok(Loaded { driver: Arc::new(Self::new(&self.source, binding)), findings })
    }

    fn verify(
        &self,
        cx: &StepContext,
        member: &Member,
        source: &SourceManifest,
        objects: &dyn ObjectSource,
        questions: &[Question],
    ) -> Result<Verified> {
        let private = elsewhere::Private::of(&self.binding, member)?;
        let private = private.as_ref().map(|private| private.cluster(cx, &self.binding));
        self.work_on(cx, member, |tools| {
            staged(tools, member)?;
            compare::verify(tools, member, private.as_ref(), source, objects, questions)
        })
    }

    fn query(&self, cx: &StepContext, member: Option<&Member>, question: &Question) -> Result<Vec<Row>> {
        let cx = cx.within(QUERY_LIMIT);
        let database = member.map_or(self.binding.database.as_str(), |m| &m.place);
        let ask = |tools: &Tools<'_>| {
            let mut session = session::Session::open(tools, database, "UTF8")?;
            // The server gives up before we do, so that no query runs on after us.
            session.run(&format!(
                "BEGIN READ ONLY; SET LOCAL statement_timeout = {};",
                cx.remaining().as_millis().clamp(1, i32::MAX as u128)
            ))?;
            let rows = session.ask(question)?;
            session.close()?;
            Ok(rows)
        };
        match member {
            Some(member) => self.work_on(&cx, member, ask),
            None => self.work(&cx, ask),
        }
    }

    fn execute(&self, cx: &StepContext, member: &Member, statements: &[String]) -> Result<()> {
        if member.place == self.binding.database || !member.place.starts_with(GENERATED_PREFIX) {
            return Err(Error::refused(format!(
                "database `{}` is not a candidate",
                crate::identifier::shown(&member.place)
            ))
            .hint("statements are run on candidates only"));
        }
        self.work_on(cx, member, |tools| {
            staged(tools, member)?;
            if !statements.is_empty() {
                tools.statements(&member.place, true, statements)?;
            }
            Ok(())
        })
    }

    fn discard(&self, cx: &StepContext, member: &Member) -> Result<()> {
        if let Some(private) = elsewhere::Private::of(&self.binding, member)? {
            return private.cluster(cx, &self.binding).end(cx);
        }
        self.work_on(cx, member, |tools| {
            let oid = part(&member.identity, "oid")?;
            let was = member.identity.get("system-identifier").map_or(UNKNOWN_SYSTEM, String::as_str);
            let is = system_identifier(tools, &tools.binding.maintenance_database)?;
            if was != UNKNOWN_SYSTEM && is != UNKNOWN_SYSTEM && was != is {
                return Err(Error::refused(format!(
                    "database `{}` lies on another server than the one that is configured now",
                    member.place
                ))
                .hint("configure the source, or its `scratch`, as it was; or drop that database by hand"));
            }
            let named = tools.value(
                &tools.binding.maintenance_database,
                &format!("SELECT datname FROM pg_catalog.pg_database WHERE oid::text = {}", sql::literal(oid)),
            )?;
            if [Some(&member.place), named.as_ref()].contains(&Some(&self.binding.database)) {
                return Err(Error::refused(format!("database `{}` is the live one", self.binding.database))
                    .hint("a promotion is taken back with `lifeboat promotions undo`"));
            }
            // A promotion that was taken back left it under the name that its previous had; one that came to other members only, under its
            // own.
            let place = named.filter(|name| swap::names_of(&member.place).contains(name));
            drop_generated(tools, place.as_ref().unwrap_or(&member.place), oid)
        })
    }

    fn end_attempts(&self, cx: &StepContext) -> Result<()> {
        let end = |binding: &PostgresSource| leftovers::end(&Tools::new(cx, binding)?, leftovers::Attempts::Earlier);
        let here = end(&self.binding);
        let elsewhere = match &self.binding.scratch {
            // Of a private server nobody knows here whose it is: with its sessions, it ends with its candidate.
            None | Some(ScratchPostgres::Cluster(_)) => Ok(()),
            Some(ScratchPostgres::Server(server)) => end(&server.as_source(&self.binding.database)),
        };
        // Neither keeps the other from being tried.
        here.and(elsewhere)
    }

    fn clear(&self, cx: &StepContext, id: &str) -> Result<()> {
        let name = self.generated(id)?;
        let clear = |tools: &Tools<'_>| {
            let oid = tools.value(
                &tools.binding.maintenance_database,
                &format!("SELECT oid FROM pg_catalog.pg_database WHERE datname = {}", sql::literal(&name)),
            )?;
            oid.map_or(Ok(()), |oid| drop_generated(tools, &name, &oid))
        };
        let elsewhere = match &self.binding.scratch {
            None => Ok(()),
            Some(ScratchPostgres::Cluster(binding)) => {
                let cluster_name = cluster::name(id, &self.source);
                let cluster = cluster::Cluster::of(cx, binding, &self.binding, &cluster_name);
                let was_there = cluster.is_there()?;
                let ended = cluster.end(cx);
                // It had a private server: then it has nothing on the live one, which may be what was lost.
                if was_there {
                    return ended;
                }
                ended
            }
            Some(ScratchPostgres::Server(server)) => {
                Self::work_at(cx, &server.as_source(&self.binding.database), clear)
            }
        };
        // What is not known of it: whether it was to be in scratch. Neither keeps the other from being tried.
        let here = self.work(cx, clear);
        elsewhere.and(here)
    }

    fn place(&self) -> Result<String> {
        Ok(self.binding.database.clone())
    }

    fn live_identity(&self, cx: &StepContext) -> Result<Option<Identity>> {
        self.work(cx, |tools| identity(tools, &self.binding.database))
    }

    fn member_identity(&self, cx: &StepContext, member: &Member) -> Result<Identity> {
        self.work_on(cx, member, |tools| staged(tools, member))
    }

    fn preflight(&self, cx: &StepContext, member: &Member) -> Result<Vec<Finding>> {
        self.work(cx, |tools| preflight::preflight(tools, member))
    }

    fn plan_swap(&self, cx: &StepContext, member: &Member) -> Result<Swap> {
        self.work(cx, |tools| {
            staged(tools, member)?;
            swap::plan(tools, member)
        })
    }

    fn promote(&self, cx: &StepContext, _member: &Member, swap: &Swap) -> Result<()> {
        self.work(cx, |tools| swap::promote(tools, swap))
    }

    fn undo(&self, cx: &StepContext, swap: &Swap) -> Result<()> {
        self.work(cx, |tools| swap::undo(tools, swap))
    }

    fn drop_previous(&self, cx: &StepContext, swap: &Swap) -> Result<()> {
        self.work(cx, |tools| match &swap.previous {
            Some(previous) => drop_generated(tools, &swap.other_place, part(previous, "oid")?),
            None => Ok(()),
        })
    }
}
