//! Who answers for a module, what was accepted, and what is refused before anything of it is compiled.

use std::fs;
use std::process::Command;

use crate::support::{Site, policy};

/// The line with the public key.
fn public(site: &Site, key: &str) -> String {
    let text = fs::read_to_string(site.path(format!("{key}.pub"))).unwrap();
    text.lines().nth(1).unwrap().to_owned()
}

/// A site whose environment takes only what `release` signed, and its key.
fn signing() -> Site {
    let site = Site::notes();
    site.lifeboat(&["policy", "key", "release.key"]).expect(0);
    let key = public(&site, "release.key");
    site.append(&format!("[environment.demo.modules.signer.release]\nkey = \"{key}\"\n"));
    site
}

fn sign_all(site: &Site, key: &str, more: &[&str]) {
    for name in ["backup", "drill", "upgrade", "rollback", "restore", "cadence"] {
        let module = format!("policies/{name}.wasm");
        site.lifeboat(&[&["policy", "sign", &module, "--key", key], more].concat()).expect(0);
    }
}

/// No database yet, so a run that may begin fails at it: with another code than a refusal.
fn begins(site: &Site) -> bool {
    match site.run("backup", &[]).code {
        1 => true,
        12 => false,
        other => panic!("{other}"),
    }
}

#[test]
fn only_what_was_signed_by_those_who_must_is_run() {
    let site = signing();
    let refused = site.run("backup", &[]).expect(12);
    assert!(
        refused.stderr.contains("1 of release must have signed it; there is no signature beside it"),
        "{refused:?}"
    );
    assert!(site.lifeboat(&["config", "validate"]).expect(12).stderr.contains("policy backup"));
    assert!(site.lifeboat(&["check", "--only", "policies"]).said().contains("must have signed it"));
    sign_all(&site, "release.key", &[]);
    site.lifeboat(&["config", "validate"]).expect(0);
    assert!(begins(&site));
    assert!(site.lifeboat(&["policy", "verify", "backup"]).expect(0).stdout.contains("signed by release: enough here"));

    // Another module under its name, with the signature that lies there; or with one of its own.
    fs::copy(policy("drill"), site.path("policies/backup.wasm")).unwrap();
    assert!(site.run("backup", &[]).expect(12).stderr.contains("no signature beside it is good for these bytes"));
    fs::copy(site.path("policies/drill.wasm.minisig"), site.path("policies/backup.wasm.minisig")).unwrap();
    // Its signature is good, and it is another policy: of another world, with other parameters.
    let other = site.run("backup", &[]);
    assert!(matches!(other.code, 2 | 12), "{other:?}");

    // Two must: one is not enough, and an expired one is none.
    fs::copy(policy("backup"), site.path("policies/backup.wasm")).unwrap();
    site.lifeboat(&["policy", "sign", "policies/backup.wasm", "--key", "release.key"]).expect(0);
    site.lifeboat(&["policy", "key", "security.key"]).expect(0);
    let key = public(&site, "security.key");
    site.append(&format!("[environment.demo.modules.signer.security]\nkey = \"{key}\"\n"));
    site.configure(&[(
        "[environment.demo.modules.signer.release]",
        "[environment.demo.modules]\nall-of = [\"release\", \"security\"]\n[environment.demo.modules.signer.release]",
    )]);
    assert!(
        site.run("backup", &[])
            .expect(12)
            .stderr
            .contains("security must have signed it; backup.wasm.minisig: release")
    );
    sign_all(&site, "security.key", &["--name", "security"]);
    assert!(begins(&site));
    site.configure(&[(&key, &format!("{key}\"\nnot-after = \"2026-01-01T00:00:00Z"))]);
    assert!(site.run("backup", &[]).expect(12).stderr.contains("the key of security is not taken since 2026-01-01"));
    site.configure(&[("not-after = \"2026-01-01T00:00:00Z\"", "policies = [\"drill\"]")]);
    assert!(site.run("backup", &[]).expect(12).stderr.contains("security may not sign backup, only drill"));
    // What can never be is told when the configuration is read.
    site.configure(&[("all-of = [\"release\", \"security\"]", "at-least = 3")]);
    assert!(site.run("backup", &[]).expect(10).stderr.contains("no module could ever be run"));
}

