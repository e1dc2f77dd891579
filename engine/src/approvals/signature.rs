//! SSH keys, and signatures over the text of an intent as `ssh-keygen -Y sign` makes them (SSHSIG).
//!
//! What is verified is made here: from the text, the namespace that is expected and a configured key. An armor gives only the bytes of the
//! signature and the names of its algorithms, so that reading one wrongly can refuse a good signature, but not accept another.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{self as verifiers, RsaPublicKeyComponents, UnparsedPublicKey};
use sha2::{Digest, Sha256, Sha512};

use super::wire::{Malformed, Reader, put};

/// No armor of a known kind of key comes near this; no public key either.
const ARMOR_BYTES_MAX: usize = 16 << 10;
const BEGIN: &str = "-----BEGIN SSH SIGNATURE-----";
const END: &str = "-----END SSH SIGNATURE-----";
/// Where ssh-keygen breaks the lines of an armor.
const LINE_CHARS: usize = 70;
const MAGIC: &[u8] = b"SSHSIG";
const VERSION: u32 = 1;
/// Bytes of the numbers of an RSA key: what `ring` verifies.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
/// Bytes of each of the two numbers of a P-256 signature.
const SCALAR_BYTES: usize = 32;
/// Flag of a hardware key: someone touched it.
const TOUCHED: u8 = 1;

/// The public key of an approver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// As on the wire; begins with the name of its kind.
    wire: Vec<u8>,
    name: String,
    point: Point,
    /// Of a hardware key: the application it was made for.
    application: Option<Vec<u8>>,
}

/// What a signature is verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Point {
    Ed25519(Vec<u8>),
    P256(Vec<u8>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
}

/// A signature, read but not verified.
#[derive(Debug, Clone)]
pub struct Signature {
    armor: String,
    /// The key that it says made it, as on the wire.
    key: Vec<u8>,
    namespace: String,
    hash: Hash,
    algorithm: String,
    bytes: Vec<u8>,
    /// Of a hardware key: flags and counter.
    trailer: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Hash {
    Sha256,
    Sha512,
}

impl Key {
    /// Reads one line as in an `id_….pub`. The error says what is wrong with it.
    pub fn read(line: &str) -> Result<Self, String> {
        let no_key = || "is no SSH public key".to_owned();
        let mut words = line.split_ascii_whitespace();
        let (Some(name), Some(encoded)) = (words.next(), words.next()) else { return Err(no_key()) };
        if line.trim().lines().count() != 1 || line.len() > ARMOR_BYTES_MAX {
            return Err(no_key());
        }
        let wire = STANDARD.decode(encoded).map_err(|_| no_key())?;
        let mut reader = Reader(&wire);
        if reader.text() != Ok(name) {
            return Err(no_key());
        }
        let (point, application) = match name {
            "ssh-ed25519" | "ecdsa-sha2-nistp256" | "ssh-rsa" => point(name, &mut reader).map(|p| (p, None)),
            "sk-ssh-ed25519@openssh.com" | "sk-ecdsa-sha2-nistp256@openssh.com" => {
                point(name, &mut reader).and_then(|p| Ok((p, Some(reader.string()?.to_vec()))))
            }
            other => return Err(format!("is of a kind that is not taken: {}", host_api::identifier::shown(other))),
        }
        .and_then(|parts| reader.end().map(|()| parts))
        .map_err(|_| no_key())?;
        if let Point::Rsa { n, .. } = &point
            && !RSA_BYTES.contains(&n.len())
        {
            return Err(format!("is an RSA key of {} bits: 2048 to 8192 are taken", n.len() * 8));
        }
        Ok(Self { name: name.to_owned(), point, application, wire })
    }

    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.wire)
    }

    /// The key without its comment, `ssh-ed25519 AAAA…`.
    pub fn line(&self) -> String {
        format!("{} {}", self.name, STANDARD.encode(&self.wire))
    }

    /// Whether this key says to have made a signature.
    pub fn is_of(&self, signature: &Signature) -> bool {
        self.wire == signature.key
    }

    /// Whether this key made the signature, in this namespace, over exactly this text. The error says what is wrong.
    pub fn verify(&self, namespace: &str, text: &str, signature: &Signature) -> Result<(), String> {
        if !self.is_of(signature) {
            return Err(format!("is made by another key, {}", signature.fingerprint()));
        }
        if signature.namespace != namespace {
            let shown = host_api::identifier::shown(&signature.namespace);
            return Err(format!("is made for another purpose: its namespace is `{shown}`, not `{namespace}`"));
        }
        let mut signed = MAGIC.to_vec();
        put(&mut signed, namespace.as_bytes());
        put(&mut signed, b"");
        match signature.hash {
            Hash::Sha256 => (put(&mut signed, b"sha256"), put(&mut signed, &Sha256::digest(text))),
            Hash::Sha512 => (put(&mut signed, b"sha512"), put(&mut signed, &Sha512::digest(text))),
        };
        match (&self.application, signature.trailer.as_slice()) {
            (None, []) => {}
            // A hardware key also signs without a touch, if it is told to; then any program of its owner's could have asked it.
            (Some(_), [flags, ..]) if flags & TOUCHED == 0 => {
                return Err("is made by a hardware key that nobody touched".into());
            }
            (Some(application), trailer @ [_, _, _, _, _]) => {
                signed = [&Sha256::digest(application)[..], trailer, &Sha256::digest(&signed)[..]].concat();
            }
            _ => return Err("is not of the kind of its key".into()),
        }
        self.verify_bytes(&signed, signature).map_err(|()| "is not one of this text".to_owned())
    }

    fn verify_bytes(&self, signed: &[u8], signature: &Signature) -> Result<(), ()> {
        let verified = match (&self.point, signature.algorithm.as_str()) {
            (Point::Ed25519(point), name) if name == self.name => {
                UnparsedPublicKey::new(&verifiers::ED25519, point).verify(signed, &signature.bytes)
            }
            (Point::P256(point), name) if name == self.name => {
                let fixed = scalars(&signature.bytes).map_err(|Malformed| ())?;
                UnparsedPublicKey::new(&verifiers::ECDSA_P256_SHA256_FIXED, point).verify(signed, &fixed)
            }
            (Point::Rsa { n, e }, "rsa-sha2-512") => {
                RsaPublicKeyComponents { n, e }.verify(&verifiers::RSA_PKCS1_2048_8192_SHA512, signed, &signature.bytes)
            }
            (Point::Rsa { n, e }, "rsa-sha2-256") => {
                RsaPublicKeyComponents { n, e }.verify(&verifiers::RSA_PKCS1_2048_8192_SHA256, signed, &signature.bytes)
            }
            _ => return Err(()),
        };
        verified.map_err(|_| ())
    }
}

