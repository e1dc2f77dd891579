//! Making a policy: a core module (or a component) and a description become one file.

use host_api::identifier::shown;
use wasm_encoder::ComponentSection;
use wasmparser::{Parser, Payload};

use super::description::{Description, SECTION, refused};
use super::module::{Inspected, inspect};
use crate::error::{Error, Kind, Result};

/// Packs a module with a description in TOML. Gives the component's bytes and what an inspection of them says.
pub fn pack(module: &[u8], description: &str) -> Result<(Vec<u8>, Inspected)> {
    let description: Description = toml::from_str(description)
        .map_err(|e| Error::new(Kind::Configuration, format!("the description can't be read: {e}")))?;
    description.check()?;
    let mut component = if Parser::is_component(module) {
        without_section(module)?
    } else {
        core_module(module)?;
        wit_component::ComponentEncoder::default()
            .module(module)
            .and_then(|encoder| encoder.validate(true).encode())
            .map_err(|e| refused(format!("it can't be made a component: {e:#}")))?
    };
    let text = serde_json::to_value(&description)
        .map_err(|e| Error::new(Kind::Failed, format!("the description can't be written: {e}")))?
        .to_string();
    wasm_encoder::CustomSection { name: SECTION.into(), data: text.as_bytes().into() }
        .append_to_component(&mut component);
    let inspected = inspect(&component)?;
    Ok((component, inspected))
}

/// Refuses a core module that can't become a policy, with words for whoever built it.
fn core_module(module: &[u8]) -> Result<()> {
    let (mut typed, mut preview1) = (false, None);
    for payload in Parser::new(0).parse_all(module) {
        match payload.map_err(|e| refused(format!("it is no WebAssembly that can be parsed: {e}")))? {
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    let import = import.map_err(|e| refused(format!("it can't be parsed: {e}")))?;
                    if preview1.is_none() && import.module.starts_with("wasi_") {
                        preview1 = Some(format!("{}.{}", shown(import.module), shown(import.name)));
                    }
                }
            }
            Payload::CustomSection(custom) => typed |= custom.name().starts_with("component-type"),
            _ => {}
        }
    }
    if let Some(import) = preview1 {
        return Err(refused(format!("it imports `{import}`, of WASI 0.1, which does not exist here"))
            .hint("something in it prints, reads files or the clock, or ends the process (printf, assert, exit, time): leave it out"));
    }
    if !typed {
        return Err(refused("it does not carry the contract's types".into())
            .hint("link the bindings with it: `lifeboat policy wit policy.toml` writes what they are made from, with --c the bindings too"));
    }
    Ok(())
}

/// The component without a description it had.
fn without_section(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut depth = 0_u32;
    let mut cut: Option<std::ops::Range<usize>> = None;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(|e| refused(format!("it can't be parsed: {e}")))? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) if depth > 0 => depth -= 1,
            Payload::CustomSection(custom) if depth == 0 && custom.name() == SECTION => cut = Some(custom.range()),
            _ => {}
        }
    }
    let Some(range) = cut else { return Ok(bytes.to_vec()) };
    // The range begins after the section's id and size: one byte, and a size in as many bytes as it takes.
    let header = 1 + leb_bytes(range.len());
    let start = range.start.checked_sub(header).ok_or_else(|| refused("its sections overlap".into()))?;
    Ok([&bytes[..start], &bytes[range.end..]].concat())
}

fn leb_bytes(mut value: usize) -> usize {
    let mut count = 1;
    while value >= 0x80 {
        value >>= 7;
        count += 1;
    }
    count
}
