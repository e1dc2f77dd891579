//! Modules carried to a site without a network: the same bytes for the same modules, nothing placed unless all of it is good, nothing accepted.

use std::fs;

use engine::policy::bundle::decode;

use crate::support::{Site, policy};

/// A site that takes what `release` signed, whose key it makes; `backup` and `drill` are signed.
fn vendor() -> (Site, String) {
    let site = Site::notes();
    site.lifeboat(&["policy", "key", "release.key"]).expect(0);
    let key = fs::read_to_string(site.path("release.key.pub")).unwrap().lines().nth(1).unwrap().to_owned();
    site.append(&format!("[environment.demo.modules.signer.release]\nkey = \"{key}\"\n"));
    for name in ["backup", "drill"] {
        site.lifeboat(&["policy", "sign", &format!("policies/{name}.wasm"), "--key", "release.key"]).expect(0);
    }
    (site, key)
}

fn exported(site: &Site) -> Vec<u8> {
    site.lifeboat(&["policy", "export", "backup", "drill", "-o", "carried.tar"]).expect(0);
    fs::read(site.path("carried.tar")).unwrap()
}

/// Files of the policies' folder with what is in them.
fn policies(site: &Site) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(site.path("policies")).unwrap().map(|entry| entry.unwrap());
    let mut files: Vec<_> =
        entries.map(|e| (e.file_name().to_string_lossy().into_owned(), fs::read(e.path()).unwrap())).collect();
    files.sort();
    files
}

#[test]
fn modules_are_carried_over_and_accepted_by_a_person_alone() {
    let (from, key) = vendor();
    let bundle = exported(&from);
    from.lifeboat(&["policy", "export", "drill", "backup", "drill", "-o", "again.tar"]).expect(0);
    assert_eq!(fs::read(from.path("again.tar")).unwrap(), bundle, "the same modules are the same bytes");

    let to = Site::notes();
    fs::write(to.path("carried.tar"), &bundle).unwrap();
    // Something else is run there, and was accepted: the same with one more custom section.
    for name in ["backup", "drill"] {
        let module = to.path(format!("policies/{name}.wasm"));
        let mut other = fs::read(&module).unwrap();
        other.extend([0, 3, 1, b'x', 0]);
        fs::write(&module, other).unwrap();
    }
    to.lifeboat(&["policy", "pin"]).expect(0);
    for name in ["backup", "drill"] {
        fs::remove_file(to.path(format!("policies/{name}.wasm"))).unwrap();
    }
    to.append(&format!("[environment.demo.modules.signer.release]\nkey = \"{key}\"\n"));
    let before = policies(&to);
    let shown = to.lifeboat(&["policy", "import", "carried.tar", "--dry-run"]).expect(0);
    assert!(
        shown.stdout.contains("nothing was written") && shown.stdout.contains("there is no module yet"),
        "{shown:?}"
    );
    assert_eq!(policies(&to), before);

    let imported = to.lifeboat(&["policy", "import", "carried.tar"]).expect(0);
    assert!(imported.stdout.contains("to accept it: lifeboat --env demo policy pin backup"), "{imported:?}");
    for file in ["backup.wasm", "backup.wasm.minisig", "drill.wasm", "drill.wasm.minisig"] {
        let carried = fs::read(to.path("policies").join(file)).unwrap();
        assert_eq!(carried, fs::read(from.path("policies").join(file)).unwrap(), "{file}");
    }
    assert_eq!(to.run("backup", &[]).expect(12).code, 12, "it is not accepted by being there");
    to.lifeboat(&["policy", "pin", "backup", "drill"]).expect(0);
    let again = to.lifeboat(&["policy", "import", "carried.tar"]).expect(0);
    assert!(again.stdout.contains("it is what was accepted") && again.stdout.contains("there already"), "{again:?}");
    // No database yet: a run that may begin fails at it.
    assert_eq!(to.run("backup", &[]).code, 1);
}

