//! Google Cloud Storage: one opendal operator for each identity.
//!
//! A conditional upload goes as a resumable one there: pieces of 8 MiB one after the other, each acknowledged, and after a lost answer the
//! session is asked how much has arrived.

use std::sync::Arc;
use std::time::Duration;

use opendal::{HttpTransporter, OperationContext, Operator};
use reqsign_core::{Context, Signer};
use reqsign_google::{
    Credential, DefaultCredentialProvider, RequestSigner, ServiceAccountTokenCredentialProvider,
    StaticCredentialProvider, TokenCredentialProvider,
};

use super::client;
use super::parts::Limits;
use super::remote::{Operators, Remote};
use super::secrets::{Held, Texts};
use super::transport::Transport;
use crate::bindings::{GcsStore, Right};
use crate::error::{Error, Result};

/// Google's.
const ENDPOINT: &str = "https://storage.googleapis.com";
/// What an access token is asked for: objects, not the bucket's own rights.
const SCOPE: &str = "https://www.googleapis.com/auth/devstorage.read_write";

/// A store in a bucket. Nothing is looked at yet.
pub(super) fn open(name: &str, binding: &GcsStore) -> Result<Remote> {
    let client = client::client(binding.ca_file.as_deref()).map_err(|e| e.context(format!("store {name}")))?;
    let operators = Operators::default();
    let mut remote = Remote::new((name, &binding.prefix), operators, binding.bytes_per_s_max, Limits::PIECES, 1);
    for right in Right::ALL {
        let Some(of) = binding.credentials(right) else { continue };
        let held =
            (!of.default_chain).then(|| Arc::new(Held::new(vec![of.service_account.clone(), of.access_token.clone()])));
        let build = |texts: &Texts, context| Ok(signer(texts, context));
        let transport =
            Transport::<Credential>::new((client::transporter(&client), remote.clock()), held.clone(), build)
                .derived(of.service_account.is_some())
                // Where pieces go is said by the store, in its answer.
                .only_to(binding.endpoint.as_deref().unwrap_or(ENDPOINT));
        let transport = HttpTransporter::new(transport);
        let operator = operator(binding, transport).map_err(|e| Error::invalid(format!("store {name}: {e}")))?;
        let limit = Duration::from_secs(binding.timeout_s);
        remote.operators.set(right, client::patient(operator, limit, remote.retried()), held);
    }
    Ok(remote)
}

fn operator(binding: &GcsStore, transport: HttpTransporter) -> std::result::Result<Operator, opendal::Error> {
    let mut builder = opendal::services::Gcs::default()
        .bucket(&binding.bucket)
        .root("/")
        // Always said: otherwise a variable of the environment could lead elsewhere.
        .endpoint(binding.endpoint.as_deref().unwrap_or(ENDPOINT))
        .disable_config_load()
        .disable_vm_metadata()
        // The transport signs.
        .skip_signature();
    if let Some(class) = &binding.storage_class {
        builder = builder.default_storage_class(class);
    }
    Ok(Operator::new(builder)?.with_context(OperationContext::new().with_http_transport(transport)))
}

fn signer(texts: &Texts, context: Context) -> Signer<Credential> {
    let request = RequestSigner::new("storage").with_scope(SCOPE);
    match texts.as_slice() {
        [Some(json), _] => {
            // Exchanged for a token once, not for each request.
            let account = StaticCredentialProvider::new(json.clone());
            let token = ServiceAccountTokenCredentialProvider::from_provider(account).with_scope(SCOPE);
            Signer::new(context, token, request)
        }
        [None, Some(token)] => Signer::new(context, TokenCredentialProvider::new(token.clone()), request),
        _ => Signer::new(context, DefaultCredentialProvider::new(), request),
    }
}
