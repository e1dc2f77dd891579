//! What is built in: licences, sources, crates that nobody wants, and unsafe code.
//!
//! `cargo deny` does more, takes minutes to build and wants a server for its advisories; this reads the same file, needs nothing but
//! `cargo metadata`, and takes a second.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};

use crate::command::Run;
use crate::workspace::Workspace;

/// The workspaces, by their manifests.
const MANIFESTS: [&str; 2] = ["Cargo.toml", "policies/Cargo.toml"];
/// Where the lint against unsafe code may be lifted, and why is said there.
const UNSAFE: [&str; 1] = ["host-api/src/child/alarm.rs"];

/// As much of the file as is checked here.
#[derive(Deserialize)]
struct Rules {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Banned>,
}

#[derive(Deserialize)]
struct Banned {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// Checks all of it and says what was looked at.
///
/// # Errors
///
/// If a crate has a licence that is not allowed, comes from elsewhere than the registry, or is banned; or unsafe code is allowed where
/// it should not be.
pub fn run(workspace: &Workspace) -> Result<()> {
    let file = workspace.root.join(".ci/deny.toml");
    let rules: Rules = toml::from_str(&fs::read_to_string(&file).with_context(|| file.display().to_string())?)?;
    let (mut flaws, mut count) = (Vec::new(), 0);
    for manifest in MANIFESTS {
        let metadata = Run::cargo()
            .args(["metadata", "--format-version", "1", "--locked", "--manifest-path"])
            .arg(workspace.root.join(manifest))
            .output()?;
        let metadata: Value = serde_json::from_str(&metadata).context("cargo metadata is not JSON")?;
        let packages = metadata["packages"].as_array().context("cargo metadata has no packages")?;
        count += packages.len();
        flaws.extend(packages.iter().flat_map(|package| of_package(package, &rules)));
    }
    let mut files = 0;
    for folder in ["engine", "host-api", "xtask", "tests", "examples"] {
        of_sources(&workspace.root, Path::new(folder), &mut flaws, &mut files)?;
    }
    if !flaws.is_empty() {
        bail!("{}\nhint: {} says what may be built in", flaws.join("\n"), file.display());
    }
    println!(
        "{count} packages: licences, sources and bans as .ci/deny.toml has them; no unsafe code in {files} files but {}",
        UNSAFE.join(", ")
    );
    Ok(())
}

fn of_package(package: &Value, rules: &Rules) -> Vec<String> {
    let text = |key: &str| package[key].as_str().unwrap_or_default();
    let name = format!("{} {}", text("name"), text("version"));
    let mut flaws = Vec::new();
    if !is_allowed(text("license"), &rules.licenses.allow) {
        flaws.push(format!("{name}: its licence `{}` is not allowed", text("license")));
    }
    // None: a path of ours.
    if let Some(source) = package["source"].as_str()
        && !source.starts_with("registry+")
    {
        flaws.push(format!("{name}: it comes from {source}, not from the registry"));
    }
    if let Some(banned) = rules.bans.deny.iter().find(|banned| banned.name == text("name")) {
        flaws.push(format!("{name}: banned: {}", banned.reason));
    }
    flaws
}

fn is_allowed(license: &str, allowed: &[String]) -> bool {
    let allowed: Vec<Licensee> = allowed.iter().filter_map(|license| Licensee::parse(license).ok()).collect();
    Expression::parse_mode(license, ParseMode::LAX)
        .is_ok_and(|expression| expression.evaluate(|needed| allowed.iter().any(|license| license.satisfies(needed))))
}

fn of_sources(root: &Path, folder: &Path, flaws: &mut Vec<String>, files: &mut usize) -> Result<()> {
    for entry in fs::read_dir(root.join(folder))? {
        let entry = entry?;
        let path = folder.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            if entry.file_name() != "target" && entry.file_name() != "guests" {
                of_sources(root, &path, flaws, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            *files += 1;
            let text = fs::read_to_string(root.join(&path))?;
            let lifted = text.lines().any(|line| {
                let line = line.trim_start();
                line.starts_with("#") && line.contains("unsafe_code") && !line.contains("forbid")
            });
            if lifted && !UNSAFE.iter().any(|allowed| path == Path::new(allowed)) {
                flaws.push(format!("{}: it lifts the lint against unsafe code", path.display()));
            }
        }
    }
    let manifest = root.join(folder).join("Cargo.toml");
    if manifest.exists() {
        let manifest: BTreeMap<String, toml::Value> = toml::from_str(&fs::read_to_string(&manifest)?)?;
        let inherits = manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
        if inherits != Some(true) && manifest.contains_key("package") {
            flaws.push(format!("{}: it does not take the workspace's lints", folder.display()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_may_not_be_built_in_is_named() {
        let rules: Rules = toml::from_str(include_str!("../../.ci/deny.toml")).unwrap();
        let flaws = |package: Value| of_package(&package, &rules);
        let registry = "registry+https://example.org/index";
        let good = json!({"name": "a", "version": "1.0.0", "license": "MIT/Apache-2.0", "source": registry});
        assert_eq!(flaws(good.clone()), Vec::<String>::new());
        for (key, value, says) in [
            ("license", json!("GPL-3.0-only"), "not allowed"),
            ("license", json!("MIT AND AGPL-3.0-only"), "not allowed"),
            ("license", json!(null), "not allowed"),
            ("source", json!("git+https://example.org/a"), "not from the registry"),
            ("name", json!("openssl-sys"), "banned"),
        ] {
            let mut bad = good.clone();
            bad[key] = value;
            let flaws = flaws(bad);
            assert!(flaws.len() == 1 && flaws[0].contains(says), "{flaws:?}");
        }
        let either = json!({"name": "a", "version": "1.0.0", "license": "MIT OR GPL-3.0-only", "source": registry});
        assert_eq!(flaws(either), Vec::<String>::new());
    }
}
