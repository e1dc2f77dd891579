//! S3, against a real server of its protocol with access control, and against scripted ones that fail.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::testing::{Moto, conforms, one_winner};
use super::*;
use crate::bindings::{Identities, S3Store};

fn open(binding: S3Store) -> ObjectStore {
    ObjectStore::open("offsite", &bindings::Store::S3(binding)).unwrap()
}

#[test]
fn s3_conforms() {
    let Some(moto) = Moto::start() else { return };
    let store = open(moto.open_store());
    conforms(&store);
    one_winner(&store);
    assert!(moto.log().contains("/backups/some/prefix/big/object?uploadId="), "it went in parts: {}", moto.log());
}

#[test]
fn each_identity_may_do_what_it_is_for_and_nothing_else() {
    let Some((moto, identities)) = Moto::guarded() else { return };
    let all = open(moto.store(identities.clone()));
    assert_eq!(all.put_if_absent("a/one", b"1").unwrap(), Put::Created);
    assert_eq!(all.list("a/").unwrap(), ["a/one"]);

    let only_write = open(moto.store(Identities { write: identities.write.clone(), ..Identities::default() }));
    only_write.check().unwrap();
    let big = vec![7; 20_000_000];
    assert_eq!(only_write.put_if_absent("a/two", &big).unwrap(), Put::Created);
    assert_eq!(only_write.put_if_absent("a/two", b"other").unwrap(), Put::Exists);
    for (error, right) in [
        (only_write.list("a/").unwrap_err(), "identity.read"),
        (only_write.read("a/one", 10).unwrap_err(), "identity.read"),
        (only_write.size("a/one").unwrap_err(), "identity.read"),
        (only_write.delete("a/one").unwrap_err(), "identity.delete"),
    ] {
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(error.hint.as_deref().unwrap().contains(right), "{error}");
    }

    // The store itself says so too, whatever this side takes an identity for.
    let Identities { write, read, delete } = identities;
    let writer = open(moto.store(Identities { write: None, read: write.clone(), delete: write.clone() }));
    let reader = open(moto.store(Identities { write: read.clone(), read: None, delete: read }));
    let remover = open(moto.store(Identities { write: delete.clone(), read: delete, delete: None }));
    let refused = [
        writer.list("a/").unwrap_err(),
        writer.read("a/one", 10).unwrap_err(),
        writer.delete("a/one").unwrap_err(),
        reader.put_if_absent("a/three", b"").unwrap_err(),
        reader.delete("a/one").unwrap_err(),
        remover.list("a/").unwrap_err(),
        remover.put_if_absent("a/three", b"").unwrap_err(),
    ];
    for error in refused {
        assert!(error.message.contains("refuses it to this identity"), "{error}");
        assert!(!error.to_string().contains("127.0.0.1"), "{error}");
    }
    all.delete("a/one").unwrap();
    assert_eq!(all.list("a/").unwrap(), ["a/two"]);
}

#[test]
fn secrets_that_were_renewed_are_read_again() {
    let Some((moto, identities)) = Moto::guarded() else { return };
    let store = open(moto.store(identities.clone()));
    let secret = identities.write.unwrap().secret_access_key.unwrap().file.unwrap();
    let good = std::fs::read_to_string(&secret).unwrap();
    std::fs::write(&secret, "no longer").unwrap();
    assert!(store.put_if_absent("a/one", b"1").unwrap_err().message.contains("refuses"));
    std::fs::remove_file(&secret).unwrap();
    let gone = store.put_if_absent("a/one", b"1").unwrap_err();
    assert!(gone.message.contains("identity.write") && gone.message.contains("secret file"), "{gone}");
    std::fs::write(&secret, good).unwrap();
    assert_eq!(store.put_if_absent("a/one", b"1").unwrap(), Put::Created);
}

/// A server that does as a script says: it is given the number of each request from 0 and its first line with the range that it asks for, and
/// answers, or breaks off.
struct Scripted {
    port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    /// The checksums that came with requests.
    checksums: Arc<Mutex<Vec<String>>>,
}

