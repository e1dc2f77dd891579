//! A run goes on on the host where it began, unless its environment says that it can anywhere.

use std::process::{Command, Stdio};

use super::{Host, SharedState, outcome};
use crate::support::{Outcome, Site, lifeboat};

/// A verb on a host of another name.
fn on_another(host: &Host<'_>, arguments: &[&str]) -> Outcome {
    let mut command = Command::new("unshare");
    command.args(["--uts", "sh", "-c", "echo elsewhere > /proc/sys/kernel/hostname && exec \"$@\"", "sh"]);
    command.arg(lifeboat()).args(arguments).current_dir(host.site.path("")).env("LIFEBOAT_CONFIG", &host.config);
    outcome(&command.stdin(Stdio::null()).output().unwrap())
}

fn can_be_elsewhere() -> bool {
    let named = ["--uts", "sh", "-c", "echo elsewhere > /proc/sys/kernel/hostname"];
    let can = Command::new("unshare").args(named).stderr(Stdio::null()).status().is_ok_and(|status| status.success());
    if !can {
        eprintln!("SKIPPED: no host names of our own here (`unshare --uts`). Nothing was tested.");
    }
    can
}

#[test]
fn a_run_goes_on_where_it_began_and_elsewhere_only_where_the_environment_says_so() {
    let Some(state) = SharedState::new().filter(|_| can_be_elsewhere()) else { return };
    let mut site = Site::notes();
    site.serve_some_notes();
    let host = state.host(&site, "a", 3600, false);
    host.lifeboat(&["run", "backup"]).expect(0);
    let killed = |place: &str, policy: &str| {
        let died = host.crashing(&format!("trail-{place}"), place, "run", policy, &[]).status().unwrap();
        assert_eq!(died.code(), None, "it was killed there");
        let runs = host.lifeboat(&["--json", "runs", "list", "--status", "interrupted"]).expect(0).json();
        runs[0]["run"].as_str().unwrap().to_owned()
    };

    let run = killed("staged db", "restore");
    let refused = on_another(&host, &["runs", "resume", &run, "--yes"]).expect(11);
    assert!(refused.stderr.contains("goes on there") && refused.stderr.contains("any-host = true"), "{refused:?}");
    // What lies on the first host's disks is not called gone.
    let ended = on_another(&host, &["--json", "runs", "abandon", &run, "--reason", "it burnt"]).expect(1).json();
    assert!(ended["unsettled"][0].as_str().unwrap().contains("it is on host"), "{ended}");
    let candidate = host.lifeboat(&["--json", "candidates", "list"]).expect(0).json()[0]["candidate"].clone();
    host.lifeboat(&["candidates", "discard", candidate.as_str().unwrap()]).expect(0);

    host.configure(&[("[environment.demo]\n", "[environment.demo]\nany-host = true\n")]);
    let run = killed("dumped db", "backup");
    on_another(&host, &["runs", "resume", &run, "--yes"]).expect(0);
    state.assert_nothing_left();
}
