//! What the stores hold, against what was promised.

use std::collections::{BTreeMap, BTreeSet};

use host_api::bindings::Objectives;
use host_api::checks::{Bound, Checks, Level, Measure, Seen, Stocked};
use host_api::{Finding, identifier};

use super::around::{Around, Stock};
use super::words::lasting;

/// A hold that ends sooner is worth a word: what it keeps may be the only way back.
const HOLD_ENDS_MS: u64 = 24 * 3600 * 1000;
/// What another machine's clock may be ahead without a word here; clocks have checks of their own.
const FUTURE_MS: u64 = 60_000;
/// Held backups whose objects are looked at, the newest.
const HELD_MAX: usize = 20;
/// What the engine leaves free when it spools an object.
const SPOOL_FLOOR_BYTES: u64 = 64 << 20;

/// `; offsite can't be read`: what a look at the others does not tell.
fn unread(stock: &Stock) -> String {
    let mut words = match stock.unread().iter().map(|(store, _)| *store).collect::<Vec<_>>() {
        stores if stores.is_empty() => String::new(),
        stores => format!("; not read: {}", stores.join(", ")),
    };
    if !stock.unseen.is_empty() {
        words.push_str(&format!("; may not be read from here: {}", stock.unseen.join(", ")));
    }
    words
}

/// What a look that found nothing comes to: where a store may not be read, it may lie there.
fn nothing_found(stock: &Stock, message: String, fix: &str) -> Seen {
    match stock.unseen.is_empty() {
        true => Seen::critical(message, fix),
        false => Seen::unknown(message, UNSEEN_FIX),
    }
}

const UNSEEN_FIX: &str = "run `lifeboat check` where every store may be read";

/// Only these, as if they were all there are.
fn stock_of(stocked: Vec<&Stocked>) -> Stock {
    let stores = vec![(String::new(), std::sync::Arc::new(Ok(stocked.into_iter().cloned().collect())))];
    Stock { stores, ..Stock::default() }
}

/// Every store can be read to its end: a list that leaves something out would be noticed by nobody.
pub(super) async fn catalog(around: &Around, service: &str) -> Seen {
    let stock = around.stock(service).await;
    if stock.stores.is_empty() && !stock.unseen.is_empty() {
        return Seen::unknown(format!("no store may be read from here: {}", stock.unseen.join(", ")), UNSEEN_FIX);
    }
    if stock.stores.is_empty() {
        return Seen::critical("no store is configured: nothing is backed up", "add [environment.E.store.NAME]");
    }
    let failed = stock.unread();
    if let ([], [_, ..]) = (failed.as_slice(), stock.refused().as_slice()) {
        return of_refused(&stock);
    }
    if failed.is_empty() {
        let counts: Vec<String> = stock
            .stores
            .iter()
            .map(|(name, stocked)| format!("{name}: {}", stocked.as_ref().as_ref().map_or(0, Vec::len)))
            .collect();
        return Seen::ok(format!("backups that can be read: {}{}", counts.join(", "), unread(&stock)));
    }
    let words: Vec<String> = failed.iter().map(|(store, error)| format!("{store}: {}", error.message)).collect();
    let hints: BTreeSet<&str> = failed.iter().filter_map(|(_, error)| error.hint.as_deref()).collect();
    Seen::critical(words.join("; "), Vec::from_iter(hints).join("; "))
}

/// One that is refused may be forged, and is in the way of whoever asks for the newest.
fn of_refused(stock: &Stock) -> Seen {
    let newest = stock.newest().map_or(0, |stocked| stocked.backup.taken_at_ms);
    let refused = stock.refused();
    let words = |(stocked, why): &(&Stocked, &str)| format!("{} in {}: {why}", stocked.backup.id, stocked.backup.store);
    let newer: Vec<String> = refused.iter().filter(|(s, _)| s.backup.taken_at_ms > newest).map(words).collect();
    if newer.is_empty() {
        let told: Vec<String> = refused.iter().map(words).collect();
        return Seen::warning(format!("backups that are refused here: {}", told.join("; ")), REFUSED_FIX);
    }
    Seen::critical(format!("refused here, and newer than any that is not: {}", newer.join("; ")), REFUSED_FIX)
}

