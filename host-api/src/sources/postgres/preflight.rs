//! Whether a promotion can be done: rights, names, sessions. Everything that could fail once the service is stopped is looked at before.

use crate::error::{Error, Result};
use crate::sources::{Member, Row};
use crate::{Finding, Severity};

use super::tools::Tools;
use super::{sql, swap};

pub(super) fn preflight(tools: &Tools<'_>, member: &Member) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let (live, candidate) = (&tools.binding.database, &member.place);
    let user = &tools.binding.user;
    if !member.beside {
        findings.push(Finding::error(
            "not-beside",
            format!("database {candidate} is scratch"),
            "stage the backup with target `beside`",
        ));
    }
    if *live == tools.binding.maintenance_database {
        findings.push(maintenance(live));
        return Ok(findings);
    }
    let ours = role(tools)?;
    for name in [live, candidate] {
        match database(tools, name)? {
            Some(found) => check_database(user, name, &found, &ours, &mut findings),
            None if name == live => findings.push(Finding::warning(
                "live-missing",
                format!("there is no database {live}: its settings, grants and comment can't be carried over"),
                "set them by hand after the promotion",
            )),
            None => findings.push(Finding::error(
                "candidate-missing",
                format!("database {candidate} is gone"),
                "stage the backup again",
            )),
        }
    }
    let other = swap::other_place(candidate)?;
    if database(tools, &other)?.is_some() {
        findings.push(Finding::error(
            "name-taken",
            format!("there is a database {other} already"),
            "drop it, or rename it",
        ));
    }
    check_rights(tools, &ours, Severity::Error, &mut findings)?;
    Ok(findings)
}

/// The same without a candidate: what would stop any promotion as things are now. A session of a superuser's is a warning: it passes, as a
/// rule, and a role that can't end it lacks no right that it could be given.
pub(super) fn live(tools: &Tools<'_>) -> Result<Vec<Finding>> {
    let (mut findings, live) = (Vec::new(), &tools.binding.database);
    if *live == tools.binding.maintenance_database {
        findings.push(maintenance(live));
        return Ok(findings);
    }
    let ours = role(tools)?;
    if let Some(found) = database(tools, live)? {
        check_database(&tools.binding.user, live, &found, &ours, &mut findings);
    }
    check_rights(tools, &ours, Severity::Warning, &mut findings)?;
    Ok(findings)
}

fn maintenance(live: &str) -> Finding {
    Finding::error(
        "maintenance-database",
        format!("database {live} is also the maintenance database, and nothing can be renamed from within"),
        "name another one in `maintenance-database`",
    )
}

/// Rights, sessions and obstacles of the live database. `superusers`: how bad a session of one is.
fn check_rights(tools: &Tools<'_>, ours: &Role, superusers: Severity, findings: &mut Vec<Finding>) -> Result<()> {
    let (live, user) = (&tools.binding.database, &tools.binding.user);
    if !ours.superuser && !ours.createdb {
        findings.push(Finding::error(
            "right-to-rename",
            format!("role {user} may not rename databases"),
            format!("alter role {} createdb", sql::identifier(user)),
        ));
    }
    check_sessions(tools, ours, superusers, findings)?;
    check_obstacles(tools, findings)?;
    if !ours.superuser && counted(tools, &role_settings(live, user))? > 0 {
        findings.push(Finding::error(
            "role-settings",
            format!("database {live} has settings for other roles, which role {user} can't carry over"),
            "promote as a superuser, or reset them (alter role … in database … reset all)",
        ));
    }
    Ok(())
}

/// Rights of the connecting role.
pub(super) struct Role {
    pub(super) superuser: bool,
    pub(super) createdb: bool,
    may_signal: bool,
}

fn is_true(row: &Row, at: usize) -> bool {
    row.get(at).cloned().flatten().as_deref() == Some("t")
}

pub(super) fn role(tools: &Tools<'_>) -> Result<Role> {
    let rows = tools.rows(
        &tools.binding.maintenance_database,
        "SELECT rolsuper, rolcreatedb, pg_catalog.pg_has_role('pg_signal_backend', 'USAGE') FROM pg_catalog.pg_roles WHERE rolname = current_user",
    )?;
    let row = rows.first().ok_or_else(|| Error::failed("the connecting role is not in the catalog"))?;
    Ok(Role { superuser: is_true(row, 0), createdb: is_true(row, 1), may_signal: is_true(row, 2) })
}

