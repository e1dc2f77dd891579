//! A person's word on a step in doubt.

use serde_json::json;

use crate::Engine;
use crate::endings;
use crate::error::{Error, Kind, Result};
use crate::journal::{By, Change, Stand, Transition};
use crate::probe::{Resolution, result_by_hand};
use crate::resume::open_step;
use crate::run::Status;

impl Engine {
    /// Puts on record what a person says came of a step in doubt; `lifeboat runs resume` then goes on from there. Only for a run that is in
    /// doubt: what the host can find out by looking is not a person's to say.
    pub async fn resolve(&self, run: &str, step: u64, resolution: Resolution, reason: &str, by: &By) -> Result<()> {
        let _claim = self.claim(run).await?;
        let row = self.state().run(run).await?;
        let records = self.live_records(run).await?;
        if row.status != Status::InDoubt.word() {
            return Err(Error::new(Kind::Usage, format!("run {run} is not in doubt, it is {}", row.status)).hint(
                format!("`lifeboat runs resume {run}` lets the engine look at what became of its last step first"),
            ));
        }
        let open = open_step(&records).filter(|open| open.body["step"].as_u64() == Some(step)).ok_or_else(|| {
            let words = open_step(&records).map_or_else(|| "none is".into(), |open| open.body["step"].to_string());
            Error::new(Kind::Usage, format!("step {step} of run {run} is not in doubt"))
                .hint(format!("the step in doubt: {words}"))
        })?;
        let call = open.body["request"]["call"].as_str().unwrap_or_default();
        let prepared = &open.body["prepared"];
        let why = host_api::identifier::shown_long(reason);
        let result = match resolution {
            Resolution::Done => match result_by_hand(call, prepared) {
                Some(value) => json!({"ok": value}),
                None => {
                    return Err(Error::new(
                        Kind::Usage,
                        format!("only the host can say what {call} came to: its result is needed to go on"),
                    )
                    .hint("resolve it as failed, and the policy decides; or `lifeboat runs resume` it when the host can look"));
                }
            },
            Resolution::Failed => json!({"err": {"failed": format!("resolved as failed by {}: {why}", by.actor)}}),
        };
        let changes: Vec<Change> = endings::changes(call, prepared, resolution == Resolution::Done);
        let body = json!({
            "request": open.body["request"], "result": result, "as": resolution.word(), "reason": reason,
        });
        let stand = records.iter().try_fold(Stand::New, |stand, r| stand.next(r.kind, r.body["step"].as_u64()))?;
        debug_assert_eq!(stand, Stand::Parked(Some(step)));
        self.state().append(run, by, Transition::Resolved, Some(step), body, &changes).await.map(drop)
    }
}
