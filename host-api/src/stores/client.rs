//! The way over HTTP to stores that are somewhere else: our TLS, no redirects, nothing sent twice by itself.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use opendal::layers::{RetryEvent, RetryLayer, TimeoutLayer};
use opendal::{HttpTransporter, Operator};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::remote::Retried;
use crate::error::{Context, Error, Result};

/// How long a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);
/// How often a request is sent again that may be. With the delays below a store may be away for some ten seconds.
const RETRIES: usize = 5;
/// Nobody is spared by waiting in a test.
const RETRY_DELAY_MIN: Duration = Duration::from_millis(if cfg!(test) { 10 } else { 300 });
const RETRY_DELAY_MAX: Duration = Duration::from_secs(10);

/// An operator whose requests end in time, and are sent again where that may help.
pub(super) fn patient(operator: Operator, limit: Duration, retried: Retried) -> Operator {
    operator.layer(TimeoutLayer::new().with_timeout(limit).with_io_timeout(limit)).layer(
        RetryLayer::new()
            .with_max_times(RETRIES)
            .with_min_delay(RETRY_DELAY_MIN)
            .with_max_delay(RETRY_DELAY_MAX)
            .with_jitter()
            .with_notify(move |_: RetryEvent<'_>| retried.add()),
    )
}

/// The same client for opendal.
pub(super) fn transporter(client: &reqwest::Client) -> HttpTransporter {
    HttpTransporter::new(opendal_http_transport_reqwest::ReqwestTransport::new(client.clone()))
}

/// A client that trusts the roots of a file, or the machine's.
pub(super) fn client(ca_file: Option<&Path>) -> Result<reqwest::Client> {
    http_client(ca_file)?.build().doing(|| "preparing HTTP".into())
}

/// What such a client is made of, for whoever asks others than stores over HTTP.
pub fn http_client(ca_file: Option<&Path>) -> Result<reqwest::ClientBuilder> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .doing(|| "preparing TLS".into())?
        .with_root_certificates(roots(ca_file)?)
        .with_no_client_auth();
    Ok(reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        // Who sends again what may be sent again is opendal's retry alone.
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_LIMIT)
        .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION"))))
}

/// The roots of a file, or the machine's. None at all is no error: an endpoint without TLS needs none.
pub(crate) fn roots(file: Option<&Path>) -> Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    match file {
        Some(path) => {
            for certificate in crate::http_check::certificates(path)? {
                roots.add(certificate).map_err(|_| {
                    Error::invalid(format!("{}: a certificate in it can't be used as a root", path.display()))
                })?;
            }
        }
        None => {
            let found: Vec<CertificateDer<'static>> = ["SSL_CERT_FILE"]
                .iter()
                .filter_map(|name| std::env::var_os(name).map(Into::into))
                .chain(MACHINE_ROOTS.iter().map(std::path::PathBuf::from))
                .find(|path| path.is_file())
                .and_then(|path| CertificateDer::pem_file_iter(path).and_then(Iterator::collect).ok())
                .unwrap_or_default();
            roots.add_parsable_certificates(found);
        }
    }
    Ok(roots)
}

/// Where distributions keep the roots of the machine in one file.
const MACHINE_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
