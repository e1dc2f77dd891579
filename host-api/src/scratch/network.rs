//! A network of its own for a service in quarantine: nothing in it but loopback, so that nothing it does reaches anybody, whatever its
//! configuration forgot. Sockets in the file system (a database's) are reached as ever.
//!
//! It is a named network namespace, `ip netns`; the name is made of the instance's id and is the marker: who knows the id can remove it.
//! The engine reaches the service through a port of this machine's loopback that is handed on into it, so that HTTP checks know nothing of it.

use std::fs::File;
use std::io::ErrorKind as Io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::child::{self, Spec};
use crate::context::StepContext;
use crate::error::{Context, Error, Result};

/// Where `ip netns` keeps its names.
const NAMES: &str = "/run/netns";
/// What the name of one of ours begins with.
const PREFIX: &str = "lifeboat-";
/// Programs that it takes.
pub(crate) const PROGRAMS: [&str; 2] = ["ip", "nsenter"];
/// How long making or removing one may take.
const LIMIT: Duration = Duration::from_secs(20);
/// How long a connection into it may take: it is loopback.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);
/// Connections at one time: more than any check makes.
const CONNECTIONS_MAX: usize = 64;

/// An instance's network, whether it is there or not.
pub(super) struct Network {
    name: String,
}

impl Network {
    /// Of the instance with this id, which was checked.
    pub(super) fn of(instance: &str) -> Self {
        Self { name: format!("{PREFIX}{instance}") }
    }

    fn path(&self) -> PathBuf {
        Path::new(NAMES).join(&self.name)
    }

    /// Makes it anew, with loopback up. What an earlier attempt left is removed first.
    pub(super) fn make(&self, cx: &StepContext) -> Result<()> {
        may_be_made()?;
        self.end(cx)?;
        self.ip(cx, &["netns", "add", &self.name])?;
        self.ip(cx, &["-n", &self.name, "link", "set", "lo", "up"])
    }

    /// Removes it; not there is fine. What runs in it must have ended: it would keep the network, though nobody could find it.
    pub(super) fn end(&self, cx: &StepContext) -> Result<()> {
        if !self.path().exists() {
            return Ok(());
        }
        self.ip(cx, &["netns", "delete", &self.name])
    }

    fn ip(&self, cx: &StepContext, words: &[&str]) -> Result<()> {
        let spec = Spec::new(std::iter::once("ip").chain(words.iter().copied()));
        let (_, ended) = child::run(&cx.within(LIMIT), &spec, b"", 64 * 1024)
            .map_err(|e| e.context("a network of its own takes the program `ip` (Debian: iproute2)"))?;
        ended.require_success("ip").map_err(|e| e.context(format!("network {}", self.name)))
    }

    /// What stands in front of a command that is to run in it.
    pub(super) fn command(&self) -> [String; 3] {
        ["nsenter".into(), format!("--net={}", self.path().display()), "--".into()]
    }

    /// Hands connections to a port of this machine's loopback on to the same port in it, until the result is dropped.
    pub(super) fn hand_on(&self, port: u16) -> Result<HandedOn> {
        let doing = || format!("handing port {port} on into network {}", self.name);
        let inside = File::open(self.path()).doing(doing)?;
        // Before its thread goes in: a socket belongs to the network it was made in.
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).doing(doing)?;
        let ended = Arc::new(AtomicBool::new(false));
        let (told, tells) = std::sync::mpsc::channel();
        let end = ended.clone();
        let thread = std::thread::Builder::new().name("lifeboat-network".into());
        let thread = thread.spawn(move || {
            // This thread alone; it never does anything else, and ends in there.
            let went = move_into_link_name_space(inside.as_fd(), Some(LinkNameSpaceType::Network));
            let inside = went.is_ok();
            let _ = told.send(went);
            if inside {
                hand_on(&listener, port, &end);
            }
        });
        let thread = thread.doing(doing)?;
        tells
            .recv()
            .map_err(|_| Error::failed("the thread of a network ended"))?
            .map_err(std::io::Error::from)
            .doing(doing)?;
        Ok(HandedOn { port, ended, thread: Some(thread) })
    }
}

/// An error where no network can be made: it takes root.
pub(crate) fn may_be_made() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err(Error::invalid("a network of its own (`network = \"isolated\"`) can only be made by root")
        .hint("run lifeboat as root, or leave `network` out and keep traffic in by other means"))
}

/// Whether something listens on a port in the network of a process.
pub(super) fn listens(process: u32, port: u16) -> bool {
    ["tcp", "tcp6"].iter().any(|table| crate::control::ports::listed(port, &format!("/proc/{process}/net/{table}")))
}

/// A port that is handed on. Dropped, it is closed.
#[derive(Debug)]
pub(super) struct HandedOn {
    port: u16,
    ended: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for HandedOn {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
        // It waits for a connection: here is one.
        let _ = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, self.port)), CONNECT_LIMIT);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn hand_on(listener: &TcpListener, port: u16, ended: &AtomicBool) {
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = listener.accept();
        if ended.load(Ordering::Acquire) {
            return;
        }
        let outside = match accepted {
            Ok((outside, _)) => outside,
            Err(e) if matches!(e.kind(), Io::Interrupted | Io::ConnectionAborted) => continue,
            // Out of descriptors, say: whoever asked sees that nobody answers, and asks again.
            Err(_) => {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        if open.load(Ordering::Acquire) >= CONNECTIONS_MAX {
            continue;
        }
        // In there: this thread's sockets are. Where nobody listens yet, the connection ends at once.
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let Ok(inside) = TcpStream::connect_timeout(&address, CONNECT_LIMIT) else { continue };
        open.fetch_add(1, Ordering::AcqRel);
        let count = open.clone();
        std::thread::spawn(move || {
            both_ways(&outside, &inside);
            count.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

fn both_ways(outside: &TcpStream, inside: &TcpStream) {
    let one_way = |mut from: &TcpStream, mut to: &TcpStream| {
        // Whatever ends it, the other side is told, and so the other direction ends too.
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| one_way(outside, inside));
        one_way(inside, outside);
        // A service that has ended its answer reads no more.
        let _ = outside.shutdown(Shutdown::Both);
        let _ = inside.shutdown(Shutdown::Both);
    });
}
