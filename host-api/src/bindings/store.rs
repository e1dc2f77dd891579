//! What an environment says about a store.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Secret;
use crate::error::{Error, Result};
use crate::stores::check_key;

/// A named place for backups.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "an environment holds a handful of them")]
pub enum Store {
    /// A directory.
    Directory(DirectoryStore),
    /// A bucket of Amazon S3, or of what speaks its protocol.
    S3(S3Store),
}

/// A directory as a store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DirectoryStore {
    /// The directory; must exist, so that a mount that is missing is noticed instead of filled.
    pub path: PathBuf,
}

/// A bucket as a store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct S3Store {
    /// The bucket; it must exist.
    pub bucket: String,
    /// What all keys in it begin with; without a slash at either end.
    #[serde(default)]
    pub prefix: String,
    /// The region that requests are signed for.
    pub region: String,
    /// Base URL, `https://minio.internal:9000`; without it Amazon's.
    pub endpoint: Option<String>,
    /// The bucket stands in the path, not in the host's name.
    #[serde(default)]
    pub path_style: bool,
    /// PEM file with the roots to trust for the endpoint, instead of the machine's own.
    pub ca_file: Option<PathBuf>,
    /// Storage class of new objects; one that must be thawed first is refused.
    pub storage_class: Option<String>,
    /// How the store encrypts what it keeps.
    pub server_side_encryption: Option<ServerSideEncryption>,
    /// The key of `aws-kms`; without it the account's own.
    pub kms_key: Option<String>,
    /// What is sent along with each request's body, so that the store refuses what was changed on the way. A bucket with Object Lock takes
    /// nothing without.
    #[serde(default)]
    pub checksum: Checksum,
    /// One identity for everything.
    pub credentials: Option<Credentials>,
    /// Or one for each right.
    #[serde(default)]
    pub identity: Identities,
    /// Most bytes a second, to the store and from it together.
    pub bytes_per_s_max: Option<u64>,
    /// How many parts of one object are on their way at once.
    #[serde(default = "default_parts_at_once")]
    pub parts_at_once: usize,
    /// How long one request may take, seconds: sending one part, reading one piece.
    #[serde(default = "default_timeout_s")]
    pub timeout_s: u64,
}

fn default_parts_at_once() -> usize {
    4
}

fn default_timeout_s() -> u64 {
    120
}

/// A checksum of what is sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checksum {
    /// CRC-32C.
    #[default]
    Crc32c,
    /// None: for a store that knows no such header.
    None,
}

/// How a store encrypts what it keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ServerSideEncryption {
    /// With keys of the store.
    Aes256,
    /// With a key of the key management service.
    AwsKms,
}

/// Identities of a store by what each may do there. What is not named can't be done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Identities {
    /// Puts new objects, and no more.
    pub write: Option<Credentials>,
    /// Lists and reads.
    pub read: Option<Credentials>,
    /// Removes.
    pub delete: Option<Credentials>,
}

/// Who we are to a store.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Credentials {
    /// The access key's id.
    pub access_key_id: Option<Secret>,
    /// The access key.
    pub secret_access_key: Option<Secret>,
    /// The token of a temporary access key.
    pub session_token: Option<Secret>,
    /// Instead: whatever the machine has: variables, profiles, the role of the instance, container or web identity.
    #[serde(default)]
    pub default_chain: bool,
}

/// What is done in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Putting new objects.
    Write,
    /// Listing and reading.
    Read,
    /// Removing.
    Delete,
}

impl Right {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::Write, Self::Read, Self::Delete];

    /// As it stands in the file.
    pub fn word(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::Read => "read",
            Self::Delete => "delete",
        }
    }
}

impl Store {
    /// Makes relative paths absolute, from the configuration file's directory.
    pub fn anchor(&mut self, base: &Path) {
        match self {
            Self::Directory(dir) => dir.path = base.join(&dir.path),
            Self::S3(s3) => {
                if let Some(file) = &mut s3.ca_file {
                    *file = base.join(&*file);
                }
                let identity = &mut s3.identity;
                let all = [&mut s3.credentials, &mut identity.write, &mut identity.read, &mut identity.delete];
                for credentials in all.into_iter().flatten() {
                    let secrets = [
                        &mut credentials.access_key_id,
                        &mut credentials.secret_access_key,
                        &mut credentials.session_token,
                    ];
                    secrets.into_iter().flatten().for_each(|secret| secret.anchor(base));
                }
            }
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
        }
    }

    /// Whether this environment has an identity that may do this there.
    pub fn may(&self, right: Right) -> bool {
        match self {
            Self::Directory(_) => true,
            Self::S3(s3) => s3.credentials(right).is_some(),
        }
    }