/// What matters of a database: owned by a role of ours, a template, open to connections, with settings.
fn database(tools: &Tools<'_>, name: &str) -> Result<Option<Row>> {
    let query = format!(
        "SELECT pg_catalog.pg_has_role(datdba, 'USAGE'), datistemplate, datallowconn FROM pg_catalog.pg_database WHERE datname = {}",
        sql::literal(name)
    );
    Ok(tools.rows(&tools.binding.maintenance_database, &query)?.into_iter().next())
}

fn check_database(user: &str, name: &str, row: &Row, ours: &Role, findings: &mut Vec<Finding>) {
    let quoted = sql::identifier(name);
    if !ours.superuser && !is_true(row, 0) {
        findings.push(Finding::error(
            "right-to-rename",
            format!("role {user} does not own database {name}"),
            format!("alter database {quoted} owner to {}, or promote as a superuser", sql::identifier(user)),
        ));
    }
    if is_true(row, 1) {
        findings.push(Finding::error(
            "template",
            format!("database {name} is a template"),
            format!("alter database {quoted} is_template false"),
        ));
    }
    if !is_true(row, 2) {
        findings.push(Finding::error(
            "no-connections",
            format!("database {name} allows no connections"),
            format!("find out why; then: alter database {quoted} allow_connections true"),
        ));
    }
}

/// Sessions that would have to be ended, and could not be.
fn check_sessions(tools: &Tools<'_>, ours: &Role, superusers: Severity, findings: &mut Vec<Finding>) -> Result<()> {
    if ours.superuser {
        return Ok(());
    }
    let sessions = tools.rows(
        &tools.binding.maintenance_database,
        &format!(
            "SELECT r.rolname, r.rolsuper, pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid \
             WHERE a.datname = {} AND NOT pg_catalog.pg_has_role(r.oid, 'USAGE') GROUP BY 1, 2",
            sql::literal(&tools.binding.database)
        ),
    )?;
    for row in sessions {
        let [Some(role), superuser, Some(count)] = row.as_slice() else { continue };
        let superuser = superuser.as_deref() == Some("t");
        if superuser || !ours.may_signal {
            let fix = if superuser {
                "end them, or promote as a superuser".to_owned()
            } else {
                format!("grant pg_signal_backend to {}", sql::identifier(&tools.binding.user))
            };
            let message =
                format!("{count} sessions of role {role} on database {} can't be ended", tools.binding.database);
            let finding = Finding::error("right-to-end-sessions", message, fix);
            findings.push(Finding { severity: if superuser { superusers } else { Severity::Error }, ..finding });
        }
    }
    Ok(())
}

fn counted(tools: &Tools<'_>, query: &str) -> Result<u64> {
    let text = tools.value(&tools.binding.maintenance_database, query)?.unwrap_or_default();
    text.parse().map_err(|_| Error::failed(format!("`{text}` is not a count")))
}

fn role_settings(live: &str, user: &str) -> String {
    format!(
        "SELECT pg_catalog.count(*) FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase \
         WHERE d.datname = {} AND s.setrole <> 0 AND s.setrole <> (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = {})",
        sql::literal(live),
        sql::literal(user)
    )
}

/// What hangs on the live database and makes a rename fail, or would silently stay behind.
fn check_obstacles(tools: &Tools<'_>, findings: &mut Vec<Finding>) -> Result<()> {
    let live = sql::literal(&tools.binding.database);
    let obstacles = [
        (
            "prepared-transactions",
            format!("SELECT pg_catalog.count(*) FROM pg_catalog.pg_prepared_xacts WHERE database = {live}"),
            "prepared transactions stop the rename",
            "commit prepared or rollback prepared each (see pg_prepared_xacts)",
        ),
        (
            "replication-slots",
            format!("SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots WHERE database = {live}"),
            "logical replication slots would stay with the previous database",
            "drop them (pg_drop_replication_slot) and set replication up again after the promotion",
        ),
        (
            "subscriptions",
            format!(
                "SELECT pg_catalog.count(*) FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname = {live}"
            ),
            "subscriptions would stay with the previous database, and their workers stop the rename",
            "disable them (alter subscription … disable) and create them again after the promotion",
        ),
    ];
    for (rule, query, what, fix) in obstacles {
        let count = counted(tools, &query)?;
        if count > 0 {
            findings.push(Finding::error(rule, format!("database {}: {count} {what}", tools.binding.database), fix));
        }
    }
    Ok(())
}
