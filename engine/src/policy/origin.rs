//! What a module's file says besides: its interface as text, what it was made with, which other sections it carries. None of it decides anything.

use std::collections::{BTreeMap, BTreeSet};

use host_api::identifier::shown;
use wasmparser::{KnownCustom, Parser, Payload};
use wit_component::{DecodedWasm, WitPrinter};

use super::description::refused;
use crate::error::Result;

/// What a module was made with, and what else lies in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Origin {
    /// `language: Rust`, `processed-by: rustc 1.95.0`, …: as its tools wrote it.
    pub producers: BTreeSet<String>,
    /// Custom sections and their sizes, bytes: a bill of materials is one, where it is embedded.
    pub sections: BTreeMap<String, usize>,
}

impl Origin {
    /// Reads it; what can't be read is left out.
    pub fn of(bytes: &[u8]) -> Self {
        let mut origin = Self::default();
        for payload in Parser::new(0).parse_all(bytes) {
            let Ok(payload) = payload else { break };
            let Payload::CustomSection(custom) = payload else { continue };
            *origin.sections.entry(shown(custom.name())).or_default() += custom.data().len();
            if let KnownCustom::Producers(fields) = custom.as_known() {
                for field in fields.into_iter().flatten() {
                    for value in field.values.into_iter().flatten() {
                        let words = format!("{}: {} {}", field.name, value.name, value.version);
                        origin.producers.insert(shown(words.trim_end()));
                    }
                }
            }
        }
        origin
    }
}

/// A component's interface as WIT text.
pub fn wit(bytes: &[u8]) -> Result<String> {
    let unreadable = |e: &dyn std::fmt::Display| refused(format!("its interface can't be read: {e}"));
    let decoded = wit_component::decode(bytes).map_err(|e| unreadable(&format!("{e:#}")))?;
    let DecodedWasm::Component(resolve, world) = decoded else {
        return Err(refused("it is an encoded WIT package, not a component".into()));
    };
    let Some(package) = resolve.worlds[world].package else { return Err(unreadable(&"it has no package")) };
    let others: Vec<_> = resolve.packages.iter().map(|(id, _)| id).filter(|id| *id != package).collect();
    let mut printer = WitPrinter::default();
    printer.print(&resolve, package, &others).map_err(|e| unreadable(&format!("{e:#}")))?;
    Ok(printer.output.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_module_has_no_origin_and_no_interface() {
        assert_eq!(Origin::of(b"hello"), Origin::default());
        assert!(wit(b"hello").is_err());
        assert!(wit(b"\0asm\x0d\0\x01\0\xff").is_err());
    }
}
