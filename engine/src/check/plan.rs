//! Which checks an environment has, and which of them are chosen.

use std::sync::Arc;

use host_api::checks::{Checks, Level, Seen, Subject};

use super::around::Around;
use super::{Options, inventory, of_backups, of_drills, of_state};
use crate::error::{Error, Kind, Result};

/// A check.
pub(super) struct Named {
    pub(super) name: String,
    pub(super) service: Option<String>,
    pub(super) work: Work,
}

/// What a check looks at.
pub(super) enum Work {
    /// The world.
    World(Subject),
    /// The environment as a whole.
    Environment(Whole),
    /// What is promised of a service.
    Service(Promise),
}

#[derive(Debug, Clone)]
pub(super) enum Whole {
    Modules,
    StateReadable,
    StateAudit,
    StateRuns,
    StateObligations,
    StateSpace,
    StateClock,
    StoreSpace(String),
    Outside,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Promise {
    Promotions,
    Catalog,
    Age,
    Verified,
    Objects,
    Copies,
    Held,
    DrillPassed,
    DrillRto,
    Sources,
}

impl Whole {
    fn name(&self) -> String {
        match self {
            Self::Modules => "policies.modules".into(),
            Self::StateReadable => "state.readable".into(),
            Self::StateAudit => "state.audit".into(),
            Self::StateRuns => "state.runs".into(),
            Self::StateObligations => "state.obligations".into(),
            Self::StateSpace => "state.space".into(),
            Self::StateClock => "state.clock".into(),
            Self::StoreSpace(store) => format!("store.{store}.space"),
            Self::Outside => "inventory.outside".into(),
        }
    }
}

/// What is promised of every service.
const PROMISES: [(Promise, &str); 10] = [
    (Promise::Promotions, "promotions.whole"),
    (Promise::Catalog, "backup.catalog"),
    (Promise::Age, "backup.age"),
    (Promise::Verified, "backup.verified"),
    (Promise::Objects, "backup.objects"),
    (Promise::Copies, "backup.copies"),
    (Promise::Held, "backup.held"),
    (Promise::DrillPassed, "drill.passed"),
    (Promise::DrillRto, "drill.rto"),
    (Promise::Sources, "inventory.sources"),
];

impl Named {
    /// What it means that there was no answer.
    pub(super) fn silence(&self) -> Level {
        match &self.work {
            Work::World(subject) => subject.silence(),
            Work::Environment(Whole::StateReadable) => Level::Critical,
            _ => Level::Unknown,
        }
    }
}

impl Work {
    pub(super) async fn look(&self, around: &Arc<Around>, service: Option<&str>) -> Seen {
        match self {
            Self::World(subject) => around.looker.look(&around.context(), subject).await,
            Self::Environment(whole) => match whole {
                Whole::Modules => of_state::modules(around).await,
                Whole::StateReadable => of_state::readable(around).await,
                Whole::StateAudit => of_state::audit(around).await,
                Whole::StateRuns => of_state::runs(around).await,
                Whole::StateObligations => of_state::obligations(around).await,
                Whole::StateSpace => of_backups::state_space(around).await,
                Whole::StateClock => of_state::clock(around).await,
                Whole::StoreSpace(store) => of_backups::store_space(around, store).await,
                Whole::Outside => inventory::outside(around).await,
            },
            Self::Service(promise) => {
                let service = service.unwrap_or_default();
                match promise {
                    Promise::Promotions => of_state::promotions(around, service).await,
                    Promise::Catalog => of_backups::catalog(around, service).await,
                    Promise::Age => of_backups::age(around, service).await,
                    Promise::Verified => of_backups::verified(around, service).await,
                    Promise::Objects => of_backups::objects(around, service).await,
                    Promise::Copies => of_backups::copies(around, service).await,
                    Promise::Held => of_backups::held(around, service).await,
                    Promise::DrillPassed => of_drills::passed(around, service).await,
                    Promise::DrillRto => of_drills::rto(around, service).await,
                    Promise::Sources => inventory::sources(around, service).await,
                }
            }
        }
    }
}

/// All checks of an environment: the environment as a whole first, then service by service.
pub(super) fn all(around: &Around) -> Vec<Named> {
    let mut whole = vec![
        Whole::StateReadable,
        Whole::StateAudit,
        Whole::StateRuns,
        Whole::StateObligations,
        Whole::StateSpace,
        Whole::Modules,
        Whole::Outside,
    ];
    if around.config.state_is_shared() {
        whole.push(Whole::StateClock);
    }
    // A bucket has no end.
    let stores = around.binding().store.iter().filter(|(_, store)| store.directory().is_some());
    whole.extend(stores.map(|(name, _)| Whole::StoreSpace(name.clone())));
    let mut named: Vec<Named> = whole
        .into_iter()
        .map(|whole| Named { name: whole.name(), service: None, work: Work::Environment(whole) })
        .collect();
    for subject in around.looker.subjects() {
        let service = subject.service().map(str::to_owned);
        named.push(Named { name: subject.name(), service, work: Work::World(subject) });
    }
    for service in around.binding().service.keys() {
        named.extend(PROMISES.iter().map(|(promise, name)| Named {
            name: (*name).to_owned(),
            service: Some(service.clone()),
            work: Work::Service(*promise),
        }));
    }
    // Together what is of one service; stable, so each keeps its order.
    named.sort_by(|a, b| a.service.cmp(&b.service));
    named
}

/// Those that were asked for. A name that is none of any check is an error: a check that is never made would be missed by nobody.
pub(super) fn chosen(all: Vec<Named>, options: &Options) -> Result<Vec<Named>> {
    let usage = |error: Error| Error { kind: Kind::Usage, ..error };
    for wanted in options.only.iter().chain(&options.except) {
        if !all.iter().any(|named| covers(wanted, &named.name)) {
            let mut valid: Vec<&str> = all.iter().map(|named| named.name.as_str()).collect();
            valid.sort_unstable();
            valid.dedup();
            return Err(usage(Error::unknown("check", wanted, valid)));
        }
    }
    for wanted in &options.services {
        if !all.iter().any(|named| named.service.as_ref() == Some(wanted)) {
            let mut valid: Vec<&str> = all.iter().filter_map(|named| named.service.as_deref()).collect();
            valid.dedup();
            return Err(usage(Error::unknown("service", wanted, valid)));
        }
    }
    let any = |list: &[String], name: &str| list.iter().any(|wanted| covers(wanted, name));
    let chosen: Vec<Named> = all
        .into_iter()
        .filter(|named| options.only.is_empty() || any(&options.only, &named.name))
        .filter(|named| !any(&options.except, &named.name))
        .filter(|named| {
            options.services.is_empty()
                || named.service.as_ref().is_some_and(|service| options.services.contains(service))
        })
        .collect();
    if chosen.is_empty() {
        return Err(Error::new(Kind::Usage, "no check is left").hint("`lifeboat check --list` shows them"));
    }
    Ok(chosen)
}

/// A name, or what it begins with up to a dot.
fn covers(wanted: &str, name: &str) -> bool {
    name.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_name_is_meant_as_a_whole_or_up_to_a_dot() {
        assert!(covers("backup", "backup.age") && covers("backup.age", "backup.age"));
        assert!(!covers("backup.a", "backup.age") && !covers("age", "backup.age") && !covers("backup.", "backup.age"));
    }
}
