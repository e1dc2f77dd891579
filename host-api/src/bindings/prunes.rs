//! What a service removes of its own data by itself, and after how long: a backup older than that restores rows that are removed at once.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Control, anchor_words};
use crate::child::Spec;
use crate::context::StepContext;
use crate::error::{Error, Result};
use crate::identifier::shown;

/// How long a command that prints a number of days may take.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);
/// Largest file of environment variables, and most that a command prints, bytes.
const BYTES_MAX: usize = 1024 * 1024;
/// A thousand years: more days than anybody means.
const DAYS_MAX: f64 = 365_250.0;

/// One kind of data that a service removes after some days. Exactly one of `days`, `variable` and `command` says how many; that nothing is
/// set there means that it never does.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Prunes {
    /// So many days.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub days: Option<f64>,
    /// The environment variable of the service that says how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// The file that the variable stands in, as systemd and Compose read it: `NAME=VALUE` a line. Without it: the environment in
    /// `control` of a service that is a child.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// A command that prints how many, or nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<Vec<String>>,
}

impl Prunes {
    pub(super) fn anchor(&mut self, base: &Path) {
        self.file.iter_mut().for_each(|file| *file = base.join(&*file));
        anchor_words(self.command.as_deref_mut().unwrap_or_default(), base);
    }

    pub(super) fn check(&self, control: Option<&Control>) -> Result<()> {
        match (&self.days, &self.variable, &self.command) {
            (Some(days), None, None) => in_range(*days).map(|_| ())?,
            (None, Some(_), None) if self.file.is_none() && !matches!(control, Some(Control::Child(_))) => {
                return Err(Error::invalid("`variable` needs the `file` that it stands in")
                    .hint("only of a service with control.kind = \"child\" the variables are known without one"));
            }
            (None, Some(name), None) if name.is_empty() || name.contains('=') => {
                return Err(Error::invalid(format!("`{}` is no name of a variable", shown(name))));
            }
            (None, Some(_), None) => {}
            (None, None, Some(words)) if words.is_empty() => return Err(Error::invalid("`command` is empty")),
            (None, None, Some(_)) => {}
            _ => return Err(Error::invalid("exactly one of `days`, `variable` and `command` says how many days")),
        }
        match (&self.file, &self.variable) {
            (Some(_), None) => Err(Error::invalid("`file` goes with `variable`")),
            _ => Ok(()),
        }
    }

    /// After how long, milliseconds; none: never.
    pub(crate) fn read(&self, cx: &StepContext, control: Option<&Control>) -> Result<Option<u64>> {
        let text = match (&self.days, &self.variable, &self.command) {
            (Some(days), _, _) => return in_range(*days).map(Some),
            (None, Some(name), _) => match (&self.file, control) {
                (Some(file), _) => variable_in(file, name)?,
                (None, Some(Control::Child(child))) => child.environment.get(name).cloned(),
                (None, _) => return Err(Error::invalid(format!("where variable {} stands is not said", shown(name)))),
            },
            (None, None, Some(words)) => Some(printed(cx, words)?),
            (None, None, None) => return Err(Error::invalid("how many days is not said")),
        };
        // An empty value is what is left of a line that somebody cleared.
        match text.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
            None => Ok(None),
            Some(text) => text
                .parse()
                .map_err(|_| Error::failed(format!("`{}` is no number of days", shown(text))))
                .and_then(in_range)
                .map(Some),
        }
    }
}

fn in_range(days: f64) -> Result<u64> {
    match (0.0..=DAYS_MAX).contains(&days) {
        // Whole milliseconds, far below where a float loses any.
        true => Ok((days * 86_400_000.0) as u64),
        false => Err(Error::invalid(format!("{days} is no number of days"))),
    }
}