/// What a scripted server answers: a status with a body, or nothing.
type Script = dyn Fn(usize, &str) -> Option<(u16, Vec<u8>)> + Send + Sync;

impl Scripted {
    fn start(script: impl Fn(usize, &str) -> Option<(u16, Vec<u8>)> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (requests, script, number) = (Arc::default(), Arc::new(script), Arc::new(AtomicUsize::new(0)));
        let seen = Arc::clone(&requests);
        let checksums = Arc::<Mutex<Vec<String>>>::default();
        let sums = Arc::clone(&checksums);
        // Ends with the process: a thread that waits for connections holds nothing of anybody.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, script, number) = (Arc::clone(&seen), script.clone(), number.clone());
                let sums = Arc::clone(&sums);
                std::thread::spawn(move || Self::serve(stream, &seen, &sums, &*script, &number));
            }
        });
        Self { port, requests, checksums }
    }

    fn serve(
        stream: TcpStream,
        seen: &Mutex<Vec<String>>,
        sums: &Mutex<Vec<String>>,
        script: &Script,
        number: &AtomicUsize,
    ) {
        let mut reader = BufReader::new(stream);
        loop {
            let (mut first, mut length, mut range) = (String::new(), 0, String::new());
            if reader.read_line(&mut first).unwrap_or(0) == 0 {
                return;
            }
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line).unwrap_or(0) == 0 {
                    return;
                }
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                if let Some(value) = line.to_lowercase().strip_prefix("range: bytes=") {
                    range = value.trim().to_owned();
                }
                if let Some(value) = line.strip_prefix("x-amz-checksum-crc32c: ") {
                    sums.lock().unwrap().push(value.trim().to_owned());
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            seen.lock().unwrap().push(first.trim().to_owned());
            let first = format!("{} {range}", first.trim());
            let Some((status, body)) = script(number.fetch_add(1, Ordering::Relaxed), &first) else { return };
            // What a HEAD is answered with has a length and no body.
            let shown = if first.starts_with("HEAD") { &[][..] } else { &body };
            let head = format!("HTTP/1.1 {status} X\r\nETag: \"e\"\r\nContent-Length: {}\r\n\r\n", body.len());
            if reader.get_mut().write_all(&[head.as_bytes(), shown].concat()).is_err() {
                return;
            }
        }
    }

    fn store(&self, rights: &[Right]) -> S3Store {
        let secret = || Some(bindings::Secret { env: Some("PATH".into()), ..Default::default() });
        let key = bindings::Credentials { access_key_id: secret(), secret_access_key: secret(), ..Default::default() };
        let has = |right| rights.contains(&right).then(|| key.clone());
        S3Store {
            bucket: "backups".into(),
            prefix: String::new(),
            region: "us-east-1".into(),
            endpoint: Some(format!("http://127.0.0.1:{}", self.port)),
            path_style: true,
            ca_file: None,
            storage_class: None,
            thaw: None,
            checksum: crate::bindings::Checksum::Crc32c,
            server_side_encryption: None,
            kms_key: None,
            expect: None,
            credentials: None,
            identity: Identities { write: has(Right::Write), read: has(Right::Read), delete: None },
            bytes_per_s_max: None,
            parts_at_once: 2,
            timeout_s: 5,
        }
    }

    fn count(&self, method: &str) -> usize {
        self.requests.lock().unwrap().iter().filter(|line| line.starts_with(method)).count()
    }
}

fn error_xml(code: &str) -> Vec<u8> {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>m</Message></Error>").into_bytes()
}

#[test]
fn what_can_be_asked_again_is_and_what_was_refused_is_not() {
    let server = Scripted::start(|number, _| match number {
        0 => Some((503, error_xml("SlowDown"))),
        1 => None,
        _ => Some((200, Vec::new())),
    });
    let store = open(server.store(&[Right::Write]));
    assert_eq!(store.put_if_absent("a/one", b"1").unwrap(), Put::Created);
    assert_eq!(server.count("PUT"), 3);

    let server = Scripted::start(|_, _| Some((403, error_xml("AccessDenied"))));
    let store = open(server.store(&[Right::Write]));
    let error = store.put_if_absent("a/one", b"1").unwrap_err();
    assert!(error.message.contains("refuses") && error.message.contains("AccessDenied"), "{error}");
    assert_eq!(server.count("PUT"), 1);
}

