//! Signed backups through the command line: whose they are is said, and what nobody who is trusted has signed goes nowhere.

pub mod crash;
mod postgres;
mod refused;
mod vectors;
mod verify;

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use crate::audit::{python, repository, text};
use crate::support::{Outcome, Site};

impl Site {
    /// Makes a key of a name in `NAME.key`; gives its line of trust.
    pub fn make_key(&self, name: &str) -> String {
        let file = format!("{name}.key");
        self.lifeboat(&["keys", "make", &file, "--name", name]).expect(0).stdout.trim_end().to_owned()
    }

    /// Signs with the key in `NAME.key` from here on, and takes only what these lines allow; without lines, whatever there is.
    pub fn sign_with(&self, name: Option<&str>, trust: &[&str]) {
        let text = fs::read_to_string(self.path("lifeboat.toml")).unwrap();
        let before = text.split("\n[environment.demo.signing]\n").next().unwrap().to_owned();
        self.write("lifeboat.toml", &before);
        let key = name.map(|name| format!("key = \"{name}.key\"\n")).unwrap_or_default();
        let trust = if trust.is_empty() { String::new() } else { format!("trust = {trust:?}\n") };
        if !key.is_empty() || !trust.is_empty() {
            self.append(&format!("[environment.demo.signing]\n{key}{trust}"));
        }
    }

    /// `backups show` of a backup, the copy in a store.
    fn backup_in(&self, store: &str, id: &str) -> Value {
        let all = self.lifeboat(&["--json", "backups", "list", "--store", store]).json();
        all.as_array().unwrap().iter().find(|b| b["id"] == id).cloned().unwrap_or_else(|| panic!("{all}"))
    }

    /// Takes a backup; gives its id.
    fn take(&self) -> String {
        self.run("backup", &[]).expect(0);
        let all = self.lifeboat(&["--json", "backups", "list", "--store", "local"]).expect(0).json();
        all.as_array().unwrap().last().unwrap()["id"].as_str().unwrap().to_owned()
    }

    /// The object of a backup's manifest in a store.
    fn manifest(&self, store: &str, id: &str) -> PathBuf {
        let folder = self.path(store).join("notes/manifests");
        let mut found = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
        found.find(|p| p.file_name().unwrap().to_str().unwrap().starts_with(id)).expect("it is there")
    }

    /// What the outsider's verifier says of a backup.
    fn outsider(&self, store: &str, id: &str, trust: Option<&str>) -> Outcome {
        let mut words = vec![text(&self.path(store)), "notes".into(), id.to_owned()];
        if let Some(trust) = trust {
            self.write("trust.txt", &format!("{trust}\n"));
            words.extend(["--key".into(), text(&self.path("trust.txt"))]);
        }
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        python(&repository("docs/verify_manifest.py"), &words)
    }
}

#[test]
fn a_backup_and_its_drill_are_signed_and_the_outsider_agrees() {
    let mut site = Site::notes();
    site.serve_some_notes();
    let trust = site.make_key("demo");
    site.sign_with(Some("demo"), &[&trust]);
    site.lifeboat(&["config", "validate"]).expect(0);
    let id = site.take();
    site.run("drill", &[]).expect(0);
    for store in ["backups", "offsite"] {
        let name = if store == "backups" { "local" } else { store };
        let signature = site.backup_in(name, &id)["state"]["signature"].clone();
        assert_eq!((&signature["standing"], &signature["signer"]), (&"trusted".into(), &"demo".into()), "{signature}");
        assert_eq!(signature["words"], "signed by demo, which is trusted here");
        let said = site.outsider(store, &id, Some(&trust)).expect(0).stdout;
        assert!(said.contains(".json: signed by demo\nobjects: 3, each as the manifest says\n"), "{said}");
        // The drill was of the copy in `local`.
        assert_eq!(said.contains("\nverified at "), store == "backups", "{said}");
    }
    // A copy is the same object.
    assert_eq!(fs::read(site.manifest("backups", &id)).unwrap(), fs::read(site.manifest("offsite", &id)).unwrap());
    let local = site.backup_in("local", &id);
    assert_eq!(local["state"]["verified-by"], "demo");
    assert!(local["state"]["verified-at-ms"].is_u64());
    let table = site.lifeboat(&["backups", "list"]).expect(0).stdout;
    assert!(table.lines().next().unwrap().contains("SIGNED") && table.contains("demo"), "{table}");
    let restored = site.run("restore", &["--yes"]).expect(0);
    assert_eq!(restored.json()["status"], "ok");
    no_secret_is_anywhere(&site, "demo");
}

