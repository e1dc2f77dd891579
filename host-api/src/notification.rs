//! Telling another system over HTTP that something happened: a chat, a pager, a dead man's switch. Whoever sends one waits for nothing: a
//! message that can't be delivered must not hold up a backup.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use crate::bindings::{Secret, fill};
use crate::error::{Context, Error, Result};
use crate::identifier::shown;
use crate::real::blocking;

/// How long one try may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Pauses before each further try.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

/// Where a message goes, and what it looks like.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Notification {
    /// The URL. It is a secret: who has it can speak for us.
    pub url: Secret,
    /// Appended to it as it is: `/fail`.
    #[serde(default)]
    pub path: String,
    /// `POST`, `GET`, `PUT` or `HEAD`.
    #[serde(default = "post")]
    pub method: String,
    /// Headers whose values are secrets.
    #[serde(default)]
    pub header: BTreeMap<String, Secret>,
    /// The type of the body.
    #[serde(default = "json")]
    pub content_type: String,
    /// The body; names in braces stand for values, which are escaped if it is JSON. To write a brace as itself, double it.
    #[serde(default)]
    pub body: String,
    /// PEM file with the roots to trust; otherwise the machine's.
    pub ca_file: Option<PathBuf>,
}

fn post() -> String {
    "POST".into()
}

fn json() -> String {
    "application/json".into()
}

impl Notification {
    /// Makes relative paths absolute, from the configuration file's directory.
    pub fn anchor(&mut self, base: &Path) {
        self.url.anchor(base);
        self.header.values_mut().for_each(|secret| secret.anchor(base));
        self.ca_file.iter_mut().for_each(|file| *file = base.join(&*file));
    }

    /// Checks what can be told without reading a secret. `names`: what the body may speak of.
    pub fn check(&self, names: &[&str]) -> Result<()> {
        if !matches!(self.method.as_str(), "POST" | "GET" | "PUT" | "HEAD") {
            return Err(Error::invalid(format!("method `{}`", shown(&self.method))).hint("POST, GET, PUT or HEAD"));
        }
        for name in self.header.keys() {
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Error::invalid(format!("`{}` is no header's name", shown(name))))?;
        }
        HeaderValue::from_str(&self.content_type)
            .map_err(|_| Error::invalid(format!("`{}` is no content type", shown(&self.content_type))))?;
        self.filled(&names.iter().map(|name| ((*name).to_owned(), String::new())).collect()).map(drop)
    }

    /// Delivers it; tries again with pauses where that may help. No error holds the URL or a header.
    pub async fn deliver(&self, values: &BTreeMap<String, String>) -> Result<()> {
        let mut pauses = PAUSES.iter();
        loop {
            match self.attempt(values).await {
                Err((error, true)) => match pauses.next() {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(error),
                },
                Err((error, false)) => return Err(error),
                Ok(()) => return Ok(()),
            }
        }
    }

    /// One try; with an error, whether another may help.
    async fn attempt(&self, values: &BTreeMap<String, String>) -> Result<(), (Error, bool)> {
        let this = self.clone();
        let values = values.clone();
        // Secrets may be printed by a command.
        let prepared = blocking(move || Ok((client(this.ca_file.as_deref())?, this.request(&values)?))).await;
        let (client, request) = prepared.map_err(|e| (e, false))?;
        match client.execute(request).await {
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => {
                let status = answer.status();
                let again = status.is_server_error() || matches!(status.as_u16(), 408 | 429);
                Err((Error::failed(format!("it was answered with {}", status.as_u16())), again))
            }
            Err(error) => Err((Error::failed(format!("it was not answered: {}", words(&error))), true)),
        }
    }

    fn request(&self, values: &BTreeMap<String, String>) -> Result<reqwest::Request> {
        let url = format!("{}{}", self.url.read().map_err(|e| e.context("url"))?.trim(), self.path);
        let url = url::Url::parse(&url).map_err(|_| Error::invalid("what `url` and `path` give is no URL"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Error::invalid("`url` is neither http nor https"));
        }
        let method = reqwest::Method::from_bytes(self.method.as_bytes()).doing(|| "the method".into())?;
        let mut request = reqwest::Request::new(method, url);
        *request.headers_mut() = self.headers()?;
        if !self.body.is_empty() {
            *request.body_mut() = Some(self.filled(values)?.into());
        }
        Ok(request)
    }

    fn headers(&self) -> Result<HeaderMap> {
        let mut headers = HeaderMap::new();
        for (name, secret) in &self.header {
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| Error::invalid(format!("`{}` is no header's name", shown(name))))?;
            let value = secret.read().map_err(|e| e.context(format!("header {name}")))?;
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| Error::invalid(format!("the secret for {name} has characters no header may have")))?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }
        if !self.body.is_empty() {
            headers
                .insert(CONTENT_TYPE, HeaderValue::from_str(&self.content_type).doing(|| "the content type".into())?);
        }
        Ok(headers)
    }

    fn filled(&self, values: &BTreeMap<String, String>) -> Result<String> {
        let is_json = self.content_type.split(';').next().is_some_and(|kind| kind.trim().ends_with("json"));
        let written = |value: &String| {
            if !is_json {
                return value.clone();
            }
            let quoted = serde_json::Value::from(value.as_str()).to_string();
            quoted[1..quoted.len() - 1].to_owned()
        };
        let mut values: BTreeMap<String, String> = values.iter().map(|(k, v)| (k.clone(), written(v))).collect();
        // Braces are JSON's own: `{{` and `}}` stand for them.
        values.insert(OPEN.into(), "{".into());
        values.insert(CLOSE.into(), "}".into());
        fill(&braced(&self.body), &values).map_err(|mut e| {
            e.hint =
                e.hint.map(|hint| hint.replace(&format!("{{{OPEN}}}, "), "").replace(&format!("{{{CLOSE}}}, "), ""));
            e.context("body")
        })
    }
}

