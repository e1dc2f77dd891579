//! `lifeboat policy new|wit`: a policy's project, and the contract that it is written against.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use engine::Result;
use engine::error::{Error, Kind};
use engine::policy::project::{Language, Project, interface};
use serde_json::json;

use crate::{Global, modules, output};

/// Arguments of `policy new`.
#[derive(Args)]
pub struct New {
    /// The policy's name: small letters, digits and `-`. The project is made in a new folder of this name.
    name: String,
    /// The language that it is written in.
    #[arg(long)]
    lang: Lang,
    /// The world that it is for. Worlds that take backups (backup, upgrade, rollback) begin with a policy that takes one and reads it back, others
    /// with one that looks how old the newest is.
    #[arg(long, default_value = "backup")]
    world: String,
    /// Another folder than one of its name; it may be there, and must be empty.
    #[arg(long, value_name = "FOLDER")]
    directory: Option<PathBuf>,
}

/// Languages that projects are made for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Lang {
    /// By cargo.
    Rust,
    /// By zig's C compiler, or clang.
    C,
    /// By componentize-qjs.
    #[value(alias = "js")]
    Javascript,
    /// By componentize-py.
    Python,
}

/// Makes a project.
pub fn new(global: &Global, new: &New) -> Result<u8> {
    let language = match new.lang {
        Lang::Rust => Language::Rust,
        Lang::C => Language::C,
        Lang::Javascript => Language::Javascript,
        Lang::Python => Language::Python,
    };
    let folder = new.directory.clone().unwrap_or_else(|| PathBuf::from(&new.name));
    let project = Project { name: &new.name, world: &new.world, language };
    let files = project.write(&folder).map_err(|e| Error { kind: Kind::Usage, ..e })?;
    if global.json {
        output::json(&json!({"folder": folder, "files": files}))?;
        return Ok(0);
    }
    for file in &files {
        output::line(&folder.join(file).display().to_string())?;
    }
    output::line(&format!("to build and test it: sh {}", folder.join("build.sh").display()))?;
    Ok(0)
}

/// Prints the contract; or writes it beside a description, narrowed to what that declares.
pub fn wit(description: Option<&Path>, c: bool) -> Result<u8> {
    let Some(description) = description else {
        output::line(engine::contract::text().trim_end())?;
        return Ok(0);
    };
    let text = String::from_utf8(modules::read_file(description)?)
        .map_err(|_| Error::new(Kind::Configuration, format!("{} is not UTF-8", description.display())))?;
    let folder = description.parent().unwrap_or(Path::new("."));
    for (path, bytes) in interface(&text, c).map_err(|e| e.context(description.display()))? {
        let path = folder.join(path);
        let failed = |e: std::io::Error| Error::new(Kind::Failed, format!("{}: {e}", path.display()));
        path.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(failed)?;
        std::fs::write(&path, bytes).map_err(failed)?;
        output::line(&path.display().to_string())?;
    }
    Ok(0)
}
