//! Archived objects, asked back from moto.

use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use super::testing::{Fault, Moto, Proxy};
use super::*;
use crate::bindings::{Identities, S3Store, Store, Thaw, Tier};
use crate::context::Progress;

fn open(binding: S3Store) -> ObjectStore {
    ObjectStore::open("offsite", &Store::S3(binding)).unwrap()
}

/// Two objects, one of them archived as a rule of the bucket would have done it.
fn filled(moto: &Moto) {
    let cold = S3Store { storage_class: Some("GLACIER".into()), ..moto.open_store() };
    open(cold).put_if_absent("a/cold", b"cold").unwrap();
    open(moto.open_store()).put_if_absent("a/warm", b"warm").unwrap();
}

fn thawing(moto: &Moto) -> S3Store {
    S3Store { thaw: Some(Thaw { days: 2, tier: Tier::Standard }), ..moto.open_store() }
}

/// A step that keeps what it is told of its progress.
fn step(limit: Duration) -> (StepContext, Arc<Mutex<Vec<Progress>>>) {
    let told = Arc::<Mutex<Vec<Progress>>>::default();
    let sink = told.clone();
    let progress = Arc::new(move |progress| sink.lock().unwrap().push(progress));
    (StepContext { progress, ..StepContext::detached("test", limit) }, told)
}

#[test]
fn archived_objects_are_asked_back_and_waited_for() {
    let Some(moto) = Moto::start() else { return };
    filled(&moto);
    moto.thaws_slowly(1);
    // Two requests fail while it is waited, as they do in hours.
    let looks = AtomicUsize::new(0);
    let proxy = Proxy::start(moto.port(), move |seen| {
        let is_look = seen.line.starts_with("HEAD") && seen.line.contains("cold");
        match is_look && (1..3).contains(&looks.fetch_add(1, SeqCst)) {
            true => Fault::Answer(503, "SlowDown"),
            false => Fault::None,
        }
    });
    let store = open(S3Store { endpoint: Some(format!("http://127.0.0.1:{}", proxy.port())), ..thawing(&moto) });
    let (cx, told) = step(Duration::from_secs(60));
    store.thaw(&cx, &["a/warm", "a/cold"]).unwrap();
    assert_eq!(store.read("a/cold", 10).unwrap(), b"cold");
    let asked: Vec<String> = proxy.lines().into_iter().filter(|line| line.starts_with("POST")).collect();
    assert_eq!(asked.len(), 1, "the one that is not archived is not asked for: {asked:?}");
    assert!(asked[0].contains("/some/prefix/a/cold?restore"), "{asked:?}");
    assert_eq!(proxy.fired(), 2);
    let told = told.lock().unwrap();
    assert!(
        told[0].what.starts_with("thaw 1 of 1 archived objects in offsite: standard takes 3 to 5 hours"),
        "{told:?}"
    );
    // Once more there is nothing to ask for or to wait for.
    drop(told);
    let before = proxy.lines().len();
    store.thaw(&cx, &["a/warm", "a/cold"]).unwrap();
    assert_eq!(proxy.lines().len(), before + 2);
}

/// Twelve archived objects, and a store that can be away.
fn many(moto: &Moto, fault: impl Fn(&str) -> Fault + Send + Sync + 'static) -> (Proxy, ObjectStore, Vec<String>) {
    let cold = open(S3Store { storage_class: Some("GLACIER".into()), ..moto.open_store() });
    let keys: Vec<String> = (0..12).map(|n| format!("a/{n}")).collect();
    for key in &keys {
        cold.put_if_absent(key, b"cold").unwrap();
    }
    let proxy = Proxy::start(moto.port(), move |seen| fault(seen.line));
    let endpoint = Some(format!("http://127.0.0.1:{}", proxy.port()));
    let store = open(S3Store { endpoint, timeout_s: 1, ..thawing(moto) });
    (proxy, store, keys)
}

