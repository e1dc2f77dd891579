//! `lifeboat run` and `lifeboat runs resume` for the crash tests: the same engine, which writes down every waypoint it comes to and kills
//! itself, with SIGKILL, at the one that it was told; or stops itself there, with SIGSTOP, as a machine that is paused does.
//!
//! `lifeboat-crashing TRAIL KILL-AT run POLICY [KEY=VALUE]…`, `… resume RUN` or `… work ENVIRONMENT`; the configuration is `lifeboat.toml`
//! here, or what `LIFEBOAT_CONFIG` names. TRAIL: the file that waypoints are appended to, a line each. KILL-AT: the waypoint's number, from
//! 1, or its name, with its step or without; 0 for none; `stop:` before it to stop once and not to die. What `work` does stands in `work.rs`.

mod work;

use std::fs::File;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use engine::approvals::{Answer, Confirmer, Intent};
use engine::config::Config;
use host_api::context::Waypoint;
use rustix::process::Signal;

/// Much longer than a process takes to stand still that has stopped itself.
const STOPPING: Duration = Duration::from_millis(500);

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
    let (reached, stopped) = (AtomicU64::new(0), AtomicBool::new(false));
    let (name, stops) = match kill_at.strip_prefix("stop:") {
        Some(name) => (name.to_owned(), true),
        None => (kill_at.to_owned(), false),
    };
    let number: Option<u64> = name.parse().ok();
    Arc::new(move |place| {
        // One write, so that it is in the file whole before the process is gone.
        (&file).write_all(format!("{place}\n").as_bytes()).expect("the trail can be written");
        let here = Some(reached.fetch_add(1, Ordering::SeqCst) + 1) == number
            || place == name
            || place.split_once(' ').is_some_and(|(_, point)| point == name);
        if !here || stopped.swap(true, Ordering::SeqCst) {
            return;
        }
        let own = rustix::process::getpid();
        let signal = if stops { Signal::STOP } else { Signal::KILL };
        rustix::process::kill_process(own, signal).expect("we may signal ourselves");
        if !stops {
            loop {
                std::thread::park();
            }
        }
        // Any thread may be the one that is given the signal: this one must not run on until it stands.
        std::thread::sleep(STOPPING);
    })
}

#[tokio::main]
async fn main() -> ExitCode {
    tracing_subscriber::fmt().with_env_filter("warn").with_writer(std::io::stderr).init();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [trail, kill_at, verb, what, parameters @ ..] = words.as_slice() else {
        eprintln!("lifeboat-crashing TRAIL KILL-AT run POLICY [KEY=VALUE]… | resume RUN | work ENVIRONMENT");
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
    let path = std::env::var("LIFEBOAT_CONFIG").unwrap_or_else(|_| "lifeboat.toml".into());
    let config = Config::load(path.as_ref())?;
    let engine = config.builder()?.confirmer(Arc::new(Yes)).waypoint(waypoints(trail, kill_at)).build().await?;
    if verb == "work" {
        return work::work(Arc::new(config), Arc::new(engine), what).await;
    }
    let environment = config.environment(None)?;
    let policy = match verb {
        "run" => what.to_owned(),
        _ => engine.state().run(what).await?.policy,
    };
    let binding = environment.policy(&policy)?;
    let module = engine.load_admitted(&environment.admit(&policy, &binding)?)?;
    let ended = if verb == "run" {
        let parameters = binding.parameters(&module.inspected.description, parameters)?;
        engine.run(&module, environment.run_options(&policy, &binding, parameters, "sweep")?).await?
    } else {
        engine.resume(what, &module, environment.run_options(&policy, &binding, Default::default(), "sweep")?).await?
    };
    println!("{} {}", ended.status.word(), ended.run);
    // For whoever reads why a test failed.
    eprintln!("{}", ended.summary);
    Ok(ended.status.exit_code())
}
