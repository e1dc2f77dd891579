//! `lifeboat check`: whether a backup, a drill and a recovery would work now, and what was promised is kept. It only looks.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use engine::Result;
use engine::check::{self, Inventory, Options, Outcome, Report};
use engine::config::Config;
use engine::error::{Error, Kind};
use host_api::checks::{Bound, Level, Measure};
use host_api::identifier;
use serde_json::{Value, json};

use crate::{Global, output};

const AFTER_HELP: &str = "\
Exit codes: 0 all is ok · 1 warning, or something could not be looked at · 2 critical, or wrong use · 10 configuration invalid
With --plugin, what keeps the checks from being made at all ends with 3 (UNKNOWN).

Nothing is written, locked, started, stopped or changed. docs/checks.md says what each check means.";

/// Code of a monitoring plugin that could not check.
const PLUGIN_UNKNOWN: u8 = 3;

/// Arguments of `check`.
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub struct Arguments {
    /// Only these checks; a name's beginning up to a dot stands for all below it: backup, source.db.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    only: Vec<String>,
    /// All checks but these, named in the same way.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    except: Vec<String>,
    /// Only checks of this service; may be given several times.
    #[arg(long, value_name = "SERVICE")]
    service: Vec<String>,
    /// How long each check may take, and reading the configuration.
    #[arg(long, value_name = "SECONDS", default_value_t = check::LIMIT_DEFAULT.as_secs(), value_parser = clap::value_parser!(u64).range(1..=3600))]
    time_limit: u64,
    /// For monitoring: one summary line first, with performance data, as Nagios and its kin read it.
    #[arg(long, conflicts_with = "json")]
    plugin: bool,
    /// The names of the checks that there are; none is made.
    #[arg(long, conflicts_with_all = ["plugin", "inventory"])]
    list: bool,
    /// Instead: every kind of state with its newest backup, and what must be there though no backup holds it.
    #[arg(long, conflicts_with_all = ["plugin", "only", "except"])]
    inventory: bool,
}

/// Runs the verb.
pub async fn run(global: &Global, arguments: Arguments) -> Result<u8> {
    let plugin = arguments.plugin;
    match checked(global, arguments).await {
        Err(error) if plugin => {
            // Whoever reads only the first line and the code must not take it for anything else.
            output::line(&format!("LIFEBOAT UNKNOWN - {}", of_plugin(&error.message)))?;
            if let Some(hint) = &error.hint {
                output::line(&of_plugin(&format!("hint: {hint}")))?;
            }
            Ok(PLUGIN_UNKNOWN)
        }
        other => other,
    }
}

async fn checked(global: &Global, arguments: Arguments) -> Result<u8> {
    let config = load(global, Duration::from_secs(arguments.time_limit)).await?;
    let environment = config.environment(global.env.as_deref())?.name;
    let options = Options {
        only: arguments.only,
        except: arguments.except,
        services: arguments.service,
        limit: Duration::from_secs(arguments.time_limit),
        ..Options::default()
    };
    if arguments.list {
        return list(global, check::names(&config, &environment, &options.clock)?, &options);
    }
    if arguments.inventory {
        return inventory(global, &check::take_inventory(&config, &environment, &options).await?);
    }
    let report = check::run(&config, &environment, options).await?;
    if arguments.plugin {
        as_plugin(&report)?;
    } else if global.json {
        output::json(&as_json(&report)?)?;
    } else {
        for_people(&report)?;
    }
    Ok(report.exit_code())
}

/// Reads the configuration on a thread of its own: the paths that it names are looked at, and one of them may hang.
async fn load(global: &Global, limit: Duration) -> Result<Arc<Config>> {
    let global = global.clone();
    let loading = tokio::task::spawn_blocking(move || global.load());
    let failed = |why: &str| Error::new(Kind::Configuration, format!("the configuration can't be checked: {why}"));
    let loaded = tokio::time::timeout(limit, loading).await;
    let loaded = loaded.map_err(|_| {
        failed(&format!("no answer within {} s", limit.as_secs()))
            .hint("one of the paths that it names hangs: is a network file system away?")
    })?;
    Ok(Arc::new(loaded.map_err(|_| failed("a bug: reading it came to no end"))??))
}

fn list(global: &Global, names: Vec<(Option<String>, String)>, options: &Options) -> Result<u8> {
    let wanted = |service: &Option<String>| {
        options.services.is_empty() || service.as_ref().is_some_and(|service| options.services.contains(service))
    };
    let names: Vec<_> = names.into_iter().filter(|(service, _)| wanted(service)).collect();
    if global.json {
        output::json(&names.iter().map(|(service, name)| json!({"name": name, "service": service})).collect())?;
        return Ok(0);
    }
    let rows: Vec<_> = names.into_iter().map(|(service, name)| vec![name, service.unwrap_or_default()]).collect();
    output::table(&["check", "service"], &rows)?;
    Ok(0)
}

/// `2 critical, 1 warning, 30 ok; 3 not chosen`.
fn counts(report: &Report) -> String {
    let levels = [Level::Critical, Level::Warning, Level::Unknown, Level::Ok];
    let words: Vec<String> = levels
        .into_iter()
        .filter(|level| *level == Level::Ok || report.count(*level) > 0)
        .map(|level| format!("{} {}", report.count(level), level.word()))
        .collect();
    let left_out = if report.left_out > 0 { format!("; {} not chosen", report.left_out) } else { String::new() };
    format!("{}{left_out}", words.join(", "))
}

/// The worst first; otherwise in their order.
fn sorted(report: &Report) -> Vec<&Outcome> {
    let mut checks: Vec<&Outcome> = report.checks.iter().collect();
    checks.sort_by_key(|check| std::cmp::Reverse(check.seen.level));
    checks
}

