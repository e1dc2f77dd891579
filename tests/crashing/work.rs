//! An engine that works through many runs at once and takes over those whose engine died, as a host program does that embeds it.
//!
//! Each line of stdin, `POLICY [KEY=VALUE]…`, is a run to begin. After the last one it goes on until no run is under way in the state, here
//! or elsewhere. It says of each run how it came out, `STATUS RUN`, and before that `took RUN` where another engine had begun it.

use std::sync::Arc;
use std::time::Duration;

use engine::claims::Claim;
use engine::config::Config;
use engine::error::{Error, Kind};
use engine::journal::RunFilter;
use engine::run::Ended;
use engine::{Engine, Result};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Runs of its own at once.
const AT_ONCE: usize = 4;
/// How often it looks for runs whose engine died.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Works until nothing is left to do.
pub async fn work(config: Arc<Config>, engine: Arc<Engine>, environment: &str) -> Result<u8> {
    let mut tasks: JoinSet<Result<Ended>> = JoinSet::new();
    let places = Arc::new(Semaphore::new(AT_ONCE));
    for line in std::io::stdin().lines() {
        let line = line.map_err(|e| Error::new(Kind::Usage, format!("stdin: {e}")))?;
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let (config, engine, environment) = (config.clone(), engine.clone(), environment.to_owned());
        let places = places.clone();
        tasks.spawn(async move {
            let _place = places.acquire_owned().await;
            begin(&config, &engine, &environment, &words).await
        });
    }
    loop {
        while let Some(claim) = engine.claim_interrupted(environment, &[]).await? {
            println!("took {}", claim.run());
            let (config, engine, environment) = (config.clone(), engine.clone(), environment.to_owned());
            tasks.spawn(async move { go_on(&config, &engine, &environment, claim).await });
        }
        while let Some(ended) = tasks.try_join_next() {
            let ended = ended.map_err(|e| Error::new(Kind::Failed, format!("a run's task: {e}")))??;
            println!("{} {}", ended.status.word(), ended.run);
        }
        let running = RunFilter { status: Some("running".into()), ..RunFilter::default() };
        if tasks.is_empty() && engine.state().runs(&running).await?.is_empty() {
            return Ok(0);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
}

async fn begin(config: &Config, engine: &Engine, environment: &str, words: &[String]) -> Result<Ended> {
    let [policy, parameters @ ..] = words else { return Err(Error::new(Kind::Usage, "an empty line")) };
    let environment = config.environment(Some(environment))?;
    let binding = environment.policy(policy)?;
    let module = engine.load_admitted(&environment.admit(policy, &binding)?)?;
    let parameters = binding.parameters(&module.inspected.description, parameters)?;
    engine.run(&module, environment.run_options(policy, &binding, parameters, "work")?).await
}

async fn go_on(config: &Config, engine: &Engine, environment: &str, claim: Claim) -> Result<Ended> {
    let row = engine.state().run(claim.run()).await?;
    let environment = config.environment(Some(environment))?;
    let binding = environment.policy(&row.policy)?;
    let module = engine.load_admitted(&environment.admit(&row.policy, &binding)?)?;
    let options = environment.run_options(&row.policy, &binding, Default::default(), "work")?;
    engine.resume_claimed(claim, &module, options).await
}
