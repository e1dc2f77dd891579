use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::*;
use crate::catalog::{self, Backup, manifests};
use crate::manifest::Manifest;
use crate::probe::Probe;
use crate::real::RealHost;
use crate::restore::{Candidate, Options, stage, verify};
use crate::testing::World;
use crate::upload::{Depth, Upload};
use crate::{ErrorKind, Severity};

const ID: &str = "20261123t061534123z-7k3f9q";

/// A key of a name in a file below a directory.
fn key(directory: &Path, name: &str) -> (PathBuf, crate::note::Verifier) {
    let path = directory.join(format!("{name}-{}.key", crate::identifier::fresh()));
    let verifier = make_key(&path, name).unwrap();
    (path, verifier)
}

fn trust(lines: &[String]) -> Trust {
    Trust::parse(&lines.join("\n"), &FAMILY).unwrap()
}

/// A world that signs with a key and trusts it for all, and the key's file.
fn signed_world() -> (World, PathBuf) {
    let mut world = World::new();
    let (path, verifier) = key(world.dir.path(), "backups");
    world.work.signing = Arc::new(Signing::new(Some(path.clone()), Some(Trust::of([verifier], &FAMILY))));
    (world, path)
}

fn standing(world: &World, backup: &Backup) -> Signature {
    catalog::state(&world.cx, &world.store, &world.work.signing, backup).unwrap().signature
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Whether the manifest of these bytes, under the key that fits them, is refused: as no manifest, or as one of nobody who is trusted.
fn refused(world: &World, bytes: &[u8]) -> bool {
    let holds = |(_, note): (_, Option<Note>)| world.work.signing.judge(note.as_ref(), MANIFEST).refused.is_none();
    !Manifest::decode(bytes, &sha256(bytes)).is_ok_and(holds)
}

#[test]
fn a_signed_backup_is_one_object_and_is_whose_it_says() {
    let (world, path) = signed_world();
    let backup = world.take().unwrap();
    let manifest_key = manifests::key("notes", &backup.id, &backup.digest);
    let text = std::fs::read_to_string(world.path("local", &manifest_key)).unwrap();
    let mut lines = text.lines();
    assert_eq!(lines.next(), Some(MANIFEST));
    let json = lines.next().unwrap();
    assert_eq!((lines.next(), lines.clone().count()), (Some(""), 1));
    assert!(lines.next().unwrap().starts_with("\u{2014} backups "));
    let manifest = manifests::read(&world.store, "notes", &backup.id, &backup.digest).unwrap();
    assert_eq!(manifest.encode(None).unwrap().0, json.as_bytes());
    let signer = read_key(&path).unwrap();
    assert_eq!(manifest.encode(Some(&signer)).unwrap(), (text.into_bytes(), backup.digest.clone()));
    let signature = standing(&world, &backup);
    assert_eq!((signature.standing, signature.signer.as_deref()), (Standing::Trusted, Some("backups")));
    assert_eq!(signature.words(), "signed by backups, which is trusted here");
    // Nothing else is in the store than without a signature.
    let unsigned = World::new();
    unsigned.take().unwrap();
    assert_eq!(world.stored("local").len(), unsigned.stored("local").len());
}

#[test]
fn every_flipped_bit_of_a_signed_manifest_is_refused_under_the_key_that_fits_it() {
    let (world, _) = signed_world();
    let backup = world.take().unwrap();
    let path = world.path("local", &manifests::key("notes", &backup.id, &backup.digest));
    let mut bytes = std::fs::read(path).unwrap();
    assert!(!refused(&world, &bytes));
    let mut count = 0;
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(refused(&world, &bytes), "bit {bit}");
        bytes[bit / 8] ^= 1 << (bit % 8);
        count += 1;
    }
    for end in 0..bytes.len() {
        assert!(refused(&world, &bytes[..end]), "cut at {end}");
        count += 1;
    }
    assert_eq!(count, bytes.len() * 9);
}

