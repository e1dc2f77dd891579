//! A container of Azure Blob Storage.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::identity::{Identities, Identity, Right, check_bounds, check_identities, check_place};
use crate::bindings::Secret;
use crate::error::{Error, Result};

/// A container as a store.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AzureStore {
    /// The storage account's name.
    pub account: String,
    /// The container; it must exist.
    pub container: String,
    /// What all keys in it begin with; without a slash at either end.
    #[serde(default)]
    pub prefix: String,
    /// Base URL of the account; without it `https://ACCOUNT.blob.core.windows.net`.
    pub endpoint: Option<String>,
    /// PEM file with the roots to trust for the endpoint, instead of the machine's own.
    pub ca_file: Option<PathBuf>,
    /// One identity for everything.
    pub credentials: Option<AzureCredentials>,
    /// Or one for each right.
    #[serde(default)]
    pub identity: Identities<AzureCredentials>,
    /// Most bytes a second, to the store and from it together.
    pub bytes_per_s_max: Option<u64>,
    /// How many blocks of one object are on their way at once.
    #[serde(default = "super::identity::default_parts_at_once")]
    pub parts_at_once: usize,
    /// How long one request may take, seconds: sending one block, reading one piece.
    #[serde(default = "super::identity::default_timeout_s")]
    pub timeout_s: u64,
}

/// Who we are to Azure.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AzureCredentials {
    /// The account's key: it may do everything with every container of the account.
    pub account_key: Option<Secret>,
    /// A shared access signature, the text behind the `?`: it may do what it says.
    pub sas_token: Option<Secret>,
    /// Instead: whatever the machine has: variables, workload identity, managed identity.
    #[serde(default)]
    pub default_chain: bool,
}

impl Identity for AzureCredentials {
    fn secrets(&self) -> Vec<(&'static str, Option<&Secret>)> {
        vec![("account-key", self.account_key.as_ref()), ("sas-token", self.sas_token.as_ref())]
    }

    fn secrets_mut(&mut self) -> Vec<&mut Option<Secret>> {
        vec![&mut self.account_key, &mut self.sas_token]
    }

    fn check(&self) -> Result<()> {
        let given = [self.account_key.is_some(), self.sas_token.is_some(), self.default_chain];
        match given.into_iter().filter(|is_given| *is_given).count() {
            1 => Ok(()),
            _ => Err(Error::invalid("credentials need exactly one of `sas-token`, `account-key` and `default-chain`")),
        }
    }
}

impl AzureStore {
    /// Who has a right: the one for everything, or the one for this.
    pub fn credentials(&self, right: Right) -> Option<&AzureCredentials> {
        self.credentials.as_ref().or_else(|| self.identity.of(right))
    }

    /// Base URL of the account.
    pub fn endpoint(&self) -> String {
        let own = || format!("https://{}.blob.core.windows.net", self.account);
        self.endpoint.as_deref().map_or_else(own, |given| given.trim_end_matches('/').to_owned())
    }

    pub(super) fn check(&self) -> Result<()> {
        let small = |text: &str, more: &[u8]| {
            text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || more.contains(&b))
        };
        let shown = crate::identifier::shown;
        if !(3..=24).contains(&self.account.len()) || !small(&self.account, b"") {
            return Err(Error::invalid(format!("`{}` is no name of a storage account", shown(&self.account))));
        }
        if !(3..=63).contains(&self.container.len()) || !small(&self.container, b"-") {
            return Err(Error::invalid(format!("`{}` is no name of a container", shown(&self.container))));
        }
        check_place(&self.prefix, self.endpoint.as_deref())?;
        check_identities(self.credentials.as_ref(), &self.identity)?;
        check_bounds(self.bytes_per_s_max, self.parts_at_once, self.timeout_s)
    }
}
