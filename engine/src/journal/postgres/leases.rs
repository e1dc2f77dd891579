//! Which engine works on a run: leases with fencing tokens, by the server's clock.
//!
//! A token is checked by every record that is written, in the same transaction. What a record's step does to the world can't be checked by
//! the world: a step may last as long as the lease that its start was recorded with, and ends before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use host_api::identifier;
use rustix::time::{ClockId, clock_gettime};

use super::super::database::{Row, Transaction, cells};
use super::super::record::Transition;
use super::{CONNECT_LIMIT, Postgres};
use crate::error::{Error, Kind, Result};

/// How long a run that does nothing to the world is ours after the last sign of life.
const IDLE: Duration = Duration::from_secs(60);

/// Leases that some engine of this process has, or is about to take: state, run, token. Their places are all the same.
static HERE: Mutex<BTreeSet<(String, String, i64)>> = Mutex::new(BTreeSet::new());

fn in_process() -> std::sync::MutexGuard<'static, BTreeSet<(String, String, i64)>> {
    HERE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of them.
#[derive(Debug)]
struct Here((String, String, i64));

impl Here {
    /// None: somebody in this process has it, or is taking it.
    fn enter(state: &str, run: &str, token: i64) -> Option<Self> {
        let lease = (state.to_owned(), run.to_owned(), token);
        let is_new = in_process().insert(lease.clone());
        // Made only where it is ours to remove.
        is_new.then(|| Self(lease))
    }

    fn has(state: &str, run: &str, token: i64) -> bool {
        in_process().contains(&(state.to_owned(), run.to_owned(), token))
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        in_process().remove(&self.0);
    }
}

/// The leases that this engine has.
pub(in crate::journal) struct LeaseState {
    /// Which state, to tell it from others that engines of this process have open.
    name: String,
    /// Longest step.
    length: Duration,
    held: Mutex<BTreeMap<String, Arc<Held>>>,
}

/// A run that is ours while its token is the newest.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) run: String,
    token: i64,
    /// Until it is let go of.
    here: Mutex<Option<Here>>,
    /// Of a step that acts.
    length: Duration,
    /// When it ends by our clocks, which began to count before the server's.
    ends: Mutex<Ends>,
    /// Another engine has it: which one.
    lost: OnceLock<Error>,
    /// Set when it is lost: whatever is under way ends.
    watching: Mutex<Vec<Weak<AtomicBool>>>,
}

#[derive(Debug, Clone, Copy)]
struct Ends {
    at: Instant,
    /// The same by a clock that goes on while the machine sleeps.
    boot: Duration,
}

impl Ends {
    fn after(length: Duration) -> Self {
        Self { at: Instant::now() + length, boot: since_boot() + length }
    }

    /// The machine has slept through its end: a deadline that was set before it comes too late.
    fn was_slept_through(self) -> bool {
        since_boot() >= self.boot && Instant::now() < self.at
    }
}

fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What a record needs to be written.
#[derive(Debug, Clone)]
pub(crate) struct Fence {
    token: i64,
    keep: Duration,
}

impl Fence {
    pub(super) fn token(&self) -> i64 {
        self.token
    }

    /// How long the run is ours with the record, milliseconds.
    pub(super) fn keep_ms(&self) -> u64 {
        u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX / 4)
    }
}