const OPEN: &str = " open";
const CLOSE: &str = " close";

/// Doubled braces as placeholders of their own.
fn braced(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let (word, length) = match &rest[at..] {
            two if two.starts_with("{{") => (format!("{{{OPEN}}}"), 2),
            two if two.starts_with("}}") => (format!("{{{CLOSE}}}"), 2),
            one => (one[..1].to_owned(), 1),
        };
        out.push_str(&word);
        rest = &rest[at + length..];
    }
    out.push_str(rest);
    out
}

fn client(ca_file: Option<&Path>) -> Result<reqwest::Client> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .doing(|| "preparing TLS".into())?
        .with_root_certificates(crate::stores::trusted_roots(ca_file)?)
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        // What it answers with, somebody else may have chosen.
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .http1_only()
        .referer(false)
        .no_proxy()
        .timeout(LIMIT)
        .user_agent(concat!("lifeboat/", env!("CARGO_PKG_VERSION")))
        .build()
        .doing(|| "preparing HTTP".into())
}

/// An error's words without its URL.
fn words(error: &reqwest::Error) -> &'static str {
    match error {
        e if e.is_timeout() => "no answer in time",
        e if e.is_connect() => "no connection",
        e if e.is_body() || e.is_request() => "the connection broke",
        _ => "no answer that makes sense",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(body: &str, content_type: &str) -> Notification {
        let text = serde_json::json!({"url": {"env": "X"}, "body": body, "content-type": content_type});
        serde_json::from_value(text).unwrap()
    }

    fn values(value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("summary".to_owned(), value.to_owned())])
    }

    #[test]
    fn a_body_is_filled_and_what_it_is_filled_with_stays_a_value() {
        let json = notification(r#"{{"text": "it is {summary}"}}"#, "application/json");
        let filled = json.filled(&values("a \"b\"\n{summary}")).unwrap();
        let read: serde_json::Value = serde_json::from_str(&filled).unwrap();
        assert_eq!(read["text"], "it is a \"b\"\n{summary}");
        let text = notification("{summary}!", "text/plain");
        assert_eq!(text.filled(&values("a \"b\"")).unwrap(), "a \"b\"!");
    }

    #[test]
    fn what_it_can_not_mean_is_said_when_it_is_read() {
        let error = notification("{sumary}", "text/plain").check(&["summary"]).unwrap_err().to_string();
        assert!(error.contains("{sumary}") && error.contains("known here: {summary}"), "{error}");
        let mut other = notification("", "text/plain");
        other.method = "DELETE".into();
        assert!(other.check(&[]).unwrap_err().to_string().contains("POST"));
        other.method = "GET".into();
        other.header.insert("a b".into(), Secret::default());
        assert!(other.check(&[]).unwrap_err().to_string().contains("no header's name"));
    }
}