const REFUSED_FIX: &str =
    "find out who put it there; if it is known to be good, its key belongs into the trust of [environment.E.signing]";

pub(super) async fn age(around: &Around, service: &str) -> Seen {
    let stock = around.stock(service).await;
    of_age(&stock, service, &around.objectives(service), around.now_ms())
}

/// The newest backup against the recovery point: what was written since its snapshot would be lost now.
pub(super) fn of_age(stock: &Stock, service: &str, objectives: &Objectives, now_ms: u64) -> Seen {
    let (future, past): (Vec<&Stocked>, Vec<&Stocked>) =
        stock.all().partition(|stocked| stocked.backup.taken_at_ms > now_ms.saturating_add(FUTURE_MS));
    if let Some(ahead) = future.iter().map(|stocked| &stocked.backup).max_by_key(|backup| backup.taken_at_ms) {
        // Its age says nothing, and it must not pass for a fresh one: what is held against the objective are the others.
        let others = of_age(&stock_of(past), service, objectives, now_ms);
        let by = lasting(ahead.taken_at_ms - now_ms);
        let message =
            format!("backup {} in {} was taken {by} in the future; {}", ahead.id, ahead.store, others.message);
        let fix = format!("one of the clocks is wrong: see the checks of clocks. {}", others.fix);
        let measures = others.measures;
        return Seen { measures, ..Seen::new(others.level.max(Level::Warning), message, fix.trim()) };
    }
    let Some(newest) = stock.newest().map(|stocked| &stocked.backup) else {
        return nothing_found(
            stock,
            format!("there is no backup of {service}{}", unread(stock)),
            "take one: lifeboat run backup, or find out why it does not",
        );
    };
    let age_ms = now_ms.saturating_sub(newest.taken_at_ms);
    let critical = objectives.rpo_s.map(|s| Bound::Above(s as f64));
    let measure = Measure::new("age", age_ms as f64 / 1000.0, "s").bounds(None, critical);
    let what = format!("newest backup {} in {}", newest.id, newest.store);
    let records = newest.newest_at_ms.map_or_else(String::new, |at| {
        format!(", its newest record {} older", lasting(newest.taken_at_ms.saturating_sub(at)))
    });
    let message = format!("{what} is {} old{records}{}", lasting(age_ms), unread(stock));
    match objectives.rpo_s {
        None => Seen::ok(format!("{message}; no objective (rpo-s) is configured")),
        Some(rpo_s) if age_ms > rpo_s.saturating_mul(1000) => Seen::critical(
            format!("{message}; the objective is {}", lasting(rpo_s.saturating_mul(1000))),
            "take a backup, and find out why the last one is so old: lifeboat runs list --policy backup",
        ),
        Some(rpo_s) => Seen::ok(format!("{message}; the objective is {}", lasting(rpo_s.saturating_mul(1000)))),
    }
    .with(measure)
}

pub(super) async fn verified(around: &Around, service: &str) -> Seen {
    let stock = around.stock(service).await;
    of_verified(&stock, service, &around.objectives(service), around.now_ms())
}

