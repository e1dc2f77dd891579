#![no_main]

#[path = "../bodies.rs"]
#[expect(dead_code, reason = "one of them is this target's")]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::configuration(bytes));
