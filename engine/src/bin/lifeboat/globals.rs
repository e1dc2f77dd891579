//! `lifeboat backups globals`: the roles and tablespaces that a backup's databases hang on, as SQL for a person to read and run.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use engine::Result;
use engine::config::Environment;
use engine::error::{Error, Kind};
use host_api::{StepContext, identifier};
use serde_json::{Value, json};

use crate::backups::find;
use crate::{Global, output};

/// How long reading them out of a store may take.
const LIMIT: Duration = Duration::from_secs(600);

/// Prints those of the first copy that can be read.
pub async fn run(
    global: &Global,
    environment: &Environment<'_>,
    backup: &str,
    store: Option<&str>,
    source: Option<&str>,
) -> Result<u8> {
    let (copies, failures) = find(environment, backup, store).await?;
    failures.iter().for_each(|error| output::say(&format!("error: {error}")));
    let host = environment.host()?;
    let mut failed = None;
    for (copy, _) in &copies {
        match host.globals(&StepContext::detached("backups-globals", LIMIT), copy, source).await {
            Ok(found) if global.json => {
                let text = |sql: &[u8]| String::from_utf8_lossy(sql).into_owned();
                let found: Vec<Value> =
                    found.iter().map(|of| json!({"source": of.source, "sql": text(&of.sql)})).collect();
                output::json(&json!(found))?;
                return Ok(0);
            }
            Ok(found) => {
                for of in found {
                    print(&of.sql)?;
                }
                return Ok(0);
            }
            Err(error) => failed = Some(Error::from(error).context(format!("{} in {}", copy.id, copy.store))),
        }
    }
    Err(failed.unwrap_or_else(|| Error::new(Kind::Failed, "no copy could be read")))
}

/// As it is, for a file or `psql`; what could steer a terminal does not reach one.
fn print(sql: &[u8]) -> Result<()> {
    let mut out = std::io::stdout();
    if out.is_terminal() {
        return String::from_utf8_lossy(sql).lines().try_for_each(|line| output::line(&identifier::shown_whole(line)));
    }
    match out.write_all(sql).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::new(Kind::Failed, format!("stdout: {e}"))),
        _ => Ok(()),
    }
}
