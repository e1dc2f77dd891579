//! Modules that mean harm: each ends in its documented error, the engine goes on, and no secret shows.

mod compiling;
mod every_call;
mod fleet;
mod make;
mod names;
mod parsing;
mod replay;
mod rows;
mod secrets;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use engine::run::Status;

use crate::support::Site;
use rows::{Ends, Row};

/// Stands in every secret of a hostile site's environment.
const CANARY: &str = "canary-7f3d9b-do-not-show";

/// A site with secrets, all of them the canary.
fn site() -> Site {
    let site = Site::notes();
    site.write("secret", CANARY);
    site.append("[environment.demo.service.notes.endpoint.api.header]\nauthorization = { file = \"secret\" }\n");
    site.append(
        "[[environment.demo.serve.notify]]\non = [\"failed\"]\nmessage = { url = { file = \"secret\" }, method = \"GET\" }\n",
    );
    site
}

/// Puts a hostile module into the site's configuration.
fn add(site: &Site, name: &str, row: &Row) {
    let file = format!("policies/{name}.wasm");
    std::fs::write(site.path(&file), &row.bytes).unwrap();
    site.append(&format!(
        "[environment.demo.policy.\"{name}\"]\nmodule = {file:?}\nworld = {:?}\ngrants = {:?}\nlimits = {{ {} }}\n",
        row.world, row.grants, row.limits
    ));
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// Fails if a file of the state holds the canary. The state's own copy of a configuration never does.
fn no_canary_below(folder: &Path) {
    let looked_at = files(folder);
    assert!(!looked_at.is_empty());
    for file in looked_at {
        let bytes = std::fs::read(&file).unwrap();
        assert!(!has(&bytes, CANARY.as_bytes()), "{} holds a secret", file.display());
    }
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}

/// Resident memory of this process, bytes.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_module_ends_in_its_own_error_and_the_engine_goes_on() {
    let site = site();
    site.guest("honest", "says", "cadence", &[], "");
    let rows = rows::rows();
    for (number, row) in rows.iter().enumerate() {
        add(&site, &format!("hostile-{number}"), row);
    }
    let engine = Arc::new(site.engine().await);
    // The first runs fill caches and pools that stay.
    site.embedded(&engine, "honest", &[]).await;
    let before = resident_bytes();
    println!("| module | stopped by | error | ms | memory after, MiB |\n| --- | --- | --- | --- | --- |");
    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let began = Instant::now();
        let (by, said) = match engine.load(&row.bytes) {
            Err(error) => {
                if !matches!(row.ends, Ends::Refused(words) if error.message.contains(words)) {
                    wrong.push(format!("{}: {:?}, but {error}", row.name, row.ends));
                }
                ("loading".to_owned(), format!("exit 12: {}", error.message))
            }
            Ok(_) => {
                let ended = site.embedded(&engine, &format!("hostile-{number}"), &[]).await;
                let right = match row.ends {
                    Ends::Breach(breach) => ended.status == Status::LimitBroken && ended.breach == Some(breach),
                    Ends::Trapped(words) => ended.status == Status::Trapped && ended.summary.contains(words),
                    Ends::Ok => ended.status == Status::Ok,
                    Ends::Refused(_) => false,
                };
                if !right {
                    wrong.push(format!("{}: {:?}, but {ended:?}", row.name, row.ends));
                }
                let last = engine.state().records(&ended.run).await.unwrap().pop().unwrap();
                assert_eq!(last.body["status"], ended.status.word(), "{}: the journal says the same", row.name);
                let by = match ended.breach {
                    Some(breach) => serde_json::to_value(breach).unwrap().as_str().unwrap().to_owned(),
                    None if ended.status == Status::Ok => "nothing".into(),
                    None => "a trap".into(),
                };
                (by, format!("exit {}: {}", ended.status.exit_code(), ended.summary))
            }
        };
        let said: String = said.chars().take(110).map(|c| if c == '|' || c == '\n' { ' ' } else { c }).collect();
        let (ms, mib) = (began.elapsed().as_millis(), resident_bytes() >> 20);
        println!("| {} | {by} | {said} | {ms} | {mib} |", row.name);
        if number % 8 == 0 {
            let honest = site.embedded(&engine, "honest", &[]).await;
            assert_eq!((honest.status, honest.summary.as_str()), (Status::Ok, "as said"), "after {}", row.name);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    engine.state().verify_chain().await.unwrap();
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 400 << 20, "{} MiB more than before {} hostile modules", grown >> 20, rows.len());
    drop(engine);
    no_canary_below(&site.path(".lifeboat"));
}
