//! Objects of S3 that a rule has moved to an archived storage class: asked back for some days, and waited for. opendal has no calls for this, so
//! each is one request of our own, signed by the transport that opendal's requests go through.
//!
//! Asking twice is the same as asking once: the store itself keeps what was asked for, so a step that begins again finds it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request};
use opendal::HttpTransporter;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::answer::Answer;
use super::remote::Remote;
use super::{Backend, ObjectStore};
use crate::bindings::Thaw;
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};

/// How often it is asked whether they can be read: the fastest takes minutes.
const ASK_INTERVAL: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(30) };
/// How often a wait looks whether its step should end.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How often in a row looking at one object may fail while it is waited: a store is away now and then in hours.
const FAILURES_MAX: usize = 10;
/// How often a request is sent again before anything is waited for, as with any other.
const RETRIES_MAX: u32 = 5;
/// How long after the first failure; doubled with each.
const RETRY_AFTER: Duration = if cfg!(test) { Duration::from_millis(5) } else { Duration::from_millis(500) };
/// Said where a tier has no room: the next one that is asked for so has none either.
const NO_CAPACITY: &str = "GlacierExpeditedRetrievalNotAvailable";
/// What stands in a path as it is.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'/').remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How it is done in one store.
pub(super) struct Thawing {
    /// Signs as whoever reads.
    pub(super) transport: HttpTransporter,
    /// What an object's own URL begins with.
    pub(super) url: String,
    /// What to ask for.
    pub(super) thaw: Thaw,
    /// How long one answer may take.
    pub(super) timeout: Duration,
}

/// An object that can't be read yet.
struct Waiting<'a> {
    key: &'a str,
    /// In a row.
    failures: usize,
}

/// Whether an object can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Readable,
    /// Nobody has asked for it.
    Archived,
    /// Somebody has.
    Thawing,
}

impl ObjectStore {
    /// Asks for those of these objects that are archived, and waits until all can be read or the step ends. Where the environment does not say
    /// that it may be asked, nothing is: reading then says what to do. What is not there is left to whoever reads as well.
    pub(crate) fn thaw(&self, cx: &StepContext, keys: &[&str]) -> Result<()> {
        match &self.backend {
            Backend::Remote(remote) => remote.thawing.as_ref().map_or(Ok(()), |thawing| thawing.all(remote, cx, keys)),
            Backend::Directory(_) => Ok(()),
        }
    }
}

