//! What is said over `serve.sock`: one JSON line asks, one JSON line answers, then the connection ends.
//!
//! `{"verb":"stop","service":"notes"}` → `{"ok":{"state":"stopped","ended":"exit code 0"}}` or
//! `{"error":{"kind":"not-found","message":"…","hint":"…"}}`.

use std::fs::File;
use std::io::{ErrorKind as Io, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::context::StepContext;
use crate::error::{Context, Error, ErrorKind, Result};

/// The socket's name in the engine's private directory.
pub const SOCKET_NAME: &str = "serve.sock";
/// Longest line either side reads; a list of hundreds of services fits.
pub(super) const LINE_BYTES_MAX: usize = 256 * 1024;
/// How often a waiting client looks whether it should go on waiting.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// A question to the supervisor.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    /// `start`, `stop`, `status`, `list`.
    pub(super) verb: String,
    /// Which service; none for `list`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) service: Option<String>,
}

/// The supervisor's answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    /// What was asked for: a [`Seen`], or for `list` a map of them.
    Ok(Value),
    /// Why not.
    Error(Wrong),
}

/// An error on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Wrong {
    kind: String,
    message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// A child as the supervisor sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Seen {
    /// `running` or `stopped`.
    pub(super) state: String,
    /// Process id, while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pid: Option<u32>,
    /// Start time in clock ticks since boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pid_started: Option<u64>,
    /// How it ended, if this supervisor has seen that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) ended: Option<String>,
}

const KINDS: [(ErrorKind, &str); 11] = [
    (ErrorKind::Denied, "denied"),
    (ErrorKind::Invalid, "invalid"),
    (ErrorKind::NotFound, "not-found"),
    (ErrorKind::Conflict, "conflict"),
    (ErrorKind::Refused, "refused"),
    (ErrorKind::Rejected, "rejected"),
    (ErrorKind::Expired, "expired"),
    (ErrorKind::Failed, "failed"),
    (ErrorKind::TimedOut, "timed-out"),
    (ErrorKind::Cancelled, "cancelled"),
    (ErrorKind::Other, "other"),
];

impl From<Error> for Wrong {
    fn from(error: Error) -> Self {
        let kind = KINDS.iter().find(|(kind, _)| *kind == error.kind).map_or("other", |(_, word)| word);
        Self { kind: kind.into(), message: error.message, hint: error.hint }
    }
}

impl From<Wrong> for Error {
    fn from(wrong: Wrong) -> Self {
        let kind = KINDS.iter().find(|(_, word)| *word == wrong.kind).map_or(ErrorKind::Other, |(kind, _)| *kind);
        Self { kind, message: wrong.message, hint: wrong.hint }
    }
}

/// A socket's path through its open directory: a path to a socket may have 107 bytes only, a state directory's may be longer.
/// Good as long as the file is open.
pub(super) fn short(socket: &Path) -> Result<(File, PathBuf)> {
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(Error::invalid(format!("{} is no path of a socket", socket.display())));
    };
    let dir = File::open(dir).doing(|| format!("opening {}", dir.display()))?;
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    Ok((dir, path))
}

/// How often a socket that is there and refuses is tried.
const CONNECT_TRIES: u32 = 5;
const CONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Connects; none where nobody answers.
pub(super) fn connect(socket: &Path) -> Result<Option<UnixStream>> {
    if !socket.exists() {
        return Ok(None);
    }
    let (_open, path) = short(socket)?;
    let mut tries = CONNECT_TRIES;
    loop {
        match UnixStream::connect(&path) {
            Ok(stream) => return Ok(Some(stream)),
            // Between its binding and its listening there is a moment in which one that begins looks like one that has ended.
            Err(e) if e.kind() == Io::ConnectionRefused && tries > 1 => {
                tries -= 1;
                std::thread::sleep(CONNECT_PAUSE);
            }
            Err(e) if matches!(e.kind(), Io::NotFound | Io::ConnectionRefused) => return Ok(None),
            Err(e) => {
                return Err(Error::failed(format!("connecting to {}: {e}", socket.display()))
                    .hint("lifeboat must run as the user that runs `lifeboat serve`"));
            }
        }
    }
}

/// Asks the supervisor; none where there is none.
pub(super) fn ask(cx: &StepContext, socket: &Path, verb: &str, service: &str) -> Result<Option<Seen>> {
    let Some(mut stream) = connect(socket)? else { return Ok(None) };
    let said = || format!("asking {}", socket.display());
    let ask = Ask { verb: verb.into(), service: Some(service.into()) };
    let mut line = serde_json::to_vec(&ask).doing(said)?;
    line.push(b'\n');
    stream.set_write_timeout(Some(Duration::from_secs(10))).doing(said)?;
    stream.set_read_timeout(Some(LOOK_INTERVAL)).doing(said)?;
    stream.write_all(&line).doing(said)?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while !answer.contains(&b'\n') {
        match stream.read(&mut chunk) {
            Ok(0) => return Err(Error::failed("`lifeboat serve` ended before it answered")),
            Ok(count) => answer.extend_from_slice(&chunk[..count]),
            Err(e) if matches!(e.kind(), Io::WouldBlock | Io::TimedOut | Io::Interrupted) => cx.check()?,
            Err(e) => return Err(e).doing(said),
        }
        if answer.len() > LINE_BYTES_MAX {
            return Err(Error::failed("`lifeboat serve` answered with too long a line"));
        }
    }
    match serde_json::from_slice(&answer).doing(said)? {
        Answer::Ok(value) => serde_json::from_value(value).doing(said).map(Some),
        Answer::Error(wrong) => Err(wrong.into()),
    }
}
