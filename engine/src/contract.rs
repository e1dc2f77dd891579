//! The contract, read from the WIT text itself: which interfaces there are, what their functions take and answer, what each world holds.
//!
//! The linker, the grants and the journal are all built from this one reading, so none of them can forget a function. What the text can't
//! say (is it a read or an effect, which configured objects does it touch) stands in one table, [`crate::calls`], and a test holds the two
//! against each other.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use wit_parser::{
    FunctionKind, Handle, PackageId, Resolve, SourceMap, Type, TypeDefKind, TypeOwner, WorldItem, WorldKey,
};

/// The package's name and version, as it stands in a component's imports after the interface: `lifeboat:recovery/dump@0.1.0`.
pub const PACKAGE: &str = "lifeboat:recovery";
/// Version of the contract.
pub const VERSION: &str = "0.1.0";

pub(crate) const TEXTS: &[(&str, &str)] = &[
    ("worlds.wit", include_str!("../../wit/worlds.wit")),
    ("types.wit", include_str!("../../wit/types.wit")),
    ("catalog.wit", include_str!("../../wit/catalog.wit")),
    ("dump.wit", include_str!("../../wit/dump.wit")),
    ("upload.wit", include_str!("../../wit/upload.wit")),
    ("restore.wit", include_str!("../../wit/restore.wit")),
    ("scratch.wit", include_str!("../../wit/scratch.wit")),
    ("service.wit", include_str!("../../wit/service.wit")),
    ("promote.wit", include_str!("../../wit/promote.wit")),
    ("delete.wit", include_str!("../../wit/delete.wit")),
    ("http-check.wit", include_str!("../../wit/http-check.wit")),
    ("query.wit", include_str!("../../wit/query.wit")),
    ("confirm.wit", include_str!("../../wit/confirm.wit")),
    ("schedule.wit", include_str!("../../wit/schedule.wit")),
    ("clock.wit", include_str!("../../wit/clock.wit")),
    ("report.wit", include_str!("../../wit/report.wit")),
];

/// A type of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ty {
    /// `bool`
    Bool,
    /// An unsigned integer of so many bits.
    Unsigned(u8),
    /// A signed integer of so many bits.
    Signed(u8),
    /// `string`
    String,
    /// `list<T>`
    List(Box<Ty>),
    /// `option<T>`
    Option(Box<Ty>),
    /// `tuple<…>`
    Tuple(Vec<Ty>),
    /// `result<T, E>`
    Result(Option<Box<Ty>>, Option<Box<Ty>>),
    /// Fields in order.
    Record(Vec<(String, Ty)>),
    /// Cases in order.
    Variant(Vec<(String, Option<Ty>)>),
    /// A handle given away: the resource's name.
    Own(String),
    /// A handle lent.
    Borrow(String),
}

/// What sort of function it is, as its form says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// Makes a builder resource from its arguments, which become fields of the same names.
    Constructor,
    /// `set-X`: sets a field of a builder.
    Set(String),
    /// `add-X`: appends to a field of a builder.
    Add(String),
    /// Reads a property.
    Get(String),
    /// A call of the host: everything that is not a method.
    Call,
}

/// One function of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Function {
    /// Interface it stands in, `dump`.
    pub interface: String,
    /// Name as in a component's imports: `take`, `[method]options.set-label`.
    pub wire_name: String,
    /// `dump.take`, or `dump.options.set-label`: for people, grants and the journal.
    pub name: String,
    /// Its form.
    pub form: Form,
    /// Parameters in order; for a method, the first is the resource itself.
    pub params: Vec<(String, Ty)>,
    /// Result, if any.
    pub result: Option<Ty>,
    /// The resource it belongs to.
    pub resource: Option<String>,
    /// Canonical text of its type, to compare with what a component expects.
    pub signature: String,
}

/// The whole contract.
#[derive(Debug)]
pub struct Contract {
    /// Functions by interface and wire name.
    pub functions: BTreeMap<(String, String), Function>,
    /// Interfaces of each world.
    pub worlds: BTreeMap<String, BTreeSet<String>>,
    /// Every resource with the interface it is defined in. A resource's number in the sandbox is its place in this order.
    pub resources: Vec<(String, String)>,
}

/// The contract of this build.
pub fn contract() -> &'static Contract {
    static CONTRACT: OnceLock<Contract> = OnceLock::new();
    CONTRACT.get_or_init(|| read().expect("the contract's text is part of this build and is tested"))
}

