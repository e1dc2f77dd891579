//! What can be seen of a server without changing anything: whether it answers, whether tools fit, what the role may do, how much room there
//! is, what time it has.

use std::path::Path;

use crate::checks::{Aspect, Level, Seen, offset};
use crate::disk;
use crate::error::{Error, ErrorKind, Result};
use crate::sources::Row;

use super::session::Session;
use super::tools::Tools;
use super::{dump, preflight, sql};

/// What a backup and a restore are made with.
const TOOLS: [&str; 3] = ["psql", "pg_dump", "pg_restore"];
/// Names that are told; the rest is counted.
const NAMES_MAX: usize = 5;

/// Tables and sequences that a dump would fail on, or see only part of: quoted name, and why.
const UNREADABLE: &str = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname), \
    CASE WHEN NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') THEN 'no right to use its schema' \
    WHEN CASE c.relkind WHEN 'S' THEN NOT pg_catalog.has_sequence_privilege(c.oid, 'SELECT') \
    ELSE NOT pg_catalog.has_table_privilege(c.oid, 'SELECT') END THEN 'no right to select' \
    ELSE 'row security hides rows' END \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'S') AND c.relpersistence <> 't' \
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' \
    AND CASE WHEN NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE') THEN true \
    WHEN c.relkind = 'S' THEN NOT pg_catalog.has_sequence_privilege(c.oid, 'SELECT') \
    ELSE NOT pg_catalog.has_table_privilege(c.oid, 'SELECT') OR pg_catalog.row_security_active(c.oid) END \
    ORDER BY 1";

/// Large objects that belong to others and are granted to nobody.
const UNREADABLE_OBJECTS: &str = "SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata \
    WHERE lomacl IS NULL AND NOT pg_catalog.pg_has_role(lomowner, 'USAGE')";

/// Roles that own something here and that ours is no member of: what a restore makes could not be given to them. What belongs to an extension
/// is made by it.
const FOREIGN_OWNERS: &str = "SELECT DISTINCT r.rolname FROM pg_catalog.pg_class c \
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles r ON r.oid = c.relowner \
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f') AND c.relpersistence <> 't' \
    AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_' AND NOT pg_catalog.pg_has_role(r.oid, 'MEMBER') \
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass \
    AND d.objid = c.oid AND d.deptype = 'e') ORDER BY 1";

/// Extensions that only a superuser can make again.
const EXTENSIONS: &str = "SELECT e.extname FROM pg_catalog.pg_extension e \
    JOIN pg_catalog.pg_available_extension_versions v ON v.name = e.extname AND v.version = e.extversion \
    WHERE v.superuser AND NOT v.trusted ORDER BY 1";

pub(super) fn look(tools: &Tools<'_>, aspect: Aspect, clock: &dyn Fn() -> u64) -> Result<Seen> {
    match aspect {
        Aspect::Reachable => reachable(tools),
        Aspect::Tools => fitting(tools),
        Aspect::MayRead => may_read(tools),
        Aspect::MayRestore => may_restore(tools),
        Aspect::MayPromote => may_promote(tools),
        Aspect::Space => space(tools),
        Aspect::Clock => clocks(tools, clock),
        Aspect::Drill => Err(Error::invalid("where a drill goes is looked at without the live server")),
    }
}

fn reachable(tools: &Tools<'_>) -> Result<Seen> {
    let binding = tools.binding;
    let version = tools.server_version(&binding.database)?;
    // Everything that restores or promotes goes through this one.
    tools.value(&binding.maintenance_database, "SELECT 1")?;
    let (major, minor) = (version / 10_000, version % 10_000);
    Ok(Seen::ok(format!(
        "databases {} and {} answer (PostgreSQL {major}.{minor})",
        binding.database, binding.maintenance_database
    )))
}

