//! Detached signatures of modules, in minisign's format: whoever has the stock tool makes and verifies the same.
//!
//! A signature is over the component file; the module's description is inside. Its trusted comment says which policy and version was meant
//! (`lifeboat policy NAME VERSION`), so that a good signature on one module is none on another that was given its file name, and an old module
//! is not passed off under a new version.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host_api::identifier::shown;
use minisign::{KeyPair, PublicKey, SecretKey, SecretKeyBox, SignatureBox};
use serde::Serialize;

use super::description::Description;
use crate::error::{Error, Kind, Result};

/// Ending of the files that hold signatures: `MODULE.wasm.minisig`, and `MODULE.wasm.NAME.minisig` for further ones.
pub(crate) const ENDING: &str = ".minisig";
/// A signature is four short lines.
pub(crate) const SIGNATURE_BYTES_MAX: u64 = 4096;
/// Algorithm, number of the key, signature of the file.
const SIGNED_BYTES: usize = 2 + 8 + 64;
/// Signature of the signature and the comment.
const COMMENT_SIGNED_BYTES: usize = 64;
/// More than anyone signs with.
pub(crate) const SIGNATURES_MAX: usize = 32;

/// Someone whose signature on modules counts.
#[derive(Debug, Clone)]
pub struct Signer {
    /// The public key.
    key: PublicKey,
    /// Names of policies that it may sign; all, if empty.
    pub policies: BTreeSet<String>,
    /// Unix milliseconds; from then on its signatures count no more.
    pub not_after_ms: Option<u64>,
}

/// Whose signatures a module needs.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    /// Known signers by name.
    pub signers: BTreeMap<String, Signer>,
    /// All of these must have signed.
    pub all_of: BTreeSet<String>,
    /// At least so many of the signers must have.
    pub at_least: usize,
}

/// What came of one signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Verdict {
    /// The file it stands in.
    pub file: PathBuf,
    /// The signer whose key it is, if one of ours.
    pub signer: Option<String>,
    /// Why it does not count; none: it does.
    pub refused: Option<String>,
}

impl Signer {
    /// What signatures name the key by.
    pub fn key_number(&self) -> &[u8] {
        self.key.keynum()
    }

    /// Reads a public key as minisign writes it: its line of base64, or the whole file.
    pub fn parse(key: &str) -> Result<Self> {
        let line = key.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
        let key = PublicKey::from_base64(line).map_err(|_| {
            Error::new(Kind::Configuration, format!("`{}` is no public key of minisign", shown(line)))
                .hint("the second line of minisign.pub; it begins with RW")
        })?;
        Ok(Self { key, policies: BTreeSet::new(), not_after_ms: None })
    }
}

impl Rule {
    /// Whether a module needs no signature at all.
    pub fn is_open(&self) -> bool {
        self.all_of.is_empty() && self.at_least == 0
    }

    /// Who has signed a module, as files beside it say; every signature with what came of it.
    pub fn verdicts(
        &self,
        module: &Path,
        bytes: &[u8],
        description: &Description,
        now_ms: u64,
    ) -> Result<Vec<Verdict>> {
        let mut verdicts = Vec::new();
        for file in files_beside(module)? {
            let (signer, refused) = match self.judge(&file, bytes, description, now_ms) {
                Ok(name) => (Some(name), None),
                Err((signer, why)) => (signer, Some(why)),
            };
            verdicts.push(Verdict { file, signer, refused });
        }
        Ok(verdicts)
    }

