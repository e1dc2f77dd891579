//! What a bucket says of itself, against what its environment expects of it.

use super::Seen;
use crate::bindings::{Expected, S3Store, ServerSideEncryption};
use crate::context::StepContext;
use crate::error::Result;
use crate::stores::ObjectStore;
use crate::stores::bucket::{Encryption, Lifecycle, LifecycleRule, ObjectLock, Told, Versioning};

/// One thing that a bucket has set or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BucketAspect {
    /// Whether it keeps what was replaced or removed.
    Versioning,
    /// How long new objects can't be removed.
    ObjectLock,
    /// How new objects are encrypted.
    Encryption,
    /// What becomes of objects as they grow old.
    Lifecycle,
}

impl BucketAspect {
    /// All there are, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Versioning, Self::ObjectLock, Self::Encryption, Self::Lifecycle];

    /// The last part of the check's name.
    pub fn word(self) -> &'static str {
        match self {
            Self::Versioning => "versioning",
            Self::ObjectLock => "object-lock",
            Self::Encryption => "encryption",
            Self::Lifecycle => "lifecycle",
        }
    }

    /// The right that tells it.
    fn right(self) -> &'static str {
        match self {
            Self::Versioning => "s3:GetBucketVersioning",
            Self::ObjectLock => "s3:GetBucketObjectLockConfiguration",
            Self::Encryption => "s3:GetEncryptionConfiguration",
            Self::Lifecycle => "s3:GetLifecycleConfiguration",
        }
    }
}

pub(super) fn look(cx: &StepContext, store: &ObjectStore, s3: &S3Store, aspect: BucketAspect) -> Result<Seen> {
    let none = Expected::default();
    let expected = s3.expect.as_ref().unwrap_or(&none);
    let prefix = if s3.prefix.is_empty() { String::new() } else { format!("{}/", s3.prefix) };
    let seen = match aspect {
        BucketAspect::Versioning => {
            shown(store.told::<Versioning>(cx, "versioning")?, |told| versioning(&told, expected))
        }
        BucketAspect::ObjectLock => {
            shown(store.told::<ObjectLock>(cx, "object-lock")?, |told| object_lock(&told, expected))
        }
        BucketAspect::Encryption => {
            shown(store.told::<Encryption>(cx, "encryption")?, |told| encryption(&told, expected))
        }
        BucketAspect::Lifecycle => {
            shown(store.told::<Lifecycle>(cx, "lifecycle")?, |told| lifecycle(&told, expected, &prefix))
        }
    };
    Ok(seen.unwrap_or_else(|| {
        Seen::unknown(
            format!("store {}: whoever reads there may not see the bucket's {}", store.name(), aspect.word()),
            format!("give identity.read the right {}, or check it where somebody has it", aspect.right()),
        )
    }))
}

/// Judges what was told; a bucket that has nothing set is as one with an empty setting.
fn shown<T: Default>(told: Told<T>, judge: impl Fn(T) -> Seen) -> Option<Seen> {
    match told {
        Told::Set(told) => Some(judge(told)),
        Told::Nothing => Some(judge(T::default())),
        Told::Hidden => None,
    }
}

fn versioning(told: &Versioning, expected: &Expected) -> Seen {
    let is_on = told.status == "Enabled";
    let words = if is_on { "the bucket keeps versions" } else { "the bucket keeps no versions" };
    match expected.versioning {
        Some(wanted) if wanted != is_on => Seen::critical(
            format!("{words}; the environment expects {}", if wanted { "that it does" } else { "none" }),
            "set the bucket's versioning, or expect.versioning",
        ),
        _ => Seen::ok(words),
    }
}

