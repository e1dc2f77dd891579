//! Signed notes, as the Go checksum database has them: a text, an empty line, and a line for each signature.
//!
//! ```text
//! lifeboat/checkpoint/1
//! …
//!
//! — NAME BASE64
//! ```
//!
//! A text's first line names its kind and version, so that a signature under one kind is none under another. A verifier is one line,
//! `NAME+HASH+BASE64`; a line of trust is a verifier and the kinds of texts that it may sign.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use super::checkpoint::CHECKPOINT;
use super::rotation::ROTATION;

/// Says Ed25519 in a verifier and in a key's hash.
const ALGORITHM: u8 = 1;
/// What a line of a signature begins with.
const MARK: &str = "\u{2014} ";
/// A text of ours has some hundred bytes.
const NOTE_BYTES_MAX: usize = 16 << 10;

/// Why a text is not what it should be; lower case, for after a name.
pub(crate) type Flaw = String;

/// A public key and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    /// `ORIGIN/EPOCH`.
    pub name: String,
    key: [u8; 32],
}

impl Verifier {
    /// Reads `NAME+HASH+BASE64`.
    pub(crate) fn parse(text: &str) -> Result<Self, Flaw> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("a key is NAME+HASH+BASE64".into());
        };
        check_name(name)?;
        let bytes = decode(key)?;
        let key = match bytes.split_first() {
            Some((&ALGORITHM, key)) => <[u8; 32]>::try_from(key).ok(),
            _ => None,
        };
        let verifier = Self { name: name.to_owned(), key: key.ok_or("its key is no Ed25519 key")? };
        match hex::encode(verifier.hash()) == hash {
            true => Ok(verifier),
            false => Err("its hash is not that of its name and key".into()),
        }
    }

    /// First bytes of a digest over name and key: what a signature names its key by.
    pub(crate) fn hash(&self) -> [u8; 4] {
        let digest =
            Sha256::new().chain_update(&self.name).chain_update([b'\n', ALGORITHM]).chain_update(self.key).finalize();
        [digest[0], digest[1], digest[2], digest[3]]
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = STANDARD.encode([&[ALGORITHM][..], &self.key].concat());
        write!(f, "{}+{}+{key}", self.name, hex::encode(self.hash()))
    }
}

/// A private key and its verifier.
pub(crate) struct Signer {
    pub(crate) verifier: Verifier,
    pair: Ed25519KeyPair,
}

impl Signer {
    pub(crate) fn new(name: &str, seed: &[u8; 32]) -> Result<Self, Flaw> {
        check_name(name)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| "no Ed25519 seed")?;
        let key = pair.public_key().as_ref().try_into().map_err(|_| "no Ed25519 key")?;
        Ok(Self { verifier: Verifier { name: name.to_owned(), key }, pair })
    }

    /// The line of this signature under a text.
    fn line(&self, text: &str) -> String {
        let signature = self.pair.sign(text.as_bytes());
        let signed = [&self.verifier.hash(), signature.as_ref()].concat();
        format!("{MARK}{} {}\n", self.verifier.name, STANDARD.encode(signed))
    }
}

/// A text, signed by each in order.
pub(crate) fn sign(text: &str, signers: &[&Signer]) -> String {
    let lines: String = signers.iter().map(|signer| signer.line(text)).collect();
    format!("{text}\n{lines}")
}

/// A signed text, taken apart; no signature is checked yet.
#[derive(Debug)]
pub(crate) struct Note {
    /// With its last line feed, without the empty line.
    pub(crate) text: String,
    signatures: Vec<Signature>,
}

#[derive(Debug)]
struct Signature {
    name: String,
    hash: [u8; 4],
    bytes: [u8; 64],
}

impl Note {
    pub(crate) fn parse(note: &str) -> Result<Self, Flaw> {
        if note.len() > NOTE_BYTES_MAX {
            return Err("it is too long".into());
        }
        let (text, lines) = note.split_once("\n\n").ok_or("it has no empty line before its signatures")?;
        let lines = lines.strip_suffix('\n').ok_or("its last line does not end")?;
        let signatures = lines.split('\n').map(Signature::parse).collect::<Result<_, _>>()?;
        Ok(Self { text: format!("{text}\n"), signatures })
    }