fn variable_in(file: &Path, name: &str) -> Result<Option<String>> {
    let failed = |e: &dyn std::fmt::Display| Error::failed(format!("{}: {e}", file.display()));
    let size = std::fs::metadata(file).map_err(|e| failed(&e))?.len();
    if size > BYTES_MAX as u64 {
        return Err(failed(&format!("{size} bytes; a file of variables has at most {BYTES_MAX}")));
    }
    let text = std::fs::read_to_string(file).map_err(|e| failed(&e))?;
    // The last one counts, as for whoever starts the service.
    Ok(text.lines().rev().find_map(|line| {
        let line = line.trim();
        let (key, value) = line.strip_prefix("export ").unwrap_or(line).split_once('=')?;
        (key.trim_end() == name).then(|| unquoted(value.trim()).to_owned())
    }))
}

fn unquoted(value: &str) -> &str {
    ['"', '\''].into_iter().find_map(|q| value.strip_prefix(q)?.strip_suffix(q)).unwrap_or(value)
}

fn printed(cx: &StepContext, words: &[String]) -> Result<String> {
    let cx = StepContext { deadline: cx.deadline.min(std::time::Instant::now() + COMMAND_LIMIT), ..cx.clone() };
    let spec = Spec::new(words);
    let (out, ended) = crate::child::run(&cx, &spec, b"", BYTES_MAX)?;
    if !ended.success() {
        return Err(Error::failed(format!("{} ended with {}", spec.program(), ended.how())));
    }
    String::from_utf8(out).map_err(|_| Error::failed(format!("what {} prints is not UTF-8", spec.program())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cx() -> StepContext {
        StepContext::detached("prunes", Duration::from_secs(30))
    }

    fn of_file(file: &Path, name: &str) -> Prunes {
        Prunes { variable: Some(name.into()), file: Some(file.into()), ..Prunes::default() }
    }

    #[test]
    fn a_variable_is_read_as_whoever_starts_the_service_reads_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = "# A=1\nA=7\nexport B=\"30\"\nC='0.5'\nD=\nA=14\n E = 2 \n";
        std::fs::write(file.path(), text).unwrap();
        let days =
            |name: &str| of_file(file.path(), name).read(&cx(), None).unwrap().map(|ms| ms as f64 / 86_400_000.0);
        let all: Vec<_> = ["A", "B", "C", "D", "E", "F"].map(days).into();
        assert_eq!(all, [Some(14.0), Some(30.0), Some(0.5), None, Some(2.0), None]);
    }

    #[test]
    fn what_can_not_be_read_is_not_never() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "A=week\nB=-1\n").unwrap();
        assert!(of_file(file.path(), "A").read(&cx(), None).is_err());
        assert!(of_file(file.path(), "B").read(&cx(), None).is_err());
        assert!(of_file(Path::new("/nowhere/env"), "A").read(&cx(), None).is_err());
        let fails = Prunes { command: Some(vec!["false".into()]), ..Prunes::default() };
        assert!(fails.read(&cx(), None).unwrap_err().message.contains("exit code 1"));
    }

    #[test]
    fn a_command_prints_the_days_or_nothing() {
        let of = |script: &str| {
            let words = ["sh", "-c", script].map(str::to_owned).to_vec();
            Prunes { command: Some(words), ..Prunes::default() }.read(&cx(), None).unwrap()
        };
        assert_eq!((of("echo 7"), of("true")), (Some(7 * 86_400_000), None));
    }

    #[test]
    fn exactly_one_way_is_said() {
        let both = Prunes { days: Some(7.0), variable: Some("A".into()), ..Prunes::default() };
        let alone = Prunes { variable: Some("A".into()), ..Prunes::default() };
        let stray = Prunes { days: Some(7.0), file: Some("/x".into()), ..Prunes::default() };
        for wrong in [Prunes::default(), both, alone, stray, Prunes { days: Some(-1.0), ..Prunes::default() }] {
            assert!(wrong.check(None).is_err(), "{wrong:?}");
        }
        assert!(Prunes { days: Some(7.0), ..Prunes::default() }.check(None).is_ok());
    }
}
