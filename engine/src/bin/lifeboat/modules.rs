//! `lifeboat policy diff|key|sign|verify|pin`: who answers for a module, what it can do that another can't, and what was accepted.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use engine::config::PolicyBinding;
use engine::direct::DirectCall;
use engine::error::{Error, Kind};
use engine::policy::difference::{Difference, Direction};
use engine::policy::lock::{Accepted, Lock, Pin};
use engine::policy::signatures::{self, Verdict};
use engine::policy::{BYTES_MAX, Inspected, inspect};
use engine::run::Status;
use engine::{Result, run};
use host_api::identifier::{check_name, now_ms, shown};
use serde_json::{Value, json};

use crate::backups::by_hand;
use crate::{Global, output};

/// A larger file holds no key and no password.
const KEY_BYTES_MAX: u64 = 4096;

/// Whether a module is named by its path, and not by a policy's name in the environment.
pub fn is_file(named: &str) -> Result<bool> {
    match Path::new(named).is_file() {
        false if named.contains(['/', '.']) => {
            Err(Error::new(Kind::PolicyRefused, format!("{}: no such file", shown(named))))
        }
        is_file => Ok(is_file),
    }
}

/// The bytes of a file that a person named.
pub fn read_file(file: &Path) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::new(Kind::Usage, format!("{}: {e}", file.display()));
    let mut bytes = Vec::new();
    // One byte more than may be: then it is refused as too large, without being read to its end.
    File::open(file).and_then(|file| file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes)).map_err(failed)?;
    Ok(bytes)
}

/// The file of a module that is named by its path, or by a policy's name in the environment.
fn file_of(global: &Global, named: &str) -> Result<PathBuf> {
    if is_file(named)? {
        return Ok(named.into());
    }
    let config = global.load()?;
    Ok(config.environment(global.env.as_deref())?.policy(named)?.module)
}

fn read(file: &Path) -> Result<(Vec<u8>, Inspected)> {
    let bytes = read_file(file)?;
    let inspected = inspect(&bytes).map_err(|e| e.context(file.display()))?;
    Ok((bytes, inspected))
}

/// Shows what differs.
pub fn diff(global: &Global, before: &str, after: &str) -> Result<u8> {
    let (_, was) = read(&file_of(global, before)?)?;
    let (_, is) = read(&file_of(global, after)?)?;
    let difference = Difference::between(&was, &is);
    let code = match difference.direction {
        Direction::Same => 0,
        Direction::Narrowed => 3,
        Direction::Widened => 12,
    };
    if global.json {
        let mut document =
            serde_json::to_value(&difference).map_err(|e| Error::new(Kind::Failed, format!("a bug: {e}")))?;
        document["exit-code"] = code.into();
        output::json(&document)?;
        return Ok(code);
    }
    output::line(match (difference.direction, difference.same_bytes) {
        (_, true) => "the same bytes",
        (Direction::Same, _) => "it can do the same",
        (Direction::Narrowed, _) => "it can do less",
        (Direction::Widened, _) => "it can do MORE",
    })?;
    for (what, was, is) in &difference.description {
        output::line(&format!("  {what}: {} → {}", shown(was), shown(is)))?;
    }
    let calls = [
        ("+ imports", &difference.imports_added),
        ("- imports", &difference.imports_removed),
        ("+ declares", &difference.declared_added),
        ("- declares", &difference.declared_removed),
    ];
    for (what, names) in calls {
        for name in names {
            let destructive = is.imports.iter().chain(&was.imports).any(|i| i.name == *name && i.destructive);
            let word = if destructive { "  DESTRUCTIVE, takes an approval" } else { "" };
            output::line(&format!("  {what} {}{word}", shown(name)))?;
        }
    }
    let value = |value: &Value| if value.is_null() { "(none)".to_owned() } else { shown(&value.to_string()) };
    for (name, was, is) in &difference.parameters {
        output::line(&format!("  parameter {}: {} → {}", shown(name), value(was), value(is)))?;
    }
    Ok(code)
}

/// Writes a new file that nobody else may read.
fn write_new(path: &Path, text: &str, mode: u32) -> Result<()> {
    let failed = |e: std::io::Error| Error::new(Kind::Failed, format!("{}: {e}", path.display()));
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
}

/// Makes a key.
pub fn key(global: &Global, file: &Path) -> Result<u8> {
    let (secret, public) = signatures::make_key()?;
    write_new(file, &secret, 0o600)?;
    let mut public_file = file.as_os_str().to_owned();
    public_file.push(".pub");
    let public_file = PathBuf::from(public_file);
    write_new(&public_file, &public, 0o644)?;
    let line = public.lines().nth(1).unwrap_or_default();
    if global.json {
        output::json(&json!({"secret-key": file, "public-key": public_file, "key": line}))?;
    } else {
        output::line(&format!("{} signs, and has no password: keep it where signing is done", file.display()))?;
        output::line("for [environment.E.modules.signer.NAME]:")?;
        output::line(&format!("key = {line:?}"))?;
    }
    Ok(0)
}

