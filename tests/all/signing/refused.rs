//! What is not signed by who may is refused wherever its content would be used, and nothing of it is left anywhere.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{Outcome, Site};

/// With the stock tool.
fn sha256(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).stdin(Stdio::null()).output().unwrap();
    String::from_utf8(out.stdout).unwrap()[..64].to_owned()
}

impl Site {
    /// Puts a text in the place of a backup's manifest, under the key that fits it.
    fn forge(&self, id: &str, text: &str) {
        let there = self.manifest("backups", id);
        fs::remove_file(&there).unwrap();
        let part = self.path("forged");
        fs::write(&part, text).unwrap();
        fs::copy(&part, there.with_file_name(format!("{id}.{}.json", sha256(&part)))).unwrap();
    }

    /// Everything that would use the content of the newest backup in `local` refuses it for this reason, and leaves nothing behind.
    #[track_caller]
    fn refuses(&self, id: &str, why: &str) {
        let before = self.http("GET", "/notes", None).unwrap().body;
        let says = |outcome: &Outcome| {
            assert!(outcome.said().contains(why), "{why}: {outcome:?}");
        };
        says(&self.lifeboat(&["backups", "verify", id, "--store", "local"]).expect(5));
        for (policy, words) in [("drill", &[][..]), ("restore", &["--yes"][..])] {
            let backup = format!("backup={id}");
            let outcome = self.run(policy, &[&["--param", &backup][..], words].concat()).expect(5);
            assert_eq!(outcome.json()["status"], "verification-failed", "{outcome:?}");
            says(&outcome);
        }
        let hold = self.lifeboat(&["--json", "candidates", "list"]).json();
        assert_eq!(hold, serde_json::json!([]), "nothing was staged");
        assert!(fs::read_dir(self.path(".lifeboat/spool")).unwrap().next().is_none(), "nothing was spooled");
        let left = fs::read_dir(self.path("live")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        assert!(left.into_iter().all(|name| !name.contains("lifeboat")));
        assert_eq!(self.http("GET", "/notes", None).unwrap().body, before);
    }
}

#[test]
fn a_backup_from_before_there_was_trust_is_shown_as_unsigned_and_used_nowhere() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let id = site.take();
    let shown = |site: &Site| site.backup_in("local", &id)["state"]["signature"]["words"].as_str().unwrap().to_owned();
    assert_eq!(shown(&site), "unsigned");
    site.run("drill", &[]).expect(0);
    assert!(site.backup_in("local", &id)["state"]["verified-at-ms"].is_u64());

    let trust = site.make_key("demo");
    site.sign_with(Some("demo"), &[&trust]);
    assert!(
        shown(&site).starts_with("unsigned: it is not signed, and only what trusted keys signed"),
        "{}",
        shown(&site)
    );
    assert!(site.backup_in("local", &id)["state"]["verified-at-ms"].is_null(), "its verification counts no more");
    let table = site.lifeboat(&["backups", "list"]).expect(0).stdout;
    assert!(table.contains("unsigned, refused"), "{table}");
    site.refuses(&id, "it is not signed");
    // A check says that it is in the way, and counts it for nothing.
    let check = |level: &str, name: &str, words: &[&str]| {
        let checked = site.lifeboat(&["--json", "check", "--only", name]).expect(if level == "ok" { 0 } else { 2 });
        let check = checked.json()["checks"][0].clone();
        assert_eq!(check["level"], level, "{check:#}");
        assert!(words.iter().all(|word| check.to_string().contains(word)), "{check:#}");
    };
    check("critical", "backup.catalog", &[&id, "newer than any that is not", "it is not signed"]);
    check("critical", "backup.age", &["there is no backup of notes"]);
    // It can still be looked at, kept and let go.
    site.lifeboat(&["backups", "hold", &id, "--days", "1", "--why", "evidence"]).expect(0);
    site.lifeboat(&["backups", "unhold", &id, "--why", "done"]).expect(0);
    // Without trust it is as it was.
    site.sign_with(None, &[]);
    site.run("drill", &[]).expect(0);
}

#[test]
fn a_signature_without_trust_is_a_name_and_no_more() {
    let mut site = Site::notes();
    site.serve_some_notes();
    site.make_key("demo");
    site.sign_with(Some("demo"), &[]);
    let id = site.take();
    let signature = site.backup_in("local", &id)["state"]["signature"].clone();
    assert_eq!(signature["words"], "signed by demo, not held against any trust");
    assert_eq!(signature["standing"], "not-held");
    let table = site.lifeboat(&["backups", "list"]).expect(0).stdout;
    assert!(table.contains("demo, not held"), "{table}");
    site.run("drill", &[]).expect(0);
    let said = site.outsider("backups", &id, None).expect(0).stdout;
    assert!(said.contains("signed by demo, held against no key"), "{said}");
}

