//! A program that keeps a ledger and embeds Lifeboat's engine to back it up and to get it back.
//!
//! Three things are its own, and everything else is the engine's: how the service is stopped, started and asked ([`own::InProcess`], in
//! place of two primitives), who consents ([`own::Duty`]), and what is shown ([`own::Watch`]). Nothing is global: two of these live side by
//! side in one process.

pub mod ledger;
pub mod own;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use engine::Engine;
use engine::config::Config;
use engine::run::Ended;

use ledger::Ledger;
use own::{Duty, InProcess, Watch};

/// Anything that can go wrong.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The beginning of a step's line, and the flag that ends the run there.
type EndsAt = Arc<Mutex<Option<(String, Arc<AtomicBool>)>>>;

/// A ledger with what recovers it.
pub struct Program {
    /// The data.
    pub ledger: Arc<Ledger>,
    /// Who consents.
    pub duty: Arc<Duty>,
    config: Config,
    engine: Engine,
    /// The step that ends a run, if one should.
    ends_at: EndsAt,
}

impl Program {
    /// Starts in a directory, with the packed policies of another; `show` is told what happens.
    pub async fn start(
        directory: &Path,
        policies: &Path,
        show: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Self, Failure> {
        let file = directory.join("lifeboat.toml");
        let text = include_str!("../lifeboat.toml").replace("POLICIES", &policies.display().to_string());
        std::fs::write(&file, text)?;
        std::fs::create_dir_all(directory.join("backups"))?;
        let ledger = Arc::new(Ledger::start(&directory.join("ledger.sqlite"))?);
        let ends_at = EndsAt::default();
        let seen = ends_at.clone();
        let begins = move |line: &str| {
            if let Some((step, cancelled)) = &*seen.lock().unwrap_or_else(PoisonError::into_inner)
                && line.starts_with(step.as_str())
            {
                cancelled.store(true, Ordering::Relaxed);
            }
        };
        let config = Config::load(&file)?;
        let duty = Arc::<Duty>::default();
        let watch = Watch { show: Box::new(show), begins: Box::new(begins) };
        let engine = config.builder()?.confirmer(duty.clone()).observer(Arc::new(watch)).build().await?;
        Ok(Self { ledger, duty, config, engine, ends_at })
    }

    /// Runs a policy of the environment to its end, with this program's own primitives in place of two.
    pub async fn run(&self, policy: &str) -> Result<Ended, Failure> {
        self.run_until(policy, None).await
    }

    /// The same, cancelled when a step begins whose line starts with this.
    pub async fn run_until(&self, policy: &str, step: Option<&str>) -> Result<Ended, Failure> {
        let environment = self.config.environment(None)?;
        let binding = environment.policy(policy)?;
        let module = self.engine.load_admitted(&environment.admit(policy, &binding)?)?;
        let parameters = binding.parameters(&module.inspected.description, &[])?;
        let mut options = environment.run_options(policy, &binding, parameters, "ledger")?;
        let own = Arc::new(InProcess(self.ledger.clone()));
        let host = Arc::make_mut(&mut options.host);
        host.service = own.clone();
        host.http_check = own;
        *self.ends_at.lock().unwrap_or_else(PoisonError::into_inner) =
            step.map(|step| (step.to_owned(), options.cancelled.clone()));
        Ok(self.engine.run(&module, options).await?)
    }
}
