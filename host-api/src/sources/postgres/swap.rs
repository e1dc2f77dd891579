//! Promote and undo: renames in one transaction, decided by OIDs.
//!
//! OIDs survive renames, so which name each of the two databases has now says what has been done:
//!
//! | previous is named | promoted is named | state |
//! | --- | --- | --- |
//! | live | candidate | not promoted |
//! | other place | live | promoted |
//! | live | other place | undone |
//!
//! New sessions are kept out before the transaction begins (`ALLOW_CONNECTIONS false`, which has to be committed to be seen), so a crash
//! in between leaves a database that nobody can connect to: every call puts that right first, whatever else it finds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::sources::{Member, Swap};

use super::leftovers::{self, Attempts};
use super::session::Session;
use super::tools::Tools;
use super::{GENERATED_PREFIX, PREVIOUS, end_sessions, identity, part, sql};

/// Settings that are lists of names, each of which is quoted on its own (`GUC_LIST_QUOTE`).
const NAME_LISTS: &[&str] = &[
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

/// Settings of a database: for a role in it, or for all.
#[derive(Serialize, Deserialize)]
struct Settings {
    role: Option<String>,
    settings: Vec<String>,
}

/// One grant on a database; no grantee stands for everybody.
#[derive(Serialize, Deserialize)]
struct Grant {
    grantee: Option<String>,
    privilege: String,
    grantable: bool,
}

/// Where the previous goes when this candidate is promoted.
pub(super) fn other_place(candidate: &str) -> Result<String> {
    candidate
        .strip_prefix(GENERATED_PREFIX)
        .map(|rest| format!("{GENERATED_PREFIX}{PREVIOUS}{rest}"))
        .ok_or_else(|| Error::refused(format!("database `{}` is not a candidate", crate::identifier::shown(candidate))))
}

/// The names that a candidate's database can have while it is not in service, of which this is one: its own, and its previous's.
pub(super) fn names_of(place: &str) -> Vec<String> {
    let own = match place.strip_prefix(GENERATED_PREFIX).and_then(|rest| rest.strip_prefix(PREVIOUS)) {
        Some(rest) => format!("{GENERATED_PREFIX}{rest}"),
        None => place.to_owned(),
    };
    other_place(&own).into_iter().chain([own]).collect()
}

pub(super) fn plan(tools: &Tools<'_>, member: &Member) -> Result<Swap> {
    let live = tools.binding.database.clone();
    let previous = identity(tools, &live)?;
    let mut carried = match &previous {
        Some(previous) => carried(tools, part(previous, "oid")?)?,
        None => BTreeMap::new(),
    };
    carried.insert(CANDIDATE.into(), member.place.clone());
    Ok(Swap {
        source: member.source.clone(),
        live_place: live,
        other_place: other_place(&member.place)?,
        previous,
        promoted: member.identity.clone(),
        carried,
    })
}

/// Key of the name that the candidate had when the promotion was planned: a name says where, an identity says what.
const CANDIDATE: &str = "candidate";
fn candidate_name(swap: &Swap) -> Result<&str> {
    swap.carried.get(CANDIDATE).map(String::as_str).ok_or_else(|| {
        Error::failed("the swap does not say what the candidate was called").hint("the record is damaged")
    })
}

/// What belongs to a database's row in the cluster and not to its content.
fn carried(tools: &Tools<'_>, oid: &str) -> Result<BTreeMap<String, String>> {
    let rows = tools.rows(
        &tools.binding.maintenance_database,
        &format!(
            "SELECT datallowconn, datconnlimit, pg_catalog.pg_get_userbyid(datdba), pg_catalog.shobj_description(oid, 'pg_database'), \
             (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(\
             'role', CASE WHEN setrole <> 0 THEN pg_catalog.pg_get_userbyid(setrole) END, 'settings', setconfig)), '[]') \
             FROM pg_catalog.pg_db_role_setting WHERE setdatabase = d.oid), \
             CASE WHEN datacl IS NOT NULL THEN (SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(\
             'grantee', CASE WHEN grantee <> 0 THEN pg_catalog.pg_get_userbyid(grantee) END, \
             'privilege', privilege_type, 'grantable', is_grantable)), '[]') FROM pg_catalog.aclexplode(datacl)) END \
             FROM pg_catalog.pg_database d WHERE d.oid::text = {}",
            sql::literal(oid)
        ),
    )?;
    let row =
        rows.into_iter().next().ok_or_else(|| Error::conflict("the live database vanished while it was looked at"))?;
    let names = ["datallowconn", "datconnlimit", "owner", "comment", "settings", "datacl"];
    Ok(names.iter().zip(row).filter_map(|(name, value)| Some(((*name).to_owned(), value?))).collect())
}

/// A database that takes part, as it is now.
struct Found {
    name: String,
    connectable: bool,
}

/// The swap under way: its record, and a session on the maintenance database that holds the advisory lock.
struct Work<'a> {
    cx: &'a StepContext,
    session: Session<'a>,
    previous_oid: Option<&'a str>,
    promoted_oid: &'a str,
    /// Whether databases were open to connections before.
    connectable: bool,
}

