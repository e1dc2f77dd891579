//! One HTTP request of a check: what it trusts, what it carries, and how long and how much it may take.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use url::Url;

use super::path::CheckedPath;
use crate::bindings::Endpoint;
use crate::context::StepContext;
use crate::error::{Context, Error, Result};

/// An answer longer than this is none that a check can hold against anything.
pub(super) const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One client an endpoint, made when it is first asked, and again when its certificates have changed.
#[derive(Default)]
pub(crate) struct Clients {
    made: Mutex<BTreeMap<String, (Stamps, reqwest::Client)>>,
}

/// Sizes and times of the files that a client was made from.
type Stamps = Vec<Option<(u64, SystemTime)>>;

/// An endpoint that can be asked: its client, base URL and secrets.
pub(crate) struct Target {
    client: reqwest::Client,
    base: Url,
    headers: HeaderMap,
}

/// One request.
pub(crate) struct Call<'a> {
    pub(crate) method: &'a str,
    pub(crate) path: &'a CheckedPath,
    pub(crate) body_json: Option<&'a str>,
    pub(crate) idempotency_key: Option<&'a str>,
    /// From the connection's beginning to the body's last byte.
    pub(crate) timeout: Duration,
}

/// What came back.
pub(crate) struct Reply {
    /// None: there was no answer.
    pub(crate) status: Option<u16>,
    /// The whole body; or why there is none, in words that name no host and hold no secret.
    pub(crate) body: Result<Vec<u8>, String>,
}

impl Clients {
    /// An endpoint at this base URL. Its secrets are read each time, so that a changed one is used.
    pub(crate) fn target(&self, key: &str, endpoint: &Endpoint, url: &str) -> Result<Target> {
        let base = base_url(url).map_err(|e| e.context(format!("endpoint {key}")))?;
        let mut headers = HeaderMap::new();
        for (name, secret) in &endpoint.header {
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Error::invalid(format!("endpoint {key}: `{name}` is no header's name")))?;
            let value = secret.read().map_err(|e| e.context(format!("endpoint {key}, header {name}")))?;
            let mut value = HeaderValue::from_str(&value).map_err(|_| {
                Error::invalid(format!("endpoint {key}: the secret for {name} has characters no header may have"))
                    .hint("one line, without control characters")
            })?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        Ok(Target { client: self.client(key, endpoint)?, base, headers })
    }

    fn client(&self, key: &str, endpoint: &Endpoint) -> Result<reqwest::Client> {
        let stamps =
            [&endpoint.ca_file, &endpoint.client_identity_file].map(|path| path.as_deref().and_then(stamp)).to_vec();
        let mut made = self.made.lock().expect("no panic while held");
        if let Some((of, client)) = made.get(key)
            && *of == stamps
        {
            return Ok(client.clone());
        }
        let client = build(endpoint).map_err(|e| e.context(format!("endpoint {key}")))?;
        made.insert(key.to_owned(), (stamps, client.clone()));
        Ok(client)
    }
}

impl Target {
    /// Sends a request and reads its answer. An error is a request that makes no sense, or a cancelled run; that nobody answers is
    /// an answer.
    pub(crate) async fn send(&self, cx: &StepContext, call: &Call<'_>) -> Result<Reply> {
        cx.check()?;
        let request = self.request(call)?;
        let timeout = call.timeout.min(cx.remaining());
        let mut status = None;
        let body = tokio::select! {
            error = super::cancelled(cx) => return Err(error),
            body = before(Instant::now() + timeout, self.exchange(request, &mut status)) => body,
        };
        let body = body.unwrap_or_else(|| {
            let what = if status.is_some() { "the answer did not end" } else { "no answer" };
            Err(format!("{what} within {} ms", timeout.as_millis()))
        });
        Ok(Reply { status, body })
    }

    fn request(&self, call: &Call<'_>) -> Result<reqwest::Request> {
        let method = reqwest::Method::from_bytes(call.method.as_bytes())
            .map_err(|_| Error::invalid(format!("`{}` is no method", crate::identifier::shown(call.method))))?;
        let mut url = self.base.clone();
        let base_path = self.base.path().trim_end_matches('/');
        let written = call.path.written();
        let (path, query) = written.split_once('?').map_or((written.as_str(), None), |(p, q)| (p, Some(q)));
        let path = format!("{base_path}{path}");
        url.set_path(&path);
        url.set_query(query);
        // The grants compared the checked path: what is sent must be that, whatever the URL's own rules make of it.
        if url.path() != path {
            return Err(Error::invalid(format!(
                "the path `{}` would be changed on its way",
                crate::identifier::shown(&path)
            )));
        }
        let mut request = reqwest::Request::new(method, url);
        *request.headers_mut() = self.headers.clone();
        if let Some(key) = call.idempotency_key {
            let key = HeaderValue::from_str(key)
                .map_err(|_| Error::invalid("the idempotency key has characters no header may have"))?;
            request.headers_mut().insert("idempotency-key", key);
        }
        if let Some(body) = call.body_json {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(body.to_owned().into());
        }
        Ok(request)
    }

