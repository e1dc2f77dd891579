//! Component values to and from JSON, by the contract's types.
//!
//! One text for one value: record fields by name, variants as `"case"` or `{"case": …}`, results as `{"ok": …}` or `{"err": …}`, absent
//! options as `null`, integers above 2^53 as text (other readers' JSON would round them), resources by their id.

use serde_json::{Map, Number, Value};
use wasmtime::component::{ResourceDynamic, Val};
use wasmtime::{AsContextMut, StoreContextMut, bail, format_err};

use super::handles::Resource;
use super::linker::Guest;
use crate::conceal::for_guest;
use crate::contract::{Ty, contract};

/// Largest integer that every JSON reader keeps exact.
const EXACT_MAX: u64 = 1 << 53;

/// A lifted argument, twice: as it is journaled, and as the host's request types read it.
pub struct Lifted {
    /// Resources by id (builders by content).
    pub canonical: Value,
    /// Resources as their properties.
    pub full: Value,
}

impl Lifted {
    fn same(value: Value) -> Self {
        Self { canonical: value.clone(), full: value }
    }
}

/// Lifts a value that a guest passed. An owned resource is the guest's no longer.
pub fn lift(store: &mut StoreContextMut<'_, Guest>, ty: &Ty, value: &Val) -> wasmtime::Result<Lifted> {
    Ok(match (ty, value) {
        (Ty::Bool, Val::Bool(b)) => Lifted::same(Value::Bool(*b)),
        (Ty::Unsigned(_), Val::U8(n)) => Lifted::same((*n).into()),
        (Ty::Unsigned(_), Val::U16(n)) => Lifted::same((*n).into()),
        (Ty::Unsigned(_), Val::U32(n)) => Lifted::same((*n).into()),
        (Ty::Unsigned(_), Val::U64(n)) => Lifted::same(unsigned(*n)),
        (Ty::Signed(_), Val::S8(n)) => Lifted::same((*n).into()),
        (Ty::Signed(_), Val::S16(n)) => Lifted::same((*n).into()),
        (Ty::Signed(_), Val::S32(n)) => Lifted::same((*n).into()),
        (Ty::Signed(_), Val::S64(n)) => Lifted::same(signed(*n)),
        (Ty::String, Val::String(s)) => Lifted::same(Value::String(s.clone())),
        (Ty::List(inner), Val::List(items)) => {
            let mut canonical = Vec::with_capacity(items.len());
            let mut full = Vec::with_capacity(items.len());
            for item in items {
                let lifted = lift(store, inner, item)?;
                canonical.push(lifted.canonical);
                full.push(lifted.full);
            }
            Lifted { canonical: canonical.into(), full: full.into() }
        }
        (Ty::Option(_), Val::Option(None)) => Lifted::same(Value::Null),
        (Ty::Option(inner), Val::Option(Some(value))) => lift(store, inner, value)?,
        (Ty::Tuple(types), Val::Tuple(items)) if types.len() == items.len() => {
            let mut lifted = Vec::new();
            for (ty, item) in types.iter().zip(items) {
                lifted.push(lift(store, ty, item)?);
            }
            Lifted {
                canonical: lifted.iter().map(|l| l.canonical.clone()).collect(),
                full: lifted.into_iter().map(|l| l.full).collect(),
            }
        }
        (Ty::Record(fields), Val::Record(items)) if fields.len() == items.len() => {
            let (mut canonical, mut full) = (Map::new(), Map::new());
            for ((name, ty), (_, item)) in fields.iter().zip(items) {
                let lifted = lift(store, ty, item)?;
                canonical.insert(name.clone(), lifted.canonical);
                full.insert(name.clone(), lifted.full);
            }
            Lifted { canonical: canonical.into(), full: full.into() }
        }
        (Ty::Own(kind) | Ty::Borrow(kind), Val::Resource(handle)) => {
            let number = ResourceDynamic::try_from_resource_any(*handle, store.as_context_mut())?.rep();
            let handles = &mut store.data_mut().handles;
            let resource = match ty {
                Ty::Own(_) => handles.remove(number),
                _ => handles.get(number).cloned(),
            };
            match resource {
                Some(r) if r.kind == *kind => Lifted { canonical: r.canonical(), full: r.properties },
                _ => bail!("the guest passed a {kind} that it does not hold"),
            }
        }
        (ty, value) => bail!("the guest passed {} where the contract says {ty:?}", kind_of(value)),
    })
}