impl<'a> Work<'a> {
    fn begin(tools: &'a Tools<'a>, swap: &'a Swap) -> Result<Self> {
        let mut session = Session::open(tools, &tools.binding.maintenance_database, "UTF8")?;
        // One swap of a database at a time, whoever runs it; the lock ends with the session.
        let key = xxhash_rust::xxh3::xxh3_64(format!("lifeboat swap {}", swap.live_place).as_bytes()).cast_signed();
        session.value(&format!("SELECT pg_catalog.pg_advisory_lock({key})"))?;
        let system = super::system_identifier(tools, &tools.binding.maintenance_database)?;
        if part(&swap.promoted, "system-identifier")? != system {
            return Err(Error::conflict("this is not the server that the promotion was planned for")
                .hint("the configuration names another server now"));
        }
        Ok(Self {
            cx: tools.cx,
            session,
            previous_oid: swap.previous.as_ref().map(|p| part(p, "oid")).transpose()?,
            promoted_oid: part(&swap.promoted, "oid")?,
            connectable: swap.carried.get("datallowconn").is_none_or(|v| v != "f" && v != "false"),
        })
    }

    fn find(&mut self, oid: &str) -> Result<Option<Found>> {
        let query =
            format!("SELECT datname, datallowconn FROM pg_catalog.pg_database WHERE oid::text = {}", sql::literal(oid));
        let row = self.session.rows(&query, 1)?.into_iter().next();
        Ok(row.and_then(|row| match row.as_slice() {
            [Some(name), Some(open)] => Some(Found { name: name.clone(), connectable: open == "t" }),
            _ => None,
        }))
    }

