//! What the journal costs: steps on record a second, beside what the disk and the databases give alone, and going on with a long run, whose
//! recorded answers are given again to a fresh instance.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Site;
use super::cluster::{Cluster, DURABLE};
use super::table::{self, Aim};
use crate::command::Run;
use crate::workspace::Workspace;

/// Steps on record when the engine dies.
const STEPS: usize = 10_000;
/// Database of the server.
const DATABASE: &str = "state";

/// Measures and prints; how many aims were missed.
pub fn run(workspace: &Workspace, site: &Site) -> Result<usize> {
    let cluster = Cluster::start(workspace, DURABLE)?;
    cluster.create(DATABASE)?;
    let folder = site.root.join("journal");
    fs::create_dir(&folder)?;
    let mut aims = Vec::new();
    println!("\njournal: steps on record a second, each with two synced records (medians of {} rounds)\n", site.rounds);
    if fs::metadata(&folder)?.dev() != fs::metadata(&cluster.socket)?.dev() {
        println!("  the server's data lie on another file system than the file's and SQLite's: they do not compare");
    }
    println!(
        "  {:36} {:>8} {:>10} {:>16} {:>16} {:>12}",
        "", "steps/s", "records/s", "database alone/s", "to the database", "to one run"
    );
    aims.extend(steps(site, &folder.join("sqlite"), "SQLite", None)?);
    aims.extend(steps(site, &folder.join("postgres"), "PostgreSQL", Some(&cluster))?);
    println!(
        "\n  PostgreSQL: {DURABLE}; socket. The database alone: one row a commit, of the same bytes; SQLite by one"
    );
    println!("  connection, PostgreSQL by as many sessions as there are runs.");
    let socket = cluster.socket.display();
    let shared = format!("[state-database]\nhost = \"{socket}\"\ndatabase = \"{DATABASE}\"\nuser = \"postgres\"\n");
    println!("\n  `lifeboat runs resume` of a run with {STEPS} steps on record, to its end:");
    let own = resume(site, &folder.join("sqlite"), "")?;
    println!("  {:36} {own:>8.2} s", "SQLite");
    let other = resume(site, &folder.join("postgres"), &shared)?;
    println!("  {:36} {other:>8.2} s", "PostgreSQL");
    aims.push(Aim { what: "resume of 10,000 recorded steps, SQLite, s".into(), found: own, at_most: 1.0 });
    aims.push(Aim { what: "resume of 10,000 recorded steps, PostgreSQL, s".into(), found: other, at_most: 1.0 });
    Ok(table::judge(&aims))
}

/// Prints a database's rows. Ratios of times, as all aims are: the database's for a record to ours, one run's for a step to many runs'.
fn steps(site: &Site, folder: &Path, name: &str, cluster: Option<&Cluster>) -> Result<Vec<Aim>> {
    fs::create_dir(folder)?;
    let mut measure = Run::new(&site.measure).arg("journal").arg(site.policies.join("calls.wasm")).arg(folder);
    measure = measure.arg(site.rounds.to_string());
    if let Some(cluster) = cluster {
        measure = measure.arg(&cluster.socket).arg(DATABASE);
    }
    let said = measure.output()?;
    let measured: Value = serde_json::from_str(&said)?;
    let figure = |of: &Value, key: &str| of[key].as_f64().with_context(|| format!("`measure` said no {key}: {said}"));
    let synced = figure(&measured, "synced-lines")?;
    println!("  {:36} {:>8} {synced:>10.0}", "lines appended to a file and synced", "");
    let mut aims = Vec::new();
    for load in measured["loads"].as_array().context("`measure` said no loads")? {
        let runs = figure(load, "runs")?;
        let (steps, alone) = (figure(load, "steps")?, figure(load, "alone-records")?);
        let (of_alone, of_single) = (figure(load, "of-alone")?, figure(load, "of-single")?);
        let row = format!("{name}, runs at once: {runs}");
        println!("  {row:36} {steps:>8.0} {:>10.0} {alone:>16.0} {of_alone:>16.2} {of_single:>12.2}", steps * 2.0);
        aims.push(Aim {
            what: format!("{name}, {runs} at once: time a record, to the database alone"),
            found: 1.0 / of_alone,
            at_most: 2.0,
        });
        if runs == 64.0 {
            let what = format!("{name}, {runs} at once: time a step, to that of one run");
            aims.push(Aim { what, found: 1.0 / of_single, at_most: 0.2 });
        }
    }
    Ok(aims)
}

/// Seconds, the median.
fn resume(site: &Site, folder: &Path, state: &str) -> Result<f64> {
    let module = site.policies.join("calls.wasm");
    let text = format!(
        "{state}[environment.bench.policy.calls]\nmodule = {:?}\nworld = \"backup\"\ngrants = [\"clock.sleep-until\"]\n\
         limits = {{ steps-max = 20000 }}\n",
        module.display().to_string()
    );
    fs::write(folder.join("lifeboat.toml"), text)?;
    let mut seconds = Vec::new();
    for _ in 0..site.rounds {
        let mut killed = std::process::Command::new(&site.crashing);
        // At the start of the first effect, after all the reads.
        killed.args(["trail", "prepared", "run", "calls", "call=refused", "then-sleep=true"]);
        let status = killed.arg(format!("times={STEPS}")).current_dir(folder).status()?;
        ensure!(status.code().is_none(), "the engine did not kill itself: {status}");
        let listed = Run::new(&site.lifeboat).args(["--json", "runs", "list", "--limit", "1"]).dir(folder).output()?;
        let listed: Value = serde_json::from_str(&listed)?;
        let run = listed[0]["run"].as_str().context("no run is listed")?.to_owned();
        let began = Instant::now();
        Run::new(&site.lifeboat).args(["--json", "runs", "resume", &run]).dir(folder).output()?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    Ok(seconds[seconds.len() / 2])
}