fn for_people(report: &Report) -> Result<()> {
    let environment = identifier::shown(&report.environment);
    output::line(&format!("{}: environment {environment}: {}", report.level().word(), counts(report)))?;
    let checks = sorted(report);
    let width = checks.iter().map(|check| check.full_name().chars().count()).max().unwrap_or(0);
    for check in checks {
        let level = check.seen.level.word();
        output::line(&format!("{level:<8}  {:<width$}  {}", check.full_name(), check.seen.message))?;
        if check.seen.level > Level::Ok && !check.seen.fix.is_empty() {
            output::line(&format!("{:<8}  {:<width$}  fix: {}", "", "", check.seen.fix))?;
        }
    }
    Ok(())
}

fn as_json(report: &Report) -> Result<Value> {
    let mut value = serde_json::to_value(report).map_err(|e| Error::new(Kind::Failed, e.to_string()))?;
    value["level"] = report.level().word().into();
    value["exit-code"] = report.exit_code().into();
    Ok(value)
}

/// In a plugin's output a bar begins the performance data.
fn of_plugin(text: &str) -> String {
    identifier::shown_long(text).replace('|', "/")
}

fn as_plugin(report: &Report) -> Result<()> {
    let word = match report.level() {
        Level::Ok => "OK",
        Level::Unknown | Level::Warning => "WARNING",
        Level::Critical => "CRITICAL",
    };
    let checks = sorted(report);
    let bad: Vec<&&Outcome> = checks.iter().filter(|check| check.seen.level > Level::Ok).collect();
    let names: Vec<String> = bad.iter().map(|check| check.full_name()).collect();
    let names = if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) };
    let data: Vec<String> = report
        .checks
        .iter()
        .flat_map(|check| check.seen.measures.iter().map(|measure| performance(&check.full_name(), measure)))
        .collect();
    let summary = of_plugin(&format!("{}{names}", counts(report)));
    output::line(&format!("LIFEBOAT {word} - {summary} | {}", data.join(" ")))?;
    for check in bad {
        let Outcome { seen, .. } = check;
        let fix = if seen.fix.is_empty() { String::new() } else { format!(" (fix: {})", seen.fix) };
        output::line(&of_plugin(&format!("[{}] {}: {}{fix}", seen.level.word(), check.full_name(), seen.message)))?;
    }
    Ok(())
}

/// `'notes/backup.age:age'=720s;;3600`.
fn performance(check: &str, measure: &Measure) -> String {
    let number = |value: f64| match value.fract() {
        0.0 => format!("{value:.0}"),
        _ => format!("{value:.3}"),
    };
    let bound = |bound: Option<Bound>| match bound {
        None => String::new(),
        Some(Bound::Above(value)) => number(value),
        Some(Bound::Below(value)) => format!("{}:", number(value)),
    };
    let (warning, critical) = (bound(measure.warning), bound(measure.critical));
    let bounds =
        if warning.is_empty() && critical.is_empty() { String::new() } else { format!(";{warning};{critical}") };
    format!("'{check}:{}'={}{}{bounds}", measure.label, number(measure.value), measure.unit)
}

fn inventory(global: &Global, inventory: &Inventory) -> Result<u8> {
    if global.json {
        let value = serde_json::to_value(inventory).map_err(|e| Error::new(Kind::Failed, e.to_string()))?;
        output::json(&value)?;
        return Ok(0);
    }
    let sources: Vec<Vec<String>> = inventory
        .sources
        .iter()
        .map(|item| {
            let newest = item.newest.as_ref().map_or_else(|| "NONE".into(), |newest| newest.backup.clone());
            let stores = item.newest.as_ref().map_or_else(String::new, |newest| newest.stores.join(", "));
            let covered = match item.covered {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "not known",
            };
            let taken = item.newest.as_ref().map_or_else(String::new, |newest| identifier::utc(newest.taken_at_ms));
            let (service, source) = (item.service.clone(), item.source.clone());
            vec![service, source, item.mechanism.into(), newest, taken, stores, covered.into()]
        })
        .collect();
    output::line("in backups:")?;
    output::table(&["service", "source", "by", "newest backup", "taken", "stores", "in the newest"], &sources)?;
    let outside: Vec<Vec<String>> = inventory
        .outside
        .iter()
        .map(|item| {
            let there = match item.there {
                Some(true) => "there",
                Some(false) => "MISSING",
                None => "not visible from here",
            };
            let kept = item.kept.clone().unwrap_or_else(|| "NOT SAID".into());
            vec![item.what.clone(), item.service.clone().unwrap_or_default(), item.place.clone(), there.into(), kept]
        })
        .collect();
    output::line("")?;
    output::line("in no backup, and needed:")?;
    output::table(&["what", "service", "where", "now", "kept besides"], &outside)?;
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measure_is_written_as_monitoring_reads_it() {
        let age = Measure::new("age", 720.0, "s").bounds(None, Some(Bound::Above(3600.0)));
        assert_eq!(performance("notes/backup.age", &age), "'notes/backup.age:age'=720s;;3600");
        let free = Measure::new("free", 5.0, "B").bounds(Some(Bound::Below(20.0)), Some(Bound::Below(10.0)));
        assert_eq!(performance("state.space", &free), "'state.space:free'=5B;20:;10:");
        assert_eq!(performance("x", &Measure::new("offset", 0.25, "s")), "'x:offset'=0.250s");
    }

    #[test]
    fn what_a_tool_said_begins_no_performance_data_and_no_line() {
        assert_eq!(of_plugin("a | b\nc"), "a / b\\u{a}c");
    }
}
