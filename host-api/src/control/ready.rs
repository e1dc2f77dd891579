//! Waiting until a service says that it is ready.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::values::Values;
use crate::bindings::{Ready, fill};
use crate::context::StepContext;
use crate::error::{Error, ErrorKind, Result};
use crate::http_check::{Call, CheckedPath, Target, checked_path, pause, unequal};

/// Between two looks: short beside any start, long beside an answer.
const INTERVAL: Duration = Duration::from_millis(150);
/// A service that does not answer within this is asked again.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The first answer after a database came back may be wrong in either service or server; so a failure is only final when it was asked
/// this often, however short the time.
const LOOKS_MIN: u32 = 3;

/// Asks until the answer is 200 and its values are as configured; milliseconds since `began`. `gone` says why waiting is pointless.
pub(crate) async fn wait<F, A>(
    cx: &StepContext,
    target: &Target,
    ready: &Ready,
    values: &Values,
    began: Instant,
    mut gone: F,
) -> Result<u64>
where
    F: FnMut() -> A + Send,
    A: Future<Output = Option<Error>> + Send,
{
    let path = checked_path(&ready.path).map_err(|e| e.context("ready"))?;
    let expected = expected(ready, values)?;
    let limit = Duration::from_secs(ready.timeout_s);
    let waiting = Instant::now();
    let mut looks = 0;
    loop {
        cx.check()?;
        if let Some(error) = gone().await {
            return Err(error);
        }
        looks += 1;
        let missing = asked(cx, target, &path, &expected).await?;
        if missing.is_empty() {
            // What answered may not be what was started.
            if let Some(error) = gone().await {
                return Err(error);
            }
            return Ok(u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX));
        }
        let late = waiting.elapsed() >= limit && looks >= LOOKS_MIN;
        if late || cx.remaining() <= INTERVAL {
            let message = format!("not ready after {:.1} s: {}", waiting.elapsed().as_secs_f32(), missing.join("; "));
            return Err(Error::new(ErrorKind::TimedOut, message).hint("its log may say why"));
        }
        pause(cx, INTERVAL).await?;
    }
}

/// Asks once; what is missing until it is ready, in words.
pub(crate) async fn look(cx: &StepContext, target: &Target, ready: &Ready, values: &Values) -> Result<Vec<String>> {
    let path = checked_path(&ready.path).map_err(|e| e.context("ready"))?;
    asked(cx, target, &path, &expected(ready, values)?).await
}

async fn asked(
    cx: &StepContext,
    target: &Target,
    path: &CheckedPath,
    expected: &[Expected<'_>],
) -> Result<Vec<String>> {
    let call = Call { method: "GET", path, body_json: None, idempotency_key: None, timeout: ANSWER_LIMIT };
    let reply = target.send(cx, &call).await?;
    Ok(match (reply.status, reply.body) {
        (Some(200), Ok(body)) => missing(expected, &body),
        (Some(200) | None, Err(why)) => vec![why],
        (status, _) => vec![format!("status {}, expected 200", status.unwrap_or_default())],
    })
}

/// One value of an answer: where, what, and how it stands in the configuration.
struct Expected<'a> {
    pointer: &'a str,
    value: Value,
    configured: &'a Value,
}

fn expected<'a>(ready: &'a Ready, values: &Values) -> Result<Vec<Expected<'a>>> {
    ready
        .equals
        .iter()
        .map(|(pointer, configured)| {
            if !pointer.is_empty() && !pointer.starts_with('/') {
                return Err(Error::invalid(format!("ready: `{pointer}` is no JSON pointer")));
            }
            let value = match configured {
                Value::String(text) => Value::String(fill(text, values).map_err(|e| e.context("ready"))?),
                other => other.clone(),
            };
            Ok(Expected { pointer, value, configured })
        })
        .collect()
}

fn missing(expected: &[Expected<'_>], body: &[u8]) -> Vec<String> {
    if expected.is_empty() {
        return Vec::new();
    }
    let Ok(json) = serde_json::from_slice::<Value>(body) else { return vec!["the answer is not JSON".into()] };
    expected
        .iter()
        .filter(|e| unequal(&json, e.pointer, Some(&e.value)).is_some())
        // Shown as configured: a filled `{place.db}` is a path, which is none of a policy's business.
        .map(|e| {
            // A place in an answer; with its first slash it would be concealed as a path of this machine.
            let at = e.pointer.trim_start_matches('/');
            match json.pointer(e.pointer) {
                None => format!("there is no `{at}`"),
                Some(_) => format!("`{at}` is not {}", e.configured),
            }
        })
        .collect()
}
