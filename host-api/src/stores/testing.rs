//! For tests: the suite that every kind of store must pass, servers to run it against, and a proxy between the two that fails.

mod azurite;
mod gcs;
mod moto;
mod proxy;

use std::io::Write;
use std::sync::Arc;

pub use azurite::Azurite;
pub use gcs::Gcs;
pub use moto::Moto;
#[cfg(test)]
pub(crate) use proxy::read_head;
pub use proxy::{Fault, Proxy, Seen};

use super::{ObjectStore, Put};
use crate::error::{Error, ErrorKind};

/// What every store must do; panics where one does not. Leaves objects below `a/`, `ab/` and `big/`: give it an empty one.
pub fn conforms(store: &ObjectStore) {
    store.check().unwrap();
    assert_eq!(store.put_if_absent("a/x/one.json", b"1").unwrap(), Put::Created);
    assert_eq!(store.put_if_absent("a/x/one.json", b"other").unwrap(), Put::Exists);
    assert_eq!(store.read("a/x/one.json", 10).unwrap(), b"1");
    assert_eq!(store.put_if_absent("a/two", b"").unwrap(), Put::Created);
    assert_eq!(store.put_if_absent("ab/three", b"333").unwrap(), Put::Created);
    assert_eq!(store.list("a/").unwrap(), ["a/two", "a/x/one.json"]);
    assert_eq!(store.list("nowhere/").unwrap(), Vec::<String>::new());
    let listed = store.list_with_times("a/").unwrap();
    let seen: Vec<(&str, u64)> = listed.iter().map(|listed| (listed.key.as_str(), listed.bytes)).collect();
    assert_eq!(seen, [("a/two", 0), ("a/x/one.json", 1)]);
    assert_eq!(store.list_with_times("nowhere/").unwrap(), []);
    assert!(store.list_with_times("a").is_err() && store.list_with_times("../a/").is_err());
    assert_eq!(store.size("a/two").unwrap(), Some(0));
    assert_eq!(store.size("ab/three").unwrap(), Some(3));
    assert_eq!(store.size("ab/four").unwrap(), None);
    assert_eq!(store.read("ab/four", 10).unwrap_err().kind, ErrorKind::NotFound);
    assert!(store.read("ab/three", 2).unwrap_err().message.contains("larger than 2 bytes"));

    // Larger than any buffer on the way.
    let big: Vec<u8> = (0..20_000_000_u32).map(|n| (n % 251) as u8).collect();
    let mut writer = store.writer("big/object").unwrap();
    big.chunks(1_000_003).for_each(|chunk| writer.write_all(chunk).unwrap());
    assert_eq!(store.size("big/object").unwrap(), None, "nothing is visible before the end");
    assert_eq!(writer.finish(&|| Ok(())).unwrap(), Put::Created);
    let mut back = Vec::new();
    store.open_object("big/object").unwrap().read_to_end(&mut back).unwrap();
    assert!(big == back);

    let mut aborted = store.writer("big/aborted").unwrap();
    aborted.write_all(&big).unwrap();
    drop(aborted);
    assert_eq!(store.list("big/").unwrap(), ["big/object"]);

    let mut late = store.writer("big/late").unwrap();
    late.write_all(b"whole").unwrap();
    let error = late.finish(&|| Err(Error::new(ErrorKind::TimedOut, "late"))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut);
    assert_eq!(store.list("big/").unwrap(), ["big/object"]);
    assert_eq!(store.put_if_absent("big/late", b"again").unwrap(), Put::Created);
    store.delete("big/late").unwrap();

    store.delete("big/object").unwrap();
    store.delete("big/object").unwrap();
    store.delete("never/was").unwrap();
    assert_eq!(store.list("big/").unwrap(), Vec::<String>::new());

    for key in ["../x", "/x", "a/../../x", ".hidden", "a\0b"] {
        assert_eq!(store.put_if_absent(key, b"").unwrap_err().kind, ErrorKind::Invalid, "{key:?}");
        assert_eq!(store.read(key, 1).unwrap_err().kind, ErrorKind::Invalid, "{key:?}");
        assert_eq!(store.size(key).unwrap_err().kind, ErrorKind::Invalid, "{key:?}");
        assert_eq!(store.delete(key).unwrap_err().kind, ErrorKind::Invalid, "{key:?}");
        assert!(store.list(&format!("{key}/")).is_err(), "{key:?}");
    }
}

/// Eight threads want one key: one wins, and its bytes are there.
pub fn one_winner(store: &ObjectStore) {
    for round in 0..20 {
        let key = format!("race/{round}");
        let barrier = Arc::new(std::sync::Barrier::new(8));
        let threads: Vec<_> = (0..8_u8)
            .map(|n| {
                let (store, key, barrier) = (store.clone(), key.clone(), barrier.clone());
                std::thread::spawn(move || {
                    barrier.wait();
                    (n, store.put_if_absent(&key, &[n; 1000]).unwrap())
                })
            })
            .collect();
        let results: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
        let winners: Vec<_> = results.iter().filter(|(_, put)| *put == Put::Created).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        assert_eq!(store.read(&key, 1000).unwrap(), [winners[0].0; 1000]);
    }
}
