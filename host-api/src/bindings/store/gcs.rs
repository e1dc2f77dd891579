//! A bucket of Google Cloud Storage.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::identity::{Identities, Identity, Right, check_bounds, check_identities, check_place, is_word};
use crate::bindings::Secret;
use crate::error::{Error, Result};

/// A bucket as a store. Uploads go in pieces of 8 MiB, one after the other: a conditional upload has no other way there.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GcsStore {
    /// The bucket; it must exist.
    pub bucket: String,
    /// What all keys in it begin with; without a slash at either end.
    #[serde(default)]
    pub prefix: String,
    /// Base URL; without it `https://storage.googleapis.com`.
    pub endpoint: Option<String>,
    /// PEM file with the roots to trust for the endpoint, instead of the machine's own.
    pub ca_file: Option<PathBuf>,
    /// Storage class of new objects. All of them are read without waiting, also `ARCHIVE`.
    pub storage_class: Option<String>,
    /// One identity for everything.
    pub credentials: Option<GcsCredentials>,
    /// Or one for each right.
    #[serde(default)]
    pub identity: Identities<GcsCredentials>,
    /// Most bytes a second, to the store and from it together.
    pub bytes_per_s_max: Option<u64>,
    /// How long one request may take, seconds: sending or reading one piece.
    #[serde(default = "super::identity::default_timeout_s")]
    pub timeout_s: u64,
}

/// Who we are to Google.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GcsCredentials {
    /// The JSON text of a service account's key.
    pub service_account: Option<Secret>,
    /// An access token of OAuth 2.
    pub access_token: Option<Secret>,
    /// Instead: whatever the machine has: `GOOGLE_APPLICATION_CREDENTIALS`, `gcloud`, the metadata server.
    #[serde(default)]
    pub default_chain: bool,
}

impl Identity for GcsCredentials {
    fn secrets(&self) -> Vec<(&'static str, Option<&Secret>)> {
        vec![("service-account", self.service_account.as_ref()), ("access-token", self.access_token.as_ref())]
    }

    fn secrets_mut(&mut self) -> Vec<&mut Option<Secret>> {
        vec![&mut self.service_account, &mut self.access_token]
    }

    fn check(&self) -> Result<()> {
        let given = [self.service_account.is_some(), self.access_token.is_some(), self.default_chain];
        match given.into_iter().filter(|is_given| *is_given).count() {
            1 => Ok(()),
            _ => Err(Error::invalid(
                "credentials need exactly one of `service-account`, `access-token` and `default-chain`",
            )),
        }
    }
}

impl GcsStore {
    /// Who has a right: the one for everything, or the one for this.
    pub fn credentials(&self, right: Right) -> Option<&GcsCredentials> {
        self.credentials.as_ref().or_else(|| self.identity.of(right))
    }

    pub(super) fn check(&self) -> Result<()> {
        if !(3..=222).contains(&self.bucket.len()) || !is_word(&self.bucket) {
            let shown = crate::identifier::shown(&self.bucket);
            return Err(Error::invalid(format!("`{shown}` is no name of a bucket")));
        }
        check_place(&self.prefix, self.endpoint.as_deref())?;
        check_identities(self.credentials.as_ref(), &self.identity)?;
        check_bounds(self.bytes_per_s_max, 1, self.timeout_s)
    }
}
