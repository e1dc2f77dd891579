//! Who may do what in a store that is somewhere else, and what such stores have in common.

use serde::{Deserialize, Serialize};

use super::s3::Credentials;
use crate::bindings::Secret;
use crate::error::{Error, Result};
use crate::stores::check_key;

pub(super) fn default_parts_at_once() -> usize {
    4
}

pub(super) fn default_timeout_s() -> u64 {
    120
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

/// Identities of a store by what each may do there. What is not named can't be done.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Identities<C = Credentials> {
    /// Puts new objects, and no more.
    pub write: Option<C>,
    /// Lists and reads.
    pub read: Option<C>,
    /// Removes.
    pub delete: Option<C>,
}

impl<C> Default for Identities<C> {
    fn default() -> Self {
        Self { write: None, read: None, delete: None }
    }
}

impl<C> Identities<C> {
    /// Who has a right.
    pub fn of(&self, right: Right) -> Option<&C> {
        match right {
            Right::Write => self.write.as_ref(),
            Right::Read => self.read.as_ref(),
            Right::Delete => self.delete.as_ref(),
        }
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = &mut C> {
        [&mut self.write, &mut self.read, &mut self.delete].into_iter().flatten()
    }
}

/// The secrets by which a kind of store knows who asks.
pub trait Identity {
    /// All it may have, by their keys.
    fn secrets(&self) -> Vec<(&'static str, Option<&Secret>)>;
    /// The same, to make their paths absolute.
    fn secrets_mut(&mut self) -> Vec<&mut Option<Secret>>;
    /// Whether they are enough, and not too many.
    ///
    /// # Errors
    ///
    /// If not; it says what is missing.
    fn check(&self) -> Result<()>;
}

/// Every secret of these, with words for people.
pub(super) fn secrets<'a, C: Identity>(
    credentials: Option<&'a C>,
    identity: &'a Identities<C>,
) -> Vec<(String, &'a Secret)> {
    let named = Right::ALL.map(|right| (format!("identity.{}", right.word()), identity.of(right)));
    let all = [("credentials".to_owned(), credentials)];
    let mut found = Vec::new();
    for (who, credentials) in all.into_iter().chain(named) {
        let Some(credentials) = credentials else { continue };
        let secrets = credentials.secrets();
        found.extend(secrets.into_iter().filter_map(|(key, secret)| Some((format!("{who}.{key}"), secret?))));
    }
    found
}

/// Of letters, digits and `.`, `_`, `-`.
pub(super) fn is_word(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

pub(super) fn check_place(prefix: &str, endpoint: Option<&str>) -> Result<()> {
    if !prefix.is_empty() {
        // Room for our own keys, below the protocols' 1,024 bytes.
        check_key(prefix).map_err(|e| e.context("prefix"))?;
        if prefix.len() > 200 {
            return Err(Error::invalid("prefix: at most 200 bytes"));
        }
    }
    if let Some(endpoint) = endpoint {
        let url = url::Url::parse(endpoint).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none()
        });
        if url.is_none_or(|url| url.query().is_some() || url.fragment().is_some()) {
            return Err(Error::invalid("endpoint: an http or https URL without user, password and query"));
        }
    }
    Ok(())
}

pub(super) fn check_identities<C: Identity>(credentials: Option<&C>, identity: &Identities<C>) -> Result<()> {
    let given: Vec<_> = Right::ALL.into_iter().filter_map(|right| identity.of(right)).collect();
    match (credentials, given.is_empty()) {
        (Some(_), false) => {
            return Err(Error::invalid("both `credentials` and `identity` are given: take one of the two out"));
        }
        (None, true) => {
            return Err(Error::invalid("neither `credentials` nor an `identity` is given").hint(
                "[environment.E.store.S.identity.write] with the secrets of whoever puts backups there, and no more",
            ));
        }
        _ => {}
    }
    credentials.into_iter().chain(given).try_for_each(Identity::check)
}

pub(super) fn check_bounds(bytes_per_s_max: Option<u64>, parts_at_once: usize, timeout_s: u64) -> Result<()> {
    let bounds = [
        ("bytes-per-s-max", bytes_per_s_max.unwrap_or(1024), 1024..=u64::MAX),
        ("parts-at-once", parts_at_once as u64, 1..=16),
        ("timeout-s", timeout_s, 1..=3600),
    ];
    for (key, value, bounds) in bounds {
        if !bounds.contains(&value) {
            return Err(Error::invalid(format!("{key}: {} to {}, not {value}", bounds.start(), bounds.end())));
        }
    }
    Ok(())
}
