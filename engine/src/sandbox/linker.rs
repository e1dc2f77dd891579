//! The linker of a world, built from the contract: every function of its interfaces goes through one door.

use std::sync::Arc;

use serde_json::{Map, Value};
use wasmtime::component::{Linker, ResourceType, Val};
use wasmtime::{AsContextMut, StoreContextMut, bail, format_err};

use super::Sandbox;
use super::handles::{Handles, Resource};
use super::limits::MemoryLimiter;
use super::turns::Turn;
use super::values::{lift, lower};
use super::wasi;
use crate::contract::{Contract, Form, Function, contract, import_name};
use crate::error::{Error, Kind, Result};
use crate::step::Stepper;

/// What a store holds for one running guest.
pub struct Guest {
    pub(crate) handles: Handles,
    pub(crate) memory: MemoryLimiter,
    pub(crate) turn: Arc<Turn>,
    pub(crate) stepper: Stepper,
    /// Only of a module that imports it and was allowed to.
    pub(crate) wasi: Option<wasi::Empty>,
}

impl Sandbox {
    /// A linker with exactly the interfaces of a world, and with an empty WASI if that is asked for.
    pub(crate) fn linker(&self, world: &str, with_wasi: bool) -> Result<Linker<Guest>> {
        let contract = contract();
        let interfaces = contract
            .worlds
            .get(world)
            .ok_or_else(|| Error::unknown("world", world, contract.worlds.keys().map(String::as_str)))?;
        let mut linker = Linker::new(self.engine());
        for interface in interfaces {
            link(&mut linker, contract, interface)
                .map_err(|e| Error::new(Kind::Failed, format!("linking {interface}: {e:#}")))?;
        }
        if with_wasi {
            wasi::link(&mut linker).map_err(|e| Error::new(Kind::Failed, format!("linking WASI: {e:#}")))?;
        }
        Ok(linker)
    }
}

fn link(linker: &mut Linker<Guest>, contract: &'static Contract, interface: &str) -> wasmtime::Result<()> {
    let mut instance = linker.instance(&import_name(interface))?;
    for (number, (owner, resource)) in contract.resources.iter().enumerate() {
        if owner == interface {
            let ty = ResourceType::host_dynamic(u32::try_from(number)?);
            instance.resource(resource, ty, |mut store, number| {
                // A guest's drop has no outside effect: it only lets go.
                store.data_mut().handles.remove(number);
                Ok(())
            })?;
        }
    }
    for function in contract.functions.values().filter(|f| f.interface == interface) {
        instance.func_new_async(&function.wire_name, move |store, _, arguments, results| {
            Box::new(call(store, function, arguments, results))
        })?;
    }
    Ok(())
}

/// The one door: every call of every guest comes through here.
async fn call(
    mut store: StoreContextMut<'_, Guest>,
    function: &'static Function,
    arguments: &[Val],
    results: &mut [Val],
) -> wasmtime::Result<()> {
    if arguments.len() != function.params.len() {
        bail!("{} takes {} arguments", function.name, function.params.len());
    }
    let answer = match &function.form {
        Form::Call => {
            let (mut canonical, mut full) = (Map::new(), Map::new());
            for ((name, ty), value) in function.params.iter().zip(arguments) {
                let lifted = lift(&mut store, ty, value)?;
                canonical.insert(name.clone(), lifted.canonical);
                full.insert(name.clone(), lifted.full);
            }
            let turn = store.data().turn.clone();
            let step = store.data_mut().stepper.step(function, canonical.into(), full.into());
            let (answer, waited) = turn.lent(step).await;
            if waited {
                // What it may compute begins now, not when it began to wait.
                store.set_epoch_deadline(1);
                turn.waited(store.get_fuel()?);
            }
            answer.map_err(wasmtime::Error::new)?
        }
        Form::Constructor => {
            let mut fields = Map::new();
            for ((name, ty), value) in function.params.iter().zip(arguments) {
                fields.insert(name.clone(), lift(&mut store, ty, value)?.full);
            }
            fields.into()
        }
        Form::Set(field) => {
            let value = fields_of(&mut store, function, &arguments[1..])?;
            store.data_mut().stepper.keep(&value).map_err(wasmtime::Error::new)?;
            resource_mut(&mut store, &arguments[0])?.properties[field.as_str()] = value;
            Value::Null
        }
        Form::Add(field) => {
            let value = fields_of(&mut store, function, &arguments[1..])?;
            store.data_mut().stepper.keep(&value).map_err(wasmtime::Error::new)?;
            let list = &mut resource_mut(&mut store, &arguments[0])?.properties[field.as_str()];
            if list.is_null() {
                *list = Value::Array(Vec::new());
            }
            match list.as_array_mut() {
                Some(items) if items.len() < BUILDER_ENTRIES_MAX => items.push(value),
                _ => bail!("a builder holds at most {BUILDER_ENTRIES_MAX} entries of one kind"),
            }
            Value::Null
        }
        Form::Get(property) => {
            let resource = resource_mut(&mut store, &arguments[0])?;
            // An absent optional property is left out of some properties' JSON.
            resource.properties.get(property).cloned().unwrap_or(Value::Null)
        }
    };
    match (&function.result, results) {
        (None, []) => Ok(()),
        (Some(ty), [result]) => {
            *result = lower(&mut store, ty, &answer)?;
            Ok(())
        }
        _ => bail!("{} has another number of results in this module than in the contract", function.name),
    }
}

/// Builders are options, not storage.
const BUILDER_ENTRIES_MAX: usize = 1_000;

/// One argument as itself, several as a list in order.
fn fields_of(
    store: &mut StoreContextMut<'_, Guest>,
    function: &Function,
    arguments: &[Val],
) -> wasmtime::Result<Value> {
    let mut values = Vec::new();
    for ((_, ty), value) in function.params[1..].iter().zip(arguments) {
        values.push(lift(store, ty, value)?.full);
    }
    Ok(if values.len() == 1 { values.remove(0) } else { values.into() })
}

fn resource_mut<'s>(store: &'s mut StoreContextMut<'_, Guest>, handle: &Val) -> wasmtime::Result<&'s mut Resource> {
    let Val::Resource(handle) = handle else { bail!("a method without its resource") };
    let number = wasmtime::component::ResourceDynamic::try_from_resource_any(*handle, store.as_context_mut())?.rep();
    store
        .data_mut()
        .handles
        .get_mut(number)
        .ok_or_else(|| format_err!("the guest used a resource that it does not hold"))
}
