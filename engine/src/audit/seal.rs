//! Making checkpoints of the log and putting them where they outlive it; changing the key that signs them.

use std::sync::Arc;
use std::time::Duration;

use host_api::bindings;
use host_api::context::StepContext;
use host_api::identifier::{fresh, now_ms};
use host_api::stores::ObjectStore;
use serde_json::json;

use super::checkpoint::Checkpoint;
use super::keys::{Keys, verifiers};
use super::note::{Trust, Verifier};
use super::rotation::{Rotation, key_name};
use crate::Engine;
use crate::error::{Error, Kind, Result};
use crate::journal::{By, Change, RunRow, Transition};
use crate::reporting::{CHECKPOINT_FILE, write_evidence};

/// What stands in messages for the store's name.
const NAME: &str = "checkpoints";
/// How long the end of a run waits for that store: a run that could not put its checkpoint warns, and is over.
const PUT_LIMIT: Duration = Duration::from_secs(60);

/// A place where checkpoints are put and never looked at: putting is all that the engine must be able to do there.
#[derive(Debug, Clone)]
pub struct CheckpointStore(Arc<ObjectStore>);

impl CheckpointStore {
    /// The store that the configuration describes.
    pub fn open(binding: &bindings::Store) -> Result<Self> {
        Ok(Self(Arc::new(ObjectStore::open(NAME, binding)?)))
    }

    /// Blocks. One that is there already has the same size and head.
    fn put(&self, checkpoint: &Checkpoint, signed: &str) -> Result<()> {
        let Checkpoint { origin, size, head, .. } = checkpoint;
        let store = self.0.in_step(&StepContext::detached(NAME, PUT_LIMIT));
        store.put_if_absent(&format!("{origin}/{size:020}-{}.txt", &head[..16]), signed.as_bytes())?;
        Ok(())
    }
}

impl Engine {
    /// A signed checkpoint of the log as it is now. `run`: at whose end it is made.
    pub async fn checkpoint(&self, run: Option<&str>) -> Result<(Checkpoint, String)> {
        let keys = Keys::hold(self.state()).await?;
        // Looked at while the keys are held: the epoch is that of the head.
        let head = self.state().head().await?;
        let signer = keys.signer(head.epoch).await?;
        let checkpoint = Checkpoint {
            origin: origin_of(&signer.verifier),
            size: head.size,
            head: head.hash,
            time_ms: now_ms(),
            run: run.map(str::to_owned),
            epoch: head.epoch,
        };
        let signed = checkpoint.signed(&signer);
        Ok((checkpoint, signed))
    }

    /// Puts a checkpoint into the store for them, if there is one.
    pub async fn keep_checkpoint(&self, checkpoint: &Checkpoint, signed: &str) -> Result<()> {
        let Some(store) = self.checkpoint_store().cloned() else { return Ok(()) };
        let (checkpoint, signed) = (checkpoint.clone(), signed.to_owned());
        tokio::task::spawn_blocking(move || store.put(&checkpoint, &signed))
            .await
            .map_err(|e| Error::new(Kind::Failed, format!("putting the checkpoint: {e}")))?
    }

    /// A checkpoint at a run's end, in its evidence and in the store for them. The run is over and on record: what fails is a warning.
    pub(crate) async fn seal(&self, run: &str) -> Vec<String> {
        let (checkpoint, signed) = match self.checkpoint(Some(run)).await {
            Ok(made) => made,
            Err(error) => return vec![format!("the log was not sealed with a checkpoint: {error}")],
        };
        let mut warnings = Vec::new();
        if let Err(error) = write_evidence(self.state().directory(), run, CHECKPOINT_FILE, signed.as_bytes()) {
            warnings.push(format!("the evidence has no {CHECKPOINT_FILE}: {}", error.message));
        }
        if let Err(error) = self.keep_checkpoint(&checkpoint, &signed).await {
            warnings.push(format!("the checkpoint of record {} is not in its store: {error}", checkpoint.size));
        }
        warnings
    }

    /// The key that signs now, as a line of trust. Made if there is none.
    pub async fn signing_key(&self) -> Result<(Verifier, u64, Trust)> {
        let keys = Keys::hold(self.state()).await?;
        let epoch = self.state().head().await?.epoch;
        let verifier = keys.signer(epoch).await?.verifier;
        Ok((verifier.clone(), epoch, Trust::of([verifier])))
    }

    /// Signs with a new key from here on. The change is signed by both keys and stands in the log as a run of one record; a crash before
    /// that record leaves the old key in use. Gives the run, and warnings.
    pub async fn rotate_key(&self, by: &By) -> Result<(String, Vec<String>)> {
        let run = fresh();
        let mut warnings = Vec::new();
        {
            let keys = Keys::hold(self.state()).await?;
            let epoch = self.state().head().await?.epoch;
            let old = keys.signer(epoch).await?;
            let origin = origin_of(&old.verifier);
            let new = keys.made(&origin, epoch + 1)?;
            if new.verifier.name != key_name(&origin, epoch + 1) {
                return Err(Error::new(
                    Kind::Journal,
                    format!("the next signing key is of another log: {}", new.verifier.name),
                )
                .hint("remove it from the state directory's keys/: nothing was signed with it"));
            }
            let rotation = Rotation::signed(&origin, epoch + 1, &old, &new);
            let summary = format!("the log is signed by {} from here on", new.verifier.name);
            let row = RunRow {
                id: run.clone(),
                environment: "none".into(),
                policy: "audit-rotate-key".into(),
                module_sha256: "none".into(),
                ..RunRow::default()
            };
            let changes = [
                Change::RunBegins(row),
                Change::RunStatus("ok".into(), summary, Some(now_ms())),
                Change::KeyRotates(epoch + 1, new.verifier.to_string()),
            ];
            let body = json!({"by-hand": true, "epoch": epoch + 1, "rotation": rotation});
            self.state().append(&run, by, Transition::KeyRotated, None, body, &changes).await?;
            if let Err(e) = keys.forget(epoch) {
                warnings.push(format!("the old signing key could not be removed: {e}"));
            }
        }
        warnings.extend(self.seal(&run).await);
        Ok((run, warnings))
    }

    /// The keys of this state, as whoever verifies its log here trusts them.
    pub async fn own_keys(&self) -> Result<Trust> {
        Ok(Trust::of(verifiers(self.state()).await?))
    }
}

fn origin_of(verifier: &Verifier) -> String {
    verifier.name.split('/').next().unwrap_or_default().to_owned()
}
