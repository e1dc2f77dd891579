//! What several policies do alike.
//!
//! | module | what |
//! | --- | --- |
//! | [`choose`] | which backup, and whether its bytes are whole |
//! | [`checks`] | what a running service must answer, live or in quarantine |
//! | [`drill`] | a restore into scratch that proves a backup |
//! | [`beside`] | a verified candidate next to the live data, discarded if anything goes wrong |
//! | [`in_place`] | such a candidate put in service, and the way back |
//! | [`live`] | the live service stopped around an act, and started again |
//! | [`undo`] | taking a promotion back, with a person's consent |

pub mod beside;
pub mod checks;
pub mod choose;
pub mod drill;
pub mod in_place;
pub mod live;
pub mod undo;
