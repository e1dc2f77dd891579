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
            let folder = PathBuf::from(variable("LIFEBOAT_COMPONENTIZE_QJS")?);
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
        let modules = PathBuf::from(std::env::var_os("LIFEBOAT_COMPONENTIZE_QJS").unwrap()).join("node_modules");
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

#[test]
fn what_can_not_become_a_policy_is_refused_with_what_to_do() {
    let site = Site::empty();
    site.lifeboat(&["policy", "new", "mine", "--lang", "c"]).expect(0);
    let pack = |wat: &str| {
        std::fs::write(site.path("module.wasm"), wat::parse_str(wat).unwrap()).unwrap();
        let words = ["policy", "pack", "module.wasm", "--description", "mine/policy.toml", "-o", "mine.wasm"];
        let refused = site.lifeboat(&words).expect(12);
        assert!(!site.path("mine.wasm").exists() && refused.stderr.contains("hint:"), "{refused:?}");
        refused.stderr
    };
    // A C program with printf; a module without bindings.
    let prints =
        pack(r#"(module (import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32))))"#);
    assert!(prints.contains("wasi_snapshot_preview1.fd_write") && prints.contains("printf"), "{prints}");
    assert!(pack("(module)").contains("--c the bindings too"));
    // A component of another tool, on interfaces that there are not, or that only an environment can allow.
    let http = pack(r#"(component (import "wasi:http/types@0.2.0" (instance)))"#);
    assert!(http.contains("wasi:http/types@0.2.0") && http.contains("can be allowed"), "{http}");
    // More memory than there ever is.
    let text = std::fs::read_to_string(site.path("mine/policy.toml")).unwrap();
    site.write("mine/policy.toml", &text.replace("capabilities", "memory-bytes-min = 99999999999\ncapabilities"));
    let words = ["policy", "pack", "module.wasm", "--description", "mine/policy.toml", "-o", "mine.wasm"];
    assert!(site.lifeboat(&words).expect(12).stderr.contains("nothing is given more than"));
}

#[test]
fn a_module_that_needs_more_memory_than_it_is_given_is_refused_before_it_runs() {
    let site = Site::notes();
    let name = "policies/backup.wasm";
    let description =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/backup/policy.toml")).unwrap();
    site.write("policy.toml", &format!("memory-bytes-min = 67108865\n{description}"));
    site.lifeboat(&["policy", "pack", name, "--description", "policy.toml", "-o", "more.wasm"]).expect(0);
    std::fs::rename(site.path("more.wasm"), site.path(name)).unwrap();
    let refused = site.run("backup", &[]).expect(12);
    assert!(refused.stderr.contains("needs 67108865 bytes of memory, and memory-bytes-max is 67108864"), "{refused:?}");
    assert!(refused.stderr.contains("limits = { memory-bytes-max = 67108865 } in [environment.demo.policy.backup]"));
    assert!(site.lifeboat(&["policy", "inspect", name]).expect(0).stdout.contains("needs 67.1 MB of memory"));
    site.configure(&[(
        "[environment.demo.policy.backup]\n",
        "[environment.demo.policy.backup]\nlimits = { memory-bytes-max = 67108865 }\n",
    )]);
    // No database yet: a run that may begin fails at it.
    assert_eq!(site.run("backup", &[]).code, 1);
}