/// The newest backup that a restored copy of was compared with. At most as old as a backup may be when it is drilled, and the time until the next
/// drill on top.
pub(super) fn of_verified(stock: &Stock, service: &str, objectives: &Objectives, now_ms: u64) -> Seen {
    let proven = stock
        .all()
        .filter(|stocked| stocked.state.verified_at_ms.is_some())
        .max_by_key(|stocked| stocked.backup.taken_at_ms);
    let Some(proven) = proven else {
        return nothing_found(
            stock,
            format!("no backup of {service} was ever restored and compared{}", unread(stock)),
            "prove one: lifeboat run drill",
        );
    };
    let age_ms = now_ms.saturating_sub(proven.backup.taken_at_ms);
    let every_s = objectives.drill_every_s;
    let limit_ms = objectives.rpo_s.map(|rpo_s| rpo_s.saturating_add(every_s.unwrap_or(0)).saturating_mul(1000));
    let message = format!(
        "newest verified backup {} is {} old (verified {}{}){}",
        proven.backup.id,
        lasting(age_ms),
        identifier::utc(proven.state.verified_at_ms.unwrap_or_default()),
        if proven.state.proven_here { "" } else { ", by a record that does not name its store" },
        unread(stock)
    );
    let fix = "lifeboat run drill; say how often with `drill-every-s`";
    let bound = limit_ms.map(|ms| Bound::Above(ms as f64 / 1000.0));
    let measure = Measure::new("age", age_ms as f64 / 1000.0, "s");
    match (limit_ms, every_s) {
        (Some(limit), Some(_)) if age_ms > limit => {
            let words = format!("{message}; the objectives allow {} (rpo-s and drill-every-s)", lasting(limit));
            Seen::critical(words, fix).with(measure.bounds(None, bound))
        }
        // Nobody promised how often it is drilled.
        (Some(limit), None) if age_ms > limit => {
            let words = format!("{message}; what is newer than {} ago is not proven", lasting(age_ms));
            Seen::warning(words, fix).with(measure.bounds(bound, None))
        }
        (Some(_), Some(_)) => Seen::ok(message).with(measure.bounds(None, bound)),
        (Some(_), None) => Seen::ok(message).with(measure.bounds(bound, None)),
        (None, _) => Seen::ok(format!("{message}; no objective (rpo-s) is configured")).with(measure),
    }
}

/// Objects of the newest backup in each store are there, with their sizes.
pub(super) async fn objects(around: &Around, service: &str) -> Seen {
    let stock = around.stock(service).await;
    let (mut findings, mut looked) = (Vec::new(), 0_u32);
    for (_, stocked) in &stock.stores {
        let Ok(stocked) = stocked.as_ref() else { continue };
        let Some(newest) = stocked.iter().rfind(|stocked| stocked.refused().is_none()) else { continue };
        looked += 1;
        findings.extend(missing(around, newest).await);
    }
    match looked {
        0 => Seen::unknown(
            format!("there is no backup of {service} to look at{}", unread(&stock)),
            "see backup.age and backup.catalog",
        ),
        looked => Seen::of_findings(
            &findings,
            format!("objects of the newest backup are there with their sizes; stores: {looked}{}", unread(&stock)),
        ),
    }
}

async fn missing(around: &Around, stocked: &Stocked) -> Vec<Finding> {
    let backup = &stocked.backup;
    match around.looker.objects(&around.context(), backup).await {
        Ok(findings) => findings,
        Err(error) => vec![Finding::error(
            "stored-object",
            format!("backup {} in {} can't be looked at: {}", backup.id, backup.store, error.message),
            error.hint.unwrap_or_default(),
        )],
    }
}

pub(super) async fn copies(around: &Around, service: &str) -> Seen {
    let stock = around.stock(service).await;
    let mut devices = BTreeMap::new();
    for (store, _) in &stock.stores {
        if let Ok(Some(device)) = around.looker.store_device(&around.context(), store).await {
            devices.insert(store.clone(), device);
        }
    }
    of_copies(&stock, service, &around.objectives(service), &devices, around.now_ms())
}

