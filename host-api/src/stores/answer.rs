//! One request of our own to a bucket, for what opendal has no call: signed by the transport that opendal's requests go through.

use http::{HeaderMap, Request};
use opendal::raw::oio::ReadStream;
use opendal::{Buffer, HttpTransporter};

/// Most of an answer that is read, bytes: a bucket has at most 1,000 rules.
const BYTES_MAX: usize = 1024 * 1024;

/// What was answered.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
    /// The text is all there was.
    pub(super) is_whole: bool,
}

impl Answer {
    /// Sends a request, once.
    pub(super) async fn of(
        transport: &HttpTransporter,
        request: http::request::Builder,
        body: String,
    ) -> opendal::Result<Self> {
        let request: http::Result<Request<Buffer>> = request.body(Buffer::from(body));
        let request = request.map_err(|e| opendal::Error::new(opendal::ErrorKind::Unexpected, e.to_string()))?;
        let (parts, mut body) = transport.fetch(request).await?.into_parts();
        let mut bytes = Vec::new();
        loop {
            let chunk = body.read().await?;
            bytes.extend_from_slice(&chunk.to_bytes());
            if chunk.is_empty() || bytes.len() > BYTES_MAX {
                return Ok(Self {
                    status: parts.status.as_u16(),
                    headers: parts.headers,
                    text: String::from_utf8_lossy(&bytes).into_owned(),
                    is_whole: chunk.is_empty(),
                });
            }
        }
    }

    /// The protocol's own word for what is wrong, `NoSuchBucket`; hostile like all of it.
    pub(super) fn code(&self) -> &str {
        self.text.split_once("<Code>").and_then(|(_, rest)| rest.split_once('<')).map_or("", |(code, _)| code)
    }
}