    async fn exchange(&self, request: reqwest::Request, status: &mut Option<u16>) -> Result<Vec<u8>, String> {
        let mut response = self.client.execute(request).await.map_err(|e| words(&e))?;
        *status = Some(response.status().as_u16());
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(None) => return Ok(body),
                Ok(Some(chunk)) if body.len() + chunk.len() > BODY_BYTES_MAX => {
                    return Err(format!("the answer is larger than {BODY_BYTES_MAX} bytes"));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Err(_) => return Err("the answer broke off".into()),
            }
        }
    }
}

/// Drives something to its end, and not one step further once a time has come: a process that was stopped between connecting and sending sends
/// nothing that is late. None: it was not over by then.
async fn before<T>(end: Instant, what: impl Future<Output = T>) -> Option<T> {
    let mut what = std::pin::pin!(what);
    let in_time = std::future::poll_fn(|task| match Instant::now() < end {
        true => what.as_mut().poll(task),
        false => Poll::Pending,
    });
    tokio::time::timeout_at(end.into(), in_time).await.ok()
}

fn base_url(text: &str) -> Result<Url> {
    let shown = crate::identifier::shown(text);
    let url = Url::parse(text).map_err(|e| Error::invalid(format!("`{shown}` is no URL: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(Error::invalid(format!("`{shown}` is no http or https URL with a host")));
    }
    // Not shown: it may hold a password.
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::invalid("the URL holds a user or password").hint("put it into `header`, as a secret"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(Error::invalid(format!("`{shown}` has a query or fragment")));
    }
    Ok(url)
}

fn stamp(path: &Path) -> Option<(u64, SystemTime)> {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.len(), meta.modified().ok()?))
}

fn build(endpoint: &Endpoint) -> Result<reqwest::Client> {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls(endpoint)?)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .http1_only()
        .referer(false)
        // A kept connection to a service that was restarted meanwhile would fail a request that is not repeated.
        .pool_max_idle_per_host(0)
        .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
        .build()
        .doing(|| "preparing HTTP".into())
}

/// TLS that trusts the roots of the environment and no others.
fn tls(endpoint: &Endpoint) -> Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    if let Some(path) = &endpoint.ca_file {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|_| {
                Error::invalid(format!("{}: a certificate in it can't be used as a root", path.display()))
            })?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .doing(|| "preparing TLS".into())?
        .with_root_certificates(roots);
    let Some(path) = &endpoint.client_identity_file else { return Ok(builder.with_no_client_auth()) };
    let chain = certificates(path)?;
    // The file's content, a private key, stands in no error.
    let key = PrivateKeyDer::from_pem_file(path)
        .map_err(|_| Error::invalid(format!("{}: no private key can be read from it", path.display())))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|_| Error::invalid(format!("{}: its certificate and key do not fit together", path.display())))
}

/// An error unless an endpoint's roots and client certificate can be read and used.
pub(crate) fn check_tls(endpoint: &Endpoint) -> Result<()> {
    tls(endpoint).map(drop)
}

/// An error unless a file has certificates.
pub(crate) fn readable_certificates(path: &Path) -> Result<()> {
    certificates(path).map(drop)
}

pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = |why: String| {
        Error::invalid(format!("{}: {why}", path.display())).hint("a PEM file with at least one certificate")
    };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|_| unreadable("no certificates can be read from it".into()))?;
    if found.is_empty() {
        return Err(unreadable("there is no certificate in it".into()));
    }
    Ok(found)
}

/// Why there is no answer, in words of ours: the library's own would name hosts and URLs.
fn words(error: &reqwest::Error) -> String {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(words) = cause_words(cause) {
            return words;
        }
        source = cause.source();
    }
    if error.is_connect() {
        "could not connect".into()
    } else {
        "no usable answer: it broke off, or is not HTTP".into()
    }
}

fn cause_words(cause: &(dyn std::error::Error + 'static)) -> Option<String> {
    if let Some(tls) = cause.downcast_ref() {
        return Some(tls_words(tls));
    }
    let io = cause.downcast_ref::<std::io::Error>()?;
    match io.kind() {
        std::io::ErrorKind::ConnectionRefused => Some("connection refused".into()),
        std::io::ErrorKind::ConnectionReset => Some("the connection was reset".into()),
        // An I/O error that wraps another does not give it as its source, but that one's own source.
        _ => io.get_ref().and_then(|inner| cause_words(inner)),
    }
}

fn tls_words(error: &rustls::Error) -> String {
    use rustls::CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(Bad::UnknownIssuer | Bad::BadSignature) => {
            "TLS: no root in `ca-file` signed its certificate".into()
        }
        rustls::Error::InvalidCertificate(Bad::Expired | Bad::ExpiredContext { .. }) => {
            "TLS: its certificate has expired".into()
        }
        rustls::Error::InvalidCertificate(Bad::NotValidForName | Bad::NotValidForNameContext { .. }) => {
            "TLS: its certificate is for another name".into()
        }
        rustls::Error::InvalidCertificate(_) => "TLS: its certificate is not accepted".into(),
        rustls::Error::AlertReceived(alert) => format!("TLS: it refused us: {alert:?}"),
        _ => "TLS: the handshake failed".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_late_is_not_driven_one_step_further() {
        let mut driven = false;
        assert_eq!(before(Instant::now(), async { driven = true }).await, None);
        assert!(!driven);
        assert_eq!(before(Instant::now() + Duration::from_secs(60), async { 7 }).await, Some(7));
    }
}
