//! Secrets of stores, databases, encryption and signing, used for what they are for: nothing that is printed, logged at trace or left behind holds them.

use std::process::{Command, Stdio};

use host_api::stores::testing::Moto;

use super::{CANARY, files, has};
use crate::support::Site;

/// The line of a key file that is the key.
fn private(file: &std::path::Path, begins: &str) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    let line = text.lines().find(|line| line.contains(begins)).unwrap_or_else(|| panic!("no {begins} in {text}"));
    line.trim().to_owned()
}

#[test]
fn secrets_that_are_used_stand_in_nothing_that_is_said_or_left() {
    let Some(moto) = Moto::start() else { return };
    let mut site = Site::notes();
    site.serve_some_notes();
    site.write("secret", CANARY);
    site.write("secret.id", "canary");
    let age = site.path("age.key");
    assert!(Command::new("age-keygen").arg("-o").arg(&age).output().expect("age-keygen runs").status.success());
    let public = Command::new("age-keygen").arg("-y").arg(&age).output().unwrap();
    let public = String::from_utf8(public.stdout).unwrap();
    let trusted = site.lifeboat(&["keys", "make", "backups.key", "--name", "backups"]).expect(0);
    // A database that takes no connection: its tools are given the password all the same.
    site.append(&format!(
        "[environment.demo.encryption]\nrecipients = [{:?}]\nidentity = {{ file = \"age.key\" }}\n\
         [environment.demo.signing]\nkey = \"backups.key\"\ntrust = [{:?}]\n\
         [environment.demo.store.vault]\nkind = \"s3\"\nbucket = \"backups\"\nregion = \"us-east-1\"\nendpoint = \"{}\"\n\
         path-style = true\ncredentials.access-key-id.file = \"secret.id\"\ncredentials.secret-access-key.file = \"secret\"\n\
         [environment.demo.service.away.source.db]\nkind = \"postgres\"\nhost = \"127.0.0.1\"\nport = {}\n\
         database = \"away\"\nuser = \"somebody\"\npassword = {{ file = \"secret\" }}\n",
        public.trim(),
        trusted.stdout.trim(),
        moto.endpoint(),
        crate::support::free_port(),
    ));
    site.guest("sends", "deny-all", "upgrade", &["dump.take service=* store=vault"], "");
    let secrets = [CANARY.to_owned(), private(&age, "AGE-SECRET-KEY-1"), private(&site.path("backups.key"), "PRIVATE")];
    let mut said = Vec::new();
    let mut traced = |words: &[&str]| {
        let out = site.command(words).env("LIFEBOAT_LOG", "trace").stdin(Stdio::null()).output().unwrap();
        let all = [out.stdout.as_slice(), &out.stderr].concat();
        for secret in &secrets {
            assert!(!has(&all, secret.as_bytes()), "a secret stands in what {words:?} says");
        }
        said.extend(all);
        out.status.code()
    };
    let call = |service: &'static str| {
        ["run", "sends", "--param", "call=dump.take", "--param", service, "--param", "store=vault"]
    };
    assert_eq!(traced(&call("service=notes")), Some(0));
    assert_ne!(traced(&call("service=away")), Some(0));
    let listed = site.lifeboat(&["--json", "backups", "list", "--store", "vault"]).expect(0).json();
    let id = listed[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(traced(&["backups", "verify", &id, "--store", "vault", "--depth", "content"]), Some(0));
    traced(&["check"]);
    traced(&["--json", "check"]);
    assert!(has(&said, b"TRACE") && has(&said, b"vault") && has(&said, b"away"), "all of it was said something of");
    for file in files(&site.path(".lifeboat")) {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!secrets.iter().any(|secret| has(&bytes, secret.as_bytes())), "{} holds a secret", file.display());
    }
}
