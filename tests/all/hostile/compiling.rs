//! What a compiler can be made to take: refused by counting where that is known, and bounded in a process of its own where it is not.

use std::ffi::OsString;
use std::process::Stdio;

use engine::error::{Error, Kind};
use engine::sandbox::Sandbox;
use engine::sandbox::compiler::{Bounds, Compiler};

use super::make::{core, functions, leb, pack};
use crate::support::{Outcome, Site, lifeboat, policy};

/// A function of so many locals, the first of which decides; made of pieces.
fn function(locals: usize, pieces: &[Vec<u8>]) -> Vec<u8> {
    functions(1, &[vec![1], leb(locals), vec![0x7f], pieces.concat(), vec![0x0b]].concat())
}

/// Each of these took the compiler from many seconds to hours, and up to gigabytes.
#[test]
fn what_is_small_to_look_at_and_endless_to_compile_is_refused_first() {
    let engine = Sandbox::new(None, Compiler::Here).unwrap();
    // (block (br_if 0 (local.get 0)))
    let join = [0x02, 0x40, 0x20, 0x00, 0x0d, 0x00, 0x0b];
    let counted = |at: usize| [&[0x20][..], &leb(at), &[0x41, 0x01, 0x6a, 0x21], &leb(at)].concat();
    let reads: Vec<u8> = (0..1_000).flat_map(|at| [&[0x20][..], &leb(at), &[0x1a]].concat()).collect();
    // On the stack over the branches: (i32.add (local.get 0) (i32.const 1))
    let held = [0x20, 0x00, 0x41, 0x01, 0x6a].repeat(2_000);
    let kept = [[0x6a].repeat(1_999), vec![0x1a]].concat();
    let branches = |count: usize| [&[0x20, 0x00, 0x0e][..], &leb(count), &vec![0; count + 1]].concat();
    let ifs: Vec<u8> =
        (0..18_000).flat_map(|at| [&[0x20, 0x00, 0x04, 0x40][..], &counted(at % 64), &[0x0b]].concat()).collect();
    for (what, bytes, why) in [
        ("joins before reads", function(1_000, &[join.repeat(3_000), reads]), "too many values"),
        ("joins below values", function(1, &[held, join.repeat(3_000), kept]), "too many values"),
        ("joins", function(1, &[join.repeat(20_000)]), "too many branches"),
        ("ifs in a loop", function(64, &[vec![0x03, 0x40], ifs, vec![0x0b]]), "too many"),
        ("a table", function(1, &[vec![0x02, 0x40], branches(50_000), vec![0x0b]]), "too many branches"),
        ("loops", function(1, &[[0x03, 0x40].repeat(100), vec![0x0b; 100]]), "too many loops"),
        (
            "many of them",
            functions(100, &[&[1][..], &leb(1_000), &[0x7f], &join.repeat(300), &[0x0b]].concat()),
            "too much to compile",
        ),
    ] {
        let error = engine.compile(&bytes).map(drop).expect_err(what);
        assert_eq!(error.kind, Kind::PolicyRefused, "{what}");
        assert!(error.message.contains(why), "{what}: {error}");
    }
    // What a real function may be goes through.
    engine.compile(&function(100, &[join.repeat(2_000)])).map(drop).unwrap();
}

fn child(bounds: Option<Bounds>) -> Sandbox {
    let program: Vec<OsString> = vec![lifeboat().into()];
    Sandbox::new(None, Compiler::Child { program, bounds }).unwrap()
}

/// Near what counting lets through: more than a second, and more than 64 MiB.
fn heavy() -> Vec<u8> {
    let join = [0x02, 0x40, 0x20, 0x00, 0x0d, 0x00, 0x0b];
    // Each of them lives through all branches.
    let reads: Vec<u8> = (0..1_000).flat_map(|at| [&[0x20][..], &leb(at), &[0x1a]].concat()).collect();
    functions(30, &[&[1][..], &leb(1_000), &[0x7f], &join.repeat(600), &reads, &[0x0b]].concat())
}

#[track_caller]
fn refused(sandbox: &Sandbox, module: &[u8], words: &str) -> Error {
    let error = sandbox.compile(module).map(drop).expect_err(words);
    assert_eq!(error.kind, Kind::PolicyRefused, "{error}");
    assert!(error.message.contains(words), "{words}: {error}");
    error
}

#[test]
fn a_compilation_that_takes_more_than_its_bounds_is_ended_and_says_which() {
    let bounds = Bounds { processor_s: 1, memory_bytes: 8 << 30 };
    let error = refused(&child(Some(bounds)), &heavy(), "it takes more than 1 s of processor time");
    assert!(error.hint.unwrap().contains("nothing was done"));
    let bounds = Bounds { processor_s: 600, memory_bytes: 64 << 20 };
    refused(&child(Some(bounds)), &heavy(), "it takes more than 64 MiB of memory");
}

#[test]
fn a_process_of_its_own_makes_what_this_one_would_and_refuses_the_same() {
    let (own, here) = (child(None), Sandbox::new(None, Compiler::Here).unwrap());
    let real = std::fs::read(policy("backup")).unwrap();
    assert_eq!(own.compile(&real).unwrap().serialize().unwrap(), here.compile(&real).unwrap().serialize().unwrap());
    for (module, words) in [
        // Compiled well, and then more than an instance may have.
        (pack("backup", &core(&[], 65_536, "", "")), "does not fit in pooling allocator"),
        (pack("backup", &core(&[], 1, "(func (result i32 i32) unreachable)", "")), "multi-value"),
    ] {
        let error = refused(&own, &module, words);
        assert_eq!(error, refused(&here, &module, words));
    }
}

#[test]
fn what_answers_otherwise_than_a_compiler_is_no_module() {
    let real = std::fs::read(policy("backup")).unwrap();
    for (script, words) in [
        ("cat >/dev/null; echo no code", "does not compile"),
        ("cat >/dev/null; printf 'why \x1b[31m' >&2; exit 3", "does not compile: why"),
        ("kill -SEGV $$", "signal 11"),
    ] {
        let program = ["sh", "-c", script, "sh"].map(OsString::from).into();
        let sandbox = Sandbox::new(None, Compiler::Child { program, bounds: None }).unwrap();
        let error = refused(&sandbox, &real, words);
        assert!(!error.message.contains('\u{1b}'), "{error:?}");
    }
    // None at all: a recovery does not end at this.
    let program = vec!["no-such-program-here".into()];
    Sandbox::new(None, Compiler::Child { program, bounds: None }).unwrap().compile(&real).unwrap();
}

#[test]
fn the_command_line_compiles_in_a_process_of_its_own() {
    let site = Site::notes().cold();
    site.guest("calls", "calls", "backup", &[], "");
    let words = ["run", "calls", "--param", "call=refused", "--param", "times=1"];
    let said = site.command(&words).env("LIFEBOAT_LOG", "engine=debug").stdin(Stdio::null()).output().unwrap();
    let said = Outcome::of(said).expect(0);
    assert!(said.stderr.contains("compiled by a process of its own"), "{}", said.stderr);
    // By hand, it says what it wants.
    assert!(site.lifeboat(&["compile-module"]).expect(2).stderr.contains("--processor-s"));
    assert!(!site.lifeboat(&["--help"]).expect(0).stdout.contains("compile-module"));
}
