//! What can be told of a binding without looking at the world, beyond its form: checked when a configuration is read.
//!
//! What is checked here becomes an argument of a service manager's command: none may be taken for an option, or for more than one word.

use super::{Control, Install, PostgresSource, Service, Source};
use crate::error::{Error, Result};
use crate::identifier::shown;
use crate::sources::postgres::prefix::Prefix;
use crate::sources::postgres::table_parts;

/// Longest name that goes into a command, bytes; every manager's own limit is lower or near.
const NAME_BYTES_MAX: usize = 253;
/// More pods than anybody means.
const REPLICAS_MAX: u32 = 1_000;

impl Service {
    /// Checks its sources and how it is controlled and installed. An error says what is wrong, and where.
    pub fn check(&self) -> Result<()> {
        for (name, source) in &self.source {
            if let Source::Postgres(postgres) = source {
                postgres.check().map_err(|e| e.context(format!("source {name}")))?;
            }
        }
        if let Some(install) = &self.install {
            install.check().map_err(|e| e.context("install"))?;
        }
        if let Some(control) = &self.control {
            control.check(self.install.is_some()).map_err(|e| e.context("control"))?;
        }
        for (name, prunes) in &self.prunes {
            prunes.check(self.control.as_ref()).map_err(|e| e.context(format!("prunes.{name}")))?;
        }
        self.objectives.check().map_err(|e| e.context("objectives"))
    }
}

impl PostgresSource {
    /// Checks that tools can be used behind its prefix, and that its password can be handed through.
    pub fn check(&self) -> Result<()> {
        for table in &self.data_only_keeps {
            table_parts(table).map_err(|e| e.context("data-only-keeps"))?;
        }
        let prefix = Prefix::parse(&self.prefix)?;
        if self.password.is_some() {
            prefix.check_password()?;
        }
        self.scratch.as_ref().map_or(Ok(()), |scratch| scratch.check().map_err(|e| e.context("scratch")))
    }
}

impl Install {
    fn check(&self) -> Result<()> {
        for (key, words) in [("installable", &self.installable), ("command", &self.command), ("check", &self.check)] {
            command(key, words)?;
        }
        for name in self.files.keys() {
            named("files", name, |c| c.is_ascii_alphanumeric() || "._-".contains(c))?;
        }
        Ok(())
    }
}

impl Control {
    fn check(&self, installs: bool) -> Result<()> {
        match self {
            Self::Command(of) => {
                for (key, words) in [("start", &of.start), ("stop", &of.stop), ("status", &of.status)] {
                    command(key, words)?;
                }
                Ok(())
            }
            Self::Child(of) => command("command", &of.command),
            Self::Systemd(of) => {
                command("systemctl", &of.systemctl)?;
                named("unit", &of.unit, |c| c.is_ascii_alphanumeric() || ":_.\\@-".contains(c))
            }
            Self::Compose(of) => {
                command("compose", &of.compose)?;
                command("docker", &of.docker)?;
                let project = of.project_name.iter().map(|name| ("project-name", name));
                for (key, name) in project.chain([("service", &of.service)]) {
                    named(key, name, |c| c.is_ascii_alphanumeric() || "._-".contains(c))?;
                }
                Ok(())
            }
            Self::Kubernetes(of) => {
                command("kubectl", &of.kubectl)?;
                let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c);
                named("deployment", &of.deployment, label)?;
                named("namespace", &of.namespace, label)?;
                if let Some(context) = &of.context {
                    named("context", context, |c| c.is_ascii_graphic())?;
                }
                named("selector", &of.selector, |c| c.is_ascii_graphic() || c == ' ')?;
                if !(1..=REPLICAS_MAX).contains(&of.replicas) {
                    return Err(Error::invalid(format!("`replicas` is {}", of.replicas))
                        .hint(format!("1 to {REPLICAS_MAX}: how many pods it has when it runs")));
                }
                match (&of.container, &of.image) {
                    (None, None) => Ok(()),
                    (Some(container), Some(of_image)) => {
                        named("container", container, label)?;
                        image("image", of_image)?;
                        if installs {
                            return Ok(());
                        }
                        Err(Error::invalid("`image` without a version").hint(
                            "configure the service's `install` as well: its version is the tag, or leave `image` and `container` out",
                        ))
                    }
                    _ => Err(Error::invalid("`image` and `container` belong together").hint("set both, or none")),
                }
            }
        }
    }
}

/// A command has a program.
pub(super) fn command(key: &str, words: &[String]) -> Result<()> {
    if words.first().is_some_and(|program| !program.is_empty()) {
        return Ok(());
    }
    Err(Error::invalid(format!("`{key}` names no program")).hint("a list: the program, then its arguments"))
}

/// A name that is put into a command: a letter or digit first, so that it is no option.
fn named(key: &str, name: &str, allowed: impl Fn(char) -> bool) -> Result<()> {
    let ok = (1..=NAME_BYTES_MAX).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(allowed);
    if ok {
        return Ok(());
    }
    Err(Error::invalid(format!("`{}` can't be a `{key}`", shown(name)))
        .hint("it begins with a letter or digit, and is one word of the characters that such names have"))
}

/// An image without tag or digest: the version is its tag.
pub(super) fn image(key: &str, name: &str) -> Result<()> {
    named(key, name, |c| c.is_ascii_alphanumeric() || "._-/:".contains(c))?;
    let tagged = name.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if !tagged && !name.ends_with('/') {
        return Ok(());
    }
    Err(Error::invalid(format!("image `{}` has a tag of its own", shown(name)))
        .hint("leave it out: the version that is installed is the tag"))
}

/// A package's name as an index has it.
pub(super) fn package(name: &str) -> Result<()> {
    named("package", name, |c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

/// The name of a variable.
pub(super) fn variable(name: &str) -> Result<()> {
    let ok = !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if ok {
        return Ok(());
    }
    Err(Error::invalid(format!("`{}` is no name of a variable", shown(name))).hint("NOTES_TAG, say"))
}

/// Words that go into templates of ours as they are.
pub(super) fn free_of_placeholders(key: &str, words: &[String]) -> Result<()> {
    match words.iter().find(|word| word.contains('{')) {
        None => Ok(()),
        Some(word) => Err(Error::invalid(format!("`{key}`: `{}` has a placeholder", shown(word)))
            .hint("there is none here; use kind = \"command\"")),
    }
}
