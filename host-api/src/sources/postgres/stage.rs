//! A candidate: a new database, made from the archive, next to the live one.

use std::fs::File;

use sha2::{Digest, Sha256};

use crate::context::StepContext;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::manifest::{ObjectEntry, PostgresFacts, SourceManifest};
use crate::sources::{DataOnly, Identity, ObjectSource, SpooledFile};

use super::leftovers::{self, Attempts};
use super::migrated::Migrated;
use super::restoring::{self, Archive};
use super::tools::Tools;
use super::{archive, facts, globals, identity, sql, statistics};

/// What a refusal of `COPY … WITH (FREEZE)` names, in whatever language the server says it.
const FREEZING: &str = "COPY FREEZE";

/// How a candidate is made.
pub(super) struct Manner<'a> {
    /// Where its files go.
    pub tablespaces: Tablespaces,
    /// Parallel jobs; no more than there are processors.
    pub jobs: usize,
    /// With only the rows of the backup.
    pub data_only: Option<&'a DataOnly>,
}

/// The comment that says a candidate is whole, written last. A comment rather than a setting: setting an unknown
/// `lifeboat.…` parameter on a database takes a superuser. Promoting replaces it with the live database's comment.
///
/// One with the live database's structure says so, and whose rows are the live database's: to go on after a crash with other kept tables
/// is to begin again.
fn whole_mark(plain_sha256: &str, data_only: Option<&DataOnly>) -> String {
    let kept = data_only.map(|data_only| {
        format!(", data only, kept tables of sha256 {}", hex::encode(Sha256::digest(data_only.kept.join("\n"))))
    });
    format!("lifeboat candidate, whole, of sha256 {plain_sha256}{}", kept.unwrap_or_default())
}

/// Where a candidate's files go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tablespaces {
    /// Where the live database's are, and what the archive has elsewhere where it says: it is to take its place.
    AsLive,
    /// Where the archive says.
    AsArchived,
    /// All in one: what the archive names is on another server.
    None,
}

impl Tablespaces {
    /// What `pg_restore` is told of them.
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::AsLive | Self::AsArchived => &[],
            Self::None => &["--no-tablespaces"],
        }
    }
}

/// An archive that is fetched meanwhile: waits for it.
pub(super) type Fetched<'a> = Box<dyn FnOnce() -> Result<SpooledFile> + 'a>;