/// A backup lies in as many stores as it must, the same in each. `devices`: on which file system of this machine a store lies.
pub(super) fn of_copies(
    stock: &Stock,
    service: &str,
    objectives: &Objectives,
    devices: &BTreeMap<String, u64>,
    now_ms: u64,
) -> Seen {
    let unseen = stock.unseen.len() as u64;
    let wanted = objectives.copies.unwrap_or(2.min(stock.stores.len() as u64 + unseen));
    let mut by_id: BTreeMap<&str, Vec<&Stocked>> = BTreeMap::new();
    for stocked in stock.all() {
        by_id.entry(&stocked.backup.id).or_default().push(stocked);
    }
    if let Some((id, _)) = by_id.iter().find(|(_, of)| of.iter().any(|s| s.backup.digest != of[0].backup.digest)) {
        return Seen::critical(
            format!("backup {id} is not the same in every store"),
            "one of them was changed or forged: compare both (lifeboat backups show) before any is restored",
        );
    }
    let mut ordered: Vec<&Vec<&Stocked>> = by_id.values().collect();
    ordered.sort_by_key(|of| (of[0].backup.taken_at_ms, &of[0].backup.id));
    let Some(newest) = ordered.last().map(|of| &of[0].backup.id) else {
        return nothing_found(
            stock,
            format!("there is no backup of {service} to have copies of{}", unread(stock)),
            "see backup.age",
        );
    };
    let Some(copied) = ordered.iter().rev().find(|of| of.len() as u64 >= wanted) else {
        let most = ordered.iter().map(|of| of.len()).max().unwrap_or(0);
        // Copies that may not be looked at are not copies that are missing.
        if let Some(best) = ordered.iter().rev().find(|of| of.len() as u64 + unseen >= wanted) {
            let stores: Vec<&str> = best.iter().map(|s| s.backup.store.as_str()).collect();
            let (id, lies) = (&best[0].backup.id, stores.join(", "));
            return Seen::unknown(
                format!("backup {id} lies in {lies}, and must in {wanted} stores{}", unread(stock)),
                UNSEEN_FIX,
            );
        }
        return Seen::critical(
            format!("no backup of {service} lies in {wanted} stores, the best in {most}{}", unread(stock)),
            "copy it: `copy-to` of the backup policy, with a grant for upload.copy",
        );
    };
    let stores: Vec<&str> = copied.iter().map(|s| s.backup.store.as_str()).collect();
    let id = &copied[0].backup.id;
    let age_ms = now_ms.saturating_sub(copied[0].backup.taken_at_ms);
    let measure = Measure::new("age", age_ms as f64 / 1000.0, "s");
    let message = format!("backup {id}, {} old, lies in {}{}", lasting(age_ms), stores.join(", "), unread(stock));
    let fix = "find out why newer backups are not copied: lifeboat runs list --policy backup";
    let seen = match (newest == id, objectives.rpo_s.map(|s| s.saturating_mul(1000))) {
        (true, _) => Seen::ok(&message),
        // It may be under way.
        (false, Some(rpo_ms)) if age_ms <= rpo_ms => Seen::ok(format!("{message}; the newest, {newest}, does not yet")),
        (false, Some(_)) => Seen::critical(format!("{message}, older than the objective; newer ones do not"), fix),
        (false, None) => Seen::warning(format!("{message}; the newest, {newest}, does not"), fix),
    };
    let distinct: BTreeSet<Option<&u64>> = stores.iter().map(|store| devices.get(*store)).collect();
    let together = stores.len() > 1 && distinct.len() == 1 && !distinct.contains(&None);
    let seen = match (wanted, objectives.copies) {
        (1, None) => Seen::warning(
            format!("{}; there is no other store: what takes this one takes all backups", seen.message),
            "add a store elsewhere and copy to it, or accept it with `copies = 1` in the service's objectives",
        )
        .at_least(seen.level),
        (_, promised) if together => {
            let level = if promised.is_some() { Level::Warning } else { Level::Ok };
            let fix = if promised.is_some() { "give the stores disks, or machines, of their own" } else { &seen.fix };
            Seen::new(seen.level.max(level), format!("{}; all on one file system", seen.message), fix)
        }
        _ => seen,
    };
    seen.with(measure)
}

pub(super) async fn held(around: &Around, service: &str) -> Seen {
    let stock = around.stock(service).await;
    let now_ms = around.now_ms();
    let mut seen = of_held(&stock, now_ms);
    let mut held: Vec<&Stocked> = stock.all().filter(|stocked| is_held(stocked, now_ms)).collect();
    held.sort_by_key(|stocked| std::cmp::Reverse(stocked.backup.taken_at_ms));
    let mut findings = Vec::new();
    for stocked in held.into_iter().take(HELD_MAX) {
        findings.extend(missing(around, stocked).await);
    }
    if !findings.is_empty() {
        let measures = std::mem::take(&mut seen.measures);
        let damaged = Seen::of_findings(&findings, "");
        seen = Seen::new(damaged.level, format!("a held backup is not whole: {}", damaged.message), damaged.fix);
        seen.measures = measures;
    }
    seen
}

