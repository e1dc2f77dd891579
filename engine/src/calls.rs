//! What the contract's text can't say about a call: its class, and the configured objects it touches.
//!
//! Every freestanding function of the contract stands in [`CALLS`]; a test holds the table against the text.

use host_api::{Error, Result, http_check};
use serde_json::Value;

/// How a call is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// No outside effect, the same on replay: not recorded by itself.
    Pure,
    /// Looks at the world: its result is recorded; in doubt, asked again.
    Read,
    /// Changes the world: started, acted, completed.
    Effect,
    /// An effect that takes a person's approval with it.
    Destructive,
    /// A read, or an effect for HTTP methods that change something.
    ByMethod,
}

/// One row of the table.
#[derive(Debug)]
pub struct Call {
    /// `dump.take`.
    pub name: &'static str,
    /// How it is recorded.
    pub class: Class,
    /// Names of the configured objects a grant for it must speak of.
    pub objects: &'static [&'static str],
}

const fn call(name: &'static str, class: Class, objects: &'static [&'static str]) -> Call {
    Call { name, class, objects }
}

/// The table.
pub const CALLS: &[Call] = &[
    call("catalog.list", Class::Read, &["service", "store"]),
    call("catalog.get", Class::Read, &["service", "store"]),
    call("catalog.latest", Class::Read, &["service", "store"]),
    call("catalog.hold", Class::Effect, &["service", "store"]),
    call("catalog.unhold", Class::Effect, &["service", "store"]),
    call("dump.take", Class::Effect, &["service", "store"]),
    call("upload.copy", Class::Effect, &["service", "store", "to"]),
    call("upload.verify", Class::Read, &["service", "store"]),
    call("upload.attest", Class::Effect, &["service", "store"]),
    call("restore.stage", Class::Effect, &["service", "store", "target"]),
    call("restore.verify", Class::Effect, &["service"]),
    call("restore.park", Class::Effect, &["service"]),
    call("restore.query", Class::Read, &["service", "query"]),
    call("restore.discard", Class::Effect, &["service"]),
    call("scratch.start", Class::Effect, &["service"]),
    call("scratch.wait-ready", Class::Read, &["service"]),
    call("scratch.stop", Class::Effect, &["service"]),
    call("service.get-status", Class::Read, &["service"]),
    call("service.stop", Class::Effect, &["service"]),
    call("service.start", Class::Effect, &["service"]),
    call("service.wait-ready", Class::Read, &["service"]),
    call("service.installable", Class::Read, &["service"]),
    call("service.install", Class::Effect, &["service"]),
    call("promote.preflight", Class::Read, &["service"]),
    call("promote.promote", Class::Destructive, &["service"]),
    call("promote.undo", Class::Destructive, &["service"]),
    call("promote.drop-previous", Class::Destructive, &["service"]),
    call("promote.latest", Class::Read, &["service"]),
    call("delete.plan", Class::Read, &["service", "store"]),
    call("delete.apply", Class::Destructive, &["service", "store"]),
    call("http-check.check", Class::ByMethod, &["endpoint", "method", "path"]),
    call("query.run", Class::Read, &["service", "query"]),
    call("confirm.request-promote", Class::Effect, &["service"]),
    call("confirm.request-undo", Class::Effect, &["service"]),
    call("confirm.request-drop-previous", Class::Effect, &["service"]),
    call("confirm.request-delete", Class::Effect, &["service", "store"]),
    call("schedule.terms-of", Class::Read, &["service"]),
    call("schedule.runs", Class::Read, &["policy"]),
    call("schedule.previous-time", Class::Read, &[]),
    call("schedule.next-time", Class::Read, &[]),
    call("schedule.due", Class::Pure, &[]),
    call("schedule.wake-at", Class::Pure, &[]),
    call("clock.now", Class::Pure, &[]),
    call("clock.sleep-until", Class::Effect, &[]),
    call("report.note", Class::Pure, &[]),
    call("report.add-finding", Class::Pure, &[]),
    call("report.evidence", Class::Pure, &[]),
    call("report.outcome", Class::Pure, &[]),
];

/// Calls that only a person makes on the command line: they speak of files of this machine, or of objects of a store, so no contract has them
/// and no policy can name them. Recorded as every other. An export only reads: a run that died with the service must not keep its data from whoever needs them.
pub const BY_HAND: &[Call] = &[
    call("backups.export", Class::Read, &["service", "store"]),
    call("backups.import", Class::Effect, &["service", "store"]),
    call("policy.pin", Class::Effect, &[]),
    call("backups.request-sweep", Class::Effect, &["service", "store"]),
    call("backups.sweep", Class::Destructive, &["service", "store"]),
];

/// Whether a call asks a person.
pub(crate) fn asks(name: &str) -> bool {
    name.starts_with("confirm.") || name == "backups.request-sweep"
}

/// The row of a call.
pub fn find(name: &str) -> Option<&'static Call> {
    CALLS.iter().find(|c| c.name == name)
}

