//! `lifeboat run POLICY`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use engine::approvals::{Confirmer, Nobody};
use engine::claims::Claim;
use engine::config::{Config, Environment, PolicyBinding};
use engine::direct::NO_MODULE;
use engine::error::{Error, Kind};
use engine::journal::{By, RunRow};
use engine::policy::{Description, Module, inspect};
use engine::probe::Resolution;
use engine::run::{Ended, RunOptions, Status};
use engine::sandbox::compiler::Compiler;
use engine::{Engine, Result};
use serde_json::json;

use crate::runs::Said;
use crate::terminal::{AtTerminal, Watch};
use crate::{Global, output};

/// Arguments of `run`.
#[derive(Args)]
pub struct Arguments {
    /// The policy, by its name in the environment.
    policy: Option<String>,
    /// A parameter; VALUE may be @FILE for a JSON text.
    #[arg(long = "param", short, value_name = "KEY=VALUE")]
    parameters: Vec<String>,
    /// Approve what the policy asks for; only where the environment allows it.
    #[arg(long)]
    yes: bool,
    /// Show only what needs a person.
    #[arg(long, short)]
    quiet: bool,
    /// Show what the policy does and which parameters it takes.
    #[arg(long, short)]
    help: bool,
}

/// Runs it.
pub async fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let Some(policy) = &arguments.policy else {
        if arguments.help {
            output::line(
                "Usage: lifeboat run POLICY [--env NAME] [--param KEY=VALUE]… [--yes] [--quiet] [--json]\n\n`lifeboat policy list` shows the policies; `lifeboat run POLICY --help` the parameters of one.",
            )?;
            return Ok(0);
        }
        return Err(Error::new(Kind::Usage, "which policy?").hint("`lifeboat policy list` shows them"));
    };
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let binding = environment.policy(policy)?;
    if arguments.help {
        help(policy, &binding, &inspect(&binding.read_module()?)?.description)?;
        return Ok(0);
    }
    let admitted = environment.admit(policy, &binding)?;
    let engine = engine(&config, &environment, arguments.yes, arguments.quiet || global.json).await?;
    let module = engine.load_admitted(&admitted)?;
    let parameters = binding.parameters(&module.inspected.description, &arguments.parameters)?;
    let options = environment.run_options(policy, &binding, parameters, "cli")?;
    interrupts(&options.cancelled);
    let ended = engine.run(&module, options).await?;
    finish(global, &engine, &ended)
}

/// Goes on with a run that waits, is in doubt, or was interrupted.
pub async fn resume(global: &Global, run: &str, yes: bool, take_over: Option<String>) -> Result<u8> {
    let config = global.load()?;
    let row = config.open_state().await?.run(run).await?;
    if row.module_sha256 == NO_MODULE {
        return Err(Error::new(
            Kind::Usage,
            format!("run {run} was made by hand: there is no policy that could go on"),
        )
        .hint(format!("lifeboat runs abandon {run} --reason WHY; then do again what you did, it finds what is done")));
    }
    let environment = config.environment(Some(&row.environment))?;
    let engine = engine(&config, &environment, yes, global.json).await?;
    let (module, mut options) = beginnings(&engine, &environment, &row)?;
    interrupts(&options.cancelled);
    let ended = match take_over {
        None => engine.resume(run, &module, options).await?,
        why => {
            options.took_over = why;
            engine.resume_claimed(engine.take_over(run).await?, &module, options).await?
        }
    };
    finish(global, &engine, &ended)
}

/// Goes on with a run that is claimed already, where nobody sits: no signal is taken. `cancelled` ends what the host is doing for the run; it
/// is for whoever has stopped waiting for the answer, since a run that goes on sees that it was cancelled.
pub async fn go_on(
    global: &Global,
    engine: &Engine,
    environment: &Environment<'_>,
    claim: Claim,
    cancelled: &Arc<AtomicBool>,
) -> Result<u8> {
    let row = engine.state().run(claim.run()).await?;
    let (module, mut options) = beginnings(engine, environment, &row)?;
    options.cancelled = cancelled.clone();
    let ended = engine.resume_claimed(claim, &module, options).await?;
    finish(global, engine, &ended)
}

