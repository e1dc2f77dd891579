//! Builds the guests and packs each into a policy: one file with code, description and claims.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command::Run;
use crate::setup::guests::{self, Preference, TARGET};
use crate::workspace::Workspace;

/// Where guests stand, one folder each: our policies, and those made for tests.
const ROOTS: [&str; 2] = ["policies", "tests/guests"];

/// The file that makes a folder a policy; a library for policies has none.
const DESCRIPTION: &str = "policy.toml";

/// A guest with its description.
struct Guest {
    name: String,
    description: PathBuf,
}

/// Builds and packs all of them into `target/policies/NAME.wasm`; the variables with which cargo builds guests.
///
/// # Errors
///
/// If there is no compiler for guests, or anything does not build or is refused by the packer.
pub fn build(workspace: &Workspace) -> Result<guests::Variables> {
    let variables = guests::toolchain(workspace, Preference::from_environment(false)?)?;
    let modules = compile(workspace, &variables)?;
    build_host(workspace)?;
    let packed = workspace.packed_policies();
    fs::create_dir_all(&packed)?;
    for guest in find(workspace)? {
        pack(workspace, &guest, &modules, &packed)?;
    }
    Ok(variables)
}

/// Builds the guest workspace; the result is the folder with the modules.
fn compile(workspace: &Workspace, variables: &guests::Variables) -> Result<PathBuf> {
    let target = workspace.target.join("guests");
    let mut variables = variables.clone();
    remap_paths(workspace, &mut variables);
    Run::cargo()
        .args(["build", "--release", "--target", TARGET])
        .dir(&workspace.root.join("policies"))
        .env("CARGO_TARGET_DIR", &target)
        // Either would replace the target's own flags, which say where its library is.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .envs(variables.iter().map(|(key, value)| (key, value)))
        .run()?;
    Ok(target.join(TARGET).join("release"))
}

/// Replaces this checkout's and cargo's folders in the modules, so that the same source gives the same digest wherever it is built.
fn remap_paths(workspace: &Workspace, variables: &mut guests::Variables) {
    let mut flags = format!("--remap-path-prefix={}=lifeboat", workspace.root.display());
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    if let Some(home) = home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"))) {
        flags.push_str(&format!(" --remap-path-prefix={}=cargo", home.display()));
    }
    match variables.iter_mut().find(|(key, _)| *key == FLAGS) {
        Some((_, value)) => {
            value.push(" ");
            value.push(flags);
        }
        None => variables.push((FLAGS, flags.into())),
    }
}

/// Flags of the guests' compiler; those of the host are others.
const FLAGS: &str = "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS";

/// Builds every binary of the host, not the packer alone: cargo chooses the features of shared
/// dependencies by what is built together, and tests would build a good part of them again.
fn build_host(workspace: &Workspace) -> Result<()> {
    Run::cargo().args(["build", "--workspace", "--bins"]).dir(&workspace.root).run()
}

/// Every folder with a description, by name.
fn find(workspace: &Workspace) -> Result<Vec<Guest>> {
    let mut guests = Vec::new();
    for root in ROOTS.map(|root| workspace.root.join(root)) {
        if !root.is_dir() {
            continue;
        }
        for entry in fs::read_dir(&root)? {
            let entry = entry?;
            let description = entry.path().join(DESCRIPTION);
            if description.is_file() {
                let name = entry.file_name().to_string_lossy().into_owned();
                guests.push(Guest { name, description });
            }
        }
    }
    guests.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(guests)
}

fn pack(workspace: &Workspace, guest: &Guest, modules: &Path, packed: &Path) -> Result<()> {
    let name = &guest.name;
    let module = modules.join(format!("{}.wasm", name.replace('-', "_")));
    if !module.is_file() {
        bail!(
            "the policy {name} has no module {}\n\
             hint: its crate has to be named {name}, be a cdylib, and a member of policies/Cargo.toml",
            module.display()
        );
    }
    Run::new(workspace.debug_binary("lifeboat"))
        .args(["policy", "pack"])
        .arg(&module)
        .arg("--description")
        .arg(&guest.description)
        .arg("--output")
        .arg(packed.join(format!("{name}.wasm")))
        .run()
        .with_context(|| format!("the policy {name} can't be packed"))
}
