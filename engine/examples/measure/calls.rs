//! An engine with the policy that makes one kind of call so many times.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use engine::Engine;
use engine::grants::Grants;
use engine::journal::PostgresState;
use engine::observe::Observer;
use engine::policy::Module;
use engine::run::{RunOptions, Status};
use engine::sandbox::limits::Limits;
use host_api::real::RealHost;
use serde_json::{Map, Value, json};

use super::Result;

/// An engine and the module of `tests/guests/calls`.
pub struct Calls {
    pub engine: Engine,
    pub module: Module,
    host: Arc<RealHost>,
}

impl Calls {
    /// With its state in a directory, or in a database.
    pub async fn new(
        module: &Path,
        state: &Path,
        database: Option<PostgresState>,
        observer: Arc<dyn Observer>,
    ) -> Result<Self> {
        let engine =
            Engine::builder().state_directory(state).state_database(database).observer(observer).build().await?;
        let module = engine.load(&std::fs::read(module)?)?;
        let host = Arc::new(RealHost::new(Default::default(), &Default::default(), state)?);
        Ok(Self { engine, module, host })
    }

    pub fn options(&self, parameters: Map<String, Value>) -> RunOptions {
        RunOptions {
            environment: "bench".into(),
            policy: "calls".into(),
            world: self.module.inspected.description.world.clone(),
            // What else is recorded is recorded as refused.
            grants: Grants::parse(["clock.sleep-until"]).expect("a grant"),
            limits: Limits { report_bytes_max: 1 << 30, steps_max: u64::MAX, ..Limits::default() },
            wasi: false,
            random_of: None,
            parameters,
            approval_rules: Default::default(),
            took_over: None,
            host: self.host.clone(),
            actor: "bench".into(),
            channel: "embedded".into(),
            duty: None,
            rehearsed: false,
            any_host: false,
            cancelled: Arc::new(AtomicBool::new(false)),
        }
    }

    /// One run with so many calls; its id.
    pub async fn run(&self, call: &str, times: u32) -> Result<String> {
        let parameters = Map::from_iter([("call".into(), json!(call)), ("times".into(), json!(times))]);
        let ended = self.engine.run(&self.module, self.options(parameters)).await?;
        // A refusal that the policy passes over is no failure of the run.
        if ended.status != Status::Ok {
            return Err(format!("{}: {}", ended.status.word(), ended.summary).into());
        }
        Ok(ended.run)
    }
}
