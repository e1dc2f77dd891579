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
//! `NAME+HASH+BASE64`; a line of trust is a verifier and the kinds of texts that it may sign. Which kinds there are, and how keys are named,
//! says the [`Family`]: one family's key is none of another's.

#[cfg(test)]
mod tests;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest, Sha256};

use crate::identifier::shown;

/// Says Ed25519 in a verifier and in a key's hash.
const ALGORITHM: u8 = 1;
/// What a line of a signature begins with.
const MARK: &str = "\u{2014} ";
/// What the line of a private key begins with; the rest is as in a verifier, with the seed in the key's place.
const PRIVATE: &str = "PRIVATE+KEY+";

/// Why a text is not what it should be; lower case, for after a name.
pub type Flaw = String;

/// Texts that are signed and held against keys in one place.
#[derive(Debug, Clone, Copy)]
pub struct Family {
    /// First lines of its texts, kind and version: what a line of trust may name.
    pub kinds: &'static [&'static str],
    /// How its keys are named.
    pub names: Names,
    /// Longest note that is read, bytes.
    pub note_bytes_max: usize,
}

/// How the keys of a family are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// `ORIGIN/EPOCH`: keys that follow one another.
    Epochs,
    /// `NAME`: each for itself.
    Plain,
}

impl Names {
    /// Checks a key's name.
    pub fn check(self, name: &str) -> Result<(), Flaw> {
        match self {
            Self::Epochs => {
                let (origin, epoch) = name.split_once('/').ok_or("a key's name is ORIGIN/EPOCH")?;
                check_id(origin)?;
                number(epoch).map(drop)
            }
            Self::Plain => check_id(name)
                .map_err(|_| format!("`{}` is no name of a key: 1 to 64 of A-Z, a-z, 0-9 and -", shown(name))),
        }
    }
}

/// A public key and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verifier {
    /// As its family names keys.
    pub name: String,
    key: [u8; 32],
}

impl Verifier {
    /// Reads `NAME+HASH+BASE64`.
    pub fn parse(text: &str, names: Names) -> Result<Self, Flaw> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(hash), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err("a key is NAME+HASH+BASE64".into());
        };
        names.check(name)?;
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
    pub fn hash(&self) -> [u8; 4] {
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
pub struct Signer {
    /// The public half.
    pub verifier: Verifier,
    pair: Ed25519KeyPair,
}

impl Signer {
    /// The key of a seed.
    pub fn new(name: &str, seed: &[u8; 32], names: Names) -> Result<Self, Flaw> {
        names.check(name)?;
        let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| "no Ed25519 seed")?;
        let key = pair.public_key().as_ref().try_into().map_err(|_| "no Ed25519 key")?;
        Ok(Self { verifier: Verifier { name: name.to_owned(), key }, pair })
    }

    /// Reads what [`Signer::private`] writes. Not said is what is wrong with it: a part of it could be quoted.
    pub fn from_private(text: &str, names: Names) -> Option<Self> {
        let mut parts = text.strip_suffix('\n')?.strip_prefix(PRIVATE)?.splitn(3, '+');
        let (name, hash, key) = (parts.next()?, parts.next()?, parts.next()?);
        let bytes = STANDARD.decode(key).ok()?;
        let (&ALGORITHM, seed) = bytes.split_first()? else { return None };
        let signer = Self::new(name, seed.try_into().ok()?, names).ok()?;
        signer.verifier.to_string().starts_with(&format!("{name}+{hash}+")).then_some(signer)
    }

    /// The line that a private file of this key holds; `seed` is what it was made of.
    pub fn private(&self, seed: &[u8; 32]) -> String {
        let secret = STANDARD.encode([&[ALGORITHM][..], seed].concat());
        format!("{PRIVATE}{}+{}+{secret}\n", self.verifier.name, hex::encode(self.verifier.hash()))
    }

    /// The line of this signature under a text.
    fn line(&self, text: &str) -> String {
        let signature = self.pair.sign(text.as_bytes());
        let signed = [&self.verifier.hash(), signature.as_ref()].concat();
        format!("{MARK}{} {}\n", self.verifier.name, STANDARD.encode(signed))
    }
}

