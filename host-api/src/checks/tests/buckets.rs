//! Settings of a bucket, of a real server of its protocol.

use super::*;
use crate::bindings::{Expected, Identities, S3Store};
use crate::stores::testing::{Fault, Moto, Proxy};

fn look(store: &S3Store, aspect: BucketAspect) -> Seen {
    let stores = BTreeMap::from([("offsite".to_owned(), Store::S3(store.clone()))]);
    look_at(stores, &Subject::StoreBucket("offsite".into(), aspect))
}

fn look_at(stores: BTreeMap<String, Store>, subject: &Subject) -> Seen {
    let state = tempfile::tempdir().unwrap();
    let looker = Looker::new(BTreeMap::new(), stores, state.path(), Arc::new(now_ms), Arc::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    assert!(looker.subjects().contains(subject));
    runtime.block_on(looker.look(&cx(), subject))
}

#[test]
fn the_clock_of_a_bucket_is_held_against_ours() {
    let Some(moto) = Moto::start() else { return };
    let of = |port: u16| {
        let store = S3Store { endpoint: Some(format!("http://127.0.0.1:{port}")), ..moto.open_store() };
        let stores = BTreeMap::from([("offsite".to_owned(), Store::S3(store))]);
        look_at(stores, &Subject::StoreClock("offsite".into()))
    };
    let same = of(moto.port());
    assert!(same.level == Level::Ok && same.message.contains("the clock of store offsite is"), "{same:?}");
    let proxy = Proxy::start(moto.port(), |_| Fault::Dated("Thu, 27 Nov 2025 08:00:00 GMT"));
    let behind = of(proxy.port());
    assert!(behind.level == Level::Critical && behind.message.contains("behind ours"), "{behind:?}");
    assert!(proxy.fired() > 0);
    // Whoever may not read there is told nothing.
    let store = S3Store {
        identity: Identities { write: moto.open_store().credentials, ..Identities::default() },
        ..moto.store(Identities::default())
    };
    let stores = BTreeMap::from([("offsite".to_owned(), Store::S3(store))]);
    assert_eq!(look_at(stores, &Subject::StoreClock("offsite".into())).level, Level::Unknown);
}

fn all(store: &S3Store) -> [(Level, String); 4] {
    BucketAspect::ALL.map(|aspect| {
        let seen = look(store, aspect);
        (seen.level, seen.message)
    })
}

#[track_caller]
fn expect(found: &[(Level, String); 4], wanted: [(Level, &str); 4]) {
    for ((level, message), (wanted, words)) in found.iter().zip(wanted) {
        assert!(*level == wanted && message.contains(words), "{level:?} {message}; not {wanted:?} {words}");
    }
}

#[test]
fn settings_of_a_bucket_are_held_against_what_is_expected() {
    let Some(moto) = Moto::start() else { return };
    let mut store = S3Store { expect: Some(Expected::default()), ..moto.open_store() };
    let none = all(&store);
    expect(
        &none,
        [
            (Level::Ok, "keeps no versions"),
            (Level::Ok, "no Object Lock"),
            (Level::Ok, ""),
            (Level::Warning, "no rule removes uploads"),
        ],
    );
    let wanted = Expected {
        versioning: Some(true),
        object_lock_days: Some(30),
        encryption: Some(crate::bindings::ServerSideEncryption::AwsKms),
        kept_days: Some(90),
    };
    store.expect = Some(wanted);
    expect(
        &all(&store),
        [
            (Level::Critical, "the environment expects that it does"),
            (Level::Critical, "expects 30 days"),
            (Level::Critical, "expects another"),
            (Level::Warning, "no rule removes uploads"),
        ],
    );

    moto.set("versioning", "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>");
    moto.set(
        "object-lock",
        "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode>\
         <Days>30</Days></DefaultRetention></Rule></ObjectLockConfiguration>",
    );
    moto.set(
        "encryption",
        "<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>aws:kms</SSEAlgorithm>\
         </ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>",
    );
    let rules = |days: u32| {
        format!(
            "<LifecycleConfiguration><Rule><ID>old</ID><Filter><Prefix>some/</Prefix></Filter><Status>Enabled</Status><Expiration><Days>{days}</Days>\
             </Expiration></Rule><Rule><ID>cut</ID><Filter><Prefix></Prefix></Filter><Status>Enabled</Status><AbortIncompleteMultipartUpload>\
             <DaysAfterInitiation>7</DaysAfterInitiation></AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>"
        )
    };
    moto.set("lifecycle", &rules(90));
    expect(
        &all(&store),
        [
            (Level::Ok, "keeps versions"),
            (Level::Ok, "locked for 30 days (COMPLIANCE)"),
            (Level::Ok, "aws:kms"),
            (Level::Ok, "removes objects after 90 days; uploads that were cut off are removed after 7 days"),
        ],
    );
    moto.set("lifecycle", &rules(89));
    let seen = look(&store, BucketAspect::Lifecycle);
    assert!(seen.level == Level::Critical && seen.message.contains("after 89 days, 90 are expected"), "{seen:?}");
}

#[test]
fn what_may_not_be_seen_is_unknown() {
    let Some(moto) = Moto::start() else { return };
    // moto lets every reader see some of these.
    let proxy = Proxy::failing(moto.port(), usize::MAX, Fault::Answer(403, "AccessDenied"), |seen| {
        BucketAspect::ALL.iter().any(|aspect| seen.line.contains(&format!("/backups?{} ", aspect.word())))
    });
    let all_of = moto.open_store().credentials;
    for (identity, asked) in [
        (Identities { read: all_of.clone(), ..Identities::default() }, 4),
        // Nobody who could ask.
        (Identities { write: all_of.clone(), ..Identities::default() }, 4),
    ] {
        let endpoint = Some(format!("http://127.0.0.1:{}", proxy.port()));
        let store = S3Store { expect: Some(Expected::default()), endpoint, ..moto.store(identity) };
        for (level, message) in all(&store) {
            assert!(level == Level::Unknown && message.contains("may not see"), "{level:?} {message}");
        }
        assert_eq!(proxy.fired(), asked, "each was refused once");
    }
}

#[test]
fn a_store_that_does_not_answer_is_unknown() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let Some(moto) = Moto::start() else { return };
    let endpoint = Some(format!("http://127.0.0.1:{port}"));
    let store = S3Store { expect: Some(Expected::default()), endpoint, ..moto.open_store() };
    for (level, _) in all(&store) {
        assert_eq!(level, Level::Unknown);
    }
}