    /// An error unless enough of those who must have signed it.
    pub fn admit(&self, verdicts: &[Verdict]) -> Result<BTreeSet<String>> {
        let counting = verdicts.iter().filter(|verdict| verdict.refused.is_none());
        let signed: BTreeSet<String> = counting.filter_map(|verdict| verdict.signer.clone()).collect();
        if self.all_of.is_subset(&signed) && signed.len() >= self.at_least {
            return Ok(signed);
        }
        let wanted = self.wanted(&signed);
        let found = match verdicts {
            [] => "there is no signature beside it".to_owned(),
            verdicts => verdicts
                .iter()
                .map(|verdict| {
                    let file = verdict.file.file_name().map(|name| shown(&name.to_string_lossy())).unwrap_or_default();
                    match (&verdict.refused, &verdict.signer) {
                        (Some(why), _) => format!("{file}: {why}"),
                        (None, signer) => format!("{file}: {}", signer.as_deref().unwrap_or_default()),
                    }
                })
                .collect::<Vec<_>>()
                .join("; "),
        };
        Err(unsigned(&wanted, &found))
    }

    /// An error unless at least one signature beside a module is good for its bytes: those of a stranger are not even parsed.
    pub fn precheck(&self, module: &Path, bytes: &[u8]) -> Result<()> {
        if self.is_open() {
            return Ok(());
        }
        let good = |file: &PathBuf| {
            self.read(file).is_ok_and(|(_, signer, signature)| {
                minisign::verify(&signer.key, &signature, Cursor::new(bytes), true, false, false).is_ok()
            })
        };
        let files = files_beside(module)?;
        if files.iter().any(good) {
            return Ok(());
        }
        let why = if files.is_empty() {
            "there is no signature beside it"
        } else {
            "no signature beside it is good for these bytes"
        };
        Err(unsigned(&self.wanted(&BTreeSet::new()), why))
    }

    /// Who would have to sign, besides those who have.
    fn wanted(&self, signed: &BTreeSet<String>) -> String {
        let missing: Vec<&str> =
            self.all_of.iter().filter(|name| !signed.contains(*name)).map(String::as_str).collect();
        match missing.is_empty() {
            true => format!("{} of {} must have signed it", self.at_least, names(self.signers.keys())),
            false => format!("{} must have signed it", missing.join(", ")),
        }
    }

    /// A signature, and whose key it was made with.
    fn read(&self, file: &Path) -> std::result::Result<(&String, &Signer, SignatureBox), String> {
        let bytes = super::read_bounded(file, SIGNATURE_BYTES_MAX).map_err(|e| e.message)?;
        let text = String::from_utf8(bytes).map_err(|_| "it is no signature of minisign".to_owned())?;
        let signature = SignatureBox::from_string(&text).map_err(|_| "it is no signature of minisign".to_owned())?;
        // One signature has one text: what is read past is not signed.
        let lengths = [(1, SIGNED_BYTES), (3, COMMENT_SIGNED_BYTES)];
        let strict = lengths.into_iter().all(|(line, length)| {
            let line = text.lines().nth(line).unwrap_or_default();
            STANDARD.decode(line).is_ok_and(|bytes| bytes.len() == length)
        });
        if !strict || !signature.to_string().lines().skip(1).eq(text.lines().skip(1)) {
            return Err("it is not written as minisign writes it".into());
        }
        match self.signers.iter().find(|(_, signer)| signer.key.keynum() == signature.keynum()) {
            Some((name, signer)) => Ok((name, signer, signature)),
            None => Err("its key is none of those that are trusted here".into()),
        }
    }

    /// The signer, or why it does not count, and whose key it was made with.
    fn judge(
        &self,
        file: &Path,
        bytes: &[u8],
        description: &Description,
        now_ms: u64,
    ) -> std::result::Result<String, (Option<String>, String)> {
        let (name, signer, signature) = self.read(file).map_err(|why| (None, why))?;
        let of = |why: String| (Some(name.clone()), why);
        minisign::verify(&signer.key, &signature, Cursor::new(bytes), true, false, false)
            .map_err(|_| of("it is not good for these bytes".into()))?;
        let comment = signature.trusted_comment().map_err(|_| of("its trusted comment can't be read".into()))?;
        let wanted = comment_for(description);
        if !said(&comment, &wanted) {
            return Err(of(format!("it was made for `{}`, and this is `{wanted}`", shown(&comment))));
        }
        if !signer.policies.is_empty() && !signer.policies.contains(&description.name) {
            return Err(of(format!("{name} may not sign {}, only {}", description.name, names(&signer.policies))));
        }
        if let Some(not_after_ms) = signer.not_after_ms.filter(|not_after_ms| now_ms >= *not_after_ms) {
            return Err(of(format!(
                "the key of {name} is not taken since {}",
                host_api::identifier::utc(not_after_ms)
            )));
        }
        Ok(name.clone())
    }
}

