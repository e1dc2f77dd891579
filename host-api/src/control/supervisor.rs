//! The part of `lifeboat serve` that owns services which are plain children: it starts, watches and stops them.
//!
//! A command line that ends leaves nothing behind; so a child that is to go on belongs to this long-running process. The command line
//! asks for it over a socket in the engine's private directory. When this process ends, its children end; when it is killed, they
//! go on, and the next one on the same directory finds them by process id and start time.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use super::process::{Process, log_tail};
use super::protocol::{Answer, Ask, LINE_BYTES_MAX, Seen, connect, short};
use super::{ports, record, values};
use crate::bindings::{ChildControl, Control, Service};
use crate::disk::private_dir;
use crate::error::{Context, Error, Result};
use crate::real::blocking;

/// How often children are looked at, so that one that has ended is reaped.
const REAP_INTERVAL: Duration = Duration::from_millis(250);
/// How long a client may take for its line; it is one of ours, on this machine.
const ASK_LIMIT: Duration = Duration::from_secs(10);
/// A command that fails at once (a wrong option, a missing library) does so within this.
const EARLY_END: Duration = Duration::from_millis(150);
/// How often a stop looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Owns the children of one engine state.
pub struct Supervisor {
    kept: BTreeMap<String, Kept>,
    /// The engine's private directory: `logs/SERVICE.log`, `children/SERVICE.json`.
    dir: PathBuf,
    /// Set when it ends: nothing is started any more.
    closing: AtomicBool,
}

/// One service.
struct Kept {
    service: Service,
    /// Held while it is started or stopped, so that these do not overlap. Taken before `slot`.
    acting: Mutex<()>,
    /// Held for moments only, so that a status is answered while a stop waits.
    slot: Mutex<Slot>,
}

#[derive(Default)]
struct Slot {
    process: Option<Process>,
    /// How the last one ended.
    ended: Option<String>,
}

