//! What networks and clouds do in the middle of an upload or a read: whatever it is, the object is right or the call fails clearly, with
//! nothing there that counts.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::testing::{Azurite, Fault, Gcs, Moto, Proxy, Seen, conforms, one_winner};
use super::*;
use crate::bindings::{Credentials, Identities, Secret};

type Opening = dyn Fn(u16, &[Right]) -> ObjectStore;

/// A kind of store, and how its requests look.
struct Kind {
    port: u16,
    /// Through whatever listens on this port, with these rights.
    open: Box<Opening>,
    /// Sends a part of an upload.
    is_part: fn(&Seen<'_>) -> bool,
    /// Ends an upload.
    is_close: fn(&Seen<'_>) -> bool,
    /// Reads from an object.
    is_read: fn(&Seen<'_>) -> bool,
}

const ALL: &[Right] = &[Right::Write, Right::Read, Right::Delete];

/// Two parts, so that there is one in the middle.
fn content() -> Vec<u8> {
    (0..9_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Uploads an object under a key of its own.
fn upload(store: &ObjectStore, key: &str, content: &[u8]) -> Result<Put> {
    let mut writer = store.writer_of_own(key, None)?;
    writer.write_all(content).map_err(crate::pipeline::error_of)?;
    writer.finish(&|| Ok(()))
}

fn read_back(store: &ObjectStore, key: &str) -> Result<Vec<u8>> {
    let mut found = Vec::new();
    store.open_object(key)?.read_to_end(&mut found).map_err(crate::pipeline::error_of)?;
    Ok(found)
}

/// An upload through each fault that passes, by whoever may do all and by whoever may only write.
fn right_in_the_end(kind: &Kind) {
    let (content, direct) = (content(), (kind.open)(kind.port, ALL));
    let faults = [
        (1, Fault::Reset, kind.is_part),
        (2, Fault::Answer(429, "TooManyRequests"), kind.is_part),
        (1, Fault::Answer(503, "ServiceUnavailable"), kind.is_part),
        (1, Fault::Lost, kind.is_part),
        (2, Fault::Answer(503, "ServerBusy"), kind.is_close),
        (1, Fault::Lost, kind.is_close),
        (1, Fault::Instead(500, "InternalError"), kind.is_close),
        (1, Fault::Instead(404, "NoSuchUpload"), kind.is_close),
    ];
    for (at, (times, fault, which)) in faults.into_iter().enumerate() {
        for rights in [ALL, &[Right::Write]] {
            let proxy = Proxy::failing(kind.port, times, fault, which);
            let key = format!("fault-{at}/{}", rights.len());
            let put = upload(&(kind.open)(proxy.port(), rights), &key, &content);
            let what = format!("{fault:?}, {rights:?}: {:#?}", proxy.lines());
            assert_eq!(proxy.fired(), times, "{what}");
            assert_eq!(put.map_err(|e| format!("{e}: {what}")), Ok(Put::Created));
            assert!(read_back(&direct, &key).unwrap() == content, "{what}");
        }
    }
}

/// An upload through faults that don't pass: it fails, and nothing is there.
fn clear_in_the_end(kind: &Kind) {
    let (content, direct) = (content(), (kind.open)(kind.port, ALL));
    let faults = [
        (Fault::Answer(503, "ServiceUnavailable"), kind.is_part, "answer"),
        (Fault::Reset, kind.is_part, "no usable answer"),
        (Fault::Answer(403, "AccessDenied"), kind.is_part, "refuses it to this identity"),
        (Fault::Answer(503, "ServiceUnavailable"), kind.is_close, "answer"),
        (Fault::Answer(404, "NoSuchUpload"), kind.is_close, "upload is no more"),
    ];
    for (at, (fault, which, says)) in faults.into_iter().enumerate() {
        let proxy = Proxy::failing(kind.port, usize::MAX, fault, which);
        let key = format!("clear-{at}/object");
        let error = upload(&(kind.open)(proxy.port(), ALL), &key, &content).unwrap_err();
        assert!(proxy.fired() >= 1 && error.message.contains(says), "{fault:?}: {error}: {:#?}", proxy.lines());
        assert!(!error.to_string().contains("127.0.0.1"), "{error}");
        assert_eq!(direct.list(&format!("clear-{at}/")).unwrap(), Vec::<String>::new(), "{fault:?}");
    }
}

/// Reading through faults: the right bytes, or an error; never others, never fewer.
fn reads(kind: &Kind) {
    let (content, direct) = (content(), (kind.open)(kind.port, ALL));
    upload(&direct, "read/object", &content).unwrap();
    for (times, fault) in
        [(1, Fault::Cut(100_000)), (1, Fault::Reset), (2, Fault::Answer(503, "ServiceUnavailable")), (1, Fault::Lost)]
    {
        let proxy = Proxy::failing(kind.port, times, fault, kind.is_read);
        let found = read_back(&(kind.open)(proxy.port(), ALL), "read/object");
        assert_eq!(proxy.fired(), times, "{fault:?}");
        assert!(found.unwrap() == content, "{fault:?}");
    }
    let proxy = Proxy::failing(kind.port, usize::MAX, Fault::Cut(0), kind.is_read);
    let error = read_back(&(kind.open)(proxy.port(), ALL), "read/object").unwrap_err();
    assert!(proxy.fired() > 1 && error.message.contains("no usable answer"), "{error}");
    let proxy = Proxy::failing(kind.port, usize::MAX, Fault::Endless, kind.is_read);
    let error = read_back(&(kind.open)(proxy.port(), ALL), "read/object").unwrap_err();
    assert!(proxy.fired() >= 1 && error.message.contains("more than it was asked for"), "{error}");
    let proxy = Proxy::failing(kind.port, usize::MAX, Fault::Endless, |seen| seen.line.starts_with("GET"));
    let error = (kind.open)(proxy.port(), ALL).list("read/").unwrap_err();
    assert!(proxy.fired() >= 1 && error.message.contains("more than it was asked for"), "{error}");
}

/// Answers that come slower than the step may last.
fn trickles(kind: &Kind) {
    let direct = (kind.open)(kind.port, ALL);
    upload(&direct, "slow/object", &content()).unwrap();
    let proxy = Proxy::failing(kind.port, usize::MAX, Fault::Trickle, kind.is_read);
    let cx = StepContext::detached("test", Duration::from_secs(2));
    let slow = (kind.open)(proxy.port(), ALL).in_step(&cx);
    assert_eq!(read_back(&slow, "slow/object").unwrap_err().kind, ErrorKind::TimedOut);
    assert!(proxy.fired() >= 1, "it trickled");
}

fn suffers(kind: &Kind) {
    right_in_the_end(kind);
    clear_in_the_end(kind);
    reads(kind);
    trickles(kind);
}

fn s3(moto: &Moto) -> Kind {
    let binding = moto.open_store();
    Kind {
        port: moto.port(),
        open: Box::new(move |port, rights| {
            let mut binding = binding.clone();
            binding.endpoint = Some(format!("http://127.0.0.1:{port}"));
            let all = binding.credentials.take();
            let has = |right| all.clone().filter(|_| rights.contains(&right));
            binding.identity =
                Identities { write: has(Right::Write), read: has(Right::Read), delete: has(Right::Delete) };
            ObjectStore::open("offsite", &bindings::Store::S3(binding)).unwrap()
        }),
        is_part: |seen| seen.line.starts_with("PUT") && seen.line.contains("partNumber="),
        is_close: |seen| seen.line.starts_with("POST") && seen.line.contains("uploadId="),
        is_read: |seen| seen.line.starts_with("GET") && seen.head.contains("\r\nrange:"),
    }
}

#[test]
fn s3_is_right_or_fails_clearly() {
    let Some(moto) = Moto::start() else { return };
    suffers(&s3(&moto));
}

/// A server that answers every request with the page of this number; says how many it was asked for.
fn pages(page: impl Fn(usize) -> String + Send + 'static) -> (u16, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
            if super::testing::read_head(&mut reader).is_err() {
                continue;
            }
            let body = page(counted.fetch_add(1, Ordering::SeqCst));
            let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    (port, asked)
}

/// A page of a listing of S3 with another one behind it.
fn page(number: usize, keys: impl Iterator<Item = String>) -> String {
    let content = |key: String| {
        format!(
            "<Contents><Key>{key}</Key><LastModified>2026-11-23T06:15:34.000Z</LastModified><ETag>&quot;e&quot;</ETag>\
             <Size>1</Size></Contents>"
        )
    };
    format!(
        "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>true</IsTruncated>\
         <NextContinuationToken>t{number}</NextContinuationToken>{}</ListBucketResult>",
        keys.map(content).collect::<String>()
    )
}

#[test]
fn a_listing_that_never_ends_is_given_up() {
    let Some(moto) = Moto::start() else { return };
    let kind = s3(&moto);
    let (port, asked) = pages(|number| page(number, (0..100).map(|n| format!("some/prefix/a/{number}-{n}"))));
    let error = (kind.open)(port, ALL).list("a/").unwrap_err();
    assert!(error.message.contains("more than 1000 objects"), "{error}");
    assert_eq!(asked.load(Ordering::SeqCst), 11);
    // A few names that fill the memory all the same, and one that nothing can hold.
    for (bytes, words) in [(60_000, "more than 1000 objects"), (200_000, "can't be read")] {
        let (port, _) =
            pages(move |number| page(number, std::iter::once(format!("some/prefix/a/{}", "x".repeat(bytes)))));
        let error = (kind.open)(port, ALL).list_with_times("a/").unwrap_err();
        assert!(error.message.contains(words) && error.hint.is_some(), "{error}");
    }
    // None at all, and always another page.
    let (port, asked) = pages(|number| page(number, std::iter::empty()));
    let began = std::time::Instant::now();
    let error = (kind.open)(port, ALL).list("a/").unwrap_err();
    assert!(error.message.contains("comes to no end") && error.hint.is_some(), "{error}");
    assert!(asked.load(Ordering::SeqCst) > 1 && began.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_store_that_names_what_was_not_asked_for_is_an_error_and_nothing_worse() {
    let Some(moto) = Moto::start() else { return };
    let kind = s3(&moto);
    // Of another prefix, of none, shorter than it, cut in the middle of a letter, beside the folder that was asked for.
    for foreign in ["other/prefix/a/1", "a/1", "some", "", "some/prefi\u{e4}", "some/prefix/b/1"] {
        let (port, asked) = pages(move |number| page(number, std::iter::once(foreign.to_owned())));
        for listed in
            [(kind.open)(port, ALL).list("a/").map(drop), (kind.open)(port, ALL).list_with_times("a/").map(drop)]
        {
            let error = listed.unwrap_err();
            assert!(error.message.starts_with("store offsite: listing a/: the store names "), "{foreign}: {error}");
            assert!(error.hint.as_deref().unwrap().contains("endpoint"), "{error}");
        }
        assert!(asked.load(Ordering::SeqCst) >= 2, "it was asked");
    }
}

fn azure(azurite: &Azurite) -> Kind {
    let (identity, at) = (azurite.identities(ALL), azurite.store(0, Identities::default()));
    Kind {
        port: azurite.port(),
        open: Box::new(move |port, rights| {
            let has = |right| identity.of(right).filter(|_| rights.contains(&right)).cloned();
            let mut binding = at.clone();
            binding.endpoint = Some(format!("http://127.0.0.1:{port}/{}", at.account));
            binding.identity =
                Identities { write: has(Right::Write), read: has(Right::Read), delete: has(Right::Delete) };
            ObjectStore::open("offsite", &bindings::Store::Azure(binding)).unwrap()
        }),
        is_part: |seen| seen.line.starts_with("PUT") && seen.line.contains("comp=block&"),
        is_close: |seen| seen.line.starts_with("PUT") && seen.line.contains("comp=blocklist"),
        is_read: |seen| seen.line.starts_with("GET") && seen.head.contains("\r\nrange:"),
    }
}

/// What a piece of an upload to GCS is of: `bytes 0-8388607/*`.
fn range<'a>(seen: &Seen<'a>) -> Option<&'a str> {
    seen.head.lines().find_map(|line| line.strip_prefix("content-range:")).map(str::trim)
}

fn gcs(server: Gcs) -> Kind {
    Kind {
        port: server.port(),
        open: Box::new(move |port, rights| {
            ObjectStore::open("offsite", &bindings::Store::Gcs(server.store(port, rights))).unwrap()
        }),
        is_part: |seen| range(seen).is_some_and(|range| range.ends_with("/*")),
        is_close: |seen| range(seen).is_some_and(|range| !range.ends_with("/*")),
        is_read: |seen| seen.line.starts_with("GET") && seen.head.contains("\r\nrange:"),
    }
}

#[test]
fn azure_conforms() {
    let Some(azurite) = Azurite::start() else { return };
    let by_key = ObjectStore::open("offsite", &bindings::Store::Azure(azurite.open_store())).unwrap();
    conforms(&by_key);
    one_winner(&by_key);
    let by_signatures = (azure(&azurite).open)(azurite.port(), ALL);
    by_key.list("a/").unwrap().iter().chain(&by_key.list("ab/").unwrap()).for_each(|key| by_key.delete(key).unwrap());
    conforms(&by_signatures);
}

#[test]
fn each_identity_of_azure_may_do_what_it_is_for_and_nothing_else() {
    let Some(azurite) = Azurite::start() else { return };
    let Identities { write, read, delete } = azurite.identities(ALL);
    let open = |write: &Option<_>, read: &Option<_>, delete: &Option<_>| {
        let identity = Identities { write: write.clone(), read: read.clone(), delete: delete.clone() };
        ObjectStore::open("offsite", &bindings::Store::Azure(azurite.store(azurite.port(), identity))).unwrap()
    };
    let only_write = open(&write, &None, &None);
    assert_eq!(upload(&only_write, "a/one", &content()).unwrap(), Put::Created);
    assert_eq!(only_write.put_if_absent("a/one", b"other").unwrap(), Put::Exists);
    assert_eq!(only_write.list("a/").unwrap_err().kind, ErrorKind::Refused);
    refused([
        open(&None, &write, &None).list("a/").unwrap_err(),
        open(&None, &write, &None).read("a/one", 10).unwrap_err(),
        open(&None, &None, &write).delete("a/one").unwrap_err(),
        open(&read, &None, &None).put_if_absent("a/two", b"").unwrap_err(),
        open(&None, &None, &read).delete("a/one").unwrap_err(),
        open(&None, &delete, &None).list("a/").unwrap_err(),
        open(&delete, &None, &None).put_if_absent("a/two", b"").unwrap_err(),
    ]);
    assert_eq!(open(&None, &read, &None).list("a/").unwrap(), ["a/one"]);
    open(&None, &None, &delete).delete("a/one").unwrap();
}

fn refused<const N: usize>(errors: [Error; N]) {
    for error in errors {
        assert!(error.message.contains("refuses it to this identity"), "{error}");
        assert!(!error.to_string().contains("127.0.0.1") && !error.to_string().contains("sig="), "{error}");
    }
}

#[test]
fn azure_is_right_or_fails_clearly() {
    let Some(azurite) = Azurite::start() else { return };
    suffers(&azure(&azurite));
}

#[test]
fn gcs_conforms() {
    let kind = gcs(Gcs::start());
    let store = (kind.open)(kind.port, ALL);
    conforms(&store);
    one_winner(&store);
}

#[test]
fn each_identity_of_gcs_may_do_what_it_is_for_and_nothing_else() {
    let server = Gcs::start();
    let Identities { write, read, delete } = server.store(server.port(), ALL).identity;
    let open = |write: &Option<_>, read: &Option<_>, delete: &Option<_>| {
        let mut binding = server.store(server.port(), &[]);
        binding.identity = Identities { write: write.clone(), read: read.clone(), delete: delete.clone() };
        ObjectStore::open("offsite", &bindings::Store::Gcs(binding)).unwrap()
    };
    assert_eq!(upload(&open(&write, &None, &None), "a/one", &content()).unwrap(), Put::Created);
    refused([
        open(&None, &write, &None).list("a/").unwrap_err(),
        open(&None, &None, &write).delete("a/one").unwrap_err(),
        open(&read, &None, &None).put_if_absent("a/two", b"").unwrap_err(),
        open(&delete, &None, &None).put_if_absent("a/two", b"").unwrap_err(),
    ]);
    assert_eq!(open(&None, &read, &None).list("a/").unwrap(), ["a/one"]);
    open(&None, &None, &delete).delete("a/one").unwrap();
}

#[test]
fn a_store_that_sends_us_elsewhere_is_not_followed() {
    let kind = gcs(Gcs::start());
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let key = format!("a/elsewhere-{}", elsewhere.local_addr().unwrap().port());
    assert!(upload(&(kind.open)(kind.port, ALL), &key, &content()).is_err());
    assert_eq!(elsewhere.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock, "nobody came with our token");
}

#[test]
fn gcs_is_right_or_fails_clearly() {
    suffers(&gcs(Gcs::start()));
}

/// Credentials whose key is printed by a command, another one each time; it counts its runs in `runs` below the directory.
fn printed(directory: &Path, is_renewed: bool) -> Credentials {
    let script = directory.join("key");
    let print = if is_renewed { "wc -l < \"$(dirname \"$0\")/runs\"" } else { "echo key" };
    std::fs::write(&script, format!("#!/bin/sh\necho x >> \"$(dirname \"$0\")/runs\"\n{print}\n")).unwrap();
    let words = vec!["sh".to_owned(), script.display().to_string()];
    let secret = Secret { command: Some(words), ..Secret::default() };
    let id = Secret { env: Some("PATH".into()), ..Secret::default() };
    Credentials { access_key_id: Some(id), secret_access_key: Some(secret), ..Credentials::default() }
}

fn runs(directory: &Path) -> usize {
    std::fs::read_to_string(directory.join("runs")).unwrap().lines().count()
}

#[test]
fn secrets_that_end_in_the_middle_of_an_upload_are_read_again_at_once() {
    let Some(moto) = Moto::start() else { return };
    let content = content();
    let part: fn(&Seen<'_>) -> bool = |seen| seen.line.contains("partNumber=2");
    for (status, code) in [(400, "ExpiredToken"), (403, "RequestExpired"), (401, "Unauthorized"), (403, "AccessDenied")]
    {
        let directory = tempfile::tempdir().unwrap();
        let proxy = Proxy::failing(moto.port(), 1, Fault::Answer(status, code), part);
        let mut binding = moto.open_store();
        binding.endpoint = Some(format!("http://127.0.0.1:{}", proxy.port()));
        binding.credentials = Some(printed(directory.path(), true));
        let store = ObjectStore::open("offsite", &bindings::Store::S3(binding)).unwrap();
        let key = format!("renewed/{status}-{code}");
        assert_eq!(upload(&store, &key, &content).unwrap(), Put::Created, "{code}");
        assert_eq!((proxy.fired(), runs(directory.path())), (1, 2), "{code}: refused once, read once more");
        assert!(read_back(&store, &key).unwrap() == content, "{code}");

        // The same in the middle of reading.
        let directory = tempfile::tempdir().unwrap();
        let rest: fn(&Seen<'_>) -> bool = |seen| seen.head.contains("\r\nrange: bytes=8388608-");
        let proxy = Proxy::failing(moto.port(), 1, Fault::Answer(status, code), rest);
        let mut binding = moto.open_store();
        binding.endpoint = Some(format!("http://127.0.0.1:{}", proxy.port()));
        binding.credentials = Some(printed(directory.path(), true));
        let store = ObjectStore::open("offsite", &bindings::Store::S3(binding)).unwrap();
        assert!(read_back(&store, &key).unwrap() == content, "{code}");
        assert_eq!((proxy.fired(), runs(directory.path())), (1, 2), "{code}: refused once, read once more");
    }
}

#[test]
fn secrets_that_are_refused_and_not_renewed_are_not_tried_again() {
    let Some(moto) = Moto::start() else { return };
    let directory = tempfile::tempdir().unwrap();
    let proxy = Proxy::failing(moto.port(), usize::MAX, Fault::Answer(403, "ExpiredToken"), |seen| {
        seen.line.contains("partNumber=2")
    });
    let mut binding = moto.open_store();
    binding.endpoint = Some(format!("http://127.0.0.1:{}", proxy.port()));
    binding.credentials = None;
    binding.identity.write = Some(printed(directory.path(), false));
    let store = ObjectStore::open("offsite", &bindings::Store::S3(binding)).unwrap();
    let error = upload(&store, "stale/object", &content()).unwrap_err();
    assert!(error.message.contains("ExpiredToken") && error.hint.is_some(), "{error}");
    assert_eq!((proxy.fired(), runs(directory.path())), (1, 2), "asked once, and the command once more");
    let direct = ObjectStore::open("offsite", &bindings::Store::S3(moto.open_store())).unwrap();
    assert_eq!(direct.list("stale/").unwrap(), Vec::<String>::new());
}
