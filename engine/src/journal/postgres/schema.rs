//! The tables in PostgreSQL, in a schema of their own. Their version is that of the tables in SQLite.

/// The schema.
pub(super) const SCHEMA: &str = "lifeboat";

/// Takes the lock of the log and of its tables (`lifeboat` in ASCII), until the transaction ends: one number for all who take it.
macro_rules! log_lock {
    () => {
        "select pg_advisory_xact_lock(7811887614280032628)"
    };
}
pub(super) use log_lock;

/// Begins a transaction under the log's lock. The lock is waited for in a statement of its own: the next one sees what its last holder has
/// committed.
pub(super) const LOCKED: &str = concat!("begin isolation level read committed; ", log_lock!());

/// The same, with a look at the log's last record on the way: one trip to the server.
pub(super) const BEGIN: &str = concat!(
    "begin isolation level read committed; ",
    log_lock!(),
    "; select seq, hash from log order by seq desc limit 1"
);

/// What every session begins with. An engine that is paused inside a transaction holds the log's lock: the server ends it soon.
pub(super) const SESSION: &str = "
set search_path = lifeboat, pg_temp;
set synchronous_commit = on;
set idle_in_transaction_session_timeout = '10s';
set lock_timeout = '30s';
set statement_timeout = '120s';
set timezone = 'UTC';
set client_min_messages = 'warning';
";

/// What the session that writes begins with besides: its few statements are planned once, not each time.
pub(super) const WRITING: &str = "set plan_cache_mode = force_generic_plan";

/// The tables of version 4; those of version 3, the first that was kept in PostgreSQL, are the same.
pub(super) const FIRST: &str = "
create table log (
    seq bigint primary key,
    run text not null,
    step bigint,
    kind text not null,
    time_ms bigint not null,
    line text not null,
    hash text not null
);
create index log_run on log (run, seq);
create index log_key on log (seq) where kind = 'key-rotated';
create function log_is_append_only() returns trigger language plpgsql as $$
begin raise exception 'the log is append-only'; end $$;
create trigger log_no_change before update or delete or truncate on log
    for each statement execute function log_is_append_only();
create table run (
    id text primary key,
    environment text not null,
    policy text not null,
    module_sha256 text not null,
    status text not null,
    summary text not null default '',
    started_ms bigint not null,
    ended_ms bigint,
    stand text not null default ''
);
create table candidate (
    id text primary key, run text not null, state text not null, body text not null, verification text
);
create table promotion (
    id text primary key, run text not null, environment text not null, service text not null, state text not null,
    body text not null
);
create table approval (
    id text primary key, run text not null, step bigint not null, state text not null,
    intent text not null, intent_sha256 text not null, decided_by text, how text, decided_ms bigint
);
create table obligation (
    id bigint generated always as identity primary key,
    run text not null, kind text not null, object text not null, if_aborted text not null,
    body text not null, state text not null, note text not null default ''
);
create table withheld (run text not null, step bigint not null, body text not null, primary key (run, step));
create table signing_key (epoch bigint primary key, verifier text not null);
create table hold (service text primary key, run text not null);
create index hold_run on hold (run);
-- Which engine works on a run, until when by this server's clock; the token grows with each that takes it. `place` tells whether the
-- holder's process can be seen from here.
create table lease (
    run text primary key, token bigint not null, holder text not null, place text not null, until_ms bigint not null
);
";
