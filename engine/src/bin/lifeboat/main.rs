//! The command line. Data to stdout, everything else to stderr; the exit code says how it came out.

mod approvals;
mod audit;
mod backups;
mod bundle;
mod candidates;
mod check;
mod compile;
mod config;
mod deletion;
mod globals;
mod inspect;
mod keys;
mod modules;
mod output;
mod placing;
mod plain;
mod policy;
mod project;
mod promotions;
mod registry;
mod rehearsal;
mod reindex;
mod run;
mod runs;
mod serve;
mod service;
mod signing;
mod status;
mod sweep;
mod terminal;
mod timeline;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use engine::config::Config;
use engine::{Error, Result};

const AFTER_HELP: &str = "\
Exit codes: 0 ok · 1 failed · 2 usage · 3 partly done · 4 nothing to do · 5 verification failed · 10 configuration invalid ·
11 lock held · 12 policy refused (signature, pin, capability) · 13 waiting for approval · 14 denied or expired · 15 in doubt ·
20 policy trapped or broke a limit · 130 interrupted";

/// Back up, drill and roll back services with sandboxed policies.
#[derive(Parser)]
#[command(name = "lifeboat", version, after_help = AFTER_HELP, max_term_width = 120)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

/// What every verb understands.
#[derive(Args, Clone)]
pub struct Global {
    /// The configuration file.
    #[arg(long, global = true, env = "LIFEBOAT_CONFIG", default_value = "lifeboat.toml", value_name = "FILE")]
    config: PathBuf,
    /// The environment; needed where the configuration has several and no default.
    #[arg(long, global = true, value_name = "NAME")]
    env: Option<String>,
    /// One JSON document on stdout instead of text.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a policy. `lifeboat run POLICY --help` shows its parameters.
    #[command(disable_help_flag = true)]
    Run(run::Arguments),
    /// What ran, and what came of it.
    #[command(subcommand)]
    Runs(runs::Verb),
    /// What runs ask people, and who has answered.
    #[command(subcommand)]
    Approvals(approvals::Verb),
    /// Consent to what a run asks, by signature.
    Approve(approvals::Approve),
    /// Refuse what a run asks, by signature. One refusal is enough.
    Deny(approvals::Deny),
    /// Backups in the stores.
    #[command(subcommand)]
    Backups(backups::Verb),
    /// Backups restored beside the live data, not in service.
    #[command(subcommand)]
    Candidates(candidates::Verb),
    /// Candidates that were put in service, and what was there before.
    #[command(subcommand)]
    Promotions(promotions::Verb),
    /// The live service, by hand.
    #[command(subcommand)]
    Service(service::Verb),
    /// Policy modules.
    #[command(subcommand)]
    Policy(policy::Verb),
    /// The log: proof that it is whole, its text, its signing key.
    #[command(subcommand)]
    Audit(audit::Verb),
    /// Keys that sign backups and verifications.
    #[command(subcommand)]
    Keys(keys::Verb),
    /// Whether a backup, a drill and a recovery would work now, and what was promised is kept. Only looks.
    Check(check::Arguments),
    /// A line a service: what would be lost now, what is proven, what comes next. Only looks.
    Status(status::Arguments),
    /// The configuration.
    #[command(subcommand)]
    Config(config::Verb),
    /// Supervise the services that are children of lifeboat, and start what the environment's cadences say is due, until stopped.
    Serve(serve::Arguments),
    /// Compile a module, stdin to stdout, within bounds: for the engine that started this.
    #[command(name = engine::sandbox::compiler::COMMAND, hide = true)]
    CompileModule(compile::Arguments),
}

impl Global {
    /// The configuration, read and checked.
    pub fn load(&self) -> Result<Config> {
        Config::load(&self.config)
    }
}

fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LIFEBOAT_LOG").unwrap_or_else(|_| "warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Help and version are asked for; anything else is wrong use.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { 2 } else { 0 });
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            output::say(&format!("error: the runtime can't start: {e}"));
            return ExitCode::from(1);
        }
    };
    let json = cli.global.json;
    let code = match runtime.block_on(dispatch(cli)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report(&error, json);
            ExitCode::from(error.exit_code())
        }
    };
    // A thread that still waits for a line from the terminal must not hold the process.
    runtime.shutdown_background();
    code
}

async fn dispatch(cli: Cli) -> Result<u8> {
    let global = cli.global;
    match cli.verb {
        Verb::Run(arguments) => run::run(&global, arguments).await,
        Verb::Runs(verb) => runs::run(&global, verb).await,
        Verb::Approvals(verb) => approvals::run(&global, verb).await,
        Verb::Approve(arguments) => approvals::approve(&global, arguments).await,
        Verb::Deny(arguments) => approvals::deny(&global, arguments).await,
        Verb::Backups(verb) => backups::run(&global, verb).await,
        Verb::Candidates(verb) => candidates::run(&global, verb).await,
        Verb::Promotions(verb) => promotions::run(&global, verb).await,
        Verb::Service(verb) => service::run(&global, verb).await,
        Verb::Policy(verb) => policy::run(&global, verb).await,
        Verb::Audit(verb) => audit::run(&global, verb).await,
        Verb::Keys(verb) => keys::run(&global, verb),
        Verb::Check(arguments) => check::run(&global, arguments).await,
        Verb::Status(arguments) => status::run(&global, arguments).await,
        Verb::Config(verb) => config::run(&global, verb),
        Verb::Serve(arguments) => serve::run(&global, arguments).await,
        Verb::CompileModule(arguments) => Ok(compile::run(&arguments)),
    }
}

fn report(error: &Error, json: bool) {
    if json {
        let document = serde_json::json!({"error": error.message, "hint": error.hint, "exit-code": error.exit_code()});
        // Whoever does not listen has the exit code.
        let _ = output::json_line(&document);
    }
    // Much of what is quoted comes from outside; only line feeds are ours.
    output::say(&format!("error: {}", output::escaped(&error.message)));
    if let Some(hint) = &error.hint {
        output::say(&format!("hint: {}", output::escaped(hint)));
    }
}
