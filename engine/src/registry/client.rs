//! Requests to a registry: OCI's distribution API, as far as reading one artifact needs it.

use std::error::Error as _;
use std::time::Duration;

use host_api::identifier::shown;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderValue, LOCATION};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::challenge::Challenge;
use super::login::Login;
use super::manifest::{Blob, MANIFEST_TYPE};
use super::refused;
use crate::error::{Error, Kind, Result};
use crate::policy::Reference;

/// Registries take manifests of 4 MiB; one of a module and its signatures has some KiB.
const MANIFEST_BYTES_MAX: u64 = 1 << 20;
/// The longest tokens have some KiB.
const TOKEN_BYTES_MAX: u64 = 64 << 10;
/// A registry sends to where it keeps its blobs, and that perhaps to its nearest copy.
const REDIRECTS_MAX: usize = 3;
/// How long a registry may send nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// One repository of a registry.
pub(super) struct Registry {
    client: reqwest::Client,
    /// `https://HOST/v2/REPOSITORY/`
    base: Url,
    reference: Reference,
    login: Option<Login>,
    /// Sent to the registry itself, and nobody else.
    authorization: Option<HeaderValue>,
}

/// What whoever gives tokens answers.
#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

impl Registry {
    pub(super) fn new(reference: &Reference, login: Option<Login>) -> Result<Self> {
        // Nothing is followed by itself, nothing is sent twice by itself.
        let mut builder = host_api::stores::http_client(None)?.read_timeout(SILENCE);
        let scheme = if reference.is_local() { "http" } else { "https" };
        if reference.is_local() {
            // What is sent without TLS leaves this machine on no way.
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| Error::new(Kind::Failed, format!("preparing HTTP: {}", words(e))))?;
        let base = Url::parse(&format!("{scheme}://{}/v2/{}/", reference.host, reference.repository))
            .map_err(|e| Error::new(Kind::Usage, format!("the reference makes no URL: {e}")))?;
        Ok(Self { client, base, reference: reference.clone(), login, authorization: None })
    }

    /// The manifest that the reference names.
    pub(super) async fn manifest(&mut self) -> Result<Vec<u8>> {
        let sha256 = self.reference.sha256.clone();
        let answer = self.ask(self.at("manifests", &sha256)?, MANIFEST_TYPE).await?;
        let bytes = read(self.found(answer, "the manifest")?, "the manifest", MANIFEST_BYTES_MAX).await?;
        match hex::encode(Sha256::digest(&bytes)) == sha256 {
            true => Ok(bytes),
            false => Err(refused("its manifest is not the one of that digest")),
        }
    }

    /// A blob of the manifest; `what`: for people.
    pub(super) async fn blob(&mut self, what: &str, blob: &Blob) -> Result<Vec<u8>> {
        let mut at = self.at("blobs", &blob.sha256)?;
        let mut answer = self.ask(at.clone(), "*/*").await?;
        let mut redirects = 0;
        while answer.status().is_redirection() {
            redirects += 1;
            if redirects > REDIRECTS_MAX {
                return Err(refused(format!("it sends us on more than {REDIRECTS_MAX} times")));
            }
            at = self.next(&at, &answer)?;
            // Whoever else it is has no need to know who asks.
            let is_itself = at.origin() == self.base.origin();
            let authorization = self.authorization.clone().filter(|_| is_itself);
            answer = self.send(at.clone(), "*/*", authorization).await?;
        }
        let answer = self.found(answer, what)?;
        if let Some(bytes) = answer.content_length()
            && bytes != blob.bytes
        {
            return Err(refused(format!("{what} has {bytes} bytes, and its manifest says {}", blob.bytes)));
        }
        let bytes = read(answer, what, blob.bytes).await?;
        match hex::encode(Sha256::digest(&bytes)) == blob.sha256 && bytes.len() as u64 == blob.bytes {
            true => Ok(bytes),
            false => Err(refused(format!("{what} is not what its manifest says"))),
        }
    }

    fn at(&self, kind: &str, sha256: &str) -> Result<Url> {
        let url = self.base.join(&format!("{kind}/sha256:{sha256}"));
        url.map_err(|e| Error::new(Kind::Failed, format!("a bug: the reference makes no URL: {e}")))
    }

    /// Asks the registry itself, and logs in once if it wants that.
    async fn ask(&mut self, url: Url, accept: &str) -> Result<Response> {
        let answer = self.send(url.clone(), accept, self.authorization.clone()).await?;
        if answer.status() != StatusCode::UNAUTHORIZED || self.authorization.is_some() {
            return Ok(answer);
        }
        self.authorization = Some(self.log_in(&answer).await?);
        self.send(url, accept, self.authorization.clone()).await
    }

    async fn send(&self, url: Url, accept: &str, authorization: Option<HeaderValue>) -> Result<Response> {
        let mut request = self.client.get(url).header(ACCEPT, accept);
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request
            .send()
            .await
            .map_err(|e| Error::new(Kind::Failed, format!("the registry does not answer: {}", words(e))))
    }

