//! What recurs: duties as they are given, and those of the ready-made shapes.

use lifeboat_policy::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// A slot that came to nothing is tried again after so many seconds; doubled with each further time.
const RETRY_S: u64 = 900;

/// The policy's parameters.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Parameters {
    pub service: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shape: Option<Shape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub off_site: Option<String>,
    #[serde(default)]
    pub retention: bool,
    #[serde(default = "utc")]
    pub zone: String,
    #[serde(default)]
    pub duties: Vec<Duty>,
}

fn utc() -> String {
    "UTC".into()
}

/// The three shapes of workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// Few runs, short retention: a backup a day.
    LowVolume,
    /// Active production: a backup an hour, one a day off site.
    Active,
    /// Audited workloads: a backup an hour, for as long as the compliance window.
    Audit,
}

/// Something that recurs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Duty {
    /// Its name: on record with every run that is started for it.
    pub name: String,
    /// The policy to start.
    pub policy: String,
    /// Parameters over those that the environment gives the policy.
    #[serde(default)]
    pub parameters: Map<String, Value>,
    /// Its slots, as a calendar.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when: Option<String>,
    /// Its slots, so many seconds after it was done last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_s: Option<u64>,
    /// What shows that a slot is done.
    #[serde(default)]
    pub proof: Proof,
    /// Where the backup must be, for a proof by backup.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// Duties that are done with this one: where both are due, only this one is started.
    #[serde(default)]
    pub covers: Vec<String>,
    /// What becomes of slots that passed while nobody was there.
    #[serde(default)]
    pub catch_up: CatchUp,
    /// A slot that is older than so many seconds is not made up for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub within_s: Option<u64>,
    /// Starts up to so many seconds late, the same for each slot: so that not every service of a fleet begins in the same second.
    #[serde(default)]
    pub jitter_s: u64,
    /// How long after a run that failed it is tried again, doubled with each further time.
    #[serde(default = "retry_s")]
    pub retry_s: u64,
}

fn retry_s() -> u64 {
    RETRY_S
}

/// What shows that a slot is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proof {
    /// A backup in the store, taken since; whoever took it.
    Backup,
    /// A run of the policy on the service that passed since; whoever started it. It proves a backup.
    Drill,
    /// A run for this duty that came to a good end since.
    #[default]
    Run,
}

/// What becomes of slots that passed while nobody was there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CatchUp {
    /// The newest one is made up for.
    #[default]
    Once,
    /// None is: the next slot is the next.
    Skip,
    /// Each one is.
    All,
}

impl Parameters {
    /// All duties: those of the shape, then the others; one of the same name stands in its place.
    pub fn all_duties(&self) -> Result<Vec<Duty>> {
        let mut duties = match self.shape {
            Some(shape) => self.of_shape(shape)?,
            None => Vec::new(),
        };
        for duty in &self.duties {
            match duties.iter_mut().find(|other| other.name == duty.name) {
                Some(other) => *other = duty.clone(),
                None => duties.push(duty.clone()),
            }
        }
        if duties.is_empty() {
            return Err(Error::new(ErrorKind::Invalid, "nothing recurs: give a `shape`, or `duties`"));
        }
        duties.iter().try_for_each(Duty::check)?;
        for duty in &duties {
            if let Some(covered) = duty.covers.iter().find(|name| !duties.iter().any(|other| other.name == **name)) {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    format!("duty {} covers `{covered}`, which is no duty", duty.name),
                ));
            }
            // Otherwise two could wait for each other for ever.
            let covers = |name: &String| duties.iter().any(|other| other.name == *name && !other.covers.is_empty());
            if let Some(covered) = duty.covers.iter().find(|name| covers(name)) {
                let why = format!("duty {} covers `{covered}`, which covers others itself", duty.name);
                return Err(Error::new(ErrorKind::Invalid, why));
            }
        }
        Ok(duties)
    }

    fn of_shape(&self, shape: Shape) -> Result<Vec<Duty>> {
        let Some(store) = &self.store else {
            return Err(Error::new(ErrorKind::Invalid, "a shape needs the `store` that backups are taken into"));
        };
        let into = |copies: &[&str]| {
            let parameters = json!({"service": self.service, "store": store, "copy-to": copies});
            parameters.as_object().cloned().unwrap_or_default()
        };
        let backup = |when: &str| Duty {
            store: Some(store.clone()),
            proof: Proof::Backup,
            ..Duty::new("backup", "backup", into(&[]), when)
        };
        let mut duties = vec![match shape {
            Shape::LowVolume => backup("0 3 * * *"),
            Shape::Active | Shape::Audit => backup("0 * * * *"),
        }];
        match (&self.off_site, shape) {
            (Some(off_site), _) => duties.push(Duty {
                store: Some(off_site.clone()),
                proof: Proof::Backup,
                covers: vec!["backup".into()],
                ..Duty::new("off-site", "backup", into(&[off_site]), "0 3 * * *")
            }),
            (None, Shape::Active) => {
                return Err(Error::new(
                    ErrorKind::Invalid,
                    "the shape `active` copies once a day: name the store with `off-site`",
                ));
            }
            (None, _) => {}
        }
        let of = json!({"service": self.service, "store": store});
        let drill = Duty::new("drill", "drill", of.as_object().cloned().unwrap_or_default(), "30 4 1 * *");
        duties.push(Duty { proof: Proof::Drill, ..drill });
        if self.retention {
            let stores = [("retention", Some(store)), ("retention-off-site", self.off_site.as_ref())];
            for (name, store) in stores.into_iter().filter_map(|(name, store)| Some((name, store?))) {
                let of = json!({"service": self.service, "store": store});
                duties.push(Duty::new(name, "retention", of.as_object().cloned().unwrap_or_default(), "30 5 * * *"));
            }
        }
        Ok(duties)
    }
}

