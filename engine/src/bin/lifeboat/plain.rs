//! `lifeboat backups export`: backups as files that people have tools for.

use std::path::Path;

use engine::config::Environment;
use engine::direct::DirectCall;
use engine::error::{Error, Kind};
use engine::{Result, run::Status};
use host_api::plain::Exported;
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