/// A text, signed by each in order. It ends with a line feed, and has no empty line.
pub fn sign(text: &str, signers: &[&Signer]) -> String {
    let lines: String = signers.iter().map(|signer| signer.line(text)).collect();
    format!("{text}\n{lines}")
}

/// A signed text, taken apart; no signature is checked yet.
#[derive(Debug)]
pub struct Note {
    /// With its last line feed, without the empty line.
    pub text: String,
    signatures: Vec<Signature>,
}

#[derive(Debug)]
struct Signature {
    name: String,
    hash: [u8; 4],
    bytes: [u8; 64],
}

impl Note {
    /// Takes a note of a family apart: every line after the empty one must be a signature under a name as its keys have.
    pub fn parse(note: &str, family: &Family) -> Result<Self, Flaw> {
        if note.len() > family.note_bytes_max {
            return Err("it is too long".into());
        }
        let (text, lines) = note.split_once("\n\n").ok_or("it has no empty line before its signatures")?;
        let lines = lines.strip_suffix('\n').ok_or("its last line does not end")?;
        let signatures =
            lines.split('\n').map(|line| Signature::parse(line, family.names)).collect::<Result<_, _>>()?;
        Ok(Self { text: format!("{text}\n"), signatures })
    }

    /// Who signed, by the names in the lines.
    pub fn names(&self) -> Vec<&str> {
        self.signatures.iter().map(|s| s.name.as_str()).collect()
    }

