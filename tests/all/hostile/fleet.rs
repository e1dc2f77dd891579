//! A hundred hostile runs at once, and one honest run beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use engine::Engine;
use engine::config::Config;
use engine::policy::Module;
use engine::run::{RunOptions, Status};

use super::make::{call_and_drop, core, instances, pack};
use super::rows::{Ends, Row};
use crate::support::Site;

/// Hostile runs at once.
const FLEET: usize = 100;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_honest_run_ends_right_while_a_hundred_hostile_ones_do_their_worst() {
    let site = super::site();
    site.guest("honest", "says", "cadence", &[], "");
    let list = call_and_drop("catalog.list", "(i32.const 4096) (i32.const 4) (i32.const 4096) (i32.const 4)");
    let spins = "fuel = 18446744073709551, grace-s = 1";
    for (name, bytes, limits) in [
        ("loops", pack("backup", &core(&[], 1, "", "(loop $on (br $on))")), spins),
        // As many memories and tables as a component may have: none is taken from others.
        ("grows", instances(4), "memory-bytes-max = 8388608"),
        (
            "steps",
            pack("backup", &core(&["catalog.list"], 1, "", &format!("(loop $on {list} (br $on))"))),
            "steps-max = 50",
        ),
        ("traps", pack("backup", &core(&[], 1, "", "unreachable")), ""),
    ] {
        super::add(
            &site,
            name,
            &Row { name: name.into(), bytes, world: "backup", grants: &[], limits, ends: Ends::Ok },
        );
    }
    let engine = Arc::new(site.engine().await);
    let site = Arc::new(site);
    let over = Arc::new(AtomicUsize::new(0));
    let (mut fleet, mut cancels) = (Vec::new(), Vec::new());
    for number in 0..FLEET {
        let name = ["loops", "loops", "grows", "steps", "traps"][number % 5];
        let (module, options) = ready(&site, &engine, name);
        cancels.push(options.cancelled.clone());
        let (engine, over) = (engine.clone(), over.clone());
        fleet.push(tokio::spawn(async move {
            let ended = engine.run(&module, options).await.unwrap();
            over.fetch_add(1, Ordering::Relaxed);
            (name, ended)
        }));
    }
    // Others than the loops end by themselves; when all have, every loop has long had its first turn.
    while over.load(Ordering::Relaxed) < FLEET * 3 / 5 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for _ in 0..3 {
        let honest = site.embedded(&engine, "honest", &[]).await;
        assert_eq!((honest.status, honest.summary.as_str()), (Status::Ok, "as said"), "{honest:?}");
    }
    assert_eq!(over.load(Ordering::Relaxed), FLEET * 3 / 5, "every loop is still there");
    cancels.iter().for_each(|cancel| cancel.store(true, Ordering::Relaxed));
    for run in fleet {
        let (name, ended) = run.await.unwrap();
        let expected = match name {
            "loops" => Status::Cancelled,
            "traps" => Status::Trapped,
            _ => Status::LimitBroken,
        };
        assert_eq!(ended.status, expected, "{name}: {ended:?}");
    }
    engine.state().verify_chain().await.unwrap();
}

/// A policy of the site, ready to run.
fn ready(site: &Site, engine: &Engine, policy: &str) -> (Module, RunOptions) {
    let config = Config::load(&site.path("lifeboat.toml")).unwrap();
    let environment = config.environment(None).unwrap();
    let binding = environment.policy(policy).unwrap();
    let module = engine.load(&binding.read_module().unwrap()).unwrap();
    let parameters = binding.parameters(&module.inspected.description, &[]).unwrap();
    let options = environment.run_options(policy, &binding, parameters, "embedded").unwrap();
    (module, options)
}
