//! A deadline that the kernel holds: it ends a child also while the engine that should do so is stopped or frozen.
//!
//! `alarm` is set between fork and exec and survives exec, so the kernel sends SIGALRM to the child whatever its parent does. It is the second
//! line: the watcher of [`super::Child`] comes first, and ends the child's whole group. What the alarm does not reach:
//!
//! - what the child starts in turn: timers are not inherited by a fork;
//! - a program that sets a timer of its own, or that handles or ignores SIGALRM (everything written in Go does);
//! - what runs behind a command prefix on another host or in a container: only the prefix's own process ends, and what that means for the
//!   other side is the prefix's business.

// Only here: `pre_exec` has no safe form.
#![allow(unsafe_code)]

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::alarm;

/// The signal's number, as an exit status has it.
pub(super) const SIGALRM: i32 = Signal::SIGALRM as i32;
/// How much later than the deadline, at least: the watcher, which ends the whole group, is to be the first where it runs.
const AFTER: Duration = Duration::from_secs(1);

/// Gives a command its deadline. One whose deadline has passed by the time it would begin is not begun: starting it is an error of kind
/// [`std::io::ErrorKind::TimedOut`].
pub(super) fn arm(command: &mut Command, deadline: Instant) {
    let begin = move || {
        // A parent may have left us the signal ignored or blocked, and both survive exec.
        // SAFETY: `signal` is async-signal-safe, and the default action is no handler that anything would have to be true for.
        unsafe { signal(Signal::SIGALRM, SigHandler::SigDfl) }?;
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGALRM);
        signals.thread_unblock()?;
        alarm::set(seconds(deadline.saturating_duration_since(Instant::now())));
        // After the alarm is set: whoever is frozen here is past the one or under the other.
        if Instant::now() >= deadline {
            return Err(nix::errno::Errno::ETIMEDOUT.into());
        }
        Ok(())
    };
    // SAFETY: between fork and exec, with other threads gone wherever they were, only what is async-signal-safe may be called: no allocation,
    // no lock. `begin` owns one `Instant` and calls `sigaction`, `sigemptyset`, `sigaddset`, `pthread_sigmask`, `alarm` and `clock_gettime`, all
    // of which are (signal-safety(7); `pthread_sigmask` is in POSIX's list since 2008). nix's wrappers add arithmetic, and an `io::Error` made
    // of a number allocates nothing. Nothing in it panics: `seconds` is never 0, and `clock_gettime` does not fail for the monotonic clock.
    unsafe { command.pre_exec(begin) };
}

/// Time left as `alarm` has it: whole seconds, rounded up, and a little more.
fn seconds(left: Duration) -> u32 {
    let left = left.saturating_add(AFTER);
    let up = left.as_secs().saturating_add(u64::from(left.subsec_nanos() > 0));
    // The kernel counts with a signed number; 68 years are no deadline any more.
    u32::try_from(up).unwrap_or(u32::MAX).min(i32::MAX as u32)
}

#[cfg(test)]
mod tests;
