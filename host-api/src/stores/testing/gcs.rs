//! What opendal asks of Google Cloud Storage, answered from memory: no emulator there is keeps its conditions (`ifGenerationMatch`).
//!
//! Written after Google's description of the JSON interface: resumable uploads in pieces, lists with pages, ranges, and access tokens that may
//! do one thing each. It has never been held against the real thing.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::proxy::read_head;
use crate::bindings::{GcsCredentials, GcsStore, Identities, Right, Secret};

/// Objects on a page of a list: few, so that there are several pages.
const PAGE: usize = 2;
/// Pieces but the last are a multiple of it.
const PIECE_BYTES: usize = 256 * 1024;

/// A running server with one bucket, `backups`. Its threads end with the process.
pub struct Gcs {
    port: u16,
    directory: tempfile::TempDir,
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Vec<u8>>,
    sessions: HashMap<usize, Session>,
}

struct Session {
    name: String,
    is_conditional: bool,
    bytes: Vec<u8>,
    is_done: bool,
}

/// A status, further lines of the head, and a body.
type Answer = (u16, String, Vec<u8>);

impl Gcs {
    /// Starts one.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let bucket = Arc::<Mutex<Bucket>>::default();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let bucket = bucket.clone();
                // Whoever asks may go away at any time.
                std::thread::spawn(move || serve(stream, &bucket).ok());
            }
        });
        let directory = tempfile::tempdir().expect("a directory for tokens");
        Self { port, directory }
    }

    /// Its port on this machine.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The bucket as a store; each right by a token that may do nothing else, asked for at this port.
    pub fn store(&self, port: u16, rights: &[Right]) -> GcsStore {
        let has = |right: Right| {
            rights.contains(&right).then(|| {
                let file = self.directory.path().join(right.word());
                std::fs::write(&file, right.word()).expect("a token's file");
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("our own file");
                let access_token = Some(Secret { file: Some(file), ..Secret::default() });
                GcsCredentials { access_token, ..GcsCredentials::default() }
            })
        };
        GcsStore {
            bucket: "backups".into(),
            prefix: "some/prefix".into(),
            endpoint: Some(format!("http://127.0.0.1:{port}")),
            ca_file: None,
            storage_class: None,
            credentials: None,
            identity: Identities { write: has(Right::Write), read: has(Right::Read), delete: has(Right::Delete) },
            bytes_per_s_max: None,
            timeout_s: 20,
        }
    }
}

fn serve(stream: TcpStream, bucket: &Mutex<Bucket>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let (head, length) = read_head(&mut reader)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let (status, more, found) = answer(&head, &body, &mut bucket.lock().unwrap_or_else(PoisonError::into_inner));
    // Every server with a clock says what time it is.
    let date = jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT");
    let length = found.len();
    let start =
        format!("HTTP/1.1 {status} X\r\nDate: {date}\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n");
    reader.into_inner().write_all(&[start.into_bytes(), found].concat())
}

fn error(status: u16, reason: &str) -> Answer {
    let text = json!({"error": {"code": status, "message": "m", "errors": [{"reason": reason, "message": "m"}]}});
    (status, String::new(), text.to_string().into_bytes())
}

fn ok(text: &Value) -> Answer {
    (200, "Content-Type: application/json\r\n".into(), text.to_string().into_bytes())
}

