//! Running `pg_restore`: from a file of ours, or through its standard input where it does not see our files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::child::Child;
use crate::error::{Context, Error, Result};

use super::tools::Tools;

/// What `pg_restore` reads.
pub(super) enum Archive<'a> {
    /// A file. Behind a prefix our files may not be seen: it then goes through the pipe, which several jobs can't share.
    File(&'a Path, usize),
    /// A stream.
    Stream(Box<dyn Read + Send>),
}

/// Restores into a database that has nothing in the way. Anything that is said fails it, whatever the exit code.
pub(super) fn restore(tools: &Tools<'_>, place: &str, arguments: &[&str], archive: Archive<'_>) -> Result<()> {
    let mut spec = tools.connected("pg_restore", place, "UTF8")?;
    for argument in ["--exit-on-error", "--no-subscriptions"].iter().chain(arguments) {
        spec = spec.arg(tools.word(argument));
    }
    let stream: Option<Box<dyn Read + Send>> = match archive {
        Archive::Stream(stream) => Some(stream),
        Archive::File(path, _) if !tools.binding.prefix.is_empty() => {
            Some(Box::new(File::open(path).doing(|| "opening the archive".into())?))
        }
        Archive::File(path, jobs) => {
            spec = spec.arg("-j").arg(jobs.to_string()).arg(path);
            None
        }
    };
    let mut child = Child::spawn(tools.cx, &spec)?;
    let mut stdin = child.stdin();
    let feeder = match stream {
        // A pg_restore that does not read all says so in its exit code. One that got too little of a file that can't be read to its end would
        // not always: what was read counts.
        Some(mut stream) => Some(std::thread::spawn(move || feed(&mut *stream, &mut stdin))),
        None => {
            drop(stdin);
            None
        }
    };
    let mut said = String::new();
    // Anything on stdout would be a surprise, and bounded; what counts is how it ends.
    let _ = child.stdout().take(64 * 1024).read_to_string(&mut said);
    let ended = child.wait()?;
    let fed = feeder
        .map_or(Ok(()), |feeder| feeder.join().unwrap_or_else(|_| Err(Error::failed("a bug: a thread panicked"))));
    tools.succeeded("pg_restore", &ended)?;
    fed?;
    if !ended.stderr.trim().is_empty() {
        return Err(Error::failed(format!(
            "pg_restore ended with exit code 0, but said: {}",
            crate::identifier::shown_long(&ended.tail())
        ))
        .hint("a restore with any complaint does not count: see what it is about"));
    }
    Ok(())
}

/// How many of so many jobs are done side by side: no more than there are processors.
pub(super) fn side_by_side(jobs: u32) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    usize::try_from(jobs).unwrap_or(1).clamp(1, processors)
}

/// Hands a stream on. A child that takes no more has what it wants; a stream that can't be read is an error.
pub(super) fn feed(stream: &mut dyn Read, stdin: &mut impl std::io::Write) -> Result<()> {
    let mut buffer = vec![0; super::archive::READ_BYTES];
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Error::failed(format!("reading the archive: {e}"))),
        };
        if stdin.write_all(&buffer[..count]).is_err() {
            return Ok(());
        }
    }
}