#[test]
fn nothing_is_placed_that_the_environment_would_not_run() {
    let (from, key) = vendor();
    let bundle = exported(&from);
    let to = Site::notes();
    fs::write(to.path("carried.tar"), &bundle).unwrap();
    let before = policies(&to);
    let import = || to.lifeboat(&["policy", "import", "carried.tar"]);
    let text = fs::read_to_string(to.path("lifeboat.toml")).unwrap();

    // Nobody whom it trusts has signed it.
    to.lifeboat(&["policy", "key", "other.key"]).expect(0);
    let other = fs::read_to_string(to.path("other.key.pub")).unwrap().lines().nth(1).unwrap().to_owned();
    to.append(&format!("[environment.demo.modules.signer.other]\nkey = \"{other}\"\n"));
    assert!(import().expect(12).stderr.contains("other must have signed it"));
    // Of two, one is of another world here, or there is no such policy.
    to.write("lifeboat.toml", &text);
    to.append(&format!("[environment.demo.modules.signer.release]\nkey = \"{key}\"\n"));
    to.configure(&[
        ("environment.demo.policy.drill", "environment.demo.policy.exercise"),
        ("\"drill\"", "\"exercise\""),
        ("world = \"exercise\"", "world = \"drill\""),
    ]);
    let unknown = import().expect(12);
    assert!(
        unknown.stderr.contains("drill") && unknown.stderr.contains("[environment.demo.policy.drill]"),
        "{unknown:?}"
    );
    to.configure(&[
        ("environment.demo.policy.exercise", "environment.demo.policy.drill"),
        ("\"exercise\"", "\"drill\""),
    ]);
    to.configure(&[("policies/drill.wasm", "policies/../policies/backup.wasm")]);
    assert!(import().expect(12).stderr.contains("two policies of the bundle"), "however it is written");
    to.configure(&[("policies/../policies/backup.wasm", "policies/backup.wasm")]);
    assert!(import().expect(12).stderr.contains("two policies of the bundle"));
    assert_eq!(policies(&to), before);
    // What may not be run is not handed on either.
    fs::copy(policy("says"), from.path("policies/backup.wasm")).unwrap();
    from.lifeboat(&["policy", "export", "backup", "-o", "bad.tar"]).expect(12);
    assert!(!from.path("bad.tar").exists());
}

/// A site that has the vendor's bundle, and another module for `backup`: the same with one more custom section, unsigned.
fn with_another_backup() -> Site {
    let (from, _) = vendor();
    let to = Site::notes();
    fs::write(to.path("carried.tar"), exported(&from)).unwrap();
    let module = to.path("policies/backup.wasm");
    let mut other = fs::read(&module).unwrap();
    other.extend([0, 3, 1, b'x', 0]);
    fs::write(&module, other).unwrap();
    to
}

#[test]
fn an_import_that_can_not_be_written_whole_changes_nothing() {
    let to = with_another_backup();
    // The folder of the second module is not there.
    to.configure(&[("policies/drill.wasm", "elsewhere/drill.wasm")]);
    let before = policies(&to);
    let refused = to.lifeboat(&["policy", "import", "carried.tar"]);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.stderr.contains("elsewhere"), "{refused:?}");
    assert_eq!(policies(&to), before, "neither the first module nor its signature was put in its place");
}

#[test]
fn signatures_of_the_module_that_was_there_go_with_it() {
    let to = with_another_backup();
    fs::write(to.path("policies/backup.wasm.ops.minisig"), "of the other bytes").unwrap();
    let shown = to.lifeboat(&["policy", "import", "carried.tar", "--dry-run"]).expect(0);
    assert!(
        shown.stdout.contains("backup.wasm.ops.minisig is of the module that is there, and goes with it"),
        "{shown:?}"
    );
    to.lifeboat(&["policy", "import", "carried.tar"]).expect(0);
    assert!(!to.path("policies/backup.wasm.ops.minisig").exists());
    // One that was put beside the very same module stays.
    fs::write(to.path("policies/backup.wasm.ops.minisig"), "of these bytes, as far as anybody knows").unwrap();
    to.lifeboat(&["policy", "import", "carried.tar"]).expect(0);
    assert!(to.path("policies/backup.wasm.ops.minisig").exists());
}

#[test]
fn a_module_of_other_environments_or_of_a_run_that_is_not_over_is_not_replaced_by_the_way() {
    let to = with_another_backup();
    to.append(
        "[environment.other.policy.nightly]\nmodule = \"policies/../policies/backup.wasm\"\nworld = \"backup\"\n",
    );
    let before = policies(&to);
    let import = |more: &[&str]| to.lifeboat(&[&["--env", "demo", "policy", "import", "carried.tar"], more].concat());
    let refused = import(&[]).expect(12);
    assert!(refused.stderr.contains("policy nightly of environment other"), "{refused:?}");
    assert!(refused.stderr.contains("--shared"), "{refused:?}");
    assert_eq!(policies(&to), before);
    import(&["--shared"]).expect(0);
    assert_ne!(policies(&to), before);
    // The same bytes again take nothing from anybody.
    import(&[]).expect(0);
}

/// An archive of entries as they are given: name, kind, content.
fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, kind, content) in entries {
        let mut header = tar::Header::new_ustar();
        // Not by `set_path`, which refuses what a hostile one would say.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        header.set_mtime(0);
        header.set_cksum();
        archive.append(&header, *content).unwrap();
    }
    archive.into_inner().unwrap()
}

