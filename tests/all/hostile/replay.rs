//! What a module computes is the same every time, whatever it computes with: NaNs have one form, and relaxed vector instructions one meaning.

use crate::support::Site;
use crate::support::guests::notes;

use super::make::{call_and_drop, core, pack};
use super::rows::{Ends, Row};

/// Values whose bits a machine may choose: quiet NaNs of every origin, and what "relaxed" leaves open. 104 bytes at 8192.
const OPEN: &str = r"
    (f32.store (i32.const 8192) (f32.div (f32.const 0) (f32.const 0)))
    (f64.store (i32.const 8196) (f64.sqrt (f64.const -1)))
    (f32.store (i32.const 8204) (f32.add (f32.const nan:0x200001) (f32.const 1)))
    (v128.store (i32.const 8208) (f32x4.div (v128.const i32x4 0 0 0 0) (v128.const i32x4 0 0 0 0)))
    (v128.store (i32.const 8224) (f64x2.sqrt (v128.const f64x2 -1 -2)))
    (v128.store (i32.const 8240) (f32x4.relaxed_madd (v128.const f32x4 1.1 1.3 1e30 3) (v128.const f32x4 1.1 1.7 1e30 3)
        (v128.const f32x4 -1.21 -2.21 -1e38 nan)))
    (v128.store (i32.const 8256) (i8x16.relaxed_swizzle (v128.const i8x16 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16)
        (v128.const i8x16 0x1f 0x8f 0xff 0x10 0 1 2 3 4 5 6 7 8 9 10 11)))
    (v128.store (i32.const 8272) (i32x4.relaxed_trunc_f32x4_s (v128.const f32x4 nan 1e30 -1e30 7)))
    (f32.store (i32.const 8288) (f32.min (f32.const -nan:0x200001) (f32.const 1)))
    (f32.store (i32.const 8292) (f32.demote_f64 (f64.const nan:0x8000000000001)))";

/// Writes them as letters, a half byte each, to 16384.
const LETTERS: &str = r"
    (loop $on
      (i32.store8 (i32.add (i32.const 16384) (i32.mul (local.get $i) (i32.const 2)))
        (i32.add (i32.const 65) (i32.shr_u (i32.load8_u (i32.add (i32.const 8192) (local.get $i))) (i32.const 4))))
      (i32.store8 (i32.add (i32.const 16385) (i32.mul (local.get $i) (i32.const 2)))
        (i32.add (i32.const 65) (i32.and (i32.load8_u (i32.add (i32.const 8192) (local.get $i))) (i32.const 15))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $on (i32.lt_u (local.get $i) (i32.const 104))))";

#[test]
fn nans_and_relaxed_vectors_are_the_same_in_every_process_and_on_replay() {
    let text = "(i32.const 16384) (i32.const 208)";
    // A note, and a request: a replay compares requests, bit by bit.
    let said = call_and_drop("report.note", text);
    let asked = call_and_drop("catalog.list", &format!("{text} {text}"));
    let module = core(&["report.note", "catalog.list"], 1, "", &format!("{OPEN} {LETTERS} {said} {asked}"));
    let row = Row {
        name: "open values".into(),
        bytes: pack("backup", &module),
        world: "backup",
        grants: &[],
        limits: "",
        ends: Ends::Ok,
    };
    let site = Site::notes().cold();
    super::add(&site, "open", &row);
    let mut all = Vec::new();
    for run in 0..3 {
        if run == 1 {
            // Compiled anew.
            std::fs::remove_dir_all(site.path(".lifeboat/compiled")).unwrap();
        }
        let outcome = site.run("open", &[]).expect(0);
        let bits = notes(&site.shown(&outcome)).into_iter().find(|n| n.len() == 208).expect("it is said");
        all.push(bits);
    }
    assert!(all[0] == all[1] && all[1] == all[2], "{all:#?}");
    // The canonical NaN, 0x7fc00000, in letters; of 64 bits 0x7ff8…
    let (single, double) = ("AAAAMAHP", "AAAAAAAAAAAAPIHP");
    assert_eq!(all[0][..8], *single);
    assert_eq!(all[0][8..24], *double);
    assert_eq!(all[0][24..32], *single, "a payload does not live on");
    assert_eq!(all[0][32..64], single.repeat(4));
    assert_eq!(all[0][64..96], double.repeat(2));
    assert_eq!(all[0][192..208], single.repeat(2));
    let replayed = site.lifeboat(&["--json", "policy", "replay", "policies/open.wasm", "--policy", "open"]).expect(0);
    let report = replayed.json();
    assert!(!report.to_string().contains("nondeterminism"), "{report}");
}

/// One that traps before it asks for anything has not asked the same, also beside a run that ended in a trap.
#[test]
fn a_candidate_that_traps_before_what_is_on_record_goes_elsewhere() {
    let site = Site::notes();
    let said = call_and_drop("catalog.list", "(i32.const 1024) (i32.const 1) (i32.const 1024) (i32.const 1)");
    let items = "(data (i32.const 1024) \"x\")";
    for (name, body) in [("asks", format!("{said} (unreachable)")), ("traps", "(unreachable)".into())] {
        let bytes = pack("backup", &core(&["catalog.list"], 1, items, &body));
        let row = Row { name: name.into(), bytes, world: "backup", grants: &[], limits: "", ends: Ends::Ok };
        super::add(&site, name, &row);
    }
    site.run("asks", &[]).expect(20);
    let replay =
        |name: &str| site.lifeboat(&["policy", "replay", &format!("policies/{name}.wasm"), "--policy", "asks"]);
    assert!(replay("asks").expect(0).stdout.contains("the same, 1 answers"));
    let other = replay("traps").expect(5);
    assert!(other.stdout.contains("trapped before step 1, which is on record"), "{other:?}");
}