fn is_held(stocked: &Stocked, now_ms: u64) -> bool {
    stocked.state.held_until_ms.is_some_and(|until| until > now_ms)
}

/// What is kept from deletion, and for how long: the way back from an upgrade is among it.
pub(super) fn of_held(stock: &Stock, now_ms: u64) -> Seen {
    let mut held: BTreeMap<&str, &Stocked> = BTreeMap::new();
    for stocked in stock.all().filter(|stocked| is_held(stocked, now_ms)) {
        held.entry(&stocked.backup.id).or_insert(stocked);
    }
    let words = |stocked: &Stocked| {
        let label = stocked.backup.label.as_deref().map_or_else(String::new, |label| format!(" ({label})"));
        let why = stocked.state.held_because.as_deref().unwrap_or_default();
        let until = identifier::utc(stocked.state.held_until_ms.unwrap_or_default());
        format!("{}{label} until {until}: {why}", stocked.backup.id)
    };
    let count = Measure::new("held", held.len() as f64, "");
    let ends_soon = |stocked: &&Stocked| stocked.state.held_until_ms.is_some_and(|u| u < now_ms + HOLD_ENDS_MS);
    let (soon, rest): (Vec<&Stocked>, Vec<&Stocked>) = held.into_values().partition(ends_soon);
    let all: Vec<String> = soon.iter().chain(&rest).map(|stocked| words(stocked)).collect();
    match (soon.is_empty(), all.is_empty()) {
        (true, true) => Seen::ok(format!("no backup is held{}", unread(stock))),
        (true, false) => Seen::ok(format!("held: {}{}", all.join("; "), unread(stock))),
        (false, _) => Seen::warning(
            format!("a hold ends within a day: {}{}", all.join("; "), unread(stock)),
            "if the way back is still needed: lifeboat backups hold BACKUP --days N --why WHY",
        ),
    }
    .with(count)
}

/// A store has room for the next backups, as large as the newest ones in it.
pub(super) async fn store_space(around: &Around, store: &str) -> Seen {
    let free = match around.looker.store_space(&around.context(), store).await {
        Ok(Some(free)) => free,
        Ok(None) => return Seen::unknown(format!("store {store} does not say how much room it has"), ""),
        Err(error) => {
            return Seen::unknown(format!("store {store}: {}", error.message), error.hint.unwrap_or_default());
        }
    };
    let (mut needed, mut unread) = (0_u64, Vec::new());
    for service in around.binding().service.keys() {
        match &*around.stock_in(service, store).await {
            Ok(stocked) => {
                needed = needed.saturating_add(stocked.last().map_or(0, |newest| newest.backup.stored_bytes));
            }
            Err(_) => unread.push(service.clone()),
        }
    }
    let place = format!("store {store}");
    if !unread.is_empty() {
        // It may be large.
        let words =
            format!("{place} has {free} bytes free; how large a backup of {} is can't be told", unread.join(", "));
        return Seen::unknown(words, "see backup.catalog").with(Measure::new("free", free as f64, "B"));
    }
    Seen::space(&place, free, needed.max(SPOOL_FLOOR_BYTES), "the next backup of each service needs about")
}

/// The engine's own space has room for spooling and for a scratch candidate, as large as the newest backup's content.
pub(super) async fn state_space(around: &Around) -> Seen {
    let free = match around.looker.state_space(&around.context()).await {
        Ok(free) => free,
        Err(error) => return Seen::unknown(error.message, error.hint.unwrap_or_default()),
    };
    let mut largest = 0;
    for service in around.binding().service.keys() {
        let stock = around.stock(service).await;
        largest = largest.max(stock.newest().map_or(0, |newest| newest.plain_bytes));
    }
    let needed = largest.saturating_add(SPOOL_FLOOR_BYTES);
    Seen::space("the state directory", free, needed, "a drill of the largest service needs about")
}
