//! The whole way by the command line: from a registry to where the environment has its policy, judged as it would be run, and accepted by nobody.

use std::fs;
use std::process::Stdio;

use crate::support::registry::{Answer, Artifact, Registry, sha256};
use crate::support::{Outcome, Site, lifeboat_oci, policy, wait_until};

/// A site with a policy whose module has to come from somewhere.
pub(super) fn site() -> Site {
    let site = Site::notes();
    site.append(
        "[environment.demo.policy.nightly]\nmodule = \"policies/nightly.wasm\"\nmodule-name = \"backup\"\nworld = \"backup\"\n\
         grants = [\"dump.take service=notes store=local\"]\nparameters = { service = \"notes\", store = \"local\" }\n",
    );
    site
}

/// The command line that can ask registries.
pub(super) fn ask(site: &Site, words: &[&str]) -> Outcome {
    let mut command = site.command_of(&lifeboat_oci(), words);
    Outcome::of(command.stdin(Stdio::null()).env_remove("REGISTRY_AUTH_FILE").output().unwrap())
}

/// Has `release` sign, whose key it makes, and nobody else; a module with its signature.
pub(super) fn signed(site: &Site, module: &[u8]) -> Vec<u8> {
    if !site.path("release.key").exists() {
        site.lifeboat(&["policy", "key", "release.key"]).expect(0);
        let key = fs::read_to_string(site.path("release.key.pub")).unwrap().lines().nth(1).unwrap().to_owned();
        site.append(&format!("[environment.demo.modules.signer.release]\nkey = \"{key}\"\n"));
    }
    fs::write(site.path("to-sign.wasm"), module).unwrap();
    site.lifeboat(&["policy", "sign", "to-sign.wasm", "--key", "release.key"]).expect(0);
    fs::read(site.path("to-sign.wasm.minisig")).unwrap()
}

pub(super) fn backup() -> Vec<u8> {
    fs::read(policy("backup")).unwrap()
}

/// The same policy in other bytes: with one more custom section.
fn other(module: &[u8]) -> Vec<u8> {
    [module, &[0, 3, 1, b'x', 0]].concat()
}

/// Files of the policies' folder that are the policy's.
fn files(site: &Site) -> Vec<String> {
    let names = fs::read_dir(site.path("policies")).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names
        .filter(|name| {
            !["backup", "drill", "upgrade", "rollback", "restore", "cadence"]
                .map(|n| format!("{n}.wasm"))
                .contains(name)
        })
        .collect();
    names.sort();
    names
}

#[test]
fn a_module_is_added_updated_and_accepted_by_a_person_alone() {
    let site = site();
    let first = backup();
    let signature = signed(&site, &first);
    let artifact = Artifact::new(&first, &[(".minisig", &signature)]);
    let registry = Registry::of(&artifact);
    let reference = registry.reference(&artifact.sha256());

    // There is nothing to update.
    assert!(
        ask(&site, &["policy", "update", "nightly", &reference]).expect(2).stderr.contains("there is no module yet")
    );
    let shown = ask(&site, &["policy", "add", "nightly", &reference, "--dry-run"]).expect(0);
    assert!(shown.stdout.contains("nothing was written") && files(&site).is_empty(), "{shown:?}");
    let added = ask(&site, &["policy", "add", "nightly", &reference]).expect(0);
    assert!(
        added.stdout.contains("there is no module yet") && added.stdout.contains("it is run from now on"),
        "{added:?}"
    );
    assert!(added.stdout.contains(&format!("source = \"{reference}\"")), "{added:?}");
    assert_eq!(files(&site), ["nightly.wasm", "nightly.wasm.minisig"]);
    assert_eq!(fs::read(site.path("policies/nightly.wasm")).unwrap(), first);
    assert_eq!(fs::read(site.path("policies/nightly.wasm.minisig")).unwrap(), signature);
    let asked = registry.asked().len();
    let again = ask(&site, &["policy", "add", "nightly", &reference]).expect(2);
    assert!(
        again.stderr.contains("there is a module already") && again.stderr.contains("policy update nightly"),
        "{again:?}"
    );
    assert_eq!(registry.asked().len(), asked, "nobody was asked for what is not taken");
    site.lifeboat(&["policy", "pin", "nightly"]).expect(0);

    // What comes next is named in the configuration.
    let second = other(&first);
    let signature = signed(&site, &second);
    let artifact = Artifact::new(&second, &[(".minisig", &signature)]);
    let registry = Registry::of(&artifact);
    let source = registry.reference(&artifact.sha256());
    assert!(ask(&site, &["policy", "update", "nightly"]).expect(2).stderr.contains("which one?"));
    site.configure(&[("module-name = \"backup\"", &format!("module-name = \"backup\"\nsource = \"{source}\""))]);
    let differs = ask(&site, &["policy", "update", "nightly", &reference]).expect(2);
    assert!(differs.stderr.contains("says another one") && registry.asked().is_empty(), "{differs:?}");
    let updated = ask(&site, &["--json", "policy", "update", "nightly"]).expect(0).json();
    assert_eq!(updated["source"], source.as_str());
    assert_eq!(updated["modules"][0]["sha256"], sha256(&second).as_str());
    assert_eq!(updated["modules"][0]["to-accept"], "lifeboat --env demo policy pin nightly");
    site.run("nightly", &[]).expect(12);
    site.lifeboat(&["policy", "pin", "nightly"]).expect(0);
    // No database yet: a run that may begin fails at it.
    assert_eq!(site.run("nightly", &[]).code, 1);
    site.configure(&[(&source, "oci://registry.example/nightly:1.0")]);
    let wrong = site.lifeboat(&["config", "validate"]).expect(10);
    assert!(wrong.stderr.contains("source: the reference has no digest"), "{wrong:?}");
}