impl LeaseState {
    pub(super) fn new(name: String, length: Duration) -> Self {
        Self { name, length, held: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Arc<Held>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::journal) fn held(&self, run: &str) -> Option<Arc<Held>> {
        self.lock().get(run).cloned()
    }

    fn idle(&self) -> Duration {
        IDLE.min(self.length)
    }

    /// What a record of this kind must show, and how long the run is ours with it: what acts on the world after it has the whole length.
    pub(in crate::journal) fn fence(&self, run: &str, kind: Transition) -> Result<Option<Fence>> {
        use Transition as T;
        let keep = match kind {
            // From outside, by whoever has something to say.
            T::CancelRequested | T::Voted | T::KeyRotated => return Ok(None),
            T::Started | T::Resumed | T::Ending | T::Settled => self.length,
            T::Parked => Duration::ZERO,
            T::RunStarted | T::Answered | T::Completed | T::Resolved | T::RunEnded => self.idle(),
        };
        match self.held(run) {
            Some(held) => Ok(Some(Fence { token: held.token, keep })),
            None => Err(Error::new(Kind::Journal, format!("a bug: a record of run {run}, which is not claimed"))),
        }
    }
}

impl Held {
    /// When what was begun under it must have ended, and when taking it back must have.
    pub(crate) fn deadlines(&self) -> (Instant, Instant) {
        let end = self.ends().at;
        let before = |margin: Duration| end.checked_sub(margin).unwrap_or(end);
        // The rest is for clocks that do not run alike, and for signals that arrive.
        (
            before((self.length / 4).min(Duration::from_secs(150))),
            before((self.length / 20).min(Duration::from_secs(10))),
        )
    }

    /// Whether another engine has the run now.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.get().is_some()
    }

    /// That another engine has the run now, and which.
    pub(crate) fn lost(&self) -> Option<Error> {
        self.lost.get().cloned()
    }

    /// What is to be set when the run is not ours any more.
    pub(crate) fn watch(&self, cancelled: &Arc<AtomicBool>) {
        let mut watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        watching.retain(|flag| flag.strong_count() > 0);
        watching.push(Arc::downgrade(cancelled));
        if self.is_lost() {
            cancelled.store(true, Ordering::Relaxed);
        }
    }

    pub(in crate::journal) fn lose(&self, to: &Error) {
        // Whoever was first had it taken; others may have it since.
        let _ = self.lost.set(to.clone());
        self.end_all();
    }

    fn end_all(&self) {
        let watching = self.watching.lock().unwrap_or_else(PoisonError::into_inner);
        watching.iter().filter_map(Weak::upgrade).for_each(|flag| flag.store(true, Ordering::Relaxed));
    }

    fn ends(&self) -> Ends {
        *self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In one step: a renewal and a record may be answered at the same time.
    fn change(&self, to: impl FnOnce(Ends) -> Ends) {
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        *ends = to(*ends);
    }

    /// Before a record is sent that may make the lease shorter.
    pub(in crate::journal) fn no_longer_than(&self, fence: &Fence, sent: (Instant, Duration)) {
        self.change(|now| Ends { at: now.at.min(sent.0 + fence.keep), boot: now.boot.min(sent.1 + fence.keep) });
    }

    /// As of a moment before the record was sent.
    pub(in crate::journal) fn extended(&self, fence: &Fence, sent: (Instant, Duration)) {
        self.change(|_| Ends { at: sent.0 + fence.keep, boot: sent.1 + fence.keep });
    }
}

/// Now, by both clocks.
pub(in crate::journal) fn now() -> (Instant, Duration) {
    (Instant::now(), since_boot())
}

/// Checks the token of a run inside the transaction that writes its record, and extends the lease.
pub(in crate::journal) async fn check(
    tx: &mut dyn Transaction,
    run: &str,
    kind: Transition,
    fence: &Fence,
) -> Result<()> {
    let ours = match kind {
        Transition::RunEnded => {
            tx.execute("delete from lease where run = $1 and token = $2", cells![run, fence.token]).await?
        }
        _ => {
            tx.execute(
                "update lease set until_ms = (extract(epoch from clock_timestamp()) * 1000)::bigint + $3
                 where run = $1 and token = $2",
                cells![run, fence.token, fence.keep_ms()],
            )
            .await?
        }
    };
    refuse_unless(tx, run, ours).await
}

/// Checks the token of a run inside another transaction of it; the lease stays what it is.
pub(in crate::journal) async fn check_ours(tx: &mut dyn Transaction, run: &str, fence: &Fence) -> Result<()> {
    let sql = "update lease set token = token where run = $1 and token = $2";
    let ours = tx.execute(sql, cells![run, fence.token]).await?;
    refuse_unless(tx, run, ours).await
}

async fn refuse_unless(tx: &mut dyn Transaction, run: &str, ours: u64) -> Result<()> {
    if ours == 1 {
        return Ok(());
    }
    Err(taken_over(tx, run).await?)
}

/// That another engine has a run: the one whose lease it is, or, where the run is over or waits, who wrote its last record.
async fn taken_over(tx: &mut dyn Transaction, run: &str) -> Result<Error> {
    let leased = tx.rows("select holder from lease where run = $1", cells![run]).await?;
    let by = match leased.first() {
        Some(row) => identifier::shown(row.text(0)?),
        None => {
            let last = tx.rows("select line from log where run = $1 order by seq desc limit 1", cells![run]).await?;
            let last = last.first().map(|row| row.text(0)).transpose()?.unwrap_or_default();
            let last: serde_json::Value = serde_json::from_str(last).unwrap_or_default();
            format!("{}, which ended it", identifier::shown(last["actor"].as_str().unwrap_or("another engine")))
        }
    };
    Ok(Error::new(
        Kind::TakenOver,
        format!(
            "run {run} was taken over by {by}: this engine was away for longer than its lease, and does nothing more on it"
        ),
    )
    .hint(format!("lifeboat runs show {run} --follow")))
}

/// Another engine's lease, as found.
struct Found {
    token: i64,
    holder: String,
    place: String,
    /// Milliseconds; none or less: it has lapsed.
    left_ms: i64,
}

impl Found {
    fn of(row: &Row) -> Result<Self> {
        Ok(Self {
            token: row.integer(0)?,
            holder: identifier::shown(row.text(1)?),
            place: row.string(2)?,
            left_ms: row.integer(3)?,
        })
    }