/// Texts that somebody who can write the store could put there in the place of a signed manifest, each with why it is refused.
fn forgeries(
    world: &World,
    path: &Path,
    backup: &Backup,
    other: &Backup,
) -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let signer = read_key(path).unwrap();
    let read = |backup: &Backup| manifests::read(&world.store, "notes", &backup.id, &backup.digest).unwrap();
    let text = |backup: &Backup| {
        let key = manifests::key("notes", &backup.id, &backup.digest);
        std::fs::read_to_string(world.path("local", &key)).unwrap()
    };
    let (good, manifest, others) = (text(backup), read(backup), text(other));
    let json = String::from_utf8(manifest.encode(None).unwrap().0).unwrap();
    let line = |note: &str| note.lines().last().unwrap().to_owned();
    let mut changed = manifest.clone();
    changed.label = Some("forged".into());
    let changed = String::from_utf8(changed.encode(None).unwrap().0).unwrap();
    let (same_name, _) = key(world.dir.path(), "backups");
    let (stranger, _) = key(world.dir.path(), "stranger");
    let by = |path: &Path| manifest.encode(Some(&read_key(path).unwrap())).unwrap().0;
    let verified = String::from_utf8(encode(VERIFIED, &json, Some(&signer))).unwrap();
    let log = Signer::new("log/1", &[1; 32], Names::Epochs).unwrap();
    vec![
        ("unsigned", json.clone().into_bytes(), "it is not signed"),
        (
            "changed, the old signature",
            good.replace(&json, &changed).into_bytes(),
            "its signature by backups does not hold",
        ),
        ("another manifest's signature", good.replace(&line(&good), &line(&others)).into_bytes(), "does not hold"),
        ("another key of the same name", by(&same_name), "another key than the trusted one of the name backups"),
        ("a key that nobody trusts", by(&stranger), "signed by stranger, which is not trusted here"),
        ("a text of another kind", verified.clone().into_bytes(), "it is no lifeboat/manifest/1"),
        (
            "the signature of a text of another kind",
            good.replace(&line(&good), &line(&verified)).into_bytes(),
            "does not hold",
        ),
        ("two signatures", format!("{good}{}\n", line(&good)).into_bytes(), "2 signatures"),
        ("no signature", format!("{MANIFEST}\n{json}\n\n").into_bytes(), "does not end"),
        ("no empty line", format!("{MANIFEST}\n{json}\n").into_bytes(), "no empty line"),
        ("a line of its own after it", format!("{good}note\n").into_bytes(), "is no signature"),
        ("a key of a log", note::sign(&format!("{MANIFEST}\n{json}\n"), &[&log]).into_bytes(), "is no name of a key"),
        (
            "JSON that is not canonical",
            encode(MANIFEST, &json.replacen(",\"", ", \"", 1), Some(&signer)),
            "its JSON is not canonical",
        ),
        (
            "a field twice",
            encode(MANIFEST, &json.replacen('{', "{\"attempt\":\"x\",", 1), Some(&signer)),
            "duplicate field",
        ),
        ("a line more", encode(MANIFEST, &format!("{json}\n{json}"), Some(&signer)), "a line too many"),
        ("nothing", Vec::new(), "EOF"),
    ]
}

#[test]
fn what_is_not_signed_by_who_may_is_refused_before_a_driver_sees_it() {
    let (mut world, path) = signed_world();
    let (backup, other) = (world.take().unwrap(), world.take().unwrap());
    let forged = forgeries(&world, &path, &backup, &other);
    // One that may sign verifications, and no manifests.
    let verifier = read_key(&path).unwrap().verifier;
    let good = world.path("local", &manifests::key("notes", &backup.id, &backup.digest));
    let text = std::fs::read(&good).unwrap();
    std::fs::remove_file(&good).unwrap();
    world.logged();
    let tried = |world: &World, what: &str, bytes: &[u8], why: &str| {
        let digest = sha256(bytes);
        let here = world.path("local", &manifests::key("notes", &backup.id, &digest));
        std::fs::write(&here, bytes).unwrap();
        let backup = Backup { digest, ..backup.clone() };
        let says = |e: Error| {
            assert!(e.message.contains(why), "{what}: {e}");
            e
        };
        says(world.staged(&backup).unwrap_err());
        says(world.copied(&backup).unwrap_err());
        let [finding] = world.looked_at(&backup).try_into().unwrap();
        assert!(finding.severity == Severity::Error && finding.message.contains(why), "{what}: {finding:?}");
        assert_eq!(world.logged(), Vec::<String>::new(), "{what}");
        assert!(!world.work.candidate_dir(ID).exists(), "{what}");
        assert!(world.stored("offsite").is_empty(), "{what}");
        std::fs::remove_file(&here).unwrap();
    };
    for (what, bytes, why) in &forged {
        tried(&world, what, bytes, why);
    }
    world.work.signing = Arc::new(Signing::new(None, Some(trust(&[format!("{verifier} {VERIFIED}")]))));
    tried(&world, "by a key for verifications", &text, "backups may not sign lifeboat/manifest/1 here");
    // The good one passes all of it.
    world.work.signing = Arc::new(Signing::new(None, Some(trust(&[format!("{verifier} {MANIFEST}")]))));
    std::fs::write(&good, &text).unwrap();
    assert_eq!(world.looked_at(&backup), []);
    world.staged(&backup).unwrap();
    world.copied(&backup).unwrap();
    assert_eq!(world.stored("offsite").len() * 2, world.stored("local").len());
}

