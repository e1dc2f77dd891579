//! What several checks need and is read once: the backups of each service in each store, and what the state says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use host_api::StepContext;
use host_api::bindings::{Objectives, Right, Service};
use host_api::checks::{Checks, Clock, Looker, Stocked};
use host_api::identifier;

use crate::config::{Config, EnvironmentBinding};
use crate::error::{Error, Kind, Result};
use crate::journal::{Drilled, ObligationRow, OpenRun, PromotionRow, State, Transition};

/// How often a state is read again that was written meanwhile.
const READS_MAX: usize = 5;

/// What is read once.
type Once<T> = Shared<BoxFuture<'static, Arc<Result<T>>>>;

/// An environment while it is checked.
pub(super) struct Around {
    pub(super) config: Arc<Config>,
    pub(super) environment: String,
    pub(super) looker: Arc<Looker>,
    pub(super) limit: Duration,
    pub(super) clock: Clock,
    /// By service and store.
    stocks: BTreeMap<(String, String), Once<Vec<Stocked>>>,
    standing: Once<Option<Standing>>,
}

/// What the state says of the environment, all of one moment.
pub(super) struct Standing {
    /// Open for looking.
    pub(super) state: Arc<State>,
    pub(super) runs: Vec<OpenRun>,
    pub(super) obligations: Vec<ObligationRow>,
    /// Newest first.
    pub(super) promotions: Vec<PromotionRow>,
    /// Newest first.
    pub(super) drills: Vec<Drilled>,
    /// Recovery time of the newest drill that passed, by service: its run, and milliseconds where its records say.
    pub(super) recovery: BTreeMap<String, (String, Option<u64>)>,
}

/// The backups of a service, store by store; why a store's are not known.
#[derive(Default)]
pub(super) struct Stock {
    pub(super) stores: Vec<(String, Arc<Result<Vec<Stocked>>>)>,
    /// Stores that this environment may not read: what lies there is nothing that could be missing.
    pub(super) unseen: Vec<String>,
}

impl Stock {
    /// All that are known and of use here, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = &Stocked> {
        self.found().filter(|stocked| stocked.refused().is_none())
    }

    /// Those that this environment refuses, for their signatures.
    pub(super) fn refused(&self) -> Vec<(&Stocked, &str)> {
        self.found().filter_map(|stocked| Some((stocked, stocked.refused()?))).collect()
    }

    fn found(&self) -> impl Iterator<Item = &Stocked> {
        self.stores.iter().filter_map(|(_, stocked)| (**stocked).as_ref().ok()).flatten()
    }

    /// The newest of all.
    pub(super) fn newest(&self) -> Option<&Stocked> {
        self.all().max_by_key(|stocked| (stocked.backup.taken_at_ms, &stocked.backup.id))
    }

    /// Stores that could not be read, with the reason.
    pub(super) fn unread(&self) -> Vec<(&str, &Error)> {
        self.stores.iter().filter_map(|(name, stocked)| Some((name.as_str(), (**stocked).as_ref().err()?))).collect()
    }
}

impl Around {
    pub(super) fn new(config: &Arc<Config>, environment: &str, limit: Duration, clock: Clock) -> Result<Self> {
        let binding = config.environment(Some(environment))?.binding;
        let signing = Arc::new(binding.signing()?);
        let looker = Looker::new(
            binding.service.clone(),
            binding.store.clone(),
            config.state_directory(),
            clock.clone(),
            signing,
        );
        let looker = Arc::new(looker);
        // Whoever waits for it has some of its own time left to say so.
        let within = limit.mul_f64(0.75);
        let mut stocks = BTreeMap::new();
        for service in binding.service.keys() {
            for (store, _) in binding.store.iter().filter(|(_, store)| store.may(Right::Read)) {
                let (looker, of, at) = (looker.clone(), service.clone(), store.clone());
                let read = async move { Ok(looker.backups(&context(within), &of, &at).await?) };
                stocks.insert((service.clone(), store.clone()), once(within, read));
            }
        }
        let standing = {
            let (config, environment) = (config.clone(), environment.to_owned());
            once(within, async move { standing(&config, &environment).await })
        };
        let (config, environment) = (config.clone(), environment.to_owned());
        Ok(Self { config, environment, looker, limit, clock, stocks, standing })
    }

    pub(super) fn binding(&self) -> &EnvironmentBinding {
        // It was there when this was made, and a configuration that was read does not change.
        self.config.environment(Some(&self.environment)).expect("the environment is in the configuration").binding
    }