    /// Names of the previous and of the promoted, after what a crash left behind has been put right.
    fn names(&mut self) -> Result<(Option<String>, Option<String>)> {
        let previous = match self.previous_oid {
            Some(oid) => self.find(oid)?,
            None => None,
        };
        let promoted = self.find(self.promoted_oid)?;
        for found in [&previous, &promoted].into_iter().flatten() {
            if found.connectable != self.connectable {
                let name = sql::identifier(&found.name);
                self.session.run(&format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {};", self.connectable))?;
            }
        }
        Ok((previous.map(|f| f.name), promoted.map(|f| f.name)))
    }

    /// Is there a database of this name that is neither of the two?
    fn is_foreign(&mut self, name: &str) -> Result<bool> {
        let oids: Vec<String> = self.previous_oid.into_iter().chain([self.promoted_oid]).map(sql::literal).collect();
        let query = format!(
            "SELECT 1 FROM pg_catalog.pg_database WHERE datname = {} AND oid::text NOT IN ({})",
            sql::literal(name),
            oids.join(", ")
        );
        Ok(self.session.value(&query)?.is_some())
    }

    /// Keeps new sessions out of these databases, ends those that are there, and runs the statements, all or none.
    fn exclusively(&mut self, closed: &[&str], databases: &[&str], statements: &[String]) -> Result<()> {
        for name in closed {
            self.session.run(&format!("ALTER DATABASE {} WITH ALLOW_CONNECTIONS false;", sql::identifier(name)))?;
        }
        self.cx.at("sessions kept out");
        self.session.run("BEGIN;")?;
        self.session.value(&end_sessions(databases))?;
        for statement in statements {
            self.session.run(&format!("{statement};"))?;
        }
        self.cx.at("before the commit");
        self.session.run("COMMIT;")?;
        self.cx.at("committed");
        Ok(())
    }

    fn unexpected(&self, previous: Option<&str>, promoted: Option<&str>) -> Error {
        let shown =
            |name: Option<&str>| name.map_or("gone".to_owned(), |n| format!("named `{}`", crate::identifier::shown(n)));
        Error::conflict(format!(
            "the databases are not where the promotion's record has them: the previous is {}, the promoted is {}",
            shown(previous.or(self.previous_oid.is_none().then_some("none"))),
            shown(promoted)
        ))
        .hint("something else renamed or dropped one of them: look before going on")
    }
}

/// Runs a swap; if it fails half-way, opens to connections again what was closed.
fn swapping<'a>(tools: &'a Tools<'a>, swap: &'a Swap, act: impl FnOnce(&mut Work<'a>) -> Result<()>) -> Result<()> {
    let mut work = Work::begin(tools, swap)?;
    let Err(error) = act(&mut work) else {
        return work.session.close().map(drop);
    };
    // The failed session is gone or goes now, and its open transaction with it.
    drop(work);
    let grace = leftovers::grace(tools.cx);
    let reopened = tools.with(&grace).and_then(|tools| {
        // A session whose client was killed still holds its locks on the databases.
        if leftovers::may_be_left(&tools, &error) {
            leftovers::end(&tools, Attempts::All)?;
        }
        Work::begin(&tools, swap)?.names().map(drop)
    });
    Err(match reopened {
        Ok(()) => error,
        Err(e) => error
            .context(format!("connections could not be allowed again ({})", e.message))
            .hint(format!("alter database {} allow_connections true", sql::identifier(&swap.live_place))),
    })
}

pub(super) fn promote(tools: &Tools<'_>, swap: &Swap) -> Result<()> {
    swapping(tools, swap, |work| {
        let (live, other) = (swap.live_place.as_str(), swap.other_place.as_str());
        let candidate = candidate_name(swap)?;
        let (previous, promoted) = work.names()?;
        match (previous.as_deref(), promoted.as_deref()) {
            (p, Some(c)) if c == live && (p == Some(other) || swap.previous.is_none()) => return Ok(()),
            (p, Some(c)) if c == candidate && (p == Some(live) || swap.previous.is_none()) => {}
            (p, c) => return Err(work.unexpected(p, c)),
        }
        for name in [live, other] {
            if work.is_foreign(name)? {
                return Err(Error::conflict(format!(
                    "there is another database named `{}`",
                    crate::identifier::shown(name)
                ))
                .hint("it was made after the promotion was planned: rename it, or plan anew"));
            }
        }
        let mut statements = Vec::new();
        if swap.previous.is_some() {
            statements.push(rename(live, other));
        }
        statements.push(rename(candidate, live));
        statements.extend(carry(swap)?);
        if swap.previous.is_some() {
            statements.push(format!(
                "ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}",
                sql::identifier(other),
                work.connectable
            ));
        }
        let closed: &[&str] = if swap.previous.is_some() { &[live] } else { &[] };
        work.exclusively(closed, &[live, candidate], &statements)
    })
}

pub(super) fn undo(tools: &Tools<'_>, swap: &Swap) -> Result<()> {
    swapping(tools, swap, |work| {
        let (live, other) = (swap.live_place.as_str(), swap.other_place.as_str());
        let candidate = candidate_name(swap)?;
        let (previous, promoted) = work.names()?;
        match (previous.as_deref(), promoted.as_deref()) {
            // Undone; or not promoted at all, and so nothing to take back.
            (p, Some(c)) if (c == other || c == candidate) && (p == Some(live) || swap.previous.is_none()) => {
                return Ok(());
            }
            (p, Some(c)) if c == live && (p == Some(other) || swap.previous.is_none()) => {}
            (p, c) => return Err(work.unexpected(p, c)),
        }
        let mut statements = Vec::new();
        if swap.previous.is_some() {
            // Three names for two places: the candidate's old name is free.
            statements.push(rename(live, candidate));
            statements.push(rename(other, live));
            statements.push(rename(candidate, other));
            statements.push(format!(
                "ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}",
                sql::identifier(live),
                work.connectable
            ));
        } else {
            statements.push(rename(live, other));
        }
        statements.push(format!(
            "ALTER DATABASE {} WITH ALLOW_CONNECTIONS {}",
            sql::identifier(other),
            work.connectable
        ));
        work.exclusively(&[live], &[live, other], &statements)
    })
}

fn rename(from: &str, to: &str) -> String {
    format!("ALTER DATABASE {} RENAME TO {}", sql::identifier(from), sql::identifier(to))
}

/// What makes the promoted database, by now under the live name, the live one's equal.
fn carry(swap: &Swap) -> Result<Vec<String>> {
    let name = sql::identifier(&swap.live_place);
    let carried = &swap.carried;
    let mut statements = Vec::new();
    // Also takes away the mark that says the candidate is whole.
    let comment = carried.get("comment").map_or("NULL".into(), |c| sql::literal(c));
    statements.push(format!("COMMENT ON DATABASE {name} IS {comment}"));
    let damaged = |what: &str| Error::failed(format!("the promotion's record of {what} can't be read"));
    if let Some(limit) = carried.get("datconnlimit") {
        let limit: i32 = limit.parse().map_err(|_| damaged("the connection limit"))?;
        statements.push(format!("ALTER DATABASE {name} WITH CONNECTION LIMIT {limit}"));
    }
    if let Some(settings) = carried.get("settings") {
        let settings: Vec<Settings> = serde_json::from_str(settings).map_err(|_| damaged("settings"))?;
        for of in &settings {
            let target = match &of.role {
                Some(role) => format!("ALTER ROLE {} IN DATABASE {name}", sql::identifier(role)),
                None => format!("ALTER DATABASE {name}"),
            };
            for setting in &of.settings {
                let (key, value) = setting.split_once('=').ok_or_else(|| damaged("settings"))?;
                statements.push(format!("{target} SET {} TO {}", setting_name(key), setting_value(key, value)));
            }
        }
    }
    // Before the grants: they are then the new owner's.
    if let Some(owner) = carried.get("owner") {
        statements.push(format!("ALTER DATABASE {name} OWNER TO {}", sql::identifier(owner)));
        if let Some(grants) = carried.get("datacl") {
            let grants: Vec<Grant> = serde_json::from_str(grants).map_err(|_| damaged("grants"))?;
            statements.push(format!("REVOKE ALL ON DATABASE {name} FROM PUBLIC, {}", sql::identifier(owner)));
            for grant in &grants {
                if !["CONNECT", "TEMPORARY", "CREATE"].contains(&grant.privilege.as_str()) {
                    return Err(damaged("grants"));
                }
                let to = grant.grantee.as_ref().map_or("PUBLIC".into(), |g| sql::identifier(g));
                let option = if grant.grantable { " WITH GRANT OPTION" } else { "" };
                statements.push(format!("GRANT {} ON DATABASE {name} TO {to}{option}", grant.privilege));
            }
        }
    }
    if let Some(open) = carried.get("datallowconn") {
        statements.push(format!("ALTER DATABASE {name} WITH ALLOW_CONNECTIONS {}", open == "t" || open == "true"));
    }
    Ok(statements)
}

fn setting_name(name: &str) -> String {
    name.split('.').map(sql::identifier).collect::<Vec<_>>().join(".")
}

fn setting_value(name: &str, value: &str) -> String {
    if NAME_LISTS.iter().any(|list| list.eq_ignore_ascii_case(name)) {
        sql::list_elements(value).iter().map(|e| sql::literal(e)).collect::<Vec<_>>().join(", ")
    } else {
        sql::literal(value)
    }
}
