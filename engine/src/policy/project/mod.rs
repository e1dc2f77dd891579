//! `lifeboat policy new`: a project of a policy, that builds and passes its test as it is.
//!
//! The files are templates in `engine/templates`: one folder a language, one a sort of policy (`backup` for worlds that take backups, `watch` for
//! all others). What is written besides is the contract, from this engine's own text, narrowed to what the policy declares.

mod c;
mod wit;

use std::path::{Path, PathBuf};

use host_api::identifier::check_name;

use super::Description;
use crate::contract::contract;
use crate::error::{Error, Kind, Result};

/// What a project is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// A crate that cargo builds.
    Rust,
    /// C, by zig's or LLVM's clang.
    C,
    /// JavaScript, by componentize-qjs.
    Javascript,
    /// Python, by componentize-py.
    Python,
}

/// A project to be made.
pub struct Project<'p> {
    /// The policy's name.
    pub name: &'p str,
    /// The world it is for.
    pub world: &'p str,
    /// What it is written in.
    pub language: Language,
}

/// A text of `engine/templates`.
macro_rules! template {
    ($path:literal) => {
        include_str!(concat!("../../../templates/", $path))
    };
}

/// What a policy does that is made for a world: how it is told apart, its description, and its scenarios.
struct Sort {
    description: &'static str,
    about: &'static str,
    /// Grants that it needs, for the README.
    grants: &'static str,
    scenarios: [(&'static str, &'static str); 2],
    sources: [&'static str; 4],
}

/// Takes a backup and reads it back.
const BACKUP: Sort = Sort {
    description: template!("backup/policy.toml"),
    about: template!("backup/about.txt"),
    grants: r#""dump.take service=SERVICE store=STORE", "upload.verify service=SERVICE store=STORE""#,
    scenarios: [
        ("whole.toml", template!("backup/scenarios/whole.toml")),
        ("damaged.toml", template!("backup/scenarios/damaged.toml")),
    ],
    sources: [
        template!("backup/policy.rs"),
        template!("backup/policy.c"),
        template!("backup/policy.js"),
        template!("backup/policy.py"),
    ],
};

/// Looks at how old the newest verified backup is.
const WATCH: Sort = Sort {
    description: template!("watch/policy.toml"),
    about: template!("watch/about.txt"),
    grants: r#""catalog.latest service=SERVICE store=STORE""#,
    scenarios: [
        ("fresh.toml", template!("watch/scenarios/fresh.toml")),
        ("old.toml", template!("watch/scenarios/old.toml")),
    ],
    sources: [
        template!("watch/policy.rs"),
        template!("watch/policy.c"),
        template!("watch/policy.js"),
        template!("watch/policy.py"),
    ],
};

impl Language {
    /// Where its source stands in a project, and the files that come with it.
    fn files(self) -> (&'static str, &'static [(&'static str, &'static str)]) {
        match self {
            Self::Rust => (
                "src/lib.rs",
                &[
                    ("Cargo.toml", template!("rust/Cargo.toml.in")),
                    ("build.sh", template!("rust/build.sh")),
                    (".gitignore", template!("rust/gitignore")),
                ],
            ),
            Self::C => (
                "src/policy.c",
                &[
                    ("build.sh", template!("c/build.sh")),
                    ("src/json.h", template!("c/json.h")),
                    ("src/json.c", template!("c/json.c")),
                    ("src/text.h", template!("c/text.h")),
                    ("src/text.c", template!("c/text.c")),
                    (".gitignore", template!("c/gitignore")),
                ],
            ),
            Self::Javascript => (
                "policy.js",
                &[
                    ("build.sh", template!("javascript/build.sh")),
                    ("package.json", template!("javascript/package.json")),
                    (".gitignore", template!("javascript/gitignore")),
                ],
            ),
            Self::Python => (
                "policy.py",
                &[
                    ("build.sh", template!("python/build.sh")),
                    ("requirements.txt", template!("python/requirements.txt")),
                    (".gitignore", template!("python/gitignore")),
                ],
            ),
        }
    }

    fn needs(self) -> &'static str {
        match self {
            Self::Rust => template!("rust/needs.txt"),
            Self::C => template!("c/needs.txt"),
            Self::Javascript => template!("javascript/needs.txt"),
            Self::Python => template!("python/needs.txt"),
        }
        .trim_end()
    }

    /// Lines of `policy.toml` that its runtime takes.
    fn memory(self) -> &'static str {
        match self {
            Self::Rust | Self::C | Self::Javascript => "",
            Self::Python => template!("memory.toml"),
        }
    }
}

