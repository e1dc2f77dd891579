//! The log's signing keys: private files of the state directory, one an epoch, made at their first use.
//!
//! Which epoch it is, the log says: one more than there are rotations in it. A file of the next epoch that no record names was never used.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use super::note::{NAMES, Signer, Verifier, verifier};
use super::rotation::key_name;
use crate::error::{Error, Kind, Result};
use crate::journal::State;

/// The keys of a state, held: no other engine makes or changes one meanwhile.
pub(crate) struct Keys<'s> {
    state: &'s State,
    directory: PathBuf,
    lock: File,
}

impl Drop for Keys<'_> {
    fn drop(&mut self) {
        // Not only closed: another thread's child holds a copy between its fork and its exec.
        let _ = self.lock.unlock();
    }
}

impl<'s> Keys<'s> {
    pub(crate) async fn hold(state: &'s State) -> Result<Self> {
        let directory = state.directory().join("keys");
        let failed =
            |e: &dyn std::fmt::Display| Error::new(Kind::Journal, format!("signing keys {}: {e}", directory.display()));
        let lock = || -> std::io::Result<File> {
            DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            OpenOptions::new().create(true).append(true).mode(0o600).open(directory.join("lock"))
        };
        let lock = lock().map_err(|e| failed(&e))?;
        // Waited for on a thread made for waiting: who holds it may need the others to let go of it.
        let locked = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await;
        let lock = locked.map_err(|e| failed(&e))?.map_err(|e| failed(&e))?;
        Ok(Self { state, directory, lock })
    }

    /// The key of the epoch that the log is in.
    pub(crate) async fn signer(&self, epoch: u64) -> Result<Signer> {
        let mut known = self.state.signing_keys().await?;
        if known.is_empty() {
            let signer = self.made(&host_api::identifier::fresh(), 1)?;
            if self.state.first_signing_key(&signer.verifier.to_string()).await? {
                return Ok(signer);
            }
            // Another engine on the same state, with a directory of its own, was faster: the log is signed with its key.
            known = self.state.signing_keys().await?;
        }
        let Some(verifier) = known.last() else {
            return Err(Error::new(Kind::Journal, "the state forgets the log's signing key"));
        };
        if known.len() as u64 != epoch {
            let why = format!("the log is in epoch {epoch} of its signing key, the state knows {} keys", known.len());
            return Err(Error::new(Kind::Journal, why));
        }
        let signer = self.read(epoch)?.ok_or_else(|| self.gone(epoch))?;
        if signer.verifier.to_string() != *verifier {
            let why = format!("{} is not the key that the log is signed with", self.path(epoch).display());
            return Err(Error::new(Kind::Journal, why).hint(self.where_it_is()));
        }
        // An engine that died right after a rotation has left it. What can't be removed is tried again the next time.
        let _ = self.forget(epoch - 1);
        Ok(signer)
    }

    fn gone(&self, epoch: u64) -> Error {
        let what = if self.state.is_shared() { "not on this host" } else { "gone" };
        Error::new(Kind::Journal, format!("signing key {} is {what}", self.path(epoch).display()))
            .hint(format!("{}: the log can be verified without it, but nothing new is signed", self.where_it_is()))
    }