/// What follows the name of a kind of key.
fn point(name: &str, reader: &mut Reader<'_>) -> Result<Point, Malformed> {
    match name {
        "ssh-rsa" => {
            let (e, n) = (reader.large_number()?, reader.large_number()?);
            Ok(Point::Rsa { n: n.to_vec(), e: e.to_vec() })
        }
        "ssh-ed25519" | "sk-ssh-ed25519@openssh.com" => match reader.string()? {
            point if point.len() == 32 => Ok(Point::Ed25519(point.to_vec())),
            _ => Err(Malformed),
        },
        _ => match (reader.text()?, reader.string()?) {
            // Not compressed.
            ("nistp256", point) if point.len() == 1 + 2 * SCALAR_BYTES && point[0] == 4 => {
                Ok(Point::P256(point.to_vec()))
            }
            _ => Err(Malformed),
        },
    }
}

/// The two numbers of an ECDSA signature, each in 32 bytes.
fn scalars(bytes: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut reader = Reader(bytes);
    let mut fixed = Vec::with_capacity(2 * SCALAR_BYTES);
    for _ in 0..2 {
        let number = reader.large_number()?;
        let zeros = SCALAR_BYTES.checked_sub(number.len()).ok_or(Malformed)?;
        fixed.extend(std::iter::repeat_n(0, zeros));
        fixed.extend_from_slice(number);
    }
    reader.end()?;
    Ok(fixed)
}

fn fingerprint(wire: &[u8]) -> String {
    format!("SHA256:{}", STANDARD.encode(Sha256::digest(wire)).trim_end_matches('='))
}