#[test]
fn a_store_that_is_away_for_a_round_of_many_objects_is_waited_for() {
    let Some(moto) = Moto::start() else { return };
    moto.thaws_slowly(3);
    let looks = AtomicUsize::new(0);
    // All looks of the first round that waits, and one before it.
    let (proxy, store, keys) = many(&moto, move |line| {
        let look = line.starts_with("HEAD").then(|| looks.fetch_add(1, SeqCst));
        if look.is_some_and(|look| look == 0 || (13..25).contains(&look)) {
            Fault::Answer(503, "SlowDown")
        } else {
            Fault::None
        }
    });
    store.thaw(&step(Duration::from_secs(60)).0, &keys.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    assert_eq!(proxy.fired(), 13);
    assert_eq!(store.read("a/11", 10).unwrap(), b"cold");
}

#[test]
fn an_answer_that_does_not_come_is_not_waited_for_without_end() {
    let Some(moto) = Moto::start() else { return };
    let looks = AtomicUsize::new(0);
    let (proxy, store, keys) = many(&moto, move |line| {
        let first = line.starts_with("HEAD") && looks.fetch_add(1, SeqCst) == 0;
        if first { Fault::Trickle } else { Fault::None }
    });
    store.thaw(&step(Duration::from_secs(60)).0, &[keys[0].as_str()]).unwrap();
    assert_eq!(proxy.fired(), 1);
}

/// An S3 with one object that is archived and, once asked for, thaws for ever; its port, and how often it was asked.
fn glacier() -> (u16, Arc<AtomicUsize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::<AtomicUsize>::default();
    let count = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = std::io::BufReader::new(stream.try_clone().unwrap());
            let Ok((head, length)) = super::testing::read_head(&mut reader) else { continue };
            std::io::copy(&mut reader.take(length as u64), &mut std::io::sink()).unwrap();
            let answer = match (head.starts_with("POST"), count.load(SeqCst)) {
                (true, 0) => "202 Accepted\r\n",
                (true, _) => "409 Conflict\r\n",
                (false, 0) => "200 OK\r\nx-amz-storage-class: DEEP_ARCHIVE\r\n",
                // An answer that gets lost on the way, so that it is asked for once more.
                (false, 1) => "200 OK\r\nx-amz-storage-class: DEEP_ARCHIVE\r\n",
                (false, _) => {
                    "200 OK\r\nx-amz-storage-class: DEEP_ARCHIVE\r\nx-amz-restore: ongoing-request=\"true\"\r\n"
                }
            };
            count.fetch_add(usize::from(head.starts_with("POST")), SeqCst);
            let body =
                if answer.starts_with("409") { "<Error><Code>RestoreAlreadyInProgress</Code></Error>" } else { "" };
            let _ =
                write!(stream, "HTTP/1.1 {answer}Connection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    (port, asked)
}

#[test]
fn a_step_that_ends_says_that_they_go_on_thawing_and_the_next_one_waits_on() {
    let Some(moto) = Moto::start() else { return };
    let (port, asked) = glacier();
    let store = open(S3Store { endpoint: Some(format!("http://127.0.0.1:{port}")), ..thawing(&moto) });
    for attempt in 1..=3 {
        let (cx, _) = step(Duration::from_millis(500));
        let error = store.thaw(&cx, &["a/cold"]).unwrap_err();
        assert_eq!(error.kind, ErrorKind::TimedOut, "{attempt}: {error}");
        assert!(error.hint.as_deref().unwrap().contains("goes on thawing"), "{error}");
    }
    assert_eq!(
        asked.load(SeqCst),
        2,
        "what was asked for twice is as if it had been once, and then nobody asks any more"
    );
}

#[test]
fn nothing_is_asked_for_unless_the_environment_says_so() {
    let Some(moto) = Moto::start() else { return };
    filled(&moto);
    let proxy = Proxy::start(moto.port(), |_| Fault::None);
    let store = open(S3Store { endpoint: Some(format!("http://127.0.0.1:{}", proxy.port())), ..moto.open_store() });
    store.thaw(&step(Duration::from_secs(20)).0, &["a/cold"]).unwrap();
    assert_eq!(proxy.lines(), Vec::<String>::new());
}

#[test]
fn an_identity_that_may_not_ask_is_told_what_it_needs() {
    let Some((moto, identity)) = Moto::guarded() else { return };
    let cold = S3Store { storage_class: Some("GLACIER".into()), ..moto.store(identity.clone()) };
    open(cold).put_if_absent("a/cold", b"cold").unwrap();
    let reads = Identities { read: identity.read, ..Identities::default() };
    let store = open(S3Store { thaw: Some(Thaw { days: 2, tier: Tier::Standard }), ..moto.store(reads) });
    let error = store.thaw(&step(Duration::from_secs(20)).0, &["a/cold"]).unwrap_err();
    assert!(error.hint.as_deref().unwrap().contains("s3:RestoreObject"), "{error}");
    // What is not there is said by whoever reads it.
    store.thaw(&step(Duration::from_secs(20)).0, &["a/none"]).unwrap();
}
