//! Asking a service over HTTP, and holding its answer against expectations.
//!
//! | part | what |
//! | --- | --- |
//! | [`path`] | paths that have one reading only; the grants compare their prefixes |
//! | `expectations` | what an answer must be, in words where it is not |
//! | `client` | one request: TLS roots and secrets of the environment, no proxy, no redirect, bounded time and size |
//!
//! An answer's body never leaves this module: a policy learns whether its expectations held, the status, and the captures that the
//! environment defines.

mod client;
mod expectations;
pub mod path;
#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::bindings::{Endpoint, fill};
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};
use crate::real::RealHost;

pub(crate) use client::{Call, Clients, Target, certificates, check_tls, readable_certificates};
pub(crate) use expectations::unequal;
pub use path::{CheckedPath, checked_path, under};

/// One request and what its answer must be: the contract's `http-check.request`. Each `add-` call of the contract is one entry
/// of the list of that name, its arguments in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default, deny_unknown_fields)]
pub struct Request {
    /// Method, upper case.
    pub method: String,
    /// Path with an optional query.
    pub path: String,
    /// JSON text of the body.
    pub body_json: Option<String>,
    /// Expected status; none: 200 to 299.
    pub status: Option<u16>,
    /// Pointer, JSON text.
    pub json_equals: Vec<(String, String)>,
    /// Pointer.
    pub json_exists: Vec<String>,
    /// Pointer, operator, number.
    pub json_compare: Vec<(String, String, i64)>,
    /// Pointer, text that it must sort before.
    pub json_before: Vec<(String, String)>,
    /// Texts that must be there.
    pub body_contains: Vec<String>,
    /// Attempts (at most 100), first wait in milliseconds (doubled each time, at most 10 s). Without it there is one attempt.
    ///
    /// Each attempt of a request that changes something carries the same `Idempotency-Key`. A service that ignores the key may act
    /// once for every attempt, also for one whose answer was lost: ask for attempts only where that is fine.
    pub attempts: Option<(u32, u32)>,
    /// For each attempt: 10 s if not given, at most 60 s.
    pub timeout_ms: Option<u32>,
}

/// What of the request's expectations an answer does not meet, as it is told to a policy; nothing is sent.
///
/// # Errors
///
/// If the request makes no sense in itself.
pub fn unmet(request: &Request, status: u16, body: &[u8]) -> crate::Result<Vec<String>> {
    expectations::check(request)?;
    Ok(expectations::failures(request, status, body))
}

/// What came of it: the contract's `http-check.observation`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Observation {
    /// Every expectation held.
    pub passed: bool,
    /// Status of the last answer.
    pub status: Option<u16>,
    /// Which expectations did not hold, in words.
    pub failures: Vec<String>,
    /// Values the environment lets out.
    pub captures: Vec<(String, String)>,
    /// How many tries it took.
    pub attempts: u32,
    /// How long all of them took.
    pub elapsed_ms: u64,
}

/// Asking over HTTP.
#[async_trait]
pub trait HttpCheck: Send + Sync {
    /// `endpoint`: `SERVICE/NAME` for the live service, `INSTANCE-ID/NAME` for one in quarantine. `idempotency_key` goes with methods
    /// that change something.
    async fn check(
        &self,
        cx: &StepContext,
        endpoint: &str,
        request: &Request,
        idempotency_key: &str,
    ) -> Result<Observation>;
}

/// More tries than this are a loop, not a check.
const ATTEMPTS_MAX: u32 = 100;
/// Without a pause, the tries would be over before anything can have changed.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// A longer wait only makes the answer later.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Time for an attempt of a request that does not say.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(10);
/// A check is a question to a live service; one that takes longer than this is no answer.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// A capture that applies to a request.
struct Captured<'a> {
    name: &'a str,
    pointer: &'a str,
}

/// An endpoint's name, resolved.
pub(crate) struct Resolved<'a> {
    /// Under which its client is cached.
    key: String,
    pub(crate) endpoint: &'a Endpoint,
    url: String,
    /// Set for a service in quarantine.
    pub(crate) instance: Option<String>,
}

impl RealHost {
    pub(crate) fn resolve(&self, endpoint: &str) -> Result<Resolved<'_>> {
        let Some((owner, name)) = endpoint.split_once('/') else {
            return Err(Error::invalid(format!("`{}` is no endpoint", crate::identifier::shown(endpoint)))
                .hint("SERVICE/NAME for the live service, INSTANCE-ID/NAME for one in quarantine"));
        };
        let running = self.find_instance(owner, |r| (r.instance.service.clone(), r.instance.port))?;
        let service = running.as_ref().map_or(owner, |(service, _)| service);
        let endpoints = &self.service(service)?.endpoint;
        let endpoint =
            endpoints.get(name).ok_or_else(|| Error::unknown("endpoint", name, endpoints.keys()).context(service))?;
        let key = format!("{service}/{name}");
        Ok(match running {
            None => Resolved { key, endpoint, url: endpoint.url.clone(), instance: None },
            Some((_, port)) => {
                let url = scratch_url(endpoint, port)?;
                Resolved { key, endpoint, url, instance: Some(owner.to_owned()) }
            }
        })
    }

    /// How a service in quarantine has ended; none while it runs.
    fn ended(&self, instance: Option<&String>) -> Option<String> {
        let mut instances = self.instances.lock().expect("no panic while held");
        match instances.get_mut(instance?) {
            Some(running) => running.process.ended().map(str::to_owned),
            None => Some("stopped meanwhile".into()),
        }
    }
}

