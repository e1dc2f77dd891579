//! The tables, and what makes those of a version out of those of the version before.

/// Version of the tables: how many of [`SQLITE`] were applied. A state of a newer one is refused.
pub(super) const VERSION: i64 = SQLITE.len() as i64;

/// SQLite's migrations, from none on.
pub(super) const SQLITE: &[&str] = &[FIRST, AUDIT, HOLDS, STEPS];

pub(super) const FIRST: &str = "
create table log (
    seq integer primary key,
    run text not null,
    step integer,
    kind text not null,
    time_ms integer not null,
    line text not null,
    hash text not null
) strict;
create index log_run on log (run, seq);
-- Append-only, also for whoever has the database open by mistake. Whoever means it is caught by the chain of hashes.
create trigger log_no_update before update on log begin select raise(abort, 'the log is append-only'); end;
create trigger log_no_delete before delete on log begin select raise(abort, 'the log is append-only'); end;
create table run (
    id text primary key,
    environment text not null,
    policy text not null,
    module_sha256 text not null,
    status text not null,
    summary text not null default '',
    started_ms integer not null,
    ended_ms integer
) strict;
create table candidate (
    id text primary key, run text not null, state text not null, body text not null, verification text
) strict;
create table promotion (
    id text primary key, run text not null, environment text not null, service text not null, state text not null,
    body text not null
) strict;
create table approval (
    id text primary key, run text not null, step integer not null, state text not null,
    intent text not null, intent_sha256 text not null, decided_by text, how text, decided_ms integer
) strict;
create table obligation (
    id integer primary key, run text not null, kind text not null, object text not null, if_aborted text not null,
    body text not null, state text not null, note text not null default ''
) strict;
";

const AUDIT: &str = "
-- Values of a service that runs were given, while those runs last: replaying needs them, the log has only their digests. Step 0: the salt.
create table withheld (
    run text not null, step integer not null, body text not null, primary key (run, step)
) strict, without rowid;
create index log_key on log (seq) where kind = 'key-rotated';
create table signing_key (epoch integer primary key, verifier text not null) strict;
-- Where its records have brought a run: what may follow. Empty in runs from before: read from the records then.
alter table run add column stand text not null default '';
";

const HOLDS: &str = "
-- Which run works on a service: from its first effect there until it is over, or waits for a person.
create table hold (service text primary key, run text not null) strict, without rowid;
create index hold_run on hold (run);
";

/// The same in PostgreSQL.
pub(super) const STEPS: &str = "
-- A run's row says no more whether it is in a step: its records do.
update run set stand = 'running' where stand like 'in-step %';
";
