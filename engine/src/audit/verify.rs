//! Verifying a log: that it is consistent in itself, and that it is the one of which somebody holds a checkpoint.

use std::fmt;
use std::io::{BufRead, Read};

use host_api::note::Note;

use super::checkpoint::{CHECKPOINT, Checkpoint};
use super::keys::verifiers;
use super::note::{Trust, Verifier};
use super::rotation::{ROTATION, Rotation};
use crate::error::{Error, Kind, Result};
use crate::journal::{State, Walk};

/// SQLite keeps no longer text, so no record's line is longer: a policy may say 64 MiB with one record, and an escape makes six bytes of one. A
/// file without line feeds must not fill the memory.
const LINE_BYTES_MAX: u64 = 1_000_000_000;

/// A checkpoint that somebody holds.
#[derive(Debug)]
pub struct Held {
    /// What messages call it: its file's name.
    pub called: String,
    checkpoint: Checkpoint,
    note: Note,
}

impl Held {
    /// Reads one; `called` is what messages call it.
    pub fn parse(called: &str, text: &str) -> Result<Self> {
        let (checkpoint, note) =
            Checkpoint::parse(text).map_err(|flaw| wrong(format!("checkpoint {called}: {flaw}")))?;
        Ok(Self { called: called.to_owned(), checkpoint, note })
    }
}

/// What a checkpoint proves of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proven {
    /// Up to which record.
    pub size: u64,
    /// The key's name.
    pub key: String,
    /// When it was signed, Unix milliseconds.
    pub time_ms: u64,
}

/// A log in which nothing is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Records.
    pub records: u64,
    /// SHA-256 of the last one.
    pub head: String,
    /// What the checkpoint that reaches farthest proves, if one was held.
    pub complete: Option<Proven>,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(Proven { size, key, time_ms }) = &self.complete else {
            return write!(f, "consistent up to record {}, end not provable", self.records);
        };
        let at = host_api::identifier::utc(*time_ms);
        write!(f, "complete up to record {size}, signed by {key} at {at}")?;
        match self.records - size {
            0 => Ok(()),
            after => write!(f, "; records after it: {after}, consistent, their end is not provable"),
        }
    }
}

/// Verifies the log of a state, as it is at one moment, and what is derived from it.
pub async fn verify_state(state: &State, held: &[Held], trust: Option<&Trust>) -> Result<Verdict> {
    let own = Trust::of(verifiers(state).await?);
    judge(&state.walk(start(held)).await?, held, trust.unwrap_or(&own))
}

/// Verifies exported lines. Without keys nothing is trusted, so no checkpoint holds.
pub fn verify_lines(lines: &mut dyn BufRead, held: &[Held], trust: &Trust) -> Result<Verdict> {
    let mut walk = start(held);
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = lines.take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let failed = |why: String| wrong(format!("record {}: {why}", walk.records() + 1));
        if read.map_err(|e| failed(e.to_string()))? == 0 {
            return judge(&walk, held, trust);
        }
        let whole = line.strip_suffix(b"\n").ok_or_else(|| failed("its line does not end".into()))?;
        walk.line(whole)?;
    }
}

fn start(held: &[Held]) -> Walk {
    Walk::new(held.iter().map(|h| h.checkpoint.size))
}

/// Holds rotations and checkpoints against what was walked over.
fn judge(walk: &Walk, held: &[Held], trust: &Trust) -> Result<Verdict> {
    let epochs = Epochs::read(walk)?;
    let mut complete: Option<Proven> = None;
    for held in held {
        let proven =
            check(held, walk, &epochs, trust).map_err(|why| wrong(format!("checkpoint {}: {why}", held.called)))?;
        if complete.as_ref().is_none_or(|best| best.size < proven.size) {
            complete = Some(proven);
        }
    }
    Ok(Verdict { records: walk.records(), head: walk.head().to_owned(), complete })
}

/// Which key signs which part of the log.
struct Epochs(Vec<(u64, Rotation)>);

impl Epochs {
    /// Every rotation must follow the one before.
    fn read(walk: &Walk) -> Result<Self> {
        let mut rotations: Vec<(u64, Rotation)> = Vec::new();
        for (seq, text) in walk.rotations() {
            let broken = |why: String| wrong(format!("record {seq}: its key rotation: {why}"));
            let rotation = Rotation::parse(text).map_err(broken)?;
            let expected = rotations.len() as u64 + 2;
            if rotation.epoch != expected {
                return Err(broken(format!("epoch {} where {expected} begins", rotation.epoch)));
            }
            if rotations.last().is_some_and(|(_, before)| before.new != rotation.old) {
                return Err(broken("its old key is not the one that signed until here".into()));
            }
            rotations.push((*seq, rotation));
        }
        Ok(Self(rotations))
    }

