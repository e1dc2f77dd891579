//! What a bucket of S3 says of itself: versions, Object Lock, encryption, rules over the life of objects. opendal has no calls for these, so
//! each is one request of our own, signed by the transport that opendal's requests go through.

use std::sync::Arc;

use http::Request;
use opendal::HttpTransporter;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::answer::Answer;
use super::remote::Remote;
use crate::context::StepContext;
use crate::error::{Error, Result};

/// Where to ask.
pub(super) struct Asking {
    /// Signs as whoever reads.
    pub(super) transport: HttpTransporter,
    /// The bucket's own URL.
    pub(super) url: String,
}

/// What came of asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Told<T> {
    /// The bucket has this set.
    Set(T),
    /// It has nothing of the kind.
    Nothing,
    /// Whoever asked may not know.
    Hidden,
}

/// Whether the bucket keeps versions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Versioning {
    /// `Enabled`, `Suspended`; empty where it never was.
    pub(crate) status: String,
}

/// Object Lock, and how long new objects are locked by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct ObjectLock {
    /// `Enabled`.
    pub(crate) object_lock_enabled: String,
    /// The default of new objects.
    pub(crate) rule: Option<LockRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct LockRule {
    pub(crate) default_retention: Retention,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Retention {
    /// `GOVERNANCE`, which some may lift, or `COMPLIANCE`.
    pub(crate) mode: String,
    pub(crate) days: Option<u64>,
    pub(crate) years: Option<u64>,
}

impl Retention {
    /// In days, by the shortest year.
    pub(crate) fn in_days(&self) -> u64 {
        self.days.unwrap_or(0).max(self.years.unwrap_or(0).saturating_mul(365))
    }
}

/// How new objects are encrypted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Encryption {
    pub(crate) rule: Vec<EncryptionRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct EncryptionRule {
    pub(crate) apply_server_side_encryption_by_default: Algorithm,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(crate) struct Algorithm {
    /// `AES256`, `aws:kms`, `aws:kms:dsse`.
    #[serde(rename = "SSEAlgorithm")]
    pub(crate) algorithm: String,
}

/// What becomes of objects as they grow old.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Lifecycle {
    pub(crate) rule: Vec<LifecycleRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct LifecycleRule {
    #[serde(rename = "ID")]
    pub(crate) id: String,
    /// `Enabled`, `Disabled`.
    pub(crate) status: String,
    pub(crate) prefix: Option<String>,
    pub(crate) filter: Option<Filter>,
    pub(crate) expiration: Option<Expiration>,
    pub(crate) noncurrent_version_expiration: Option<NoncurrentExpiration>,
    pub(crate) transition: Vec<Transition>,
    pub(crate) abort_incomplete_multipart_upload: Option<Abort>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Filter {
    pub(crate) prefix: Option<String>,
    pub(crate) tag: Option<Tag>,
    pub(crate) and: Option<And>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct And {
    pub(crate) prefix: Option<String>,
    pub(crate) tag: Vec<Tag>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Tag {
    pub(crate) key: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Expiration {
    pub(crate) days: Option<u64>,
    pub(crate) date: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct NoncurrentExpiration {
    pub(crate) noncurrent_days: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Transition {
    pub(crate) days: Option<u64>,
    pub(crate) storage_class: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(crate) struct Abort {
    pub(crate) days_after_initiation: Option<u64>,
}

impl LifecycleRule {
    /// Whether it holds, and may be of objects below a prefix. Ours carry no tags.
    pub(crate) fn concerns(&self, ours: &str) -> bool {
        let of_filter = self.filter.as_ref();
        let and = of_filter.and_then(|filter| filter.and.as_ref());
        let is_tagged =
            of_filter.is_some_and(|filter| filter.tag.is_some()) || and.is_some_and(|and| !and.tag.is_empty());
        self.status == "Enabled" && !is_tagged && {
            let theirs = self.prefix();
            theirs.starts_with(ours) || ours.starts_with(theirs)
        }
    }

    /// What the keys of its objects begin with.
    pub(crate) fn prefix(&self) -> &str {
        let filter = self.filter.as_ref();
        let and = filter.and_then(|filter| filter.and.as_ref());
        [self.prefix.as_ref(), filter.and_then(|f| f.prefix.as_ref()), and.and_then(|and| and.prefix.as_ref())]
            .into_iter()
            .flatten()
            .next()
            .map_or("", String::as_str)
    }
}

impl Remote {
    pub(crate) fn told<T: DeserializeOwned>(self: &Arc<Self>, cx: &StepContext, what: &str) -> Result<Told<T>> {
        let Some(asking) = &self.asking else { return Ok(Told::Hidden) };
        let url = format!("{}?{what}", asking.url);
        let answer = self.asked(cx, what, Answer::of(&asking.transport, Request::get(&url), String::new()))?;
        let wrong =
            |why: String| Error::failed(format!("store {}: asking the bucket for its {what}: {why}", self.name()));
        match (answer.status, answer.code()) {
            (200, _) if answer.is_whole => quick_xml::de::from_str(&answer.text)
                .map(Told::Set)
                .map_err(|_| wrong("the answer is not what the protocol describes".into())),
            (403 | 401, _) => Ok(Told::Hidden),
            (404, code) if code != "NoSuchBucket" => Ok(Told::Nothing),
            (status, code) => Err(wrong(format!("status {status} {}", crate::identifier::shown(code)))
                .hint("not every store that speaks S3's protocol knows this: take `expect` out where it does not")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_amazon_answers_is_understood() {
        let read = |text: &str| quick_xml::de::from_str::<Lifecycle>(text).unwrap();
        let rules = read(
            "<LifecycleConfiguration xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Rule><ID>a</ID><Filter><Prefix>p/s/objects/</Prefix></Filter>\
             <Status>Enabled</Status><Transition><Days>30</Days><StorageClass>GLACIER</StorageClass></Transition><Transition><Days>90</Days>\
             <StorageClass>DEEP_ARCHIVE</StorageClass></Transition><Expiration><Days>365</Days></Expiration></Rule><Rule><ID>b</ID><Filter><And><Prefix>p</Prefix>\
             <Tag><Key>k</Key><Value>v</Value></Tag></And></Filter><Status>Enabled</Status></Rule><Rule><ID>c</ID><Prefix></Prefix><Status>Disabled</Status></Rule>\
             <Rule><ID>d</ID><Filter/><Status>Enabled</Status><AbortIncompleteMultipartUpload><DaysAfterInitiation>7</DaysAfterInitiation>\
             </AbortIncompleteMultipartUpload></Rule></LifecycleConfiguration>",
        )
        .rule;
        let concerned: Vec<_> = rules.iter().filter(|rule| rule.concerns("p/")).map(|rule| rule.id.as_str()).collect();
        assert_eq!(concerned, ["a", "d"]);
        assert!(!rules[0].concerns("other/"));
        assert_eq!(rules[0].transition[1].storage_class, "DEEP_ARCHIVE");
        let lock: ObjectLock = quick_xml::de::from_str(
            "<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>GOVERNANCE</Mode><Years>1</Years>\
             </DefaultRetention></Rule></ObjectLockConfiguration>",
        )
        .unwrap();
        assert_eq!(lock.rule.unwrap().default_retention.in_days(), 365);
        let none: Versioning = quick_xml::de::from_str("<VersioningConfiguration/>").unwrap();
        assert_eq!(none.status, "");
    }
}
