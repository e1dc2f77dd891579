//! Asks WASI for everything that a policy must not have, waits, asks again, and notes what came of it.

// The macro that exports the policy is generated into this crate, with the unsafe code that takes a call in; that of the SDK comes from outside.
#![allow(unsafe_code)]

mod bindings {
    wit_bindgen::generate!({ world: "on-wasi", path: "wit", generate_all });
}

use bindings::lifeboat::recovery::{clock, report};
use bindings::wasi::cli::{environment, stdout};
use bindings::wasi::clocks::{monotonic_clock, wall_clock};
use bindings::wasi::filesystem::preopens;
use bindings::wasi::random::{insecure, insecure_seed, random};
use bindings::wasi::sockets::network::IpAddressFamily;
use bindings::wasi::sockets::{instance_network, ip_name_lookup, tcp_create_socket};
use serde_json::{Value, json};

struct Policy;

impl bindings::Guest for Policy {
    fn run(parameters: String) -> Result<(), String> {
        let p: Value = serde_json::from_str(&parameters).map_err(|e| e.to_string())?;
        let handles = p["handles"].as_u64().unwrap_or(0);
        let times: Vec<_> = (0..handles).map(|_| monotonic_clock::subscribe_duration(1)).collect();
        let streams: Vec<_> = (0..handles).map(|_| stdout::get_stdout()).collect();
        let said = note("first");
        drop((times, streams));
        // A time that is long past, and depends on every word: a replay that was told anything else would ask for another.
        let past_ms =
            said.bytes().fold(7_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte))) % 1_000_000;
        clock::sleep_until(past_ms).map_err(|e| format!("{e:?}"))?;
        clock::sleep_until(p["sleep-until-ms"].as_u64().unwrap_or(0)).map_err(|e| format!("{e:?}"))?;
        note("second");
        report::outcome("ok", "asked twice");
        Ok(())
    }
}

/// One line with all that WASI says.
fn note(when: &str) -> String {
    // An hour: over at once, or the test would never end.
    let hour = monotonic_clock::subscribe_duration(3_600_000_000_000);
    assert!(hour.ready(), "whoever asks without waiting is told so");
    hour.block();
    let text = "\u{1b}[31mseen by nobody\n";
    let written = stdout::get_stdout().blocking_write_and_flush(text.as_bytes()).is_ok();
    let network = instance_network::instance_network();
    let wall = wall_clock::now();
    let said = json!({
        "random": [random::get_random_u64().to_string(), format!("{:?}", random::get_random_bytes(12))],
        "insecure": insecure::get_insecure_random_u64().to_string(),
        "seed": format!("{:?}", insecure_seed::insecure_seed()),
        "wall-ms": wall.seconds * 1_000 + u64::from(wall.nanoseconds / 1_000_000),
        "monotonic-ms": monotonic_clock::now() / 1_000_000,
        "environment": environment::get_environment().len(),
        "arguments": environment::get_arguments().len(),
        "cwd": environment::initial_cwd(),
        "directories": preopens::get_directories().len(),
        "name": ip_name_lookup::resolve_addresses(&network, "localhost").err().map(|e| e.name()),
        "socket": tcp_create_socket::create_tcp_socket(IpAddressFamily::Ipv4).err().map(|e| e.name()),
        "written": written,
    });
    report::note(&format!("{when}: {said}"));
    said.to_string()
}

bindings::export!(Policy with_types_in bindings);