/// The private key stands in its file and nowhere else that a command has written.
fn no_secret_is_anywhere(site: &Site, name: &str) {
    let line = fs::read_to_string(site.path(format!("{name}.key"))).unwrap();
    let secret = line.trim_end().splitn(5, '+').last().unwrap().to_owned();
    assert!(secret.len() > 40);
    let mut files = Vec::new();
    for folder in [".lifeboat", "backups", "offsite", "live"] {
        crate::support::walk(&site.path(folder), &mut files);
    }
    files.push(site.path("serve.log"));
    assert!(files.iter().any(|file| file.ends_with("state.sqlite")));
    for file in files {
        let bytes = fs::read(&file).unwrap_or_default();
        let held = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
        assert!(!held, "{} holds the private key", file.display());
    }
    let shown = site.lifeboat(&["config", "show"]).expect(0);
    assert!(!shown.said().contains(&secret) && shown.said().contains("demo.key"), "{shown:?}");
}

#[test]
fn a_key_is_made_once_and_says_its_line_again() {
    let site = Site::empty();
    let made = site.lifeboat(&["keys", "make", "a.key", "--name", "backups"]).expect(0);
    let line = made.stdout.trim_end();
    assert!(line.ends_with(" lifeboat/manifest/1 lifeboat/verified/1 lifeboat/checked/1"), "{line}");
    assert!(made.stderr.contains("key = \"a.key\""), "{made:?}");
    assert_eq!(site.lifeboat(&["keys", "show", "a.key"]).expect(0).stdout, made.stdout);
    assert_eq!(site.lifeboat(&["--json", "keys", "show", "a.key"]).expect(0).json()["trust"], line);
    let before = fs::read_to_string(site.path("a.key")).unwrap();
    let again = site.lifeboat(&["keys", "make", "a.key", "--name", "backups"]).expect(1);
    assert!(again.stderr.contains("a.key is there already"), "{again:?}");
    assert_eq!(fs::read_to_string(site.path("a.key")).unwrap(), before);
    let name = site.lifeboat(&["keys", "make", "b.key", "--name", "a/1"]).expect(2);
    assert!(name.stderr.contains("is no name of a key") && !site.path("b.key").exists(), "{name:?}");
    site.lifeboat(&["keys", "show", "nowhere.key"]).expect(1);
    // The log's key has another name, and is of another file.
    std::os::unix::fs::symlink("a.key", site.path("link.key")).unwrap();
    assert_eq!(site.lifeboat(&["keys", "show", "link.key"]).expect(0).stdout, made.stdout);
    fs::set_permissions(site.path("a.key"), std::os::unix::fs::PermissionsExt::from_mode(0o640)).unwrap();
    let loose = site.lifeboat(&["keys", "show", "a.key"]).expect(1);
    assert!(loose.stderr.contains("others may read it") && loose.stderr.contains("chmod 600"), "{loose:?}");
}

#[test]
fn the_logs_own_key_signs_no_backups() {
    let site = Site::notes();
    site.lifeboat(&["audit", "key"]).expect(0);
    site.append("[environment.demo.signing]\nkey = \".lifeboat/keys/1.key\"\n");
    let refused = site.lifeboat(&["config", "validate"]).expect(10);
    assert!(refused.stderr.contains("no private key for backups"), "{refused:?}");
}