/// The first put takes effect and its answer is lost; the second is told that there is such an object.
fn answer_is_lost(content: &'static [u8]) -> Scripted {
    Scripted::start(move |_, line| match line.split(' ').next() {
        Some("PUT") => {
            static PUTS: Mutex<Vec<usize>> = Mutex::new(Vec::new());
            let first = {
                let mut puts = PUTS.lock().unwrap();
                let here = content.as_ptr() as usize;
                let first = !puts.contains(&here);
                puts.push(here);
                first
            };
            if first { None } else { Some((412, error_xml("PreconditionFailed"))) }
        }
        Some("HEAD") => Some((200, content.to_vec())),
        _ => Some((206, content.to_vec())),
    })
}

#[test]
fn an_upload_whose_answer_was_lost_is_decided_by_what_lies_there() {
    let server = answer_is_lost(b"ours");
    let store = open(server.store(&[Right::Write, Right::Read]));
    assert_eq!(store.put_if_absent("a/one", b"ours").unwrap(), Put::Created);
    assert!(server.count("GET") >= 1, "it was looked at");

    let server = answer_is_lost(b"not ours");
    let store = open(server.store(&[Right::Write, Right::Read]));
    assert_eq!(store.put_if_absent("a/one", b"ours").unwrap(), Put::Exists);
    assert!(server.count("GET") >= 1, "it was looked at");

    // Whoever may not read can't look, and takes nothing for its own.
    let server = answer_is_lost(b"ours, unseen");
    let store = open(server.store(&[Right::Write]));
    assert_eq!(store.put_if_absent("a/one", b"ours, unseen").unwrap(), Put::Exists);
    assert_eq!((server.count("GET"), server.count("HEAD")), (0, 0));
}

/// The bytes of a range, `0-99`.
fn part(content: &[u8], range: &str) -> Vec<u8> {
    let (from, to) = range.split_once('-').unwrap();
    content[from.parse().unwrap()..=to.parse::<usize>().unwrap().min(content.len() - 1)].to_vec()
}

/// An upload in parts whose first completion takes effect, unanswered; the second is told that there is no such upload. `content` is what lies
/// there then.
fn completion_is_lost(content: Vec<u8>) -> (Scripted, Arc<AtomicUsize>) {
    let upload = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
    let completions = Arc::new(AtomicUsize::new(0));
    let seen = completions.clone();
    let server = Scripted::start(move |_, line| {
        let words: Vec<&str> = line.split(' ').collect();
        match words[..] {
            ["POST", path, ..] if path.contains("uploads") => Some((200, upload.to_vec())),
            ["POST", ..] => match seen.fetch_add(1, Ordering::Relaxed) {
                0 => None,
                _ => Some((404, error_xml("NoSuchUpload"))),
            },
            ["HEAD", ..] => Some((200, content.clone())),
            ["GET", _, _, range] => Some((206, part(&content, range))),
            _ => Some((200, Vec::new())),
        }
    });
    (server, completions)
}

#[test]
fn a_completion_that_worked_and_was_not_answered_is_no_failure() {
    let content: Vec<u8> = (0..9_000_000_u32).map(|n| (n % 253) as u8).collect();
    let mut other = content.clone();
    other[8_999_999] ^= 1;
    let write = |server: &Scripted, rights: &[Right]| {
        let store = open(server.store(rights));
        let mut writer = store.writer("a/big").unwrap();
        writer.write_all(&content).unwrap();
        writer.finish(&|| Ok(()))
    };
    let (server, completions) = completion_is_lost(content.clone());
    assert_eq!(write(&server, &[Right::Write, Right::Read]).unwrap(), Put::Created);
    assert_eq!(completions.load(Ordering::Relaxed), 2, "asked, and asked again");

    // What lies there is not what was sent; or nobody may look. Nothing of it is left to be completed later.
    let (server, _) = completion_is_lost(other);
    assert!(write(&server, &[Right::Write, Right::Read]).unwrap_err().message.contains("a/big"));
    assert!(server.count("GET") >= 1 && server.count("DELETE") == 1);
    let (server, completions) = completion_is_lost(content.clone());
    assert!(write(&server, &[Right::Write]).unwrap_err().message.contains("a/big"));
    assert_eq!((server.count("GET"), server.count("DELETE"), completions.load(Ordering::Relaxed)), (0, 1, 2));
}

