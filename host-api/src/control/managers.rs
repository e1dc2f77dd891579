//! Service managers that keep their state in files, under the programs' own names; and pip, for real.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::ErrorKind;

fn cx() -> StepContext {
    StepContext::detached("managers", Duration::from_secs(60))
}

fn attempt(run: &str) -> StepContext {
    StepContext::detached(run, Duration::from_secs(300))
}

/// A program in a directory of its own.
struct Program {
    dir: tempfile::TempDir,
    path: String,
}

impl Program {
    fn new(name: &str, script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        crate::testing::write_program(&path, script);
        Self { path: path.display().to_string(), dir }
    }

    fn set(&self, file: &str, text: &str) {
        std::fs::write(self.dir.path().join(file), text).unwrap();
    }

    fn get(&self, file: &str) -> String {
        std::fs::read_to_string(self.dir.path().join(file)).unwrap_or_default().trim_end().to_owned()
    }

    /// The command lines it was given since the last time.
    fn log(&self) -> Vec<String> {
        let lines = self.get("log").lines().map(str::to_owned).collect();
        self.set("log", "");
        lines
    }
}

fn read(service: &Value) -> Result<Service> {
    let service: Service = serde_json::from_value(service.clone()).map_err(|e| Error::invalid(e.to_string()))?;
    service.check().map(|()| service)
}

fn live(service: &Value) -> Live {
    Live::of("notes", &read(service).unwrap(), Path::new("/nowhere")).unwrap()
}

