//! Azure Blob Storage: one opendal operator for each identity.

use std::sync::Arc;
use std::time::Duration;

use opendal::{HttpTransporter, OperationContext, Operator};
use reqsign_azure_storage::{Credential, DefaultCredentialProvider, RequestSigner, StaticCredentialProvider};
use reqsign_core::{Context, Signer};

use super::client;
use super::parts::Limits;
use super::remote::{Operators, Remote};
use super::secrets::{Held, Texts};
use super::transport::Transport;
use crate::bindings::{AzureStore, Right};
use crate::error::{Error, Result};

/// A store in a container. Nothing is looked at yet.
pub(super) fn open(name: &str, binding: &AzureStore) -> Result<Remote> {
    let client = client::client(binding.ca_file.as_deref()).map_err(|e| e.context(format!("store {name}")))?;
    let operators = Operators::default();
    let mut remote =
        Remote::new((name, &binding.prefix), operators, binding.bytes_per_s_max, Limits::AZURE, binding.parts_at_once);
    for right in Right::ALL {
        let Some(of) = binding.credentials(right) else { continue };
        let held = (!of.default_chain).then(|| Arc::new(Held::new(vec![of.account_key.clone(), of.sas_token.clone()])));
        let account = binding.account.clone();
        let build = move |texts: &Texts, context| Ok(signer(texts, context, &account));
        let transport = HttpTransporter::new(Transport::<Credential>::new(
            (client::transporter(&client), remote.clock()),
            held.clone(),
            build,
        ));
        let operator = operator(binding, transport).map_err(|e| Error::invalid(format!("store {name}: {e}")))?;
        let limit = Duration::from_secs(binding.timeout_s);
        remote.operators.set(right, client::patient(operator, limit, remote.retried()), held);
    }
    Ok(remote)
}

fn operator(binding: &AzureStore, transport: HttpTransporter) -> std::result::Result<Operator, opendal::Error> {
    let builder = opendal::services::Azblob::default()
        .container(&binding.container)
        .root("/")
        .endpoint(&binding.endpoint())
        .account_name(&binding.account)
        // The transport signs.
        .skip_signature();
    Ok(Operator::new(builder)?.with_context(OperationContext::new().with_http_transport(transport)))
}

fn signer(texts: &Texts, context: Context, account: &str) -> Signer<Credential> {
    let request = RequestSigner::new();
    match texts.as_slice() {
        [Some(key), _] => Signer::new(context, StaticCredentialProvider::new_shared_key(account, key), request),
        // As it is shown in a URL, or behind the `?`.
        [None, Some(token)] => {
            let token = token.strip_prefix('?').unwrap_or(token);
            Signer::new(context, StaticCredentialProvider::new_sas_token(token), request)
        }
        _ => Signer::new(context, DefaultCredentialProvider::new(), request),
    }
}
