//! Runs commands in turn and measures them.
//!
//! | figure | what |
//! | --- | --- |
//! | wall | from start to end of the command; Lifeboat's includes its own syncing of what it stored |
//! | sync | `sync -d FILE` of the command's output afterwards, for commands that do not sync it themselves |
//! | cpu | user and system time of the command and its children (GNU time); a database server's is not among them |
//! | peak | resident memory of the largest process (GNU time) |
//!
//! Before each command all of the system's dirty pages are written, so that none pays for what another left.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::command::Run;

/// What is done before or after each time.
pub type Around<'a> = Box<dyn Fn() -> Result<()> + 'a>;

/// A command to measure.
pub struct Subject<'a> {
    /// For people.
    pub name: &'a str,
    /// For bash, with `pipefail`, in the site's folder.
    pub command: String,
    /// What it leaves in the page cache.
    pub unsynced: Option<PathBuf>,
    /// Not measured.
    pub before: Around<'a>,
    /// Not measured.
    pub after: Around<'a>,
}

/// One measurement, or the medians of several.
#[derive(Clone, Copy, Default)]
pub struct Figures {
    pub wall_s: f64,
    pub sync_s: f64,
    pub cpu_s: f64,
    pub peak_mb: f64,
}

impl Figures {
    /// Until all of it is on disk.
    pub fn durable_s(&self) -> f64 {
        self.wall_s + self.sync_s
    }
}

impl<'a> Subject<'a> {
    /// A command that needs nothing around it.
    pub fn new(name: &'a str, command: String) -> Self {
        Self { name, command, unsynced: None, before: Box::new(|| Ok(())), after: Box::new(|| Ok(())) }
    }

    /// The file that has to be synced afterwards.
    pub fn unsynced(mut self, file: PathBuf) -> Self {
        self.unsynced = Some(file);
        self
    }

    /// Something to do before each time.
    pub fn before(mut self, act: impl Fn() -> Result<()> + 'a) -> Self {
        self.before = Box::new(act);
        self
    }

    /// Something to do after each time.
    pub fn after(mut self, act: impl Fn() -> Result<()> + 'a) -> Self {
        self.after = Box::new(act);
        self
    }
}

/// Measures all of them in each round, in turn; the medians, in the same order.
pub fn interleaved(folder: &Path, rounds: usize, subjects: &[Subject<'_>]) -> Result<Vec<Figures>> {
    let mut all = vec![Vec::with_capacity(rounds); subjects.len()];
    for round in 1..=rounds {
        for (subject, figures) in subjects.iter().zip(&mut all) {
            let measured = measure(folder, subject).with_context(|| subject.name.to_owned())?;
            eprintln!("round {round}: {:>6.2} s {:>5.2} s sync  {}", measured.wall_s, measured.sync_s, subject.name);
            figures.push(measured);
        }
    }
    let median = |figures: &[Figures], of: fn(&Figures) -> f64| {
        let mut values: Vec<f64> = figures.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    Ok(all
        .iter()
        .map(|figures| Figures {
            wall_s: median(figures, |f| f.wall_s),
            sync_s: median(figures, |f| f.sync_s),
            cpu_s: median(figures, |f| f.cpu_s),
            // Not a median: a limit on memory holds always.
            peak_mb: figures.iter().map(|f| f.peak_mb).fold(0.0, f64::max),
        })
        .collect())
}

fn measure(folder: &Path, subject: &Subject<'_>) -> Result<Figures> {
    (subject.before)()?;
    Run::new("sync").output()?;
    let said = folder.join("time");
    let began = Instant::now();
    Run::new("/usr/bin/time")
        .args(["-f", "%U %S %M", "-o"])
        .arg(&said)
        .args(["bash", "-c", &format!("set -o pipefail; {}", subject.command)])
        .dir(folder)
        .output()?;
    let wall_s = began.elapsed().as_secs_f64();
    let sync_s = match &subject.unsynced {
        None => 0.0,
        Some(file) => {
            let began = Instant::now();
            Run::new("sync").arg("-d").arg(file).output()?;
            began.elapsed().as_secs_f64()
        }
    };
    let said = fs::read_to_string(&said)?;
    let figures: Vec<f64> = said.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [user_s, system_s, peak_kib] = figures[..] else { anyhow::bail!("GNU time said {said:?}") };
    (subject.after)()?;
    Ok(Figures { wall_s, sync_s, cpu_s: user_s + system_s, peak_mb: peak_kib * 1.024e-3 })
}
