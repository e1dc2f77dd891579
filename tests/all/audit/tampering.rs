//! Every small change of an exported log, each noticed by both verifiers; and the one change that only a held checkpoint shows.

use std::fs;
use std::path::Path;

use engine::audit::{Held, Trust, Verdict, verify_lines};
use serde_json::{Value, json};

use super::{python, repository, text};
use crate::support::Site;

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn every_flipped_bit_and_every_lost_doubled_or_swapped_line_is_found() {
    let site = Site::notes();
    let [log, checkpoint, key] = site.small_log();
    let data = fs::read(&log).unwrap();
    let (held, trust) = ([Held::parse("held", &read(&checkpoint)).unwrap()], Trust::parse(&read(&key)).unwrap());
    let verify = |bytes: &[u8]| verify_lines(&mut &bytes[..], &held, &trust);
    let Verdict { records, complete, .. } = verify(&data).unwrap();
    assert_eq!(complete.unwrap().size, records);

    let mut count = 0;
    let mut found = |what: String, bytes: &[u8]| {
        count += 1;
        let error = verify(bytes).err().unwrap_or_else(|| panic!("not noticed: {what}"));
        assert_eq!(error.exit_code(), 5, "{what}: {error}");
    };
    let mut changed = data.clone();
    for bit in 0..data.len() * 8 {
        changed[bit / 8] ^= 1 << (bit % 8);
        found(format!("bit {bit}"), &changed);
        changed[bit / 8] ^= 1 << (bit % 8);
    }
    let lines: Vec<&[u8]> = data.split_inclusive(|b| *b == b'\n').collect();
    assert_eq!(lines.len() as u64, records);
    for at in 0..lines.len() {
        let (before, from) = lines.split_at(at);
        found(format!("without line {at}"), &[before, &from[1..]].concat().concat());
        found(format!("line {at} twice"), &[before, &from[..1], from].concat().concat());
        found(format!("cut before line {at}"), &before.concat());
        found(format!("cut in line {at}"), &[before, &[&from[0][..from[0].len() - 2]]].concat().concat());
        for other in 0..at {
            let mut swapped = lines.clone();
            swapped.swap(at, other);
            found(format!("lines {other} and {at} swapped"), &swapped.concat());
        }
    }
    assert_eq!(count, changes(data.len(), lines.len()));
}

/// How many there are: bits; each line lost, doubled, cut before and cut in; each two swapped.
fn changes(bytes: usize, lines: usize) -> usize {
    bytes * 8 + lines * 4 + lines * (lines - 1) / 2
}

#[test]
fn the_outsiders_verifier_finds_the_same_changes() {
    let site = Site::notes();
    let [log, checkpoint, key] = site.small_log();
    let script = repository("tests/all/audit/mutations.py");
    let verifier = text(&repository("docs/verify_audit.py"));
    let said = python(&script, &[&verifier, &text(&log), &text(&key), &text(&checkpoint)]).expect(0).stdout;
    let (verdict, count) = said.trim_end().split_once('\n').unwrap();
    assert!(verdict.starts_with("complete up to record 9, signed by "), "{verdict}");
    let data = read(&log);
    assert_eq!(count, changes(data.len(), data.lines().count()).to_string());
}

/// The log with one record changed and every hash after it made anew: sound in itself.
fn rewritten(log: &str, change: impl Fn(&mut Value)) -> String {
    let mut prev = "0".repeat(64);
    let mut out = String::new();
    for line in log.lines() {
        let mut record: Value = serde_json::from_str(line).unwrap();
        change(&mut record);
        record["prev"] = json!(prev);
        prev = sha256(&record.to_string());
        out.push_str(&format!("{record}\n"));
    }
    out
}

/// With the stock tool.
fn sha256(text: &str) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()[..64].to_owned()
}

#[test]
fn a_log_that_was_written_anew_is_sound_in_itself_and_caught_by_a_held_checkpoint() {
    let site = Site::notes();
    let [log, checkpoint, key] = site.small_log();
    let forged = site.path("forged.jsonl");
    fs::write(
        &forged,
        rewritten(&read(&log), |record| {
            if record["kind"] == "run-started" {
                record["actor"] = json!("nobody@nowhere");
            }
        }),
    )
    .unwrap();
    let without = site.verdict(&forged, None, &[]).expect(0);
    assert!(without.stdout.starts_with("consistent up to record 9, end not provable"), "{without:?}");
    let with = site.verdict(&forged, Some(&key), &[&checkpoint]).expect(5);
    assert!(with.stderr.contains("record 9 is not the one it was made of"), "{with:?}");
}