    /// Its directory, if it is one.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(dir) => Some(&dir.path),
            Self::S3(_) => None,
        }
    }

    /// Every secret it names, with words for people.
    pub fn secrets(&self) -> Vec<(String, &Secret)> {
        let Self::S3(s3) = self else { return Vec::new() };
        let mut found = Vec::new();
        let named = Right::ALL.map(|right| (format!("identity.{}", right.word()), s3.identity.of(right)));
        let all = [("credentials".to_owned(), s3.credentials.as_ref())];
        for (who, credentials) in all.into_iter().chain(named) {
            let Some(credentials) = credentials else { continue };
            let secrets = [
                ("access-key-id", &credentials.access_key_id),
                ("secret-access-key", &credentials.secret_access_key),
                ("session-token", &credentials.session_token),
            ];
            found.extend(
                secrets.into_iter().filter_map(|(key, secret)| Some((format!("{who}.{key}"), secret.as_ref()?))),
            );
        }
        found
    }

    /// Checks what can be told without looking at the world.
    pub fn check(&self) -> Result<()> {
        match self {
            Self::Directory(_) => Ok(()),
            Self::S3(s3) => s3.check(),
        }
    }
}

impl Identities {
    /// Who has a right.
    pub fn of(&self, right: Right) -> Option<&Credentials> {
        match right {
            Right::Write => self.write.as_ref(),
            Right::Read => self.read.as_ref(),
            Right::Delete => self.delete.as_ref(),
        }
    }
}

impl S3Store {
    /// Who has a right: the one for everything, or the one for this.
    pub fn credentials(&self, right: Right) -> Option<&Credentials> {
        self.credentials.as_ref().or_else(|| self.identity.of(right))
    }

    /// The server that holds the bucket, one text for one: names of buckets are unique at Amazon, whichever of its endpoints is asked.
    fn server(&self) -> String {
        let Some(endpoint) = &self.endpoint else { return "s3".into() };
        let Ok(url) = url::Url::parse(endpoint) else { return endpoint.clone() };
        match url.host_str() {
            Some(host) if host == "amazonaws.com" || host.ends_with(".amazonaws.com") => "s3".into(),
            // With the port that it has by its scheme: the same server answers to both.
            Some(host) => format!("{host}:{}", url.port_or_known_default().unwrap_or(0)),
            None => endpoint.clone(),
        }
    }

    fn check(&self) -> Result<()> {
        let word = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        let wrong = |what: String| Err(Error::invalid(what));
        if !(3..=63).contains(&self.bucket.len()) || !word(&self.bucket) {
            return wrong(format!("`{}` is no name of a bucket", crate::identifier::shown(&self.bucket)));
        }
        if self.region.is_empty() || !word(&self.region) {
            return wrong("region: one is needed, like `eu-central-1`; stores without regions take `us-east-1`".into());
        }
        if !self.prefix.is_empty() {
            // Room for our own keys, below the protocol's 1,024 bytes.
            check_key(&self.prefix).map_err(|e| e.context("prefix"))?;
            if self.prefix.len() > 200 {
                return wrong("prefix: at most 200 bytes".into());
            }
        }
        if let Some(endpoint) = &self.endpoint {
            let url = url::Url::parse(endpoint).ok().filter(|url| {
                matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
            });
            if url.is_none_or(|url| url.query().is_some() || url.fragment().is_some()) {
                return wrong("endpoint: an http or https URL without user, password and query".into());
            }
        }
        if matches!(self.storage_class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE")) {
            return Err(Error::invalid("storage-class: what lies there must be thawed before it can be read")
                .hint("manifests could not even be listed with their content: take GLACIER_IR, or let a rule of the bucket move old objects/"));
        }
        if self.kms_key.is_some() && self.server_side_encryption != Some(ServerSideEncryption::AwsKms) {
            return wrong("kms-key: only with server-side-encryption = \"aws-kms\"".into());
        }
        let given: Vec<_> = Right::ALL.into_iter().filter_map(|right| self.identity.of(right)).collect();
        match (&self.credentials, given.is_empty()) {
            (Some(_), false) => {
                return wrong("both `credentials` and `identity` are given: take one of the two out".into());
            }
            (None, true) => {
                return Err(Error::invalid("neither `credentials` nor an `identity` is given").hint(
                    "[environment.E.store.S.identity.write] with access-key-id and secret-access-key puts backups there",
                ));
            }
            _ => {}
        }
        for credentials in self.credentials.iter().chain(given) {
            credentials.check()?;
        }
        let bounds = [
            ("bytes-per-s-max", self.bytes_per_s_max.unwrap_or(1024), 1024..=u64::MAX),
            ("parts-at-once", self.parts_at_once as u64, 1..=16),
            ("timeout-s", self.timeout_s, 1..=3600),
        ];
        for (key, value, bounds) in bounds {
            if !bounds.contains(&value) {
                return wrong(format!("{key}: {} to {}, not {value}", bounds.start(), bounds.end()));
            }
        }
        Ok(())
    }
}

impl Credentials {
    fn check(&self) -> Result<()> {
        let keys = (&self.access_key_id, &self.secret_access_key, &self.session_token);
        match (self.default_chain, keys) {
            (true, (None, None, None)) | (false, (Some(_), Some(_), _)) => Ok(()),
            (true, _) => Err(Error::invalid("`default-chain` stands alone: take the keys beside it out")),
            (false, _) => Err(Error::invalid("credentials need `access-key-id` and `secret-access-key`")
                .hint("or default-chain = true, which takes whatever the machine has")),
        }
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
}
