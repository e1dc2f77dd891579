//! Hostile modules, written as text: core WebAssembly against the contract's own binary interface, made a component and packed as `lifeboat
//! policy pack` does it. No compiler stands between the text and the boundary, so a module can do what no SDK would.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use engine::calls::{CALLS, Class};
use engine::contract::{self, Form, Function, Ty, contract};

/// Where a function's results are written, in the memory of a module made by [`core`].
const RESULTS_AT: u32 = 2048;
/// Most values that a function takes by themselves; more are passed as a place in memory.
const FLAT_MAX: usize = 16;

/// A function of the contract by its name for people, `dump.options.new`.
pub fn function(name: &str) -> &'static Function {
    contract().functions.values().find(|f| f.name == name).unwrap_or_else(|| panic!("the contract has no {name}"))
}

/// The core values that stand for a type.
pub fn flat(ty: &Ty) -> Vec<&'static str> {
    let cases = |cases: Vec<Vec<&'static str>>| {
        let mut joined = vec!["i32"];
        for case in cases {
            for (at, value) in case.into_iter().enumerate() {
                match joined.get_mut(at + 1) {
                    Some(there) if *there != value => *there = "i64",
                    Some(_) => {}
                    None => joined.push(value),
                }
            }
        }
        joined
    };
    let of = |ty: &Option<Box<Ty>>| ty.as_deref().map(flat).unwrap_or_default();
    match ty {
        Ty::Unsigned(64) | Ty::Signed(64) => vec!["i64"],
        Ty::Bool | Ty::Unsigned(_) | Ty::Signed(_) | Ty::Own(_) | Ty::Borrow(_) => vec!["i32"],
        Ty::String | Ty::List(_) => vec!["i32", "i32"],
        Ty::Option(inner) => cases(vec![flat(inner)]),
        Ty::Tuple(types) => types.iter().flat_map(flat).collect(),
        Ty::Record(fields) => fields.iter().flat_map(|(_, ty)| flat(ty)).collect(),
        Ty::Result(ok, err) => cases(vec![of(ok), of(err)]),
        Ty::Variant(all) => cases(all.iter().map(|(_, ty)| ty.as_ref().map_or_else(Vec::new, |ty| flat(ty))).collect()),
    }
}

/// What a function takes and gives as core values; whether its results go to a place in memory.
fn signature(function: &Function) -> (Vec<&'static str>, Option<&'static str>, bool) {
    let mut params: Vec<_> = function.params.iter().flat_map(|(_, ty)| flat(ty)).collect();
    assert!(params.len() <= FLAT_MAX, "{} takes its parameters from memory: teach this file how", function.name);
    // A constructor gives an owned handle.
    let results = match (&function.form, &function.result) {
        (Form::Constructor, _) => vec!["i32"],
        (_, Some(ty)) => flat(ty),
        (_, None) => Vec::new(),
    };
    if results.len() > 1 {
        params.push("i32");
        return (params, None, true);
    }
    (params, results.first().copied(), false)
}

/// A call of the import, with these values on the stack; what it gives is left there only if it is one value.
pub fn call(name: &str, values: &str) -> String {
    let (_, _, by_place) = signature(function(name));
    let place = if by_place { format!("(i32.const {RESULTS_AT})") } else { String::new() };
    format!("(call ${name} {values} {place})")
}

/// The same, and what it gives is let go.
pub fn call_and_drop(name: &str, values: &str) -> String {
    let (_, result, _) = signature(function(name));
    let text = call(name, values);
    if result.is_some() { format!("(drop {text})") } else { text }
}

/// The import lines of these functions.
pub fn imports(names: &[&str]) -> String {
    let mut text = String::new();
    for name in names.iter().collect::<BTreeSet<_>>() {
        let function = function(name);
        let (params, result, _) = signature(function);
        let result = result.map_or_else(String::new, |ty| format!("(result {ty})"));
        let from = contract::import_name(&function.interface);
        let wire = &function.wire_name;
        writeln!(text, "(import {from:?} {wire:?} (func ${name} (param {}) {result}))", params.join(" ")).unwrap();
    }
    text
}

/// Gives memory to whoever asks, and lets nothing go.
pub const REALLOC: &str = r#"
    (func $realloc (export "cabi_realloc") (param i32 i32 i32) (param $new i32) (result i32)
      (local $at i32)
      (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
      (global.set $heap (i32.add (local.get $at) (local.get $new)))
      (block $enough (loop $more
        (br_if $enough (i32.le_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536))))
        (drop (memory.grow (i32.const 16)))
        (br $more)))
      (local.get $at))"#;