    /// Who signed, by the names in the lines.
    pub(crate) fn names(&self) -> Vec<&str> {
        self.signatures.iter().map(|s| s.name.as_str()).collect()
    }

    /// Holds the signatures against these keys, one by one in order. One more or less, or of another key, is refused.
    pub(crate) fn verify(&self, keys: &[&Verifier]) -> Result<(), Flaw> {
        if self.signatures.len() != keys.len() {
            return Err(format!("it has {} signatures, {} expected", self.signatures.len(), keys.len()));
        }
        for (signature, key) in self.signatures.iter().zip(keys) {
            if signature.name != key.name || signature.hash != key.hash() {
                return Err(format!("it is signed by another key than {}", key.name));
            }
            let verified = UnparsedPublicKey::new(&ED25519, key.key).verify(self.text.as_bytes(), &signature.bytes);
            if verified.is_err() || !is_canonical(&key.key) {
                return Err(format!("its signature by {} does not hold", key.name));
            }
        }
        Ok(())
    }
}

impl Signature {
    fn parse(line: &str) -> Result<Self, Flaw> {
        let rest = line.strip_prefix(MARK).ok_or("a line after the empty one is no signature")?;
        let (name, signed) = rest.split_once(' ').ok_or("a signature is NAME BASE64")?;
        check_name(name)?;
        let bytes = decode(signed)?;
        let (hash, bytes) = bytes.split_at_checked(4).ok_or("a signature is too short")?;
        Ok(Self {
            name: name.to_owned(),
            hash: hash.try_into().map_err(|_| "a signature is too short")?,
            bytes: bytes.try_into().map_err(|_| "a signature is not 64 bytes long")?,
        })
    }
}

/// The lines `KEY VALUE` of a text whose first line is this kind, with these keys in this order.
pub(crate) fn fields<'t, const N: usize>(text: &'t str, kind: &str, keys: [&str; N]) -> Result<[&'t str; N], Flaw> {
    let mut lines = text.strip_suffix('\n').ok_or("its last line does not end")?.split('\n');
    let first = lines.next().unwrap_or_default();
    if first != kind {
        return Err(format!("it is no {kind}, it begins with `{}`", host_api::identifier::shown(first)));
    }
    let mut values = [""; N];
    for (value, key) in values.iter_mut().zip(keys) {
        let line = lines.next().unwrap_or_default();
        *value = line
            .strip_prefix(key)
            .and_then(|rest| rest.strip_prefix(' '))
            .filter(|value| !value.is_empty() && !value.chars().any(char::is_control))
            .ok_or_else(|| format!("it has no line `{key} …` in its place"))?;
    }
    match lines.next() {
        None => Ok(values),
        Some(_) => Err("it has a line too many".into()),
    }
}

/// A decimal number in its one form.
pub(crate) fn number(text: &str) -> Result<u64, Flaw> {
    match text.parse::<u64>() {
        Ok(number) if number.to_string() == text => Ok(number),
        _ => Err(format!("`{}` is no number", host_api::identifier::shown(text))),
    }
}

/// A digest in its one form.
pub(crate) fn check_digest(text: &str) -> Result<(), Flaw> {
    match text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        true => Ok(()),
        false => Err("its head is no SHA-256".into()),
    }
}

/// An id as generated ones are: letters, digits and `-`.
pub(crate) fn check_id(text: &str) -> Result<(), Flaw> {
    match (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        true => Ok(()),
        false => Err(format!("`{}` is no id", host_api::identifier::shown(text))),
    }
}

/// A key's name: an id, a slash, its epoch.
fn check_name(name: &str) -> Result<(), Flaw> {
    let (origin, epoch) = name.split_once('/').ok_or("a key's name is ORIGIN/EPOCH")?;
    check_id(origin)?;
    number(epoch).map(drop)
}

