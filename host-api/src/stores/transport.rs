//! Requests to a store, signed by us.
//!
//! opendal hands them over unsigned. Below its concurrent parts and its retries there is one place where every request passes, so this is where
//! a refusal can be answered: the secrets are read again at once, and if they are others now, the same request is signed with those and sent
//! once more. A request that was refused had no effect, so that is always sound; opendal itself gives up a whole upload at the first refusal of a part.

use std::sync::{Arc, Mutex, PoisonError};

use http::{Request, Response};
use opendal::raw::oio::ReadStream;
use opendal::{Buffer, ErrorKind, HttpBody, HttpTransport, HttpTransporter};
use reqsign_core::{Context, OsEnv, Signer, SigningCredential};

use super::clock::StoreClock;
use super::secrets::{Held, Texts};

/// Most of an error's text that is taken from a store, bytes.
const ERROR_BYTES_MAX: usize = 64 * 1024;
/// Most of an answer that was not asked for by range, bytes: a page of a listing, or what a bucket says of itself. Its pages hold a thousand names.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Said of an answer that is longer than any that makes sense.
pub(super) const TOO_MUCH: &str = "the store sends more than it was asked for";
/// The stores' own words for secrets that were good and are no longer.
const EXPIRED: [&str; 7] = [
    "ExpiredToken",
    "InvalidToken",
    "TokenRefreshRequired",
    "RequestExpired",
    "ExpiredTokenException",
    "AuthenticationFailed",
    "InvalidAuthenticationInfo",
];
/// Refusals that say nothing about who asks: an object that must be thawed first, a clock that is wrong.
const NOT_ABOUT_SECRETS: [&str; 2] = ["InvalidObjectState", "RequestTimeTooSkewed"];

/// Makes a signer of secrets.
type Build<K> = dyn Fn(&Texts, Context) -> reqsign_core::Result<Signer<K>> + Send + Sync;

/// Signs and sends.
pub(super) struct Transport<K: SigningCredential> {
    inner: HttpTransporter,
    /// Is told what every answer says the time is.
    clock: StoreClock,
    /// None: whatever the machine has.
    held: Option<Arc<Held>>,
    /// Whether what signs is derived from the secrets, by asking somebody: then it may end while they stay the same.
    is_derived: bool,
    /// Where requests may go, if the store itself says where some of them should: its word must not send what signs elsewhere.
    only: Option<String>,
    build: Box<Build<K>>,
    /// Of the secrets that were used last: it keeps what it was given for them.
    signer: Mutex<Option<(Texts, Signer<K>)>>,
}

impl<K: SigningCredential> Transport<K> {
    pub(super) fn new(
        (inner, clock): (HttpTransporter, StoreClock),
        held: Option<Arc<Held>>,
        build: impl Fn(&Texts, Context) -> reqsign_core::Result<Signer<K>> + Send + Sync + 'static,
    ) -> Self {
        let is_derived = held.is_none();
        Self { inner, clock, held, is_derived, only: None, build: Box::new(build), signer: Mutex::default() }
    }

    /// What signs is a token that somebody gives for the secrets.
    pub(super) fn derived(self, is_derived: bool) -> Self {
        Self { is_derived: self.is_derived || is_derived, ..self }
    }

    /// Sends nothing to any other host and port than those of this URL.
    pub(super) fn only_to(self, url: &str) -> Self {
        Self { only: Some(authority(&url.parse().unwrap_or_default())), ..self }
    }

    /// The secrets as they are, or as they are after the store has refused some.
    async fn texts(&self, refused: Option<Texts>) -> opendal::Result<Texts> {
        let Some(held) = self.held.clone() else { return Ok(Texts::new()) };
        let read = move || {
            let texts = refused.map_or_else(|| held.read(), |used| held.renewed(&used));
            held.note(texts.as_ref().err().cloned());
            texts
        };
        match tokio::task::spawn_blocking(read).await {
            Ok(Ok(texts)) => Ok(texts),
            Ok(Err(_)) => Err(config("the secrets of this identity can't be read")),
            Err(_) => Err(config("reading the secrets of this identity was stopped")),
        }
    }