impl Thawing {
    fn all(&self, remote: &Arc<Remote>, cx: &StepContext, keys: &[&str]) -> Result<()> {
        let mut waiting = Vec::new();
        // All are asked for before any is waited for: they thaw side by side.
        for key in keys {
            let look = self.patiently(cx, || self.look(remote, cx, key));
            let standing = match look.and_then(|answer| self.standing(remote, key, &answer)) {
                Err(e) if e.kind == ErrorKind::NotFound => continue,
                other => other.map_err(|e| self.go_on(e, &waiting))?,
            };
            if standing == Standing::Archived {
                let asked = self.patiently(cx, || self.ask(remote, cx, key));
                asked.and_then(|answer| self.asked(remote, key, &answer)).map_err(|e| self.go_on(e, &waiting))?;
            }
            if standing != Standing::Readable {
                waiting.push(Waiting { key, failures: 0 });
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let (tier, takes) = (self.thaw.tier.word(), self.thaw.tier.takes());
        // Where nobody looks at a terminal, hours of silence would look like a hang.
        tracing::warn!("store {}: {} archived objects are thawing: {tier} takes {takes}", remote.name(), waiting.len());
        self.wait(remote, cx, &mut waiting).map_err(|e| self.go_on(e, &waiting))
    }

    fn wait(&self, remote: &Arc<Remote>, cx: &StepContext, waiting: &mut Vec<Waiting<'_>>) -> Result<()> {
        let (began, count) = (Instant::now(), waiting.len());
        while !waiting.is_empty() {
            let words = format!(
                "thaw {} of {count} archived objects in {}: {} takes {}, {} min so far",
                waiting.len(),
                remote.name(),
                self.thaw.tier.word(),
                self.thaw.tier.takes(),
                began.elapsed().as_secs() / 60
            );
            cx.report(&words, (count - waiting.len()) as u64, None);
            pause(cx, ASK_INTERVAL).map_err(|e| e.context(format!("store {}", remote.name())))?;
            let mut at = 0;
            while at < waiting.len() {
                let key = waiting[at].key;
                match self.look(remote, cx, key).and_then(|answer| self.standing(remote, key, &answer)) {
                    Ok(Standing::Readable) => drop(waiting.swap_remove(at)),
                    Ok(_) => {
                        waiting[at].failures = 0;
                        at += 1;
                    }
                    Err(e) if waiting[at].failures == FAILURES_MAX || cx.check().is_err() => return Err(e),
                    Err(_) => {
                        waiting[at].failures += 1;
                        at += 1;
                    }
                }
            }
        }
        Ok(())
    }

    /// The same, with what becomes of those that were asked for.
    fn go_on(&self, error: Error, waiting: &[Waiting<'_>]) -> Error {
        if waiting.is_empty() {
            return error;
        }
        error.hint_more(&format!(
            "what was asked for goes on thawing, and stays readable for {} days: try again later ({} takes {}), or give the step more time: deadline-s of the policy, and lease-s where the state is shared",
            self.thaw.days,
            self.thaw.tier.word(),
            self.thaw.tier.takes()
        ))
    }

    /// Sends again what got no answer, or one that may be another in a moment.
    fn patiently(&self, cx: &StepContext, send: impl Fn() -> Result<Answer>) -> Result<Answer> {
        let mut after = RETRY_AFTER;
        for _ in 0..RETRIES_MAX {
            cx.check()?;
            match send() {
                Err(e) if e.kind == ErrorKind::Failed => {}
                Ok(answer) if matches!(answer.status, 429 | 500..) && answer.code() != NO_CAPACITY => {}
                other => return other,
            }
            pause(cx, after)?;
            after *= 2;
        }
        send()
    }

    fn look(&self, remote: &Remote, cx: &StepContext, key: &str) -> Result<Answer> {
        self.send(remote, cx, Method::HEAD, key, "", String::new())
    }

    fn standing(&self, remote: &Remote, key: &str, answer: &Answer) -> Result<Standing> {
        let header = |name: &str| answer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if answer.status != 200 {
            return Err(self.refused(remote, "looking at", key, answer));
        }
        let is_archived = matches!(header("x-amz-storage-class"), "GLACIER" | "DEEP_ARCHIVE")
            || !header("x-amz-archive-status").is_empty();
        let asked = header("x-amz-restore");
        Ok(match () {
            () if asked.contains("ongoing-request=\"true\"") => Standing::Thawing,
            () if is_archived && !asked.contains("ongoing-request=\"false\"") => Standing::Archived,
            () => Standing::Readable,
        })
    }

    fn ask(&self, remote: &Remote, cx: &StepContext, key: &str) -> Result<Answer> {
        let body = format!(
            "<RestoreRequest xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Days>{}</Days>\
             <GlacierJobParameters><Tier>{}</Tier></GlacierJobParameters></RestoreRequest>",
            self.thaw.days,
            self.thaw.tier.protocol()
        );
        self.send(remote, cx, Method::POST, key, "?restore", body)
    }

    fn asked(&self, remote: &Remote, key: &str, answer: &Answer) -> Result<()> {
        match answer.status {
            200 | 202 => Ok(()),
            // Somebody else asked in between, or we did, and were not told.
            409 if answer.code() == "RestoreAlreadyInProgress" => Ok(()),
            _ => Err(self.refused(remote, "asking for", key, answer)),
        }
    }

    fn refused(&self, remote: &Remote, doing: &str, key: &str, answer: &Answer) -> Error {
        let code = crate::identifier::shown(answer.code());
        let message = format!("store {}: {doing} {key}: status {} {code}", remote.name(), answer.status);
        let error = Error::failed(message);
        match answer.status {
            401 | 403 => Error::refused(error.message)
                .hint("thawing needs s3:RestoreObject for identity.read, beside s3:GetObject"),
            404 => Error::new(ErrorKind::NotFound, error.message),
            503 if answer.code() == NO_CAPACITY => error.hint("take another tier: `thaw.tier` of the store"),
            _ => error,
        }
    }

    fn send(
        &self,
        remote: &Remote,
        cx: &StepContext,
        method: Method,
        key: &str,
        query: &str,
        body: String,
    ) -> Result<Answer> {
        let url = format!("{}{}{query}", self.url, utf8_percent_encode(key, IN_PATH));
        let request = Request::builder().method(method).uri(&url);
        let answer = async {
            tokio::time::timeout(self.timeout, Answer::of(&self.transport, request, body)).await.unwrap_or_else(|_| {
                let what = format!("no answer within {} s", self.timeout.as_secs_f32());
                Err(opendal::Error::new(opendal::ErrorKind::Unexpected, what))
            })
        };
        remote.asked(cx, key, answer)
    }
}

fn pause(cx: &StepContext, pause: Duration) -> Result<()> {
    let end = Instant::now() + pause;
    while Instant::now() < end {
        cx.check()?;
        std::thread::sleep(LOOK_INTERVAL.min(end.saturating_duration_since(Instant::now())));
    }
    Ok(())
}
