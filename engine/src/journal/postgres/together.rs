//! Records that wait at the same time, in one statement.
//!
//! Nothing is decided here that is not decided for a record alone: what is unusual (a change of a derived table, a run's end, a record that
//! can't follow, a run that was taken over) is left to the way that each record goes by itself, with the words it has for it.

use std::collections::HashSet;

use sqlx::PgConnection;

use super::super::append::{Entry, Job, Line, read_stand, stands};
use super::super::record::Transition;
use super::super::tail::Tail;
use super::schema::log_lock;
use super::{Session, Uncertain, WriteJob, leases, row};
use crate::error::{Error, Kind, Result};

/// Where runs stand, as `append` asks it for one.
const STANDS: &str = concat!("select ", stands!(), ", id from run where id = any($1)");

/// Tokens are shown and leases extended, lines written; nothing is written unless every token was good. Inside a transaction, or as one:
/// then this is the only trip to the server. Waiting for the log's lock it may have read already what it reads; a log
/// that has grown meanwhile has a record with the first of these numbers, and it fails.
const WRITE: &str = concat!(
    "with locked as materialized (",
    log_lock!(),
    "), record as materialized (
    select record.* from locked, unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[], $7::bigint[],
                                        $8::text[], $9::text[])
        as record (run, token, keep, seq, step, kind, time_ms, line, hash)
), kept as (
    update lease set until_ms = (extract(epoch from clock_timestamp()) * 1000)::bigint + record.keep
    from record where lease.run = record.run and lease.token = record.token returning 1
), good as materialized (
    select (select count(*) from kept) = (select count(*) from record) as all
), written as (
    insert into log (seq, run, step, kind, time_ms, line, hash)
    select seq, run, step, kind, time_ms, line, hash from record, good where good.all returning 1
)
select (select count(*) from kept), (select count(*) from written)"
);

/// The same for one record, at two thirds of the price.
const WRITE_ONE: &str = concat!(
    "with locked as materialized (",
    log_lock!(),
    "), kept as (
    update lease set until_ms = (extract(epoch from clock_timestamp()) * 1000)::bigint + $3
    from locked where run = $1 and token = $2 returning 1
)
insert into log (seq, run, step, kind, time_ms, line, hash) select $4, $1, $5, $6, $7, $8, $9 from kept"
);

/// The records at the head of what waits that can be written together: each of another run, with no change of what is derived.
pub(super) fn leading(group: &[WriteJob]) -> Vec<&Entry> {
    let mut runs = HashSet::new();
    let plain = |job: &WriteJob| match &job.0 {
        Job::Record(entry) => entry.fence.is_some() && entry.kind != Transition::RunEnded && entry.changes.is_empty(),
        Job::Other(_) => false,
    };
    group
        .iter()
        .take_while(|job| plain(job))
        .map_while(|job| match &job.0 {
            Job::Record(entry) => runs.insert(entry.run.as_str()).then_some(entry),
            Job::Other(_) => None,
        })
        .collect()
}