/// Lowers what a call answered; resources in it are given to the guest.
pub fn lower(store: &mut StoreContextMut<'_, Guest>, ty: &Ty, value: &Value) -> wasmtime::Result<Val> {
    let wrong = || format_err!("a bug: the host's answer is not a {ty:?}");
    Ok(match ty {
        Ty::Bool => Val::Bool(value.as_bool().ok_or_else(wrong)?),
        Ty::Unsigned(bits) => {
            let n = exact_unsigned(value).ok_or_else(wrong)?;
            match bits {
                8 => Val::U8(n.try_into()?),
                16 => Val::U16(n.try_into()?),
                32 => Val::U32(n.try_into()?),
                _ => Val::U64(n),
            }
        }
        Ty::Signed(bits) => {
            let n = value.as_i64().or_else(|| value.as_str()?.parse().ok()).ok_or_else(wrong)?;
            match bits {
                8 => Val::S8(n.try_into()?),
                16 => Val::S16(n.try_into()?),
                32 => Val::S32(n.try_into()?),
                _ => Val::S64(n),
            }
        }
        Ty::String => Val::String(value.as_str().ok_or_else(wrong)?.to_owned()),
        Ty::List(inner) => {
            let items = value.as_array().ok_or_else(wrong)?;
            Val::List(items.iter().map(|item| lower(store, inner, item)).collect::<wasmtime::Result<_>>()?)
        }
        Ty::Option(inner) => Val::Option(match value {
            Value::Null => None,
            value => Some(Box::new(lower(store, inner, value)?)),
        }),
        Ty::Tuple(types) => {
            let items = value.as_array().filter(|items| items.len() == types.len()).ok_or_else(wrong)?;
            Val::Tuple(types.iter().zip(items).map(|(t, i)| lower(store, t, i)).collect::<wasmtime::Result<_>>()?)
        }
        Ty::Record(fields) => {
            let is_finding = fields.iter().any(|(name, _)| name == "rule");
            let mut out = Vec::with_capacity(fields.len());
            for (name, ty) in fields {
                let value = &value[name.as_str()];
                // The host's findings name places, because people need them; the journal has them whole.
                let told = match value.as_str() {
                    Some(words) if is_finding => &Value::String(for_guest(words)),
                    _ => value,
                };
                out.push((name.clone(), lower(store, ty, told)?));
            }
            Val::Record(out)
        }
        Ty::Variant(cases) => {
            let (name, payload) = match value {
                Value::String(name) => (name.as_str(), None),
                Value::Object(map) if map.len() == 1 => {
                    map.iter().next().map(|(k, v)| (k.as_str(), Some(v))).ok_or_else(wrong)?
                }
                _ => return Err(wrong()),
            };
            let (name, ty) = cases.iter().find(|(case, _)| case == name).ok_or_else(wrong)?;
            let payload = match (ty, payload) {
                (Some(ty), Some(payload)) => Some(Box::new(lower(store, ty, payload)?)),
                (None, _) => None,
                (Some(_), None) => return Err(wrong()),
            };
            Val::Variant(name.clone(), payload)
        }
        Ty::Result(ok, err) => {
            let side = |store: &mut StoreContextMut<'_, Guest>, ty: &Option<Box<Ty>>, value: &Value| {
                ty.as_ref().map(|ty| lower(store, ty, value).map(Box::new)).transpose()
            };
            Val::Result(match (value.get("ok"), value.get("err")) {
                (Some(value), None) => Ok(side(store, ok, value)?),
                (None, Some(value)) => Err(side(store, err, value)?),
                _ => return Err(wrong()),
            })
        }
        Ty::Own(kind) => {
            let resource = Resource { kind: kind.clone(), properties: value.clone() };
            let number = store.data_mut().handles.insert(resource).map_err(wasmtime::Error::new)?;
            let (interface, name) = kind.split_once('/').ok_or_else(wrong)?;
            let ty = contract().resource_number(interface, name).ok_or_else(wrong)?;
            Val::Resource(ResourceDynamic::new_own(number, ty).try_into_resource_any(store.as_context_mut())?)
        }
        Ty::Borrow(_) => return Err(wrong()),
    })
}

fn exact_unsigned(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// An unsigned integer as JSON that every reader keeps exact.
pub fn unsigned(n: u64) -> Value {
    if n <= EXACT_MAX { Value::Number(Number::from(n)) } else { Value::String(n.to_string()) }
}

fn signed(n: i64) -> Value {
    if n.unsigned_abs() <= EXACT_MAX { Value::Number(Number::from(n)) } else { Value::String(n.to_string()) }
}

fn kind_of(value: &Val) -> &'static str {
    match value {
        Val::Bool(_) => "a bool",
        Val::String(_) => "a string",
        Val::List(_) => "a list",
        Val::Record(_) => "a record",
        Val::Resource(_) => "a resource",
        _ => "another type",
    }
}
