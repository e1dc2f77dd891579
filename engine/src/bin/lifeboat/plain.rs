//! `lifeboat backups export` and `import`: backups as files that people have tools for, and such files as backups.

use std::collections::BTreeMap;
use std::path::Path;

use engine::config::Environment;
use engine::direct::DirectCall;
use engine::error::{Error, Kind};
use engine::{Result, run::Status};
use host_api::catalog::Backup;
use host_api::identifier;
use host_api::plain::{Exported, Import};
use serde_json::json;

use crate::backups::{by_hand, find};
use crate::{Global, output};

/// Writes one source of a backup into a new file; out of the first store that has it whole.
pub async fn export(
    global: &Global,
    environment: &Environment<'_>,
    backup: &str,
    source: Option<&str>,
    store: Option<&str>,
    to: &Path,
) -> Result<u8> {
    let to = std::path::absolute(to).map_err(|e| Error::new(Kind::Usage, format!("{}: {e}", to.display())))?;
    let (found, failures) = find(environment, backup, store).await?;
    failures.iter().for_each(|error| output::say(&format!("error: {error}")));
    let mut code = 1;
    for (backup, _) in found {
        let arguments = json!({"backup": backup, "source": source, "to": to});
        let call = DirectCall { name: "backups.export", arguments };
        let (ended, results) = by_hand(global, environment, "backups-export", vec![call]).await?;
        if ended.status == Status::Ok {
            let exported: Exported = serde_json::from_value(results.into_iter().next().unwrap_or_default())
                .map_err(|e| Error::new(Kind::Failed, format!("a bug: {e}")))?;
            say(global, &backup.id, &backup.store, &exported, &ended.run)?;
            return Ok(0);
        }
        code = code.max(ended.status.exit_code());
        output::say(&format!("error: {} in {}: {}", backup.id, backup.store, ended.summary));
    }
    Ok(code)
}

/// Makes a backup of plain dumps.
pub async fn import(
    global: &Global,
    environment: &Environment<'_>,
    service: String,
    store: String,
    from: &[String],
    taken_at: Option<&str>,
) -> Result<u8> {
    let usage = |what: String| Error::new(Kind::Usage, what);
    let mut files = BTreeMap::new();
    for pair in from {
        let (source, file) = pair
            .split_once('=')
            .filter(|(source, file)| !source.is_empty() && !file.is_empty())
            .ok_or_else(|| usage(format!("`{}` is no SOURCE=FILE", identifier::shown(pair))))?;
        let path = std::path::absolute(file).map_err(|e| usage(format!("{file}: {e}")))?;
        if files.insert(source.to_owned(), path).is_some() {
            return Err(usage(format!("source {} is given twice", identifier::shown(source))));
        }
    }
    let taken_at_ms = taken_at
        .map(|text| {
            identifier::parse_time_ms(text).ok_or_else(|| usage(format!("`{}` is no time", identifier::shown(text))))
        })
        .transpose()?;
    let (services, stores) = (&environment.binding.service, &environment.binding.store);
    if !services.contains_key(&service) {
        return Err(Error::unknown("service", &service, services.keys().map(String::as_str)));
    }
    if !stores.contains_key(&store) {
        return Err(Error::unknown("store", &store, stores.keys().map(String::as_str)));
    }
    let import = Import { service: service.clone(), store: store.clone(), from: files, taken_at_ms };
    let arguments = json!({"service": service, "store": store, "import": import});
    let call = DirectCall { name: "backups.import", arguments };
    let (ended, results) = by_hand(global, environment, "backups-import", vec![call]).await?;
    if ended.status != Status::Ok {
        output::say(&format!("error: {}", ended.summary));
        return Ok(ended.status.exit_code());
    }
    let backup: Backup = serde_json::from_value(results.into_iter().next().unwrap_or_default())
        .map_err(|e| Error::new(Kind::Failed, format!("a bug: {e}")))?;
    if global.json {
        let mut document = json!(backup);
        document["run"] = json!(ended.run);
        output::json(&document)?;
    } else {
        let taken = identifier::utc(backup.taken_at_ms);
        output::line(&format!(
            "backup {} of {service} is in {store}, taken {taken}; drill it before you rely on it",
            backup.id
        ))?;
    }
    Ok(0)
}

fn say(global: &Global, backup: &str, store: &str, exported: &Exported, run: &str) -> Result<()> {
    if global.json {
        let mut document = json!(exported);
        (document["backup"], document["store"], document["run"]) = (json!(backup), json!(store), json!(run));
        return output::json(&document);
    }
    let Exported { source, format, file, bytes, sha256 } = exported;
    output::line(&format!("{source} of {backup} in {store} is in {} ({format}, {bytes} bytes)", file.display()))?;
    output::line(&format!("sha256 {sha256}"))
}