/// Makes a candidate of this name, or finds it whole. `fetched`: its archive, where that is on its way already.
pub(super) fn stage(
    tools: &Tools<'_>,
    source: &SourceManifest,
    objects: &dyn ObjectSource,
    place: &str,
    manner: &Manner<'_>,
    fetched: Option<Fetched<'_>>,
) -> Result<Identity> {
    let facts = facts(source)?;
    let maintenance = &tools.binding.maintenance_database;
    let restore = check_versions(tools, facts)?;
    if manner.data_only.is_none() {
        check_roles(tools, facts, source.objects.iter().any(|object| object.role == globals::ROLE))?;
    }
    leftovers::end(tools, Attempts::Earlier)?;
    let entry = archive_of(source)?;
    let mark = whole_mark(&entry.plain_sha256, manner.data_only);

    let found = tools.rows(
        maintenance,
        &format!(
            "SELECT oid, pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database WHERE datname = {}",
            sql::literal(place)
        ),
    )?;
    if let Some([Some(oid), comment]) = found.first().map(Vec::as_slice) {
        if comment.as_deref() != Some(mark.as_str()) {
            // An earlier attempt did not come to its end.
            super::drop_generated(tools, place, oid)?;
        } else if let Some(identity) = identity(tools, place)? {
            return Ok(identity);
        }
    }

    let spooled = match fetched {
        Some(fetched) => fetched()?,
        None => spool(tools.cx, objects, entry, may_freeze(tools, facts, manner, restore), &|| true)?,
    };
    let restored = format!("restore {place}");
    // Asked and compared before anything is made.
    let migrated = manner
        .data_only
        .map(|data_only| Migrated::of_live(tools, objects, spooled.path(), facts, data_only))
        .transpose()?;
    let create_database = match &migrated {
        Some(migrated) => migrated.create_database().map(str::to_owned),
        None => {
            File::open(spooled.path())
                .doing(|| "opening the archive".into())
                .and_then(archive::read_head)?
                .create_database
        }
    };
    let locale = match &create_database {
        Some(statement) => locale_options(statement)?,
        None => {
            let facts = migrated.as_ref().map_or(facts, Migrated::facts);
            format!(
                "ENCODING = {} LC_COLLATE = {} LC_CTYPE = {}",
                sql::literal(&facts.encoding),
                sql::literal(&facts.collate),
                sql::literal(&facts.ctype)
            )
        }
    };
    let tablespace = if manner.tablespaces == Tablespaces::AsLive { live_tablespace(tools)? } else { String::new() };
    let quoted = sql::identifier(place);
    let create = format!("CREATE DATABASE {quoted} WITH TEMPLATE = template0 {locale}{tablespace}");
    let restore_from = |spooled: &SpooledFile| {
        tools.cx.report(&restored, 0, Some(spooled.bytes));
        tools
            .statements(maintenance, false, std::slice::from_ref(&create))
            .map_err(|e| e.context(format!("creating database {place}")))?;
        tools.cx.at("database created");
        match &migrated {
            Some(migrated) => migrated.fill(tools, spooled.path(), place, manner.jobs)?,
            None => {
                let archive = Archive::File(spooled.path(), manner.jobs);
                restoring::restore(tools, place, manner.tablespaces.options(), archive)?;
            }
        }
        finish(tools, place, &mark, manner.jobs)?;
        tools.cx.report(&restored, spooled.bytes, Some(spooled.bytes));
        identity(tools, place)?
            .ok_or_else(|| Error::failed(format!("database {place} is gone right after it was filled")))
    };
    let made = match restore_from(&spooled) {
        // pg_restore took a table for another kind than we did. What only saves time is no reason to fail.
        Err(error) if error.message.contains(FREEZING) => {
            tracing::warn!(%error, "restoring {place} again, with rows that are not frozen");
            drop(spooled);
            tools.drop_database(place).and_then(|()| {
                let spooled = spool(tools.cx, objects, entry, false, &|| true)?;
                restore_from(&spooled)
            })
        }
        made => made,
    };
    made.map_err(|e| clean_up(tools, place, e))
}

/// Whether what is restored in this manner, by a `pg_restore` of this major version, may be frozen: see [`archive::Restorable::new`].
pub(super) fn may_freeze(tools: &Tools<'_>, facts: &PostgresFacts, manner: &Manner<'_>, restore: u32) -> bool {
    let by_several = manner.jobs > 1 && !tools.outlive();
    by_several && manner.data_only.is_none() && major(&facts.dump_version) == Some(restore)
}

/// Fetches an archive, in a form in which it is restored fast.
pub(super) fn spool(
    cx: &StepContext,
    objects: &dyn ObjectSource,
    entry: &ObjectEntry,
    freeze: bool,
    is_wanted: &dyn Fn() -> bool,
) -> Result<SpooledFile> {
    let mut restorable = archive::Restorable::new(freeze);
    let spooled = objects.spool_through(cx, entry, &mut |content, file| match is_wanted() {
        true => restorable.pass(content, file),
        false => Err(Error::new(ErrorKind::Cancelled, "the archive is not wanted any more")),
    })?;
    restorable.finish().map(|()| spooled)
}