#[test]
fn what_needs_more_is_not_run_until_a_person_accepts_it() {
    let site = site();
    fs::copy(policy("sleeper"), site.path("policies/nightly.wasm")).unwrap();
    site.configure(&[(
        "grants = [\"dump.take service=notes store=local\"]\nparameters = { service = \"notes\", store = \"local\" }\n",
        "",
    )]);
    site.lifeboat(&["policy", "pin", "nightly"]).expect(0);
    let artifact = Artifact::new(&backup(), &[]);
    let registry = Registry::of(&artifact);
    let updated = ask(&site, &["policy", "update", "nightly", &registry.reference(&artifact.sha256())]).expect(0);
    for says in ["MORE than was accepted: it imports dump.take", "policy pin nightly --accept"] {
        assert!(updated.stdout.contains(says), "{updated:?}");
    }
    site.run("nightly", &[]).expect(12);
    site.lifeboat(&["policy", "pin", "nightly"]).expect(12);
    site.lifeboat(&["policy", "pin", "nightly", "--accept"]).expect(0);
}

#[test]
fn nothing_is_placed_that_would_not_be_run_or_is_not_what_was_asked_for() {
    let site = site();
    let module = backup();
    let signature = signed(&site, &module);
    let stranger = super::artifact();
    let (signed_module, unsigned) = (Artifact::new(&module, &[(".minisig", &signature)]), Artifact::new(&module, &[]));
    let of_another = Artifact::new(&other(&module), &[(".minisig", &signature)]);
    for (artifact, says) in [
        (&unsigned, "there is no signature beside it"),
        (&of_another, "no signature beside it is good for these bytes"),
        (&stranger, "no signature beside it is good for these bytes"),
    ] {
        let registry = Registry::of(artifact);
        let refused = ask(&site, &["policy", "add", "nightly", &registry.reference(&artifact.sha256())]).expect(12);
        assert!(refused.stderr.contains(says), "{refused:?}");
        registry.was_asked("/blobs/");
    }
    let digest = sha256(&module);
    let registry = super::otherwise(&signed_module, move |asked| {
        asked.path.ends_with(&digest).then(|| Answer::ok("something else"))
    });
    let reference = registry.reference(&signed_module.sha256());
    let refused = ask(&site, &["policy", "add", "nightly", &reference]).expect(12);
    assert!(refused.stderr.contains("its manifest says"), "{refused:?}");

    let asked = registry.asked().len();
    let tag = reference.split('@').next().unwrap();
    let refused = ask(&site, &["policy", "add", "nightly", &format!("{tag}:1.0")]).expect(2);
    assert!(refused.stderr.contains("oras resolve 127.0.0.1"), "{refused:?}");
    let refused = ask(&site, &["policy", "add", "weekly", &reference]).expect(12);
    assert!(refused.stderr.contains("[environment.demo.policy.weekly]"), "{refused:?}");
    let refused = ask(&site, &["policy", "add", "nightly", &reference, "--auth-file", "lifeboat.toml"]).expect(2);
    assert!(refused.stderr.contains("no JSON with `auths`"), "{refused:?}");
    assert_eq!(registry.asked().len(), asked, "none of these asks anybody");
    assert!(files(&site).is_empty(), "{:?}", files(&site));
}

#[test]
fn a_module_that_a_run_goes_on_with_keeps_its_place() {
    let site = site();
    let before = fs::read(policy("sleeper")).unwrap();
    fs::write(site.path("policies/nightly.wasm"), &before).unwrap();
    site.configure(&[
        ("grants = [\"dump.take service=notes store=local\"]", "grants = [\"clock.sleep-until\"]"),
        ("parameters = { service = \"notes\", store = \"local\" }\n", ""),
    ]);
    let running = site.start_run("nightly", &[]);
    let open = || site.lifeboat(&["--json", "runs", "list"]).json();
    wait_until("it sleeps", || open().to_string().contains("\"running\""));
    let artifact = Artifact::new(&backup(), &[]);
    let registry = Registry::of(&artifact);
    let reference = registry.reference(&artifact.sha256());
    let refused = ask(&site, &["policy", "update", "nightly", &reference]).expect(11);
    assert!(refused.stderr.contains("is not over, and goes on with"), "{refused:?}");
    assert_eq!(fs::read(site.path("policies/nightly.wasm")).unwrap(), before);
    running.signal("INT");
    assert_eq!(running.outcome().code, 130);
    // What it may do here is no question of the module: this one would be refused grants when it asks.
    ask(&site, &["policy", "update", "nightly", &reference]).expect(0);
}

#[test]
fn the_command_line_that_is_built_without_the_feature_says_so() {
    let site = site();
    let registry = Registry::start(|_| Answer::status(404));
    for verb in ["add", "update"] {
        let said = site.lifeboat(&["policy", verb, "nightly", &registry.reference(&"0".repeat(64))]).expect(2);
        assert!(said.stderr.contains("can't ask registries") && said.stderr.contains("--features oci"), "{said:?}");
    }
    assert!(registry.asked().is_empty());
}