/// A core module: imports, memory of so many pages, more items (data, functions), and the body of `run`, which ends well if nothing ends it.
pub fn core(names: &[&str], pages: u32, items: &str, body: &str) -> String {
    let imports = imports(names);
    format!(
        r#"(module {imports}
    (memory (export "memory") {pages})
    (global $heap (mut i32) (i32.const {heap}))
    {REALLOC}
    {items}
    (func $run (export "run") (param $at i32) (param $bytes i32) (result i32)
      (local $i i32) (local $h i32)
      {body}
      (i32.const 1024)))"#,
        heap = 32768
    )
}

/// Packs a core module for a world; it declares everything that the world holds.
pub fn pack(world: &str, text: &str) -> Vec<u8> {
    try_pack(world, text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The same, where it may be refused.
pub fn try_pack(world: &str, text: &str) -> Result<Vec<u8>, String> {
    let mut module = wat::parse_str(text).map_err(|e| e.to_string())?;
    let mut map = wit_parser::SourceMap::default();
    map.push_str("contract.wit", contract::text());
    let group = map.parse().map_err(|(map, e)| e.render(&map))?;
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_group(group).map_err(|e| format!("{e:?}"))?;
    let id = resolve.select_world(&[package], Some(world)).map_err(|e| e.to_string())?;
    wit_component::embed_component_metadata(&mut module, &resolve, id, wit_component::StringEncoding::UTF8)
        .map_err(|e| e.to_string())?;
    engine::policy::pack(&module, &description(world)).map(|(bytes, _)| bytes).map_err(|e| e.to_string())
}

/// A description in TOML that declares whatever the world holds.
fn description(world: &str) -> String {
    let interfaces = &contract().worlds[world];
    let held: Vec<_> = CALLS
        .iter()
        .filter(|c| c.class != Class::Pure && interfaces.contains(c.name.split_once('.').unwrap().0))
        .map(|c| c.name)
        .collect();
    format!("name = \"hostile\"\nversion = \"0.1.0\"\nworld = {world:?}\ncapabilities = {held:?}\n")
}

/// A component whose core module is instantiated so many times, with a memory and a table each; the first one's `run` grows its memory for ever.
pub fn instances(count: usize) -> Vec<u8> {
    let more = "(core instance (instantiate $m))".repeat(count - 1);
    let text = format!(
        r#"(component
        (core module $m
          (memory (export "memory") 1) (table 1 funcref)
          (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
          (func (export "run") (param i32 i32) (result i32)
            (loop $on (drop (memory.grow (i32.const 1))) (br $on)) (i32.const 1024)))
        (core instance $first (instantiate $m)) {more}
        (func (export "run") (param "parameters" string) (result (result (error string)))
          (canon lift (core func $first "run") (memory (core memory $first "memory")) (realloc (core func $first "realloc")))))"#
    );
    described(wat::parse_str(text).unwrap(), "backup")
}

/// A component's bytes with a description behind them, for what no encoder would make.
pub fn described(mut component: Vec<u8>, world: &str) -> Vec<u8> {
    let name = engine::policy::SECTION.as_bytes();
    let text = format!("{{\"name\":\"hostile\",\"version\":\"0.1.0\",\"world\":{world:?}}}");
    let size = 1 + name.len() + text.len();
    assert!(size < 16384, "its size takes two bytes");
    component.push(0);
    if size < 128 {
        component.push(u8::try_from(size).unwrap());
    } else {
        component.extend([u8::try_from(size & 0x7f).unwrap() | 0x80, u8::try_from(size >> 7).unwrap()]);
    }
    component.push(u8::try_from(name.len()).unwrap());
    component.extend(name);
    component.extend(text.as_bytes());
    component
}

/// A number as WebAssembly writes it.
pub fn leb(mut value: usize) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let low = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        if value == 0 {
            out.push(low);
            return out;
        }
        out.push(low | 0x80);
    }
}

pub fn section(id: u8, content: &[u8]) -> Vec<u8> {
    [&[id][..], &leb(content.len()), content].concat()
}

pub const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

/// A component around a core module of these sections.
fn around(sections: &[Vec<u8>]) -> Vec<u8> {
    let module = [MODULE, &sections.concat()].concat();
    described([COMPONENT, &section(1, &module)].concat(), "backup")
}

/// Functions without parameters, each with this body.
pub fn functions(count: usize, body: &[u8]) -> Vec<u8> {
    let entry = [&leb(body.len()), body].concat();
    around(&[
        section(1, &[1, 0x60, 0, 0]),
        section(3, &[leb(count), vec![0; count]].concat()),
        section(10, &[leb(count), entry.repeat(count)].concat()),
    ])
}