/// Signs a module.
pub fn sign(global: &Global, module: &Path, key: &Path, password: Option<&Path>, name: Option<&str>) -> Result<u8> {
    let (bytes, inspected) = read(module)?;
    let secret = |path: &Path| -> Result<String> {
        let failed = |why: String| Error::new(Kind::Usage, format!("{}: {why}", path.display()));
        let size = std::fs::metadata(path).map_err(|e| failed(e.to_string()))?.len();
        if size > KEY_BYTES_MAX {
            return Err(failed(format!("{size} bytes are no key and no password")));
        }
        std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))
    };
    let password = password.map(secret).transpose()?;
    let password = password.map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
    let text = signatures::sign(&bytes, &inspected.description, &secret(key)?, password)?;
    if let Some(name) = name {
        check_name("signature", name)?;
    }
    let file = signatures::file_of(module, name.unwrap_or_default());
    // A signature of a module before this one stands there, as often as not.
    let _ = std::fs::remove_file(&file);
    write_new(&file, &text, 0o644)?;
    let comment = signatures::comment_for(&inspected.description);
    if global.json {
        output::json(&json!({"signature": file, "trusted-comment": comment, "sha256": inspected.sha256}))?;
    } else {
        output::line(&format!("{}: {comment}", file.display()))?;
    }
    Ok(0)
}

/// Shows who has signed a module.
pub fn verify(global: &Global, named: &str) -> Result<u8> {
    let file = file_of(global, named)?;
    let (bytes, inspected) = read(&file)?;
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let rule = environment.binding.modules.rule()?;
    let verdicts = rule.verdicts(&file, &bytes, &inspected.description, now_ms())?;
    let enough = rule.admit(&verdicts);
    let code = if enough.is_ok() { 0 } else { 12 };
    if global.json {
        output::json(&json!({
            "module": file, "sha256": inspected.sha256, "signatures": verdicts, "enough": enough.is_ok(),
            "needs-none": rule.is_open(), "error": enough.err().map(|e| e.message), "exit-code": code,
        }))?;
        return Ok(code);
    }
    let rows: Vec<Vec<String>> = verdicts.iter().map(row).collect();
    if !rows.is_empty() {
        output::table(&["signature", "signer", "counts"], &rows)?;
    }
    match enough {
        Ok(_) if rule.is_open() => output::line("environment takes modules without a signature"),
        Ok(signers) => output::line(&format!("signed by {}: enough here", Vec::from_iter(signers).join(", "))),
        Err(error) => Err(error),
    }?;
    Ok(code)
}

fn row(verdict: &Verdict) -> Vec<String> {
    let file = verdict.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let counts = verdict.refused.as_ref().map_or_else(|| "yes".to_owned(), |why| format!("NO: {why}"));
    vec![file, verdict.signer.clone().unwrap_or_else(|| "?".into()), counts]
}

/// Accepts what is there now.
pub async fn pin(global: &Global, policies: Vec<String>, accept: bool) -> Result<u8> {
    let config = global.load()?;
    let environment = config.environment(global.env.as_deref())?;
    let all = &environment.binding.policy;
    let chosen: Vec<(String, PolicyBinding)> = match policies.is_empty() {
        true => all.iter().map(|(name, binding)| (name.clone(), binding.clone())).collect(),
        false => {
            policies.into_iter().map(|name| Ok((name.clone(), environment.policy(&name)?))).collect::<Result<_>>()?
        }
    };
    let lock = Lock::read(&config.lock_path())?.unwrap_or_default();
    let mut pins: BTreeMap<String, Pin> = BTreeMap::new();
    let (mut rows, mut more) = (Vec::new(), Vec::new());
    for (name, binding) in &chosen {
        let admitted = environment.examine(name, binding).map_err(|e| e.context(format!("policy {name}")))?;
        run::check_world(admitted.inspected(), name, binding.world.get_ref())?;
        let now = admitted.pin;
        let change = match lock.pin(&environment.name, name) {
            None => {
                // Where others were accepted, one that came since was not.
                if lock.covers(&environment.name) {
                    more.push(format!("{name}: it is new"));
                }
                "new".to_owned()
            }
            Some(before) if *before == now => "as it was".to_owned(),
            Some(before) => {
                let needs = now.more_than(before);
                more.extend(needs.iter().map(|need| format!("{name}: {need}")));
                format!("{} → {}{}", before.version, now.version, if needs.is_empty() { "" } else { ", needs MORE" })
            }
        };
        let signers = Vec::from_iter(now.signers.iter().map(String::as_str)).join(", ");
        rows.push(vec![name.clone(), now.version.clone(), now.sha256[..12].to_owned(), signers, change]);
        if lock.pin(&environment.name, name) != Some(&now) {
            pins.insert(name.clone(), now);
        }
    }
    if !global.json {
        output::table(&["policy", "version", "sha256", "signed by", ""], &rows)?;
    }
    if !more.is_empty() && !accept {
        let words = more.iter().map(|line| shown(line)).collect::<Vec<_>>().join("; ");
        return Err(Error::new(Kind::PolicyRefused, format!("it needs more than was accepted: {words}"))
            .hint("nothing was changed; to accept it: the same with --accept"));
    }
    let names: BTreeSet<String> = all.keys().cloned().collect();
    let code = if pins.is_empty() {
        4
    } else {
        let accepted = Accepted { pins, policies: names };
        let arguments = json!({"lock": config.lock_path(), "accepted": accepted});
        let call = DirectCall { name: "policy.pin", arguments };
        let (ended, _) = by_hand(global, &environment, "policy-pin", vec![call]).await?;
        if ended.status != Status::Ok {
            return Err(Error::new(Kind::Failed, ended.summary));
        }
        0
    };
    let said = json!({"lock": config.lock_path(), "needs-more": more, "exit-code": code,
        "policies": rows.iter().map(|r| json!({"policy": r[0], "version": r[1], "change": r[4]})).collect::<Vec<_>>()});
    match (global.json, code) {
        (true, _) => output::json(&said)?,
        (false, 4) => output::line("nothing has changed")?,
        (false, _) => output::line(&format!("accepted, in {}", config.lock_path().display()))?,
    }
    Ok(code)
}
