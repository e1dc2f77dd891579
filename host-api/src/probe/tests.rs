use std::path::PathBuf;
use std::time::Duration;

use super::*;
use crate::bindings::{Install, Service};

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A host over nothing but its private space.
fn host() -> (tempfile::TempDir, RealHost, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let host = RealHost::new(Default::default(), &Default::default(), dir.path()).unwrap();
    let spool = host.spool_dir();
    (dir, host, spool)
}

fn step(run: &str, step: u64, attempt: u32) -> StepContext {
    StepContext { step, attempt, ..StepContext::detached(run, Duration::from_secs(60)) }
}

/// A file as a step makes it, and a killed engine leaves it.
fn left_by(cx: &StepContext, spool: &Path) -> String {
    let file = tempfile::Builder::new().prefix(&cx.spool_prefix()).tempfile_in(spool).unwrap();
    file.into_temp_path().keep().unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_any_step_of_a_run_left_in_the_scratch_space_goes_and_nothing_of_another_run() {
    let (_dir, host, spool) = host();
    for (number, attempt) in [(3, 1), (3, 2), (70, 1)] {
        left_by(&step("run", number, attempt), &spool);
    }
    let mut others: Vec<String> =
        ["run-2", "run-3-1", "runs", "ru"].iter().map(|run| left_by(&step(run, 3, 1), &spool)).collect();
    for name in ["run-", "run-3", "run-3-1", "run-x-1-a", "run--1-a", "notes"] {
        std::fs::write(spool.join(name), "").unwrap();
        others.push(name.to_owned());
    }
    others.sort();
    assert_eq!(names(&spool).len(), others.len() + 3);
    host.clear_spool("run").await.unwrap();
    assert_eq!(names(&spool), others);
    host.clear_spool("run").await.unwrap();
}

#[tokio::test]
async fn a_copy_that_stays_is_named_and_the_others_go() {
    let (_dir, host, spool) = host();
    // A directory is no file that can be removed.
    std::fs::create_dir(spool.join("run-1-1-stuck")).unwrap();
    left_by(&step("run", 2, 1), &spool);
    let error = host.clear_spool("run").await.unwrap_err();
    assert!(error.message.contains("run-1-1-stuck"), "{error}");
    assert_eq!(names(&spool), ["run-1-1-stuck"]);
    // A step in doubt is decided all the same.
    host.end_attempts(&step("run", 2, 2), None).await.unwrap();
}

#[tokio::test]
async fn an_install_that_was_cut_off_goes_with_its_attempt() {
    let dir = tempfile::tempdir().unwrap();
    let directory = dir.path().join("versions");
    std::fs::create_dir_all(directory.join("2.0@run-5-1")).unwrap();
    std::fs::write(directory.join(".2.0@run-5-1.unfinished"), "").unwrap();
    std::fs::create_dir(directory.join("1.0@run-1-1")).unwrap();
    let install = Install {
        directory: directory.clone(),
        installable: vec![],
        prepare: vec![],
        command: vec![],
        check: vec![],
        files: Default::default(),
        timeout_s: 60,
    };
    let service = Service { install: Some(install), ..serde_json::from_str("{}").unwrap() };
    let state = dir.path().join("state");
    let host = RealHost::new([("notes".to_owned(), service)].into(), &Default::default(), &state).unwrap();
    host.end_attempts(&step("run", 5, 2), Some("notes")).await.unwrap();
    assert_eq!(names(&directory), ["1.0@run-1-1"]);
    assert!(!host.installed_by_attempt("notes", "2.0", "run-5-1").await.unwrap());
}