    fn signer(&self, texts: &Texts) -> opendal::Result<Signer<K>> {
        let mut kept = self.signer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, signer)) = &*kept
            && of == texts
        {
            return Ok(signer.clone());
        }
        let context = Context::new()
            .with_file_read(reqsign_file_read_tokio::TokioFileRead)
            .with_http_send(self.inner.clone())
            .with_env(OsEnv);
        let signer = (self.build)(texts, context).map_err(|e| unsigned(&e))?;
        *kept = Some((texts.clone(), signer.clone()));
        Ok(signer)
    }

    async fn send(&self, texts: &Texts, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let (mut parts, body) = request.into_parts();
        if self.only.as_ref().is_some_and(|only| *only != authority(&parts.uri)) {
            return Err(config("the store sends us to another host"));
        }
        self.signer(texts)?.sign(&mut parts, None).await.map_err(|e| unsigned(&e))?;
        // The client sets it by the version of HTTP that is spoken.
        parts.headers.remove(http::header::HOST);
        let bytes_max = asked_for(&parts.headers);
        let answer = self.inner.fetch(Request::from_parts(parts, body)).await?;
        self.clock.note(answer.headers());
        Ok(bounded(answer, bytes_max))
    }
}

impl<K: SigningCredential> HttpTransport for Transport<K> {
    async fn fetch(&self, request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let texts = self.texts(None).await?;
        let (answer, said) = said(self.send(&texts, request.clone()).await?).await?;
        let status = answer.status().as_u16();
        // Of any other status, a word in what it says is no refusal: it may have had its effect.
        let is_expired = status == 401 || matches!(status, 400 | 403) && EXPIRED.iter().any(|word| said.contains(word));
        let is_refused = is_expired || status == 403 && !NOT_ABOUT_SECRETS.iter().any(|word| said.contains(word));
        if !is_refused {
            return Ok(answer);
        }
        let renewed = self.texts(Some(texts.clone())).await?;
        if renewed == texts {
            // Asked anew for what is derived only where that has ended: a right that is missing stays missing.
            if !(self.is_derived && is_expired) {
                return Ok(answer);
            }
            *self.signer.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
        self.send(&renewed, request).await
    }
}

/// How many bytes the answer may have.
fn asked_for(headers: &http::HeaderMap) -> u64 {
    let range = headers.get(http::header::RANGE).and_then(|range| range.to_str().ok());
    let ends = range.and_then(|range| range.strip_prefix("bytes=")?.split_once('-'));
    let bytes = ends.and_then(|(from, to)| to.parse::<u64>().ok()?.checked_sub(from.parse().ok()?)?.checked_add(1));
    bytes.unwrap_or(0).max(ANSWER_BYTES_MAX)
}

/// The same answer, with an error in place of what is more than so many bytes: whoever sends without an end must not fill our memory.
fn bounded(answer: Response<HttpBody>, bytes_max: u64) -> Response<HttpBody> {
    answer.map(|body| {
        let chunks = futures::stream::try_unfold((body, bytes_max), |(mut body, left)| async move {
            let chunk = body.read().await?;
            if chunk.is_empty() {
                return Ok(None);
            }
            match left.checked_sub(chunk.len() as u64) {
                Some(left) => Ok(Some((chunk, (body, left)))),
                None => Err(opendal::Error::new(ErrorKind::Unexpected, TOO_MUCH)),
            }
        });
        HttpBody::new(Box::pin(chunks), None)
    })
}

/// What an answer that is an error says, bounded; the answer is as it was.
async fn said(answer: Response<HttpBody>) -> opendal::Result<(Response<HttpBody>, String)> {
    if answer.status().is_success() || answer.status().is_informational() {
        return Ok((answer, String::new()));
    }
    let (parts, body) = answer.into_parts();
    let mut bytes = Vec::new();
    let mut body = body;
    // An error that was cut short is an error all the same: its status says so.
    while let Ok(chunk) = body.read().await
        && !chunk.is_empty()
    {
        bytes.extend_from_slice(&chunk.to_bytes());
        if bytes.len() > ERROR_BYTES_MAX {
            bytes.truncate(ERROR_BYTES_MAX);
            break;
        }
    }
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = HttpBody::new(futures::stream::iter([Ok(Buffer::from(bytes))]), None);
    Ok((Response::from_parts(parts, body), text))
}

/// `https://host:port`, with the port only if it is named.
fn authority(uri: &http::Uri) -> String {
    format!("{}://{}", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |of| of.as_str()))
}

fn config(what: &str) -> opendal::Error {
    opendal::Error::new(ErrorKind::Unexpected, what)
}

/// Why a request could not be signed. What the signer says may quote secrets: it is not passed on.
fn unsigned(e: &reqsign_core::Error) -> opendal::Error {
    let what = format!("the request could not be signed ({:?})", e.kind());
    opendal::Error::new(ErrorKind::Unexpected, what).with_temporary(e.is_retryable())
}