#[test]
fn a_store_that_is_silent_is_not_waited_for_beyond_the_step() {
    let server = Scripted::start(|_, _| {
        std::thread::sleep(Duration::from_secs(3600));
        None
    });
    let cx = StepContext::detached("test", Duration::from_millis(300));
    let store = open(server.store(&[Right::Write, Right::Read])).in_step(&cx);
    assert_eq!(store.list("a/").unwrap_err().kind, ErrorKind::TimedOut);
    assert_eq!(store.read("a/one", 10).unwrap_err().kind, ErrorKind::TimedOut);
    assert_eq!(server.requests.lock().unwrap().len(), 2, "both were under way");
}

#[test]
fn a_store_that_is_away_is_said_without_its_address() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = Scripted { port, requests: Arc::default(), checksums: Arc::default() };
    let cx = StepContext::detached("test", Duration::from_secs(60));
    let store = open(server.store(&[Right::Read])).in_step(&cx);
    let error = store.list("a/").unwrap_err();
    assert!(error.message.contains("no usable answer"), "{error}");
    assert!(!error.to_string().contains("127.0.0.1"), "{error}");
}

#[test]
fn a_limit_on_bytes_a_second_holds_in_both_directions() {
    let server = Scripted::start(|_, line| match line.starts_with("PUT") {
        true => Some((200, Vec::new())),
        false => Some((206, vec![0; 100])),
    });
    let mut binding = server.store(&[Right::Write, Right::Read]);
    binding.bytes_per_s_max = Some(1024);
    let cx = StepContext::detached("test", Duration::from_secs(2));
    let store = open(binding).in_step(&cx);
    // The first goes at once; the next one's turn is in an hour, when the step is over.
    store.put_if_absent("a/one", &vec![0; 4_000_000]).unwrap();
    assert_eq!(store.put_if_absent("a/two", b"2").unwrap_err().kind, ErrorKind::TimedOut);
    assert_eq!(server.count("PUT"), 1);
}

#[test]
fn what_is_sent_carries_its_checksum_unless_that_is_not_wanted() {
    let server = Scripted::start(|_, _| Some((200, Vec::new())));
    let binding = server.store(&[Right::Write]);
    let put = |binding: &S3Store| open(binding.clone()).put_if_absent("a/one", b"123456789").unwrap();
    assert_eq!(put(&binding), Put::Created);
    // CRC-32C of these nine bytes is e3069283, as every description of it says.
    assert_eq!(*server.checksums.lock().unwrap(), ["4waSgw=="]);
    put(&S3Store { checksum: crate::bindings::Checksum::None, ..binding });
    assert_eq!(server.checksums.lock().unwrap().len(), 1);
}

#[test]
fn an_object_that_must_be_thawed_is_said_with_what_to_do() {
    let Some(moto) = Moto::start() else { return };
    // As a rule of the bucket would have moved it; an environment can't say so.
    let cold = S3Store { storage_class: Some("DEEP_ARCHIVE".into()), ..moto.open_store() };
    open(cold).put_if_absent("a/cold", b"1").unwrap();
    let store = open(moto.open_store());
    assert_eq!(store.size("a/cold").unwrap(), Some(1), "it is there");
    let read = store
        .open_object("a/cold")
        .and_then(|mut reader| reader.read_to_end(&mut Vec::new()).map_err(crate::pipeline::error_of));
    let error = read.unwrap_err();
    assert!(error.message.contains("must be thawed before it can be read"), "{error}");
    assert!(error.hint.as_deref().unwrap().contains("12 to 48 hours"), "{error}");
}
