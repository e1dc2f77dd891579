//! What was promised of a service.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What `lifeboat check` holds a service's backups and drills against. What is left out is not held against anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Objectives {
    /// Recovery point: the newest backup is at most so many seconds old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpo_s: Option<u64>,
    /// Recovery time: the last drill took at most so many seconds from the start of its restore to a ready service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rto_s: Option<u64>,
    /// A drill passes at least every so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drill_every_s: Option<u64>,
    /// A backup lies in at least so many stores; all of them, up to two, if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copies: Option<u64>,
}

impl Objectives {
    /// An objective of nothing can't be kept.
    pub(super) fn check(&self) -> Result<()> {
        let all = [
            ("rpo-s", self.rpo_s),
            ("rto-s", self.rto_s),
            ("drill-every-s", self.drill_every_s),
            ("copies", self.copies),
        ];
        match all.iter().find(|(_, value)| *value == Some(0)) {
            Some((key, _)) => Err(Error::invalid(format!("`{key}` is 0")).hint("leave it out, or say 1 or more")),
            None => Ok(()),
        }
    }
}
