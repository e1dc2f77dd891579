//! Files that are no honest module: reading them ends in an error, never in a panic, and before much was spent on them.

use std::panic::catch_unwind;

use engine::error::Kind;
use engine::policy::inspect;
use engine::sandbox::Sandbox;
use engine::sandbox::compiler::Compiler;

use super::make::{COMPONENT, call_and_drop, core, described, functions, leb, pack, section, try_pack};
use crate::support::{Site, policy};

/// What of WASI modules ask for, in the versions that toolchains make.
const WASI: &[&str] = &[
    "cli/environment",
    "cli/exit",
    "cli/run",
    "cli/stdin",
    "cli/stdout",
    "cli/stderr",
    "cli/terminal-input",
    "cli/terminal-output",
    "cli/terminal-stdin",
    "cli/terminal-stdout",
    "cli/terminal-stderr",
    "clocks/monotonic-clock",
    "clocks/wall-clock",
    "clocks/timezone",
    "filesystem/types",
    "filesystem/preopens",
    "http/types",
    "http/outgoing-handler",
    "http/incoming-handler",
    "io/error",
    "io/poll",
    "io/streams",
    "random/random",
    "random/insecure",
    "random/insecure-seed",
    "sockets/network",
    "sockets/instance-network",
    "sockets/tcp",
    "sockets/tcp-create-socket",
    "sockets/udp",
    "sockets/udp-create-socket",
    "sockets/ip-name-lookup",
    "keyvalue/store",
    "nn/graph",
];

/// A component that imports an instance of this name, with a description.
fn importing(name: &str, of: &str) -> Vec<u8> {
    described(wat::parse_str(format!("(component (import {name:?} (instance {of})))")).unwrap(), "backup")
}

#[track_caller]
fn refused(bytes: &[u8], words: &str) {
    let error = inspect(bytes).expect_err(words);
    assert_eq!(error.kind, Kind::PolicyRefused);
    assert!(error.message.contains(words), "{words}: {error}");
}