impl Signature {
    /// Reads the armor, `-----BEGIN SSH SIGNATURE-----` and so on. One signature has one armor: another spelling of the same is refused.
    pub fn read(armor: &str) -> Result<Self, String> {
        if armor.len() > ARMOR_BYTES_MAX {
            return Err(format!("is longer than {ARMOR_BYTES_MAX} bytes"));
        }
        let armor = armor.trim().replace("\r\n", "\n");
        let no_signature = || "is no SSH signature".to_owned();
        let inside = armor.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)).ok_or_else(no_signature)?;
        let blob = STANDARD.decode(inside.replace('\n', "")).map_err(|_| no_signature())?;
        if armored(&blob) != armor {
            return Err("is not spelled as ssh-keygen spells it".into());
        }
        Self::read_blob(&blob).map(|read| Self { armor, ..read }).map_err(|Malformed| no_signature())
    }

    fn read_blob(blob: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(blob);
        if reader.bytes(MAGIC.len())? != MAGIC || reader.number()? != VERSION {
            return Err(Malformed);
        }
        let (key, namespace, reserved) = (reader.string()?, reader.text()?, reader.string()?);
        let hash = match reader.string()? {
            b"sha256" => Hash::Sha256,
            b"sha512" => Hash::Sha512,
            _ => return Err(Malformed),
        };
        let mut inner = Reader(reader.string()?);
        reader.end()?;
        let (algorithm, bytes) = (inner.text()?, inner.string()?);
        // What is reserved means nothing yet.
        if !reserved.is_empty() || !matches!(inner.0.len(), 0 | 5) {
            return Err(Malformed);
        }
        Ok(Self {
            armor: String::new(),
            key: key.to_vec(),
            namespace: namespace.to_owned(),
            hash,
            algorithm: algorithm.to_owned(),
            bytes: bytes.to_vec(),
            trailer: inner.0.to_vec(),
        })
    }

    /// Its armor, without a line end at the end.
    pub fn armor(&self) -> &str {
        &self.armor
    }

    /// Fingerprint of the key that it says made it.
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.key)
    }
}

/// The armor of a signature, as ssh-keygen writes it; no line end at its end.
fn armored(blob: &[u8]) -> String {
    let encoded = STANDARD.encode(blob);
    let mut lines = vec![BEGIN];
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(LINE_CHARS));
        lines.push(line);
        rest = after;
    }
    lines.push(END);
    lines.join("\n")
}

