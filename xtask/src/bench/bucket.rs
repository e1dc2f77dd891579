//! A private S3 with one bucket, gone when it is dropped, and a way to it that takes longer.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::setup;
use crate::workspace::Workspace;

/// The bucket's name.
pub const BUCKET: &str = "bench";
/// Who may do everything.
pub const KEY_ID: &str = "bench";
/// Its secret: there is nothing to keep from anybody.
pub const KEY: &str = "bench-of-lifeboat";
/// How long the server may take to answer first.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A running server.
pub struct Bucket {
    child: Child,
    folder: PathBuf,
    /// On this machine.
    pub port: u16,
}

impl Bucket {
    /// Starts one that keeps its objects in `folder`.
    pub fn start(workspace: &Workspace, folder: &Path) -> Result<Self> {
        let program = setup::s3s(workspace)?;
        fs::create_dir_all(folder.join(BUCKET))?;
        let port = free_port()?;
        let child = Command::new(&program)
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--access-key", KEY_ID, "--secret-key", KEY])
            .arg(folder)
            .env("RUST_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .with_context(|| program.display().to_string())?;
        let mut bucket = Self { child, folder: folder.to_owned(), port };
        let end = Instant::now() + START_LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            if bucket.child.try_wait()?.is_some() || Instant::now() > end {
                bail!("{} does not answer on port {port}", program.display());
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(bucket)
    }

    /// Removes what is in it.
    pub fn clear(&self) -> Result<()> {
        let bucket = self.folder.join(BUCKET);
        fs::remove_dir_all(&bucket)?;
        Ok(fs::create_dir(&bucket)?)
    }

    /// A port by which all that the server says arrives so much later; for as long as this process lives.
    ///
    /// What is sent to it is not held up: one who sends without waiting for answers loses nothing, as on a long line.
    pub fn farther_by(&self, later: Duration) -> Result<u16> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let upstream = self.port;
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                // Either side may hang up whenever it likes.
                thread::spawn(move || relay(client, upstream, later).ok());
            }
        });
        Ok(port)
    }
}

impl Drop for Bucket {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("left behind: the S3 on port {}: {error}", self.port);
        }
    }
}

/// Bound and let go: nobody else is given it for a while.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn relay(client: TcpStream, upstream: u16, later: Duration) -> io::Result<()> {
    let server = TcpStream::connect(("127.0.0.1", upstream))?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        io::copy(&mut from_client, &mut to_server).ok();
        to_server.shutdown(Shutdown::Write).ok();
    });
    // Read at once and written later: an answer of many pieces is late once, not once a piece.
    let (pieces, due) = mpsc::sync_channel::<(Instant, Vec<u8>)>(1024);
    let mut from_server = server;
    thread::spawn(move || {
        let mut piece = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from_server.read(&mut piece) {
            if pieces.send((Instant::now() + later, piece[..count].to_vec())).is_err() {
                break;
            }
        }
    });
    let mut to_client = client;
    for (when, piece) in due {
        thread::sleep(when.saturating_duration_since(Instant::now()));
        to_client.write_all(&piece)?;
    }
    to_client.shutdown(Shutdown::Write)
}