    /// The epoch of a log that ends with this record.
    fn at(&self, size: u64) -> u64 {
        1 + self.0.iter().filter(|(seq, _)| *seq <= size).count() as u64
    }

    /// The key of an epoch, as the rotations name it.
    fn key(&self, epoch: u64) -> Option<&Verifier> {
        match epoch {
            1 => self.0.first().map(|(_, rotation)| &rotation.old),
            epoch => self.0.iter().find(|(_, rotation)| rotation.epoch == epoch).map(|(_, rotation)| &rotation.new),
        }
    }

    /// Whether a key that may sign rotations is linked with the others by them: both keys sign each.
    fn linked(&self, trust: &Trust) -> bool {
        self.0.iter().any(|(_, r)| trust.allows(&r.old, ROTATION) || trust.allows(&r.new, ROTATION))
    }
}

fn check(held: &Held, walk: &Walk, epochs: &Epochs, trust: &Trust) -> Result<Proven, String> {
    let Checkpoint { origin, size, head, time_ms, epoch, .. } = &held.checkpoint;
    let signed_by = held.note.names().first().map(|name| host_api::identifier::shown(name)).unwrap_or_default();
    let name = super::rotation::key_name(origin, *epoch);
    let key = epochs.key(*epoch).or_else(|| trust.named(&name));
    // What somebody says of a key counts; of one that they don't know, the keys that they do.
    let key = key.filter(|key| match trust.knows(key) {
        true => trust.allows(key, CHECKPOINT),
        false => epochs.linked(trust),
    });
    let key = key.ok_or_else(|| format!("it is signed by {signed_by}, and no trusted key may sign it"))?;
    held.note.verify(&[key])?;
    if key.name != name {
        return Err(format!("it is of the log {origin}, its key of another"));
    }
    let hash = match walk.hash(*size) {
        Some(hash) if *size <= walk.records() => hash,
        _ => return Err(format!("it has {size} records, the log {}: the end was cut off", walk.records())),
    };
    if hash != head {
        return Err(format!("record {size} is not the one it was made of: the log was changed there or before"));
    }
    if epochs.at(*size) != *epoch {
        return Err(format!(
            "it is signed by the key of epoch {epoch}, at record {size} it was epoch {}",
            epochs.at(*size)
        ));
    }
    Ok(Proven { size: *size, key: key.name.clone(), time_ms: *time_ms })
}

