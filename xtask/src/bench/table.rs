//! Tables and aims.

use super::timed::{Figures, Subject};

/// An aim: what was reached, what is allowed.
pub struct Aim {
    pub what: String,
    pub found: f64,
    pub at_most: f64,
}

/// Prints a table; the ratios are the first subject's time to each one's, without and with the syncing of its output.
pub fn print(title: &str, subjects: &[Subject<'_>], figures: &[Figures]) {
    println!("\n{title}\n");
    let width = subjects.iter().map(|subject| subject.name.len()).max().unwrap_or_default();
    println!(
        "  {:width$}  {:>8} {:>8} {:>8} {:>8}   {:>9} {:>9}",
        "", "wall s", "sync s", "cpu s", "peak MB", "ours/its", "with sync"
    );
    let first = figures[0];
    for (subject, its) in subjects.iter().zip(figures) {
        let sync = if subject.unsynced.is_some() { format!("{:.2}", its.sync_s) } else { "-".into() };
        println!(
            "  {:width$}  {:>8.2} {sync:>8} {:>8.2} {:>8.0}   {:>9.2} {:>9.2}",
            subject.name,
            its.wall_s,
            its.cpu_s,
            its.peak_mb,
            first.durable_s() / its.wall_s,
            first.durable_s() / its.durable_s(),
        );
    }
}

/// Prints what was aimed at; how many were missed.
pub fn judge(aims: &[Aim]) -> usize {
    println!();
    let mut missed = 0;
    for aim in aims {
        let reached = aim.found <= aim.at_most;
        missed += usize::from(!reached);
        println!(
            "  {}  {}: {:.2}, aim at most {:.2}",
            if reached { "reached" } else { "MISSED " },
            aim.what,
            aim.found,
            aim.at_most
        );
    }
    missed
}
