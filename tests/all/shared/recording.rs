//! A service outside every engine that writes down what reaches it: the count that no journal can embellish.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// For each path, the idempotency keys of the requests that changed something there, in their order.
#[derive(Clone, Default)]
pub struct Recording(Arc<Mutex<BTreeMap<String, Vec<String>>>>);

impl Recording {
    /// Listens on a port of 127.0.0.1, each connection in a thread of its own; answers `{}` to everything.
    pub fn listen(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let recording = Self::default();
        let seen = recording.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = seen.clone();
                // Who was killed in the middle of a request has sent half of it.
                std::thread::spawn(move || seen.answer(stream));
            }
        });
        recording
    }

    fn answer(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream);
        let (mut line, mut length, mut key) = (String::new(), 0, String::new());
        reader.read_line(&mut line).ok()?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next()?, words.next()?);
        loop {
            line.clear();
            if reader.read_line(&mut line).ok()? <= 2 {
                break;
            }
            let (name, value) = line.trim().split_once(": ")?;
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.parse().ok()?,
                "idempotency-key" => key = value.to_owned(),
                _ => {}
            }
        }
        reader.read_exact(&mut vec![0; length]).ok()?;
        if method != "GET" {
            self.0.lock().unwrap().entry(path).or_default().push(key);
        }
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}";
        reader.into_inner().write_all(answer).ok()
    }

    /// What was seen.
    pub fn seen(&self) -> BTreeMap<String, Vec<String>> {
        self.0.lock().unwrap().clone()
    }
}
