//! Shows what it is allowed to do: takes a backup, copies it, restores it, asks the service over HTTP, asks a person. What was denied is
//! noted and makes the run fail; what came after a denied call and needed its result is left out.

use lifeboat_policy::{
    Error, ErrorKind, Outcome, Record, Result, confirm, dump, http_check, note, policy, restore, upload,
};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    store: String,
    copy: String,
    #[serde(default = "beside")]
    target: String,
    endpoint: String,
}

fn beside() -> String {
    "beside".into()
}

policy!(run);

fn run(p: Parameters, _: &mut Record) -> Result<Outcome> {
    let mut denied = Vec::new();
    let backup = allowed("dump.take", &mut denied, dump::take(&p.service, &p.store, &dump::Options::new()))?;
    if let Some(backup) = &backup {
        allowed("upload.copy", &mut denied, upload::copy(backup, &p.copy))?;
    }
    let candidate = match &backup {
        Some(backup) => {
            let staged = restore::stage(backup, &p.target, &restore::Options::new());
            allowed("restore.stage", &mut denied, staged)?
        }
        None => None,
    };
    let readiness = http_check::Request::new("GET", "/readyz");
    allowed("http-check.check", &mut denied, http_check::check(&p.endpoint, &readiness))?;
    if let Some(candidate) = &candidate {
        let asked = allowed("confirm.request-promote", &mut denied, confirm::request_promote(candidate, "only to ask"));
        restore::discard(candidate)?;
        asked?;
    }
    match denied.is_empty() {
        true => Ok(Outcome::ok("every call was allowed")),
        false => Err(Error::new(ErrorKind::Denied, format!("denied: {}", denied.join(", ")))),
    }
}

/// The result, or none and a note if it was denied.
fn allowed<T>(call: &str, denied: &mut Vec<String>, result: Result<T, impl Into<Error>>) -> Result<Option<T>> {
    match result.map_err(Into::into) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::Denied => {
            note(format!("denied: {call}: {error}"));
            denied.push(call.to_owned());
            Ok(None)
        }
        Err(error) => Err(error.context(call)),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("card", include_str!("../policy.toml"));
    }
}
