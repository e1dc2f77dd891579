//! Asks the host what the environment's rules let go in one store, asks a person, and removes that.
//!
//! What must stay is the host's to keep: a policy that chose otherwise would be refused.

use lifeboat_policy::{Backup, Outcome, Record, Result, confirm, delete, note, policy, step};
use serde::{Deserialize, Serialize};

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Parameters {
    service: String,
    store: String,
}

policy!(run);

fn run(p: Parameters, record: &mut Record) -> Result<Outcome> {
    let mut removed: Vec<String> = Vec::new();
    loop {
        let plan = step(format!("look what the rules let go of {} in {}", p.service, p.store), || {
            delete::plan(&p.service, &p.store)
        })?;
        let (due, later, kept) = (plan.due(), plan.due_later(), plan.kept());
        if removed.is_empty() {
            let because = plan.kept_because();
            let words: Vec<String> = because.iter().map(|(word, count)| format!("{word} {count}")).collect();
            note(format!("{kept} stay: {}", words.join(", ")));
            record.fact("kept", kept);
            record.fact("kept-because", because);
        }
        if due.is_empty() {
            break;
        }
        let ids: Vec<String> = due.iter().map(Backup::id).collect();
        let due: Vec<&Backup> = due.iter().collect();
        let why = match later {
            0 => format!("no rule keeps these {} backups; {kept} stay", ids.len()),
            later => format!("no rule keeps these {} backups, nor {later} more; {kept} stay", ids.len()),
        };
        let approval = step("ask a person", || confirm::request_delete(&due, &why))?;
        step(format!("remove {} backups from {}", ids.len(), p.store), || delete::apply(&due, approval))?;
        removed.extend(ids);
        record.fact("removed", &removed);
    }
    Ok(match removed.len() {
        0 => Outcome::nothing_to_do(format!("nothing of {} in {} is due", p.service, p.store)),
        count => Outcome::ok(format!("{count} backups of {} are removed from {}", p.service, p.store)),
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_description_fits() {
        lifeboat_policy::description::assert_fits::<super::Parameters>("retention", include_str!("../policy.toml"));
    }
}