/// `lifeboat:recovery/dump@0.1.0` for `dump`.
pub fn import_name(interface: &str) -> String {
    format!("{PACKAGE}/{interface}@{VERSION}")
}

/// All of the contract's text.
pub fn text() -> String {
    TEXTS.iter().map(|(_, text)| *text).collect::<Vec<_>>().join("\n")
}

impl Contract {
    /// A freestanding function by its name for people, `dump.take`.
    pub fn call(&self, name: &str) -> Option<&Function> {
        let (interface, function) = name.split_once('.')?;
        self.functions.get(&(interface.to_owned(), function.to_owned())).filter(|f| f.form == Form::Call)
    }

    /// All freestanding functions.
    pub fn calls(&self) -> impl Iterator<Item = &Function> {
        self.functions.values().filter(|f| f.form == Form::Call)
    }

    /// Number of a resource in the sandbox.
    pub fn resource_number(&self, interface: &str, resource: &str) -> Option<u32> {
        let at = self.resources.iter().position(|(i, r)| i == interface && r == resource)?;
        u32::try_from(at).ok()
    }
}

/// The text, parsed.
pub(crate) fn parsed() -> Result<(Resolve, PackageId), String> {
    let mut map = SourceMap::default();
    for (path, text) in TEXTS {
        map.push_str(path, *text);
    }
    let group = map.parse().map_err(|(map, e)| e.render(&map))?;
    let mut resolve = Resolve::default();
    let package = resolve.push_group(group).map_err(|e| format!("{e:?}"))?;
    Ok((resolve, package))
}

fn read() -> Result<Contract, String> {
    let (resolve, package) = parsed()?;
    let package = &resolve.packages[package];
    let mut functions = BTreeMap::new();
    let mut resources = Vec::new();
    for (interface, id) in &package.interfaces {
        for (name, ty) in &resolve.interfaces[*id].types {
            if matches!(resolve.types[*ty].kind, TypeDefKind::Resource) {
                resources.push((interface.clone(), name.clone()));
            }
        }
        for (wire_name, function) in &resolve.interfaces[*id].functions {
            let function = read_function(&resolve, interface, function)?;
            functions.insert((interface.clone(), wire_name.clone()), function);
        }
    }
    let mut worlds = BTreeMap::new();
    for (name, id) in &package.worlds {
        let interfaces = resolve.worlds[*id]
            .imports
            .iter()
            .filter_map(|(key, item)| match (key, item) {
                (WorldKey::Interface(id), WorldItem::Interface { .. }) => resolve.interfaces[*id].name.clone(),
                _ => None,
            })
            .collect();
        worlds.insert(name.clone(), interfaces);
    }
    Ok(Contract { functions, worlds, resources })
}

/// Reads one function of any package that was resolved: the contract's, or what a component imports.
pub fn read_function(resolve: &Resolve, interface: &str, function: &wit_parser::Function) -> Result<Function, String> {
    let resource = match &function.kind {
        FunctionKind::Freestanding | FunctionKind::AsyncFreestanding => None,
        FunctionKind::Method(id)
        | FunctionKind::AsyncMethod(id)
        | FunctionKind::Static(id)
        | FunctionKind::AsyncStatic(id)
        | FunctionKind::Constructor(id) => resolve.types[*id].name.clone(),
    };
    let item = function.item_name();
    let form = match (&function.kind, &resource) {
        (FunctionKind::Constructor(_), _) => Form::Constructor,
        (_, None) => Form::Call,
        _ => match (item.strip_prefix("set-"), item.strip_prefix("add-")) {
            (Some(field), _) => Form::Set(field.to_owned()),
            (_, Some(field)) => Form::Add(field.to_owned()),
            _ => Form::Get(item.to_owned()),
        },
    };
    let params = function
        .params
        .iter()
        .map(|p| Ok((p.name.clone(), read_type(resolve, &p.ty)?)))
        .collect::<Result<Vec<_>, String>>()?;
    let result = function.result.as_ref().map(|ty| read_type(resolve, ty)).transpose()?;
    let name = match &resource {
        None => format!("{interface}.{item}"),
        Some(resource) if form == Form::Constructor => format!("{interface}.{resource}.new"),
        Some(resource) => format!("{interface}.{resource}.{item}"),
    };
    // Parameter names are no part of a component's type identity that matters here; order and types are.
    let signature = format!("{:?} -> {result:?}", params.iter().map(|(_, ty)| ty).collect::<Vec<_>>());
    Ok(Function {
        interface: interface.to_owned(),
        wire_name: function.name.clone(),
        name,
        form,
        params,
        result,
        resource,
        signature,
    })
}

