//! Processes that an engine left behind when it was killed, found by the marker in their environment.
//!
//! A process inherits its environment, so whatever a marked one has started in turn is found as well. The environment of another user's
//! process can be read by root only: what runs behind a prefix on a database server is found there, by its session's name.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};

/// Variable that says for which attempt at which step a child works: the value is [`crate::StepContext::marker`].
pub(crate) const STEP_VARIABLE: &str = "LIFEBOAT_STEP";
/// Variable that says which scratch instance a service in quarantine is.
pub(crate) const INSTANCE_VARIABLE: &str = "LIFEBOAT_INSTANCE";

/// How long a killed process may take to go.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Ids of the processes whose environment has this variable with a value that fits; never our own.
pub(crate) fn marked(variable: &str, fits: impl Fn(&str) -> bool) -> Vec<u32> {
    let own = std::process::id();
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own && has(*pid, variable, &fits))
        // A zombie has no environment left, but its file may still answer.
        .filter(|pid| crate::child::start_ticks(*pid).is_some())
        .collect()
}

fn has(pid: u32, variable: &str, fits: &impl Fn(&str) -> bool) -> bool {
    let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
    environment.split(|byte| *byte == 0).any(|pair| {
        let value = pair.strip_prefix(variable.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value.and_then(|value| std::str::from_utf8(value).ok()).is_some_and(fits)
    })
}

/// Kills the processes whose environment has this variable with a value that fits, and waits until they are gone.
pub(crate) fn end(variable: &str, fits: impl Fn(&str) -> bool) -> Result<()> {
    let limit = Instant::now() + KILL_LIMIT;
    loop {
        let left = marked(variable, &fits);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= limit {
            return Err(Error::failed(format!(
                "processes {left:?} are still there {} s after SIGKILL",
                KILL_LIMIT.as_secs()
            ))
            .hint("they hang in the kernel, or another user's: look at them, end them by hand"));
        }
        for pid in left {
            if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
                // Gone meanwhile is what is wanted.
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Ends the children of all attempts at a step of a run.
pub(crate) fn end_step(run: &str, step: u64) -> Result<()> {
    let prefix = format!("lifeboat/{run}/{step}/");
    end(STEP_VARIABLE, |marker| marker.starts_with(&prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::StepContext;
    use crate::child::{Child, Spec, start_ticks};

    #[test]
    fn a_killed_engines_children_are_found_with_what_they_started_and_others_are_left_alone() {
        let cx = StepContext { step: 7, ..StepContext::detached("leftovers-test", Duration::from_secs(60)) };
        let other = StepContext { step: 70, ..cx.clone() };
        let spec = Spec::new(["bash", "-c", "sleep 600 & echo $!; wait"]);
        let mut child = Child::spawn(&cx, &spec).unwrap();
        let mut bystander = Child::spawn(&other, &Spec::new(["sleep", "600"])).unwrap();
        let lasting = Child::spawn(&cx, &Spec { lasting: true, ..Spec::new(["sleep", "600"]) }).unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout()), &mut line).unwrap();
        let grandchild: u32 = line.trim().parse().unwrap();
        drop(bystander.stdin());
        end_step("leftovers-test", 7).unwrap();
        assert!(start_ticks(grandchild).is_none(), "what the child had started is gone too");
        assert!(start_ticks(bystander.id()).is_some(), "step 70 is not step 7");
        assert!(start_ticks(lasting.id()).is_some(), "what is meant to last carries no marker");
        assert_eq!(child.wait().unwrap().how(), "signal 9");
    }
}