#[test]
fn without_trust_all_is_as_it_was_and_says_whose_it_is() {
    let world = World::new();
    let unsigned = world.take().unwrap();
    assert_eq!(standing(&world, &unsigned).words(), "unsigned");
    let (mut world, path) = signed_world();
    world.work.signing = Arc::new(Signing::new(Some(path), None));
    let backup = world.take().unwrap();
    let signature = standing(&world, &backup);
    assert_eq!(signature.words(), "signed by backups, not held against any trust");
    assert_eq!((signature.standing, signature.refused), (Standing::NotHeld, None));
    world.work.signing = Arc::default();
    let candidate = world.staged(&backup).unwrap();
    assert!(verify(&world.work, &world.cx, &world.store, &candidate).unwrap().passed);
    world.copied(&backup).unwrap();
    // Here it was not signed; where signatures are asked for, it does not count.
    let state = |world: &World| catalog::state(&world.cx, &world.store, &world.work.signing, &backup).unwrap();
    assert!(state(&world).verified_at_ms.is_some() && state(&world).verified_by.is_none());
    let (world, _) = trusting(world);
    assert!(state(&world).verified_at_ms.is_none());
}

/// The world with another key, which is trusted beside all that are named in its manifests as `backups`.
fn trusting(mut world: World) -> (World, Trust) {
    let mut lines = String::new();
    for entry in std::fs::read_dir(world.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "key") {
            let verifier = read_key(&path).unwrap().verifier;
            lines.push_str(&format!("{verifier} {MANIFEST}\n"));
        }
    }
    let (path, verifier) = key(world.dir.path(), "drills");
    let trust = Trust::parse(&format!("{lines}{verifier} {VERIFIED}\n"), &FAMILY).unwrap();
    world.work.signing = Arc::new(Signing::new(Some(path), Some(trust.clone())));
    (world, trust)
}

#[test]
fn a_verification_counts_if_it_is_signed_by_who_may_sign_verifications() {
    let (world, _) = signed_world();
    let backup = world.take().unwrap();
    let (mut world, trust) = trusting(world);
    let state = |world: &World| catalog::state(&world.cx, &world.store, &world.work.signing, &backup).unwrap();
    let latest = |world: &World| {
        catalog::latest(&world.cx, &world.store, &world.work.signing, "notes", true).unwrap().map(|backup| backup.id)
    };
    let candidate = world.staged(&backup).unwrap();
    assert_eq!(verify(&world.work, &world.cx, &world.store, &candidate).unwrap().findings, []);
    assert_eq!((state(&world).verified_by.as_deref(), latest(&world)), (Some("drills"), Some(backup.id.clone())));

    let folder = world.dir.path().join("local/notes/records").join(&backup.id);
    let record = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(text.starts_with("lifeboat/verified/1\n{\"at-ms\":"), "{text}");
    let json = text.lines().nth(1).unwrap().to_owned();
    let line = text.lines().last().unwrap().to_owned();
    // The manifest's own key may not sign verifications.
    let by_manifests = |json: &str| {
        let path = std::fs::read_dir(world.dir.path()).unwrap().map(|e| e.unwrap().path());
        let path = path.into_iter().find(|p| p.to_string_lossy().contains("backups-")).unwrap();
        encode(VERIFIED, json, Some(&read_key(&path).unwrap()))
    };
    for (what, bytes) in [
        ("unsigned", json.clone().into_bytes()),
        ("changed", text.replacen("\"rows\":2", "\"rows\":3", 1).into_bytes()),
        ("by a key for manifests", by_manifests(&json)),
        ("the signature of another text", format!("{VERIFIED}\n{}\n\n{line}\n", json.replace(ID, "x")).into_bytes()),
        ("of another manifest", text.replace(&backup.digest, &"0".repeat(64)).into_bytes()),
    ] {
        std::fs::write(&record, bytes).unwrap();
        assert_eq!((state(&world).verified_at_ms, latest(&world)), (None, None), "{what}");
    }
    // What is no record is an error, as before.
    for (bytes, why) in [
        (text.replace("=\n", "\n"), "base64"),
        (text.replacen(VERIFIED, MANIFEST, 1), "it is no lifeboat/verified/1"),
        (format!("{text}{line}\n"), "2 signatures"),
        (text.replacen(",\"", ", \"", 1), "not canonical"),
    ] {
        std::fs::write(&record, bytes).unwrap();
        let error = catalog::state(&world.cx, &world.store, &world.work.signing, &backup).unwrap_err();
        assert!(error.message.contains(why), "{why}: {error}");
    }

    // Who may not sign verifications verifies all the same, and says that nobody will know.
    std::fs::remove_file(&record).unwrap();
    world.work.signing = Arc::new(Signing::new(None, Some(trust)));
    let verification = verify(&world.work, &world.cx, &world.store, &candidate).unwrap();
    assert!(verification.passed);
    let [finding] = &verification.findings[..] else { panic!("{verification:?}") };
    assert!(finding.rule == "verification-record" && finding.fix.contains("lifeboat keys make"), "{finding:?}");
    assert!(!record.exists());
}

