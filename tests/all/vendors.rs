//! A vendor's way, for each language: a project is made, built, packed, tested, signed, pinned, and run on a real service.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Outcome, Site, lifeboat};

/// Tools that the set-up found, as variables of a build; none where it found none.
fn tools(language: &str) -> Option<Vec<(&'static str, OsString)>> {
    let variable = |name: &str| std::env::var_os(name);
    Some(match language {
        "rust" => {
            let lines = variable("LIFEBOAT_GUEST_VARIABLES")?.into_string().unwrap();
            let mut variables: Vec<_> = lines
                .lines()
                .filter_map(|line| line.split_once('='))
                .map(|(key, value)| (&*key.to_owned().leak(), value.into()))
                .collect();
            variables.push(("CARGO_TARGET_DIR", variable("LIFEBOAT_GUEST_TARGET")?));
            variables
        }
        "c" => {
            let python = variable("LIFEBOAT_ZIG_PYTHON")?.into_string().unwrap();
            vec![("CC", format!("{python} -m ziglang cc").into())]
        }
        "python" => vec![("COMPONENTIZE_PY", variable("LIFEBOAT_COMPONENTIZE_PY")?)],
        "javascript" => {
            let folder = PathBuf::from(variable("LIFEBOAT_COMPONENTIZE_JS")?);
            let path = variable("PATH").unwrap_or_default();
            let folders = std::iter::once(folder).chain(std::env::split_paths(&path));
            vec![("PATH", std::env::join_paths(folders).unwrap())]
        }
        other => panic!("{other}"),
    })
}

