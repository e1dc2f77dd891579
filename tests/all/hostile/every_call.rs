//! A guest that makes every call of the contract, with values of one kind: written by the contract itself, so a new call is in it by itself.

use std::fmt::Write as _;

use engine::contract::{Form, Function, Ty, contract};

use super::make::{call, call_and_drop, core, pack};

/// What every text and list is.
#[derive(Clone, Copy)]
pub enum Values<'v> {
    /// 32 MiB of zero bytes, or as many items as fit there.
    Giant,
    /// This text; lists are empty.
    Text(&'v str),
}

/// A module's own memory: where giant values begin, and how long they are.
const GIANT_AT: u32 = 1 << 20;
const GIANT_BYTES: u32 = 32 << 20;
/// Where a text stands.
const TEXT_AT: u32 = 4096;
/// A handle that nobody gave.
const FORGED: u32 = 7;

/// Whether it takes a text or a list.
pub fn takes_text(function: &Function) -> bool {
    function.params.iter().any(|(_, ty)| holds_text(ty))
}

fn holds_text(ty: &Ty) -> bool {
    match ty {
        Ty::String | Ty::List(_) => true,
        Ty::Option(inner) => holds_text(inner),
        Ty::Tuple(types) => types.iter().any(holds_text),
        Ty::Record(fields) => fields.iter().any(|(_, ty)| holds_text(ty)),
        _ => false,
    }
}

/// The constructor of a resource, `dump/options`.
fn constructor(kind: &str) -> Option<&'static Function> {
    contract().functions.values().find(|f| {
        f.form == Form::Constructor && f.resource.as_ref().is_some_and(|r| format!("{}/{r}", f.interface) == kind)
    })
}

/// Whether all resources that it takes are builders, which a guest makes itself.
pub fn needs_nothing_given(function: &Function) -> bool {
    function.params.iter().all(|(_, ty)| match ty {
        Ty::Own(kind) | Ty::Borrow(kind) => constructor(kind).is_some(),
        _ => true,
    })
}

/// Whether a resource that it can't make comes before every text: then that is what it stumbles on.
pub fn stumbles_on_a_handle(function: &Function) -> bool {
    let given = |ty: &Ty| matches!(ty, Ty::Own(kind) | Ty::Borrow(kind) if constructor(kind).is_none());
    function.params.iter().find(|(_, ty)| holds_text(ty) || given(ty)).is_some_and(|(_, ty)| given(ty))
}

/// Every function that can be linked, with a world that holds it.
pub fn functions() -> Vec<(&'static Function, &'static str)> {
    let worlds = &contract().worlds;
    contract()
        .functions
        .values()
        .map(|f| {
            let holds = |world: &&str| worlds[*world].contains(&f.interface) || f.interface == "types";
            let world = ["upgrade", "retention", "cadence"].into_iter().find(holds);
            (f, world.unwrap_or_else(|| panic!("no world of these holds {}", f.name)))
        })
        .collect()
}

/// Bytes of a value in memory, and their alignment.
fn size(ty: &Ty) -> (u32, u32) {
    let all = |types: &mut dyn Iterator<Item = &Ty>| {
        let (mut bytes, mut align) = (0_u32, 1);
        for (size, to) in types.map(size) {
            bytes = bytes.next_multiple_of(to) + size;
            align = align.max(to);
        }
        (bytes.next_multiple_of(align), align)
    };
    match ty {
        Ty::Bool => (1, 1),
        Ty::Unsigned(bits) | Ty::Signed(bits) => (u32::from(*bits) / 8, u32::from(*bits) / 8),
        Ty::String | Ty::List(_) => (8, 4),
        Ty::Own(_) | Ty::Borrow(_) => (4, 4),
        Ty::Tuple(types) => all(&mut types.iter()),
        Ty::Record(fields) => all(&mut fields.iter().map(|(_, ty)| ty)),
        Ty::Option(inner) => {
            let (bytes, align) = size(inner);
            (align.max(1) + bytes, align)
        }
        other => panic!("no parameter of the contract has {other:?} in a list"),
    }
}

fn value(ty: &Ty, values: Values, out: &mut String) {
    match (ty, values) {
        (Ty::String, Values::Giant) => write!(out, "(i32.const {GIANT_AT}) (i32.const {GIANT_BYTES})").unwrap(),
        (Ty::List(item), Values::Giant) => {
            write!(out, "(i32.const {GIANT_AT}) (i32.const {})", GIANT_BYTES / size(item).0).unwrap();
        }
        (Ty::String, Values::Text(text)) => write!(out, "(i32.const {TEXT_AT}) (i32.const {})", text.len()).unwrap(),
        (Ty::List(_), Values::Text(_)) => write!(out, "(i32.const {TEXT_AT}) (i32.const 0)").unwrap(),
        (Ty::Option(inner), _) => {
            out.push_str("(i32.const 1) ");
            value(inner, values, out);
        }
        (Ty::Tuple(types), _) => types.iter().for_each(|ty| value(ty, values, out)),
        (Ty::Record(fields), _) => fields.iter().for_each(|(_, ty)| value(ty, values, out)),
        (Ty::Unsigned(64) | Ty::Signed(64), _) => out.push_str("(i64.const 1)"),
        (Ty::Own(_) | Ty::Borrow(_), _) => out.push_str("(local.get $h)"),
        (Ty::Result(..) | Ty::Variant(_), _) => {
            let all = super::make::flat(ty);
            all.iter().for_each(|core| write!(out, "({core}.const 0)").unwrap());
        }
        _ => out.push_str("(i32.const 0)"),
    }
    out.push(' ');
}

/// Makes a builder into `$h`, with short texts; where none can be made, forges one.
fn resource(function: &Function, names: &mut Vec<&'static str>) -> String {
    let kind = function.params.iter().find_map(|(_, ty)| match ty {
        Ty::Own(kind) | Ty::Borrow(kind) => Some(kind),
        _ => None,
    });
    let Some(kind) = kind else { return String::new() };
    let Some(make) = constructor(kind) else { return format!("(local.set $h (i32.const {FORGED}))") };
    names.push(&make.name);
    let mut short = String::new();
    make.params.iter().for_each(|(_, ty)| value(ty, Values::Text("x"), &mut short));
    format!("(local.set $h {})", call(&make.name, &short))
}

/// A guest of a world that makes these calls, one after the other.
pub fn guest(world: &str, functions: &[&'static Function], values: Values) -> Vec<u8> {
    let mut names = Vec::new();
    let mut body = String::new();
    for function in functions {
        names.push(function.name.as_str());
        body.push_str(&resource(function, &mut names));
        let mut all = String::new();
        function.params.iter().for_each(|(_, ty)| value(ty, values, &mut all));
        body.push_str(&call_and_drop(&function.name, &all));
        body.push('\n');
    }
    let text = match values {
        Values::Giant => "x",
        Values::Text(text) => text,
    };
    assert!(text.len() < 24 << 10, "it has its place below the heap");
    let bytes: String = text.bytes().map(|b| format!("\\{b:02x}")).collect();
    let data = format!("(data (i32.const {TEXT_AT}) \"{bytes}\")");
    let pages = (GIANT_AT + GIANT_BYTES) / 65536;
    pack(world, &core(&names, pages, &data, &body))
}
