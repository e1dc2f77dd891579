//! kneo-serv, the reference service, in both of its modes, through the command line.
//!
//! | part | what |
//! | --- | --- |
//! | `check` | what `lifeboat check` finds on it, each thing made wrong for real |
//! | `compose` | the operator page on a Compose stack, where there is a Docker |
//! | `drill` | a backup under load proves itself, and its quarantine holds |
//! | `damage` | what a drill must find, each on a backup that is broken on purpose |
//! | `disaster` | the page's five disasters |
//! | `upgrade` | a real migration, taken back, and that taken back |
//! | `plain` | plain SQL in and out |
//! | `sweep` | the engine killed at every place of a run
//! | `restore` | a lost and a drifted database; nothing without a passing verification |

mod check;
mod compose;
mod damage;
mod disaster;
mod drill;
mod plain;
mod restore;
mod scheduled;
mod sweep;
mod upgrade;