/// Makes a project in the site and builds it, which runs its scenarios.
fn build(site: &Site, name: &str, language: &str, world: &str, variables: &[(&'static str, OsString)]) {
    let made = site.lifeboat(&["policy", "new", name, "--lang", language, "--world", world]).expect(0);
    assert!(made.stdout.contains("build.sh"), "{made:?}");
    if language == "javascript" {
        let modules = PathBuf::from(std::env::var_os("LIFEBOAT_COMPONENTIZE_JS").unwrap()).join("node_modules");
        std::os::unix::fs::symlink(modules, site.path(name).join("node_modules")).unwrap();
    }
    let mut command = Command::new("sh");
    // What cargo says of the crate that this test is of is not for a crate of its own.
    command.env_remove("RUSTFLAGS").env_remove("CARGO_ENCODED_RUSTFLAGS");
    let out = command
        .arg(site.path(name).join("build.sh"))
        .env("LIFEBOAT", lifeboat())
        .envs(variables.iter().map(|(key, value)| (key, value)))
        .output()
        .unwrap();
    let said = format!("{}\n{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && said.contains("2 of 2 passed"), "{language}: {said}");
}

/// The whole way of one language.
fn whole_way(language: &str) {
    let Some(variables) = tools(language) else {
        eprintln!("skipped: policies in {language}: the set-up has no tools for them");
        return;
    };
    let mut site = Site::notes();
    site.serve_some_notes();
    build(&site, "mine", language, "backup", &variables);
    // No more than it declares, though a language's runtime imports whatever its world holds; and nothing of WASI.
    let module = "mine/mine.wasm";
    let inspected = site.lifeboat(&["--json", "policy", "inspect", module]).expect(0).json();
    let recorded: Vec<&str> = inspected["imports"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|import| import["pure"] == false)
        .map(|import| import["call"].as_str().unwrap())
        .collect();
    assert_eq!(recorded, ["dump.take", "upload.verify"], "{inspected}");
    assert_eq!(inspected["wasi"].as_array().unwrap().len(), 0);

    site.lifeboat(&["policy", "key", "vendor.key"]).expect(0);
    let key = std::fs::read_to_string(site.path("vendor.key.pub")).unwrap().lines().nth(1).unwrap().to_owned();
    site.append(&format!(
        "[environment.demo.modules.signer.vendor]\nkey = \"{key}\"\n\
         [environment.demo.policy.mine]\nmodule = \"{module}\"\nworld = \"backup\"\n\
         grants = [\"dump.take service=notes store=local\", \"upload.verify service=notes store=local\"]\n\
         parameters = {{ service = \"notes\", store = \"local\" }}\n"
    ));
    assert!(site.run("mine", &[]).expect(12).stderr.contains("vendor"), "nobody has signed it");
    site.lifeboat(&["policy", "sign", module, "--key", "vendor.key"]).expect(0);
    site.lifeboat(&["policy", "pin", "mine"]).expect(0);

    let taken: Outcome = site.run("mine", &[]).expect(0);
    assert!(taken.json()["summary"].as_str().unwrap().ends_with("is in local"), "{taken:?}");
    let small = site.run("mine", &["--param", "bytes-min=1000000000"]).expect(5);
    assert!(small.json().to_string().contains("fewer than 1000000000"), "{small:?}");
    // A refusal's words reach whoever reads how the run ended.
    let denied = site.run("mine", &["--param", "store=offsite"]).expect(12);
    assert!(denied.json()["summary"].as_str().unwrap().contains("dump.take: "), "{denied:?}");
    let backups = site.lifeboat(&["--json", "backups", "list"]).expect(0).json();
    assert_eq!(backups.as_array().unwrap().len(), 2, "{backups}");
}

#[test]
fn a_policy_in_rust_goes_the_whole_way() {
    whole_way("rust");
}

#[test]
fn a_policy_in_c_goes_the_whole_way() {
    whole_way("c");
}

#[test]
fn a_policy_in_python_goes_the_whole_way() {
    whole_way("python");
}

#[test]
fn a_policy_in_javascript_goes_the_whole_way() {
    whole_way("javascript");
}

#[test]
fn a_policy_that_only_looks_is_made_for_worlds_that_take_no_backups() {
    let site = Site::empty();
    for language in ["rust", "c", "python", "javascript"] {
        if let Some(variables) = tools(language) {
            build(&site, &format!("watch-{language}"), language, "cadence", &variables);
        }
    }
}

#[test]
fn a_project_is_made_where_nothing_is_and_of_a_name_that_can_be_one() {
    let site = Site::empty();
    let new = |words: &[&str]| site.lifeboat(&[&["policy", "new"], words].concat());
    for (words, says) in [
        (&["../x", "--lang", "c"][..], "no name"),
        (&["Mine", "--lang", "c"], "no name"),
        (&["mine", "--lang", "c", "--world", "bakcup"], "did you mean `backup`"),
        (&["mine", "--lang", "cobol"], "javascript"),
        (&["mine"], "--lang"),
    ] {
        assert!(new(words).expect(2).stderr.contains(says), "{words:?}");
    }
    assert!(!site.path("mine").exists() && !site.path("Mine").exists());
    site.write("mine/kept.txt", "mine");
    assert!(new(&["mine", "--lang", "c"]).expect(2).stderr.contains("not empty"));
    assert_eq!(std::fs::read_dir(site.path("mine")).unwrap().count(), 1);
    std::fs::remove_file(site.path("mine/kept.txt")).unwrap();
    new(&["mine", "--lang", "c"]).expect(0);

    // After a call more in the description, the world holds it.
    let text = std::fs::read_to_string(site.path("mine/policy.toml")).unwrap();
    site.write("mine/policy.toml", &text.replace("\"upload.verify\"", "\"upload.verify\",\n    \"upload.copy\""));
    let wit = || std::fs::read_to_string(site.path("mine/wit/deps/lifeboat-recovery/contract.wit")).unwrap();
    assert!(!wit().contains("copy: func"));
    site.lifeboat(&["policy", "wit", "mine/policy.toml", "--c"]).expect(0);
    assert!(wit().contains("copy: func"));
    let header = std::fs::read_to_string(site.path("mine/bindings/policy.h")).unwrap();
    assert!(header.contains("lifeboat_recovery_upload_copy("), "{header}");
    assert!(site.lifeboat(&["policy", "wit"]).expect(0).stdout.contains("interface promote"));
}