/// Not enough of those who must have signed it.
fn unsigned(wanted: &str, found: &str) -> Error {
    Error::new(Kind::PolicyRefused, format!("the module is refused: {wanted}; {found}"))
        .hint("lifeboat policy verify MODULE says more; lifeboat policy sign MODULE --key FILE signs")
}

fn names<'a>(names: impl IntoIterator<Item = &'a String>) -> String {
    let names: Vec<&str> = names.into_iter().map(String::as_str).collect();
    if names.is_empty() { "nobody".into() } else { names.join(", ") }
}

/// What a signature's trusted comment says of a module.
pub fn comment_for(description: &Description) -> String {
    format!("lifeboat policy {} {}", description.name, description.version)
}

/// Whether a comment says that, with nothing or only further words after it (a time, say).
fn said(comment: &str, wanted: &str) -> bool {
    comment.strip_prefix(wanted).is_some_and(|rest| rest.is_empty() || rest.starts_with(['\t', ' ']))
}

/// Where a module's signature lies: `MODULE.minisig` for no name, `MODULE.NAME.minisig` for a further one.
pub fn file_of(module: &Path, name: &str) -> PathBuf {
    let mut file = module.as_os_str().to_owned();
    file.push(ending_of(name));
    file.into()
}

/// What stands after the module's file name there.
pub(super) fn ending_of(name: &str) -> String {
    if name.is_empty() { ENDING.to_owned() } else { format!(".{name}{ENDING}") }
}

/// The signatures that lie beside a module, by whose they are: empty for `MODULE.minisig`, `NAME` for `MODULE.NAME.minisig`.
pub fn beside(module: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let base = module.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let mut found = BTreeMap::new();
    for file in files_beside(module)? {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let middle = name.strip_prefix(base).and_then(|rest| rest.strip_suffix(ENDING)).unwrap_or_default();
        let bytes = super::read_bounded(&file, SIGNATURE_BYTES_MAX)?;
        found.insert(middle.trim_start_matches('.').to_owned(), bytes);
    }
    Ok(found)
}

/// Signatures beside a module, by name.
fn files_beside(module: &Path) -> Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (module.parent(), module.file_name().and_then(|name| name.to_str())) else {
        return Ok(Vec::new());
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let failed = |e| Error::new(Kind::PolicyRefused, format!("{}: {e}", folder.display()));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|file| {
            file.strip_prefix(name)
                .and_then(|rest| rest.strip_suffix(ENDING))
                .is_some_and(|middle| middle.is_empty() || (middle.starts_with('.') && !middle[1..].contains('.')))
        });
        if ours {
            found.push(path);
        }
    }
    found.sort();
    if found.len() > SIGNATURES_MAX {
        return Err(Error::new(
            Kind::PolicyRefused,
            format!("{}: more than {SIGNATURES_MAX} signatures", module.display()),
        ));
    }
    Ok(found)
}

/// Signs a module with a secret key of minisign's; the signature's text. `password`: of the key, if it is encrypted.
pub fn sign(bytes: &[u8], description: &Description, key: &str, password: Option<String>) -> Result<String> {
    let key = secret_key(key, password)?;
    let comment = comment_for(description);
    let failed = |e: minisign::PError| Error::new(Kind::Failed, format!("the module can't be signed: {e}"));
    let signature = minisign::sign(None, &key, Cursor::new(bytes), Some(&comment), None).map_err(failed)?;
    // A damaged key without a password is found out here and nowhere else.
    let public = PublicKey::from_secret_key(&key).map_err(failed)?;
    minisign::verify(&public, &signature, Cursor::new(bytes), true, false, false).map_err(failed)?;
    Ok(signature.into_string())
}