#[test]
fn the_stock_minisign_verifies_ours_and_we_verify_its() {
    let site = signing();
    let stock = |arguments: &[&str]| {
        let out = Command::new("minisign").args(arguments).current_dir(site.path("")).output().expect("minisign runs");
        (
            out.status.success(),
            String::from_utf8_lossy(&out.stdout).into_owned() + &String::from_utf8_lossy(&out.stderr),
        )
    };
    site.lifeboat(&["policy", "sign", "policies/backup.wasm", "--key", "release.key"]).expect(0);
    let (good, said) = stock(&["-V", "-p", "release.key.pub", "-m", "policies/backup.wasm"]);
    assert!(good && said.contains("Trusted comment: lifeboat policy backup 0.1.0"), "{said}");

    let (made, said) = stock(&["-G", "-W", "-p", "stock.pub", "-s", "stock.key"]);
    assert!(made, "{said}");
    let key = fs::read_to_string(site.path("stock.pub")).unwrap().lines().nth(1).unwrap().to_owned();
    let release = public(&site, "release.key");
    site.configure(&[(&release, &key)]);
    let comment = "lifeboat policy backup 0.1.0";
    let (signed, said) = stock(&["-S", "-s", "stock.key", "-m", "policies/backup.wasm", "-t", comment]);
    assert!(signed, "{said}");
    site.lifeboat(&["policy", "verify", "backup"]).expect(0);
    // And with its key we sign what it verifies.
    site.lifeboat(&["policy", "sign", "policies/backup.wasm", "--key", "stock.key"]).expect(0);
    assert!(stock(&["-V", "-p", "stock.pub", "-m", "policies/backup.wasm"]).0);
    let (signed, said) =
        stock(&["-S", "-s", "stock.key", "-m", "policies/backup.wasm", "-t", "lifeboat policy backup 0.0.9"]);
    assert!(signed, "{said}");
    let verified = site.lifeboat(&["policy", "verify", "backup"]).expect(12);
    assert!(verified.said().contains("it was made for `lifeboat policy backup 0.0.9`"), "{verified:?}");
}

#[test]
fn what_was_accepted_is_run_and_what_needs_more_is_not_until_someone_accepts_it() {
    let site = Site::notes();
    assert!(begins(&site));
    let pinned = site.lifeboat(&["policy", "pin"]).expect(0);
    assert!(pinned.stdout.contains("accepted, in") && pinned.stdout.contains("new"), "{pinned:?}");
    assert!(begins(&site));
    assert!(site.lifeboat(&["policy", "pin"]).expect(4).stdout.contains("nothing has changed"));
    // It is on record.
    let runs = site.lifeboat(&["--json", "runs", "list", "--policy", "policy-pin"]).expect(0).json();
    let shown = site.show(runs[0]["run"].as_str().unwrap()).to_string();
    assert!(shown.contains("\"policy.pin\"") && shown.contains("grants-sha256"), "{shown}");

    // A grant more: refused, with what it is; and accepted only by saying so.
    let grant = "\"upload.verify service=notes store=*\",";
    site.configure(&[(
        &format!("\"dump.take service=notes store=local\",\n    {grant}\n    \"upload.copy"),
        &format!("\"dump.take service=notes store=*\",\n    {grant}\n    \"upload.copy"),
    )]);
    let refused = site.run("backup", &[]).expect(12);
    assert!(refused.stderr.contains("+ dump.take service=notes store=*"), "{refused:?}");
    assert!(refused.stderr.contains("- dump.take service=notes store=local"), "{refused:?}");
    let lock = fs::read(site.path("lifeboat.lock")).unwrap();
    let more = site.lifeboat(&["policy", "pin", "backup"]).expect(12);
    assert!(more.stderr.contains("it is granted dump.take service=notes store=*") && more.stderr.contains("--accept"));
    assert_eq!(fs::read(site.path("lifeboat.lock")).unwrap(), lock, "nothing was changed");
    site.lifeboat(&["policy", "pin", "backup", "--accept"]).expect(0);
    assert!(begins(&site));

    // Another module: refused before anything of it is compiled, whatever it is.
    let good = fs::read(site.path("policies/backup.wasm")).unwrap();
    fs::copy(policy("drill"), site.path("policies/backup.wasm")).unwrap();
    let other = site.run("backup", &[]).expect(12);
    assert!(other.stderr.contains("and backup 0.1.0") && other.stderr.contains("was accepted"), "{other:?}");
    fs::write(site.path("policies/backup.wasm"), good).unwrap();
    assert!(begins(&site));

    // A policy that is new is not accepted with the others.
    site.guest("new", "says", "backup", &[], "");
    assert!(site.run("new", &[]).expect(12).stderr.contains("it is not pinned, and others of this environment are"));
    // And a lock that can't be read lets nothing through.
    site.write("lifeboat.lock", "version = 1\n[environment.demo.backup]\nsha256 = 7\n");
    assert!(site.run("backup", &[]).expect(12).stderr.contains("lifeboat.lock"));
    fs::remove_file(site.path("lifeboat.lock")).unwrap();
    assert!(begins(&site));
    site.append("[environment.demo.modules]\npinned = true\n");
    assert!(site.run("backup", &[]).expect(12).stderr.contains("it is not pinned"));
}

