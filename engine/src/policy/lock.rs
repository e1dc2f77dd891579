//! `lifeboat.lock`: which module, signed by whom and with which grants, each environment has accepted. What is not what was accepted is refused
//! before anything of it is compiled.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::difference::apart;
use super::module::Inspected;
use crate::error::{Error, Kind, Result};
use crate::grants::Grants;

/// The version of the file that this engine writes and reads.
const VERSION: u32 = 1;
const HEAD: &str =
    "# Written by `lifeboat policy pin`: what was accepted, and nothing else, is run. Keep it with lifeboat.toml.\n\n";

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Lock {
    version: u32,
    /// By environment and policy.
    #[serde(default)]
    environment: BTreeMap<String, BTreeMap<String, Pin>>,
}

impl Default for Lock {
    fn default() -> Self {
        Self { version: VERSION, environment: BTreeMap::new() }
    }
}

/// What a person accepts in one go.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Accepted {
    /// By policy.
    pub pins: BTreeMap<String, Pin>,
    /// All policies that the environment has: others are forgotten.
    pub policies: BTreeSet<String>,
}

impl Accepted {
    /// Puts it into an environment's part of the file.
    pub fn write(&self, path: &Path, environment: &str) -> Result<()> {
        let mut lock = Lock::read(path)?.unwrap_or_default();
        for (policy, pin) in &self.pins {
            lock.accept(environment, policy, pin.clone());
        }
        lock.keep_only(environment, self.policies.iter().map(String::as_str));
        lock.write(path)
    }
}

/// One policy of one environment, as it was accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Pin {
    /// SHA-256 of the module's file, hexadecimal.
    pub sha256: String,
    /// The module's own name.
    pub name: String,
    /// The module's own version.
    pub version: String,
    /// Signers whose signatures counted.
    pub signers: BTreeSet<String>,
    /// SHA-256 of the grants, as every run records it.
    pub grants_sha256: String,
    /// The grants, a line each, so that a difference can be shown.
    pub grants: BTreeSet<String>,
    /// Calls that the module imports, and interfaces of WASI.
    pub calls: BTreeSet<String>,
}

impl Pin {
    /// What is there now.
    pub fn of(inspected: &Inspected, signers: BTreeSet<String>, grants: &Grants, lines: BTreeSet<String>) -> Self {
        Self {
            sha256: inspected.sha256.clone(),
            name: inspected.description.name.clone(),
            version: inspected.description.version.clone(),
            signers,
            grants_sha256: grants.sha256.clone(),
            grants: lines,
            calls: inspected.imports.iter().map(|i| i.name.clone()).chain(inspected.wasi.iter().cloned()).collect(),
        }
    }

    /// What it needs or is granted that the other one was not: a person has to accept that.
    pub fn more_than(&self, before: &Self) -> Vec<String> {
        let (calls, _) = apart(&before.calls, &self.calls);
        let (grants, _) = apart(&before.grants, &self.grants);
        let (_, signers) = apart(&before.signers, &self.signers);
        let mut more: Vec<String> = calls.into_iter().map(|call| format!("it imports {call}")).collect();
        more.extend(grants.into_iter().map(|grant| format!("it is granted {grant}")));
        more.extend(signers.into_iter().map(|signer| format!("{signer} has not signed it")));
        if self.name != before.name {
            more.push(format!("it calls itself {}, and was {}", self.name, before.name));
        }
        more
    }

    /// How it differs from what was accepted, in words; nothing: it does not.
    fn differs(&self, accepted: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.sha256 != accepted.sha256 {
            let short = |digest: &str| digest.get(..12).unwrap_or(digest).to_owned();
            found.push(format!(
                "the module is {} {} ({}), and {} {} ({}) was accepted",
                self.name,
                self.version,
                short(&self.sha256),
                accepted.name,
                accepted.version,
                short(&accepted.sha256)
            ));
        }
        let missing: Vec<&str> = accepted.signers.difference(&self.signers).map(String::as_str).collect();
        if !missing.is_empty() {
            found.push(format!("{} had signed it, and has not now", missing.join(", ")));
        }
        if self.grants_sha256 != accepted.grants_sha256 {
            let (more, less) = apart(&accepted.grants, &self.grants);
            let words =
                |sign: &str, lines: Vec<String>| lines.into_iter().map(|l| format!("{sign}{l}")).collect::<Vec<_>>();
            let lines = [words("+ ", more), words("- ", less)].concat();
            found.push(format!("its grants are others than were accepted: {}", lines.join(", ")));
        }
        found
    }
}