fn secret_key(key: &str, password: Option<String>) -> Result<SecretKey> {
    let wrong = |why: &str| Error::new(Kind::Usage, format!("the key can't be used: {why}"));
    let line = key.lines().map(str::trim).rfind(|line| !line.is_empty()).unwrap_or_default();
    let bytes = STANDARD.decode(line).map_err(|_| wrong("it is no secret key of minisign"))?;
    let encrypted = match bytes.get(2..4) {
        // The stock tool writes no checksum into a key without a password, and the crate wants one: read without it.
        Some([0, 0]) => None,
        Some(_) => Some(SecretKeyBox::from_string(key).map_err(|_| wrong("it is no secret key of minisign"))?),
        None => return Err(wrong("it is no secret key of minisign")),
    };
    match (encrypted, password) {
        (None, None) => SecretKey::from_bytes(&bytes).map_err(|_| wrong("it is no secret key of minisign")),
        (None, Some(_)) => Err(wrong("it has no password")),
        (Some(key), Some(password)) => {
            key.into_secret_key(Some(password)).map_err(|_| wrong("its password is another"))
        }
        (Some(_), None) => Err(wrong("it has a password").hint(
            "--password-file FILE; or sign with the stock tool: minisign -S -m MODULE -t 'lifeboat policy NAME VERSION'",
        )),
    }
}

