//! A proxy between a store and its server that does to requests what networks and clouds do: resets, refusals, answers that get lost.
//!
//! One request a connection, as it came: what was signed stays signed. It says how often its faults happened, so that a test can tell that
//! its fault did.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: it is passed on, and so is its answer.
    None,
    /// It is passed on so much later. No fault that is counted.
    Delay(Duration),
    /// The connection is reset in the middle of its body, and nothing is passed on.
    Reset,
    /// It is answered with this status and code, and not passed on.
    Answer(u16, &'static str),
    /// It is passed on and takes effect; then the connection is closed without an answer.
    Lost,
    /// It is passed on and takes effect; then it is answered with this status and code.
    Instead(u16, &'static str),
    /// It is passed on, and the body of its answer ends after so many bytes.
    Cut(usize),
    /// It is passed on, and the body of its answer never ends.
    Endless,
    /// It is passed on, and its answer has this date. No fault that is counted as one of a network, but it is counted.
    Dated(&'static str),
    /// It is passed on, and its answer comes so slowly that nobody lives to see its end.
    Trickle,
}

/// A request that has arrived.
#[derive(Debug)]
pub struct Seen<'a> {
    /// Its number from 0, of all.
    pub number: usize,
    /// `PUT /path?query HTTP/1.1`.
    pub line: &'a str,
    /// All of its head, in small letters.
    pub head: &'a str,
}

/// Which of the requests suffer what.
type Plan = dyn Fn(&Seen<'_>) -> Fault + Send + Sync;

/// A running proxy. Its threads end with the process; they hold nothing of anybody.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: u16,
    plan: Box<Plan>,
    number: AtomicUsize,
    fired: AtomicUsize,
    lines: Mutex<Vec<String>>,
}

impl Proxy {
    /// Starts one in front of a server on a port of this machine.
    pub fn start(upstream: u16, plan: impl Fn(&Seen<'_>) -> Fault + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let shared = Arc::new(Shared {
            upstream,
            plan: Box::new(plan),
            number: AtomicUsize::new(0),
            fired: AtomicUsize::new(0),
            lines: Mutex::default(),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                // Either side may go away at any time: that is what this is for.
                std::thread::spawn(move || serving.serve(stream).ok());
            }
        });
        Self { port, shared }
    }

    /// One that passes everything on, so much later.
    pub fn slow(upstream: u16, later: Duration) -> Self {
        Self::start(upstream, move |_| Fault::Delay(later))
    }

    /// One that lets the first `times` requests that match suffer a fault.
    pub fn failing(
        upstream: u16,
        times: usize,
        fault: Fault,
        matches: impl Fn(&Seen<'_>) -> bool + Send + Sync + 'static,
    ) -> Self {
        let left = AtomicUsize::new(times);
        let take = move || left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        Self::start(upstream, move |seen| if matches(seen) && take() { fault } else { Fault::None })
    }

    /// Its port on this machine.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// How many requests suffered.
    pub fn fired(&self) -> usize {
        self.shared.fired.load(Ordering::SeqCst)
    }

    /// First lines of all requests, in the order in which they came.
    pub fn lines(&self) -> Vec<String> {
        lock(&self.shared.lines).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn serve(&self, client: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(client);
        let (head, length) = read_head(&mut reader)?;
        let line = head.lines().next().unwrap_or_default().to_owned();
        let number = self.number.fetch_add(1, Ordering::SeqCst);
        lock(&self.lines).push(line.clone());
        let fault = (self.plan)(&Seen { number, line: &line, head: &head.to_lowercase() });
        if !matches!(fault, Fault::None | Fault::Delay(_)) {
            self.fired.fetch_add(1, Ordering::SeqCst);
        }
        if fault == Fault::Reset {
            let mut half = vec![0; length / 2];
            // What was not read makes the kernel reset the connection when it is dropped.
            return reader.read_exact(&mut half);
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut client = reader.into_inner();
        match fault {
            Fault::Answer(status, code) => return client.write_all(&answer(status, code)),
            Fault::Delay(later) => std::thread::sleep(later),
            _ => {}
        }
        let found = self.pass_on(&head, &body)?;
        match fault {
            Fault::Lost => Ok(()),
            Fault::Instead(status, code) => client.write_all(&answer(status, code)),
            Fault::Dated(date) => {
                let (head, body) = found.split_at(body_start(&found));
                let head = String::from_utf8_lossy(head).into_owned();
                let kept = head.lines().filter(|line| !line.to_lowercase().starts_with("date:") && !line.is_empty());
                let head: String = kept.flat_map(|line| [line, "\r\n"]).collect();
                client.write_all(format!("{head}Date: {date}\r\n\r\n").as_bytes())?;
                client.write_all(body)
            }
            Fault::Cut(bytes) => client.write_all(&found[..(body_start(&found) + bytes).min(found.len())]),
            Fault::Endless => {
                let head = String::from_utf8_lossy(&found[..body_start(&found)]).into_owned();
                let ends = |line: &str| {
                    ["content-length:", "transfer-encoding:"].iter().any(|word| line.to_lowercase().starts_with(word))
                };
                let kept = head.lines().filter(|line| !ends(line));
                client.write_all(kept.flat_map(|line| [line, "\r\n"]).collect::<String>().as_bytes())?;
                // Until whoever reads it has had enough.
                loop {
                    client.write_all(&[b' '; 64 * 1024])?;
                }
            }
            Fault::Trickle => {
                let start = body_start(&found);
                client.write_all(&found[..start])?;
                for byte in found[start..].chunks(1) {
                    client.write_all(byte)?;
                    std::thread::sleep(Duration::from_millis(200));
                }
                Ok(())
            }
            _ => client.write_all(&found),
        }
    }

    fn pass_on(&self, head: &str, body: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut upstream = TcpStream::connect(("127.0.0.1", self.upstream))?;
        let head = head.strip_suffix("\r\n").unwrap_or(head);
        upstream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes())?;
        upstream.write_all(body)?;
        let mut found = Vec::new();
        upstream.read_to_end(&mut found)?;
        Ok(found)
    }
}

/// The head of a request with the empty line behind it, and the length of its body.
pub(crate) fn read_head(reader: &mut impl BufRead) -> std::io::Result<(String, usize)> {
    let (mut head, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().map_err(std::io::Error::other)?;
        }
        head.push_str(&line);
        if line == "\r\n" {
            return Ok((head, length));
        }
    }
}

fn body_start(answer: &[u8]) -> usize {
    answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |at| at + 4)
}

/// An error as S3 and Azure word it.
fn answer(status: u16, code: &str) -> Vec<u8> {
    let body = format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>");
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\nContent-Type: application/xml\r\nx-ms-error-code: {code}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}
