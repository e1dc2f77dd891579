//! The deadline that the kernel holds, with the engine that should kill the child stopped, late, or not looking.

use std::io::{BufRead, BufReader};
use std::process::{ChildStdout, Stdio};

use super::*;
use crate::child::{Child, Spec, kill_group, start_ticks, wait_until};
use crate::context::StepContext;
use crate::error::ErrorKind;

/// Says to the test binary that it is the engine that is stopped: the seconds until its step's deadline.
const HOLDER: &str = "TEST_HOLDER_DEADLINE_S";

fn within(seconds: u64) -> StepContext {
    StepContext::detached("alarm-test", Duration::from_secs(seconds))
}

/// Field `n` of a process's `stat`, counted as in proc(5): 3 is its state, 52 the exit status of a zombie. None where it is gone.
fn stat(pid: u32, n: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(n - 3).map(str::to_owned)
}

#[test]
fn whole_seconds_after_the_deadline_and_never_none() {
    for (left_ms, wanted) in [(0, 1), (1, 2), (999, 2), (1000, 2), (1001, 3), (59_500, 61)] {
        assert_eq!(seconds(Duration::from_millis(left_ms)), wanted, "{left_ms} ms");
    }
    assert_eq!(seconds(Duration::MAX), i32::MAX as u32);
}

#[test]
#[ignore = "no test: the body of the engine that another test stops"]
fn holder() {
    let Some(seconds) = std::env::var(HOLDER).ok().and_then(|s| s.parse().ok()) else { return };
    let cx = within(seconds);
    let child = Child::spawn(&cx, &Spec::new(["sleep", "600"])).unwrap();
    println!("child {}", child.id());
    let error = child.wait().unwrap_err();
    println!("ended {:?} {}", error.kind, Child::spawn(&cx, &Spec::new(["true"])).is_err());
}

/// The next line of the holder that begins with a word, without it; the test runner's own lines are passed over.
fn line(from: &mut impl BufRead, word: &str) -> String {
    loop {
        let mut line = String::new();
        assert_ne!(from.read_line(&mut line).unwrap(), 0, "it ended without saying `{word}`");
        // The runner writes `test NAME ... ` in front of the first one.
        if let Some((_, rest)) = line.split_once(&format!("{word} ")) {
            return rest.trim().to_owned();
        }
    }
}

/// An engine that is a process of its own, with its one child; both are gone with this.
struct Engine {
    process: std::process::Child,
    said: BufReader<ChildStdout>,
    child: u32,
}

impl Engine {
    fn begin(deadline_s: u64) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child::alarm::tests::holder", "--ignored", "--nocapture"])
            .env(HOLDER, deadline_s.to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(process.stdout.take().unwrap());
        let child = line(&mut said, "child").parse().unwrap();
        Self { process, said, child }
    }

    /// Sends a signal to the engine alone.
    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn state(&self) -> Option<String> {
        stat(self.process.id(), 3)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A stopped engine has not reaped its child: the id is still that child's.
        if start_ticks(self.child).is_some() {
            kill_group(self.child);
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn a_child_ends_at_its_deadline_while_its_engine_is_stopped() {
    let cx = within(300);
    // A machine that is too slow to stop the engine before the deadline gets more time.
    for deadline_s in [2, 10, 60] {
        let mut engine = Engine::begin(deadline_s);
        let child = engine.child;
        engine.signal(rustix::process::Signal::STOP);
        assert!(wait_until(&cx, cx.remaining(), || engine.state().as_deref() == Some("T")), "the engine is stopped");
        assert!(wait_until(&cx, cx.remaining(), || start_ticks(child).is_none()), "the child ends");
        assert_eq!(engine.state().as_deref(), Some("T"), "the engine has done nothing");
        // A zombie, because nobody has reaped it, says what ended it.
        let status = stat(child, 52);
        engine.signal(rustix::process::Signal::CONT);
        if status.as_deref() == Some("9") {
            continue;
        }
        assert_eq!(status, Some(SIGALRM.to_string()));
        // Going on, the engine says what it was, and starts nothing for a step that is over.
        assert_eq!(line(&mut engine.said, "ended"), "TimedOut true");
        return;
    }
    panic!("the engine was never stopped before it killed its child itself");
}

#[test]
fn an_end_by_sigalrm_after_the_deadline_is_late_and_before_it_a_failure() {
    let mut child = Child::spawn(&within(1), &Spec::new(["sleep", "600"])).unwrap();
    // As if it were frozen: nobody but the kernel ends the child.
    child.stop();
    let error = child.wait().unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
    assert!(error.message.contains("sleep"), "{error}");

    let child = Child::spawn(&within(60), &Spec::new(["bash", "-c", "kill -ALRM $$; sleep 600"])).unwrap();
    assert_eq!(child.wait().unwrap().how(), format!("signal {SIGALRM}"));
}

#[test]
fn nothing_is_begun_when_the_deadline_has_passed_before_the_exec() {
    let dir = tempfile::tempdir().unwrap();
    let made = dir.path().join("made");
    let begin = |deadline| {
        let mut command = Command::new("touch");
        arm(command.arg(&made), deadline);
        command.status()
    };
    let error = begin(Instant::now()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    assert!(!made.exists());
    assert!(begin(Instant::now() + Duration::from_secs(60)).unwrap().success());
    assert!(made.exists());
}

#[test]
fn what_is_meant_to_last_has_no_alarm() {
    // Asked for a new one, the kernel says how much of the old one was left.
    let spec = Spec::new(["python3", "-c", "import signal; print(signal.alarm(0))"]);
    let left = |spec: &Spec| crate::child::run_text(&within(1000), spec).unwrap().trim().parse::<u32>().unwrap();
    assert_eq!(left(&Spec { lasting: true, ..spec.clone() }), 0);
    assert!((1..=1001).contains(&left(&spec)));
}

#[test]
fn a_parent_that_ignores_and_blocks_the_signal_does_not_take_it_from_its_children() {
    // Fields of `status`, as masks in hexadecimal, of a child of a shell that ignores the signal.
    let script = "trap '' ALRM; exec \"$0\" \"$@\"";
    let exe = std::env::current_exe().unwrap();
    let out = Command::new("bash")
        .args(["-c", script])
        .arg(exe)
        .args(["--exact", "child::alarm::tests::masks", "--ignored", "--nocapture"])
        .env(HOLDER, "60")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stdout);
    let mask = |name: &str| {
        let line = said.lines().find_map(|l| l.split_once(name)).unwrap_or_else(|| panic!("{name} in {said}"));
        u64::from_str_radix(line.1.trim(), 16).unwrap() >> (SIGALRM - 1) & 1
    };
    assert_eq!(mask("engine SigIgn:"), 1, "the fault is there: {said}");
    assert_eq!(mask("engine SigBlk:"), 1, "the fault is there: {said}");
    assert_eq!((mask("child SigIgn:"), mask("child SigBlk:")), (0, 0), "{said}");
}

#[test]
#[ignore = "no test: the body of an engine whose parent ignores the signal"]
fn masks() {
    if std::env::var_os(HOLDER).is_none() {
        return;
    }
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGALRM);
    signals.thread_block().unwrap();
    let show = |who: &str, status: &str| {
        for line in status.lines().filter(|l| l.starts_with("SigIgn:") || l.starts_with("SigBlk:")) {
            println!("\n{who} {line}");
        }
    };
    show("engine", &std::fs::read_to_string("/proc/thread-self/status").unwrap());
    show("child", &crate::child::run_text(&within(60), &Spec::new(["cat", "/proc/self/status"])).unwrap());
}
