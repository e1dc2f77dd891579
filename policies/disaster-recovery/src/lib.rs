//! Disaster recovery: five scenarios, each from what it needs to a named end and what then remains for a person.
//!
//! | scenario | module | what is done |
//! | --- | --- | --- |
//! | `host-lost` | [`host`] | the surviving data are proven to be there; the version is installed, started on them, asked |
//! | `database-lost` | [`data`] | the newest backup is proven beside, put in service with consent, started, asked |
//! | `all-lost` | [`data`] | the same from an off-site store, with the version that the backup was taken with |
//! | `run-damaged` | [`damaged`] | the stored text that can't be read is found, its run cancelled, the last good step named |
//! | `stale-data` | [`data`] | the live service is held against the newest backup; what it lacks is restored, with consent |

mod damaged;
mod data;
mod host;

use lifeboat_policy::smoke::Step;
use lifeboat_policy::{Backup, Error, ErrorKind, Finding, Outcome, Record, Result, note, policy, query, step};
use lifeboat_procedures::checks::Checks;
use lifeboat_procedures::choose;
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    scenario: Scenario,
    #[serde(skip_serializing_if = "Option::is_none")]
    store: Option<String>,
    #[serde(default = "latest")]
    backup: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(default = "api")]
    endpoint: String,
    #[serde(default)]
    lists: Vec<Step>,
    #[serde(default)]
    smoke: Vec<Step>,
    #[serde(default)]
    alive: Vec<Alive>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damaged: Option<String>,
    #[serde(default = "columns")]
    columns: Vec<String>,
    #[serde(default)]
    cancel: Vec<Step>,
    #[serde(default = "advice")]
    advice: String,
    #[serde(default)]
    remains: Remains,
    #[serde(default)]
    park: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Scenario {
    HostLost,
    DatabaseLost,
    AllLost,
    RunDamaged,
    StaleData,
}

/// A query whose first value says that there are data: an empty database is as easily reached as a full one.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Alive {
    query: String,
    at_least: i64,
}

/// What no backup holds, and a person has to see to.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Remains {
    host: Vec<String>,
    database: Vec<String>,
}

/// How a scenario ended, in the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// The service runs and holds.
    Recovered,
    /// What was thought to be lost is there; nothing was changed.
    NotLost,
    /// This scenario's way does not lead there; nothing was changed.
    NotThisWay,
    /// What was done did not hold, and was taken back.
    TakenBack,
    /// The service does not hold, and a person must go on.
    NeedsAPerson,
    /// The run whose stored state is damaged is cancelled; running it again is up to a person.
    RunCancelled,
}

fn latest() -> String {
    "latest".into()
}

fn api() -> String {
    "api".into()
}

fn columns() -> Vec<String> {
    ["run", "sequence", "last-good"].map(str::to_owned).into()
}

fn advice() -> String {
    "run {run} again from the step after its last good one, {last-good}".into()
}

policy!(run);

fn run(p: Parameters, record: &mut Record) -> Result<Outcome> {
    let (state, outcome) = match p.scenario {
        Scenario::HostLost => host::recover(&p, record)?,
        Scenario::DatabaseLost | Scenario::AllLost => data::recover(&p, record)?,
        Scenario::StaleData => data::refresh(&p, record)?,
        Scenario::RunDamaged => damaged::recover(&p, record)?,
    };
    record.fact("state", state);
    Ok(outcome)
}

impl Parameters {
    fn checks(&self) -> Checks<'_> {
        Checks { endpoint: &self.endpoint, lists: &self.lists, smoke: &self.smoke }
    }

    fn store(&self) -> Result<&str> {
        self.store.as_deref().ok_or_else(|| needs(self.scenario, "`store`, the store that the backups are in"))
    }

    fn choose(&self, record: &mut Record) -> Result<Backup> {
        choose::backup(&self.service, self.store()?, &self.backup, record)
    }

    /// Whether the live database answers all of `alive`, with enough. One that can't be asked does not.
    ///
    /// # Errors
    ///
    /// If nothing says how to tell, or asking is not granted: neither means that data are lost.
    fn is_alive(&self, record: &mut Record) -> Result<bool> {
        if self.alive.is_empty() {
            return Err(needs(self.scenario, "`alive`, queries that tell live data from an empty database"));
        }
        let mut all = true;
        for alive in &self.alive {
            let row =
                step(format!("ask {} of the live database", alive.query), || query::run(&self.service, &alive.query));
            let count = match row {
                Ok(row) => row.into_iter().next().flatten().and_then(|value| value.parse::<i64>().ok()),
                Err(error) if error.is_about_the_subject() || error.kind() == ErrorKind::NotFound => {
                    note(format!("{} has no answer: {error}", alive.query));
                    None
                }
                Err(error) => return Err(error),
            };
            let told = count.map_or_else(|| "no number".to_owned(), |count| count.to_string());
            note(format!("{}: {told}, at least {} expected", alive.query, alive.at_least));
            all &= count.is_some_and(|count| count >= alive.at_least);
        }
        record.fact("live-data-are-there", all);
        Ok(all)
    }

    /// Says what no backup holds: `host`, what stood on the lost host; `database`, what stood on its server.
    fn remains(&self, host: bool, database: bool, record: &mut Record) {
        let lists = [(host, &self.remains.host), (database, &self.remains.database)];
        let all: Vec<&String> = lists.into_iter().filter(|(wanted, _)| *wanted).flat_map(|(_, list)| list).collect();
        for what in &all {
            record.finding(Finding::warning("remains", format!("for a person: {what}")).fix("it is in no backup"));
        }
        record.fact("remains", &all);
    }
}

impl Scenario {
    /// The parameter's value.
    fn word(self) -> &'static str {
        match self {
            Self::HostLost => "host-lost",
            Self::DatabaseLost => "database-lost",
            Self::AllLost => "all-lost",
            Self::RunDamaged => "run-damaged",
            Self::StaleData => "stale-data",
        }
    }
}

/// A scenario asks for what it needs before it touches anything.
fn needs(scenario: Scenario, what: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("{} needs the parameter {what}", scenario.word()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>(
            "disaster-recovery",
            include_str!("../policy.toml"),
        );
    }
}
