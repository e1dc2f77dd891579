use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use super::*;
use crate::ErrorKind;
use crate::catalog::manifests;
use crate::restore;
use crate::testing::World;
use crate::upload::{self, Depth};

/// A private key in a file, and its public half.
fn pair(directory: &std::path::Path, name: &str) -> (Secret, String) {
    use age::secrecy::ExposeSecret;
    let identity = x25519::Identity::generate();
    let file = directory.join(name);
    let text = format!("# made by a test\n{}\n", identity.to_string().expose_secret());
    std::fs::write(&file, text).unwrap();
    (Secret { file: Some(file), ..Secret::default() }, identity.to_public().to_string())
}

/// A world whose backups are encrypted for two; the secrets of both.
fn world() -> (World, [Secret; 2]) {
    let mut world = World::new();
    let (one, two) = (pair(world.dir.path(), "one"), pair(world.dir.path(), "two"));
    world.work.encryption = Arc::new(Encryption::new(&[one.1, two.1], None).unwrap());
    (world, [one.0, two.0])
}

fn with_identity(world: &mut World, identity: Option<Secret>) {
    let mut encryption = (*world.work.encryption).clone();
    encryption.identity = identity;
    world.work.encryption = Arc::new(encryption);
}

fn verify(world: &World, backup: &crate::catalog::Backup, depth: Depth) -> Result<Vec<crate::Finding>> {
    upload::verify(&world.cx, &world.store, (&world.work.signing, &world.work.encryption), backup, depth)
}

fn stage(world: &World, backup: &crate::catalog::Backup) -> Result<restore::Candidate> {
    let id = crate::identifier::fresh();
    restore::stage(&world.work, &world.cx, &world.store, &id, backup, "scratch", &restore::Options::default())
}

#[test]
fn what_is_stored_is_opened_by_the_stock_tools_with_either_key() {
    let (world, secrets) = world();
    let backup = world.take().unwrap();
    let manifest = manifests::read(&world.store, "notes", &backup.id, &backup.digest).unwrap();
    assert_eq!(manifest.encryption, world.work.encryption.sealed());
    let object = &manifest.sources[0].objects[0];
    assert!(object.key.ends_with(".zst.age"), "{}", object.key);
    let stored = world.path("local", &object.key);
    for secret in &secrets {
        let mut age = Command::new("age")
            .arg("-d")
            .arg("-i")
            .arg(secret.file.as_ref().unwrap())
            .arg(&stored)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = Command::new("zstd").args(["-d", "-q", "-c"]).stdin(age.stdout.take().unwrap()).output().unwrap();
        assert!(age.wait().unwrap().success() && out.status.success(), "{out:?}");
        assert_eq!(hex::encode(Sha256::digest(&out.stdout)), object.plain_sha256);
        assert_eq!(String::from_utf8(out.stdout).unwrap(), "one\ntwo\n");
    }
}

#[test]
fn without_a_key_that_opens_it_nothing_is_made_and_what_would_open_it_is_named() {
    let (mut world, secrets) = world();
    let backup = world.take().unwrap();
    world.logged();
    let (stranger, public) = pair(world.dir.path(), "stranger");
    let sealed = world.work.encryption.sealed().unwrap();
    for (identity, says) in [(None, "has no private key"), (Some(stranger), "encrypted for others")] {
        with_identity(&mut world, identity);
        assert_eq!(verify(&world, &backup, Depth::Checksum).unwrap(), [], "digests of stored bytes need no key");
        let staged = stage(&world, &backup).unwrap_err();
        let content = verify(&world, &backup, Depth::Content).unwrap_err();
        for error in [staged, content] {
            assert_eq!(error.kind, ErrorKind::Refused);
            assert!(error.message.contains(says) && error.message.contains(&sealed.recipients[1]), "{error}");
            assert!(!error.to_string().contains("SECRET-KEY"), "{error}");
        }
        assert_eq!(world.logged(), Vec::<String>::new(), "no driver was asked for anything");
        assert!(!world.work.state_dir.join("candidates").exists());
    }
    assert!(!sealed.recipients.contains(&fingerprint(&public)));
    for secret in secrets {
        with_identity(&mut world, Some(secret));
        assert_eq!(verify(&world, &backup, Depth::Content).unwrap(), []);
        stage(&world, &backup).unwrap();
    }
}