    /// Whether it can be taken: its holder is dead for all that can be seen, or has said nothing for so long that it must have ended all
    /// it did. Otherwise why not.
    fn is_free(&self, run: &str, is_known_dead: bool) -> Result<(), Error> {
        let refused = |why: String| {
            Err(Error::new(Kind::LockHeld, format!("{} works on run {run}: {why}", self.holder))
                .hint(format!("lifeboat runs show {run} --follow")))
        };
        match (super::super::place::is_alive(&self.place), self.left_ms) {
            (Some(false), _) | (None, ..=0) => Ok(()),
            // It can be seen from here, and may wake at any moment: what it has in its own hands has no deadline.
            (Some(true), ..=0) => {
                refused("its process is there, and does not move; end it, then the run can be taken over".into())
            }
            (Some(true), _) => refused("its process is there".into()),
            (None, _) if is_known_dead => Ok(()),
            (None, left_ms) => refused(format!(
                "it is on another host, and has the run for {} s more; if you know that it is dead: --take-over WHY",
                left_ms.unsigned_abs().div_ceil(1000)
            )),
        }
    }
}

impl Postgres {
    /// Takes a run, or says who has it. `is_known_dead`: a person says so of a holder that can't be seen from here.
    pub(crate) async fn take_lease(&self, run: &str, holder: &str, is_known_dead: bool) -> Result<Arc<Held>> {
        let busy = || Error::new(Kind::LockHeld, format!("this process works on run {run} already"));
        // One that was lost as well: whoever had it is still about to end his work, and his records must not show the new token.
        if self.leases.held(run).is_some() {
            return Err(busy());
        }
        let place = super::super::place::here();
        // Whoever is faster, one of two has it: the token that was looked at must still be the one.
        for _ in 0..8 {
            let ends = Ends::after(self.leases.idle());
            let idle = u64::try_from(self.leases.idle().as_millis()).unwrap_or(0);
            let found = self.found(run).await?;
            let token = found.as_ref().map_or(1, |found| found.token + 1);
            // Before it is asked for: who looks at it in between sees that it is not one that was let go of.
            let here = Here::enter(&self.leases.name, run, token).ok_or_else(busy)?;
            let taken = match found {
                None => {
                    let sql = "insert into lease (run, token, holder, place, until_ms)
                               values ($1, $2, $3, $4, (extract(epoch from clock_timestamp()) * 1000)::bigint + $5)
                               on conflict (run) do nothing";
                    self.execute(sql, cells![run, token, holder, &place, idle]).await?
                }
                Some(found) => {
                    // One of this process that nobody in it has was let go of.
                    match found.place == place {
                        true if Here::has(&self.leases.name, run, found.token) => return Err(busy()),
                        true => {}
                        false => found.is_free(run, is_known_dead)?,
                    }
                    let sql = "update lease set token = token + 1, holder = $3, place = $4,
                                      until_ms = (extract(epoch from clock_timestamp()) * 1000)::bigint + $5
                               where run = $1 and token = $2";
                    self.execute(sql, cells![run, found.token, holder, &place, idle]).await?
                }
            };
            if taken == 1 {
                return Ok(self.leased(run, token, here, ends));
            }
        }
        Err(Error::new(Kind::LockHeld, format!("others take run {run} all the time")))
    }