#[test]
fn every_forgery_is_refused_by_the_engine_and_by_the_outsider() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let (trust, other) = (site.make_key("demo"), site.make_key("other"));
    site.sign_with(Some("demo"), &[&trust]);
    let (first, id) = (site.take(), site.take());
    site.sign_with(Some("other"), &[]);
    let by_other = {
        let id = site.take();
        let path = site.manifest("backups", &id);
        let text = fs::read_to_string(&path).unwrap();
        fs::remove_file(path).unwrap();
        text
    };
    site.sign_with(None, &[&trust]);
    let read = |id: &str| fs::read_to_string(site.manifest("backups", id)).unwrap();
    let (good, others) = (read(&id), read(&first));
    let part = |text: &str, at: usize| text.lines().nth(at).unwrap().to_owned();
    let (json, signed, elsewhere) = (part(&good, 1), part(&good, 3), part(&others, 3));
    let newer = json.replace("\"label\":null", "\"label\":\"forged\"");
    assert_ne!(newer, json);
    for (text, why) in [
        (json.clone(), "it is not signed"),
        (good.replace(&json, &newer), "its signature by demo does not hold"),
        (good.replace(&signed, &elsewhere), "its signature by demo does not hold"),
        (good.replace(&signed, &part(&by_other, 3)), "it is signed by other, which is not trusted"),
        (good.replacen("manifest/1", "verified/1", 1), "it is no lifeboat/manifest/1"),
        (format!("{good}{signed}\n"), "it has 2 signatures, 1 expected"),
        (format!("{good}a line of another kind\n"), "is no signature"),
        (good.replace("=\n", "\n"), "base64"),
        (good.trim_end().to_owned(), "its last line does not end"),
        (good.replacen(",\"", ", \"", 1), "canonical"),
    ] {
        site.forge(&id, &text);
        let verified = site.lifeboat(&["backups", "verify", &id, "--store", "local"]);
        assert!(verified.code != 0 && verified.said().contains(why), "{why}: {verified:?}");
        let theirs = site.outsider("backups", &id, Some(&trust)).expect(5);
        assert!(theirs.stderr.contains(why), "{why}: {theirs:?}");
        let staged = site.run("restore", &["--param", &format!("backup={id}"), "--yes"]);
        assert!(![0, 3, 4].contains(&staged.code) && staged.said().contains(why), "{why}: {staged:?}");
    }
    site.forge(&id, &good);
    site.lifeboat(&["backups", "verify", &id, "--store", "local"]).expect(0);
    site.outsider("backups", &id, Some(&trust)).expect(0);

    // The same name, another key; the same key, for verifications only.
    let verifications = trust.replace(" lifeboat/manifest/1", "");
    fs::remove_file(site.path("demo.key")).unwrap();
    let namesake = site.make_key("demo");
    for (trust, why) in [
        (&namesake, "it is signed by another key than the trusted one of the name demo"),
        (&verifications, "demo may not sign lifeboat/manifest/1"),
        (&other, "it is signed by demo, which is not trusted"),
    ] {
        site.sign_with(None, &[trust]);
        site.refuses(&id, why);
        assert_eq!(site.backup_in("local", &id)["state"]["signature"]["standing"], "untrusted");
        let theirs = site.outsider("backups", &id, Some(trust)).expect(5);
        assert!(theirs.stderr.contains(why), "{why}: {theirs:?}");
    }
    // A good signature is none of the objects themselves.
    let mut objects = Vec::new();
    crate::support::walk(&site.path("backups/notes/objects").join(&id), &mut objects);
    let object = objects.into_iter().find(|path| path.ends_with("db.data.sqlite.zst")).unwrap();
    let mut bytes = fs::read(&object).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&object, bytes).unwrap();
    let said = site.outsider("backups", &id, Some(&trust)).expect(5);
    assert!(said.stderr.contains("db.data.sqlite.zst hashes to"), "{said:?}");
    fs::remove_file(&object).unwrap();
    let said = site.outsider("backups", &id, Some(&trust)).expect(5);
    assert!(said.stderr.contains("is not there"), "{said:?}");
}

#[test]
fn a_verification_that_nobody_trusted_signed_does_not_count() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let (trust, drills) = (site.make_key("demo"), site.make_key("drills"));
    let manifests = trust.replace(" lifeboat/verified/1", "");
    site.sign_with(Some("demo"), &[&manifests]);
    let id = site.take();
    // The drill passes, and says that its verification will not be known of.
    let drill = site.run("drill", &[]).expect(0);
    assert!(drill.said().contains("verification-record") && drill.said().contains("may not sign"), "{drill:?}");
    let verified = |site: &Site| site.backup_in("local", &id)["state"].clone();
    assert!(verified(&site)["verified-at-ms"].is_null());
    assert!(!site.path("backups/notes/records").join(&id).exists());

    site.sign_with(Some("drills"), &[&manifests, &drills]);
    site.run("drill", &[]).expect(0);
    assert_eq!(verified(&site)["verified-by"], "drills");
    let folder = site.path("backups/notes/records").join(&id);
    let record = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let good = fs::read_to_string(&record).unwrap();
    let both = format!("{manifests}\n{drills}");
    assert!(site.outsider("backups", &id, Some(&both)).expect(0).stdout.contains("\nverified at "));
    for (text, why) in [
        (good.lines().nth(1).unwrap().to_owned(), "it is not signed"),
        (good.replacen("\"rows\":", "\"rows\":1", 1), "its signature by drills does not hold"),
    ] {
        fs::write(&record, &text).unwrap();
        assert!(verified(&site)["verified-at-ms"].is_null(), "{why}");
        let said = site.outsider("backups", &id, Some(&both)).expect(0).stdout;
        assert!(said.contains(&format!("does not count: {why}")), "{said}");
    }
}

#[test]
fn without_a_key_of_its_own_an_environment_with_trust_takes_no_backup() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let trust = site.make_key("demo");
    site.sign_with(None, &[&trust]);
    let refused = site.run("backup", &[]).expect(1);
    assert!(refused.said().contains("has no key to sign one with"), "{refused:?}");
    assert!(!site.path("backups/notes").exists());
}
