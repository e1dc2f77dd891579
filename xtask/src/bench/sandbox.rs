//! What an instance, a call and a step cost, beside a child process and a synced line; what an honest run takes beside a hostile fleet; what a
//! thousand runs that wait take, and what a second thread gives; then what loading a module costs.

use anyhow::{Context, Result};
use serde_json::Value;

use super::table::{self, Aim};
use super::{Site, loading};
use crate::command::Run;
use crate::workspace::Workspace;

/// Measures and prints; how many aims were missed.
pub fn run(workspace: &Workspace, site: &Site) -> Result<usize> {
    let folder = site.root.join("sandbox");
    std::fs::create_dir(&folder)?;
    let said = Run::new(&site.measure).arg("sandbox").arg(site.policies.join("calls.wasm")).arg(&folder).output()?;
    let measured: Value = serde_json::from_str(&said)?;
    let us = |key: &str| measured[key].as_f64().with_context(|| format!("`measure` said no {key}: {said}"));
    let (instance, now, note, step) = (us("instance-us")?, us("now-us")?, us("note-us")?, us("step-us")?);
    let (line, child) = (us("synced-line-us")?, us("child-us")?);
    println!("\nsandbox (medians of rounds that each measure all of it)\n");
    let row = |what: &str, its: f64| println!("  {what:64} {its:>9.2} µs {:>10.4}", its / child);
    println!("  {:64} {:>12} {:>10}", "", "", "of a child");
    row("fresh instance of a policy: store, limits, instantiate, drop", instance);
    row("pure host call without arguments (clock.now)", now);
    row("pure host call with a text (report.note)", note);
    row("recorded step: checked, journaled, synced (a refused read)", step);
    row("500 bytes appended and synced: the floor under a step", line);
    row("child process `sh -c :`", child);
    let folder = site.root.join("fleet");
    std::fs::create_dir(&folder)?;
    let (calls, spin) = (site.policies.join("calls.wasm"), site.policies.join("spin.wasm"));
    let said = Run::new(&site.measure).arg("fleet").arg(calls).arg(spin).arg(&folder).output()?;
    let measured: Value = serde_json::from_str(&said)?;
    let ms = |key: &str| measured[key].as_f64().with_context(|| format!("`measure` said no {key}: {said}"));
    let (alone, beside) = (ms("alone-ms")?, ms("beside-ms")?);
    println!("\nan honest run of 20 steps (median and slowest of 40)\n");
    println!("  {:64} {alone:>9.2} ms {:>10.2}", "alone", ms("slowest-alone-ms")?);
    println!("  {:64} {beside:>9.2} ms {:>10.2}", "beside 100 runs that compute without end", ms("slowest-beside-ms")?);
    let folder = site.root.join("waiting");
    let said = Run::new(&site.measure).arg("waiting").arg(site.policies.join("sleeper.wasm")).arg(&folder).output()?;
    let measured: Value = serde_json::from_str(&said)?;
    let count = |key: &str| measured[key].as_f64().with_context(|| format!("`measure` said no {key}: {said}"));
    let (waiting, waiting_mb) = (count("waiting")?, count("with-bytes")? / 1e6);
    println!(
        "\n{waiting} runs that wait inside a host call: {waiting_mb:.0} MB resident, {:.0} MB without them",
        count("before-bytes")? / 1e6
    );
    let folder = site.root.join("threads");
    let said = Run::new(&site.measure).arg("threads").arg(site.policies.join("calls.wasm")).arg(&folder).output()?;
    let measured: Value = serde_json::from_str(&said)?;
    let on = |key: &str, what: &str| -> Result<f64> {
        let rate = |threads: &str| {
            measured[key][threads].as_f64().with_context(|| format!("`measure` said no {threads} of {key}: {said}"))
        };
        let (one, two) = (rate("one-per-s")?, rate("two-per-s")?);
        println!("{what} a second: {one:.0} on one thread, {two:.0} on two ({:.2})", two / one);
        Ok(one / two)
    };
    let instances = on("instances", "fresh instances")?;
    // What those take is the disk's.
    on("runs", "whole runs on record")?;
    let mut aims = loading::run(workspace, site)?;
    aims.extend([
        Aim {
            what: "of 1,000 runs, those that did not come to their wait".into(),
            found: 1_000.0 - waiting,
            at_most: 0.0,
        },
        Aim { what: "1,000 waiting runs, MB".into(), found: waiting_mb, at_most: 300.0 },
        Aim { what: "fresh instances, one thread of two".into(), found: instances, at_most: 1.0 / 1.6 },
        Aim { what: "beside a hostile fleet, of alone".into(), found: beside / alone, at_most: 2.0 },
        Aim {
            what: "the slowest beside it, of the median".into(),
            found: ms("slowest-beside-ms")? / beside,
            at_most: 10.0,
        },
        Aim { what: "fresh instance, µs".into(), found: instance, at_most: 40.0 },
        Aim { what: "pure host call, µs".into(), found: now, at_most: 1.0 },
        Aim { what: "pure host call with a text, µs".into(), found: note, at_most: 1.0 },
    ]);
    Ok(table::judge(&aims))
}
