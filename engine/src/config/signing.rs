//! The signing of backups as it stands in the file: a key to sign with, and whose signatures are taken.

use std::path::{Path, PathBuf};

use host_api::note::Trust;
use host_api::signing::{FAMILY, Signing};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{Environment, EnvironmentBinding};
use crate::error::{Error, Kind, Result};

/// One `[environment.NAME.signing]`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SigningBinding {
    /// The private file of the key that manifests and verifications are signed with.
    pub key: Option<PathBuf>,
    /// Lines of trust, `NAME+HASH+BASE64 KIND…`: only what such keys signed is used.
    pub trust: Option<Spanned<Vec<Spanned<String>>>>,
    /// Or the file they stand in, a line each.
    pub trust_file: Option<Spanned<PathBuf>>,
}

impl SigningBinding {
    pub(super) fn anchor(&mut self, base: &Path) {
        if let Some(key) = &mut self.key {
            *key = base.join(&*key);
        }
        if let Some(file) = &mut self.trust_file {
            *file.get_mut() = base.join(file.get_ref());
        }
    }

    /// Lines of trust as they are now; none: nothing is asked for.
    fn trusted(&self) -> Result<Option<Trust>> {
        let wrong = |why: String| Error::new(Kind::Configuration, why);
        match (&self.trust, &self.trust_file) {
            (None, None) => Ok(None),
            (Some(lines), None) => {
                if lines.get_ref().is_empty() {
                    return Err(wrong("trust = [] would refuse every backup".into())
                        .hint("give it a line of trust, as `lifeboat keys show FILE` says it, or leave it out")
                        .at(lines.span()));
                }
                let mut trust = Trust::default();
                for line in lines.get_ref() {
                    trust
                        .add(line.get_ref(), &FAMILY)
                        .map_err(|flaw| wrong(format!("trust: {flaw}")).at(line.span()))?;
                }
                Ok(Some(trust))
            }
            (None, Some(file)) => {
                let path = file.get_ref();
                let failed = |why: String| wrong(format!("trust-file {}: {why}", path.display())).at(file.span());
                let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
                Trust::parse(&text, &FAMILY).map(Some).map_err(failed)
            }
            (Some(_), Some(file)) => {
                Err(wrong("both `trust` and `trust-file` are given: take one of the two out".into()).at(file.span()))
            }
        }
    }
}

impl EnvironmentBinding {
    /// What is signed with here, and whose signatures are taken; the private key is read when something is signed.
    pub fn signing(&self) -> Result<Signing> {
        let Some(binding) = &self.signing else { return Ok(Signing::default()) };
        let trust = binding.trusted().map_err(|e| e.context("signing"))?;
        if binding.key.is_none() && trust.is_none() {
            return Err(Error::new(Kind::Configuration, "signing: neither a key nor trust is given")
                .hint("key = \"FILE\" signs; trust = [\"…\"] takes nothing else; `lifeboat keys make` makes a key"));
        }
        Ok(Signing::new(binding.key.clone(), trust))
    }
}

impl Environment<'_> {
    /// An error if the key that this environment signs with can't be used.
    pub fn check_signing(&self) -> Result<()> {
        let context = |e: Error| e.context(format!("environment {}: signing", self.name));
        let checked = self.binding.signing()?.check();
        checked.map_err(|e| context(Error { kind: Kind::Configuration, ..e.into() }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;

    use host_api::signing::{MANIFEST, VERIFIED, make_key};

    use crate::config::Config;
    use crate::error::{Kind, Result};

    /// Loads a file with this table in a directory, and says whether the environment's key can be used.
    fn load(directory: &Path, table: &str) -> Result<()> {
        let path = directory.join("lifeboat.toml");
        std::fs::write(&path, format!("[environment.demo.signing]\n{table}\n")).unwrap();
        Config::load(&path)?.environment(None)?.check_signing()
    }

    #[test]
    fn keys_and_trust_are_read_and_mistakes_are_placed() {
        let directory = tempfile::tempdir().unwrap();
        let dir = directory.path();
        let key = make_key(&dir.join("own.key"), "own").unwrap().to_string();
        let other = make_key(&dir.join("other.key"), "other").unwrap().to_string();
        std::fs::write(dir.join("trust"), format!("{key} {MANIFEST}\n{other} {VERIFIED}\n")).unwrap();
        for good in [
            "key = \"own.key\"".to_owned(),
            "trust-file = \"trust\"".into(),
            "key = \"own.key\"\ntrust-file = \"trust\"".into(),
            // One that only verifies.
            "key = \"other.key\"\ntrust-file = \"trust\"".into(),
            format!("key = \"own.key\"\ntrust = [\"{key} {MANIFEST} {VERIFIED}\"]"),
        ] {
            load(dir, &good).unwrap_or_else(|e| panic!("{good}: {e}"));
        }
        std::fs::copy(dir.join("own.key"), dir.join("loose.key")).unwrap();
        std::fs::set_permissions(dir.join("loose.key"), std::fs::Permissions::from_mode(0o644)).unwrap();
        std::fs::write(dir.join("bad-trust"), format!("{key} {MANIFEST}\n\n")).unwrap();
        for (bad, says) in [
            (String::new(), vec!["neither a key nor trust", "lifeboat keys make"]),
            ("trust = []".into(), vec!["line 2", "refuse every backup"]),
            (format!("trust = [\n\"{key} {MANIFEST}\",\n\"{key}\"]"), vec!["line 4", "which kinds"]),
            (
                format!("trust = [\"{key} manifest\"]"),
                vec!["line 2", "there is: lifeboat/manifest/1, lifeboat/verified/1"],
            ),
            (format!("trust = [\"{} {MANIFEST}\"]", key.replacen("own", "owm", 1)), vec!["its hash is not"]),
            (format!("trust = \"{key} {MANIFEST}\""), vec!["line 2", "sequence"]),
            ("trust-file = \"nowhere\"".into(), vec!["line 2", "nowhere"]),
            ("trust-file = \"bad-trust\"".into(), vec!["line 2", "bad-trust: line 2"]),
            (format!("trust = [\"{key} {MANIFEST}\"]\ntrust-file = \"trust\""), vec!["line 3", "one of the two"]),
            ("keys = \"own.key\"".into(), vec!["line 2", "unknown field `keys`"]),
            ("key = \"nowhere.key\"".into(), vec!["environment demo: signing", "nowhere.key"]),
            ("key = \"loose.key\"".into(), vec!["others may read it", "chmod 600"]),
            ("key = \"trust\"".into(), vec!["trust: "]),
            (
                format!("key = \"own.key\"\ntrust = [\"{other} {MANIFEST}\"]"),
                vec!["the key own", "by this environment's own trust", "lifeboat keys show"],
            ),
        ] {
            let error = load(dir, &bad).unwrap_err();
            assert_eq!(error.kind, Kind::Configuration, "{error}");
            for word in says {
                assert!(error.to_string().contains(word), "{bad}: {word}: {error}");
            }
        }
    }
}
