//! Where scratch candidates go: next to the live database, to another server, or to a private one.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;

use crate::bindings::{PostgresSource, ScratchCluster, ScratchPostgres};
use crate::checks::Seen;
use crate::context::StepContext;
use crate::disk;
use crate::error::{Error, ErrorKind, Result};
use crate::identifier::shown;
use crate::manifest::SourceManifest;
use crate::sources::{Identity, Member, ObjectSource, SpooledFile};

use super::cluster::{self, Cluster};
use super::stage::{Fetched, Manner, Tablespaces, archive_of, may_freeze, spool, stage as stage_at};
use super::tools::Tools;
use super::{GENERATED_PREFIX, PostgresDriver, facts, leftovers, look};

/// What a scratch candidate is called.
pub(super) struct Names<'a> {
    /// Its database.
    pub database: &'a str,
    /// Its private server, if it gets one.
    pub cluster: &'a str,
}

/// What tools connect to for a member.
pub(crate) fn of(binding: &PostgresSource, member: &Member) -> PostgresSource {
    match (lies(member), &binding.scratch) {
        (Some(directory), Some(ScratchPostgres::Cluster(of))) => {
            cluster::at(&directory, binding, of.bin_dir.as_deref())
        }
        // The configuration has changed since: what is there is found all the same.
        (Some(directory), _) => cluster::at(&directory, binding, None),
        (None, Some(ScratchPostgres::Server(server))) if !member.beside => server.as_source(&binding.database),
        _ => binding.clone(),
    }
}

/// The directory of a member's private server.
fn lies(member: &Member) -> Option<PathBuf> {
    member.identity.get(cluster::IDENTITY_KEY).map(PathBuf::from)
}

/// A private server that does not answer is gone for good.
pub(super) fn explain(member: &Member, error: Error) -> Error {
    match lies(member) {
        Some(directory) if !cluster::answers(&directory) => {
            let why = format!("the private server of this candidate, {}, is gone", directory.display());
            Error::new(ErrorKind::NotFound, format!("{why}: {}", error.message)).hint(
                "a restart of the machine, or somebody, ended it; what it held is not flushed: stage the backup again",
            )
        }
        _ => error,
    }
}

/// What only a superuser may make (some extensions, event triggers, functions in C) says so in these words.
fn needs_superuser(private: &ScratchCluster, error: &Error) -> bool {
    !private.superuser && ["permission denied", "superuser"].iter().any(|words| error.message.contains(words))
}

/// Restores into scratch, wherever that is. On failure nothing is left there, or the error says what is.
pub(super) fn stage<'a>(
    cx: &StepContext,
    binding: &PostgresSource,
    source: &SourceManifest,
    objects: &dyn ObjectSource,
    names: &Names<'_>,
    manner: &dyn Fn(Tablespaces) -> Manner<'a>,
) -> Result<Identity> {
    let into = |binding: &PostgresSource, tablespaces, fetched: Option<Fetched<'_>>| {
        PostgresDriver::work_at(cx, binding, |tools| {
            stage_at(tools, source, objects, names.database, &manner(tablespaces), fetched)
        })
    };
    if binding.scratch.is_some() && manner(Tablespaces::None).data_only.is_some() {
        return Err(Error::refused(
            "data alone go into the live database's structure, which is not where drills restore",
        )
        .hint("rehearse it beside the live database (target `beside`): nothing is in service before the promotion"));
    }
    match &binding.scratch {
        None => into(binding, Tablespaces::AsArchived, None),
        Some(ScratchPostgres::Server(server)) => into(&server.as_source(&binding.database), Tablespaces::None, None),
        Some(ScratchPostgres::Cluster(private)) => {
            let cluster = Cluster::of(cx, private, binding, names.cluster);
            let (facts, archive) = (facts(source)?, archive_of(source)?);
            cluster.make_room(source.objects.iter().map(|object| object.plain_bytes).sum())?;
            let server = cluster.binding_of_server();
            let wanted = manner(Tablespaces::None);
            // What is wrong with the tools is said where they are needed.
            let tools = Tools::new(cx, &server)?;
            let restore = tools.tool_version("pg_restore");
            let freeze = restore.is_ok_and(|(_, restore)| may_freeze(&tools, facts, &wanted, restore));
            // Neither needs the other, and each has a marker of its own: the directory's name, and that of the spooled file.
            let unwanted = AtomicBool::new(false);
            let made = std::thread::scope(|scope| {
                let unwanted = &unwanted;
                let fetching =
                    scope.spawn(move || spool(cx, objects, archive, freeze, &|| !unwanted.load(Ordering::Relaxed)));
                let made = match cluster.make(facts) {
                    Ok(()) => into(&server, Tablespaces::None, Some(Box::new(|| joined(fetching)))),
                    // What the store said before goes first: without an archive, nobody needs a server.
                    Err(error) if fetching.is_finished() => joined(fetching).and(Err(error)),
                    Err(error) => Err(error),
                };
                // Nobody waits for the rest of it.
                unwanted.store(made.is_err(), Ordering::Relaxed);
                made
            });
            let made = made.map(|mut identity| {
                identity.insert(cluster::IDENTITY_KEY.into(), cluster.directory().display().to_string());
                identity
            });
            let made = made.map_err(|error| match needs_superuser(private, &error) {
                true => error.hint("the backup holds what only a superuser can make: `scratch.superuser = true`, for backups whose signature is checked"),
                false => error,
            });
            made.map_err(|error| match cluster.end(&leftovers::grace(cx)) {
                Ok(()) => error,
                Err(e) => {
                    let hint = format!("{} was left behind: end its server, remove it", cluster.directory().display());
                    error.context(format!("cleaning up failed too ({})", e.message)).hint(hint)
                }
            })
        }
    }
}