    /// Takes the oldest run of an environment that has a policy and nobody who works on it; none if there is none. Engines that look at the
    /// same time pass over each other's.
    pub(crate) async fn take_interrupted(
        &self,
        environment: &str,
        holder: &str,
        passed_over: &[String],
    ) -> Result<Option<Arc<Held>>> {
        let (environment, holder, place) = (environment.to_owned(), holder.to_owned(), super::super::place::here());
        let (name, passed_over) = (self.leases.name.clone(), passed_over.to_vec());
        let ours: Vec<String> = self.leases.lock().keys().cloned().collect();
        let ends = Ends::after(self.leases.idle());
        let idle = u64::try_from(self.leases.idle().as_millis()).unwrap_or(0);
        let taken = self
            .change(Box::new(move |tx| {
                Box::pin(async move {
                    let rows = tx
                        .rows(
                            "select token, holder, place,
                                    until_ms - (extract(epoch from clock_timestamp()) * 1000)::bigint, lease.run
                             from lease join run on run.id = lease.run
                             where run.status = 'running' and run.environment = $1 and run.module_sha256 <> 'none'
                             order by run.started_ms for update of lease skip locked",
                            cells![environment],
                        )
                        .await?;
                    for row in &rows {
                        let (found, run) = (Found::of(row)?, row.string(4)?);
                        // One of this process that nobody in it has was let go of, and the server could not be told.
                        let free = match found.place == place {
                            true => found.left_ms <= 0 && !Here::has(&name, &run, found.token),
                            false => found.is_free(&run, false).is_ok(),
                        };
                        // Among ours are those that were lost, as long as somebody is about to end his work on them.
                        if passed_over.contains(&run) || ours.contains(&run) || !free {
                            continue;
                        }
                        let Some(here) = Here::enter(&name, &run, found.token + 1) else { continue };
                        tx.execute(
                            "update lease set token = token + 1, holder = $2, place = $3,
                                    until_ms = (extract(epoch from clock_timestamp()) * 1000)::bigint + $4
                             where run = $1",
                            cells![&run, &holder, &place, idle],
                        )
                        .await?;
                        return Ok(Some((run, found.token + 1, here)));
                    }
                    Ok(None)
                })
            }))
            .await?;
        Ok(taken.map(|(run, token, here)| self.leased(&run, token, here, ends)))
    }

    fn leased(&self, run: &str, token: i64, here: Here, ends: Ends) -> Arc<Held> {
        let held = Arc::new(Held {
            run: run.to_owned(),
            token,
            here: Mutex::new(Some(here)),
            length: self.leases.length,
            ends: Mutex::new(ends),
            lost: OnceLock::new(),
            watching: Mutex::default(),
        });
        self.leases.lock().insert(run.to_owned(), held.clone());
        held
    }

    /// How often a lease is to be renewed.
    pub(crate) fn renewal_interval(&self) -> Duration {
        self.leases.idle() / 5
    }

