//! Real processes in quarantine, over drivers that only remember what they were asked.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::bindings::Endpoint;
use crate::child::start_ticks;
use crate::control::test_child;
use crate::http_check::{HttpCheck, Request};
use crate::manifest::SourceManifest;
use crate::sources::{Dumped, Identity, ObjectSink, ObjectSource, StageOptions, Swap, Target, Verified};

const ID: &str = "20261123T061534123z-7k3f9q";

fn cx() -> StepContext {
    StepContext::detached("test", Duration::from_secs(60))
}

fn candidate() -> Candidate {
    Candidate {
        id: ID.into(),
        service: "notes".into(),
        backup: "b".into(),
        store: "s".into(),
        read_from: None,
        digest: "d".into(),
        target: "scratch".into(),
        taken_at_ms: 0,
        newest_at_ms: None,
        elapsed_ms: 0,
        members: vec![member()],
    }
}

fn member() -> Member {
    Member {
        source: "db".into(),
        place: "/candidate/place.sqlite".into(),
        identity: Identity::new(),
        beside: false,
        data_only: None,
    }
}

struct World {
    host: RealHost,
    /// Of the one instance there is: processes are found by it, those of other tests are not to be.
    id: String,
    _dir: tempfile::TempDir,
}

fn world(mode: &str) -> World {
    let dir = tempfile::tempdir().unwrap();
    let scratch = Binding {
        command: test_child::command(),
        environment: test_child::environment("{port}", "{place.db}", mode),
        secret: BTreeMap::new(),
        layout: BTreeMap::new(),
        quarantine: BTreeMap::new(),
        unchanged: BTreeMap::new(),
        network: Kind::Shared,
        timeout_s: 20,
    };
    let endpoint: Endpoint = serde_json::from_str(r#"{"url":"http://127.0.0.1:1"}"#).unwrap();
    let ready = r#"{"endpoint":"api","path":"/readyz","equals":{"/ready":true,"/says":"{place.db}"},"timeout-s":30}"#;
    let service = Service {
        scratch: Some(scratch),
        endpoint: [("api".to_owned(), endpoint)].into(),
        ready: Some(serde_json::from_str(ready).unwrap()),
        ..serde_json::from_str("{}").unwrap()
    };
    let host = RealHost::new([("notes".to_owned(), service)].into(), &BTreeMap::new(), dir.path()).unwrap();
    World { host, id: crate::identifier::fresh(), _dir: dir }
}

impl World {
    fn scratch(&mut self) -> &mut Binding {
        self.host.services.get_mut("notes").unwrap().scratch.as_mut().unwrap()
    }

    fn candidates(&self, suffix: &str) -> PathBuf {
        self.host.state_dir.join("candidates").join(format!("{ID}{suffix}"))
    }

    /// Starts with a driver that is asked one fact and told one statement.
    async fn start_with(&self, driver: Arc<FakeDriver>) -> Result<Instance> {
        let mut plan = self.host.plan(&candidate(), None)?;
        let query =
            NamedQuery { source: "db".into(), sql: "select count(*) from queue".into(), words: None, not_json: false };
        plan.facts = Facts(vec![Fact { name: "queued".into(), query, driver: driver.clone(), member: member() }]);
        plan.quarantine = vec![(driver, member(), vec!["update queue set state = 'held'".into()])];
        self.host.launch(&cx(), &self.id, plan).await
    }
}

/// Remembers what it was told; its answers change when it is told so.
#[derive(Default)]
struct FakeDriver {
    told: Mutex<Vec<String>>,
    queued: AtomicUsize,
    fails: bool,
    marker: PathBuf,
}

impl FakeDriver {
    fn note(&self, what: &str) {
        let marked = if self.marker.exists() { "marked" } else { "unmarked" };
        self.told.lock().unwrap().push(format!("{marked}: {what}"));
    }
}

#[rustfmt::skip]
impl SourceDriver for FakeDriver {
    fn query(&self, _: &StepContext, member: Option<&Member>, question: &Question) -> Result<Vec<Row>> {
        assert!(member.is_some(), "never on live data");
        self.note(&question.sql);
        Ok(vec![vec![Some(self.queued.load(Ordering::Relaxed).to_string())]])
    }
    fn execute(&self, _: &StepContext, _: &Member, statements: &[String]) -> Result<()> {
        self.note(&statements.join(";"));
        if self.fails { Err(Error::failed("no such table: queue")) } else { Ok(()) }
    }
    fn check(&self, _: &StepContext) -> Result<()> { unreachable!() }
    fn dump(&self, _: &StepContext, _: &dyn ObjectSink, _: &[Question]) -> Result<Dumped> { unreachable!() }
    fn stage(&self, _: &StepContext, _: &SourceManifest, _: &dyn ObjectSource, _: &str, _: &Target, _: &StageOptions) -> Result<Member> { unreachable!() }
    fn verify(&self, _: &StepContext, _: &Member, _: &SourceManifest, _: &dyn ObjectSource, _: &[Question]) -> Result<Verified> { unreachable!() }
    fn discard(&self, _: &StepContext, _: &Member) -> Result<()> { unreachable!() }
    fn clear(&self, _: &StepContext, _: &str) -> Result<()> { unreachable!() }
    fn place(&self) -> Result<String> {
        unreachable!()
    }

    fn live_identity(&self, _: &StepContext) -> Result<Option<Identity>> { unreachable!() }
    fn member_identity(&self, _: &StepContext, _: &Member) -> Result<Identity> { unreachable!() }
    fn preflight(&self, _: &StepContext, _: &Member) -> Result<Vec<Finding>> { unreachable!() }
    fn plan_swap(&self, _: &StepContext, _: &Member) -> Result<Swap> { unreachable!() }
    fn promote(&self, _: &StepContext, _: &Member, _: &Swap) -> Result<()> { unreachable!() }
    fn undo(&self, _: &StepContext, _: &Swap) -> Result<()> { unreachable!() }
    fn drop_previous(&self, _: &StepContext, _: &Swap) -> Result<()> { unreachable!() }
}

fn driver(world: &World) -> Arc<FakeDriver> {
    Arc::new(FakeDriver { marker: world.candidates(".started"), ..FakeDriver::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_in_quarantine_starts_answers_and_stops() {
    let world = world("serve");
    let driver = driver(&world);
    driver.queued.store(3, Ordering::Relaxed);
    let instance = world.start_with(driver.clone()).await.unwrap();
    assert_eq!(start_ticks(instance.pid), Some(instance.pid_started));
    Scratch::wait_ready(&world.host, &cx(), &instance.id).await.unwrap();

    let endpoint = format!("{}/api", instance.id);
    let mut request = Request { method: "GET".into(), path: "/readyz".into(), ..Request::default() };
    request.json_equals = vec![("/says".into(), "\"/candidate/place.sqlite\"".into())];
    let seen = world.host.check(&cx(), &endpoint, &request, "k").await.unwrap();
    assert!(seen.passed, "{seen:?}");

    let findings = Scratch::stop(&world.host, &cx(), &instance.id).await.unwrap();
    assert_eq!(findings, []);
    assert!(start_ticks(instance.pid).is_none() && !ports::is_open(instance.port));
    assert_eq!(
        *driver.told.lock().unwrap(),
        [
            "marked: update queue set state = 'held'",
            "marked: select count(*) from queue",
            "marked: select count(*) from queue"
        ]
    );
    use std::os::unix::fs::PermissionsExt;
    for (suffix, mode) in [(".started", 0o600), (".log", 0o600), ("", 0o700)] {
        let found = std::fs::metadata(world.candidates(suffix)).unwrap().permissions().mode();
        assert_eq!(found & 0o777, mode, "{suffix}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_worked_is_found_out() {
    let world = world("serve");
    let driver = driver(&world);
    driver.queued.store(3, Ordering::Relaxed);
    let instance = world.start_with(driver.clone()).await.unwrap();
    driver.queued.store(2, Ordering::Relaxed);
    let findings = Scratch::stop(&world.host, &cx(), &instance.id).await.unwrap();
    assert_eq!(findings.len(), 1);
    assert_eq!((findings[0].rule.as_str(), findings[0].severity), ("quarantine", crate::Severity::Error));
    assert_eq!(findings[0].message, "queued: 3 before the start, 2 after the stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_facts_the_quarantine_is_unproven() {
    let world = world("serve");
    let instance = Scratch::start(&world.host, &cx(), &world.id, &candidate(), None).await.unwrap();
    let findings = Scratch::stop(&world.host, &cx(), &instance.id).await.unwrap();
    assert_eq!((findings[0].rule.as_str(), findings[0].severity), ("quarantine-unproven", crate::Severity::Warning));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_that_fails_starts_nothing_and_leaves_its_mark() {
    let world = world("serve");
    let driver = Arc::new(FakeDriver { fails: true, marker: world.candidates(".started"), ..FakeDriver::default() });
    let error = world.start_with(driver.clone()).await.unwrap_err();
    assert!(error.message.contains("quarantine of db") && error.message.contains("no such table"), "{error}");
    assert_eq!(driver.told.lock().unwrap().len(), 1, "the fault fired");
    assert!(world.candidates(".started").exists() && !world.candidates(".log").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_promoted_is_never_started() {
    let world = world("serve");
    let beside = Candidate { target: "beside".into(), ..candidate() };
    let error = Scratch::start(&world.host, &cx(), &world.id, &beside, None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    assert!(!world.host.state_dir.join("candidates").exists());
    let hostile = Candidate { id: "../../../etc/x".into(), ..candidate() };
    assert_eq!(
        Scratch::start(&world.host, &cx(), &world.id, &hostile, None).await.unwrap_err().kind,
        ErrorKind::Invalid
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_death_is_told_with_the_logs_end() {
    let world = world("die");
    let error = Scratch::start(&world.host, &cx(), &world.id, &candidate(), None).await.unwrap_err();
    assert!(error.message.contains("exit code 3") && error.message.contains("is malformed"), "{error}");
    assert!(!error.message.contains('\u{1b}'), "no terminal escapes: {error:?}");
    assert!(world.host.instances.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_death_ends_the_wait_and_the_checks() {
    let world = world("serve");
    let instance = Scratch::start(&world.host, &cx(), &world.id, &candidate(), None).await.unwrap();
    let endpoint = format!("{}/api", instance.id);
    let die = Request { method: "POST".into(), path: "/die".into(), ..Request::default() };
    world.host.check(&cx(), &endpoint, &die, "k").await.unwrap();
    let error = Scratch::wait_ready(&world.host, &cx(), &instance.id).await.unwrap_err();
    assert!(error.message.contains("exit code 4"), "{error}");
    // Whoever has the port now is not asked.
    let other = crate::http_check::test_server::Server::plain(|_, _, _| ());
    world.host.instances.lock().unwrap().get_mut(&instance.id).unwrap().instance.port = other.port;
    let get = Request { method: "GET".into(), path: "/".into(), ..Request::default() };
    let seen = world.host.check(&cx(), &endpoint, &get, "k").await.unwrap();
    assert_eq!(seen.failures, ["the service in quarantine has ended: exit code 4"]);
    assert_eq!(other.connections(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_instance_a_candidate_and_none_survives_its_host() {
    let world = world("serve");
    let instance = Scratch::start(&world.host, &cx(), &world.id, &candidate(), None).await.unwrap();
    let error = Scratch::start(&world.host, &cx(), &world.id, &candidate(), None).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Conflict);
    drop(world);
    assert!(start_ticks(instance.pid).is_none());
}

/// The host of an engine that comes after another one on the same state.
fn after(world: &World) -> RealHost {
    RealHost::new(world.host.services.clone(), &BTreeMap::new(), &world.host.state_dir).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_of_an_earlier_engine_is_found_again_and_stopped_again() {
    let first = world("serve");
    let instance = Scratch::start(&first.host, &cx(), &first.id, &candidate(), None).await.unwrap();
    let second = after(&first);
    Scratch::wait_ready(&second, &cx(), &first.id).await.unwrap();
    let get = Request { method: "GET".into(), path: "/readyz".into(), ..Request::default() };
    let seen = second.check(&cx(), &format!("{}/api", first.id), &get, "k").await.unwrap();
    assert!(seen.passed, "{seen:?}");
    for again in [&second, &after(&first)] {
        // Also once more, as after an engine that ended between act and record.
        let findings = Scratch::stop(again, &cx(), &first.id).await.unwrap();
        assert_eq!(findings[0].rule, "quarantine-unproven");
        assert!(start_ticks(instance.pid).is_none());
    }
    let unknown = Scratch::stop(&second, &cx(), "20261123T061535456z-000000").await.unwrap_err();
    assert_eq!(unknown.kind, ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_with_the_id_of_an_instance_is_left_alone() {
    let first = world("serve");
    let instance = Scratch::start(&first.host, &cx(), &first.id, &candidate(), None).await.unwrap();
    let mut bystander = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    // Ids are used again: the one on record is another process's now.
    let directory = first.host.state_dir.join("candidates");
    let mut kept = Kept::read(&directory, &first.id).unwrap().unwrap();
    kept.running.as_mut().unwrap().pid = bystander.id();
    kept.write(&directory, &first.id).unwrap();
    Scratch::stop(&after(&first), &cx(), &first.id).await.unwrap();
    assert!(bystander.try_wait().unwrap().is_none(), "its start time is not the recorded one");
    assert!(start_ticks(instance.pid).is_none(), "the instance itself is found by its marker");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_attempt_at_a_start_ends_the_first_one_and_compares_with_its_facts() {
    let world = world("serve");
    let driver = driver(&world);
    driver.queued.store(3, Ordering::Relaxed);
    let first = world.start_with(driver.clone()).await.unwrap();
    // The engine died here; meanwhile its process has worked on the candidate.
    std::mem::forget(world.host.instances.lock().unwrap().remove(&world.id));
    driver.queued.store(2, Ordering::Relaxed);
    let second = world.start_with(driver.clone()).await.unwrap();
    assert!(start_ticks(first.pid).is_none() && start_ticks(second.pid).is_some());
    let findings = Scratch::stop(&world.host, &cx(), &world.id).await.unwrap();
    assert_eq!(findings[0].message, "queued: 3 before the start, 2 after the stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_ignores_sigterm_is_killed() {
    let mut world = world("serve");
    *world.scratch() = Binding {
        command: ["bash", "-c", "trap 'echo ignored' TERM; echo up; while :; do sleep 0.05; done"]
            .map(str::to_owned)
            .into(),
        environment: BTreeMap::new(),
        // What it is given to end by itself: also on a busy machine it hears the signal in that time.
        timeout_s: 5,
        ..world.scratch().clone()
    };
    // It opens no port: the start leaves that to `wait_ready`, as for a service that starts slowly.
    let plan = world.host.plan(&candidate(), None).unwrap();
    let id = world.id.clone();
    let started = blocking(move || plan.start(&cx(), &id)).await;
    let instance = started.map(|running| {
        let instance = running.instance.clone();
        world.host.instances.lock().unwrap().insert(instance.id.clone(), running);
        instance
    });
    let instance = instance.unwrap();
    Scratch::stop(&world.host, &cx(), &instance.id).await.unwrap();
    let log = std::fs::read_to_string(world.candidates(".log")).unwrap();
    assert!(log.contains("ignored"), "the fault fired: {log}");
    assert!(start_ticks(instance.pid).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installed_version_is_chosen_by_its_name() {
    let mut world = world("serve");
    let versions = world.host.state_dir.join("versions");
    for name in ["1.0@a-1-1", "2.0@a-2-1"] {
        std::fs::create_dir_all(versions.join(name)).unwrap();
    }
    std::os::unix::fs::symlink("2.0@a-2-1", versions.join("current")).unwrap();
    let error = world.host.plan(&candidate(), Some("1.0")).err().unwrap();
    assert_eq!(error.kind, ErrorKind::Invalid, "no `install`, no versions");
    let install = crate::bindings::Install {
        directory: versions.clone(),
        installable: vec![],
        command: vec![],
        check: vec![],
        timeout_s: 1,
        ..crate::bindings::Install::default()
    };
    world.host.services.get_mut("notes").unwrap().install = Some(install);
    let current = |version: Option<&str>| world.host.plan(&candidate(), version).map(|p| p.values["current"].clone());
    let at = |name: &str| versions.join(Path::new(name)).display().to_string();
    assert_eq!(current(None).unwrap(), at("2.0@a-2-1"));
    assert_eq!(current(Some("1.0")).unwrap(), at("1.0@a-1-1"));
    let error = current(Some("3.0")).unwrap_err();
    assert_eq!((error.kind, error.hint.as_deref()), (ErrorKind::NotFound, Some("installed: 2.0, 1.0")));
    assert_eq!(current(Some("../x")).unwrap_err().kind, ErrorKind::Invalid);
}

#[test]
fn facts_are_shown_bounded_and_harmless() {
    let row = |text: &str| vec![Some(text.to_owned()), None];
    assert_eq!(words(&[]), "no row");
    assert_eq!(words(&[row("a\u{1b}[2J")]), "a\\u{1b}[2J | NULL");
    let many: Vec<Row> = (0..500).map(|_| row("x")).collect();
    assert!(words(&many).starts_with("500 rows (") && words(&many).len() < 200);
}

/// Says what of a machine's network is seen from where it runs, and then serves.
const LOOKS: &str =
    "(exec 3<>/dev/tcp/127.0.0.1/$OUTSIDE) 2>/dev/null && echo out; ls /sys/class/net; cat /proc/net/dev; exec \"$@\"";

#[tokio::test(flavor = "multi_thread")]
async fn a_network_of_its_own_keeps_everything_in_and_is_gone_afterwards() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: not root. A network of its own was NOT tested.");
        return;
    }
    let outside = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let networks = |id: &str| {
        std::fs::read_dir("/run/netns")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().ends_with(id))
            .count()
    };
    for kind in [Kind::Shared, Kind::Isolated] {
        let mut world = world("serve");
        let binding = world.scratch();
        binding.network = kind;
        binding.environment.insert("OUTSIDE".into(), outside.local_addr().unwrap().port().to_string());
        binding.command = ["bash", "-c", LOOKS, "looks"]
            .iter()
            .map(|word| (*word).to_owned())
            .chain(binding.command.clone())
            .collect();
        let driver = driver(&world);
        let instance = world.start_with(driver.clone()).await.unwrap();
        Scratch::wait_ready(&world.host, &cx(), &instance.id).await.unwrap();
        let log = std::fs::read_to_string(world.candidates(".log")).unwrap();
        assert_eq!(log.lines().any(|line| line == "out"), kind == Kind::Shared, "{kind:?}: {log}");
        let devices = log
            .lines()
            .filter(|line| line.trim_start().split_once(':').is_some_and(|(name, _)| !name.contains(' ')))
            .count();
        assert_eq!(devices == 1, kind == Kind::Isolated, "{kind:?}: {log}");
        assert_eq!(networks(&instance.id), usize::from(kind == Kind::Isolated));

        // An engine after this one reaches it as well.
        let other = RealHost::new(world.host.services.clone(), &BTreeMap::new(), &world.host.state_dir).unwrap();
        let running = world.host.instances.lock().unwrap().remove(&instance.id).unwrap();
        std::mem::forget(running.process);
        drop(running.handed_on);
        Scratch::wait_ready(&other, &cx(), &instance.id).await.unwrap();
        Scratch::stop(&other, &cx(), &instance.id).await.unwrap();
        assert_eq!((networks(&instance.id), start_ticks(instance.pid)), (0, None));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_was_cut_off_leaves_no_network_once_it_is_stopped() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: not root. A network of its own was NOT tested.");
        return;
    }
    let mut world = world("serve");
    world.scratch().network = Kind::Isolated;
    let plan = world.host.plan(&candidate(), None).unwrap();
    let name = Path::new("/run/netns").join(format!("lifeboat-{}", world.id));
    let (seen, of) = (Arc::new(Mutex::new(Vec::new())), name.clone());
    let (at, cut) = (seen.clone(), cx().ended_at("network made"));
    let end = cut.waypoint.clone();
    let waypoint = move |place: &str| {
        at.lock().unwrap().push((place.to_owned(), of.exists()));
        end(place);
    };
    let cut = StepContext { waypoint: Arc::new(waypoint), ..cut };
    let error = world.host.launch(&cut, &world.id, plan).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Cancelled, "{error}");
    assert!(seen.lock().unwrap().contains(&("network made".into(), true)), "it was there");
    assert!(!name.exists());
    // An engine that died behind it could not clean up: whoever stops the instance does.
    Network::of(&world.id).make(&cx()).unwrap();
    assert!(name.exists());
    let error = Scratch::stop(&world.host, &cx(), &world.id).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(!name.exists());
}
