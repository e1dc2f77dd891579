//! A scripted HTTP server: a function decides what each connection gets.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A connection.
pub(crate) trait Connection: Read + Write {}
impl<T: Read + Write> Connection for T {}

/// What a connection gets: its number from 0, the request's text, and the connection.
type Script = dyn Fn(usize, &str, &mut dyn Connection) + Send + Sync;

pub(crate) struct Server {
    pub(crate) port: u16,
    /// Every request, as text.
    pub(crate) seen: Arc<Mutex<Vec<String>>>,
    /// Connections that came, also those without a request.
    pub(crate) taken: Arc<Mutex<usize>>,
    ending: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    pub(crate) fn plain(script: impl Fn(usize, &str, &mut dyn Connection) + Send + Sync + 'static) -> Self {
        Self::start(None, Arc::new(script))
    }

    pub(crate) fn tls(
        config: rustls::ServerConfig,
        script: impl Fn(usize, &str, &mut dyn Connection) + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(Arc::new(config)), Arc::new(script))
    }

    fn start(tls: Option<Arc<rustls::ServerConfig>>, script: Arc<Script>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, taken, ending) =
            (Arc::<Mutex<Vec<String>>>::default(), Arc::default(), Arc::new(AtomicBool::new(false)));
        let accepting = {
            let (seen, taken, ending): (_, Arc<Mutex<usize>>, _) = (seen.clone(), Arc::clone(&taken), ending.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    if ending.load(Ordering::Acquire) {
                        return;
                    }
                    let Ok(stream) = stream else { continue };
                    let number = {
                        let mut taken = taken.lock().unwrap();
                        *taken += 1;
                        *taken - 1
                    };
                    let (seen, script, tls) = (Arc::clone(&seen), script.clone(), tls.clone());
                    std::thread::spawn(move || converse(number, stream, tls, &seen, &*script));
                }
            })
        };
        Self { port, seen, taken, ending, accepting: Some(accepting) }
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn connections(&self) -> usize {
        *self.taken.lock().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Release);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        let _ = self.accepting.take().unwrap().join();
    }
}

fn converse(
    number: usize,
    stream: TcpStream,
    tls: Option<Arc<rustls::ServerConfig>>,
    seen: &Mutex<Vec<String>>,
    script: &Script,
) {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    match tls {
        None => talk(number, &mut { stream }, seen, script),
        Some(config) => {
            let session = rustls::ServerConnection::new(config).unwrap();
            let mut stream = rustls::StreamOwned::new(session, stream);
            talk(number, &mut stream, seen, script);
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    }
}

fn talk(number: usize, stream: &mut dyn Connection, seen: &Mutex<Vec<String>>, script: &Script) {
    let mut text = Vec::new();
    let mut byte = [0];
    while !text.ends_with(b"\r\n\r\n") {
        match stream.read(&mut byte) {
            Ok(1) => text.push(byte[0]),
            _ => return,
        }
    }
    let head = String::from_utf8_lossy(&text).to_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    let mut body = vec![0; length.map_or(0, |l| l.parse().unwrap())];
    if stream.read_exact(&mut body).is_err() {
        return;
    }
    text.extend_from_slice(&body);
    let text = String::from_utf8_lossy(&text).into_owned();
    seen.lock().unwrap().push(text.clone());
    script(number, &text, stream);
}

/// A whole answer.
pub(crate) fn answer(connection: &mut dyn Connection, status: &str, headers: &str, body: &str) {
    let length = body.len();
    let _ =
        write!(connection, "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}");
    let _ = connection.flush();
}
