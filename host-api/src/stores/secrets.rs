//! The secrets of an identity of a store, as they are now.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::bindings::Secret;
use crate::error::{Error, Result};

/// How long what a secret's command printed is used, unless the store refuses it: a vault need not be asked for each of ten thousand parts.
const COMMAND_VALID: Duration = Duration::from_secs(60);

/// What was read, in the order of the secrets; none where the environment names none.
pub(super) type Texts = Vec<Option<String>>;

/// The secrets of an identity. Files and variables are read again for each request, so whoever renews them is noticed at once; what a
/// command prints is used for a while, and no longer once the store has refused it.
pub(super) struct Held {
    secrets: Vec<Option<Secret>>,
    printed: Mutex<Option<(Instant, Texts)>>,
    /// Why they could not be read last time: opendal's error would not say.
    failed: Mutex<Option<Error>>,
}

impl Held {
    pub(super) fn new(secrets: Vec<Option<Secret>>) -> Self {
        Self { secrets, printed: Mutex::default(), failed: Mutex::default() }
    }

    /// Why they could not be read, once.
    pub(super) fn take_failure(&self) -> Option<Error> {
        lock(&self.failed).take()
    }

    /// Puts on record why they could not be read, or that they could: what failed before is no reason for what fails next.
    pub(super) fn note(&self, failed: Option<Error>) {
        *lock(&self.failed) = failed;
    }

    /// Reads them. Blocks.
    pub(super) fn read(&self) -> Result<Texts> {
        self.unless(|at, _| at.elapsed() < COMMAND_VALID)
    }

    /// Reads them anew, because the store has refused `used`; what another request has read anew meanwhile will do. Blocks.
    pub(super) fn renewed(&self, used: &Texts) -> Result<Texts> {
        self.unless(|at, texts| at.elapsed() < COMMAND_VALID && texts != used)
    }

    fn unless(&self, good: impl Fn(&Instant, &Texts) -> bool) -> Result<Texts> {
        // Held while a command runs: of several requests one asks the vault.
        let mut printed = lock(&self.printed);
        if let Some((at, texts)) = &*printed
            && good(at, texts)
        {
            return Ok(texts.clone());
        }
        *printed = None;
        let texts = self.secrets.iter().map(|s| s.as_ref().map(Secret::read).transpose()).collect::<Result<Texts>>()?;
        if self.secrets.iter().flatten().any(|secret| secret.command.is_some()) {
            *printed = Some((Instant::now(), texts.clone()));
        }
        Ok(texts)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
