//! What going on with a long run costs: its recorded answers are given again to a fresh instance.

use std::time::Instant;

use anyhow::{Context, Result, ensure};

use super::Site;
use super::table::{self, Aim};
use crate::command::Run;

/// Steps on record when the engine dies.
const STEPS: usize = 10_000;

/// Measures and prints; how many aims were missed.
pub fn run(site: &Site) -> Result<usize> {
    let folder = site.root.join("journal");
    std::fs::create_dir(&folder)?;
    let module = site.policies.join("calls.wasm");
    let text = format!(
        "[environment.bench.policy.calls]\nmodule = {:?}\nworld = \"backup\"\ngrants = [\"clock.sleep-until\"]\n\
         limits = {{ steps-max = 20000 }}\n",
        module.display().to_string()
    );
    std::fs::write(folder.join("lifeboat.toml"), text)?;
    let mut seconds = Vec::new();
    for _ in 0..site.rounds {
        let mut killed = std::process::Command::new(&site.crashing);
        // At the start of the first effect, after all the reads.
        killed.args(["trail", "prepared", "run", "calls", "call=refused", "then-sleep=true"]);
        let status = killed.arg(format!("times={STEPS}")).current_dir(&folder).status()?;
        ensure!(status.code().is_none(), "the engine did not kill itself: {status}");
        let listed = Run::new(&site.lifeboat).args(["--json", "runs", "list", "--limit", "1"]).dir(&folder).output()?;
        let listed: serde_json::Value = serde_json::from_str(&listed)?;
        let run = listed[0]["run"].as_str().context("no run is listed")?.to_owned();
        let began = Instant::now();
        Run::new(&site.lifeboat).args(["--json", "runs", "resume", &run]).dir(&folder).output()?;
        seconds.push(began.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    println!("\njournal (median of {} rounds)\n", site.rounds);
    println!("  `lifeboat runs resume` of a run with {STEPS} steps on record, to its end: {median:.2} s");
    Ok(table::judge(&[Aim { what: "resume of 10,000 recorded steps, s", found: median, at_most: 1.0 }]))
}