fn shown(name: &str, bytes: &[u8]) -> Value {
    json!({"kind": "storage#object", "name": name, "bucket": "backups", "generation": "1", "etag": "e",
        "size": bytes.len().to_string(), "updated": "2026-01-01T00:00:00.000Z"})
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn answer(head: &str, body: &[u8], bucket: &mut Bucket) -> Answer {
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let host = header(head, "host").unwrap_or_default();
    let Ok(url) = url::Url::parse(&format!("http://{host}{target}")) else { return error(400, "invalid") };
    let query: HashMap<String, String> = url.query_pairs().into_owned().collect();
    let may = match method {
        "POST" | "PUT" => "write",
        "GET" => "read",
        _ => "delete",
    };
    match header(head, "authorization").and_then(|value| value.strip_prefix("Bearer ")) {
        Some(token) if token == may => {}
        Some("write" | "read" | "delete") => return error(403, "forbidden"),
        _ => return error(401, "authError"),
    }
    let decoded = |name: &str| percent_encoding::percent_decode_str(name).decode_utf8_lossy().into_owned();
    let path = url.path();
    let name = path.strip_prefix("/storage/v1/b/backups/o/").map(decoded);
    match (method, path, name) {
        ("POST", "/upload/storage/v1/b/backups/o", _) => begin(host, &query, bucket),
        ("PUT", "/session", _) => piece(&query, header(head, "content-range").unwrap_or_default(), body, bucket),
        ("GET", "/storage/v1/b/backups/o", _) => list(&query, bucket),
        ("GET", _, Some(name)) => match bucket.objects.get(&name) {
            None => error(404, "notFound"),
            Some(bytes) if query.get("alt").is_some_and(|alt| alt == "media") => read(bytes, header(head, "range")),
            Some(bytes) => ok(&shown(&name, bytes)),
        },
        ("DELETE", _, Some(name)) => match bucket.objects.remove(&name) {
            None => error(404, "notFound"),
            Some(_) => (204, String::new(), Vec::new()),
        },
        _ => error(501, "notImplemented"),
    }
}

fn begin(host: &str, query: &HashMap<String, String>, bucket: &mut Bucket) -> Answer {
    if query.get("uploadType").is_none_or(|kind| kind != "resumable") {
        return error(501, "notImplemented");
    }
    let name = query.get("name").cloned().unwrap_or_default();
    let is_conditional = query.get("ifGenerationMatch").is_some_and(|generation| generation == "0");
    let id = bucket.sessions.len();
    // A store that means harm, for whoever asks for it by the object's name.
    let elsewhere = name.split_once("elsewhere-").map(|(_, port)| format!("127.0.0.1:{port}"));
    let host = elsewhere.as_deref().unwrap_or(host);
    bucket.sessions.insert(id, Session { name, is_conditional, bytes: Vec::new(), is_done: false });
    (200, format!("Location: http://{host}/session?id={id}\r\n"), Vec::new())
}

/// `bytes 0-8388607/*`, `bytes 8388608-9000000/9000001`, `bytes */9000001`.
fn piece(query: &HashMap<String, String>, range: &str, body: &[u8], bucket: &mut Bucket) -> Answer {
    let id = query.get("id").and_then(|id| id.parse().ok());
    let Some(session) = id.and_then(|id: usize| bucket.sessions.get_mut(&id)) else { return error(404, "notFound") };
    if session.is_done {
        return ok(&shown(&session.name, &session.bytes));
    }
    let Some((piece, total)) = range.strip_prefix("bytes ").and_then(|range| range.split_once('/')) else {
        return error(400, "invalid");
    };
    let total: Option<usize> = total.parse().ok();
    if let Some((start, _)) = piece.split_once('-') {
        let have = session.bytes.len();
        let Some(start) = start.parse::<usize>().ok().filter(|start| *start <= have) else {
            return error(400, "invalid");
        };
        if total.is_none() && !body.len().is_multiple_of(PIECE_BYTES) {
            return error(400, "invalid");
        }
        // What is there already stays as it is.
        session.bytes.extend_from_slice(body.get(have - start..).unwrap_or_default());
    }
    if total != Some(session.bytes.len()) {
        let more = match session.bytes.len() {
            0 => String::new(),
            have => format!("Range: bytes=0-{}\r\n", have - 1),
        };
        return (308, more, Vec::new());
    }
    // The condition holds when the object would appear.
    if session.is_conditional && bucket.objects.contains_key(&session.name) {
        return error(412, "conditionNotMet");
    }
    session.is_done = true;
    bucket.objects.insert(session.name.clone(), session.bytes.clone());
    ok(&shown(&session.name, &session.bytes))
}

fn list(query: &HashMap<String, String>, bucket: &Bucket) -> Answer {
    let prefix = query.get("prefix").cloned().unwrap_or_default();
    let after = query.get("pageToken").cloned().unwrap_or_default();
    let most = query.get("maxResults").and_then(|n| n.parse().ok()).unwrap_or(PAGE).min(PAGE);
    let mut matching = bucket.objects.iter().filter(|(name, _)| name.starts_with(&prefix) && **name > after);
    let page: Vec<_> = matching.by_ref().take(most).collect();
    let next = matching.next().and_then(|_| page.last()).map(|(name, _)| (*name).clone());
    let items: Vec<Value> = page.into_iter().map(|(name, bytes)| shown(name, bytes)).collect();
    ok(&match next {
        None => json!({"kind": "storage#objects", "items": items}),
        Some(next) => json!({"kind": "storage#objects", "items": items, "nextPageToken": next}),
    })
}

fn read(bytes: &[u8], range: Option<&str>) -> Answer {
    let Some((start, end)) = range.and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-')) else {
        return (200, String::new(), bytes.to_vec());
    };
    let (start, end) = (start.parse().unwrap_or(0), end.parse().unwrap_or(usize::MAX).min(bytes.len().wrapping_sub(1)));
    match bytes.get(start..=end) {
        Some(part) if start < bytes.len() => {
            (206, format!("Content-Range: bytes {start}-{end}/{}\r\n", bytes.len()), part.to_vec())
        }
        _ => error(416, "requestedRangeNotSatisfiable"),
    }
}
