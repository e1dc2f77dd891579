//! Real children behind a real supervisor, and commands that play a service manager.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::*;
use crate::bindings::{ChildControl, CommandControl, Control, Secret, Service};
use crate::child::start_ticks;
use crate::control::supervisor::Supervisor;
use crate::control::{SOCKET_NAME, ports, test_child};
use crate::error::ErrorKind;

fn cx() -> StepContext {
    StepContext::detached("test", Duration::from_secs(60))
}

fn service(control: Option<Control>) -> Service {
    Service { control, ..serde_json::from_str("{}").unwrap() }
}

fn child(command: &[&str]) -> ChildControl {
    ChildControl {
        command: command.iter().map(|s| (*s).to_owned()).collect(),
        directory: None,
        environment: BTreeMap::new(),
        secret: BTreeMap::new(),
        timeout_s: 20,
        ports: Vec::new(),
    }
}

fn bash(script: &str) -> ChildControl {
    child(&["bash", "-c", script])
}

/// A supervisor and a host that asks it.
struct World {
    dir: tempfile::TempDir,
    host: RealHost,
    serving: Option<tokio::task::JoinHandle<Result<()>>>,
    end: Option<tokio::sync::oneshot::Sender<()>>,
}

impl World {
    async fn new(service: Service) -> Self {
        let mut world = Self::without_supervisor(service);
        world.serve().await;
        world
    }

    fn without_supervisor(service: Service) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Longer than a socket's path may be.
        let state = dir.path().join("x".repeat(120));
        let host = RealHost::new([("notes".to_owned(), service)].into(), &BTreeMap::new(), &state).unwrap();
        Self { dir, host, serving: None, end: None }
    }

    fn state(&self) -> &Path {
        &self.host.state_dir
    }

    async fn serve(&mut self) {
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let socket = self.state().join(SOCKET_NAME);
        let services = self.host.services.clone();
        self.serving = Some(tokio::spawn(Supervisor::serve(services, socket.clone(), async {
            let _ = ended.await;
        })));
        self.end = Some(end);
        until(|| socket.exists()).await;
    }

    async fn end(&mut self) {
        self.end.take().unwrap().send(()).unwrap();
        self.serving.take().unwrap().await.unwrap().unwrap();
    }

    async fn status(&self) -> String {
        ServiceControl::status(&self.host, &cx(), "notes").await.unwrap().state
    }

    async fn start(&self) -> Result<()> {
        ServiceControl::start(&self.host, &cx(), "notes").await
    }

    async fn stop(&self) -> Result<()> {
        ServiceControl::stop(&self.host, &cx(), "notes").await
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.state().join("logs/notes.log")).unwrap_or_default()
    }

    /// The child's process id, as it prints it first.
    async fn pid(&self) -> u32 {
        until(|| self.log().contains('\n')).await;
        self.log().lines().next().unwrap().parse().unwrap()
    }
}

async fn until(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < end, "waited 30 s");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

const PRINTS_ITS_PID: &str = "echo $$; exec sleep 600";