impl Supervisor {
    /// Serves until `shutdown` is done, then stops every child. `services` are those of the environment; those with
    /// `control` of kind `child` are its own. Nothing is started until it is asked for.
    ///
    /// Refused where another supervisor serves the same directory.
    pub async fn serve(
        services: BTreeMap<String, Service>,
        socket: PathBuf,
        shutdown: impl Future<Output = ()>,
    ) -> Result<()> {
        let dir = socket.parent().unwrap_or(Path::new("/")).to_owned();
        private_dir(&dir)?;
        let _lock = lock(&dir)?;
        let listener = listen(&socket)?;
        let supervisor = Arc::new(Self::new(services, dir)?);
        let mut talks = JoinSet::new();
        let mut reap = tokio::time::interval(REAP_INTERVAL);
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            tokio::select! {
                () = &mut shutdown => break,
                _ = reap.tick() => {
                    supervisor.reap();
                    while talks.try_join_next().is_some() {}
                }
                taken = listener.accept() => match taken {
                    Ok((stream, _)) => {
                        talks.spawn(talk(Arc::clone(&supervisor), stream));
                    }
                    // Out of file descriptors, say: the children are fine, and clients may try again.
                    Err(error) => {
                        tracing::error!(%error, "no connection can be taken on serve.sock");
                        tokio::time::sleep(REAP_INTERVAL).await;
                    }
                }
            }
        }
        // Gone before the children are, so that nobody asks for one that is about to end.
        let _ = std::fs::remove_file(&socket);
        drop(listener);
        supervisor.close().await
    }

    fn new(services: BTreeMap<String, Service>, dir: PathBuf) -> Result<Self> {
        private_dir(&dir.join("logs"))?;
        let mut kept = BTreeMap::new();
        for (name, service) in services {
            if !matches!(service.control, Some(Control::Child(_))) {
                continue;
            }
            crate::identifier::check_name("service", &name)?;
            let found = record::alive(&dir, &name).and_then(|(pid, started)| Process::adopt(pid, started));
            if let Some(process) = &found {
                tracing::warn!(service = name, pid = process.pid(), "found the child of a supervisor that was killed");
            }
            let slot = Mutex::new(Slot { process: found, ended: None });
            kept.insert(name, Kept { service, acting: Mutex::default(), slot });
        }
        Ok(Self { kept, dir, closing: AtomicBool::new(false) })
    }

    fn kept(&self, name: &str) -> Result<(&Kept, &ChildControl)> {
        let kept = self.kept.get(name).ok_or_else(|| Error::unknown("child", name, self.kept.keys()))?;
        match &kept.service.control {
            Some(Control::Child(control)) => Ok((kept, control)),
            _ => Err(Error::invalid(format!("{name} is no child"))),
        }
    }

    /// What is true of a child now; one that has ended is reaped.
    fn seen(&self, name: &str, kept: &Kept) -> Seen {
        let mut slot = kept.slot.lock().expect("no panic while held");
        if let Some(process) = &mut slot.process {
            match process.ended() {
                None => {
                    return Seen {
                        state: "running".into(),
                        pid: Some(process.pid()),
                        pid_started: Some(process.started()),
                        ended: None,
                    };
                }
                Some(how) => {
                    let how = how.to_owned();
                    tracing::info!(service = name, how, "child ended");
                    record::remove(&self.dir, name);
                    slot.ended = Some(how);
                    slot.process = None;
                }
            }
        }
        Seen { state: "stopped".into(), pid: None, pid_started: None, ended: slot.ended.clone() }
    }

    fn reap(&self) {
        for (name, kept) in &self.kept {
            self.seen(name, kept);
        }
    }

    fn start(&self, name: &str) -> Result<Seen> {
        let (kept, control) = self.kept(name)?;
        let _acting = kept.acting.lock().expect("no panic while held");
        if self.closing.load(Ordering::Acquire) {
            return Err(Error::conflict("`lifeboat serve` is about to end"));
        }
        let seen = self.seen(name, kept);
        if seen.state == "running" {
            return Ok(seen);
        }
        let open = ports::open(&control.ports);
        if !open.is_empty() {
            return Err(Error::conflict(format!("{} taken by another process", ports::words(&open)))
                .hint("end whatever listens there: it is not lifeboat's child"));
        }
        let values = values::live(&kept.service);
        let spec = values::process(
            &control.command,
            &control.environment,
            &control.secret,
            control.directory.clone(),
            &values,
        )?;
        let log = self.dir.join("logs").join(format!("{name}.log"));
        let mut process = Process::spawn(&spec, &log)?;
        // Only a supervisor after one that was killed needs the record. A service that is kept down because that disk is full is the worse end.
        if let Err(error) = record::write(&self.dir, name, &process) {
            tracing::error!(service = name, pid = process.pid(), %error, "the child runs, but is not on record: if this supervisor is killed, the next one won't find it");
        }
        if process.wait(EARLY_END) {
            record::remove(&self.dir, name);
            let how = process.ended().unwrap_or_default().to_owned();
            kept.slot.lock().expect("no panic while held").ended = Some(how.clone());
            return Err(Error::failed(format!("it ended at once, with {how}; {}", log_tail(&log))));
        }
        tracing::info!(service = name, pid = process.pid(), "child started");
        *kept.slot.lock().expect("no panic while held") = Slot { process: Some(process), ended: None };
        Ok(self.seen(name, kept))
    }

    fn stop(&self, name: &str) -> Result<Seen> {
        let (kept, control) = self.kept(name)?;
        let _acting = kept.acting.lock().expect("no panic while held");
        let signal = |signal| {
            if let Some(process) = &mut kept.slot.lock().expect("no panic while held").process {
                process.signal(signal);
            }
        };
        let gone_within = |limit: Duration| {
            let end = Instant::now() + limit;
            loop {
                let seen = self.seen(name, kept);
                if seen.state == "stopped" || Instant::now() >= end {
                    return seen;
                }
                std::thread::sleep(LOOK_INTERVAL);
            }
        };
        signal(Signal::TERM);
        let mut seen = gone_within(Duration::from_secs(control.timeout_s));
        if seen.state != "stopped" {
            tracing::warn!(service = name, "child does not end by SIGTERM: killing it");
            signal(Signal::KILL);
            seen = gone_within(Duration::from_secs(10));
        }
        if seen.state != "stopped" {
            return Err(Error::failed("it is still there 10 s after SIGKILL").hint("it hangs in the kernel"));
        }
        Ok(seen)
    }

    async fn close(self: Arc<Self>) -> Result<()> {
        self.closing.store(true, Ordering::Release);
        let mut stops = JoinSet::new();
        for name in self.kept.keys() {
            let (supervisor, name) = (Arc::clone(&self), name.clone());
            stops.spawn(blocking(move || supervisor.stop(&name).map(drop).map_err(|e| e.context(&name))));
        }
        let mut result = Ok(());
        while let Some(stopped) = stops.join_next().await {
            result = result.and(stopped.doing(|| "stopping a child".into()).and_then(|stopped| stopped));
        }
        result
    }

    fn answer(&self, ask: &Ask) -> Result<serde_json::Value> {
        let said = || "answering".to_owned();
        let service = ask.service.as_deref().unwrap_or_default();
        match ask.verb.as_str() {
            "start" => serde_json::to_value(self.start(service)?).doing(said),
            "stop" => serde_json::to_value(self.stop(service)?).doing(said),
            "status" => serde_json::to_value(self.seen(service, self.kept(service)?.0)).doing(said),
            "list" => {
                let all: BTreeMap<_, _> = self.kept.iter().map(|(name, kept)| (name, self.seen(name, kept))).collect();
                serde_json::to_value(all).doing(said)
            }
            other => Err(Error::invalid(format!("`{}` is no verb", crate::identifier::shown(other)))
                .hint("start, stop, status or list")),
        }
    }
}

/// Held by the process that serves a directory, and let go by the kernel however that ends.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("serve.lock");
    let said = || format!("locking {}", path.display());
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path).doing(said)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::conflict(format!("`lifeboat serve` runs on {} already", dir.display())))
        }
        Err(e) => Err(e).doing(said),
    }
}

fn listen(socket: &Path) -> Result<UnixListener> {
    let said = || format!("listening on {}", socket.display());
    if connect(socket)?.is_some() {
        return Err(Error::conflict(format!("somebody answers on {} already", socket.display())));
    }
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).doing(said),
        _ => {}
    }
    let (_open, path) = short(socket)?;
    // Nobody else reaches it in between: the directory is private.
    let listener = UnixListener::bind(path).doing(said)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).doing(said)?;
    Ok(listener)
}

async fn talk(supervisor: Arc<Supervisor>, mut stream: UnixStream) {
    let (read, mut write) = stream.split();
    let mut line = Vec::new();
    let mut read = BufReader::new(read.take(LINE_BYTES_MAX as u64));
    let answer = match tokio::time::timeout(ASK_LIMIT, read.read_until(b'\n', &mut line)).await {
        Ok(Ok(1..)) => match serde_json::from_slice::<Ask>(&line) {
            Ok(ask) => blocking(move || supervisor.answer(&ask)).await,
            Err(e) => Err(Error::invalid(format!("no question: {e}"))),
        },
        // A client that looks whether anybody is here says nothing.
        _ => return,
    };
    let answer = answer.map_or_else(|e| Answer::Error(e.into()), Answer::Ok);
    if let Ok(mut line) = serde_json::to_vec(&answer) {
        line.push(b'\n');
        // A client that is gone needs no answer.
        let _ = write.write_all(&line).await;
    }
}