/// What a run began with, as the configuration has it now.
fn beginnings(engine: &Engine, environment: &Environment<'_>, row: &RunRow) -> Result<(Module, RunOptions)> {
    let binding = environment.policy(&row.policy)?;
    let module = engine.load_admitted(&environment.admit(&row.policy, &binding)?)?;
    let options = environment.run_options(&row.policy, &binding, serde_json::Map::new(), "cli")?;
    Ok((module, options))
}

/// Ends a run that no process works on.
pub async fn abandon(global: &Global, run: &str, reason: &str, take_over: Option<String>) -> Result<u8> {
    let config = global.load()?;
    let row = config.open_state().await?.run(run).await?;
    let environment = config.environment(Some(&row.environment))?;
    let engine = engine(&config, &environment, false, global.json).await?;
    let options = environment.options_by_hand("runs-abandon")?;
    let ended = match take_over {
        None => engine.abandon(run, reason, options).await?,
        Some(why) => {
            let reason = format!("{reason} (taken over: {why})");
            engine.abandon_claimed(engine.take_over(run).await?, &reason, options).await?
        }
    };
    let code = finish(global, &engine, &ended)?;
    Ok(if ended.unsettled.is_empty() { code } else { 1 })
}

/// Asks for a run's end; one that nobody works on is ended here.
pub async fn cancel(global: &Global, run: &str, reason: &str) -> Result<u8> {
    let config = global.load()?;
    let row = config.open_state().await?.run(run).await?;
    let environment = config.environment(Some(&row.environment))?;
    let engine = engine(&config, &environment, false, true).await?;
    if !engine.request_cancel(run, reason, &by_hand()).await? {
        drop(engine);
        return resume(global, run, false, None).await;
    }
    if global.json {
        output::json(&json!({"run": run, "cancel-requested": true}))?;
    } else {
        output::line(&format!("run {run} was told to end; to see it: lifeboat runs show {run} --follow"))?;
    }
    Ok(0)
}

/// Puts on record what a person says of a step in doubt.
pub async fn resolve(global: &Global, run: &str, step: u64, said: Said, reason: &str) -> Result<u8> {
    let config = global.load()?;
    let row = config.open_state().await?.run(run).await?;
    let environment = config.environment(Some(&row.environment))?;
    let engine = engine(&config, &environment, false, true).await?;
    let resolution = match said {
        Said::Done => Resolution::Done,
        Said::Failed => Resolution::Failed,
    };
    engine.resolve(run, step, resolution, reason, &by_hand()).await?;
    if global.json {
        output::json(&json!({"run": run, "step": step, "as": resolution.word()}))?;
    } else {
        output::line(&format!(
            "step {step} is on record as {}; to go on: lifeboat runs resume {run}",
            resolution.word()
        ))?;
    }
    Ok(0)
}

/// Who stands on a record that a person makes here.
pub fn by_hand() -> By {
    By { actor: engine::config::actor(), channel: "cli".into() }
}

/// An engine with the person at the terminal.
pub async fn engine(config: &Config, environment: &Environment<'_>, yes: bool, quiet: bool) -> Result<Engine> {
    if yes && !environment.binding.approver.is_empty() {
        return Err(Error::new(
            Kind::Usage,
            format!("approvers sign in environment {}: --yes is none", environment.name),
        )
        .hint("`lifeboat approvals list` shows what waits, and for whom"));
    }
    if yes && !environment.binding.allow_yes {
        return Err(Error::new(Kind::Usage, format!("environment {} does not allow --yes", environment.name))
            .hint(format!("answer at a terminal, or set allow-yes = true in [environment.{}]", environment.name)));
    }
    engine_asking(config, Arc::new(AtTerminal { yes, actor: engine::config::actor() }), quiet).await
}

/// An engine that asks nobody: what wants consent parks.
pub async fn unattended(config: &Config, quiet: bool) -> Result<Engine> {
    engine_asking(config, Arc::new(Nobody), quiet).await
}