impl Lock {
    /// Reads it; none where there is none.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let wrong = |why: String| Error::new(Kind::PolicyRefused, format!("{}: {why}", path.display()));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(wrong(e.to_string())),
        };
        let lock: Self = toml::from_str(&text).map_err(|e| wrong(e.message().to_owned()))?;
        match lock.version {
            VERSION => Ok(Some(lock)),
            other => Err(wrong(format!("it has version {other}, this engine reads {VERSION}"))),
        }
    }

    /// Writes it, in its place at once.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = toml::to_string(self).map_err(|e| Error::new(Kind::Failed, format!("a bug: {e}")))?;
        super::put_in_place(path, format!("{HEAD}{text}").as_bytes())
    }

    /// What an environment has accepted of a policy.
    pub fn pin(&self, environment: &str, policy: &str) -> Option<&Pin> {
        self.environment.get(environment)?.get(policy)
    }

    /// Accepts what is there now.
    pub fn accept(&mut self, environment: &str, policy: &str, pin: Pin) {
        self.environment.entry(environment.to_owned()).or_default().insert(policy.to_owned(), pin);
    }

    /// Forgets policies that an environment does not have any more.
    pub fn keep_only<'a>(&mut self, environment: &str, policies: impl IntoIterator<Item = &'a str>) {
        let policies: BTreeSet<&str> = policies.into_iter().collect();
        if let Some(pins) = self.environment.get_mut(environment) {
            pins.retain(|policy, _| policies.contains(policy.as_str()));
        }
    }

    /// Whether anything of an environment is pinned: then all of it must be.
    pub fn covers(&self, environment: &str) -> bool {
        self.environment.get(environment).is_some_and(|pins| !pins.is_empty())
    }

    /// An error unless what is there now is what was accepted.
    pub fn check(&self, environment: &str, policy: &str, now: &Pin) -> Result<()> {
        let hint = format!("lifeboat policy pin {policy} --env {environment} shows the difference, and accepts it");
        let refused = |why: String| {
            Err(Error::new(Kind::PolicyRefused, format!("policy {policy} is refused: {why}")).hint(&hint))
        };
        match self.pin(environment, policy) {
            None => refused("it is not pinned, and others of this environment are".into()),
            Some(accepted) => match now.differs(accepted) {
                found if found.is_empty() => Ok(()),
                found => refused(found.join("; ")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(sha256: &str, calls: &[&str], grants: &[&str], signers: &[&str]) -> Pin {
        let set = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<BTreeSet<_>>();
        let read = Grants::parse(grants.iter().copied()).unwrap();
        Pin {
            sha256: sha256.repeat(64),
            name: "backup".into(),
            version: "1".into(),
            signers: set(signers),
            grants_sha256: read.sha256,
            grants: set(grants),
            calls: set(calls),
        }
    }

    const TAKE: &str = "dump.take service=notes store=local";
    const COPY: &str = "upload.copy service=notes store=local to=offsite";

    #[test]
    fn what_was_accepted_and_nothing_else_passes() {
        let accepted = pin("a", &["dump.take"], &[TAKE], &["release"]);
        let mut lock = Lock::default();
        lock.accept("production", "backup", accepted.clone());
        lock.check("production", "backup", &accepted).unwrap();
        // One more signature takes nothing away.
        lock.check("production", "backup", &pin("a", &["dump.take"], &[TAKE], &["release", "security"])).unwrap();
        for (now, says) in [
            (
                pin("b", &["dump.take"], &[TAKE], &["release"]),
                "backup 1 (bbbbbbbbbbbb), and backup 1 (aaaaaaaaaaaa) was accepted",
            ),
            (pin("a", &["dump.take"], &[TAKE, COPY], &["release"]), "+ upload.copy"),
            (pin("a", &["dump.take"], &[], &["release"]), "- dump.take"),
            (pin("a", &["dump.take"], &[TAKE], &[]), "release had signed it"),
        ] {
            let error = lock.check("production", "backup", &now).unwrap_err();
            assert_eq!(error.kind, Kind::PolicyRefused);
            assert!(error.message.contains(says), "{error}");
        }
        assert!(lock.check("production", "drill", &accepted).unwrap_err().message.contains("not pinned"));
        assert!(lock.covers("production") && !lock.covers("staging"));
    }

    #[test]
    fn more_than_was_accepted_is_named_and_less_is_not() {
        let before = pin("a", &["dump.take"], &[TAKE], &["release"]);
        assert!(pin("b", &["dump.take"], &[], &["release", "other"]).more_than(&before).is_empty());
        let more = pin("b", &["dump.take", "upload.copy"], &[TAKE, COPY], &[]).more_than(&before);
        assert_eq!(more.len(), 3, "{more:?}");
    }

    #[test]
    fn it_is_written_whole_and_read_back_and_what_is_no_lock_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lifeboat.lock");
        assert_eq!(Lock::read(&path).unwrap(), None);
        let mut lock = Lock::default();
        lock.accept("production", "backup", pin("a", &["dump.take"], &[TAKE], &["release"]));
        lock.accept("production", "gone", pin("b", &[], &[], &[]));
        lock.keep_only("production", ["backup"]);
        lock.write(&path).unwrap();
        assert_eq!(Lock::read(&path).unwrap(), Some(lock));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        for text in ["version = 2\n", "version = 1\nsurprise = 1\n", "\u{0}"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(Lock::read(&path).unwrap_err().kind, Kind::PolicyRefused, "{text:?}");
        }
    }
}
