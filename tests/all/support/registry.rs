//! A registry of OCI artifacts for tests, as far as one artifact is read from it; it answers as a test wants, and keeps what it was asked.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// What it was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// With its query.
    pub path: String,
    /// The header `Authorization`.
    pub authorization: Option<String>,
}

/// What it answers.
#[derive(Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Body,
}

/// What the answer holds.
#[derive(Clone)]
pub enum Body {
    Bytes(Vec<u8>),
    /// So many bytes of which it says nothing before.
    Unsaid(Vec<u8>),
    /// For as long as someone reads.
    Endless,
    /// Nothing, not even a status, for as long as someone waits.
    Silence,
}

impl Answer {
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, headers: Vec::new(), body: Body::Bytes(body.into()) }
    }

    pub fn with(body: Body) -> Self {
        Self { status: 200, headers: Vec::new(), body }
    }

    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), body: Body::Bytes(Vec::new()) }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// A server on a free port; it is there until the tests end.
pub struct Registry {
    pub port: u16,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Registry {
    pub fn start(answer: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (kept, answer) = (asked.clone(), Arc::new(answer));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, answer) = (kept.clone(), answer.clone());
                std::thread::spawn(move || {
                    let mut stream = stream;
                    let Some(request) = read(&mut stream) else { return };
                    kept.lock().unwrap().push(request.clone());
                    let _ = write(&mut stream, &answer(&request));
                });
            }
        });
        Self { port, asked }
    }

    /// A registry with one artifact.
    pub fn of(artifact: &Artifact) -> Self {
        let artifact = artifact.clone();
        Self::start(move |asked| artifact.answer(asked))
    }

    /// Everything it was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// Whether anything that it was asked has this in its path: that a fault had its turn.
    #[track_caller]
    pub fn was_asked(&self, part: &str) {
        assert!(self.asked().iter().any(|asked| asked.path.contains(part)), "{part}: {:?}", self.asked());
    }

    /// The reference to an artifact in it.
    pub fn reference(&self, sha256: &str) -> String {
        format!("oci://127.0.0.1:{}/vendor/nightly@sha256:{sha256}", self.port)
    }
}

fn read(stream: &mut TcpStream) -> Option<Asked> {
    stream.set_read_timeout(Some(Duration::from_secs(30))).ok()?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let path = text.split_whitespace().nth(1)?.to_owned();
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("authorization").then(|| value.trim().to_owned())
    };
    Some(Asked { path, authorization: text.lines().find_map(header) })
}

fn write(stream: &mut TcpStream, answer: &Answer) -> std::io::Result<()> {
    if matches!(answer.body, Body::Silence) {
        // Until the other side goes away.
        return stream.read_to_end(&mut Vec::new()).map(drop);
    }
    write!(stream, "HTTP/1.1 {} Whatever\r\nConnection: close\r\n", answer.status)?;
    for (name, value) in &answer.headers {
        write!(stream, "{name}: {value}\r\n")?;
    }
    match &answer.body {
        Body::Bytes(bytes) => {
            write!(stream, "Content-Length: {}\r\n\r\n", bytes.len())?;
            stream.write_all(bytes)
        }
        Body::Unsaid(bytes) => {
            write!(stream, "\r\n")?;
            stream.write_all(bytes)
        }
        Body::Endless => {
            write!(stream, "\r\n")?;
            loop {
                stream.write_all(&[b' '; 4096])?;
            }
        }
        Body::Silence => Ok(()),
    }
}

/// An artifact as tools push it: a manifest and blobs.
#[derive(Clone)]
pub struct Artifact {
    pub manifest: Value,
    blobs: BTreeMap<String, Vec<u8>>,
}

/// SHA-256, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn layer(kind: &str, title: &str, bytes: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": format!("sha256:{}", sha256(bytes)), "size": bytes.len(),
        "annotations": {"org.opencontainers.image.title": title}})
}

impl Artifact {
    /// A module, called `nightly.wasm`, with signatures by the end of their files' names.
    pub fn new(module: &[u8], signatures: &[(&str, &[u8])]) -> Self {
        let config = b"{}".to_vec();
        let mut layers = vec![layer("application/wasm", "nightly.wasm", module)];
        let mut blobs = BTreeMap::from([(sha256(module), module.to_vec()), (sha256(&config), config.clone())]);
        for (ending, signature) in signatures {
            layers.push(layer("application/vnd.lifeboat.signature.v1", &format!("nightly.wasm{ending}"), signature));
            blobs.insert(sha256(signature), signature.to_vec());
        }
        let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.wasm.config.v0+json", "digest": format!("sha256:{}", sha256(&config)),
                "size": config.len()},
            "layers": layers});
        Self { manifest, blobs }
    }

    /// The same with another member of its manifest, by its place.
    pub fn with(mut self, place: &str, value: Value) -> Self {
        *self.manifest.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
        self
    }

    /// Its manifest as bytes.
    pub fn text(&self) -> Vec<u8> {
        self.manifest.to_string().into_bytes()
    }

    /// The digest that it is asked for by.
    pub fn sha256(&self) -> String {
        sha256(&self.text())
    }

    /// What is pushed to a registry besides the manifest.
    pub fn blobs(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.blobs.iter()
    }

    /// What an honest registry answers.
    pub fn answer(&self, asked: &Asked) -> Answer {
        let named = asked.path.strip_prefix("/v2/vendor/nightly/").unwrap_or_default();
        if named == format!("manifests/sha256:{}", self.sha256()) {
            return Answer::ok(self.text()).header("Content-Type", "application/vnd.oci.image.manifest.v1+json");
        }
        let blob = named.strip_prefix("blobs/sha256:").and_then(|sha256| self.blobs.get(sha256));
        blob.map_or(Answer::status(404), |bytes| Answer::ok(bytes.clone()))
    }
}
