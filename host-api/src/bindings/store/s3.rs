//! A bucket of Amazon S3, or of what speaks its protocol.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::identity::{Identities, Identity, Right, check_bounds, check_identities, check_place, is_word};
use crate::bindings::Secret;
use crate::error::{Error, Result};

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
    /// Archived objects may be asked back for a restore, and at what price. Without it, that is left to people.
    pub thaw: Option<Thaw>,
    /// How the store encrypts what it keeps.
    pub server_side_encryption: Option<ServerSideEncryption>,
    /// The key of `aws-kms`; without it the account's own.
    pub kms_key: Option<String>,
    /// What is sent along with each request's body, so that the store refuses what was changed on the way. A bucket with Object Lock takes
    /// nothing without.
    #[serde(default)]
    pub checksum: Checksum,
    /// What `lifeboat check` holds the bucket's own settings against. Without it nobody looks at them.
    pub expect: Option<Expected>,
    /// One identity for everything.
    pub credentials: Option<Credentials>,
    /// Or one for each right.
    #[serde(default)]
    pub identity: Identities,
    /// Most bytes a second, to the store and from it together.
    pub bytes_per_s_max: Option<u64>,
    /// How many parts of one object are on their way at once.
    #[serde(default = "super::identity::default_parts_at_once")]
    pub parts_at_once: usize,
    /// How long one request may take, seconds: sending one part, reading one piece.
    #[serde(default = "super::identity::default_timeout_s")]
    pub timeout_s: u64,
}

/// What a bucket is expected to have set. What is not named is shown, and is right as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Expected {
    /// Whether it keeps versions.
    pub versioning: Option<bool>,
    /// New objects are locked for so many days at least.
    pub object_lock_days: Option<u64>,
    /// How new objects are encrypted; `aes256` is met by `aws-kms` as well.
    pub encryption: Option<ServerSideEncryption>,
    /// No rule removes objects that are younger, days.
    pub kept_days: Option<u64>,
}

/// How archived objects are asked back.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Thaw {
    /// For how many days they stay readable, 1 to 30: the store takes money for each.
    pub days: u32,
    /// How fast.
    #[serde(default)]
    pub tier: Tier,
}

/// How fast, and how dear, archived objects come back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tier {
    /// Not from DEEP_ARCHIVE.
    Expedited,
    /// The usual one.
    #[default]
    Standard,
    /// The cheapest.
    Bulk,
}

impl Tier {
    /// As an environment says it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Expedited => "expedited",
            Self::Standard => "standard",
            Self::Bulk => "bulk",
        }
    }

    /// As the protocol does.
    pub(crate) fn protocol(self) -> &'static str {
        match self {
            Self::Expedited => "Expedited",
            Self::Standard => "Standard",
            Self::Bulk => "Bulk",
        }
    }

    /// How long it takes, by Amazon's description (2026), for people.
    pub fn takes(self) -> &'static str {
        match self {
            Self::Expedited => "1 to 5 minutes",
            Self::Standard => "3 to 5 hours (12 from DEEP_ARCHIVE)",
            Self::Bulk => "5 to 12 hours (48 from DEEP_ARCHIVE)",
        }
    }
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

/// Who we are to S3.
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

impl Identity for Credentials {
    fn secrets(&self) -> Vec<(&'static str, Option<&Secret>)> {
        vec![
            ("access-key-id", self.access_key_id.as_ref()),
            ("secret-access-key", self.secret_access_key.as_ref()),
            ("session-token", self.session_token.as_ref()),
        ]
    }

    fn secrets_mut(&mut self) -> Vec<&mut Option<Secret>> {
        vec![&mut self.access_key_id, &mut self.secret_access_key, &mut self.session_token]
    }

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

impl S3Store {
    /// The server that holds the bucket, one text for one: names of buckets are unique at Amazon, whichever of its endpoints is asked.
    pub(super) fn server(&self) -> String {
        let Some(endpoint) = &self.endpoint else { return "s3".into() };
        let Ok(url) = url::Url::parse(endpoint) else { return endpoint.clone() };
        match url.host_str() {
            Some(host) if host == "amazonaws.com" || host.ends_with(".amazonaws.com") => "s3".into(),
            // With the port that it has by its scheme: the same server answers to both.
            Some(host) => format!("{host}:{}", url.port_or_known_default().unwrap_or(0)),
            None => endpoint.clone(),
        }
    }

    /// Who has a right: the one for everything, or the one for this.
    pub fn credentials(&self, right: Right) -> Option<&Credentials> {
        self.credentials.as_ref().or_else(|| self.identity.of(right))
    }

    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::invalid(what));
        if !(3..=63).contains(&self.bucket.len()) || !is_word(&self.bucket) {
            return wrong(format!("`{}` is no name of a bucket", crate::identifier::shown(&self.bucket)));
        }
        if self.region.is_empty() || !is_word(&self.region) {
            return wrong("region: one is needed, like `eu-central-1`; stores without regions take `us-east-1`".into());
        }
        if self.thaw.is_some_and(|thaw| !(1..=30).contains(&thaw.days)) {
            return wrong("thaw.days: 1 to 30".into());
        }
        if matches!(self.storage_class.as_deref(), Some("GLACIER" | "DEEP_ARCHIVE")) {
            return Err(Error::invalid("storage-class: what lies there must be thawed before it can be read")
                .hint("manifests could not even be listed with their content: take GLACIER_IR, or let a rule of the bucket move old objects/"));
        }
        if self.kms_key.is_some() && self.server_side_encryption != Some(ServerSideEncryption::AwsKms) {
            return wrong("kms-key: only with server-side-encryption = \"aws-kms\"".into());
        }
        check_place(&self.prefix, self.endpoint.as_deref())?;
        check_identities(self.credentials.as_ref(), &self.identity)?;
        check_bounds(self.bytes_per_s_max, self.parts_at_once, self.timeout_s)
    }
}
