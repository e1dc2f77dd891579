//! `lifeboat promotions`.

use clap::Subcommand;
use engine::Result;
use engine::direct::DirectCall;
use engine::error::{Error, Kind};
use host_api::identifier;
use serde_json::json;

use crate::{Global, output, run};

/// Verbs of `promotions`.
#[derive(Subcommand)]
pub enum Verb {
    /// What was put in service, oldest first.
    List,
    /// Put back what was there before; what was promoted is kept beside it. Stops and starts the service.
    Undo {
        /// The promotion.
        promotion: String,
        /// Install this version of the service in between: the one that fits the data that come back.
        #[arg(long, value_name = "VERSION")]
        install: Option<String>,
        /// Approve; only where the environment allows it.
        #[arg(long)]
        yes: bool,
    },
    /// Remove for good what was there before.
    DropPrevious {
        /// The promotion.
        promotion: String,
        /// Approve; only where the environment allows it.
        #[arg(long)]
        yes: bool,
    },
}

/// Runs the verb.
pub async fn run(global: &Global, verb: Verb) -> Result<u8> {
    let config = global.load()?;
    let state = config.open_state().await?;
    let (id, yes) = match &verb {
        Verb::List => {
            let rows = state.promotions().await?;
            if global.json {
                let rows = rows.iter().map(
                    |r| json!({"promotion": r.promotion, "run": r.run, "environment": r.environment, "state": r.state}),
                );
                output::json(&rows.collect())?;
            } else {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|r| {
                        vec![
                            r.promotion.id.clone(),
                            r.environment.clone(),
                            r.promotion.service.clone(),
                            r.promotion.backup.clone(),
                            identifier::utc(r.promotion.at_ms),
                            r.state.clone(),
                        ]
                    })
                    .collect();
                output::table(&["promotion", "environment", "service", "backup", "at", "state"], &rows)?;
            }
            return Ok(0);
        }
        Verb::Undo { promotion, yes, .. } | Verb::DropPrevious { promotion, yes } => (promotion, *yes),
    };
    let row = state.promotion(id).await?;
    drop(state);
    // One that failed half-way, or was cut off, can be taken back as well: identities say what is where.
    let fits = match &verb {
        Verb::Undo { .. } => {
            matches!(row.state.as_str(), "in-service" | "promoting" | "mixed" | "undoing" | "undo-failed")
        }
        _ => row.state == "in-service",
    };
    if !fits {
        return Err(Error::new(Kind::Usage, format!("promotion {id} is {}", row.state))
            .hint("`lifeboat promotions list` shows what can be undone, or lose its previous"));
    }
    let environment = config.environment(Some(&row.environment))?;
    let service = row.promotion.service.clone();
    let promotion = json!(row.promotion);
    let ask = |name: &'static str| DirectCall {
        name,
        arguments: json!({"promotion": promotion, "why": "asked for on the command line"}),
    };
    let one = |name: &'static str| DirectCall { name, arguments: json!({"service": service}) };
    let (verb_name, calls) = match &verb {
        Verb::Undo { install, .. } => {
            let mut calls = vec![
                ask("confirm.request-undo"),
                DirectCall { name: "service.stop", arguments: json!({"service": service, "if-aborted": "start"}) },
                DirectCall {
                    name: "promote.undo",
                    arguments: json!({"promotion": promotion, "approval": {"from": 0}}),
                },
            ];
            if let Some(version) = install {
                calls.push(DirectCall {
                    name: "service.install",
                    arguments: json!({"service": service, "version": version}),
                });
            }
            calls.extend([one("service.start"), one("service.wait-ready")]);
            ("promotions-undo", calls)
        }
        _ => (
            "promotions-drop-previous",
            vec![
                ask("confirm.request-drop-previous"),
                DirectCall {
                    name: "promote.drop-previous",
                    arguments: json!({"promotion": promotion, "approval": {"from": 0}}),
                },
            ],
        ),
    };
    let engine = run::engine(&config, &environment, yes, global.json).await?;
    let options = environment.options_by_hand(verb_name)?;
    run::interrupts(&options.cancelled);
    let (ended, _) = engine.direct(options, calls).await?;
    run::finish(global, &engine, &ended)
}