/// The row of a call that is made by hand, of the contract or not.
pub(crate) fn find_by_hand(name: &str) -> Option<&'static Call> {
    find(name).or_else(|| BY_HAND.iter().find(|c| c.name == name))
}

/// Whether a call has no outside effect: it needs no grant.
pub fn is_pure(name: &str) -> bool {
    find(name).is_some_and(|call| call.class == Class::Pure)
}

/// The class of one concrete request.
pub fn class_of(call: &Call, arguments: &Value) -> Class {
    match call.class {
        Class::ByMethod => match arguments["request"]["method"].as_str() {
            Some("GET" | "HEAD") => Class::Read,
            _ => Class::Effect,
        },
        class => class,
    }
}

/// The configured objects that one concrete request touches, in the order of the row. `arguments`: the call's parameters by name,
/// resources as their properties.
pub fn objects_of(call: &Call, arguments: &Value) -> Result<Vec<(&'static str, String)>> {
    // A resource knows its service; a plain argument says it.
    let subject = ["backup", "candidate", "instance", "promotion"].iter().find_map(|key| arguments.get(*key));
    call.objects
        .iter()
        .map(|object| {
            let value = match (*object, call.name) {
                ("to", _) => arguments["store"].as_str().map(str::to_owned),
                ("query", _) => arguments["name"].as_str().map(str::to_owned),
                ("service" | "store", "delete.apply" | "confirm.request-delete") => one_of_all(arguments, object)?,
                ("service" | "store", _) => subject.unwrap_or(arguments)[*object].as_str().map(str::to_owned),
                // A scratch instance's id is generated: its endpoints are granted as a kind.
                ("endpoint", _) => arguments["endpoint"].as_str().map(endpoint_kind),
                ("method", _) => arguments["request"]["method"].as_str().map(str::to_owned),
                ("path", _) => {
                    let path = arguments["request"]["path"].as_str().unwrap_or_default();
                    Some(http_check::checked_path(path)?.path)
                }
                (object, _) => arguments[object].as_str().map(str::to_owned),
            };
            let value = value.ok_or_else(|| Error::invalid(format!("{}: no {object} in the request", call.name)))?;
            Ok((*object, value))
        })
        .collect()
}

/// `notes/api` stays; `20261123t…-abc/api` becomes `scratch/api`.
fn endpoint_kind(endpoint: &str) -> String {
    match endpoint.split_once('/') {
        Some((owner, name)) if is_instance_id(owner) => format!("scratch/{name}"),
        _ => endpoint.to_owned(),
    }
}

/// Ids of scratch instances start with their time, names of services can't be that long a number.
pub fn is_instance_id(owner: &str) -> bool {
    owner.len() > 20 && owner.as_bytes()[..8].iter().all(u8::is_ascii_digit) && owner.as_bytes()[8] == b'T'
}

fn one_of_all(arguments: &Value, object: &str) -> Result<Option<String>> {
    let mut values = arguments["backups"].as_array().into_iter().flatten().map(|b| b[object].as_str());
    let Some(first) = values.next() else { return Err(Error::invalid("no backup named")) };
    if values.any(|other| other != first) {
        return Err(Error::invalid(format!("backups of more than one {object} in one call")));
    }
    Ok(first.map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::contract;

    #[test]
    fn the_table_and_the_text_name_the_same_calls() {
        let mut text: Vec<_> = contract().calls().map(|f| f.name.as_str()).collect();
        let mut table: Vec<_> = CALLS.iter().map(|c| c.name).collect();
        text.sort_unstable();
        table.sort_unstable();
        assert_eq!(text, table);
    }

    #[test]
    fn what_is_made_by_hand_alone_is_in_no_contract() {
        for call in BY_HAND {
            assert!(contract().call(call.name).is_none() && find(call.name).is_none(), "{}", call.name);
            let (interface, _) = call.name.split_once('.').unwrap();
            assert!(contract().worlds.values().flatten().all(|has| has != interface), "{}", call.name);
        }
    }

    #[test]
    fn every_call_that_can_be_refused_can_say_so() {
        for call in CALLS.iter().filter(|c| c.class != Class::Pure) {
            let function = contract().call(call.name).unwrap();
            assert!(matches!(function.result, Some(crate::contract::Ty::Result(_, Some(_)))), "{}", call.name);
        }
    }

    #[test]
    fn destructive_calls_are_exactly_those_that_own_an_approval() {
        for function in contract().calls() {
            let owns = function
                .params
                .iter()
                .any(|(_, ty)| matches!(ty, crate::contract::Ty::Own(r) if r == "types/approval"));
            let destructive = find(&function.name).unwrap().class == Class::Destructive;
            assert_eq!(owns, destructive, "{}", function.name);
        }
    }
}
