//! `lifeboat run` and `lifeboat runs resume` for the crash sweep: the same engine, which writes down every waypoint it comes to and kills
//! itself, with SIGKILL, at the one that it was told.
//!
//! `lifeboat-crashing TRAIL KILL-AT run POLICY [KEY=VALUE]…` or `… resume RUN`; the configuration is `lifeboat.toml` here. TRAIL: the file
//! that waypoints are appended to, a line each. KILL-AT: the waypoint's number, from 1, or its name, with its
//! step or without; 0 for none.

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use engine::approvals::{Answer, Confirmer, Intent};
use engine::config::Config;
use host_api::context::Waypoint;

/// Says yes, as `--yes` does.
struct Yes;

#[async_trait::async_trait]
impl Confirmer for Yes {
    async fn ask(&self, _intent: &Intent) -> Answer {
        Answer::Approved { by: "sweep".into(), how: "yes-flag".into() }
    }
}

fn waypoints(trail: &str, kill_at: &str) -> Waypoint {
    let file = File::options().create(true).append(true).open(trail).expect("the trail can be written");
    let (reached, name) = (AtomicU64::new(0), kill_at.to_owned());
    let number: Option<u64> = kill_at.parse().ok();
    Arc::new(move |place| {
        // One write, so that it is in the file whole before the process is gone.
        (&file).write_all(format!("{place}\n").as_bytes()).expect("the trail can be written");
        if Some(reached.fetch_add(1, Ordering::SeqCst) + 1) == number
            || place == name
            || place.split_once(' ').is_some_and(|(_, point)| point == name)
        {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("we may kill ourselves");
            loop {
                std::thread::park();
            }
        }
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [trail, kill_at, verb, what, parameters @ ..] = words.as_slice() else {
        eprintln!("lifeboat-crashing TRAIL KILL-AT run POLICY [KEY=VALUE]… | resume RUN");
        return ExitCode::from(2);
    };
    match run(trail, kill_at, verb, what, parameters).await {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn run(trail: &str, kill_at: &str, verb: &str, what: &str, parameters: &[String]) -> engine::Result<u8> {
    let config = Config::load("lifeboat.toml".as_ref())?;
    let engine = config.builder()?.confirmer(Arc::new(Yes)).waypoint(waypoints(trail, kill_at)).build().await?;
    let environment = config.environment(None)?;
    let policy = match verb {
        "run" => what.to_owned(),
        _ => engine.state().run(what).await?.policy,
    };
    let binding = environment.policy(&policy)?;
    let module = engine.load(&binding.read_module()?)?;
    let ended = if verb == "run" {
        let parameters = binding.parameters(&module.inspected.description, parameters)?;
        engine.run(&module, environment.run_options(&policy, &binding, parameters, "sweep")?).await?
    } else {
        engine.resume(what, &module, environment.run_options(&policy, &binding, Default::default(), "sweep")?).await?
    };
    println!("{} {}", ended.status.word(), ended.run);
    Ok(ended.status.exit_code())
}
