//! What an environment says about a store.

mod azure;
mod gcs;
mod identity;
mod s3;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Secret;
use crate::error::Result;

pub use azure::{AzureCredentials, AzureStore};
pub use gcs::{GcsCredentials, GcsStore};
pub use identity::{Identities, Identity, Right};
pub use s3::{Checksum, Credentials, Expected, S3Store, ServerSideEncryption, Thaw, Tier};

/// A named place for backups.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "an environment holds a handful of them")]
pub enum Store {
    /// A directory.
    Directory(DirectoryStore),
    /// A bucket of Amazon S3, or of what speaks its protocol.
    S3(S3Store),
    /// A container of Azure Blob Storage.
    Azure(AzureStore),
    /// A bucket of Google Cloud Storage.
    Gcs(GcsStore),
}

/// A directory as a store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DirectoryStore {
    /// The directory; must exist, so that a mount that is missing is noticed instead of filled.
    pub path: PathBuf,
}

impl Store {
    /// Makes relative paths absolute, from the configuration file's directory.
    pub fn anchor(&mut self, base: &Path) {
        match self {
            Self::Directory(dir) => dir.path = base.join(&dir.path),
            Self::S3(s3) => anchor(base, &mut s3.ca_file, &mut s3.credentials, &mut s3.identity),
            Self::Azure(azure) => anchor(base, &mut azure.ca_file, &mut azure.credentials, &mut azure.identity),
            Self::Gcs(gcs) => anchor(base, &mut gcs.ca_file, &mut gcs.credentials, &mut gcs.identity),
        }
    }

    /// Where it is: two stores of one place hold the same objects. A directory that is there is told by what it leads to, whatever links are on
    /// the way.
    pub fn place(&self) -> String {
        match self {
            Self::Directory(dir) => std::fs::canonicalize(&dir.path)
                .unwrap_or_else(|_| dir.path.components().collect())
                .display()
                .to_string(),
            Self::S3(s3) => format!("{}/{}/{}", s3.server(), s3.bucket, s3.prefix),
            Self::Azure(azure) => format!("{}/{}/{}", azure.endpoint(), azure.container, azure.prefix),
            Self::Gcs(gcs) => {
                let endpoint = gcs.endpoint.as_deref().unwrap_or("gs").trim_end_matches('/');
                format!("{endpoint}/{}/{}", gcs.bucket, gcs.prefix)
            }
        }
    }

    /// Its directory, if it is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(dir) => Some(&dir.path),
            Self::S3(_) | Self::Azure(_) | Self::Gcs(_) => None,
        }
    }

    /// The file with the roots that it trusts, if it names one.
    pub fn ca_file(&self) -> Option<&Path> {
        match self {
            Self::Directory(_) => None,
            Self::S3(s3) => s3.ca_file.as_deref(),
            Self::Azure(azure) => azure.ca_file.as_deref(),
            Self::Gcs(gcs) => gcs.ca_file.as_deref(),
        }
    }

    /// Every secret it names, with words for people.
    pub fn secrets(&self) -> Vec<(String, &Secret)> {
        match self {
            Self::Directory(_) => Vec::new(),
            Self::S3(s3) => identity::secrets(s3.credentials.as_ref(), &s3.identity),
            Self::Azure(azure) => identity::secrets(azure.credentials.as_ref(), &azure.identity),
            Self::Gcs(gcs) => identity::secrets(gcs.credentials.as_ref(), &gcs.identity),
        }
    }

    /// What this environment may do there; none where one identity may do everything, or nobody asks.
    pub fn rights(&self) -> Option<Vec<Right>> {
        let of = |is_one: bool, has: &dyn Fn(Right) -> bool| {
            (!is_one).then(|| Right::ALL.into_iter().filter(|right| has(*right)).collect())
        };
        match self {
            Self::Directory(_) => None,
            Self::S3(s3) => of(s3.credentials.is_some(), &|right| s3.identity.of(right).is_some()),
            Self::Azure(azure) => of(azure.credentials.is_some(), &|right| azure.identity.of(right).is_some()),
            Self::Gcs(gcs) => of(gcs.credentials.is_some(), &|right| gcs.identity.of(right).is_some()),
        }
    }

    /// Whether this environment has an identity that may do this there.
    pub fn may(&self, right: Right) -> bool {
        self.rights().is_none_or(|rights| rights.contains(&right))
    }

    /// Checks what can be told without looking at the world.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::S3(s3) => s3.check(),
            Self::Azure(azure) => azure.check(),
            Self::Gcs(gcs) => gcs.check(),
        }
    }
}

