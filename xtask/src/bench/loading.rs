//! What a run costs before its policy does anything: loading its module, from bytes in memory.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use super::Site;
use super::table::Aim;
use crate::command::Run;
use crate::setup::languages;
use crate::workspace::Workspace;

/// Measures and prints; what was aimed at.
pub fn run(workspace: &Workspace, site: &Site) -> Result<Vec<Aim>> {
    let folder = site.root.join("loading");
    fs::create_dir(&folder)?;
    let mut modules = vec![("Rust", site.policies.join("backup.wasm"), 1.0)];
    let found = languages::find_or_install(workspace)?;
    for (language, name) in [("javascript", "JavaScript"), ("python", "Python")] {
        if let Some(module) = build(site, &folder, &found, language)? {
            modules.push((name, module, 10.0));
        }
    }
    let files = modules.iter().map(|(_, module, _)| module);
    let said = Run::new(&site.measure).arg("modules").arg(&folder).args(files).output()?;
    let measured: Value = serde_json::from_str(&said)?;
    println!("\nloading a module (medians of 15; the first load compiles it)\n");
    println!(
        "  {:12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "", "MB", "code MB", "first ms", "load ms", "instance", "SHA-256", "read ms"
    );
    let mut aims = Vec::new();
    for (at, (name, _, aim)) in modules.iter().enumerate() {
        let figure = |key: &str| measured[at][key].as_f64().with_context(|| format!("`measure` said no {key}: {said}"));
        let load = figure("load-ms")?;
        println!(
            "  {name:12} {:>9.2} {:>9.2} {:>9.0} {load:>9.2} {:>9.3} {:>9.2} {:>9.2}",
            figure("bytes")? / 1e6,
            figure("code-bytes")? / 1e6,
            figure("first-ms")?,
            figure("instance-ms")?,
            figure("sha256-ms")?,
            figure("read-through-ms")?,
        );
        aims.push(Aim { what: format!("loading, {name}, ms"), found: load, at_most: *aim });
    }
    Ok(aims)
}

/// The backup policy that `policy new` makes, built; none without the language's tools.
fn build(site: &Site, folder: &Path, found: &languages::Languages, language: &str) -> Result<Option<PathBuf>> {
    let Some(tools) = found.tools(language)? else { return Ok(None) };
    let project = folder.join(language);
    Run::new(&site.lifeboat).args(["policy", "new", language, "--lang", language]).dir(folder).output()?;
    if let Some(modules) = tools.node_modules {
        std::os::unix::fs::symlink(modules, project.join("node_modules"))?;
    }
    Run::new("sh").arg(project.join("build.sh")).env("LIFEBOAT", &site.lifeboat).envs(tools.variables).output()?;
    Ok(Some(project.join(format!("{language}.wasm"))))
}