fn read_type(resolve: &Resolve, ty: &Type) -> Result<Ty, String> {
    let id = match ty {
        Type::Bool => return Ok(Ty::Bool),
        Type::U8 => return Ok(Ty::Unsigned(8)),
        Type::U16 => return Ok(Ty::Unsigned(16)),
        Type::U32 => return Ok(Ty::Unsigned(32)),
        Type::U64 => return Ok(Ty::Unsigned(64)),
        Type::S8 => return Ok(Ty::Signed(8)),
        Type::S16 => return Ok(Ty::Signed(16)),
        Type::S32 => return Ok(Ty::Signed(32)),
        Type::S64 => return Ok(Ty::Signed(64)),
        Type::String => return Ok(Ty::String),
        Type::Id(id) => *id,
        // Floating point is left out on purpose: its NaNs are not deterministic across hosts.
        other => return Err(format!("the contract has no type {other:?}")),
    };
    let inner = |ty: &Type| read_type(resolve, ty).map(Box::new);
    Ok(match &resolve.types[id].kind {
        TypeDefKind::Type(ty) => read_type(resolve, ty)?,
        TypeDefKind::List(ty) => Ty::List(inner(ty)?),
        TypeDefKind::Option(ty) => Ty::Option(inner(ty)?),
        TypeDefKind::Result(r) => {
            Ty::Result(r.ok.as_ref().map(inner).transpose()?, r.err.as_ref().map(inner).transpose()?)
        }
        TypeDefKind::Tuple(t) => Ty::Tuple(t.types.iter().map(|ty| read_type(resolve, ty)).collect::<Result<_, _>>()?),
        TypeDefKind::Record(r) => Ty::Record(
            r.fields.iter().map(|f| Ok((f.name.clone(), read_type(resolve, &f.ty)?))).collect::<Result<_, String>>()?,
        ),
        TypeDefKind::Variant(v) => Ty::Variant(
            v.cases
                .iter()
                .map(|c| Ok((c.name.clone(), c.ty.as_ref().map(|ty| read_type(resolve, ty)).transpose()?)))
                .collect::<Result<_, String>>()?,
        ),
        TypeDefKind::Handle(Handle::Own(id)) => Ty::Own(resource_name(resolve, *id)?),
        TypeDefKind::Handle(Handle::Borrow(id)) => Ty::Borrow(resource_name(resolve, *id)?),
        other => return Err(format!("the contract has no type {}", other.as_str())),
    })
}

/// `types/backup`: the interface that defines a resource, and its name there.
fn resource_name(resolve: &Resolve, mut id: wit_parser::TypeId) -> Result<String, String> {
    while let TypeDefKind::Type(Type::Id(next)) = &resolve.types[id].kind {
        id = *next;
    }
    let ty = &resolve.types[id];
    let interface = match ty.owner {
        TypeOwner::Interface(owner) => resolve.interfaces[owner].name.clone(),
        _ => None,
    };
    match (interface, &ty.name) {
        (Some(interface), Some(name)) => Ok(format!("{interface}/{name}")),
        _ => Err("a resource without a name".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drill_and_cadence_hold_nothing_that_touches_the_live_service() {
        let contract = contract();
        for world in ["drill", "cadence"] {
            for interface in ["promote", "delete", "service", "confirm", "query", "dump"] {
                assert!(!contract.worlds[world].contains(interface), "{world} holds {interface}");
            }
        }
    }

    #[test]
    fn destructive_calls_own_an_approval_and_borrow_what_they_act_on() {
        for name in ["promote.promote", "promote.undo", "promote.drop-previous", "delete.apply"] {
            let function = contract().call(name).unwrap();
            let (_, last) = function.params.last().unwrap();
            assert_eq!(*last, Ty::Own("types/approval".into()), "{name}");
            for (_, ty) in &function.params[..function.params.len() - 1] {
                assert!(!format!("{ty:?}").contains("Own"), "{name} takes {ty:?}");
            }
        }
    }

    #[test]
    fn every_item_says_since_when_it_is_there() {
        for (path, text) in TEXTS {
            let items = text.lines().filter(|l| {
                let l = l.trim_start();
                l.starts_with("resource ")
                    || l.starts_with("record ")
                    || l.starts_with("variant ")
                    || l.starts_with("interface ")
                    || l.starts_with("world ")
            });
            assert!(text.matches("@since(version = ").count() >= items.count(), "{path}");
        }
    }
}
