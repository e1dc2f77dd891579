//! `lifeboat compile-module`: what the engine starts to have a module compiled within bounds. Not for people.

use clap::Args;
use engine::sandbox::compiler::{Bounds, answer};

use crate::output;

/// Arguments of `compile-module`.
#[derive(Args)]
pub struct Arguments {
    /// Processor time, seconds.
    #[arg(long, value_name = "SECONDS")]
    processor_s: u64,
    /// Memory, bytes.
    #[arg(long, value_name = "BYTES")]
    memory_bytes: u64,
}

/// Answers the engine; the exit code.
pub fn run(arguments: &Arguments) -> u8 {
    let Arguments { processor_s, memory_bytes } = *arguments;
    match answer(Bounds { processor_s, memory_bytes }) {
        Ok(()) => 0,
        Err(why) => {
            output::say(&why);
            1
        }
    }
}