    /// A sign of life. One that has lapsed and was not taken is ours again; one that was taken is lost.
    pub(crate) async fn renew(&self, held: &Held) {
        let counted_on = held.ends();
        let mut ends = Ends::after(self.leases.idle());
        if counted_on.was_slept_through() {
            // The deadlines of what is under way stood still with the machine: it is covered again to its end, or somebody else has the run.
            let left = counted_on.at.saturating_duration_since(Instant::now());
            ends = Ends { at: ends.at.max(counted_on.at), boot: ends.boot.max(since_boot() + left) };
        }
        let keep = ends.at.saturating_duration_since(Instant::now()).as_millis() + 1;
        let keep = u64::try_from(keep).unwrap_or(0);
        let sql = "update lease set until_ms = greatest(until_ms, (extract(epoch from clock_timestamp()) * 1000)::bigint + $3)
                   where run = $1 and token = $2";
        // Not patiently: what can't be reached now is tried again soon.
        let renewing = super::bound(sql, cells![&held.run, held.token, keep]).execute(&self.pool);
        let renewed = tokio::time::timeout(CONNECT_LIMIT, renewing).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
        match renewed.map(|done| done.rows_affected()) {
            Ok(0) if self.leases.held(&held.run).is_some_and(|ours| ours.token == held.token) => {
                // At once; the name of who has it may take a moment.
                held.end_all();
                let run = held.run.clone();
                match self.look(Box::new(move |tx| Box::pin(async move { taken_over(tx, &run).await }))).await {
                    Ok(to) | Err(to) => held.lose(&to),
                }
            }
            Ok(0) => {}
            Ok(_) => {
                held.change(|now| Ends { at: now.at.max(ends.at), boot: now.boot.max(ends.boot) });
            }
            Err(error) => {
                tracing::warn!("the lease of run {} can't be renewed now: {error}", held.run);
                if held.ends().was_slept_through() {
                    held.end_all();
                }
            }
        }
    }

    /// Lets go of a run.
    pub(crate) async fn release(&self, held: &Held) {
        // Without a place: this process may go on for long, and is not the one to wait for any more.
        let sql = "update lease set until_ms = 0, place = '' where run = $1 and token = $2";
        // What can't be reached lapses.
        let _ =
            tokio::time::timeout(CONNECT_LIMIT, super::bound(sql, cells![&held.run, held.token]).execute(&self.pool))
                .await;
    }

    /// Without telling the server.
    pub(crate) fn forget(&self, held: &Held) {
        drop(held.here.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut all = self.leases.lock();
        if all.get(&held.run).is_some_and(|ours| ours.token == held.token) {
            all.remove(&held.run);
        }
    }

    /// Whether an engine works on a run now, for all that can be seen.
    pub(crate) async fn is_leased(&self, run: &str) -> Result<bool> {
        Ok(self.found(run).await?.is_some_and(|found| found.is_free(run, false).is_err()))
    }

    /// A run's lease as it is now, if there is one.
    async fn found(&self, run: &str) -> Result<Option<Found>> {
        let sql = "select token, holder, place,
                          until_ms - (extract(epoch from clock_timestamp()) * 1000)::bigint from lease where run = $1";
        self.rows(sql, cells![run]).await?.first().map(Found::of).transpose()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::journal::shared_tests::{HOLDER, Shared, begin, by};

    #[tokio::test]
    async fn an_act_that_the_machine_slept_through_is_covered_again_or_ended() {
        let Some(shared) = Shared::new("slept") else { return };
        let state = shared.open_for(600).await;
        let _lease = state.lease("r1", HOLDER, false).await.unwrap();
        begin(&state, "r1").await.unwrap();
        state.append("r1", &by(), Transition::Started, Some(1), json!({}), &[]).await.unwrap();
        let leases = state.leases().unwrap();
        let held = leases.leases.held("r1").unwrap();
        let before = held.ends().at;
        // Its end has come for everybody else, and not for a clock that stood still.
        shared.sql("update lease set until_ms = 0");
        held.change(|now| Ends { boot: since_boot(), ..now });
        leases.renew(&held).await;
        assert!(!held.is_lost() && held.ends().at == before);
        let left = leases.found("r1").await.unwrap().unwrap().left_ms;
        assert!(left > 550_000, "the act may last for {:?}, its lease for {left} ms", before - Instant::now());
        assert!(!held.ends().was_slept_through());
        // It ends as it would have.
        state.append("r1", &by(), Transition::Completed, Some(1), json!({}), &[]).await.unwrap();
        assert!(leases.found("r1").await.unwrap().unwrap().left_ms <= 60_000);
    }
}