fn fitting(tools: &Tools<'_>) -> Result<Seen> {
    // Without the server first: a tool that is missing must not look like a server that is.
    let mut found = Vec::new();
    for tool in TOOLS {
        found.push(format!("{tool} {}", tools.tool_version(tool)?.0));
    }
    let found = found.join(", ");
    let server = match tools.server_version(&tools.binding.database) {
        Ok(server) => server,
        Err(e) => {
            let message = format!("there are {found}; whether they fit the server can't be told: {}", e.message);
            return Ok(Seen::unknown(message, e.hint.unwrap_or_default()));
        }
    };
    dump::check_server(server)?;
    for tool in TOOLS {
        tools.matching_version(tool, server)?;
    }
    Ok(Seen::ok(format!("{found} fit the server (PostgreSQL {})", server / 10_000)))
}

/// `a, b, c, …` of the first column.
fn names(rows: &[Row]) -> String {
    let first = |row: &Row| row.first().cloned().flatten().unwrap_or_default();
    let told: Vec<String> = rows.iter().take(NAMES_MAX).map(first).collect();
    let more = if rows.len() > NAMES_MAX { format!(", … ({} in all)", rows.len()) } else { String::new() };
    format!("{}{more}", told.join(", "))
}

fn may_read(tools: &Tools<'_>) -> Result<Seen> {
    let database = &tools.binding.database;
    let user = &tools.binding.user;
    let unreadable = tools.rows(database, UNREADABLE)?;
    if let Some(first) = unreadable.first() {
        let why = first.get(1).cloned().flatten().unwrap_or_default();
        return Ok(Seen::critical(
            format!("role {user} can't read all of {database}: {} (the first: {why})", names(&unreadable)),
            format!(
                "grant it the right (from PostgreSQL 14 on: grant pg_read_all_data to {0}); where row security hides rows: alter role {0} bypassrls, or dump as the tables' owner",
                sql::identifier(user)
            ),
        ));
    }
    let objects = match preflight::role(tools)?.superuser {
        true => 0,
        false => count(tools, database, UNREADABLE_OBJECTS)?,
    };
    if objects > 0 {
        return Ok(Seen::critical(
            format!("role {user} can't read all of {database}: {objects} large objects belong to others"),
            "let the role be a member of their owner, or dump as a superuser",
        ));
    }
    Ok(Seen::ok(format!("role {user} can read every table and sequence of {database}")))
}

fn may_restore(tools: &Tools<'_>) -> Result<Seen> {
    let (binding, user) = (tools.binding, sql::identifier(&tools.binding.user));
    let ours = preflight::role(tools)?;
    if ours.superuser {
        return Ok(Seen::ok(format!("role {} is a superuser", binding.user)));
    }
    let mut wrong = Vec::new();
    if !ours.createdb {
        wrong.push((format!("role {} may not make databases", binding.user), format!("alter role {user} createdb")));
    }
    let owners = tools.rows(&binding.database, FOREIGN_OWNERS)?;
    if !owners.is_empty() {
        wrong.push((
            format!("role {} is no member of roles that own tables: {}", binding.user, names(&owners)),
            format!("grant those roles to {user}"),
        ));
    }
    let extensions = tools.rows(&binding.database, EXTENSIONS)?;
    if !extensions.is_empty() {
        wrong.push((
            format!("only a superuser can make these extensions again: {}", names(&extensions)),
            "restore as a superuser, or have the extensions marked as trusted".to_owned(),
        ));
    }
    if wrong.is_empty() {
        return Ok(Seen::ok(format!("role {} can make databases and what is in them", binding.user)));
    }
    let (messages, fixes): (Vec<String>, Vec<String>) = wrong.into_iter().unzip();
    Ok(Seen::critical(messages.join("; "), fixes.join("; ")))
}

fn may_promote(tools: &Tools<'_>) -> Result<Seen> {
    let findings = preflight::live(tools)?;
    let fine = format!("role {} can rename {} and end its sessions", tools.binding.user, tools.binding.database);
    Ok(Seen::of_findings(&findings, fine))
}

