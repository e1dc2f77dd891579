//! What a store says, in our words.

use crate::bindings::Right;
use crate::error::{Error, ErrorKind};
use crate::stores::transport::TOO_MUCH;

pub(super) fn taken(e: &opendal::Error) -> bool {
    matches!(e.kind(), opendal::ErrorKind::ConditionNotMatch | opendal::ErrorKind::AlreadyExists)
}

/// What opendal says, in our words: its own name hosts and URLs.
pub(super) fn said(store: &str, right: Right, doing: &str, key: &str, e: &opendal::Error) -> Error {
    use opendal::ErrorKind as Of;
    // Its own words quote the URL as it was signed, which is a secret where a token stands in it.
    tracing::debug!(store, doing, key, kind = ?e.kind(), code = error_code(&e.to_string()), "the store said no");
    let text = e.to_string();
    let words = match e.kind() {
        _ if text.contains(TOO_MUCH) => TOO_MUCH,
        Of::NotFound => return super::super::no_object(store, key),
        Of::PermissionDenied => "the store refuses it to this identity",
        Of::ConfigInvalid => "there is no such bucket, or the store is configured wrongly",
        Of::RateLimited => "the store takes no more requests for now",
        Of::Unsupported => "the store can't do this",
        _ if e.is_temporary() || error_code(&text).is_none() => "no usable answer from the store",
        _ => "the store answered with an error",
    };
    let code = error_code(&text);
    if code == Some("InvalidObjectState") {
        return archived(store, doing, key);
    }
    let code = code.map(|code| format!(" ({code})")).unwrap_or_default();
    let error = Error::failed(format!("store {store}: {doing} {key}: {words}{code}"));
    match e.kind() {
        Of::PermissionDenied => error.hint(format!(
            "look at the secrets of identity.{} (or credentials) in [environment.E.store.{store}], and at what the store allows it",
            right.word()
        )),
        Of::ConfigInvalid => error.hint(format!("look at bucket, region and endpoint of [environment.E.store.{store}]")),
        _ => error,
    }
}

/// An object in a storage class from which nothing is read before it was thawed.
fn archived(store: &str, doing: &str, key: &str) -> Error {
    Error::failed(format!(
        "store {store}: {doing} {key}: it lies in an archived storage class (GLACIER, DEEP_ARCHIVE or a tier like them) and must be thawed before it can be read"
    ))
    .hint(
        "ask the store to restore all objects of this backup, for more days than the recovery may take (`aws s3api restore-object`), wait and try \
         again: minutes (Expedited, GLACIER alone), 3 to 5 hours (Standard), 5 to 12 hours (Bulk), 12 to 48 hours from DEEP_ARCHIVE; another copy of the backup may be nearer",
    )
}

/// The protocol's own word for what is wrong, `SlowDown`.
fn error_code(text: &str) -> Option<&str> {
    let after = text.split_once("code: \"")?.1;
    let code = after.split_once('"')?.0;
    (!code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_alphanumeric())).then_some(code)
}

/// A secret that is not there is no object that is not there.
pub(super) fn about_us(error: Error) -> Error {
    match error.kind {
        ErrorKind::NotFound => Error { kind: ErrorKind::Failed, ..error },
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stores_own_word_is_shown_and_nothing_else_of_it() {
        let text = r#"Unexpected at write => S3Error { code: "SlowDown", message: "http://10.0.0.1/", resource: "" }"#;
        assert_eq!(error_code(text), Some("SlowDown"));
        assert_eq!(error_code(r#"code: "a b""#), None);
        assert_eq!(error_code("nothing"), None);
    }
}