impl Session<Box<PgConnection>> {
    /// Writes all that waits in one statement that is its own transaction, as far as nothing need be looked at first: what the log's last
    /// record is, and where the runs stand, is remembered. None: it did not; the way of a transaction tells why.
    pub(super) async fn write_at_once(
        &mut self,
        group: &[WriteJob],
        tail: &mut Tail,
        uncertain: &mut Option<Uncertain>,
    ) -> Result<Option<Vec<u64>>> {
        let entries = leading(group);
        if !tail.is_quiet() || entries.len() < group.len() || uncertain.is_some() {
            return Ok(None);
        }
        let Some(lines) = lines(&entries, tail) else { return Ok(None) };
        let results: Vec<u64> = lines.iter().map(|line| line.time_ms).collect();
        let last = lines.last().map(|line| (line.seq, line.hash.clone()));
        *uncertain = last.map(|last| Uncertain { last, results: results.clone() });
        let written = match self.write(&entries, &lines).await {
            Ok(written) => written,
            // Whoever else has added to the log; no other number is given twice.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
                *uncertain = None;
                return Ok(None);
            }
            Err(error) => {
                let was_refused = matches!(error, sqlx::Error::Database(_));
                let error = Error::from(error);
                if was_refused && error.kind != Kind::StateAway {
                    *uncertain = None;
                }
                return Err(error);
            }
        };
        *uncertain = None;
        if written != (lines.len() as u64, lines.len() as u64) {
            return Ok(None);
        }
        for (entry, line) in entries.iter().zip(lines) {
            tail.written(&entry.run, line);
        }
        Ok(Some(results))
    }

    /// Writes them, and gives their times; none if one of them is unusual: then nothing was written.
    pub(super) async fn write_together(&mut self, entries: &[&Entry], tail: &mut Tail) -> Result<Option<Vec<u64>>> {
        self.read_stands(entries, tail).await?;
        let Some(lines) = lines(entries, tail) else { return Ok(None) };
        let (kept, written) = self.write(entries, &lines).await?;
        if kept != lines.len() as u64 {
            return Err(self.taken_over(entries).await);
        }
        if written != lines.len() as u64 {
            return Err(Error::new(Kind::Journal, "the state database: it did not take every record"));
        }
        let times = lines.iter().map(|line| line.time_ms).collect();
        for (entry, line) in entries.iter().zip(lines) {
            tail.written(&entry.run, line);
        }
        Ok(Some(times))
    }

    /// How many tokens were good, and how many records were written: all, or none.
    async fn write(&mut self, entries: &[&Entry], lines: &[Line]) -> sqlx::Result<(u64, u64)> {
        if let ([entry], [line]) = (entries, lines)
            && let Some(fence) = &entry.fence
        {
            let one = sqlx::query(WRITE_ONE)
                .bind(&entry.run)
                .bind(fence.token())
                .bind(fence.keep_ms().cast_signed())
                .bind(line.seq.cast_signed())
                .bind(entry.step.map(u64::cast_signed))
                .bind(entry.kind.word())
                .bind(line.time_ms.cast_signed())
                .bind(&line.text)
                .bind(&line.hash);
            let written = one.execute(&mut *self.connection).await?.rows_affected();
            return Ok((written, written));
        }
        let column = |of: fn(&Line) -> &str| lines.iter().map(of).collect::<Vec<_>>();
        let number = |of: fn(&Line) -> u64| lines.iter().map(|line| of(line).cast_signed()).collect::<Vec<_>>();
        let fences = || entries.iter().filter_map(|entry| entry.fence.as_ref());
        let (kept, written): (i64, i64) = sqlx::query_as(WRITE)
            .bind(entries.iter().map(|entry| entry.run.as_str()).collect::<Vec<_>>())
            .bind(fences().map(leases::Fence::token).collect::<Vec<_>>())
            .bind(fences().map(|fence| fence.keep_ms().cast_signed()).collect::<Vec<_>>())
            .bind(number(|line| line.seq))
            .bind(entries.iter().map(|entry| entry.step.map(u64::cast_signed)).collect::<Vec<_>>())
            .bind(entries.iter().map(|entry| entry.kind.word()).collect::<Vec<_>>())
            .bind(number(|line| line.time_ms))
            .bind(column(|line| &line.text))
            .bind(column(|line| &line.hash))
            .fetch_one(&mut *self.connection)
            .await?;
        Ok((kept.cast_unsigned(), written.cast_unsigned()))
    }

    /// Reads where those runs stand of which it is not known.
    async fn read_stands(&mut self, entries: &[&Entry], tail: &mut Tail) -> Result<()> {
        let unknown: Vec<&str> =
            entries.iter().map(|entry| entry.run.as_str()).filter(|run| tail.stand(run).is_none()).collect();
        if unknown.is_empty() {
            return Ok(());
        }
        for found in sqlx::query(STANDS).bind(unknown).fetch_all(&mut *self.connection).await? {
            let found = row(&found)?;
            // Any other is read from its records, or refused, by whoever writes it alone.
            if let Ok(Some(stand)) = read_stand(&found) {
                tail.read(found.string(4)?, stand);
            }
        }
        Ok(())
    }

    /// Why a token was not good.
    async fn taken_over(&mut self, entries: &[&Entry]) -> Error {
        for entry in entries {
            let Some(fence) = &entry.fence else { continue };
            if let Err(error) = leases::check(self, &entry.run, entry.kind, fence).await {
                return error;
            }
        }
        Error::new(Kind::StateAway, "the state database: a lease changed while a record was written")
    }
}

/// The lines, each after the one before; none if one can't follow, is of a run of which nothing is known, or changes its run's row.
fn lines(entries: &[&Entry], tail: &Tail) -> Option<Vec<Line>> {
    let mut lines: Vec<Line> = Vec::with_capacity(entries.len());
    let mut last = tail.last().filter(|_| !entries.is_empty())?.clone();
    for entry in entries {
        let before = tail.stand(&entry.run)?;
        let line = entry.after(&last, before).ok().filter(|line| before.0.has_row_of(line.stand))?;
        last = (line.seq, line.hash.clone());
        lines.push(line);
    }
    Some(lines)
}