    /// What to send from now on, as the registry's refusal asks for it.
    async fn log_in(&self, refusal: &Response) -> Result<HeaderValue> {
        let basic = self.login.as_ref().and_then(Login::header);
        match Challenge::of(refusal.headers()) {
            None => Err(refused("it wants to know who asks, in a way that is not known here")),
            Some(Challenge::Basic) => basic.ok_or_else(|| not_let_in(self.login.is_some())),
            Some(Challenge::Bearer { realm, service }) => {
                let mut url = Url::parse(&realm).map_err(|_| refused("whom it sends us to for a token is no URL"))?;
                self.may_go(&url, "for a token")?;
                let scope = format!("repository:{}:pull", self.reference.repository);
                let mut query: Vec<(&str, &str)> = vec![("scope", &scope)];
                query.extend(service.as_deref().map(|service| ("service", service)));
                url.query_pairs_mut().extend_pairs(query);
                let answer = self.send(url, "application/json", basic).await?;
                if matches!(answer.status().as_u16(), 401 | 403) {
                    return Err(not_let_in(self.login.is_some()));
                }
                let bytes = read(self.found(answer, "a token")?, "a token", TOKEN_BYTES_MAX).await?;
                let token: Token =
                    serde_json::from_slice(&bytes).map_err(|_| refused("a token of it can't be read"))?;
                let token = token.token.or(token.access_token).unwrap_or_default();
                let value = HeaderValue::from_str(&format!("Bearer {token}")).ok().filter(|_| !token.is_empty());
                let mut value = value.ok_or_else(|| refused("a token of it can't be used"))?;
                value.set_sensitive(true);
                Ok(value)
            }
        }
    }

    /// Where an answer sends us on to.
    fn next(&self, from: &Url, answer: &Response) -> Result<Url> {
        let to = answer.headers().get(LOCATION).and_then(|to| to.to_str().ok()).and_then(|to| from.join(to).ok());
        let to = to.ok_or_else(|| refused("where it sends us on to is no URL"))?;
        self.may_go(&to, "on")?;
        Ok(to)
    }

    /// An answer that has what was asked for.
    fn found(&self, answer: Response, what: &str) -> Result<Response> {
        let status = answer.status();
        match status.as_u16() {
            200 => Ok(answer),
            401 | 403 => Err(not_let_in(self.login.is_some())),
            404 => Err(Error::new(Kind::Failed, format!("the registry has not got {what} (404)"))
                .hint("the repository, the digest, or the right to read it: registries say the same of all three")),
            _ if status.is_redirection() => Err(refused(format!("it sends us elsewhere for {what}"))),
            code => Err(Error::new(Kind::Failed, format!("the registry does not give {what}: it answered {code}"))),
        }
    }

    /// Only over TLS, or on this machine if the registry itself is here: no other may make us talk to what listens beside us.
    fn may_go(&self, url: &Url, why: &str) -> Result<()> {
        let is_here = matches!(url.host_str(), Some("localhost" | "127.0.0.1"));
        let may = match url.scheme() {
            "https" => !is_here || self.reference.is_local(),
            "http" => is_here && self.reference.is_local(),
            _ => false,
        };
        // Nothing else of it is shown: such URLs carry tokens.
        let to = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
        match may && url.username().is_empty() && url.password().is_none() {
            true => Ok(()),
            false => Err(refused(format!("it sends us {why} to {}, and that is not allowed", shown(&to)))
                .hint("https to another machine; this one only if the registry itself is localhost")),
        }
    }
}

fn not_let_in(was_told: bool) -> Error {
    let error = Error::new(Kind::Failed, "the registry does not let us in");
    match was_told {
        true => error.hint("what `--auth-file` has for it may be wrong, or may not read this repository"),
        false => {
            error.hint("`--auth-file FILE`: a config.json as `docker login`, `podman login` or `oras login` write it")
        }
    }
}

/// The body of an answer, of at most so many bytes: whoever sends without an end does not fill our memory.
async fn read(mut answer: Response, what: &str, bytes_max: u64) -> Result<Vec<u8>> {
    let too_much = || refused(format!("{what} has more than {bytes_max} bytes"));
    if answer.content_length().is_some_and(|bytes| bytes > bytes_max) {
        return Err(too_much());
    }
    let mut body = Vec::new();
    let broken = |e| Error::new(Kind::Failed, format!("{what} broke off: {}", words(e)));
    while let Some(chunk) = answer.chunk().await.map_err(broken)? {
        if (body.len() + chunk.len()) as u64 > bytes_max {
            return Err(too_much());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// What went wrong, without URLs: where a registry sends us on to, they carry tokens.
fn words(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        words.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    shown(&words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_elsewhere_can_make_us_talk_to_nobody_without_tls_and_to_nothing_here() {
        let of = |host: &str| {
            let text = format!("oci://{host}/nightly@sha256:{}", "0".repeat(64));
            Registry::new(&Reference::parse(&text).unwrap(), None).unwrap()
        };
        let (elsewhere, here) = (of("registry.example"), of("localhost:5000"));
        assert_eq!(elsewhere.base.as_str(), "https://registry.example/v2/nightly/");
        assert_eq!(here.base.as_str(), "http://localhost:5000/v2/nightly/");
        for (url, from_elsewhere, from_here) in [
            ("https://blobs.example/x", true, true),
            ("https://registry.example:8443/x", true, true),
            ("http://blobs.example/x", false, false),
            ("http://registry.example/x", false, false),
            ("http://localhost:9200/x", false, true),
            ("http://127.0.0.1/x", false, true),
            ("https://localhost/x", false, true),
            ("https://me@blobs.example/x", false, false),
            ("https://:p@blobs.example/x", false, false),
            ("file:///etc/passwd", false, false),
            ("unix:/run/x", false, false),
        ] {
            let url = Url::parse(url).unwrap();
            assert_eq!(elsewhere.may_go(&url, "on").is_ok(), from_elsewhere, "{url}");
            assert_eq!(here.may_go(&url, "on").is_ok(), from_here, "{url}");
        }
    }
}
