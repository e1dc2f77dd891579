//! The planner's statistics of a database that was just filled, made in several sessions: as `ANALYZE` does, table by table, largest first.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::{Error, Result};

use super::session::Session;
use super::tools::Tools;

/// What `ANALYZE` without a name goes through. Partitions come with the table that they are of.
const TABLES: &str = "SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND NOT c.relispartition \
    ORDER BY CASE c.relkind WHEN 'p' THEN (SELECT pg_catalog.sum(pg_catalog.pg_relation_size(t.relid)) \
    FROM pg_catalog.pg_partition_tree(c.oid) t) ELSE pg_catalog.pg_relation_size(c.oid) END DESC, c.oid";

/// Makes them, in as many sessions as there are jobs.
pub(super) fn make(tools: &Tools<'_>, place: &str, jobs: usize) -> Result<()> {
    let tables: Vec<String> = tools.rows(place, TABLES)?.into_iter().flatten().flatten().collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        let mut session = Session::open(tools, place, "UTF8")?;
        while let Some(table) = tables.get(next.fetch_add(1, Ordering::Relaxed)) {
            session.run(&format!("ANALYZE {table};"))?;
        }
        session.close().map(drop)
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.min(tables.len())).map(|_| scope.spawn(work)).collect();
        let ended: Vec<Result<()>> = workers
            .into_iter()
            .map(|worker| worker.join().unwrap_or_else(|_| Err(Error::failed("a bug: a thread panicked"))))
            .collect();
        ended.into_iter().collect()
    })
}