async fn engine_asking(config: &Config, confirmer: Arc<dyn Confirmer>, quiet: bool) -> Result<Engine> {
    let builder = config.builder()?.compiler(Compiler::this_program());
    builder.confirmer(confirmer).observer(Arc::new(Watch::new(quiet))).build().await
}

/// Ctrl-C, SIGTERM and SIGHUP cancel: the policy may compensate, then obligations are settled. A second Ctrl-C changes nothing: they must be.
pub fn interrupts(cancelled: &Arc<AtomicBool>) {
    let cancelled = cancelled.clone();
    tokio::spawn(async move {
        use tokio::signal::unix::{SignalKind, signal};
        // A lost terminal (SIGHUP) must not end a run between stop and start either.
        let (Ok(mut terminate), Ok(mut hangup)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup()))
        else {
            return;
        };
        loop {
            tokio::select! {
                interrupt = tokio::signal::ctrl_c() => if interrupt.is_err() { return },
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
            if cancelled.swap(true, Ordering::Relaxed) {
                output::say("already cancelling: the run settles what it opened, then ends");
            } else {
                output::say("cancelling: the policy may compensate, then what it opened is settled");
            }
        }
    });
}

/// Shows how it came out; the exit code.
pub fn finish(global: &Global, engine: &Engine, ended: &Ended) -> Result<u8> {
    let evidence = engine::reporting::evidence_directory(engine.state().directory(), &ended.run);
    if global.json {
        output::json(&json!({
            "run": ended.run, "status": ended.status.word(), "summary": ended.summary, "findings": ended.findings,
            "unsettled": ended.unsettled, "breach": ended.breach, "warnings": ended.warnings,
            "evidence": evidence, "exit-code": ended.status.exit_code(),
        }))?;
    } else {
        output::line(&format!("{}: {}", ended.status.word(), host_api::identifier::shown_long(&ended.summary)))?;
        output::line(&format!("run {} · evidence {}", ended.run, evidence.display()))?;
        match ended.status {
            Status::Parked => {
                output::line("what it waits for, and who can give it: lifeboat approvals list")?;
                output::line(&format!("to answer: lifeboat runs resume {}", ended.run))?;
            }
            Status::InDoubt => output::line(&format!("what to do: lifeboat runs show {}", ended.run))?,
            _ => {}
        }
    }
    for left in &ended.unsettled {
        output::say(&format!("error: LEFT OPEN: {left}"));
    }
    for warning in &ended.warnings {
        output::say(&format!("warning: {warning}"));
    }
    Ok(ended.status.exit_code())
}

fn help(name: &str, binding: &PolicyBinding, description: &Description) -> Result<()> {
    let shown = host_api::identifier::shown_long;
    output::line(&format!("{name}: {}\n", shown(&description.summary)))?;
    output::line(&format!("policy {} {} for world {}\n", description.name, description.version, description.world))?;
    output::line("parameters (--param KEY=VALUE):")?;
    let required: Vec<&str> =
        description.parameters["required"].as_array().into_iter().flatten().filter_map(|v| v.as_str()).collect();
    let mut rows = Vec::new();
    for (key, schema) in description.parameters["properties"].as_object().into_iter().flatten() {
        let value = match (binding.parameters.get(key), schema.get("default")) {
            (Some(value), _) => format!("{value} (configured)"),
            (None, Some(default)) => format!("{default} (default)"),
            (None, None) if required.contains(&key.as_str()) => "required".into(),
            (None, None) => String::new(),
        };
        let value = if value.chars().count() > 40 {
            format!("{}…", value.chars().take(39).collect::<String>())
        } else {
            value
        };
        rows.push(vec![
            format!("  {key}"),
            schema["type"].as_str().unwrap_or("any").to_owned(),
            value,
            schema["description"].as_str().unwrap_or_default().to_owned(),
        ]);
    }
    output::table(&["  name", "type", "value", "meaning"], &rows)
}
