//! The contract as one policy needs it: a world `policy` with the interfaces whose calls are declared, and of those interfaces the declared
//! calls alone.
//!
//! Language runtimes (Python, JavaScript) import whatever their world holds, used or not. With a world that holds no more than was declared, a
//! module can't import more either, and what `policy inspect` shows is what the policy was meant to do.

use std::collections::BTreeSet;

use wit_component::WitPrinter;
use wit_parser::{InterfaceId, Resolve, SourceMap, Type, TypeDefKind, TypeOwner, WorldId};

use crate::calls;
use crate::contract::{VERSION, import_name, parsed};
use crate::error::{Error, Kind, Result};
use crate::policy::Description;

/// Name of the world that a project is written against.
pub const WORLD: &str = "policy";
/// First line of every file that is written here.
const HEAD: &str = "// Written by `lifeboat policy wit policy.toml`: the calls that policy.toml declares. Not to be changed by hand.\n";

/// The texts, and what was read of them.
pub struct Narrowed {
    /// `wit/policy.wit`: the world.
    pub world_text: String,
    /// `wit/deps/lifeboat-recovery/contract.wit`: the interfaces.
    pub contract_text: String,
    /// Both, parsed, for whoever makes bindings.
    pub resolve: Resolve,
    /// The world in it.
    pub world: WorldId,
}

/// The contract narrowed to what a policy declares.
pub fn narrowed(description: &Description) -> Result<Narrowed> {
    let bug = |e: String| Error::new(Kind::Failed, format!("a bug: the contract can't be narrowed: {e}"));
    let (mut resolve, package) = parsed().map_err(bug)?;
    let declared: BTreeSet<&str> = description.capabilities.iter().map(String::as_str).collect();
    let imported: BTreeSet<&str> = declared.iter().filter_map(|call| Some(call.split_once('.')?.0)).collect();
    let mut kept: Vec<InterfaceId> = Vec::new();
    for (name, id) in &resolve.packages[package].interfaces {
        if imported.contains(name.as_str()) {
            kept.push(*id);
        }
    }
    // What they speak of stands in other interfaces.
    let mut at = 0;
    while let Some(id) = kept.get(at).copied() {
        for owner in used_by(&resolve, id) {
            if !kept.contains(&owner) {
                kept.push(owner);
            }
        }
        at += 1;
    }
    for id in resolve.packages[package].interfaces.values().copied().collect::<Vec<_>>() {
        let interface = &mut resolve.interfaces[id];
        let name = interface.name.clone().unwrap_or_default();
        interface.functions.retain(|_, function| {
            let call = format!("{name}.{}", function.item_name());
            // Getters, builders, and what changes nothing are everybody's.
            function.kind.resource().is_some() || declared.contains(call.as_str()) || calls::is_pure(&call)
        });
    }
    resolve.packages[package].interfaces.retain(|_, id| kept.contains(id));
    resolve.packages[package].worlds.clear();
    let mut printer = WitPrinter::default();
    printer.print(&resolve, package, &[]).map_err(|e| bug(format!("{e:#}")))?;
    let contract_text = format!("{HEAD}{}", printer.output);

    let imports: String = imported.iter().map(|name| format!("    import {};\n", import_name(name))).collect();
    let world_text = format!(
        "{HEAD}package lifeboat:policy@{VERSION};\n\nworld {WORLD} {{\n{imports}    \
         /// Parameters: a JSON object that fits the schema in policy.toml. An error is how a run ends that failed.\n    \
         export run: func(parameters: string) -> result<_, string>;\n}}\n"
    );
    // Read as whoever builds the project reads them.
    let mut fresh = Resolve::default();
    let mut push = |path: &str, text: &str| {
        let mut map = SourceMap::default();
        map.push_str(path, text);
        let group = map.parse().map_err(|(map, e)| bug(e.render(&map)))?;
        fresh.push_group(group).map_err(|e| bug(format!("{e:?}")))
    };
    push("contract.wit", &contract_text)?;
    let own = push("policy.wit", &world_text)?;
    let world = fresh.select_world(&[own], Some(WORLD)).map_err(|e| bug(format!("{e:#}")))?;
    Ok(Narrowed { world_text, contract_text, resolve: fresh, world })
}

/// Interfaces whose types this one uses by name.
fn used_by(resolve: &Resolve, id: InterfaceId) -> Vec<InterfaceId> {
    let types = resolve.interfaces[id].types.values();
    types
        .filter_map(|ty| match resolve.types[*ty].kind {
            TypeDefKind::Type(Type::Id(of)) => match resolve.types[of].owner {
                TypeOwner::Interface(owner) if owner != id => Some(owner),
                _ => None,
            },
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::contract;

    fn description(world: &str, capabilities: &[String]) -> Description {
        serde_json::from_value(
            serde_json::json!({"name": "p", "version": "1", "world": world, "capabilities": capabilities}),
        )
        .unwrap()
    }

    #[test]
    fn a_world_holds_what_was_declared_and_no_more() {
        let declared = ["dump.take", "upload.verify", "report.note"].map(str::to_owned);
        let narrowed = narrowed(&description("backup", &declared)).unwrap();
        assert!(narrowed.contract_text.contains("verify: func("), "{}", narrowed.contract_text);
        assert!(narrowed.contract_text.contains("outcome: func("), "what changes nothing is there");
        assert!(narrowed.contract_text.contains("set-label: func("), "and builders");
        for absent in ["copy: func(", "attest: func(", "interface catalog", "promote: func("] {
            assert!(!narrowed.contract_text.contains(absent), "{absent}: {}", narrowed.contract_text);
        }
        assert_eq!(narrowed.world_text.matches("import ").count(), 3, "{}", narrowed.world_text);
    }

    #[test]
    fn each_single_call_and_all_of_each_world_can_be_had_and_have_the_contracts_types() {
        let all = |world: &str| -> Vec<String> {
            let held = &contract().worlds[world];
            contract().calls().filter(|f| held.contains(&f.interface)).map(|f| f.name.clone()).collect()
        };
        let mut sets: Vec<Vec<String>> = calls::CALLS.iter().map(|call| vec![call.name.to_owned()]).collect();
        sets.extend(contract().worlds.keys().map(|world| all(world)));
        for declared in sets {
            let narrowed = narrowed(&description("upgrade", &declared)).unwrap();
            for interface in narrowed.resolve.interfaces.iter().map(|(_, interface)| interface) {
                let name = interface.name.clone().unwrap();
                for function in interface.functions.values() {
                    let read = crate::contract::read_function(&narrowed.resolve, &name, function).unwrap();
                    let ours = &contract().functions[&(name.clone(), read.wire_name.clone())];
                    assert_eq!(read.signature, ours.signature, "{}", read.name);
                }
            }
        }
    }
}