#[test]
fn hostile_bundles_are_refused_and_say_why() {
    use tar::EntryType::{Link, Regular, Symlink};
    let (site, _) = vendor();
    site.lifeboat(&["policy", "export", "backup", "-o", "carried.tar"]).expect(0);
    let good = fs::read(site.path("carried.tar")).unwrap();
    assert_eq!(decode(&good).unwrap().len(), 1);
    let mut parts = Vec::new();
    for entry in tar::Archive::new(&good[..]).entries().unwrap() {
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry.unwrap(), &mut content).unwrap();
        parts.push(content);
    }
    let [manifest, module, signature] = &parts[..] else { panic!("{} entries", parts.len()) };
    let text = String::from_utf8(manifest.clone()).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}: {text}");
        text.replacen(from, to, 1).into_bytes()
    };
    let whole = |manifest: &[u8], name: &str| {
        archive(&[
            ("manifest.json", Regular, manifest),
            (name, Regular, module),
            ("backup.wasm.minisig", Regular, signature),
        ])
    };
    assert_eq!(whole(manifest, "backup.wasm"), good, "the tests' archive is ours where nothing is changed");
    let m = ("manifest.json", Regular, &manifest[..]);
    let w = ("backup.wasm", Regular, &module[..]);
    let s = ("backup.wasm.minisig", Regular, &signature[..]);
    let mut damaged = module.clone();
    damaged[100] ^= 1;
    let mut more = good.clone();
    more.extend([0; 512]);
    let size = format!("\"bytes\": {}", module.len());
    for (what, bundle, says) in [
        ("a text", b"hello".to_vec(), "as an archive"),
        ("nothing", Vec::new(), "it ends before manifest.json"),
        ("no manifest", archive(&[w, s]), "where manifest.json belongs"),
        ("no module", archive(&[m]), "it ends before backup.wasm"),
        ("no signature", archive(&[m, w]), "it ends before backup.wasm.minisig"),
        ("another order", archive(&[m, s, w]), "where backup.wasm belongs"),
        ("one entry more", archive(&[m, w, s, ("more", Regular, b"x")]), "something else is in it"),
        ("an entry twice", archive(&[m, w, s, w]), "something else is in it"),
        ("bytes after its end", more, "something else is in it"),
        ("another path", whole(manifest, "../backup.wasm"), "where backup.wasm belongs"),
        ("a path that is not simple", whole(manifest, "./backup.wasm"), "where backup.wasm belongs"),
        ("a link", archive(&[m, ("backup.wasm", Symlink, b""), s]), "where backup.wasm belongs"),
        ("a hard link", archive(&[m, ("backup.wasm", Link, b""), s]), "where backup.wasm belongs"),
        ("another module", archive(&[m, ("backup.wasm", Regular, &damaged), s]), "not what its manifest says"),
        ("a shorter module", archive(&[m, ("backup.wasm", Regular, &module[..50]), s]), "not what its manifest says"),
        ("a longer module", whole(&with(&size, "\"bytes\": 7"), "backup.wasm"), "7 belong there"),
        ("too large", whole(&with(&size, "\"bytes\": 9999999999"), "backup.wasm"), "at most"),
        (
            "a path for a name",
            whole(&with("\"policy\": \"backup\"", "\"policy\": \"../backup\""), "../backup.wasm"),
            "no name",
        ),
        ("a path for a signer", whole(&with("\"name\": \"\"", "\"name\": \"../../x\""), "backup.wasm"), "no name"),
        (
            "another version",
            whole(&with("\"version\": \"", "\"version\": \"9"), "backup.wasm"),
            "not the module that its manifest",
        ),
        ("another format", whole(&with("bundle/1", "bundle/2"), "backup.wasm"), "this engine reads"),
        ("an unknown key", whole(&with("\"format\"", "\"x\": 1,\n  \"format\""), "backup.wasm"), "unknown field"),
        (
            "no modules",
            archive(&[("manifest.json", Regular, br#"{"format":"lifeboat/bundle/1","modules":[]}"#)]),
            "0 modules",
        ),
        ("another text of the same", whole(&with("{\n", "{ \n"), "backup.wasm"), "something else is in it"),
    ] {
        let error = decode(&bundle).err().unwrap_or_else(|| panic!("{what} is taken"));
        assert!(error.to_string().contains(says), "{what}: {error}");
    }
    // Its words are quoted, and never raw.
    fs::write(
        site.path("evil.tar"),
        whole(&with("\"format\"", "\"\\u001b[31m\\u202e\": 1,\n  \"format\""), "backup.wasm"),
    )
    .unwrap();
    for words in [&["policy", "import", "evil.tar"][..], &["--json", "policy", "import", "evil.tar"]] {
        let said = site.lifeboat(words).expect(12).said();
        assert!(said.contains("unknown field") && !said.contains(['\u{1b}', '\u{202e}']), "{said:?}");
    }
    // Cut off anywhere, or one bit of it changed anywhere.
    for at in (0..good.len()).step_by(good.len() / 150) {
        assert!(decode(&good[..at]).is_err(), "cut off at {at}");
        let mut changed = good.clone();
        changed[at] ^= 4;
        assert!(decode(&changed).is_err(), "changed at {at}");
    }
    for at in 0..512 {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert!(decode(&changed).is_err(), "changed at {at}");
    }
}
