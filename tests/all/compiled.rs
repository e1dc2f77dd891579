//! The compile cache: nothing about it fails a run, what is wrong with it is said, and machine code from elsewhere is nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::disk::Tmpfs;
use crate::support::{Site, policy};

const WORDS: [&str; 4] = ["--param", "call=refused", "--param", "times=1"];

fn site() -> Site {
    let site = Site::notes().cold();
    site.guest("calls", "calls", "backup", &[], "");
    site
}

fn cache(site: &Site) -> PathBuf {
    site.path(".lifeboat/compiled")
}

fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    all.filter(|path| path.extension().is_some_and(|found| found == ending)).collect()
}

/// Runs the policy, which succeeds, and gives the warnings about the cache.
fn warnings(site: &Site) -> String {
    let said = site.run("calls", &WORDS).expect(0).stderr;
    said.lines().filter(|line| line.contains("compile cache")).collect::<Vec<_>>().join("\n")
}

/// As large as a module with the runtime of a language, by a section that means nothing: of those the digest is kept.
fn enlarged(mut module: Vec<u8>) -> Vec<u8> {
    const BYTES: u32 = 1 << 20;
    module.push(0);
    // Its size in LEB128: the name's length, the name, and what follows.
    let size = 1 + 4 + BYTES;
    module.extend([size as u8 | 0x80, (size >> 7) as u8 | 0x80, (size >> 14) as u8]);
    module.extend(b"\x04room");
    module.resize(module.len() + BYTES as usize, 0);
    module
}

#[test]
fn damaged_files_are_noticed_said_and_made_anew() {
    let site = site();
    let module = policy("calls");
    fs::write(site.path("large.wasm"), enlarged(fs::read(&module).unwrap())).unwrap();
    site.configure(&[(&format!("{:?}", module.display().to_string()), "\"large.wasm\"")]);
    assert_eq!(warnings(&site), "");
    let folder = cache(&site);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o777, 0o700);
    for (ending, says) in [
        ("code", "was compiled to is not used"),
        ("facts", "what was found in module"),
        ("digest", "the digest of a module is not used"),
    ] {
        let [file] = &files(&folder, ending)[..] else { panic!("one file of {ending}") };
        let whole = fs::read(file).unwrap();
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
        let mut flipped = whole.clone();
        flipped[whole.len() / 2] ^= 1;
        for damaged in [flipped, whole[..whole.len() - 7].to_vec(), Vec::new()] {
            fs::write(file, damaged).unwrap();
            let said = warnings(&site);
            assert!(said.contains(says) && said.lines().count() == 1, "{said}");
            assert_eq!(warnings(&site), "", "it is whole again");
        }
        fs::set_permissions(file, fs::Permissions::from_mode(0o622)).unwrap();
        let said = warnings(&site);
        assert!(said.contains("others than its owner may write"), "{said}");
        let elsewhere = site.path("elsewhere");
        fs::rename(file, &elsewhere).unwrap();
        symlink(&elsewhere, file).unwrap();
        let said = warnings(&site);
        assert!(said.contains("symbolic link"), "{said}");
        assert!(fs::symlink_metadata(file).unwrap().is_file() && elsewhere.exists());
    }
}

#[test]
fn a_directory_that_is_not_ours_alone_is_not_used_and_that_is_said() {
    let site = site();
    site.run("calls", &WORDS).expect(0);
    let folder = cache(&site);
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    let said = warnings(&site);
    assert!(said.contains("others than its owner may write to it (mode 0777); it is not used"), "{said}");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    fs::rename(&folder, site.path("elsewhere")).unwrap();
    symlink(site.path("elsewhere"), &folder).unwrap();
    let said = warnings(&site);
    assert!(said.contains("symbolic link; it is not used"), "{said}");
    fs::remove_file(&folder).unwrap();
    fs::write(&folder, "").unwrap();
    let said = warnings(&site);
    assert!(said.contains("no directory"), "{said}");
}

#[test]
fn a_full_disk_under_the_cache_and_a_read_only_one_fail_no_run() {
    let site = site();
    let Some(disk) = Tmpfs::mount(cache(&site), "16k") else { return };
    let said = warnings(&site);
    assert!(said.contains("can't be kept: No space left"), "{said}");
    assert_eq!(files(&disk.0, "code").len(), 0);
    assert!(
        fs::read_dir(&disk.0).unwrap().all(|entry| entry.unwrap().path().extension().is_some()),
        "nothing half is left"
    );
    drop(disk);
    // Room for it; then what is there is used, and what is not there can't be kept.
    let disk = Tmpfs::mount(cache(&site), "16m").unwrap();
    assert_eq!(warnings(&site), "");
    let read_only = || Command::new("mount").args(["-o", "remount,ro"]).arg(&disk.0).status().unwrap().success();
    assert!(read_only());
    assert_eq!(warnings(&site), "");
    assert!(Command::new("mount").args(["-o", "remount,rw"]).arg(&disk.0).status().unwrap().success());
    for ending in ["code", "facts"] {
        files(&disk.0, ending).iter().for_each(|file| fs::remove_file(file).unwrap());
    }
    assert!(read_only());
    let said = warnings(&site);
    assert!(said.contains("can't be kept: Read-only file system"), "{said}");
}

#[test]
fn two_processes_that_fill_the_cache_at_once_both_run() {
    let site = site();
    std::thread::scope(|scope| {
        let runs: Vec<_> = (0..3).map(|_| scope.spawn(|| warnings(&site))).collect();
        for run in runs {
            assert_eq!(run.join().unwrap(), "");
        }
    });
    assert_eq!((files(&cache(&site), "code").len(), files(&cache(&site), "facts").len()), (1, 1));
    assert_eq!(warnings(&site), "");
}

/// Machine code that this very engine made, under whatever name: as a module it is nothing.
#[test]
fn machine_code_from_outside_is_no_module() {
    let site = site();
    site.run("calls", &WORDS).expect(0);
    let code = &files(&cache(&site), "code")[0];
    let sealed = fs::read(code).unwrap();
    assert!(sealed.starts_with(b"\x7fELF"));
    fs::write(site.path("machine.wasm"), &sealed).unwrap();
    site.append("[environment.demo.policy.machine]\nmodule = \"machine.wasm\"\nworld = \"backup\"\ngrants = []\n");
    for words in [&["run", "machine"][..], &["policy", "inspect", "machine.wasm"], &["policy", "pin", "machine"]] {
        let refused = site.lifeboat(words).expect(12);
        assert!(refused.stderr.contains("no WebAssembly at all"), "{refused:?}");
    }
    assert_eq!(files(&cache(&site), "code").len(), 1, "nothing was compiled");
}