#[test]
fn what_was_read_and_found_whole_is_put_on_record_by_who_may_sign_that() {
    let (mut world, path) = signed_world();
    let backup = world.take().unwrap();
    let state = |world: &World| catalog::state(&world.cx, &world.store, &world.work.signing, &backup).unwrap();
    let attest = |world: &World, depth| world.block(world.host().attest(&world.cx, &backup, depth));
    let folder = world.dir.path().join("local/notes/records").join(&backup.id);
    assert_eq!(attest(&world, Depth::Exists).unwrap_err().kind, ErrorKind::Invalid);

    // Damage is found, and is nothing to put on record.
    let manifest = manifests::read(&world.store, "notes", &backup.id, &backup.digest).unwrap();
    let object = world.path("local", &manifest.sources[0].objects[0].key);
    let good = std::fs::read(&object).unwrap();
    std::fs::write(&object, vec![0; good.len()]).unwrap();
    assert_eq!(attest(&world, Depth::Checksum).unwrap().len(), 1);
    assert!(!folder.exists());
    std::fs::write(&object, good).unwrap();

    assert_eq!(attest(&world, Depth::Checksum).unwrap(), []);
    // The same step again finds its record there.
    assert_eq!(attest(&world, Depth::Checksum).unwrap(), []);
    let found = state(&world);
    assert_eq!((found.checked_depth, found.checked_by.as_deref()), (Some(Depth::Checksum), Some("backups")));
    assert!(found.checked_at_ms.is_some());
    // It restored nothing, so nothing is verified by it.
    assert!(found.verified_at_ms.is_none());
    let record = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let text = std::fs::read_to_string(&record).unwrap();
    assert!(text.starts_with("lifeboat/checked/1\n{\"at-ms\":"), "{text}");
    for (what, text) in [
        ("unsigned", text.lines().nth(1).unwrap().to_owned()),
        ("changed", text.replace("checksum", "content")),
        ("of another manifest", text.replace(&backup.digest, &"0".repeat(64))),
    ] {
        std::fs::write(&record, text).unwrap();
        assert_eq!(state(&world).checked_at_ms, None, "{what}");
    }
    std::fs::write(&record, text.replacen("checked/1", "verified/1", 1)).unwrap();
    assert!(catalog::state(&world.cx, &world.store, &world.work.signing, &backup).is_err());
    std::fs::remove_file(&record).unwrap();

    // One that may not sign such texts, and none at all.
    let verifier = read_key(&path).unwrap().verifier;
    let manifests_only = trust(&[format!("{verifier} {MANIFEST}")]);
    for signing in [Signing::new(Some(path), Some(manifests_only)), Signing::default()] {
        world.work.signing = Arc::new(signing);
        assert_eq!(attest(&world, Depth::Checksum).unwrap_err().kind, ErrorKind::Refused);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    }
}

