//! Extism: plug-ins that are core modules, host functions that are given values with their types. It always has its own memory and epochs.

use anyhow::Result;
use extism::{CompiledPlugin, Manifest, Plugin, PluginBuilder, UserData, Val, ValType, Wasm};

use crate::{ANSWER, MANY, Peer, TEN};

/// An export for each number of calls: a plug-in's function has no parameters, and reading its input would be measured too.
fn guest() -> String {
    let run = |calls: u32| {
        format!(
            r#"(func (export "run-{calls}") (result i32)
                (local $calls i32)
                (local.set $calls (i32.const {calls}))
                (block $end
                    (loop $next
                        (br_if $end (i32.eqz (local.get $calls)))
                        (drop (call $now))
                        (local.set $calls (i32.sub (local.get $calls) (i32.const 1)))
                        (br $next)))
                (i32.const 0))"#
        )
    };
    let all = [0, TEN, MANY].map(run).concat();
    format!(r#"(module (import "extism:host/user" "now" (func $now (result i64))) {all})"#)
}

/// A plug-in that is compiled.
pub struct Extism {
    compiled: CompiledPlugin,
}

impl Extism {
    /// With a limit on fuel, or as it comes.
    pub fn new(fuel: Option<u64>) -> Result<Self> {
        let builder = PluginBuilder::new(Manifest::new([Wasm::data(guest())])).with_function_in_namespace(
            "extism:host/user",
            "now",
            [],
            [ValType::I64],
            UserData::new(()),
            |_, _, results, _| {
                results[0] = Val::I64(i64::try_from(ANSWER)?);
                Ok(())
            },
        );
        let builder = builder.with_cache_disabled();
        let builder = if let Some(fuel) = fuel { builder.with_fuel_limit(fuel) } else { builder };
        Ok(Self { compiled: CompiledPlugin::new(builder)? })
    }
}

impl Peer for Extism {
    fn run(&self, calls: u32) -> Result<()> {
        let mut plugin = Plugin::new_from_compiled(&self.compiled)?;
        plugin.call::<_, ()>(format!("run-{calls}"), ())?;
        Ok(())
    }
}
