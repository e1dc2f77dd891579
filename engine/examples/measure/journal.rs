//! Steps a second that runs put on record, with several at once in one engine, beside what the disk and the database give alone.
//!
//! Every figure is taken while all of them work: from when the slowest has begun to when the fastest has ended.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use engine::journal::PostgresState;
use engine::observe::{Event, Observer};
use serde_json::{Value, json};

use super::alone;
use super::calls::Calls;
use super::{Result, median};

/// Runs at once, and the steps of each: a second or so of work.
const LOADS: [(usize, u32); 3] = [(1, 1_500), (8, 600), (64, 250)];

/// Counts what all of several workers do at the same time.
pub struct Window {
    workers: u64,
    each: u64,
    begun: AtomicU64,
    done: AtomicU64,
    /// When, and how much was done then.
    opened: std::sync::OnceLock<(Instant, u64)>,
    closed: std::sync::OnceLock<(Instant, u64)>,
}

impl Window {
    /// Of so many workers, each of which does so much.
    pub fn new(workers: usize, each: u64) -> Arc<Self> {
        Arc::new(Self {
            workers: workers as u64,
            each,
            begun: AtomicU64::new(0),
            done: AtomicU64::new(0),
            opened: Default::default(),
            closed: Default::default(),
        })
    }

    /// A worker has done the `nth` of its own, from 1.
    pub fn did(&self, nth: u64) {
        let done = self.done.fetch_add(1, Ordering::SeqCst) + 1;
        if nth == 1 && self.begun.fetch_add(1, Ordering::SeqCst) + 1 == self.workers {
            let _ = self.opened.set((Instant::now(), done));
        }
        if nth == self.each {
            let _ = self.closed.set((Instant::now(), done));
        }
    }

    /// How much a second.
    pub fn rate(&self) -> Result<f64> {
        match (self.opened.get(), self.closed.get()) {
            (Some((from, before)), Some((to, after))) if to > from && after > before => {
                Ok((after - before) as f64 / (*to - *from).as_secs_f64())
            }
            _ => Err("one had ended before all had begun: there is nothing to measure".into()),
        }
    }
}

impl Observer for Window {
    fn event(&self, _run: &str, event: &Event) {
        if let Event::StepEnded { step, error: None, .. } = event {
            self.did(*step);
        }
    }
}

/// Measures in rounds; of each load the medians, and the medians of each round's ratio.
pub async fn run(module: &Path, directory: &Path, rounds: usize, shared: Option<(&str, &str)>) -> Result<Value> {
    let state = directory.join("state");
    let database = shared.map(|(socket, database)| PostgresState {
        host: socket.to_owned(),
        port: 5432,
        database: database.to_owned(),
        user: "postgres".into(),
        password: None,
        ssl_mode: None,
        ssl_root_cert: None,
        lease_s: 900,
    });
    let mut file = Vec::new();
    let mut all: Vec<Load> = LOADS.iter().map(|_| Load::default()).collect();
    for _ in 0..rounds {
        // Before any other of the round: the ratio to it is the round's.
        let mut single = None;
        for ((runs, steps), load) in LOADS.into_iter().zip(&mut all) {
            let (rate, lines) = recorded(module, &state, database.clone(), runs, steps).await?;
            let alone = match shared {
                None => alone::sqlite(directory, &lines)?,
                Some((socket, database)) => alone::postgres(socket, database, runs, lines.clone()).await?,
            };
            if runs == 1 {
                file.push(alone::file(directory, &lines)?);
            }
            let single = *single.get_or_insert(rate);
            load.steps.push(rate);
            load.alone.push(alone);
            load.of_alone.push(rate * 2.0 / alone);
            load.of_single.push(rate / single);
        }
    }
    let loads: Vec<Value> = LOADS.into_iter().zip(all).map(|((runs, _), load)| load.said(runs)).collect();
    Ok(json!({ "synced-lines": median(file), "loads": loads }))
}

/// Of one number of runs, by round.
#[derive(Default)]
struct Load {
    steps: Vec<f64>,
    alone: Vec<f64>,
    of_alone: Vec<f64>,
    of_single: Vec<f64>,
}

impl Load {
    fn said(self, runs: usize) -> Value {
        json!({
            "runs": runs, "steps": median(self.steps), "alone-records": median(self.alone),
            "of-alone": median(self.of_alone), "of-single": median(self.of_single),
        })
    }
}

/// Steps a second, and the lines that one of the runs left in the log.
async fn recorded(
    module: &Path,
    state: &Path,
    database: Option<PostgresState>,
    runs: usize,
    steps: u32,
) -> Result<(f64, Vec<String>)> {
    let window = Window::new(runs, steps.into());
    let calls = Arc::new(Calls::new(module, state, database, window.clone()).await?);
    let running: Vec<_> = (0..runs)
        .map(|_| {
            let calls = calls.clone();
            tokio::spawn(async move { calls.run("sleep", steps).await.map_err(|e| e.to_string()) })
        })
        .collect();
    let mut run = None;
    for running in running {
        run = Some(running.await??);
    }
    let mut lines = Vec::new();
    calls
        .engine
        .state()
        .export(run.as_deref(), |line| {
            lines.push(line.to_owned());
            Ok(())
        })
        .await?;
    Ok((window.rate()?, lines))
}