#[track_caller]
fn unknown(live: &Live, says: &str) {
    match live.state(&cx()).unwrap() {
        State::Unknown(why) => assert!(why.contains(says), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_unit_of_systemd() {
    let systemctl = Program::new("systemctl", include_str!("managers/systemctl.sh"));
    systemctl.set("active", "inactive");
    let service =
        json!({"control": {"kind": "systemd", "unit": "notes.service", "systemctl": [systemctl.path], "timeout-s": 2}});
    let unit = live(&service);
    assert_eq!(unit.state(&cx()).unwrap(), State::Stopped { ended: None });
    assert_eq!(systemctl.log(), ["show --property=LoadState --property=ActiveState -- notes.service"]);
    unit.start(&cx()).unwrap();
    assert_eq!(unit.state(&cx()).unwrap(), State::Running);
    unit.stop(&cx()).unwrap();
    assert_eq!(systemctl.get("active"), "inactive");
    let log = systemctl.log();
    assert!(log.contains(&"--no-ask-password start -- notes.service".into()), "{log:?}");
    assert!(log.contains(&"--no-ask-password stop -- notes.service".into()), "{log:?}");

    systemctl.set("active", "failed");
    assert_eq!(unit.state(&cx()).unwrap(), State::Stopped { ended: Some("failed".into()) });
    // `is-active` would say "stopped" of these two.
    for on_its_way in ["activating", "deactivating"] {
        systemctl.set("active", on_its_way);
        unknown(&unit, on_its_way);
    }
    let mut other = service.clone();
    other["control"]["unit"] = json!("nots.service");
    unknown(&live(&other), "not-found");
    systemctl.log();
    let mut users = service;
    users["control"]["user"] = json!(true);
    systemctl.set("active", "active");
    assert_eq!(live(&users).state(&cx()).unwrap(), State::Running);
    assert!(systemctl.log()[0].starts_with("--user show"));
}

/// A Compose service whose image is pinned, and the directory of its versions.
fn composed(docker: &Program) -> (Value, std::path::PathBuf) {
    let versions = docker.dir.path().join("versions");
    let service = json!({
        "control": {
            "kind": "compose", "service": "notes", "compose": [docker.path, "compose"], "docker": [docker.path],
            "file": ["/srv/notes/compose.yml"], "project-name": "shop", "timeout-s": 2,
        },
        "install": {
            "kind": "image", "directory": versions, "image": "registry.example/notes", "variable": "NOTES_TAG", "docker": [docker.path],
        },
    });
    (service, versions)
}

#[test]
fn a_compose_service_and_its_image() {
    let docker = Program::new("docker", include_str!("managers/docker.sh"));
    docker.set("registry", "registry.example/notes:1.0.0\nregistry.example/notes:2.0.0\n");
    let (service, versions) = composed(&docker);
    let project = live(&service);
    // Without a pin there would be an image with an empty tag.
    unknown(&project, "Couldn't find env file");

    let install = read(&service).unwrap().install.unwrap();
    install::installable(&cx(), &install, "1.0.0").unwrap();
    let error = install::installable(&cx(), &install, "9.9.9").unwrap_err();
    assert!(error.message.contains("no such manifest"), "{error}");
    assert_eq!((docker.get("images"), versions.exists()), (String::new(), false), "nothing was changed");
    install::install(&attempt("r1"), &install, "1.0.0").unwrap();
    assert_eq!(std::fs::read_to_string(versions.join("current/image.env")).unwrap(), "NOTES_TAG=1.0.0\n");
    assert_eq!(project.state(&cx()).unwrap(), State::Stopped { ended: None }, "it has no container");
    docker.log();
    project.start(&cx()).unwrap();
    let pin = versions.join("current/image.env").display().to_string();
    let options = format!("--file /srv/notes/compose.yml --project-name shop --env-file {pin}");
    let log = docker.log();
    assert!(log.contains(&format!("compose {options} up --detach --no-deps --no-build notes")), "{log:?}");
    assert!(log.contains(&format!("compose {options} ps --all --quiet notes")), "{log:?}");
    assert_eq!(docker.get("container"), "running registry.example/notes:1.0.0");

    project.stop(&cx()).unwrap();
    assert_eq!(docker.get("container"), "exited registry.example/notes:1.0.0");
    assert!(docker.log().contains(&format!("compose {options} stop --timeout 2 notes")));
    install::install(&attempt("r2"), &install, "2.0.0").unwrap();
    project.start(&cx()).unwrap();
    assert_eq!(docker.get("container"), "running registry.example/notes:2.0.0");
    // One that is not there changes nothing.
    let error = install::install(&attempt("r3"), &install, "3.0.0").unwrap_err();
    assert!(error.message.contains("pull access denied"), "{error}");
    assert_eq!(crate::versions::current(&install).unwrap().0, "2.0.0");

    docker.set("container", "restarting registry.example/notes:2.0.0");
    unknown(&project, "restarting");
    let mut other = service.clone();
    other["control"]["service"] = json!("nots");
    unknown(&live(&other), "no such service");

    // What must be here is not looked for elsewhere.
    let mut local = service;
    local["install"]["pull"] = json!(false);
    docker.set("images", "registry.example/notes:1.0.0\n");
    docker.log();
    let install = read(&local).unwrap().install.unwrap();
    let error = install::installable(&cx(), &install, "2.0.0").unwrap_err();
    assert!(error.message.contains("No such image"), "{error}");
    install::install(&attempt("r4"), &install, "1.0.0").unwrap();
    assert!(docker.log().iter().all(|line| line.starts_with("image inspect ")));
}

#[test]
fn a_deployment_on_kubernetes() {
    let kubectl = Program::new("kubectl", include_str!("managers/kubectl.sh"));
    kubectl.set("replicas", "2");
    kubectl.set("pods", "pod/notes-0\npod/notes-1\n");
    let versions = kubectl.dir.path().join("versions");
    let service = json!({
        "control": {
            "kind": "kubernetes", "deployment": "notes", "namespace": "shop", "selector": "app=notes", "replicas": 2,
            "container": "app", "image": "registry.example:5000/notes", "context": "prod", "kubectl": [kubectl.path], "timeout-s": 2,
        },
        "install": {"directory": versions, "installable": ["true"], "command": ["true"], "check": ["echo", "{version}"]},
    });
    let deployment = live(&service);
    assert_eq!(deployment.state(&cx()).unwrap(), State::Running);
    assert_eq!(
        kubectl.log(),
        [
            "--context=prod --namespace=shop get deployment/notes --output=jsonpath={.spec.replicas}",
            "--context=prod --namespace=shop get pods --selector=app=notes --output=name",
        ]
    );
    // Scaled to none is not stopped: its pods work until they have ended.
    kubectl.set("slow", "");
    let error = deployment.stop(&cx()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
    assert!(error.message.contains("pods are left: 2"), "{error}");
    kubectl.set("pods", "");
    assert_eq!(deployment.state(&cx()).unwrap(), State::Stopped { ended: None });
    std::fs::remove_file(kubectl.dir.path().join("slow")).unwrap();

    // Without an installed version it is not known what to run; nothing is scaled.
    let error = deployment.start(&cx()).unwrap_err();
    assert!(error.message.contains("no version is installed"), "{error}");
    assert_eq!(kubectl.get("replicas"), "0");
    let install = read(&service).unwrap().install.unwrap();
    install::install(&attempt("r1"), &install, "1.0.0").unwrap();
    deployment.start(&cx()).unwrap();
    assert_eq!(kubectl.get("image"), "app=registry.example:5000/notes:1.0.0");
    assert_eq!((kubectl.get("replicas").as_str(), kubectl.get("pods").lines().count()), ("2", 2));
    deployment.stop(&cx()).unwrap();
    assert_eq!(kubectl.get("pods"), "");

    let mut other = service;
    other["control"]["deployment"] = json!("nots");
    unknown(&live(&other), "NotFound");
}

/// A wheel of a package with one module and one script, as small as they come.
const WHEEL: &str = r#"
import sys, zipfile
version, directory = sys.argv[1:]
info = f"lb_notes-{version}.dist-info"
with zipfile.ZipFile(f"{directory}/lb_notes-{version}-py3-none-any.whl", "w") as wheel:
    wheel.writestr("lb_notes.py", f"def main(): print('lb-notes', '{version}')\n")
    wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: lb-notes\nVersion: {version}\n")
    wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    wheel.writestr(f"{info}/entry_points.txt", "[console_scripts]\nlb-notes = lb_notes:main\n")
    wheel.writestr(f"{info}/RECORD", "")
"#;

#[test]
fn a_package_in_virtual_environments_of_its_own() {
    let has = ["import venv, ensurepip, pip"];
    if !std::process::Command::new("python3").arg("-c").args(has).status().is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: no python3 with venv and pip. Installing with pip was NOT tested.");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let wheels = dir.path().join("wheels");
    std::fs::create_dir(&wheels).unwrap();
    for version in ["1.0.0", "2.0.0"] {
        let status = std::process::Command::new("python3").args(["-c", WHEEL, version]).arg(&wheels).status().unwrap();
        assert!(status.success());
    }
    let versions = dir.path().join("versions");
    let service = json!({"install": {
        "kind": "venv", "directory": versions, "package": "lb-notes", "pip-arguments": ["--no-index", "--find-links", wheels],
    }});
    let install = read(&service).unwrap().install.unwrap();
    install::installable(&attempt("r0"), &install, "1.0.0").unwrap();
    let error = install::installable(&attempt("r0"), &install, "3.0.0").unwrap_err();
    assert!(error.message.contains("No matching distribution"), "{error}");
    assert!(!versions.exists(), "nothing was changed");
    let runs = || {
        let out = std::process::Command::new(versions.join("current/bin/lb-notes")).output().unwrap();
        String::from_utf8(out.stdout).unwrap()
    };
    install::install(&attempt("r1"), &install, "1.0.0").unwrap();
    assert_eq!(runs(), "lb-notes 1.0.0\n");
    install::install(&attempt("r2"), &install, "2.0.0").unwrap();
    assert_eq!(runs(), "lb-notes 2.0.0\n");
    let error = install::install(&attempt("r3"), &install, "3.0.0").unwrap_err();
    assert!(error.message.contains("No matching distribution"), "{error}");
    assert_eq!(runs(), "lb-notes 2.0.0\n");
    assert_eq!(std::fs::read_dir(&versions).unwrap().count(), 3, "two versions and the link");
}

#[test]
fn mistakes_are_refused_when_they_are_read() {
    let systemd = |key: &str, value: Value| {
        let mut control = json!({"kind": "systemd", "unit": "notes.service"});
        control[key] = value;
        json!({"control": control})
    };
    let compose = |key: &str, value: Value| {
        let mut control = json!({"kind": "compose", "service": "notes"});
        control[key] = value;
        json!({"control": control})
    };
    let kubernetes = |key: &str, value: Value| {
        let mut control =
            json!({"kind": "kubernetes", "deployment": "notes", "namespace": "shop", "selector": "app=notes"});
        control[key] = value;
        json!({"control": control})
    };
    let venv = |key: &str, value: Value| {
        let mut install = json!({"kind": "venv", "directory": "/v", "package": "notes"});
        install[key] = value;
        json!({"install": install})
    };
    let image = |key: &str, value: Value| {
        let mut install = json!({"kind": "image", "directory": "/v", "image": "r:5000/notes", "variable": "TAG"});
        install[key] = value;
        json!({"install": install})
    };
    for good in [
        systemd("unit", json!("a@b\\x2d.service")),
        compose("file", json!(["compose.yml"])),
        kubernetes("replicas", json!(3)),
        venv("python", json!("python3.12")),
        image("pull", json!(false)),
        json!({"install": {"kind": "command", "directory": "/v", "installable": ["a"], "command": ["a"], "check": ["a"]}}),
    ] {
        read(&good).unwrap();
    }
    for (bad, says) in [
        (systemd("unit", json!("--all")), "can't be a `unit`"),
        (systemd("unit", json!("a b.service")), "can't be a `unit`"),
        (systemd("systemctl", json!([])), "names no program"),
        (systemd("untt", json!("a")), "untt"),
        (compose("service", json!("-v")), "can't be a `service`"),
        (compose("project-name", json!("../x")), "can't be a `project-name`"),
        (compose("compose", json!([])), "names no program"),
        (kubernetes("deployment", json!("Notes")), "can't be a `deployment`"),
        (kubernetes("selector", json!("")), "can't be a `selector`"),
        (kubernetes("replicas", json!(0)), "`replicas` is 0"),
        (kubernetes("image", json!("notes")), "belong together"),
        (venv("package", json!("notes==1")), "can't be a `package`"),
        (venv("package", json!("-r")), "can't be a `package`"),
        (venv("pip-arguments", json!(["{version}"])), "has a placeholder"),
        (venv("image", json!("x")), "image"),
        (image("image", json!("notes:latest")), "has a tag of its own"),
        (image("image", json!("notes@sha256:00")), "can't be a `image`"),
        (image("variable", json!("A=B")), "no name of a variable"),
        (json!({"install": {"kind": "rpm"}}), "expected one of `command`, `venv`, `image`"),
        (
            json!({"control": {"kind": "command", "start": [], "stop": ["a"], "status": ["a"]}}),
            "`start` names no program",
        ),
    ] {
        let error = read(&bad).unwrap_err();
        assert!(error.message.contains(says), "{bad}: {error}");
    }
    let mut pinned = kubernetes("image", json!("notes"));
    pinned["control"]["container"] = json!("app");
    assert!(read(&pinned).unwrap_err().message.contains("without a version"));
}