impl Duty {
    fn new(name: &str, policy: &str, parameters: Map<String, Value>, when: &str) -> Self {
        Self {
            name: name.into(),
            policy: policy.into(),
            parameters,
            when: Some(when.into()),
            every_s: None,
            proof: Proof::Run,
            store: None,
            covers: Vec::new(),
            catch_up: CatchUp::Once,
            within_s: None,
            jitter_s: 0,
            retry_s: RETRY_S,
        }
    }

    fn check(&self) -> Result<()> {
        let wrong = |why: &str| Err(Error::new(ErrorKind::Invalid, format!("duty {}: {why}", self.name)));
        if self.when.is_some() == self.every_s.is_some() {
            return wrong("exactly one of `when` and `every-s` says when");
        }
        if self.every_s == Some(0) || self.retry_s == 0 {
            return wrong("0 seconds is all the time");
        }
        if self.store.is_some() != (self.proof == Proof::Backup) {
            return wrong("a proof by `backup` needs the `store` it is in, and no other has one");
        }
        if self.catch_up == CatchUp::All && (self.proof != Proof::Run || self.when.is_none()) {
            return wrong(
                "catch-up `all` is for calendars and a proof by `run`: one newer backup or drill does for all that were missed",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(text: &str) -> Parameters {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_shape_is_a_list_of_duties_and_one_of_its_name_stands_in_its_place() {
        let of = r#"{"service":"s","shape":"active","store":"local","off-site":"far","duties":[{"name":"drill","policy":"d","every-s":60,"proof":"drill"}]}"#;
        let duties = parameters(of).all_duties().unwrap();
        let names: Vec<_> = duties.iter().map(|duty| (duty.name.as_str(), duty.when.as_deref())).collect();
        assert_eq!(names, [("backup", Some("0 * * * *")), ("off-site", Some("0 3 * * *")), ("drill", None)]);
        assert_eq!(duties[1].parameters["copy-to"], json!(["far"]));
        let of = r#"{"service":"s","shape":"low-volume","store":"local","off-site":"far","retention":true}"#;
        let duties = parameters(of).all_duties().unwrap();
        let stores: Vec<_> =
            duties.iter().filter(|d| d.policy == "retention").map(|d| &d.parameters["store"]).collect();
        assert_eq!(stores, ["local", "far"]);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (text, says) in [
            (r#"{"service":"s"}"#, "nothing recurs"),
            (r#"{"service":"s","shape":"audit"}"#, "`store`"),
            (r#"{"service":"s","shape":"active","store":"a"}"#, "`off-site`"),
            (r#"{"service":"s","duties":[{"name":"a","policy":"p"}]}"#, "exactly one"),
            (r#"{"service":"s","duties":[{"name":"a","policy":"p","every-s":0}]}"#, "all the time"),
            (r#"{"service":"s","duties":[{"name":"a","policy":"p","every-s":1,"proof":"backup"}]}"#, "`store`"),
            (r#"{"service":"s","duties":[{"name":"a","policy":"p","every-s":1,"covers":["b"]}]}"#, "no duty"),
            (r#"{"service":"s","duties":[{"name":"a","policy":"p","every-s":1,"catch-up":"all"}]}"#, "does for all"),
        ] {
            let error = parameters(text).all_duties().unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
