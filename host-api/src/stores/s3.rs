//! Amazon S3 and what speaks its protocol: one opendal operator for each identity.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opendal::layers::{RetryEvent, RetryLayer, TimeoutLayer};
use opendal::{HttpTransporter, OperationContext, Operator};
use reqsign_aws_v4::Credential;
use reqsign_core::time::Timestamp;
use reqsign_core::{ProvideCredential, ProvideCredentialChain};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::remote::{Operators, Remote};
use crate::bindings::{Checksum, Credentials, Right, S3Store, Secret, ServerSideEncryption};
use crate::error::{Context, Error, Result};

/// Amazon's; opendal puts the region in.
const ENDPOINT: &str = "https://s3.amazonaws.com";
/// How often a request is sent again that may be. With the delays below a store may be away for some ten seconds.
const RETRIES: usize = 5;
const RETRY_DELAY_MIN: Duration = Duration::from_millis(300);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(10);
/// How long what a secret's command printed is used: a vault need not be asked for each of ten thousand parts.
const COMMAND_VALID: Duration = Duration::from_secs(60);
/// How long a connection may take to come about.
const CONNECT_LIMIT: Duration = Duration::from_secs(20);

/// A store in a bucket. Nothing is looked at yet.
pub(super) fn open(name: &str, binding: &S3Store) -> Result<Remote> {
    let client = client(binding).map_err(|e| e.context(format!("store {name}")))?;
    let operators = Operators::default();
    let mut remote = Remote::new(name, operators, binding.bytes_per_s_max, binding.parts_at_once);
    for right in Right::ALL {
        let Some(credentials) = binding.credentials(right) else { continue };
        let held = (!credentials.default_chain).then(|| Arc::new(Held::new(credentials)));
        let operator =
            operator(binding, held.clone(), &client).map_err(|e| Error::invalid(format!("store {name}: {e}")))?;
        let retried = remote.retried();
        let operator =
            operator.layer(TimeoutLayer::new().with_timeout(limit(binding)).with_io_timeout(limit(binding))).layer(
                RetryLayer::new()
                    .with_max_times(RETRIES)
                    .with_min_delay(RETRY_DELAY_MIN)
                    .with_max_delay(RETRY_DELAY_MAX)
                    .with_jitter()
                    .with_notify(move |_: RetryEvent<'_>| retried.add()),
            );
        remote.operators.set(right, operator, held);
    }
    Ok(remote)
}

fn limit(binding: &S3Store) -> Duration {
    Duration::from_secs(binding.timeout_s)
}

fn operator(
    binding: &S3Store,
    held: Option<Arc<Held>>,
    client: &reqwest::Client,
) -> std::result::Result<Operator, opendal::Error> {
    let mut builder = opendal::services::S3::default()
        .bucket(&binding.bucket)
        .root(&format!("/{}", binding.prefix))
        .region(&binding.region)
        // Always said: otherwise a variable of the environment could lead elsewhere.
        .endpoint(binding.endpoint.as_deref().unwrap_or(ENDPOINT));
    if !binding.path_style {
        builder = builder.enable_virtual_host_style();
    }
    if binding.checksum == Checksum::Crc32c {
        builder = builder.checksum_algorithm("crc32c");
    }
    if let Some(class) = &binding.storage_class {
        builder = builder.default_storage_class(class);
    }
    builder = match (binding.server_side_encryption, &binding.kms_key) {
        (None, _) => builder,
        (Some(ServerSideEncryption::Aes256), _) => builder.server_side_encryption_with_s3_key(),
        (Some(ServerSideEncryption::AwsKms), None) => builder.server_side_encryption_with_aws_managed_kms_key(),
        (Some(ServerSideEncryption::AwsKms), Some(key)) => {
            builder.server_side_encryption_with_customer_managed_kms_key(key)
        }
    };
    if let Some(held) = held {
        builder = builder
            .disable_config_load()
            .disable_ec2_metadata()
            .credential_provider_chain(ProvideCredentialChain::new().push(Provider(held)));
    }
    // No transport is installed for the process: this one is ours, with our TLS.
    let transport = HttpTransporter::new(opendal_http_transport_reqwest::ReqwestTransport::new(client.clone()));
    Ok(Operator::new(builder)?.with_context(OperationContext::new().with_http_transport(transport)))
}

fn client(binding: &S3Store) -> Result<reqwest::Client> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .doing(|| "preparing TLS".into())?
        .with_root_certificates(roots(binding.ca_file.as_deref())?)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        // Who sends again what may be sent again is opendal's retry alone.
        .retry(reqwest::retry::never())
        .connect_timeout(CONNECT_LIMIT)
        .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
        .build()
        .doing(|| "preparing HTTP".into())
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

/// The secrets of an identity. Files and variables are read again for each request, so whoever renews them is noticed at once; what a
/// command prints is used for a while, and no longer once the store has refused it.
pub(super) struct Held {
    credentials: Credentials,
    printed: Mutex<Option<(Instant, Credential)>>,
    /// Why they could not be read last time: opendal's error would not say.
    failed: Mutex<Option<Error>>,
}

impl Held {
    fn new(credentials: &Credentials) -> Self {
        Self { credentials: credentials.clone(), printed: Mutex::default(), failed: Mutex::default() }
    }

    /// The store has refused them: the next request reads them again.
    pub(super) fn refused(&self) {
        *lock(&self.printed) = None;
    }

    /// Why they could not be read, once.
    pub(super) fn take_failure(&self) -> Option<Error> {
        lock(&self.failed).take()
    }

    /// Reads them. Blocks.
    pub(super) fn read(&self) -> Result<Credential> {
        let mut printed = lock(&self.printed);
        if let Some((at, credential)) = &*printed
            && at.elapsed() < COMMAND_VALID
        {
            return Ok(credential.clone());
        }
        let read = |secret: &Option<Secret>| secret.as_ref().map(Secret::read).transpose();
        let of = &self.credentials;
        let credential = Credential {
            access_key_id: read(&of.access_key_id)?.unwrap_or_default(),
            secret_access_key: read(&of.secret_access_key)?.unwrap_or_default(),
            session_token: read(&of.session_token)?,
            // Too soon to be kept by whoever signs: it asks us for each request.
            expires_in: Some(Timestamp::now() + Duration::from_secs(30)),
        };
        let secrets = [&of.access_key_id, &of.secret_access_key, &of.session_token];
        if secrets.into_iter().flatten().any(|secret| secret.command.is_some()) {
            *printed = Some((Instant::now(), Credential { expires_in: None, ..credential.clone() }));
        }
        Ok(credential)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands them to opendal's signer.
struct Provider(Arc<Held>);

impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("secrets of the environment")
    }
}

impl ProvideCredential for Provider {
    type Credential = Credential;

    async fn provide_credential(&self, _: &reqsign_core::Context) -> reqsign_core::Result<Option<Credential>> {
        let held = self.0.clone();
        let read = tokio::task::spawn_blocking(move || held.read()).await;
        match read {
            Ok(Ok(credential)) => {
                // Readable again: what failed before is no reason for what fails next.
                lock(&self.0.failed).take();
                Ok(Some(Credential { expires_in: Some(Timestamp::now() + Duration::from_secs(30)), ..credential }))
            }
            Ok(Err(e)) => {
                *lock(&self.0.failed) = Some(e);
                Err(reqsign_core::Error::config_invalid("the secrets of this identity can't be read"))
            }
            Err(_) => Err(reqsign_core::Error::unexpected("reading the secrets of this identity was stopped")),
        }
    }
}