/// Makes a key without a password: secret and public key as minisign's files have them.
pub fn make_key() -> Result<(String, String)> {
    let failed = |e: minisign::PError| Error::new(Kind::Failed, format!("no key can be made: {e}"));
    let KeyPair { pk, sk } = KeyPair::generate_unencrypted_keypair().map_err(failed)?;
    let secret = sk.to_box(None).map_err(failed)?.into_string();
    Ok((secret, pk.to_box().map_err(failed)?.into_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Signed {
        folder: tempfile::TempDir,
        bytes: Vec<u8>,
        description: Description,
        secrets: BTreeMap<&'static str, String>,
        rule: Rule,
    }

    const NOW_MS: u64 = 1_800_000_000_000;

    impl Signed {
        /// A module that nobody has signed, and two who may.
        fn new() -> Self {
            let text = r#"{"name":"backup","version":"1.2.0","world":"backup"}"#;
            let description = Description::decode(text.as_bytes()).unwrap();
            let mut signed = Self {
                folder: tempfile::tempdir().unwrap(),
                bytes: b"the bytes of a component".to_vec(),
                description,
                secrets: BTreeMap::new(),
                rule: Rule { at_least: 1, ..Rule::default() },
            };
            for name in ["release", "security"] {
                let (secret, public) = make_key().unwrap();
                signed.secrets.insert(name, secret);
                signed.rule.signers.insert(name.into(), Signer::parse(&public).unwrap());
            }
            signed
        }

        fn module(&self) -> PathBuf {
            self.folder.path().join("backup.wasm")
        }

        fn sign(&self, name: &str, file: &str) -> String {
            let text = sign(&self.bytes, &self.description, &self.secrets[name], None).unwrap();
            std::fs::write(self.folder.path().join(file), &text).unwrap();
            text
        }

        fn admitted(&self) -> Result<BTreeSet<String>> {
            let verdicts = self.rule.verdicts(&self.module(), &self.bytes, &self.description, NOW_MS)?;
            self.rule.admit(&verdicts)
        }

        #[track_caller]
        fn refused(&self, says: &str) {
            let error = self.admitted().unwrap_err();
            assert_eq!(error.kind, Kind::PolicyRefused);
            assert!(error.message.contains(says), "{error}");
        }
    }

    #[test]
    fn one_of_those_who_may_and_both_where_both_must() {
        let mut signed = Signed::new();
        signed.refused("there is no signature beside it");
        signed.sign("release", "backup.wasm.minisig");
        assert_eq!(signed.admitted().unwrap(), BTreeSet::from(["release".to_owned()]));
        signed.rule.all_of = ["release".to_owned(), "security".to_owned()].into();
        signed.refused("security must have signed it");
        signed.sign("security", "backup.wasm.security.minisig");
        assert_eq!(signed.admitted().unwrap().len(), 2);
        // The same signer twice is one.
        signed.rule = Rule { at_least: 2, all_of: BTreeSet::new(), ..signed.rule };
        signed.sign("release", "backup.wasm.security.minisig");
        signed.refused("2 of release, security must have signed it");
    }

    #[test]
    fn every_byte_of_the_module_and_of_a_signatures_signed_parts_counts() {
        let mut signed = Signed::new();
        let text = signed.sign("release", "backup.wasm.minisig");
        for at in 0..signed.bytes.len() {
            signed.bytes[at] ^= 1;
            signed.refused("not good for these bytes");
            signed.bytes[at] ^= 1;
        }
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("untrusted comment: "));
        // Everything but the comment that is called untrusted.
        for at in lines[0].len() + 1..text.trim_end().len() {
            let mut changed = text.clone().into_bytes();
            // To another character that may stand there.
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            if changed == text.as_bytes() {
                continue;
            }
            std::fs::write(signed.folder.path().join("backup.wasm.minisig"), changed).unwrap();
            assert!(signed.admitted().is_err(), "byte {at}");
        }
        std::fs::write(signed.folder.path().join("backup.wasm.minisig"), &text).unwrap();
        signed.admitted().unwrap();
    }

    #[test]
    fn a_good_signature_on_another_name_or_version_is_none() {
        let mut signed = Signed::new();
        signed.sign("release", "backup.wasm.minisig");
        signed.description.name = "drill".into();
        signed.refused("it was made for `lifeboat policy backup 1.2.0`, and this is `lifeboat policy drill 1.2.0`");
        signed.description.name = "backup".into();
        for version in ["1.1.0", "1.2", "1.2.0-rc"] {
            signed.description.version = version.into();
            signed.refused("it was made for");
        }
        // As the stock tool is asked to say it, with words after it.
        assert!(said("lifeboat policy backup 1.2.0\ttimestamp:1", "lifeboat policy backup 1.2.0"));
        assert!(!said("lifeboat policy backup 1.2.01", "lifeboat policy backup 1.2.0"));
    }

    #[test]
    fn a_signer_is_taken_for_what_it_may_sign_and_until_it_may() {
        let mut signed = Signed::new();
        signed.sign("release", "backup.wasm.minisig");
        let signer = signed.rule.signers.get_mut("release").unwrap();
        signer.policies = ["drill".to_owned()].into();
        signed.refused("release may not sign backup, only drill");
        let signer = signed.rule.signers.get_mut("release").unwrap();
        (signer.policies, signer.not_after_ms) = (BTreeSet::new(), Some(NOW_MS));
        signed.refused("the key of release is not taken since");
        signed.rule.signers.get_mut("release").unwrap().not_after_ms = Some(NOW_MS + 1);
        signed.admitted().unwrap();
        signed.rule.signers.remove("release");
        signed.refused("none of those that are trusted here");
    }

    #[test]
    fn what_lies_beside_a_module_and_is_no_signature_is_said() {
        let signed = Signed::new();
        for (text, says) in [("hello", "no signature of minisign"), (&*"x".repeat(5_000), "more than 4096 bytes")] {
            std::fs::write(signed.folder.path().join("backup.wasm.minisig"), text).unwrap();
            signed.refused(says);
        }
        // Of another module.
        std::fs::remove_file(signed.folder.path().join("backup.wasm.minisig")).unwrap();
        signed.sign("release", "backup.wasm.old.wasm.minisig");
        signed.refused("there is no signature beside it");
        assert!(Signer::parse("RWabc").is_err());
        assert!(sign(b"x", &signed.description, "no key", None).unwrap_err().message.contains("no secret key"));
    }
}
