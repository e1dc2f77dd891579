//! The log is proof: what is changed in it is found, by `audit verify` and by an outsider's verifier, and what it must not hold is not in it.

mod checkpoints;
mod tampering;
mod values;
mod vectors;

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Outcome, Site};

/// A file of the repository.
pub fn repository(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(relative)
}

/// Runs a Python script, with nothing but its standard library.
pub fn python(script: &Path, arguments: &[&str]) -> Outcome {
    let out = Command::new("python3")
        .args(["-I", "-B"])
        .arg(script)
        .args(arguments)
        .output()
        .expect("python3 is on the PATH (3.9 or later)");
    Outcome {
        code: out.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

impl Site {
    /// A log of a few records: two runs, a change of key between them. Gives its export, a checkpoint of its end, and the first key.
    fn small_log(&self) -> [PathBuf; 3] {
        self.guest("calls", "calls", "backup", &[], "");
        let words = ["--param", "call=refused", "--param", "times=1"];
        let key = self.path("key.txt");
        std::fs::write(&key, self.lifeboat(&["audit", "key"]).expect(0).stdout).unwrap();
        self.run("calls", &words).expect(0);
        self.lifeboat(&["audit", "rotate-key"]).expect(0);
        self.run("calls", &words).expect(0);
        let (log, checkpoint) = (self.path("log.jsonl"), self.path("checkpoint.txt"));
        self.lifeboat(&["audit", "export", &text(&log)]).expect(0);
        self.lifeboat(&["audit", "checkpoint", &text(&checkpoint)]).expect(0);
        [log, checkpoint, key]
    }

    /// What both verifiers say of an exported log; they must agree, in words and exit code.
    #[track_caller]
    fn verdict(&self, log: &Path, key: Option<&Path>, checkpoints: &[&Path]) -> Outcome {
        let mut words: Vec<String> = key.iter().flat_map(|key| ["--key".into(), text(key)]).collect();
        words.extend(checkpoints.iter().flat_map(|c| ["--checkpoint".into(), text(c)]));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let log = text(log);
        let ours = self.lifeboat(&[&["audit", "verify", "--log", &log], &words[..]].concat());
        let theirs = python(&repository("docs/verify_audit.py"), &[&[log.as_str()], &words[..]].concat());
        assert_eq!(ours.code, theirs.code, "{ours:?}\n{theirs:?}");
        assert_eq!(ours.stdout, theirs.stdout);
        if ours.code == 5 {
            // A transition that is none is said in words of one's own; the record is the same.
            let record = |said: &str| said.split(": ").take(2).collect::<Vec<_>>().join(": ");
            assert_eq!(record(&ours.stderr), record(&theirs.stderr));
        }
        ours
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