#[tokio::test(flavor = "multi_thread")]
async fn a_child_is_started_and_stopped_and_twice_is_fine() {
    let mut world = World::new(service(Some(Control::Child(bash(PRINTS_ITS_PID))))).await;
    assert_eq!(world.status().await, "stopped");
    world.start().await.unwrap();
    let pid = world.pid().await;
    assert_eq!(world.status().await, "running");
    world.start().await.unwrap();
    assert_eq!(world.log().lines().count(), 1, "one child only");
    world.stop().await.unwrap();
    assert_eq!((world.status().await.as_str(), start_ticks(pid)), ("stopped", None));
    world.stop().await.unwrap();
    world.start().await.unwrap();
    until(|| world.log().lines().count() == 2).await;
    world.end().await;
    let second: u32 = world.log().lines().nth(1).unwrap().parse().unwrap();
    assert_eq!(start_ticks(second), None, "a supervisor that ends stops its children");
    assert!(!world.state().join(SOCKET_NAME).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_ignores_sigterm_is_killed() {
    let control =
        ChildControl { timeout_s: 3, ..bash("trap 'echo ignored' TERM; echo $$; while :; do sleep 0.05; done") };
    let world = World::new(service(Some(Control::Child(control)))).await;
    world.start().await.unwrap();
    let pid = world.pid().await;
    world.stop().await.unwrap();
    assert!(world.log().contains("ignored"), "the fault fired");
    assert_eq!(start_ticks(pid), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_ends_by_itself_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let gate = dir.path().join("gate");
    let script = format!("echo $$; until test -e {}; do sleep 0.02; done; exit 7", gate.display());
    let world = World::new(service(Some(Control::Child(bash(&script))))).await;
    world.start().await.unwrap();
    let pid = world.pid().await;
    std::fs::write(gate, "").unwrap();
    until(|| start_ticks(pid).is_none()).await;
    assert_eq!(world.status().await, "stopped");
    let live = world.host.live("notes").unwrap();
    let state = live.state(&cx()).unwrap();
    assert_eq!(state, State::Stopped { ended: Some("exit code 7".into()) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_that_fails_at_once_says_why() {
    let world = World::new(service(Some(Control::Child(bash("echo 'no such database' >&2; exit 2"))))).await;
    let error = world.start().await.unwrap_err();
    assert!(error.message.contains("exit code 2") && error.message.contains("no such database"), "{error}");
    let world = World::new(service(Some(Control::Child(child(&["no-such-program-here"]))))).await;
    let error = world.start().await.unwrap_err();
    assert!(error.message.contains("no-such-program-here"), "{error}");
    assert_eq!(world.status().await, "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_childs_environment_is_minimal_and_its_secrets_are_nowhere_else() {
    let mut control = bash("env; exec sleep 600");
    let mut world = World::without_supervisor(service(None));
    let file = world.dir.path().join("token");
    std::fs::write(&file, "hunter2\n").unwrap();
    control.secret.insert("TOKEN".into(), Secret { file: Some(file), ..Secret::default() });
    control.environment.insert("WORKER".into(), "on".into());
    world.host.services.get_mut("notes").unwrap().control = Some(Control::Child(control));
    world.serve().await;
    world.start().await.unwrap();
    until(|| world.log().contains("PATH=")).await;
    let log = world.log();
    assert!(log.contains("TOKEN=hunter2") && log.contains("WORKER=on") && !log.contains("CARGO"), "{log}");
    use std::os::unix::fs::PermissionsExt;
    for name in ["logs/notes.log", "children/notes.json", SOCKET_NAME] {
        let mode = std::fs::metadata(world.state().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert!(!std::fs::read_to_string(world.state().join("children/notes.json")).unwrap().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_supervisor_is_refused_and_a_stale_socket_replaced() {
    let mut world = World::without_supervisor(service(Some(Control::Child(bash(PRINTS_ITS_PID)))));
    // What a killed supervisor leaves: a socket where nobody listens.
    let dir = std::fs::File::open(world.state()).unwrap();
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd());
    drop(std::os::unix::net::UnixListener::bind(path).unwrap());
    assert!(world.state().join(SOCKET_NAME).exists());
    assert_eq!(world.status().await, "stopped", "nobody answers");
    world.serve().await;
    let state = world.state().to_owned();
    for _ in 0..50 {
        if world.start().await.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.status().await, "running");
    let second = Supervisor::serve(BTreeMap::new(), state.join(SOCKET_NAME), std::future::pending()).await;
    assert_eq!(second.unwrap_err().kind, ErrorKind::Conflict);
    assert_eq!(world.status().await, "running", "the first is none the worse");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_finds_the_child_of_one_that_was_killed() {
    let mut world = World::without_supervisor(service(Some(Control::Child(bash(PRINTS_ITS_PID)))));
    // A process that another parent started, and a record of it, as a killed supervisor leaves them.
    let mut orphan = std::process::Command::new("sleep");
    use std::os::unix::process::CommandExt;
    let mut orphan = orphan.arg("600").process_group(0).spawn().unwrap();
    let (pid, started) = (orphan.id(), start_ticks(orphan.id()).unwrap());
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::create_dir(world.state().join("children")).unwrap();
    let write = |started: u64, boot: &str| {
        let text = format!(r#"{{"pid":{pid},"pid-started":{started},"boot":"{}"}}"#, boot.trim());
        std::fs::write(world.state().join("children/notes.json"), text).unwrap();
    };
    write(started + 1, &boot);
    assert_eq!(world.status().await, "stopped", "another process");
    write(started, "another boot");
    assert_eq!(world.status().await, "stopped", "another boot");
    write(started, &boot);
    assert_eq!(world.status().await, "unknown");
    let error = world.stop().await.unwrap_err();
    assert!(error.message.contains("still runs") && error.hint.is_some(), "{error}");
    world.serve().await;
    assert_eq!(world.status().await, "running");
    let reaper = std::thread::spawn(move || orphan.wait().unwrap());
    world.stop().await.unwrap();
    assert_eq!(world.status().await, "stopped");
    reaper.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_supervisor_the_ports_decide_what_can_be_said() {
    // Below those that the kernel gives to whoever asks for any: it must be nobody's once it is let go.
    let first = u16::try_from(std::process::id() % 12_000).unwrap();
    let listener = (0..12_000)
        .find_map(|n| std::net::TcpListener::bind(("127.0.0.1", 20_000 + (first + n) % 12_000)).ok())
        .expect("a port");
    let port = listener.local_addr().unwrap().port();
    let control = ChildControl { ports: vec![port], ..bash(PRINTS_ITS_PID) };
    let world = World::without_supervisor(service(Some(Control::Child(control))));
    assert_eq!(world.status().await, "unknown");
    drop(listener);
    // A child that another test has just begun to start holds it until it has become another program.
    until(|| !ports::is_open(port)).await;
    assert_eq!(world.status().await, "stopped");
    world.stop().await.unwrap();
    let error = world.start().await.unwrap_err();
    assert!(error.message.contains("lifeboat serve") && error.hint.is_some(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_noticed_before_a_start() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let control = ChildControl { ports: vec![port], ..bash(PRINTS_ITS_PID) };
    let world = World::new(service(Some(Control::Child(control)))).await;
    let error = world.start().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert!(error.message.contains(&port.to_string()), "{error}");
    assert!(world.log().is_empty(), "nothing was started");
}

/// A service manager made of files: the service "runs" while the file is there.
fn manager(dir: &Path, stop: &str) -> CommandControl {
    let file = dir.join("running").display().to_string();
    let command = |script: &str| ["bash", "-c", script, "test", &file].map(str::to_owned).to_vec();
    CommandControl {
        start: command("touch \"$1\""),
        stop: command(stop),
        status: command("test -e \"$1.odd\" && exit 4; test -e \"$1\" || exit 3"),
        timeout_s: 3,
        ports: Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_control_a_managers_service() {
    let dir = tempfile::tempdir().unwrap();
    let control = manager(dir.path(), "rm \"$1\"");
    let world = World::without_supervisor(service(Some(Control::Command(control))));
    assert_eq!(world.status().await, "stopped");
    world.start().await.unwrap();
    assert_eq!(world.status().await, "running");
    world.start().await.unwrap();
    world.stop().await.unwrap();
    // Stopped already: the command, which would fail now, is not even run.
    world.stop().await.unwrap();
    std::fs::write(dir.path().join("running.odd"), "").unwrap();
    assert_eq!(world.status().await, "unknown");
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_means_stopped() {
    let dir = tempfile::tempdir().unwrap();
    // A stop that says yes and does nothing.
    let world = World::without_supervisor(service(Some(Control::Command(manager(dir.path(), "exit 0")))));
    world.start().await.unwrap();
    let error = world.stop().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
    assert!(error.message.contains("it runs"), "{error}");

    // A stop that fails says why.
    let world =
        World::without_supervisor(service(Some(Control::Command(manager(dir.path(), "echo held >&2; exit 1")))));
    let error = world.stop().await.unwrap_err();
    assert!(error.message.contains("held") && error.message.contains("it runs"), "{error}");

    // A stop after which the port is still open.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let control = CommandControl { ports: vec![port], ..manager(dir.path(), "rm \"$1\"") };
    let world = World::without_supervisor(service(Some(Control::Command(control))));
    let error = world.stop().await.unwrap_err();
    assert!(error.message.contains(&format!("port {port} open")), "{error}");
    assert!(!dir.path().join("running").exists(), "its manager did stop it");
    drop(listener);
    world.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_stop_says_what_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let control = CommandControl { timeout_s: 60, ..manager(dir.path(), "touch \"$1.asked\"") };
    let world = World::without_supervisor(service(Some(Control::Command(control))));
    world.start().await.unwrap();
    let cx = cx();
    let cancel = async {
        until(|| dir.path().join("running.asked").exists()).await;
        cx.cancelled.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (result, ()) = tokio::join!(ServiceControl::stop(&world.host, &cx, "notes"), cancel);
    assert_eq!(result.unwrap_err().kind, ErrorKind::Cancelled);
}

fn with_endpoint(mut service: Service, port: u16, ready: &str) -> Service {
    let endpoint = format!(r#"{{"url":"http://127.0.0.1:{port}"}}"#);
    service.endpoint.insert("api".into(), serde_json::from_str(&endpoint).unwrap());
    service.ready = Some(serde_json::from_str(ready).unwrap());
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_what_the_service_says_of_itself() {
    let port = ports::free().unwrap();
    let control = ChildControl {
        command: test_child::command(),
        environment: test_child::environment(&port.to_string(), "{place.db}", "late"),
        ports: vec![port],
        ..bash("")
    };
    let ready = r#"{"endpoint":"api","path":"/readyz","equals":{"/ready":true,"/says":"{place.db}"},"timeout-s":30}"#;
    let mut binding = with_endpoint(service(Some(Control::Child(control))), port, ready);
    let source = r#"{"kind":"sqlite","path":"/data/secret-place/notes.sqlite"}"#;
    binding.source.insert("db".into(), serde_json::from_str(source).unwrap());
    let mut world = World::new(binding).await;
    world.start().await.unwrap();
    // Its first answer is 503.
    ServiceControl::wait_ready(&world.host, &cx(), "notes").await.unwrap();
    assert!(ports::is_open(port));

    // On another store than it should be: never ready, and the error names no place.
    let binding = world.host.services.get_mut("notes").unwrap();
    binding.ready.as_mut().unwrap().equals.insert("/says".into(), "{place.db}x".into());
    binding.ready.as_mut().unwrap().timeout_s = 0;
    let error = ServiceControl::wait_ready(&world.host, &cx(), "notes").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::TimedOut);
    assert!(error.message.contains(r#"`says` is not "{place.db}x""#), "{error}");
    assert!(!error.to_string().contains("secret-place"), "{error}");

    world.stop().await.unwrap();
    assert!(!ports::is_open(port));
    let error = ServiceControl::wait_ready(&world.host, &cx(), "notes").await.unwrap_err();
    assert!(error.message.contains("signal 15"), "{error}");
    assert_eq!(error.kind, ErrorKind::Failed, "told at once, not by the time running out");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_configured_is_said_with_what_to_configure() {
    let world = World::without_supervisor(service(None));
    let (host, cx) = (&world.host, cx());
    assert_eq!(world.status().await, "unknown");
    for (error, hint) in [
        (world.stop().await.unwrap_err(), "[service.notes.control]"),
        (world.start().await.unwrap_err(), "[service.notes.control]"),
        (ServiceControl::wait_ready(host, &cx, "notes").await.unwrap_err(), "[service.notes.ready]"),
        (host.installable(&cx, "notes", "1").await.unwrap_err(), "[service.notes.install]"),
        (host.install(&cx, "notes", "1").await.unwrap_err(), "[service.notes.install]"),
    ] {
        assert!(error.hint.as_deref().unwrap_or_default().contains(hint), "{error}");
    }
    assert_eq!(ServiceControl::status(host, &cx, "other").await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_is_installed_only_while_the_service_is_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let mut binding = service(Some(Control::Command(manager(dir.path(), "rm \"$1\""))));
    binding.install = Some(Install {
        directory: dir.path().join("versions"),
        installable: vec!["true".into()],
        command: vec!["touch".into(), "{dir}/program".into()],
        check: vec!["echo".into(), "{version}".into()],
        timeout_s: 60,
        ..Install::default()
    });
    let world = World::without_supervisor(binding);
    world.start().await.unwrap();
    let error = world.host.install(&cx(), "notes", "1.0.0").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict, "{error}");
    assert!(!dir.path().join("versions").exists());
    std::fs::write(dir.path().join("running.odd"), "").unwrap();
    assert_eq!(world.host.install(&cx(), "notes", "1.0.0").await.unwrap_err().kind, ErrorKind::Conflict);
    std::fs::remove_file(dir.path().join("running.odd")).unwrap();
    world.stop().await.unwrap();
    world.host.install(&cx(), "notes", "1.0.0").await.unwrap();
    let status = ServiceControl::status(&world.host, &cx(), "notes").await.unwrap();
    assert_eq!(status, Status { state: "stopped".into(), version: Some("1.0.0".into()) });
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_answers_every_line_it_can_not_use() {
    use std::io::{Read, Write};
    let world = World::new(service(Some(Control::Child(bash(PRINTS_ITS_PID))))).await;
    let socket = world.state().join(SOCKET_NAME);
    let say = |line: &str| {
        let dir = std::fs::File::open(socket.parent().unwrap()).unwrap();
        use std::os::fd::AsRawFd;
        let path = format!("/proc/self/fd/{}/{SOCKET_NAME}", dir.as_raw_fd());
        let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
        stream.write_all(line.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    assert_eq!(say("{\"verb\":\"list\"}\n"), "{\"ok\":{\"notes\":{\"state\":\"stopped\"}}}\n");
    for (line, words) in [
        ("nonsense\n", "\"kind\":\"invalid\""),
        ("{\"verb\":\"format\",\"service\":\"notes\"}\n", "start, stop, status or list"),
        ("{\"verb\":\"stop\",\"service\":\"other\"}\n", "configured: notes"),
        ("{\"verb\":\"stop\",\"servce\":\"notes\"}\n", "unknown field"),
    ] {
        let answer = say(line);
        assert!(answer.starts_with("{\"error\":") && answer.contains(words), "{line}: {answer}");
    }
}

/// With the example service: start, ready in this version, a note made and captured, stop.
#[tokio::test(flavor = "multi_thread")]
async fn the_example_service_is_controlled_and_checked() {
    use crate::http_check::{HttpCheck, Request};
    let Some(bin) = std::env::var_os("LIFEBOAT_NOTES_BIN_DIR") else {
        eprintln!("not run: LIFEBOAT_NOTES_BIN_DIR does not say where notes-1 is");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "hunter2\n").unwrap();
    let port = ports::free().unwrap();
    let program = Path::new(&bin).join("notes-1").display().to_string();
    let mut control =
        child(&[&program, "serve", "--port", &port.to_string(), "--data", &dir.path().display().to_string()]);
    let secret = |prefix: &str| Secret { file: Some(token.clone()), prefix: prefix.into(), ..Secret::default() };
    control.secret.insert("NOTES_TOKEN".into(), secret(""));
    control.environment.insert("NOTES_WORKER".into(), "off".into());
    control.ports = vec![port];
    let ready = r#"{"endpoint":"api","path":"/readyz","equals":{"/version":"1.0.0"}}"#;
    let mut binding = with_endpoint(service(Some(Control::Child(control))), port, ready);
    let endpoint = binding.endpoint.get_mut("api").unwrap();
    endpoint.header.insert("authorization".into(), secret("Bearer "));
    let capture = r#"{"method":"POST","path":"/notes","pointer":"/id"}"#;
    endpoint.capture.insert("note".into(), serde_json::from_str(capture).unwrap());
    let world = World::new(binding).await;
    world.start().await.unwrap();
    ServiceControl::wait_ready(&world.host, &cx(), "notes").await.unwrap();
    let post = Request {
        method: "POST".into(),
        path: "/notes".into(),
        body_json: Some(r#"{"title":"t","body":"b"}"#.into()),
        status: Some(201),
        ..Request::default()
    };
    let seen = world.host.check(&cx(), "notes/api", &post, "run/1").await.unwrap();
    assert!(seen.passed && seen.captures.len() == 1, "{seen:?}");
    let mut list = Request { method: "GET".into(), path: "/notes?limit=5".into(), ..Request::default() };
    list.json_compare = vec![("/count".into(), "==".into(), 1), ("/notes".into(), "==".into(), 1)];
    let seen = world.host.check(&cx(), "notes/api", &list, "run/2").await.unwrap();
    assert!(seen.passed, "{seen:?}");
    world.stop().await.unwrap();
    let live = world.host.live("notes").unwrap();
    assert_eq!(live.state(&cx()).unwrap(), State::Stopped { ended: Some("exit code 0".into()) });
    assert!(!world.log().contains("hunter2"));
}

#[tokio::test]
async fn whoever_asks_in_between_can_see_that_it_is_stopped_on_purpose() {
    let of = service(Some(Control::Child(bash("exec sleep 600"))));
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("quiesced");
    let mut world = World::new(Service { quiesced_file: Some(file.clone()), ..of }).await;
    world.host.start(&cx(), "notes").await.unwrap();
    assert!(!file.exists());

    // It is there before the service is touched, and stays while it is down.
    let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (at, of) = (seen.clone(), file.clone());
    let waypoint = move |place: &str| at.lock().unwrap().push((place.to_owned(), of.exists()));
    world.host.stop(&StepContext { waypoint: Arc::new(waypoint), ..cx() }, "notes").await.unwrap();
    let seen = seen.lock().unwrap().clone();
    let expected = [("said that it is quiesced", true), ("stop asked", true)];
    assert_eq!(seen, expected.map(|(place, there)| (place.to_owned(), there)));
    let text: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!((&text["service"], &text["run"]), (&"notes".into(), &"test".into()));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o644);
    // The directory may be another user's: what lies under the name in between is not followed.
    let other = place.path().join("other");
    std::fs::write(&other, "somebody's").unwrap();
    std::os::unix::fs::symlink(&other, place.path().join("quiesced.new")).unwrap();
    world.host.stop(&cx(), "notes").await.unwrap();
    assert!(file.exists(), "stopped twice is stopped");
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "somebody's");
    world.host.start(&cx(), "notes").await.unwrap();
    assert!(!file.exists());

    // Where it can't be said, nothing is stopped.
    drop(place);
    let error = world.host.stop(&cx(), "notes").await.unwrap_err();
    assert!(error.message.contains("stopped on purpose"), "{error}");
    assert_eq!(world.host.status(&cx(), "notes").await.unwrap().state, "running");
    world.end().await;
}