/// Base URL of an endpoint of a scratch instance on this port.
pub(crate) fn scratch_url(endpoint: &Endpoint, port: u16) -> Result<String> {
    fill(&endpoint.scratch_url, &[("port".to_owned(), port.to_string())].into())
}

#[async_trait]
impl HttpCheck for RealHost {
    async fn check(
        &self,
        cx: &StepContext,
        endpoint: &str,
        request: &Request,
        idempotency_key: &str,
    ) -> Result<Observation> {
        cx.check()?;
        expectations::check(request)?;
        let path = checked_path(&request.path)?;
        let (count, backoff_ms) = request.attempts.unwrap_or((1, 0));
        if count == 0 {
            return Err(Error::invalid("a check needs at least one attempt"));
        }
        let resolved = self.resolve(endpoint)?;
        let wanted = wanted(resolved.endpoint, &request.method, &path);
        let target = self.http.target(&resolved.key, resolved.endpoint, &resolved.url)?;
        let call = Call {
            method: &request.method,
            path: &path,
            body_json: request.body_json.as_deref(),
            idempotency_key: (!matches!(request.method.as_str(), "GET" | "HEAD")).then_some(idempotency_key),
            timeout: request
                .timeout_ms
                .map_or(TIMEOUT_DEFAULT, |ms| Duration::from_millis(u64::from(ms)))
                .clamp(Duration::from_millis(1), TIMEOUT_MAX),
        };

        let began = Instant::now();
        let mut backoff = Duration::from_millis(u64::from(backoff_ms)).clamp(BACKOFF_MIN, BACKOFF_MAX);
        let mut seen = Observation::default();
        let count = count.min(ATTEMPTS_MAX);
        while seen.attempts < count {
            seen.attempts += 1;
            (seen.status, seen.failures) = (None, Vec::new());
            // Another process may have the port of one that has ended.
            match self.ended(resolved.instance.as_ref()) {
                Some(how) => seen.failures.push(format!("the service in quarantine has ended: {how}")),
                None => self.attempt(cx, &target, &call, request, &wanted, &resolved, &mut seen).await?,
            }
            seen.passed = seen.failures.is_empty();
            if seen.passed || seen.attempts == count {
                break;
            }
            if backoff >= cx.remaining() {
                seen.failures.push("the deadline left no time for another attempt".into());
                break;
            }
            pause(cx, backoff).await?;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
        seen.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(seen)
    }
}

impl RealHost {
    #[allow(clippy::too_many_arguments, reason = "one attempt of the loop above, with all it knows")]
    async fn attempt(
        &self,
        cx: &StepContext,
        target: &Target,
        call: &Call<'_>,
        request: &Request,
        wanted: &[Captured<'_>],
        resolved: &Resolved<'_>,
        seen: &mut Observation,
    ) -> Result<()> {
        let reply = target.send(cx, call).await?;
        seen.status = reply.status;
        match reply.body {
            Err(why) => seen.failures.push(why),
            Ok(body) => {
                seen.failures = expectations::failures(request, reply.status.unwrap_or_default(), &body);
                if seen.failures.is_empty() {
                    (seen.captures, seen.failures) = expectations::captures(wanted, &body);
                }
                if !seen.failures.is_empty() {
                    seen.captures.clear();
                }
            }
        }
        if let Some(how) = self.ended(resolved.instance.as_ref()) {
            seen.failures.push(format!("the service in quarantine has ended: {how}"));
            seen.captures.clear();
        }
        Ok(())
    }
}

/// The captures of an endpoint that apply to a request: method, path and query are the same.
fn wanted<'a>(endpoint: &'a Endpoint, method: &str, path: &CheckedPath) -> Vec<Captured<'a>> {
    let applies = |capture: &crate::bindings::Capture| {
        capture.method == method && checked_path(&capture.path).is_ok_and(|captured| captured == *path)
    };
    endpoint
        .capture
        .iter()
        .filter(|(_, capture)| applies(capture))
        .map(|(name, capture)| Captured { name, pointer: &capture.pointer })
        .collect()
}

/// Sleeps, unless the run is cancelled meanwhile; wakes at the deadline.
pub(crate) async fn pause(cx: &StepContext, time: Duration) -> Result<()> {
    tokio::select! {
        error = cancelled(cx) => Err(error),
        () = tokio::time::sleep(time.min(cx.remaining())) => Ok(()),
    }
}

/// Answers when the run is cancelled, and only then: deadlines are the business of whoever waits.
async fn cancelled(cx: &StepContext) -> Error {
    loop {
        if let Err(error) = cx.check()
            && error.kind == ErrorKind::Cancelled
        {
            return error;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}
