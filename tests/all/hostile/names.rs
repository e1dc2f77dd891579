//! Every text that a guest can hand over, as a name with a path, a format, terminal escapes, or without end: what is shown of it is harmless,
//! to people and to programs, and no secret comes with it.

use engine::calls::{CALLS, Class};
use engine::contract::{Function, contract};

use super::every_call::{Values, functions, guest, needs_nothing_given};
use super::{CANARY, has, no_canary_below};

/// A path, formats, a shell's words, colours, a cleared screen in 8-bit form, reversed text, a bell, a forged line.
const NASTY: &str = "../../etc/passwd %s%n%p {} $(id) \u{1b}[31mred\u{9b}2J\u{202e}txt\u{7}\r\nok: forged";

/// Everything that a world holds, with stars where something is to be named.
fn all_grants(world: &str) -> Vec<String> {
    let interfaces = &contract().worlds[world];
    CALLS
        .iter()
        .filter(|c| c.class != Class::Pure && interfaces.contains(c.name.split_once('.').unwrap().0))
        .map(|c| {
            let objects: Vec<String> = c.objects.iter().map(|o| format!("{o}=*")).collect();
            format!("{} {}", c.name, objects.join(" ")).trim().to_owned()
        })
        .collect()
}

/// Control characters but line ends, and marks that reorder what is read.
fn raw(text: &str) -> Option<char> {
    text.chars().find(|c| (c.is_control() && *c != '\n') || matches!(c, '\u{202a}'..='\u{202e}'))
}

#[test]
fn nothing_that_a_guest_says_reaches_a_terminal_as_it_is_or_brings_a_secret_along() {
    let mut site = super::site();
    let endless = "n".repeat(20_000);
    let mut cases = Vec::new();
    for world in ["upgrade", "retention", "cadence"] {
        let all: Vec<&'static Function> =
            functions().into_iter().filter(|(f, of)| *of == world && needs_nothing_given(f)).map(|(f, _)| f).collect();
        assert!(!all.is_empty(), "{world}");
        for (kind, text) in [("nasty", NASTY), ("endless", endless.as_str())] {
            for granted in [true, false] {
                let name = format!("{kind}-{world}-{granted}");
                let file = format!("policies/{name}.wasm");
                std::fs::write(site.path(&file), guest(world, &all, Values::Text(text))).unwrap();
                let grants = if granted { all_grants(world) } else { Vec::new() };
                site.append(&format!(
                    "[environment.demo.policy.{name}]\nmodule = {file:?}\nworld = {world:?}\ngrants = {grants:?}\n"
                ));
                cases.push(name);
            }
        }
    }
    for name in &cases {
        let traced = |words: &[&str]| {
            let out =
                site.command(words).env("LIFEBOAT_LOG", "trace").stdin(std::process::Stdio::null()).output().unwrap();
            let said = [out.stdout.as_slice(), &out.stderr].concat();
            assert!(!has(&said, CANARY.as_bytes()), "{name}: a secret stands in the output or the log of {words:?}");
            assert!(!has(&said, b"panicked at"), "{name}: {}", String::from_utf8_lossy(&said));
            (out.status.code(), String::from_utf8(out.stdout).unwrap(), String::from_utf8(out.stderr).unwrap())
        };
        let (code, ..) = traced(&["--json", "run", name]);
        assert!(matches!(code, Some(0 | 1 | 12 | 20)), "{name}: {code:?}");
        let person = site.lifeboat(&["run", name]);
        assert!(matches!(person.code, 0 | 1 | 12 | 20), "{name}: {}", person.said());
        assert_eq!(raw(&person.said()), None, "{name}: {}", person.said());
        let listed = site.lifeboat(&["--json", "runs", "list", "--policy", name]).expect(0);
        let run = listed.json()[0]["run"].as_str().unwrap().to_owned();
        for words in [
            &["runs", "show", &run][..],
            &["runs", "list"],
            &["--json", "runs", "show", &run],
            &["--json", "runs", "list"],
        ] {
            let outcome = site.lifeboat(words).expect(0);
            assert_eq!(raw(&outcome.said()), None, "{name}, {words:?}");
            if words[0] == "--json" {
                outcome.json();
            }
        }
    }
    // And one that uses the secret: it goes to the service with the request, and nowhere else.
    site.serve_some_notes();
    site.guest("uses", "deny-all", "upgrade", &["http-check.check endpoint=notes/api method=GET path=/"], "");
    let words =
        ["run", "uses", "--param", "call=http-check.check", "--param", "service=notes", "--param", "store=local"];
    let out = site.command(&words).env("LIFEBOAT_LOG", "trace").stdin(std::process::Stdio::null()).output().unwrap();
    let said = [out.stdout.as_slice(), &out.stderr].concat();
    assert_eq!(out.status.code(), Some(0), "{}", String::from_utf8_lossy(&said));
    assert!(has(&said, b"TRACE"), "it was logged at trace: {}", String::from_utf8_lossy(&said));
    assert!(!has(&said, CANARY.as_bytes()), "a secret stands in the log: {}", String::from_utf8_lossy(&said));
    let outside = site.path("").parent().unwrap().join("etc");
    assert!(!outside.exists(), "no path was made of a name");
    no_canary_below(&site.path(".lifeboat"));
}