impl Project<'_> {
    /// Its files by their paths in the project's folder, sorted.
    pub fn files(&self) -> Result<Vec<(PathBuf, Vec<u8>)>> {
        check_name("policy", self.name)?;
        let worlds = &contract().worlds;
        let held = worlds
            .get(self.world)
            .ok_or_else(|| Error::unknown("world", self.world, worlds.keys().map(String::as_str)))?;
        let sort = if held.contains("dump") { &BACKUP } else { &WATCH };
        let (source, files) = self.language.files();
        let description = self.fill(sort.description, sort);
        let mut made: Vec<(PathBuf, Vec<u8>)> = vec![
            ("policy.toml".into(), description.clone().into_bytes()),
            ("README.md".into(), self.fill(template!("README.md"), sort).into_bytes()),
            (source.into(), self.fill(sort.sources[self.language as usize], sort).into_bytes()),
        ];
        made.extend(files.iter().map(|(path, text)| (PathBuf::from(path), self.fill(text, sort).into_bytes())));
        let scenarios = sort.scenarios.iter();
        made.extend(scenarios.map(|(name, text)| (Path::new("scenarios").join(name), text.as_bytes().to_vec())));
        made.extend(interface(&description, self.language == Language::C)?);
        made.sort();
        Ok(made)
    }

    fn fill(&self, text: &str, sort: &Sort) -> String {
        text.replace("@MEMORY@\n", self.language.memory())
            .replace("@NEEDS@", self.language.needs())
            .replace("@WITMORE@", if self.language == Language::C { " --c" } else { "" })
            .replace("@GRANTS@", sort.grants)
            .replace("@ABOUT@", sort.about.trim_end())
            .replace("@NAME@", self.name)
            .replace("@CRATE@", &self.name.replace(['-', '.'], "_"))
            .replace("@WORLD@", self.world)
            .replace("@SOURCE@", self.language.files().0)
    }

    /// Makes the folder, which may be there and empty. A project that could not be written whole is taken away again.
    pub fn write(&self, folder: &Path) -> Result<Vec<PathBuf>> {
        let files = self.files()?;
        let failed = |path: &Path, e: std::io::Error| Error::new(Kind::Failed, format!("{}: {e}", path.display()));
        let is_new = matches!(folder.symlink_metadata(), Err(e) if e.kind() == std::io::ErrorKind::NotFound);
        match std::fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
            Ok(true) => {
                return Err(Error::new(Kind::Usage, format!("{} is there and not empty", folder.display()))
                    .hint("name another folder with --directory"));
            }
            Ok(false) => {}
            Err(_) if is_new => {}
            Err(e) => return Err(Error::new(Kind::Usage, format!("{}: {e}", folder.display()))),
        }
        for (path, bytes) in &files {
            let path = folder.join(path);
            let parent = path.parent().unwrap_or(folder);
            let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, bytes));
            if let Err(e) = written {
                // What was there before stays: an empty folder.
                for made in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                    let made = made.path();
                    let _ = if made.is_dir() { std::fs::remove_dir_all(made) } else { std::fs::remove_file(made) };
                }
                if is_new {
                    let _ = std::fs::remove_dir(folder);
                }
                return Err(failed(&path, e));
            }
        }
        Ok(files.into_iter().map(|(path, _)| path).collect())
    }
}

/// The contract as the policy of this description needs it: `wit/…`, and with `c` the bindings, `bindings/…`. `description`: TOML.
pub fn interface(description: &str, c: bool) -> Result<Vec<(PathBuf, Vec<u8>)>> {
    let description: Description = toml::from_str(description)
        .map_err(|e| Error::new(Kind::Configuration, format!("the description can't be read: {e}")))?;
    description.check()?;
    let narrowed = wit::narrowed(&description)?;
    let mut made: Vec<(PathBuf, Vec<u8>)> = vec![
        ("wit/policy.wit".into(), narrowed.world_text.clone().into_bytes()),
        ("wit/deps/lifeboat-recovery/contract.wit".into(), narrowed.contract_text.clone().into_bytes()),
    ];
    if c {
        made.extend(c::bindings(narrowed)?.into_iter().map(|(name, bytes)| (Path::new("bindings").join(name), bytes)));
    }
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_has_a_project_for_every_world_and_nothing_is_left_to_fill_in() {
        for world in contract().worlds.keys() {
            for language in [Language::Rust, Language::C, Language::Javascript, Language::Python] {
                let project = Project { name: "my-policy", world, language };
                for (path, bytes) in project.files().unwrap() {
                    let Ok(text) = String::from_utf8(bytes) else { continue };
                    // `@since` is the contract's, an address of npm's has another one.
                    let left = text.split('@').skip(1).step_by(2).any(|word| {
                        !word.is_empty() && word.len() < 12 && word.bytes().all(|b| b.is_ascii_uppercase())
                    });
                    assert!(!left, "{world} {language:?} {}: {text}", path.display());
                }
                let description = project.files().unwrap().into_iter().find(|(path, _)| path.ends_with("policy.toml"));
                let text = String::from_utf8(description.unwrap().1).unwrap();
                let description: Description = toml::from_str(&text).unwrap();
                description.check().unwrap();
                assert_eq!((description.name.as_str(), &description.world), ("my-policy", world));
            }
        }
    }

    #[test]
    fn a_project_that_can_not_be_written_whole_is_taken_away() {
        let folder = tempfile::tempdir().unwrap();
        // So deep that the file with the longest path, and no other, has no room in a path of the system.
        let longest = "wit/deps/lifeboat-recovery/contract.wit";
        let mut inside = folder.path().to_owned();
        let room = |path: &Path| 4095 - path.as_os_str().len() - longest.len();
        while room(&inside) > 1 {
            let length = (room(&inside) - 1).clamp(1, 200);
            inside.push("x".repeat(length));
        }
        let project = Project { name: "p", world: "backup", language: Language::Rust };
        let error = project.write(&inside).unwrap_err();
        assert!(error.message.contains(longest), "others were written before it: {error}");
        assert!(inside.parent().unwrap().exists() && !inside.exists());
        // An empty folder that was there stays there, empty.
        std::fs::create_dir(&inside).unwrap();
        project.write(&inside).unwrap_err();
        assert_eq!(std::fs::read_dir(&inside).unwrap().count(), 0);
        // A link that leads nowhere is somebody's.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        assert_eq!(project.write(&link).unwrap_err().kind, Kind::Usage);
        assert!(link.symlink_metadata().unwrap().is_symlink());
    }
}