fn wrong(message: String) -> Error {
    Error::new(Kind::VerificationFailed, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Engine;
    use crate::audit::keys::parse;
    use crate::audit::note::{NAMES, Signer};
    use crate::journal::{By, Change, RunRow, Transition};

    fn by() -> By {
        By { actor: "alice@host1".into(), channel: "cli".into() }
    }

    /// An engine whose log had its key changed once: the old key, and a checkpoint from before.
    async fn rotated(directory: &std::path::Path) -> (Engine, Signer, Held) {
        let engine = Engine::builder().state_directory(directory).without_compile_cache().build().await.unwrap();
        let (_, before) = engine.checkpoint(None).await.unwrap();
        let old = parse(&std::fs::read_to_string(directory.join("keys/1.key")).unwrap()).unwrap();
        let (_, warnings) = engine.rotate_key(&by()).await.unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        (engine, old, Held::parse("before", &before).unwrap())
    }

    async fn now(engine: &Engine) -> (Checkpoint, Held) {
        let (checkpoint, signed) = engine.checkpoint(None).await.unwrap();
        (checkpoint, Held::parse("now", &signed).unwrap())
    }

    #[tokio::test]
    async fn each_checkpoint_is_held_against_the_key_of_its_epoch_and_either_key_leads_to_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, old, before) = rotated(directory.path()).await;
        let (checkpoint, after) = now(&engine).await;
        assert_eq!((checkpoint.size, checkpoint.epoch), (1, 2));
        let new = engine.signing_key().await.unwrap().0;
        for trust in [Trust::of([old.verifier.clone()]), Trust::of([new.clone()])] {
            let verdict = verify_state(engine.state(), &[], Some(&trust)).await.unwrap();
            assert_eq!(verdict.complete, None);
            let proven =
                verify_state(engine.state(), std::slice::from_ref(&after), Some(&trust)).await.unwrap().complete;
            assert_eq!(proven.unwrap().key, new.name);
            let proven =
                verify_state(engine.state(), std::slice::from_ref(&before), Some(&trust)).await.unwrap().complete;
            assert_eq!(proven.unwrap().key, old.verifier.name);
        }
        // A key that may not sign rotations leads nowhere.
        let alone = Trust::parse(&format!("{new} {CHECKPOINT}")).unwrap();
        let error = verify_state(engine.state(), &[before], Some(&alone)).await.unwrap_err();
        assert!(error.message.contains("no trusted key may sign it"), "{error}");
    }

    #[tokio::test]
    async fn an_old_key_that_a_crash_has_left_is_gone_after_the_next_use() {
        let directory = tempfile::tempdir().unwrap();
        let engine = Engine::builder().state_directory(directory.path()).without_compile_cache().build().await.unwrap();
        engine.signing_key().await.unwrap();
        let path = directory.path().join("keys/1.key");
        let old = std::fs::read(&path).unwrap();
        engine.rotate_key(&by()).await.unwrap();
        // As it is if the engine dies between the record and the removal.
        std::fs::write(&path, old).unwrap();
        engine.checkpoint(None).await.unwrap();
        assert!(!path.exists() && directory.path().join("keys/2.key").exists());
    }

    #[tokio::test]
    async fn the_longest_record_that_a_policy_can_bring_about_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).await.unwrap();
        let row = RunRow { id: "r1".into(), ..RunRow::default() };
        let body = json!({"said": [{"note": "\u{1}".repeat(11 << 20)}]});
        state.append("r1", &by(), Transition::RunStarted, None, body, &[Change::RunBegins(row)]).await.unwrap();
        let line = state.lines("r1").await.unwrap().concat() + "\n";
        assert!(line.len() > 64 << 20);
        assert_eq!(verify_lines(&mut line.as_bytes(), &[], &Trust::default()).unwrap().records, 1);
    }

    #[tokio::test]
    async fn a_key_whose_epoch_is_over_signs_nothing_any_more() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, old, _) = rotated(directory.path()).await;
        let (checkpoint, _) = now(&engine).await;
        let stale = Checkpoint { epoch: 1, ..checkpoint.clone() }.signed(&old);
        let error = verify_state(engine.state(), &[Held::parse("stale", &stale).unwrap()], None).await.unwrap_err();
        assert!(error.message.contains("signed by the key of epoch 1, at record 1 it was epoch 2"), "{error}");
        let claimed = checkpoint.signed(&old);
        let error = verify_state(engine.state(), &[Held::parse("claimed", &claimed).unwrap()], None).await.unwrap_err();
        assert!(error.message.contains("signed by another key"), "{error}");
    }

    #[tokio::test]
    async fn a_rotation_that_does_not_follow_the_one_before_is_found_where_it_stands() {
        let directory = tempfile::tempdir().unwrap();
        let (engine, old, _) = rotated(directory.path()).await;
        let origin = old.verifier.name.split('/').next().unwrap().to_owned();
        let key = |name: &str, seed| Signer::new(&format!("{origin}/{name}"), &[seed; 32], NAMES).unwrap();
        for (run, text, why) in [
            // The old key was stolen, and is used once more.
            ("r2", Rotation::signed(&origin, 2, &old, &key("2", 2)), "epoch 2 where 3 begins"),
            ("r3", Rotation::signed(&origin, 3, &key("2", 2), &key("3", 3)), "its old key is not the one"),
            ("r4", "lifeboat/key-rotation/1\n".to_owned(), "no empty line"),
        ] {
            let other = tempfile::tempdir().unwrap();
            let copy = State::open(other.path()).await.unwrap();
            let records =
                engine.state().records(&engine.state().runs(&Default::default()).await.unwrap()[0].id).await.unwrap();
            let first = records[0].body["rotation"].clone();
            copy.append("r1", &by(), Transition::KeyRotated, None, json!({"rotation": first}), &[]).await.unwrap();
            copy.append(run, &by(), Transition::KeyRotated, None, json!({"rotation": text}), &[]).await.unwrap();
            let mut lines = String::new();
            copy.export(None, |line| {
                lines.push_str(&format!("{line}\n"));
                Ok(())
            })
            .await
            .unwrap();
            let error = verify_lines(&mut lines.as_bytes(), &[], &Trust::default()).unwrap_err();
            assert!(
                error.message.starts_with("record 2: its key rotation: ") && error.message.contains(why),
                "{error}"
            );
        }
    }
}