#[cfg(test)]
pub(crate) mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair};

    use super::*;

    const ED25519: &str = "ssh-ed25519";
    const SK_ED25519: &str = "sk-ssh-ed25519@openssh.com";
    const SK_P256: &str = "sk-ecdsa-sha2-nistp256@openssh.com";
    const YES: &str = "approval@lifeboat";

    /// A key pair that is the same each time.
    fn pair(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
    }

    fn wire(name: &str, seed: u8) -> Vec<u8> {
        let mut wire = Vec::new();
        put(&mut wire, name.as_bytes());
        put(&mut wire, pair(seed).public_key().as_ref());
        if name == SK_ED25519 {
            put(&mut wire, b"ssh:");
        }
        wire
    }

    /// Its public line.
    pub(crate) fn public(seed: u8) -> String {
        format!("{ED25519} {} somebody@somewhere", STANDARD.encode(wire(ED25519, seed)))
    }

    /// What is signed: the text's digest in its namespace.
    fn message(namespace: &str, text: &str) -> Vec<u8> {
        let mut signed = MAGIC.to_vec();
        for part in [namespace.as_bytes(), b"", b"sha512", &Sha512::digest(text)] {
            put(&mut signed, part);
        }
        signed
    }

    fn blob(name: &str, key: &[u8], namespace: &str, bytes: &[u8], trailer: &[u8]) -> Vec<u8> {
        let mut inner = Vec::new();
        put(&mut inner, name.as_bytes());
        put(&mut inner, bytes);
        inner.extend(trailer);
        let mut blob = [MAGIC, &VERSION.to_be_bytes()].concat();
        for part in [key, namespace.as_bytes(), b"", b"sha512", &inner] {
            put(&mut blob, part);
        }
        blob
    }

    /// An armor by it.
    pub(crate) fn signed(seed: u8, namespace: &str, text: &str) -> String {
        let bytes = pair(seed).sign(&message(namespace, text));
        armored(&blob(ED25519, &wire(ED25519, seed), namespace, bytes.as_ref(), &[]))
    }

    #[test]
    fn only_the_key_the_namespace_and_the_text_that_were_signed_verify() {
        let (alice, bob) = (Key::read(&public(1)).unwrap(), Key::read(&public(2)).unwrap());
        let signature = Signature::read(&signed(1, YES, "text")).unwrap();
        alice.verify(YES, "text", &signature).unwrap();
        let refused = |key: &Key, namespace: &str, text: &str| key.verify(namespace, text, &signature).unwrap_err();
        assert!(refused(&bob, YES, "text").contains("another key"));
        assert!(refused(&alice, "denial@lifeboat", "text").contains("another purpose"));
        assert!(refused(&alice, YES, "text ").contains("not one of this text"));
    }

    /// Written by Lifeboat and ssh-keygen once, and kept: what was signed then verifies from now on.
    #[test]
    fn the_vectors_verify_and_only_for_their_text() {
        let text = include_str!("../../../docs/vectors/approval/intent.json");
        let value: serde_json::Value = serde_json::from_str(text).unwrap();
        assert_eq!(value.to_string(), text, "canonical");
        let signers = include_str!("../../../docs/vectors/approval/allowed_signers");
        let armors = [
            include_str!("../../../docs/vectors/approval/alice.sig"),
            include_str!("../../../docs/vectors/approval/bob.sig"),
        ];
        for (signer, armor) in signers.lines().zip(armors) {
            let (_, key) = signer.split_once("\" ").unwrap();
            let (key, signature) = (Key::read(key).unwrap(), Signature::read(armor).unwrap());
            key.verify(YES, text, &signature).unwrap();
            assert!(key.verify(YES, &text.replace("dave", "eve_"), &signature).is_err());
        }
    }

    #[test]
    fn an_armor_with_any_character_changed_is_refused() {
        let alice = Key::read(&public(1)).unwrap();
        let armor = signed(1, YES, "text");
        for at in 0..armor.len() {
            let mut changed = armor.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            let verified = Signature::read(&changed).and_then(|s| alice.verify(YES, "text", &s));
            assert!(verified.is_err(), "changed at {at}: {changed}");
        }
    }

    #[test]
    fn every_bit_of_a_signature_counts_and_so_does_its_length() {
        let alice = Key::read(&public(1)).unwrap();
        let bytes = pair(1).sign(&message(YES, "text"));
        let whole = blob(ED25519, &wire(ED25519, 1), YES, bytes.as_ref(), &[]);
        let verified = |blob: &[u8]| Signature::read(&armored(blob)).and_then(|s| alice.verify(YES, "text", &s));
        verified(&whole).unwrap();
        for bit in 0..whole.len() * 8 {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(verified(&changed).is_err(), "bit {bit}");
        }
        for end in 0..whole.len() {
            assert!(verified(&whole[..end]).is_err(), "cut at {end}");
        }
        assert!(verified(&[&whole[..], &[0]].concat()).is_err());
    }

    #[test]
    fn garbage_is_refused_in_words() {
        let armor = signed(1, YES, "text");
        let long = armor.replace("-----END", &format!("{}\n-----END", "A".repeat(ARMOR_BYTES_MAX)));
        let cut: String = armor.lines().take(2).collect::<Vec<_>>().join("\n");
        for (armor, says) in [
            ("", "is no SSH signature"),
            (&format!("{BEGIN}\n{END}"), "is no SSH signature"),
            (&armor.replace("SSH SIGNATURE", "SSH PRIVATE"), "is no SSH signature"),
            (&long, "is longer than"),
            (&cut, "is no SSH signature"),
            (&format!("{armor}\n{armor}"), "is no SSH signature"),
            (&armor.replacen('\n', "\n\n", 1), "is not spelled as"),
            ("\u{0}\u{1b}[2J", "is no SSH signature"),
        ] {
            let error = Signature::read(armor).unwrap_err();
            assert!(error.contains(says), "{armor:?}: {error}");
        }
        // What mail and other systems do to line ends is no change.
        Signature::read(&format!("{}\r\n", armor.replace('\n', "\r\n"))).unwrap();
    }

    #[test]
    fn what_is_no_key_or_none_that_is_taken_is_refused() {
        let mut longer = wire(ED25519, 1);
        longer.push(0);
        for (line, says) in [
            ("", "is no SSH public key"),
            (ED25519, "is no SSH public key"),
            ("ssh-ed25519 AAAA", "is no SSH public key"),
            (&public(1).replace(ED25519, "ssh-rsa"), "is no SSH public key"),
            (&format!("{}\n{}", public(1), public(2)), "is no SSH public key"),
            (&format!("{ED25519} {}", STANDARD.encode(longer)), "is no SSH public key"),
            ("ssh-dss AAAAB3NzaC1kc3M=", "not taken: ssh-dss"),
            (RSA_1024, "RSA key of 1024 bits"),
        ] {
            let error = Key::read(line).unwrap_err();
            assert!(error.contains(says), "{line}: {error}");
        }
        assert!(public(1).starts_with(&Key::read(&public(1)).unwrap().line()));
    }

    /// What hardware does: it signs digests, with flags and a counter between them.
    fn by_hardware(sign: impl Fn(&[u8]) -> Vec<u8>, name: &str, key: &[u8], signed_flags: u8, flags: u8) -> Signature {
        let between = [signed_flags, 0, 0, 0, 7];
        let text = message(YES, "text");
        let bytes = sign(&[&Sha256::digest("ssh:")[..], &between, &Sha256::digest(&text)[..]].concat());
        Signature::read(&armored(&blob(name, key, YES, &bytes, &[flags, 0, 0, 0, 7]))).unwrap()
    }

    #[test]
    fn a_hardware_key_must_have_been_touched() {
        let wire = wire(SK_ED25519, 1);
        let key = Key::read(&format!("{SK_ED25519} {}", STANDARD.encode(&wire))).unwrap();
        let sign = |bytes: &[u8]| pair(1).sign(bytes).as_ref().to_vec();
        let made = |signed_flags, flags| by_hardware(sign, SK_ED25519, &wire, signed_flags, flags);
        key.verify(YES, "text", &made(1, 1)).unwrap();
        assert!(key.verify(YES, "text", &made(0, 0)).unwrap_err().contains("nobody touched"));
        assert!(key.verify(YES, "text", &made(0, 1)).unwrap_err().contains("not one of this text"));
        let plain = pair(1).sign(&message(YES, "text"));
        let plain = Signature::read(&armored(&blob(SK_ED25519, &wire, YES, plain.as_ref(), &[]))).unwrap();
        assert!(key.verify(YES, "text", &plain).unwrap_err().contains("not of the kind"));
    }

    #[test]
    fn so_must_one_of_the_other_kind() {
        let random = SystemRandom::new();
        let kind = &verifiers::ECDSA_P256_SHA256_FIXED_SIGNING;
        let pair = EcdsaKeyPair::generate_pkcs8(kind, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(kind, pair.as_ref(), &random).unwrap();
        let mut wire = Vec::new();
        for part in [SK_P256.as_bytes(), b"nistp256", pair.public_key().as_ref(), b"ssh:"] {
            put(&mut wire, part);
        }
        let key = Key::read(&format!("{SK_P256} {}", STANDARD.encode(&wire))).unwrap();
        let sign = |bytes: &[u8]| {
            let mut numbers = Vec::new();
            for number in pair.sign(&random, bytes).unwrap().as_ref().chunks(SCALAR_BYTES) {
                let first = number.iter().position(|b| *b != 0).unwrap();
                let zero: &[u8] = if number[first] & 0x80 == 0 { &[] } else { &[0] };
                put(&mut numbers, &[zero, &number[first..]].concat());
            }
            numbers
        };
        let made = |signed_flags, flags| by_hardware(sign, SK_P256, &wire, signed_flags, flags);
        key.verify(YES, "text", &made(1, 1)).unwrap();
        assert!(key.verify(YES, "text", &made(0, 0)).unwrap_err().contains("nobody touched"));
        assert!(key.verify(YES, "text", &made(0, 1)).unwrap_err().contains("not one of this text"));
    }

    const RSA_1024: &str = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAgQDNK7Dh/kYuMFgrFtz2evvFi3QdsmvnSubG0eKXzAU17ABSEcuLMboicFjfgIriKf52yOZSguaZxW/7ULm1ck/bfS6g0NVxvdUJwKsFUoikwOkyIXGHvvEOs0/72xbgJJMcPp+hETVmaxScEU3vYIk1Dhd5/77ipV+7lzvfE/k6qQ== rsa";
}