    pub(super) fn service(&self, name: &str) -> Result<&Service> {
        let services = &self.binding().service;
        services.get(name).ok_or_else(|| Error::unknown("service", name, services.keys().map(String::as_str)))
    }

    pub(super) fn objectives(&self, service: &str) -> Objectives {
        self.service(service).map(|service| service.objectives.clone()).unwrap_or_default()
    }

    pub(super) fn now_ms(&self) -> u64 {
        (self.clock)()
    }

    /// A context for one look, which ends in time. It is of no run: its marker is its own.
    pub(super) fn context(&self) -> StepContext {
        context(self.limit)
    }

    /// The backups of a service, of every store.
    pub(super) async fn stock(&self, service: &str) -> Stock {
        let stores = self
            .stocks
            .iter()
            .filter(|((of, _), _)| of == service)
            .map(|((_, store), once)| async move { (store.clone(), once.clone().await) });
        let unseen = self.binding().store.iter().filter(|(_, store)| !store.may(Right::Read));
        let unseen = unseen.map(|(name, _)| name.clone()).collect();
        Stock { stores: futures::future::join_all(stores).await, unseen }
    }

    /// The backups of a service in one store.
    pub(super) async fn stock_in(&self, service: &str, store: &str) -> Arc<Result<Vec<Stocked>>> {
        match self.stocks.get(&(service.to_owned(), store.to_owned())) {
            Some(once) => once.clone().await,
            None => Arc::new(Err(Error::new(Kind::Failed, "this environment may not read there"))),
        }
    }

    /// What the state says; none where there is no state yet.
    pub(super) async fn standing(&self) -> Arc<Result<Option<Standing>>> {
        self.standing.clone().await
    }
}

fn context(limit: Duration) -> StepContext {
    StepContext::detached(&format!("check-{}", identifier::fresh()), limit)
}

/// Something that is read when it is first asked for. It goes on when whoever asked gives up.
fn once<T: Send + Sync + 'static>(limit: Duration, read: impl Future<Output = Result<T>> + Send + 'static) -> Once<T> {
    async move {
        Arc::new(match tokio::spawn(tokio::time::timeout(limit, read)).await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => Err(Error::new(Kind::Failed, format!("no answer within {:.0} s", limit.as_secs_f32()))),
            Err(_) => Err(Error::new(Kind::Failed, "a bug: reading it came to no end")),
        })
    }
    .boxed()
    .shared()
}

async fn standing(config: &Config, environment: &str) -> Result<Option<Standing>> {
    let mut tries = READS_MAX;
    loop {
        let Some(state) = config.state_to_look_at().await? else { return Ok(None) };
        let read = read(&Arc::new(state), environment).await;
        tries -= 1;
        match read {
            Ok(standing) if standing.state.is_as_opened() => return Ok(Some(standing)),
            // Written while it was read without locks; the next look is at what was written.
            _ if tries > 0 => {}
            Ok(_) => return Err(Error::new(Kind::Journal, "the state is written all the time")),
            Err(error) => return Err(error),
        }
    }
}

async fn read(state: &Arc<State>, environment: &str) -> Result<Standing> {
    let drills = state.drilled(environment).await?;
    let mut recovery = BTreeMap::new();
    for drill in drills.iter().filter(|drill| drill.status == "ok") {
        if !recovery.contains_key(&drill.service) {
            let took = recovery_ms(state, &drill.run).await?;
            recovery.insert(drill.service.clone(), (drill.run.clone(), took));
        }
    }
    Ok(Standing {
        state: state.clone(),
        runs: state.open_runs(environment).await?,
        obligations: state.unsettled(environment).await?,
        promotions: state.promotions_in(environment).await?,
        drills,
        recovery,
    })
}

/// How long a drill's restore took, from its start to a ready service, by the log's own times.
async fn recovery_ms(state: &State, run: &str) -> Result<Option<u64>> {
    let call = |record: &crate::journal::Record| record.body["request"]["call"].as_str().unwrap_or_default().to_owned();
    let started = state.records_of(run, Transition::Started).await?;
    let began = started.iter().find(|record| call(record) == "restore.stage").map(|record| record.time_ms);
    let answered = state.records_of(run, Transition::Answered).await?;
    let is_ready = |record: &&crate::journal::Record| {
        call(record) == "scratch.wait-ready" && record.body["result"].get("ok").is_some()
    };
    let ready = answered.iter().find(is_ready).map(|record| record.time_ms);
    Ok(began.zip(ready).map(|(began, ready)| ready.saturating_sub(began)))
}