/// The major version of a tool.
fn major(version: &str) -> Option<u32> {
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The object that is restored.
pub(super) fn archive_of(source: &SourceManifest) -> Result<&ObjectEntry> {
    source.objects.first().ok_or_else(|| Error::failed(format!("source `{}` has no object", source.name)))
}

/// The intended server must be at least as new as the source, and `pg_restore` its own and at least as new as `pg_dump` was. The major
/// version of `pg_restore`.
fn check_versions(tools: &Tools<'_>, facts: &PostgresFacts) -> Result<u32> {
    let server = tools.server_version(&tools.binding.maintenance_database)?;
    let (source, target) = (facts.server_version_num / 10_000, server / 10_000);
    if target < source {
        return Err(Error::refused(format!("the backup is of PostgreSQL {source}, the server is PostgreSQL {target}"))
            .hint(format!("restore on PostgreSQL {source} or newer")));
    }
    let restore = tools.matching_version("pg_restore", server)?;
    match (major(&restore), major(&facts.dump_version)) {
        (Some(restore), Some(dump)) if restore >= dump => Ok(restore),
        _ => Err(Error::refused(format!(
            "pg_restore is version {restore}, the archive was made by pg_dump {}",
            crate::identifier::shown(&facts.dump_version)
        ))
        .hint("restore on a server at least as new as the tools that dumped")),
    }
}

/// Owners and grants come back only if their roles exist: a role that is absent is never left out silently.
pub(super) fn check_roles(tools: &Tools<'_>, facts: &PostgresFacts, has_globals: bool) -> Result<()> {
    if facts.roles.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = facts.roles.iter().map(|r| sql::literal(r)).collect();
    let rows = tools.rows(
        &tools.binding.maintenance_database,
        &format!(
            "SELECT n.name, r.oid IS NOT NULL, coalesce(pg_catalog.pg_has_role(r.oid, 'MEMBER'), false) \
             FROM pg_catalog.unnest(ARRAY[{}]::text[]) AS n(name) LEFT JOIN pg_catalog.pg_roles r ON r.rolname = n.name::name",
            names.join(", ")
        ),
    )?;
    let of = |column: usize| -> Vec<String> {
        rows.iter()
            .filter(|row| row.get(column).cloned().flatten().as_deref() == Some("f"))
            .filter_map(|row| row.first().cloned().flatten())
            .map(|name| sql::identifier(&name))
            .collect()
    };
    let missing = of(1);
    if !missing.is_empty() {
        let statements: Vec<String> = missing.iter().map(|r| format!("create role {r};")).collect();
        return Err(Error::refused(format!(
            "the server lacks roles that the backup's objects belong to: {}",
            missing.join(", ")
        ))
        .hint(match has_globals {
            true => format!(
                "{} (those that log in need a password too); `lifeboat backups globals BACKUP` prints them as they were",
                statements.join(" ")
            ),
            false => format!(
                "{} (a dump holds no roles; those that log in need a password too)",
                statements.join(" ")
            ),
        }));
    }
    let foreign = of(2);
    if !foreign.is_empty() {
        return Err(Error::refused(format!(
            "role `{}` may not act for roles that the backup's objects belong to: {}",
            tools.binding.user,
            foreign.join(", ")
        ))
        .hint("restore with a role that is a member of them, or with a superuser"));
    }
    Ok(())
}

/// Encoding and locale from the archive's own `CREATE DATABASE`. It is text from outside: taken apart and written anew.
fn locale_options(statement: &str) -> Result<String> {
    let refused = || {
        Error::refused(format!("`{}` is not a CREATE DATABASE of pg_dump", crate::identifier::shown(statement)))
            .hint("the archive was not made by pg_dump")
    };
    let mut rest = statement
        .trim()
        .strip_suffix(';')
        .and_then(|s| s.strip_prefix("CREATE DATABASE "))
        .and_then(sql::skip_identifier)
        .and_then(|s| s.strip_prefix(" WITH TEMPLATE = template0"))
        .ok_or_else(refused)?;
    let mut options = Vec::new();
    while !rest.is_empty() {
        let (name, after) = rest.trim_start().split_once(" = ").ok_or_else(refused)?;
        let value;
        if let Some(quoted) = after.strip_prefix('\'') {
            let mut end = 0;
            loop {
                end += quoted[end..].find('\'').ok_or_else(refused)?;
                if !quoted[end + 1..].starts_with('\'') {
                    break;
                }
                end += 2;
            }
            value = quoted[..end].replace("''", "'");
            rest = &quoted[end + 1..];
        } else {
            let end = after.find(' ').unwrap_or(after.len());
            value = after[..end].to_owned();
            rest = &after[end..];
        }
        match name {
            "ENCODING" | "LOCALE" | "LC_COLLATE" | "LC_CTYPE" | "LOCALE_PROVIDER" | "ICU_LOCALE" | "ICU_RULES"
            | "BUILTIN_LOCALE" => {
                options.push(format!("{name} = {}", sql::literal(&value)));
            }
            // Belong to the place it was in, not to its content; the connection limit is carried by the promotion.
            "TABLESPACE" | "CONNECTION LIMIT" | "IS_TEMPLATE" | "ALLOW_CONNECTIONS" => {}
            _ => return Err(refused()),
        }
    }
    Ok(options.join(" "))
}

/// The live database's tablespace, if it is not the usual one.
fn live_tablespace(tools: &Tools<'_>) -> Result<String> {
    let name = tools.value(
        &tools.binding.maintenance_database,
        &format!(
            "SELECT t.spcname FROM pg_catalog.pg_database d JOIN pg_catalog.pg_tablespace t ON t.oid = d.dattablespace \
             WHERE d.datname = {} AND t.spcname <> 'pg_default'",
            sql::literal(&tools.binding.database)
        ),
    )?;
    Ok(name.map(|name| format!(" TABLESPACE = {}", sql::identifier(&name))).unwrap_or_default())
}

/// What is left to do for a candidate that has all its rows: statistics, and the mark.
fn finish(tools: &Tools<'_>, place: &str, mark: &str, jobs: usize) -> Result<()> {
    tools.cx.at("database filled");
    // Without statistics the first queries of a restored database are slow enough to look like an outage.
    statistics::make(tools, place, jobs).map_err(|e| e.context(format!("analysing {place}")))?;
    tools.statements(
        &tools.binding.maintenance_database,
        false,
        &[format!("COMMENT ON DATABASE {} IS {}", sql::identifier(place), sql::literal(mark))],
    )?;
    Ok(())
}

/// Drops what a failed stage made, also when the step itself may take no more time; says so where that failed.
pub(super) fn clean_up(tools: &Tools<'_>, place: &str, error: Error) -> Error {
    // Not when another engine may have the step: what has the name then is its.
    let cx = leftovers::grace(tools.cx);
    let dropped = tools.with(&cx).and_then(|tools| {
        // First, or a CREATE DATABASE that goes on would come to its end after the drop.
        if leftovers::may_be_left(&tools, &error) {
            leftovers::end(&tools, Attempts::All)?;
        }
        tools.drop_database(place)
    });
    match dropped {
        Ok(()) => error,
        Err(e) => {
            let hint = format!("database {place} was left behind: drop it");
            error.context(format!("cleaning up failed too ({})", e.message)).hint(hint)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::locale_options;

    #[test]
    fn the_locale_is_taken_from_the_archive_and_nothing_else() {
        let icu = "CREATE DATABASE \"a b\" WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = icu LOCALE = 'C' ICU_LOCALE = 'de';\n";
        assert_eq!(
            locale_options(icu).unwrap(),
            "ENCODING = 'UTF8' LOCALE_PROVIDER = 'icu' LOCALE = 'C' ICU_LOCALE = 'de'"
        );
        for hostile in [
            "CREATE DATABASE a WITH TEMPLATE = template0 ENCODING = 'UTF8'; DROP DATABASE b;",
            "CREATE DATABASE a WITH TEMPLATE = template0 OWNER = x;",
            "CREATE DATABASE a WITH TEMPLATE = a;",
            "CREATE DATABASE a WITH TEMPLATE = template0 ENCODING = 'UTF8;",
        ] {
            assert!(locale_options(hostile).is_err(), "{hostile}");
        }
    }
}
