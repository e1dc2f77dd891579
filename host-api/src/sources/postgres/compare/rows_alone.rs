//! A candidate with only the rows of a backup: what of it is compared with nothing, and said instead.

use std::collections::BTreeSet;

use crate::Finding;
use crate::error::Result;
use crate::manifest::PostgresFacts;
use crate::sources::DataOnly;

use super::super::session::Session;
use super::super::sql;
use super::reading::Reading;
use super::{CATALOG_ROWS_MAX, listed};

/// Takes out the tables whose rows are the live database's. They and the structure are compared with nothing.
pub(super) fn leave_kept(
    data_only: &DataOnly,
    facts: &PostgresFacts,
    tables: &mut Vec<Reading>,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    findings.push(Finding::info(
        "data-only",
        "only the rows are the backup's: the structure is the live database's, and is not compared with the backup's",
    ));
    let kept = data_only.kept.iter().map(|name| sql::table_parts(name)).collect::<Result<BTreeSet<_>>>()?;
    let is_kept = |name: &str| sql::table_parts(name).is_ok_and(|name| kept.contains(&name));
    for name in &data_only.kept {
        listed(
            findings,
            Finding::info(
                "kept-table",
                format!("the rows of table {name} are the live database's: compared with nothing"),
            ),
        );
    }
    tables.retain(|table| !is_kept(&facts.tables[table.table].name));
    Ok(())
}

/// Says which columns the backup does not know. No migration has run on these rows.
pub(super) fn check_columns(
    session: &mut Session<'_>,
    facts: &PostgresFacts,
    tables: &[Reading],
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let filled: Vec<&Reading> = tables.iter().filter(|table| facts.tables[table.table].rows > 0).collect();
    let oids: Vec<&str> = filled.iter().map(|table| table.oid.as_str()).collect();
    let rows = session.rows(
        &format!(
            "SELECT attrelid, attname FROM pg_catalog.pg_attribute WHERE attrelid = ANY ('{{{}}}'::oid[]) \
             AND attnum > 0 AND NOT attisdropped AND attgenerated = '' ORDER BY attrelid, attnum",
            oids.join(",")
        ),
        CATALOG_ROWS_MAX,
    )?;
    for table in filled {
        let facts = &facts.tables[table.table];
        let (_, list) = sql::copy_parts(facts.copy.as_deref().unwrap_or_default())?;
        let given = sql::column_names(list);
        for row in &rows {
            if let [Some(oid), Some(column)] = row.as_slice()
                && *oid == table.oid
                && !given.contains(column)
            {
                listed(
                    findings,
                    Finding::warning(
                        "new-column",
                        format!(
                            "column {} of table {} is not in the backup: its {} rows took the default",
                            sql::identifier(column),
                            facts.name,
                            facts.rows
                        ),
                        "a migration that fills it from other columns has not run on these rows: fill it by hand, or restore the whole \
                         backup and let the service migrate it",
                    ),
                );
            }
        }
    }
    Ok(())
}