#[test]
fn nothing_is_dumped_that_would_be_refused_afterwards() {
    let (mut world, path) = signed_world();
    let other = key(world.dir.path(), "other").1;
    let unreadable = world.dir.path().join("nowhere.key");
    let readable_by_all = key(world.dir.path(), "loose").0;
    std::fs::set_permissions(&readable_by_all, std::fs::Permissions::from_mode(0o640)).unwrap();
    let trusted = || Some(trust(&[format!("{other} {MANIFEST}")]));
    for (key, trust, kind, why) in [
        (None, trusted(), ErrorKind::Refused, "has no key to sign one with"),
        (Some(path), trusted(), ErrorKind::Refused, "may not sign lifeboat/manifest/1 by this environment's own trust"),
        (Some(unreadable), None, ErrorKind::Failed, "nowhere.key"),
        (Some(readable_by_all), None, ErrorKind::Refused, "others may read it"),
    ] {
        world.work.signing = Arc::new(Signing::new(key, trust));
        let error = world.take().unwrap_err();
        assert!(error.kind == kind && error.message.contains(why), "{error}");
        assert_eq!(world.logged(), Vec::<String>::new());
        assert!(world.stored("local").is_empty());
    }
}

#[test]
fn what_an_attempt_made_is_only_what_is_signed() {
    let (world, _) = signed_world();
    let backup = world.take().unwrap();
    let manifest = manifests::read(&world.store, "notes", &backup.id, &backup.digest).unwrap();
    let of_attempt = |attempt: &str| {
        world
            .block(world.host().backup_of_attempt(&world.cx, "notes", "local", attempt))
            .unwrap()
            .map(|backup| backup.id)
    };
    assert_eq!(of_attempt(&manifest.attempt), Some(backup.id));
    // Somebody who can write the store says that this is what the attempt made.
    let mut forged = manifest.clone();
    forged.id = "20991231T235959999z-forged".into();
    forged.attempt = "20991231T235959999z-forged-1-1".into();
    for object in forged.sources.iter_mut().flat_map(|source| &mut source.objects) {
        object.key = object.key.replace(&manifest.id, &forged.id);
    }
    manifests::write(&world.cx, &world.store, &forged, None, &world.work.state_dir).unwrap();
    assert_eq!(of_attempt(&forged.attempt), None);
}

#[test]
fn a_key_is_made_once_private_and_is_read_from_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("signing.key");
    let verifier = make_key(&path, "backups").unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(read_key(&path).unwrap().verifier, verifier);
    let text = std::fs::read_to_string(&path).unwrap();
    let error = make_key(&path, "backups").unwrap_err();
    assert!(error.kind == ErrorKind::Conflict && error.message.contains("is there already"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    for name in ["", "a b", "a/1", "a+b", "../x", &"a".repeat(65)] {
        assert_eq!(make_key(&directory.path().join("x"), name).unwrap_err().kind, ErrorKind::Invalid, "{name}");
    }
    assert!(make_key(&directory.path().join("nowhere/x"), "backups").is_err());

    let secret = text.trim_end().splitn(5, '+').last().unwrap().to_owned();
    let private = std::fs::Permissions::from_mode(0o600);
    for spoilt in [text.replace(&secret, &secret[4..]), text.replace("+backups+", "+backup+"), "x".repeat(10_000)] {
        std::fs::write(&path, &spoilt).unwrap();
        std::fs::set_permissions(&path, private.clone()).unwrap();
        let error = read_key(&path).err().unwrap().to_string();
        assert!(error.contains("no private key for backups") && !error.contains(&secret[4..]), "{error}");
    }
    for mode in [0o604, 0o640, 0o660, 0o601] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(read_key(&path).err().unwrap().kind, ErrorKind::Refused, "{mode:o}");
    }
    assert!(read_key(directory.path()).err().unwrap().message.contains("it is no file"));
}

impl World {
    /// A host over the same stores, for what the doubles need not be asked.
    fn host(&self) -> RealHost {
        let stores = ["local", "offsite"].map(|name| {
            let path = self.dir.path().join(name);
            (name.to_owned(), crate::bindings::Store::Directory(crate::bindings::DirectoryStore { path }))
        });
        let services = [("notes".to_owned(), self.work.service.clone())].into();
        let host = RealHost::new(services, &stores.into(), &self.dir.path().join("state")).unwrap();
        RealHost { signing: self.work.signing.clone(), ..host }
    }

    fn block<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    fn staged(&self, backup: &Backup) -> Result<Candidate> {
        stage(&self.work, &self.cx, &self.store, ID, backup, "scratch", &Options::default())
    }

    fn copied(&self, backup: &Backup) -> Result<Backup> {
        self.block(self.host().copy(&self.cx, backup, "offsite"))
    }

    fn looked_at(&self, backup: &Backup) -> Vec<crate::Finding> {
        self.block(self.host().verify(&self.cx, backup, Depth::Content)).unwrap()
    }
}