#[test]
fn everything_of_wasi_and_other_versions_of_ours_are_refused_by_name() {
    for name in WASI {
        for version in ["0.2.0", "0.2.6", "0.3.0"] {
            let name = format!("wasi:{name}@{version}");
            // What an environment may allow, with nothing in it, is read here, and refused where it is not allowed: `on_wasi.rs`.
            let words = match engine::sandbox::wasi::offered(&name) {
                true => "it does not export `run".to_owned(),
                false => format!("it imports `{name}`"),
            };
            refused(&importing(&name, ""), &words);
        }
    }
    let note = r#"(export "note" (func (param "text" string)))"#;
    for version in ["@0.2.0", "@0.1.1", "@1.0.0", "@0.1.0-rc.1", ""] {
        let name = format!("lifeboat:recovery/report{version}");
        refused(&importing(&name, note), &format!("it imports `{name}`, which does not exist here"));
    }
    // The right name, and other types behind it; a function that is not there; another's package.
    let ours = "lifeboat:recovery/report@0.1.0";
    refused(&importing(ours, r#"(export "note" (func (param "text" u32)))"#), "other types than the contract has");
    refused(&importing(ours, r#"(export "erase" (func))"#), "it imports report.erase, which does not exist");
    refused(&importing("lifeboat:recovery/shell@0.1.0", ""), "which does not exist here");
    refused(&importing("evil:recovery/report@0.1.0", note), "which does not exist here");
    // Core modules: as they are, and with imports that no component can have.
    refused(&wat::parse_str("(module)").unwrap(), "a core WebAssembly module");
    for import in [
        r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))"#,
        r#"(import "env" "system" (func))"#,
    ] {
        let text = core(&[], 1, "", "").replacen("(module ", &format!("(module {import} "), 1);
        assert!(try_pack("backup", &text).is_err(), "{import}");
    }
}

/// An honest module: a note, nothing else.
fn honest() -> Vec<u8> {
    let note = call_and_drop("report.note", "(i32.const 4096) (i32.const 4)");
    pack("backup", &core(&["report.note"], 1, "(data (i32.const 4096) \"note\")", &note))
}

#[test]
fn cut_off_and_flipped_modules_end_in_an_error_or_are_sound() {
    let sandbox = Sandbox::new(None, Compiler::Here).unwrap();
    let mut sound = 0;
    let mut look = |what: &str, bytes: &[u8], compile: bool| {
        let read = catch_unwind(|| inspect(bytes).is_ok()).unwrap_or_else(|_| panic!("{what}: it panicked"));
        if read && compile {
            sound += 1;
            let compiled = catch_unwind(std::panic::AssertUnwindSafe(|| drop(sandbox.compile(bytes))));
            assert!(compiled.is_ok(), "{what}: compiling it panicked");
        }
        read
    };
    let honest = honest();
    assert!(look("the honest one", &honest, true));
    for length in 0..honest.len() {
        assert!(!look(&format!("cut at {length}"), &honest[..length], true));
    }
    // Each bit of the small one, and some of a real policy.
    for bit in 0..honest.len() * 8 {
        let mut flipped = honest.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        look(&format!("bit {bit}"), &flipped, bit % 16 == 0);
    }
    let real = std::fs::read(policy("backup")).unwrap();
    let mut place = 1_u64;
    for number in 0..150 {
        // Places that are spread, and the same every time.
        place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = usize::try_from(place >> 33).unwrap() % real.len();
        let mut flipped = real.clone();
        flipped[at] ^= 1 << (place % 8);
        look(&format!("byte {at} of a policy"), &flipped, false);
        if number % 3 == 0 {
            look(&format!("a policy cut at {at}"), &real[..at], false);
        }
    }
    assert!(sound > 1, "some flips change only names");
}

#[test]
fn what_would_take_long_to_read_or_compile_is_refused_first() {
    let mut nested = COMPONENT.to_vec();
    for _ in 0..2_000 {
        nested = [COMPONENT, &section(4, &nested)].concat();
    }
    refused(&described(nested, "backup"), "levels of modules");
    let strings = [leb(1_000_000), vec![0x73; 1_000_000]].concat();
    refused(&described([COMPONENT, &section(7, &strings)].concat(), "backup"), "types");
    let mut lists = [leb(40_000), vec![0x73]].concat();
    (0..39_999).for_each(|at| lists.extend([vec![0x70], leb(at)].concat()));
    refused(&described([COMPONENT, &section(7, &lists)].concat(), "backup"), "interface can't be read");
    refused(&functions(150_000, &[0, 0x0b]), "functions");
    // 50,000 locals in five bytes.
    refused(&functions(1_000, &[&[1][..], &leb(50_000), &[0x7f, 0x0b]].concat()), "locals");
    refused(&functions(1, &[&[0][..], &vec![0x01; 2 << 20], &[0x0b]].concat()), "at most");
    // One value is a thousand, for three bytes.
    let results = " i32".repeat(1_000);
    let bomb = format!("(type $t (func (result{results})))");
    let engine = Sandbox::new(None, Compiler::Here).unwrap();
    let error = try_pack("backup", &core(&[], 1, &bomb, ""))
        .map(|bytes| engine.compile(&bytes).expect_err("multi-value"))
        .expect("only the compiler minds");
    assert!(error.message.contains("multi-value"), "{error}");
}

#[test]
fn the_command_line_refuses_them_with_its_exit_code_and_shows_nothing_raw() {
    let site = Site::notes();
    let raw = "wasi:\u{1b}[31mred";
    let mut flipped = honest();
    let at = flipped.windows(4).position(|w| w == b"note").unwrap();
    flipped[at] = 0x1b;
    for (name, bytes) in [
        ("core", wat::parse_str("(module)").unwrap()),
        ("wasi", importing("wasi:cli/environment@0.2.0", "")),
        ("escape", flipped),
        ("text", raw.as_bytes().to_vec()),
        ("empty", Vec::new()),
    ] {
        let file = format!("policies/{name}.wasm");
        std::fs::write(site.path(&file), bytes).unwrap();
        site.append(&format!("[environment.demo.policy.{name}]\nmodule = {file:?}\nworld = \"backup\"\n"));
        for words in [&["policy", "inspect", &file][..], &["run", name], &["--json", "run", name]] {
            let outcome = site.lifeboat(words).expect(12);
            assert!(!outcome.said().contains('\u{1b}') && !outcome.said().contains("panicked"), "{outcome:?}");
        }
    }
    let runs = site.lifeboat(&["--json", "runs", "list"]).expect(0).json();
    assert_eq!(runs.as_array().unwrap().len(), 0, "nothing was run: {runs}");
}