    /// What to do about a key that is missing.
    fn where_it_is(&self) -> &'static str {
        match self.state.is_shared() {
            true => "copy keys/ from the state directory of an engine that has it (mode 0700)",
            false => "put it back from a copy of the state directory",
        }
    }

    /// The key of an epoch, made unless there is one.
    pub(crate) fn made(&self, origin: &str, epoch: u64) -> Result<Signer> {
        if let Some(signer) = self.read(epoch)? {
            return Ok(signer);
        }
        let seed = super::random()?;
        let signer =
            Signer::new(&key_name(origin, epoch), &seed, NAMES).map_err(|flaw| Error::new(Kind::Failed, flaw))?;
        self.write(epoch, &signer.private(&seed))
            .map_err(|e| Error::new(Kind::Journal, format!("signing key {}: {e}", self.path(epoch).display())))?;
        Ok(signer)
    }

    /// Removes what nothing is signed with any more, so that it can't be stolen.
    pub(crate) fn forget(&self, epoch: u64) -> std::io::Result<()> {
        std::fs::remove_file(self.path(epoch))?;
        File::open(&self.directory)?.sync_all()
    }

    fn path(&self, epoch: u64) -> PathBuf {
        self.directory.join(format!("{epoch}.key"))
    }

    fn write(&self, epoch: u64, text: &str) -> std::io::Result<()> {
        let temporary = self.directory.join(format!(".{epoch}.key.tmp"));
        let mut file = OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, self.path(epoch))?;
        File::open(&self.directory)?.sync_all()
    }

    fn read(&self, epoch: u64) -> Result<Option<Signer>> {
        let path = self.path(epoch);
        let failed = |why: String| Error::new(Kind::Journal, format!("signing key {}: {why}", path.display()));
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e.to_string())),
        };
        let mode = std::fs::metadata(&path).map_err(|e| failed(e.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(failed("others may read it".into()).hint(format!("chmod 600 {}", path.display())));
        }
        // Not said what is wrong with it: a part of it could be quoted.
        parse(&text).map(Some).ok_or_else(|| failed("it is no private key of ours".into()))
    }
}

pub(super) fn parse(text: &str) -> Option<Signer> {
    Signer::from_private(text, NAMES)
}

/// The verifiers that a state knows.
pub(crate) async fn verifiers(state: &State) -> Result<Vec<Verifier>> {
    let known = state.signing_keys().await?;
    known
        .iter()
        .map(|text| {
            verifier(text)
                .map_err(|flaw| Error::new(Kind::VerificationFailed, format!("a signing key in the state: {flaw}")))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_is_made_once_private_and_missed_when_it_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).await.unwrap();
        let first = Keys::hold(&state).await.unwrap().signer(1).await.unwrap().verifier;
        let path = directory.path().join("keys/1.key");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Keys::hold(&state).await.unwrap().signer(1).await.unwrap().verifier, first);
        assert_eq!(verifiers(&state).await.unwrap(), [first]);

        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(
            Keys::hold(&state).await.unwrap().signer(1).await.err().unwrap().message.contains("others may read it")
        );
        std::fs::remove_file(&path).unwrap();
        let error = Keys::hold(&state).await.unwrap().signer(1).await.err().unwrap();
        assert!(error.message.contains("is gone") && error.hint.is_some(), "{error}");
        Keys::hold(&state).await.unwrap().made("another", 1).unwrap();
        let error = Keys::hold(&state).await.unwrap().signer(1).await.err().unwrap();
        assert!(error.message.contains("is not the key"), "{error}");
        let secret = text.trim_end().splitn(5, '+').last().unwrap();
        for spoilt in [text.replace(secret, &secret[4..]), text.replacen("/1+", "/2+", 1), text.trim_end().to_owned()] {
            std::fs::write(&path, &spoilt).unwrap();
            let error = Keys::hold(&state).await.unwrap().signer(1).await.err().unwrap();
            assert!(
                error.message.contains("no private key of ours") && !error.message.contains(&secret[4..]),
                "{error}"
            );
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_at_once_wait_for_the_keys_and_not_for_each_other() {
        let directory = tempfile::tempdir().unwrap();
        let state = std::sync::Arc::new(State::open(directory.path()).await.unwrap());
        let signing = (0..16).map(|_| {
            let state = state.clone();
            tokio::spawn(async move {
                let keys = Keys::hold(&state).await.unwrap();
                // Others of this runtime ask for them meanwhile.
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                keys.signer(1).await.unwrap().verifier
            })
        });
        let signed = futures::future::join_all(signing);
        let first = Keys::hold(&state).await.unwrap().signer(1).await.unwrap().verifier;
        assert!(signed.await.into_iter().all(|verifier| verifier.unwrap() == first));
    }

    #[tokio::test]
    async fn a_key_that_was_made_before_a_crash_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).await.unwrap();
        let made = Keys::hold(&state).await.unwrap().made("log", 1).unwrap().verifier;
        assert!(state.signing_keys().await.unwrap().is_empty(), "the crash was before it was remembered");
        assert_eq!(Keys::hold(&state).await.unwrap().signer(1).await.unwrap().verifier, made);
    }
}