fn object_lock(told: &ObjectLock, expected: &Expected) -> Seen {
    let retention = told.rule.as_ref().map(|rule| &rule.default_retention);
    let days = retention.filter(|_| told.object_lock_enabled == "Enabled").map_or(0, |retention| retention.in_days());
    let words = match retention {
        Some(retention) if days > 0 => format!("new objects are locked for {days} days ({})", retention.mode),
        _ if told.object_lock_enabled == "Enabled" => "objects can be locked, and new ones are not".to_owned(),
        _ => "the bucket has no Object Lock".to_owned(),
    };
    match expected.object_lock_days {
        Some(wanted) if wanted > days => Seen::critical(
            format!("{words}; the environment expects {wanted} days"),
            "set the bucket's default retention: whoever takes over a host that may remove can remove all backups",
        ),
        _ => Seen::ok(words),
    }
}

fn encryption(told: &Encryption, expected: &Expected) -> Seen {
    let algorithm = told.rule.first().map_or("", |rule| &rule.apply_server_side_encryption_by_default.algorithm);
    let words = match algorithm {
        "" => "the bucket says of no encryption".to_owned(),
        algorithm => format!("new objects are encrypted with {algorithm}"),
    };
    let is_met = match expected.encryption {
        None => true,
        // One with a key of its own is more than was asked for.
        Some(ServerSideEncryption::Aes256) => !algorithm.is_empty(),
        Some(ServerSideEncryption::AwsKms) => algorithm.starts_with("aws:kms"),
    };
    if is_met {
        return Seen::ok(words);
    }
    Seen::critical(format!("{words}; the environment expects another"), "set the bucket's default encryption")
}

fn lifecycle(told: &Lifecycle, expected: &Expected, prefix: &str) -> Seen {
    let ours: Vec<&LifecycleRule> = told.rule.iter().filter(|rule| rule.concerns(prefix)).collect();
    let (mut broken, mut doubtful, mut known) = (Vec::new(), Vec::new(), Vec::new());
    for rule in &ours {
        let expires = rule.expiration.as_ref().map(|of| (of.days, of.date.as_deref()));
        match (expires, expected.kept_days) {
            (Some((_, Some(date))), _) => broken.push(format!("rule {} removes objects at {date}", rule.id)),
            (Some((Some(days), None)), Some(kept)) if days < kept => {
                broken.push(format!("rule {} removes objects after {days} days, {kept} are expected", rule.id));
            }
            (Some((Some(days), None)), Some(_)) => {
                known.push(format!("rule {} removes objects after {days} days", rule.id))
            }
            // What removes objects leaves manifests of backups that are no more: nobody said that this is meant.
            (Some((Some(days), None)), None) => {
                doubtful.push(format!("rule {} removes objects after {days} days", rule.id))
            }
            // Markers of what was removed already.
            (Some((None, None)) | None, _) => {}
        }
        if let Some(days) = rule.noncurrent_version_expiration.as_ref().and_then(|of| of.noncurrent_days) {
            known.push(format!("rule {} removes what was replaced or removed after {days} days", rule.id));
        }
        for transition in
            rule.transition.iter().filter(|of| matches!(of.storage_class.as_str(), "GLACIER" | "DEEP_ARCHIVE"))
        {
            let words = format!(
                "rule {} moves objects to {} after {} days: a restore must wait until they are thawed",
                rule.id,
                transition.storage_class,
                transition.days.unwrap_or(0)
            );
            // Of manifests, too: then not even a list can be made.
            if rule.prefix().contains("/objects/") { known.push(words) } else { doubtful.push(words) }
        }
    }
    match ours.iter().find_map(|rule| rule.abort_incomplete_multipart_upload.as_ref()?.days_after_initiation) {
        Some(days) => known.push(format!("uploads that were cut off are removed after {days} days")),
        None => {
            doubtful.push("no rule removes uploads that were cut off: they cost money, and no list shows them".into())
        }
    }
    let all = |parts: [&[String]; 3]| parts.concat().join("; ");
    if !broken.is_empty() {
        return Seen::critical(all([&broken, &doubtful, &known]), "change the bucket's rules, or expect.kept-days");
    }
    if !doubtful.is_empty() {
        return Seen::warning(
            all([&doubtful, &known, &[]]),
            "let rules touch objects/ alone, say expect.kept-days, and have one that removes incomplete uploads",
        );
    }
    Seen::ok(all([&known, &[], &[]]))
}