/// Room where candidates are made: on the server. SQL has no way to ask for it, so it shows only where the server's files are ours to see,
/// and known to be this server's.
fn space(tools: &Tools<'_>) -> Result<Seen> {
    let binding = tools.binding;
    let database = &binding.database;
    let size = size(tools)?;
    let fix = "watch the server's disk there: a candidate is as large as the live database";
    let unknown = |why: &str| {
        let message =
            format!("a candidate needs about {size} bytes on the server; its free space can't be told: {why}");
        Ok(Seen::unknown(message, fix))
    };
    if !binding.prefix.is_empty() || !is_here(&binding.host) {
        return unknown("its disks are not this machine's");
    }
    let allowed = "SELECT pg_catalog.pg_has_role('pg_read_all_settings', 'USAGE')";
    if tools.value(database, allowed)?.as_deref() != Some("t") {
        return unknown("the role may not read where its files are (grant pg_read_all_settings)");
    }
    let place = "SELECT pg_catalog.current_setting('data_directory'), \
        pg_catalog.pg_tablespace_location(d.dattablespace), \
        pg_catalog.floor(EXTRACT(epoch FROM pg_catalog.pg_postmaster_start_time()))::pg_catalog.int8 \
        FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";
    let rows = tools.rows(database, place)?;
    let Some([Some(data), Some(tablespace), Some(started)]) = rows.first().map(Vec::as_slice) else {
        return unknown("it does not say where its files are");
    };
    if !is_its_directory(Path::new(data), started) {
        return unknown("the directory that it names is not visible here, or not known to be its own");
    }
    let place = if tablespace.is_empty() { data } else { tablespace };
    let free = disk::free_bytes(Path::new(place))?;
    Ok(Seen::space(place, free, size, "a candidate on the server needs about"))
}

/// Size of the live database, bytes.
pub(super) fn size(tools: &Tools<'_>) -> Result<u64> {
    count(tools, &tools.binding.database, "SELECT pg_catalog.pg_database_size(pg_catalog.current_database())")
}

/// An error unless the role may make databases.
pub(super) fn may_make_databases(tools: &Tools<'_>) -> Result<()> {
    let ours = preflight::role(tools)?;
    if ours.superuser || ours.createdb {
        return Ok(());
    }
    let user = &tools.binding.user;
    Err(Error::new(ErrorKind::Denied, format!("role {user} may not make databases at {}", tools.binding.host))
        .hint(format!("alter role {} createdb", sql::identifier(user))))
}

/// A socket directory, or loopback.
fn is_here(host: &str) -> bool {
    host.starts_with('/') || matches!(host, "localhost" | "127.0.0.1" | "::1")
}

/// A forwarded port leads to a server in a container whose paths exist here too, and mean something else: the server's own file says when it
/// was started.
fn is_its_directory(data: &Path, started: &str) -> bool {
    let text = std::fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
    let Some(line) = text.lines().nth(2) else { return false };
    match (line.trim().parse::<i64>(), started.parse::<i64>()) {
        // The file's time is taken a moment before.
        (Ok(file), Ok(server)) => (server - file).abs() <= 2,
        _ => false,
    }
}

fn clocks(tools: &Tools<'_>, clock: &dyn Fn() -> u64) -> Result<Seen> {
    let database = &tools.binding.database;
    // In a session that is open already, so that connecting is no part of the time in between.
    let mut session = Session::open(tools, database, "UTF8")?;
    let before = clock();
    let theirs = session.value("SELECT (EXTRACT(epoch FROM pg_catalog.clock_timestamp()) * 1000)::pg_catalog.int8")?;
    let after = clock();
    session.close()?;
    match theirs.as_deref().and_then(|text| text.parse().ok()) {
        Some(theirs) => Ok(offset(&format!("the server of {database}"), theirs, before, after)),
        None => Ok(Seen::new(Level::Unknown, "the server said no time", "")),
    }
}

fn count(tools: &Tools<'_>, database: &str, query: &str) -> Result<u64> {
    let text = tools.value(database, query)?.unwrap_or_default();
    text.parse().map_err(|_| Error::failed(format!("`{}` is not a count", crate::identifier::shown(&text))))
}