/// Changes an object in the store, and what the manifest says of its stored bytes: what an attacker who may write both can do where nothing is
/// signed. Gives the finding.
fn changed(change: impl FnOnce(&World, &mut crate::manifest::Manifest)) -> String {
    let (mut world, [secret, _]) = world();
    let backup = world.take().unwrap();
    let mut manifest = manifests::read(&world.store, "notes", &backup.id, &backup.digest).unwrap();
    change(&world, &mut manifest);
    for object in manifest.sources.iter_mut().flat_map(|source| &mut source.objects) {
        let bytes = std::fs::read(world.path("local", &object.key)).unwrap();
        (object.stored_bytes, object.stored_sha256) = (bytes.len() as u64, hex::encode(Sha256::digest(&bytes)));
    }
    std::fs::remove_file(world.path("local", &manifests::key("notes", &backup.id, &backup.digest))).unwrap();
    let digest = manifests::write(&world.cx, &world.store, &manifest, None, &world.work.state_dir).unwrap();
    let backup = crate::catalog::Backup { digest, ..backup };
    assert_eq!(verify(&world, &backup, Depth::Checksum).unwrap(), [], "the manifest was adapted");
    with_identity(&mut world, Some(secret));
    let found = verify(&world, &backup, Depth::Content).unwrap();
    assert!(stage(&world, &backup).is_err());
    assert!(!found.is_empty(), "it passed");
    found.into_iter().map(|finding| finding.message).collect::<Vec<_>>().join("\n")
}

#[test]
fn what_was_changed_is_refused_with_a_reason_also_where_the_manifest_was_adapted() {
    let said = changed(|world, manifest| {
        let path = world.path("local", &manifest.sources[0].objects[0].key);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    });
    assert!(said.contains("can not be opened"), "cut off: {said}");
    let said = changed(|world, manifest| {
        let path = world.path("local", &manifest.sources[0].objects[0].key);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
    });
    assert!(said.contains("can not be opened"), "one bit: {said}");
    let said = changed(|world, manifest| {
        let path = world.path("local", &manifest.sources[0].objects[0].key);
        std::fs::write(path, "no age file").unwrap();
    });
    assert!(said.contains("it is not what age writes") || said.contains("can not be opened"), "another file: {said}");
    let said = changed(|world, manifest| {
        // Stanzas without end: the parser begins anew with each of them.
        let path = world.path("local", &manifest.sources[0].objects[0].key);
        let endless = format!("age-encryption.org/v1\n{}", "-> a\n\n".repeat(1024 * 1024));
        std::fs::write(path, endless).unwrap();
    });
    assert!(said.contains("no header of age"), "a header without end: {said}");
    let said = changed(|world, manifest| {
        let of = |at: usize| world.path("local", &manifest.sources[at].objects[0].key);
        let (one, two) = (std::fs::read(of(0)).unwrap(), std::fs::read(of(1)).unwrap());
        std::fs::write(of(0), two).unwrap();
        std::fs::write(of(1), one).unwrap();
    });
    assert!(said.contains("expected decompressed") || said.contains("decompresses to more"), "swapped: {said}");
    let said = changed(|world, manifest| {
        // Encrypted for a stranger, whose fingerprint the manifest does not name.
        let stranger = x25519::Identity::generate();
        let plain = zstd::encode_all(&b"one\ntwo\n"[..], 1).unwrap();
        let sealed = age::encrypt(&stranger.to_public(), &plain).unwrap();
        std::fs::write(world.path("local", &manifest.sources[0].objects[0].key), sealed).unwrap();
    });
    assert!(said.contains("none of the keys here opens it"), "for others: {said}");
}

#[test]
fn an_encrypted_dump_that_ends_early_is_no_backup() {
    let (world, _) = world();
    let cx = world.cx.ended_at("dumped db");
    let taken = crate::dump::take(&world.work, &cx, &world.store, &crate::dump::Options::default());
    assert_eq!(taken.unwrap_err().kind, ErrorKind::Cancelled);
    assert!(cx.cancelled.load(Ordering::Relaxed), "it came to that place");
    assert!(manifests::present(&world.store, "notes").unwrap().is_empty());
}

#[test]
fn a_private_key_among_the_recipients_is_not_shown() {
    let secret = "AGE-SECRET-KEY-1QQQQ";
    let error = Encryption::new(&[secret.into()], None).unwrap_err();
    assert!(!error.to_string().contains(secret) && error.to_string().contains("private key"), "{error}");
}

#[test]
fn what_a_manifest_says_of_encryption_is_hostile_until_it_was_checked() {
    let sealed = |format: &str, recipients: &[&str]| Sealed {
        format: format.into(),
        recipients: recipients.iter().map(|text| (*text).to_owned()).collect(),
    };
    let good = "0123456789abcdef0123456789abcdef";
    sealed(FORMAT, &[good]).check().unwrap();
    for bad in [&[][..], &["x"], &[good, "\u{1b}[2J"], &[good; 65]] {
        assert!(sealed(FORMAT, bad).check().is_err(), "{bad:?}");
    }
    let newer = Encryption::default().key(Some(&sealed("age/2", &["?"]))).unwrap_err();
    assert!(newer.message.contains("age/2") && newer.hint.unwrap().contains("newer"));
}