#[test]
fn a_difference_is_told_by_its_direction() {
    let site = Site::notes();
    let same = site.lifeboat(&["policy", "diff", "backup", "policies/backup.wasm"]).expect(0);
    assert!(same.stdout.contains("the same bytes"), "{same:?}");
    let more = site.lifeboat(&["policy", "diff", "drill", "restore"]).expect(12);
    assert!(
        more.stdout.contains("it can do MORE") && more.stdout.contains("+ imports promote.promote  DESTRUCTIVE"),
        "{more:?}"
    );
    assert!(more.stdout.contains("world: drill → recovery"), "{more:?}");
    let difference = site.lifeboat(&["--json", "policy", "diff", "backup", "drill"]).expect(12).json();
    assert!(difference["imports-removed"].as_array().unwrap().iter().any(|call| call == "dump.take"), "{difference}");
    assert!(site.lifeboat(&["policy", "diff", "backup", "nowhere.wasm"]).expect(12).stderr.contains("no such file"));
}

#[test]
fn a_module_is_read_through_before_it_is_run_and_after() {
    let site = signing();
    let file = site.lifeboat(&["policy", "inspect", "policies/restore.wasm"]).expect(0).stdout;
    for words in ["promote.promote", "DESTRUCTIVE, takes an approval", "parameters: ", "made with: ", "wit-component"] {
        assert!(file.contains(words), "{words}: {file}");
    }
    let wit = site.lifeboat(&["policy", "inspect", "policies/restore.wasm", "--wit"]).expect(0).stdout;
    assert!(wit.contains("import lifeboat:recovery/promote@0.1.0") && wit.contains("export run: func"), "{wit}");

    let refused = site.lifeboat(&["policy", "inspect", "backup"]).expect(0).stdout;
    assert!(refused.contains("REFUSED, it is not run") && refused.contains("no run of it is on record"), "{refused}");
    sign_all(&site, "release.key", &[]);
    site.lifeboat(&["policy", "pin"]).expect(0);
    assert!(begins(&site));
    // It failed at its first call: the others are granted, and it has not needed them.
    let after = site.lifeboat(&["policy", "inspect", "backup"]).expect(0).stdout;
    for words in [
        "signed by release",
        "accepted as it is",
        "runs looked through: 1;",
        "granted, and not used in any of them: upload.copy, upload.verify",
    ] {
        assert!(after.contains(words), "{words}: {after}");
    }
    site.configure(&[(
        "    \"upload.copy service=notes store=local to=offsite\",",
        "    \"upload.copy service=notes store=local to=offsite\",\n    \"query.run service=notes query=schema\",",
    )]);
    let idle = site.lifeboat(&["--json", "policy", "inspect", "backup"]).expect(0).json();
    assert_eq!(idle["idle-grants"][0], "query.run service=notes query=schema");
    assert!(idle["refused"].as_str().unwrap().contains("+ query.run"), "{idle}");
}