#[test]
fn both_verifiers_say_the_same_of_good_and_bad_logs_keys_and_checkpoints() {
    let site = Site::notes();
    let [log, checkpoint, key] = site.small_log();
    let write = |name: &str, text: &str| {
        fs::write(site.path(name), text).unwrap();
        site.path(name)
    };
    let good = site.verdict(&log, Some(&key), &[&checkpoint]).expect(0);
    assert!(good.stdout.starts_with("complete up to record 9, signed by "), "{good:?}");
    assert_eq!(site.verdict(&log, None, &[]).expect(0).stdout, "consistent up to record 9, end not provable\n");
    assert_eq!(
        site.verdict(&write("empty", ""), None, &[]).expect(0).stdout,
        "consistent up to record 0, end not provable\n"
    );

    // The checkpoint in the first run's evidence was signed by the first key.
    let runs = site.lifeboat(&["--json", "runs", "list"]).expect(0).json();
    let first = runs.as_array().unwrap().last().unwrap()["run"].as_str().unwrap().to_owned();
    let early = site.path(format!(".lifeboat/evidence/{first}/checkpoint.txt"));
    let verdict = site.verdict(&log, Some(&key), &[&early]).expect(0).stdout;
    assert!(verdict.starts_with("complete up to record 4, signed by "), "{verdict}");
    assert!(verdict.ends_with("; records after it: 5, consistent, their end is not provable\n"), "{verdict}");
    let both = site.verdict(&log, Some(&key), &[&checkpoint, &early]).expect(0).stdout;
    assert!(both.starts_with("complete up to record 9"), "{both}");

    let cut: String = read(&log).lines().take(8).map(|line| format!("{line}\n")).collect();
    let cut = site.verdict(&write("cut", &cut), Some(&key), &[&checkpoint]).expect(5);
    assert!(cut.stderr.contains("it has 9 records, the log 8: the end was cut off"), "{cut:?}");
    let bad = site.verdict(&write("bad", &read(&log).replacen("\"steps\":1", "\"steps\":2", 1)), None, &[]).expect(5);
    assert!(bad.stderr.contains("record 5: it does not follow"), "{bad:?}");
    // A run's own lines are a part of the chain, and no chain.
    site.lifeboat(&["audit", "export", "--run", &first, &text(&site.path("one"))]).expect(0);
    assert_eq!(read(&site.path("one")).lines().count(), 4);

    let (trusted, signed) = (read(&key), read(&checkpoint));
    let other = {
        let other = Site::notes();
        write("other-key", &other.lifeboat(&["audit", "key"]).expect(0).stdout)
    };
    for (key, checkpoint, words) in [
        (other, signed.clone(), "no trusted key may sign it"),
        (
            write("k1", &trusted.replace("lifeboat/checkpoint/1", "lifeboat/manifest/1")),
            signed.clone(),
            "is no kind of text",
        ),
        (write("k2", &trusted.replace(" lifeboat/key-rotation/1", "")), signed.clone(), "no trusted key may sign it"),
        (write("k3", &trusted.replacen('/', "x/", 1)), signed.clone(), "its hash is not"),
        (key.clone(), signed.replace("size 9", "size 8"), "does not hold"),
        (key.clone(), signed.replace("size 9", "size 09"), "is no number"),
        (key.clone(), signed.replace("lifeboat/checkpoint/1", "lifeboat/intent/1"), "it is no lifeboat/checkpoint/1"),
        (key.clone(), format!("{signed}\n"), "is no signature"),
        (
            key.clone(),
            format!("{signed}\u{2014} other/1 {}", signed.rsplit(' ').next().unwrap()),
            "2 signatures, 1 expected",
        ),
        (key.clone(), signed.replace("=\n", "\n"), "base64"),
        (key.clone(), String::new(), "no empty line"),
    ] {
        let said = site.verdict(&log, Some(&key), &[&write("c", &checkpoint)]).expect(5);
        assert!(said.stderr.contains(words), "{words}: {said:?}");
    }
    // What can't be looked at is not verified.
    site.verdict(&site.path("nowhere"), None, &[]).expect(2);
    site.verdict(&log, Some(&key), &[&site.path("nowhere")]).expect(2);
    site.verdict(&log, None, &[&checkpoint]).expect(2);
}