    /// Holds the signatures against these keys, one by one in order. One more or less, or of another key, is refused.
    pub fn verify(&self, keys: &[&Verifier]) -> Result<(), Flaw> {
        if self.signatures.len() != keys.len() {
            return Err(format!("it has {} signatures, {} expected", self.signatures.len(), keys.len()));
        }
        for (signature, key) in self.signatures.iter().zip(keys) {
            if !signature.is_by(key) {
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
    /// Whether it says that it is by this key.
    fn is_by(&self, key: &Verifier) -> bool {
        self.name == key.name && self.hash == key.hash()
    }

    fn parse(line: &str, names: Names) -> Result<Self, Flaw> {
        let rest = line.strip_prefix(MARK).ok_or("a line after the empty one is no signature")?;
        let (name, signed) = rest.split_once(' ').ok_or("a signature is NAME BASE64")?;
        names.check(name)?;
        let bytes = decode(signed)?;
        let (hash, bytes) = bytes.split_at_checked(4).ok_or("a signature is too short")?;
        Ok(Self {
            name: name.to_owned(),
            hash: hash.try_into().map_err(|_| "a signature is too short")?,
            bytes: bytes.try_into().map_err(|_| "a signature is not 64 bytes long")?,
        })
    }
}

/// The one line after the first, in a text of two lines whose first is this kind.
pub fn body<'t>(text: &'t str, kind: &str) -> Result<&'t str, Flaw> {
    let lines = text.strip_suffix('\n').ok_or("its last line does not end")?;
    let (first, body) = lines.split_once('\n').unwrap_or((lines, ""));
    if first != kind {
        return Err(format!("it is no {kind}, it begins with `{}`", shown(first)));
    }
    match body {
        "" => Err("it says nothing".into()),
        body if body.contains('\n') => Err("it has a line too many".into()),
        body => Ok(body),
    }
}

/// The lines `KEY VALUE` of a text whose first line is this kind, with these keys in this order.
pub fn fields<'t, const N: usize>(text: &'t str, kind: &str, keys: [&str; N]) -> Result<[&'t str; N], Flaw> {
    let mut lines = text.strip_suffix('\n').ok_or("its last line does not end")?.split('\n');
    let first = lines.next().unwrap_or_default();
    if first != kind {
        return Err(format!("it is no {kind}, it begins with `{}`", shown(first)));
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
pub fn number(text: &str) -> Result<u64, Flaw> {
    match text.parse::<u64>() {
        Ok(number) if number.to_string() == text => Ok(number),
        _ => Err(format!("`{}` is no number", shown(text))),
    }
}

/// A digest in its one form.
pub fn check_digest(text: &str) -> Result<(), Flaw> {
    match text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        true => Ok(()),
        false => Err("its head is no SHA-256".into()),
    }
}

/// An id as generated ones are: letters, digits and `-`.
pub fn check_id(text: &str) -> Result<(), Flaw> {
    match (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        true => Ok(()),
        false => Err(format!("`{}` is no id", shown(text))),
    }
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
    /// Reads lines `NAME+HASH+BASE64 KIND KIND…`, each with the kinds of a family that its key may sign.
    pub fn parse(text: &str, family: &Family) -> Result<Self, Flaw> {
        let mut trust = Self::default();
        let lines = text.strip_suffix('\n').unwrap_or(text);
        for (at, line) in lines.split('\n').enumerate() {
            trust.add(line, family).map_err(|flaw| format!("line {}: {flaw}", at + 1))?;
        }
        Ok(trust)
    }

    /// Reads one more line.
    pub fn add(&mut self, line: &str, family: &Family) -> Result<(), Flaw> {
        let mut words = line.split(' ');
        let verifier = Verifier::parse(words.next().unwrap_or_default(), family.names)?;
        let kinds: Vec<String> = words.map(str::to_owned).collect();
        if kinds.is_empty() {
            return Err("it does not say which kinds of texts the key may sign".into());
        }
        if let Some(kind) = kinds.iter().find(|kind| !family.kinds.contains(&kind.as_str())) {
            return Err(format!("`{}` is no kind of text; there is: {}", shown(kind), family.kinds.join(", ")));
        }
        self.0.push((verifier, kinds));
        Ok(())
    }

    /// These keys, for all kinds of a family.
    pub fn of(verifiers: impl IntoIterator<Item = Verifier>, family: &Family) -> Self {
        let kinds = || family.kinds.iter().map(|kind| (*kind).to_owned()).collect();
        Self(verifiers.into_iter().map(|verifier| (verifier, kinds())).collect())
    }

    /// The trusted key of a name.
    pub fn named(&self, name: &str) -> Option<&Verifier> {
        self.0.iter().map(|(verifier, _)| verifier).find(|verifier| verifier.name == name)
    }

    /// Whether there is an entry of a key.
    pub fn knows(&self, verifier: &Verifier) -> bool {
        self.0.iter().any(|(trusted, _)| trusted == verifier)
    }

    /// Whether a key may sign texts of a kind.
    pub fn allows(&self, verifier: &Verifier, kind: &str) -> bool {
        self.0.iter().any(|(trusted, kinds)| trusted == verifier && kinds.iter().any(|k| k == kind))
    }

    /// The key that signed a note, and alone: one that is trusted, for this kind of text. The kind is what the note's first line must say,
    /// and whoever reads the text has seen to it.
    pub fn signer(&self, note: &Note, kind: &str) -> Result<&Verifier, Flaw> {
        let [signature] = &note.signatures[..] else {
            return Err(format!("it has {} signatures, 1 expected", note.signatures.len()));
        };
        let name = shown(&signature.name);
        let keys: Vec<&Verifier> = self.0.iter().map(|(key, _)| key).filter(|key| signature.is_by(key)).collect();
        if keys.is_empty() {
            return Err(match self.named(&signature.name) {
                Some(_) => format!("it is signed by another key than the trusted one of the name {name}"),
                None => format!("it is signed by {name}, which is not trusted here"),
            });
        }
        // Hashes of four bytes can be equal: whichever of the keys it holds under.
        let held = keys.into_iter().map(|key| note.verify(&[key]).map(|()| key));
        let key = held.reduce(|one, other| one.or(other)).unwrap_or_else(|| Err("it has no signature".into()))?;
        match self.allows(key, kind) {
            true => Ok(key),
            false => Err(format!("{name} may not sign {kind} here")),
        }
    }
}

impl fmt::Display for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(verifier, kinds)| writeln!(f, "{verifier} {}", kinds.join(" ")))
    }
}