fn anchor<C: Identity>(
    base: &Path,
    ca_file: &mut Option<PathBuf>,
    credentials: &mut Option<C>,
    identity: &mut Identities<C>,
) {
    if let Some(file) = ca_file {
        *file = base.join(&*file);
    }
    for one in credentials.iter_mut().chain(identity.all_mut()) {
        one.secrets_mut().into_iter().flatten().for_each(|secret| secret.anchor(base));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"kind = "s3"
bucket = "backups"
region = "eu-central-1"
[identity.write]
access-key-id = { env = "ID" }
secret-access-key = { command = ["./secret", "key"] }
"#;

    fn read(text: &str) -> Result<Store, String> {
        let store: Store = toml::from_str(text).map_err(|e| e.to_string())?;
        store.check().map(|()| store).map_err(|e| e.to_string())
    }

    #[test]
    fn a_bucket_is_read_and_knows_who_may_do_what() {
        let mut store = read(GOOD).unwrap();
        store.anchor(Path::new("/etc"));
        let Store::S3(s3) = &store else { panic!("{store:?}") };
        assert!(s3.credentials(Right::Write).is_some() && s3.credentials(Right::Read).is_none());
        assert_eq!(store.place(), "s3/backups/");
        assert_eq!(store.secrets()[1].1.command.as_ref().unwrap()[0], "/etc/secret");
    }

    #[test]
    fn mistakes_are_refused() {
        for (from, to, says) in [
            ("\"backups\"", "\"a/b\"", "no name of a bucket"),
            ("\"eu-central-1\"", "\"\"", "region"),
            ("region", "prefix = \"/x\"\nregion", "prefix"),
            ("region", "endpoint = \"ftp://x\"\nregion", "endpoint"),
            ("region", "endpoint = \"https://me:pass@x\"\nregion", "without user"),
            ("region", "storage-class = \"GLACIER\"\nregion", "thawed"),
            ("region", "kms-key = \"k\"\nregion", "aws-kms"),
            ("region", "parts-at-once = 0\nregion", "parts-at-once"),
            ("region", "timeout-s = 0\nregion", "timeout-s"),
            ("region", "bytes-per-s-max = 10\nregion", "bytes-per-s-max"),
            ("region", "regoin = \"x\"\nregion", "unknown field"),
            ("region", "credentials = { default-chain = true }\nregion", "both"),
            ("[identity.write]", "[credentials]\ndefault-chain = true", "stands alone"),
            ("access-key-id = { env = \"ID\" }\n", "", "access-key-id"),
        ] {
            assert!(GOOD.contains(from));
            let error = read(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(says), "{to}: {error}");
        }
        assert!(read(GOOD.split_once("[identity").unwrap().0).unwrap_err().contains("neither"));
    }

    #[test]
    fn one_place_is_one_text_whatever_it_is_called() {
        let at = |endpoint: &str| {
            let line = format!("endpoint = \"{endpoint}\"\nregion");
            read(&GOOD.replacen("region", &line, 1)).unwrap().place()
        };
        assert_eq!(at("https://s3.eu-central-1.amazonaws.com"), read(GOOD).unwrap().place());
        assert_eq!(at("https://MinIO.internal/"), at("https://minio.internal:443"));
        assert_ne!(at("https://minio.internal:9000"), at("https://minio.internal"));
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("a")).unwrap();
        std::os::unix::fs::symlink("a", root.path().join("b")).unwrap();
        let of = |name: &str| Store::Directory(DirectoryStore { path: root.path().join(name) }).place();
        assert_eq!((of("b"), of("a/../a"), of("./a")), (of("a"), of("a"), of("a")));
        assert_ne!(of("gone"), of("a"));
    }

    const AZURE: &str = r#"kind = "azure"
account = "acmebackups"
container = "backups"
[identity.write]
sas-token = { file = "sas" }
"#;
    const GCS: &str = r#"kind = "gcs"
bucket = "acme-backups"
[identity.write]
service-account = { file = "key.json" }
"#;

    #[test]
    fn containers_and_buckets_of_other_clouds_are_read() {
        let mut azure = read(AZURE).unwrap();
        azure.anchor(Path::new("/etc"));
        assert_eq!(azure.place(), "https://acmebackups.blob.core.windows.net/backups/");
        let (who, secret) = &azure.secrets()[0];
        assert_eq!((who.as_str(), secret.file.as_deref()), ("identity.write.sas-token", Some(Path::new("/etc/sas"))));
        assert_eq!(azure.rights(), Some(vec![Right::Write]));
        let gcs = read(GCS).unwrap();
        assert_eq!((gcs.place().as_str(), gcs.rights()), ("gs/acme-backups/", Some(vec![Right::Write])));
    }

    #[test]
    fn the_examples_of_the_documentation_are_read() {
        let text = include_str!("../../../docs/environments.md");
        let header = "[environment.production.store.offsite]\n";
        let examples = text.split("```toml\n").skip(1).filter_map(|rest| Some(rest.split_once("```")?.0));
        let mut kinds = 0;
        for example in examples.filter(|example| example.starts_with(header)) {
            let table: toml::Table = toml::from_str(example).unwrap();
            let store = table["environment"]["production"]["store"]["offsite"].clone();
            store.try_into::<Store>().unwrap().check().unwrap();
            kinds += 1;
        }
        assert_eq!(kinds, 3, "S3, Azure, Google");
    }

    #[test]
    fn mistakes_in_them_are_refused() {
        for (good, from, to, says) in [
            (AZURE, "acmebackups", "Acme", "storage account"),
            (AZURE, "\"backups\"", "\"a/b\"", "no name of a container"),
            (AZURE, "sas-token", "account-key = { env = \"K\" }\nsas-token", "exactly one"),
            (AZURE, "sas-token = { file = \"sas\" }", "", "exactly one"),
            (AZURE, "container", "parts-at-once = 17\ncontainer", "parts-at-once"),
            (AZURE, "container", "prefix = \"/x\"\ncontainer", "prefix"),
            (GCS, "acme-backups", "a", "no name of a bucket"),
            (GCS, "service-account", "default-chain = true\nservice-account", "exactly one"),
            (GCS, "[identity", "parts-at-once = 4\n[identity", "unknown field"),
            (GCS, "[identity", "endpoint = \"x\"\n[identity", "endpoint"),
        ] {
            assert!(good.contains(from));
            let error = read(&good.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(says), "{to}: {error}");
        }
    }
}
