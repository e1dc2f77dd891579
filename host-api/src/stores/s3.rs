//! Amazon S3 and what speaks its protocol: one opendal operator for each identity.

use std::sync::Arc;
use std::time::Duration;

use opendal::{HttpTransporter, OperationContext, Operator};
use reqsign_aws_v4::{Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider};
use reqsign_core::{Context, Signer};

use super::bucket::Asking;
use super::client;
use super::clock::StoreClock;
use super::parts::Limits;
use super::remote::{Operators, Remote};
use super::secrets::{Held, Texts};
use super::thaw::Thawing;
use super::transport::Transport;
use crate::bindings::{Checksum, Credentials, Right, S3Store, ServerSideEncryption};
use crate::error::{Error, Result};

/// Amazon's; opendal puts the region in.
const ENDPOINT: &str = "https://s3.amazonaws.com";

/// A store in a bucket. Nothing is looked at yet.
pub(super) fn open(name: &str, binding: &S3Store) -> Result<Remote> {
    let client = client::client(binding.ca_file.as_deref()).map_err(|e| e.context(format!("store {name}")))?;
    let operators = Operators::default();
    let mut remote =
        Remote::new((name, &binding.prefix), operators, binding.bytes_per_s_max, Limits::S3, binding.parts_at_once);
    for right in Right::ALL {
        let Some(credentials) = binding.credentials(right) else { continue };
        let held = (!credentials.default_chain).then(|| Arc::new(held(credentials)));
        let transport = transport(&binding.region, held.clone(), (client::transporter(&client), remote.clock()));
        if right == Right::Read {
            remote.asking = Some(Asking { transport: transport.clone(), url: url(binding) });
            let url = [url(binding).trim_end_matches('/'), binding.prefix.as_str()].join("/");
            let url = format!("{}/", url.trim_end_matches('/'));
            let timeout = Duration::from_secs(binding.timeout_s);
            remote.thawing = binding.thaw.map(|thaw| Thawing { transport: transport.clone(), url, thaw, timeout });
        }
        let operator = operator(binding, transport).map_err(|e| Error::invalid(format!("store {name}: {e}")))?;
        let limit = Duration::from_secs(binding.timeout_s);
        remote.operators.set(right, client::patient(operator, limit, remote.retried()), held);
    }
    Ok(remote)
}

fn operator(binding: &S3Store, transport: HttpTransporter) -> std::result::Result<Operator, opendal::Error> {
    let mut builder = opendal::services::S3::default()
        .bucket(&binding.bucket)
        .root("/")
        .region(&binding.region)
        // Always said: otherwise a variable of the environment could lead elsewhere.
        .endpoint(binding.endpoint.as_deref().unwrap_or(ENDPOINT))
        .disable_config_load()
        .disable_ec2_metadata()
        // The transport signs.
        .skip_signature();
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
    // No transport is installed for the process: this one is ours, with our TLS.
    Ok(Operator::new(builder)?.with_context(OperationContext::new().with_http_transport(transport)))
}

/// The bucket's own URL.
fn url(binding: &S3Store) -> String {
    let own = || format!("https://s3.{}.amazonaws.com", binding.region);
    let endpoint = binding.endpoint.as_deref().map_or_else(own, |given| given.trim_end_matches('/').to_owned());
    match endpoint.split_once("://") {
        Some((scheme, host)) if !binding.path_style => format!("{scheme}://{}.{host}/", binding.bucket),
        _ => format!("{endpoint}/{}", binding.bucket),
    }
}

fn held(credentials: &Credentials) -> Held {
    let Credentials { access_key_id, secret_access_key, session_token, .. } = credentials.clone();
    Held::new(vec![access_key_id, secret_access_key, session_token])
}

fn transport(region: &str, held: Option<Arc<Held>>, sends: (HttpTransporter, StoreClock)) -> HttpTransporter {
    let region = region.to_owned();
    HttpTransporter::new(Transport::<Credential>::new(sends, held, move |texts, context| {
        Ok(signer(texts, context, &region))
    }))
}

fn signer(texts: &Texts, context: Context, region: &str) -> Signer<Credential> {
    let request = RequestSigner::new("s3", region);
    match texts.as_slice() {
        [Some(id), Some(key), token] => {
            let fixed = StaticCredentialProvider::new(id, key);
            let fixed = token.iter().fold(fixed, |fixed, token| fixed.with_session_token(token));
            Signer::new(context, fixed, request)
        }
        _ => Signer::new(context, DefaultCredentialProvider::new(), request),
    }
}