/// Whether a public key is written as RFC 8032 has it. `ring` takes other spellings of some points as well; an outsider's verifier does not.
fn is_canonical(key: &[u8; 32]) -> bool {
    // Highest byte first, without the sign of x: y, which is below p = 2^255 - 19. Of 1 and p - 1, x is 0 and has no sign.
    let mut y = *key;
    y.reverse();
    let is_negative = y[0] & 0x80 != 0;
    y[0] &= 0x7f;
    let (mut one, mut p) = ([0; 32], [0xff; 32]);
    (one[31], p[0], p[31]) = (1, 0x7f, 0xed);
    let mut minus_one = p;
    minus_one[31] -= 1;
    y < p && !(is_negative && (y == one || y == minus_one))
}

/// Base64 that is the one text of its bytes.
fn decode(text: &str) -> Result<Vec<u8>, Flaw> {
    match STANDARD.decode(text) {
        Ok(bytes) if STANDARD.encode(&bytes) == text => Ok(bytes),
        _ => Err("its base64 is not the one text of its bytes".into()),
    }
}

/// Keys that somebody trusts, and for which kinds of texts.
#[derive(Debug, Clone, Default)]
pub struct Trust(Vec<(Verifier, Vec<String>)>);

impl Trust {
    /// Reads lines `NAME+HASH+BASE64 KIND KIND…`, as `lifeboat audit key` says them.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut entries = Vec::new();
        let lines = text.strip_suffix('\n').unwrap_or(text);
        for (at, line) in lines.split('\n').enumerate() {
            let flaw = |flaw: Flaw| format!("line {}: {flaw}", at + 1);
            let mut words = line.split(' ');
            let verifier = Verifier::parse(words.next().unwrap_or_default()).map_err(flaw)?;
            let kinds: Vec<String> = words.map(str::to_owned).collect();
            if kinds.is_empty() {
                return Err(flaw("it does not say which kinds of texts the key may sign".into()));
            }
            if let Some(kind) = kinds.iter().find(|kind| ![CHECKPOINT, ROTATION].contains(&kind.as_str())) {
                let kind = host_api::identifier::shown(kind);
                return Err(flaw(format!("`{kind}` is no kind of text; there is: {CHECKPOINT}, {ROTATION}")));
            }
            entries.push((verifier, kinds));
        }
        Ok(Self(entries))
    }

    /// These keys, for all kinds that a log's key signs.
    pub(crate) fn of(verifiers: impl IntoIterator<Item = Verifier>) -> Self {
        Self(verifiers.into_iter().map(|v| (v, vec![CHECKPOINT.to_owned(), ROTATION.to_owned()])).collect())
    }

    /// The trusted key of a name.
    pub(crate) fn named(&self, name: &str) -> Option<&Verifier> {
        self.0.iter().map(|(verifier, _)| verifier).find(|verifier| verifier.name == name)
    }

    /// Whether there is an entry of a key.
    pub(crate) fn knows(&self, verifier: &Verifier) -> bool {
        self.0.iter().any(|(trusted, _)| trusted == verifier)
    }

    /// Whether a key may sign texts of a kind.
    pub(crate) fn allows(&self, verifier: &Verifier, kind: &str) -> bool {
        self.0.iter().any(|(trusted, kinds)| trusted == verifier && kinds.iter().any(|k| k == kind))
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(verifier, kinds)| writeln!(f, "{verifier} {}", kinds.join(" ")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer(name: &str, seed: u8) -> Signer {
        Signer::new(name, &[seed; 32]).unwrap()
    }

    #[test]
    fn a_verifier_is_the_one_text_of_its_key() {
        let text = signer("log/1", 7).verifier.to_string();
        assert_eq!(Verifier::parse(&text).unwrap().to_string(), text);
        for bad in [
            text.replacen("log/1", "log/2", 1),
            text.replacen("log/1", "log", 1),
            text.replacen("log/1", "log/01", 1),
            text.replacen("log/1", "lo g/1", 1),
            format!("{text}="),
            text.replace('+', " "),
        ] {
            assert!(Verifier::parse(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_note_holds_under_its_own_keys_in_their_order_and_no_others() {
        let (one, two) = (signer("log/1", 1), signer("log/2", 2));
        let text = "lifeboat/checkpoint/1\nsize 1\n";
        let signed = sign(text, &[&one, &two]);
        let note = Note::parse(&signed).unwrap();
        assert_eq!(note.text, text);
        note.verify(&[&one.verifier, &two.verifier]).unwrap();
        let same_name = signer("log/1", 3);
        for keys in [&[&two.verifier, &one.verifier][..], &[&one.verifier], &[&same_name.verifier, &two.verifier], &[]]
        {
            assert!(note.verify(keys).is_err());
        }
        let more = format!("{signed}{}", signer("other/1", 4).line(text));
        assert!(Note::parse(&more).unwrap().verify(&[&one.verifier, &two.verifier]).is_err(), "an unknown signature");
    }

    #[test]
    fn every_flipped_bit_of_a_note_is_found() {
        let one = signer("log/1", 1);
        let signed = sign("lifeboat/checkpoint/1\nsize 1\n", &[&one]).into_bytes();
        for bit in 0..signed.len() * 8 {
            let mut bytes = signed.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let holds = String::from_utf8(bytes)
                .is_ok_and(|text| Note::parse(&text).is_ok_and(|note| note.verify(&[&one.verifier]).is_ok()));
            assert!(!holds, "bit {bit}");
        }
    }

    #[test]
    fn a_key_that_is_another_spelling_of_its_point_signs_nothing() {
        // The neutral element: whatever is signed, R = B and s = 1 hold under it. Spelled as it is, with a sign, with p added, with both.
        let mut signature = [0x66; 64];
        (signature[0], signature[32]) = (0x58, 1);
        signature[33..].fill(0);
        let spelled = |first: u8, rest: u8, last: u8| {
            let mut key = [rest; 32];
            (key[0], key[31]) = (first, last);
            let verifier = Verifier { name: "log/1".into(), key };
            let signed = STANDARD.encode([&verifier.hash()[..], &signature].concat());
            let note = format!("lifeboat/checkpoint/1\n\n{MARK}log/1 {signed}\n");
            Note::parse(&note).unwrap().verify(&[&verifier])
        };
        spelled(1, 0, 0).unwrap();
        for (first, rest, last) in [(1, 0, 0x80), (0xee, 0xff, 0x7f), (0xee, 0xff, 0xff)] {
            let flaw = spelled(first, rest, last).unwrap_err();
            assert!(flaw.contains("does not hold"), "{flaw}");
        }
    }

    #[test]
    fn base64_that_is_another_text_of_the_same_bytes_is_refused() {
        let one = signer("log/1", 1);
        let signed = sign("lifeboat/checkpoint/1\nsize 1\n", &[&one]);
        // 68 bytes leave four bits of the last letter unused, and one `=`.
        let at = signed.rfind('=').unwrap() - 1;
        let letter = signed.as_bytes()[at] as char;
        let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let value = alphabet.find(letter).unwrap();
        let other = alphabet.as_bytes()[value ^ 1] as char;
        let mut text = signed.clone();
        text.replace_range(at..=at, &other.to_string());
        let flaw = Note::parse(&text).unwrap_err();
        assert!(flaw.contains("base64"), "{flaw}");
        for text in [signed.replace("=\n", "\n"), signed.replace("=\n", "==\n"), signed.replace("=\n", "=\n\n")] {
            assert!(Note::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn trust_names_keys_and_kinds() {
        let one = signer("log/1", 1).verifier;
        let trust = Trust::parse(&format!("{one} {CHECKPOINT}\n")).unwrap();
        assert!(trust.allows(&one, CHECKPOINT) && !trust.allows(&one, ROTATION));
        assert!(!trust.allows(&signer("log/1", 2).verifier, CHECKPOINT));
        let both = Trust::of([one.clone()]);
        assert_eq!(Trust::parse(&both.to_string()).unwrap().to_string(), both.to_string());
        for (bad, why) in [
            (String::new(), "a key is NAME+HASH+BASE64"),
            (format!("{one}\n"), "which kinds"),
            (format!("{one} lifeboat/manifest/1\n"), "there is: lifeboat/checkpoint/1"),
            (format!("{one}  {CHECKPOINT}\n"), "is no kind"),
        ] {
            let flaw = Trust::parse(&bad).unwrap_err();
            assert!(flaw.contains(why), "{flaw}");
        }
    }
}