fn joined(fetching: ScopedJoinHandle<'_, Result<SpooledFile>>) -> Result<SpooledFile> {
    fetching.join().unwrap_or_else(|_| Err(Error::failed("a bug: a thread panicked")))
}

/// A member's private server: as it was made, wherever such servers are made today.
pub(super) struct Private {
    binding: ScratchCluster,
    name: String,
}

impl Private {
    /// The one of this member; none where it has none.
    pub fn of(binding: &PostgresSource, member: &Member) -> Result<Option<Self>> {
        let Some(directory) = lies(member) else { return Ok(None) };
        let named = directory.file_name().and_then(|name| name.to_str());
        let (Some(name), Some(parent)) = (named.filter(|name| name.starts_with(GENERATED_PREFIX)), directory.parent())
        else {
            return Err(Error::refused(format!("{} has no generated name", shown(&directory.display().to_string()))));
        };
        let (parent, name) = (parent.to_owned(), name.to_owned());
        let binding = match &binding.scratch {
            Some(ScratchPostgres::Cluster(of)) => ScratchCluster { directory: parent, ..of.clone() },
            _ => ScratchCluster { directory: parent, bin_dir: None, prefix: Vec::new(), superuser: false },
        };
        Ok(Some(Self { binding, name }))
    }

    /// For one operation.
    pub fn cluster<'a>(&'a self, cx: &'a StepContext, source: &'a PostgresSource) -> Cluster<'a> {
        Cluster::of(cx, &self.binding, source, &self.name)
    }
}

/// Whether a drill finds what it needs, without making anything.
pub(super) fn look(cx: &StepContext, binding: &PostgresSource) -> Result<Seen> {
    let live = || Tools::new(cx, binding)?.server_version(&binding.database).map(|version| version / 10_000);
    match &binding.scratch {
        None => Err(Error::invalid("no place for drills is configured: they restore next to the live database")),
        Some(ScratchPostgres::Server(server)) => {
            let source = server.as_source(&binding.database);
            let tools = Tools::new(cx, &source)?;
            let version = tools.server_version(&source.maintenance_database)?;
            for tool in ["psql", "pg_restore"] {
                tools.matching_version(tool, version)?;
            }
            look::may_make_databases(&tools)?;
            fits(version / 10_000, live(), &format!("the server for drills at {}:{}", source.host, source.port))
        }
        Some(ScratchPostgres::Cluster(private)) => {
            cluster::check_user(private)?;
            let of = Cluster::of(cx, private, binding, GENERATED_PREFIX);
            let version = of.version()?;
            let seen = fits(version, live(), &format!("the server programs for drills (PostgreSQL {version})"))?;
            if seen.level != crate::checks::Level::Ok {
                return Ok(seen);
            }
            room(&private.directory, cx, binding)
        }
    }
}

/// A backup is restored on a server at least as new as its own.
fn fits(theirs: u32, live: Result<u32>, what: &str) -> Result<Seen> {
    Ok(match live {
        Ok(live) if theirs >= live => Seen::ok(format!("{what}: new enough for PostgreSQL {live}")),
        Ok(live) => Seen::critical(
            format!("{what}: older than the live server, which is PostgreSQL {live}"),
            "a backup is restored on the same version, or a newer one",
        ),
        Err(e) => {
            Seen::unknown(format!("{what}: whether they fit can't be told: {}", e.message), "see source.*.reachable")
        }
    })
}

fn room(directory: &Path, cx: &StepContext, binding: &PostgresSource) -> Result<Seen> {
    let tools = Tools::new(cx, binding)?;
    let size = look::size(&tools)?;
    let free = disk::free_bytes(directory)?;
    Ok(Seen::space(&directory.display().to_string(), free, size, "a private server for a drill needs about"))
}
