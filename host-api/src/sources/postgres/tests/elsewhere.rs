//! Scratch candidates on a private server, and on another one.

use std::path::PathBuf;

use super::super::elsewhere;
use super::super::testing::ClusterPlace;
use super::super::tools::Tools;
use super::*;
use crate::bindings::{ScratchCluster, ScratchPostgres, ScratchServer};
use crate::checks::{Aspect, Level};
use crate::error::ErrorKind;
use crate::testing::write_program;

impl ClusterPlace {
    fn source(&self, source: PostgresSource) -> PostgresSource {
        PostgresSource { scratch: Some(ScratchPostgres::Cluster(self.binding())), ..source }
    }

    #[track_caller]
    fn is_clean(&self) {
        assert_eq!((self.holds(), self.processes()), (Vec::<PathBuf>::new(), 0));
    }
}

fn scratch(id: &str) -> Target {
    Target::Scratch { dir: std::env::temp_dir().join(id), relative: "db".into() }
}

fn into_scratch(cx: &StepContext, driver: &PostgresDriver, taken: &Taken) -> Result<Member> {
    let id = crate::identifier::fresh();
    driver.stage(cx, &taken.manifest, &taken.objects, &id, &scratch(&id), &StageOptions { jobs: 2, data_only: false })
}

/// A database whose tables belong to two roles, with row security, a large object and a table in a tablespace of its own.
fn filled(server: &PgServer, name: &str) {
    server.create(name);
    let directory = std::path::Path::new(&server.host).join(format!("space_{name}"));
    std::fs::create_dir(&directory).unwrap();
    super::super::testing::give_to_server(&directory);
    server.sql("postgres", &[&format!("CREATE TABLESPACE {name} LOCATION '{}'", directory.display())]);
    server.sql("postgres", &[&format!("CREATE ROLE {name}_app LOGIN"), &format!("CREATE ROLE \"{name} Réader\"")]);
    server.sql(
        name,
        &[
            // Whoever gets a table must be able to make one in its schema, unless a superuser gives it.
            &format!("CREATE SCHEMA app AUTHORIZATION {name}_app"),
            &format!("CREATE TABLE app.t(a int PRIMARY KEY, b text) TABLESPACE {name}"),
            "INSERT INTO app.t SELECT i, repeat(md5(i::text), 20) FROM generate_series(1, 5000) i",
            &format!("ALTER TABLE app.t OWNER TO {name}_app"),
            &format!("GRANT SELECT ON app.t TO \"{name} Réader\""),
            "ALTER TABLE app.t ENABLE ROW LEVEL SECURITY",
            "ALTER TABLE app.t FORCE ROW LEVEL SECURITY",
            "SELECT lo_from_bytea(0, decode(repeat('ab', 5000), 'hex'))",
        ],
    );
}

#[test]
fn a_private_server_is_made_filled_asked_and_thrown_away() {
    let server = server!();
    filled(&server, "privately");
    let place = ClusterPlace::new();
    let driver = driver(place.source(server.source("privately")));
    let taken = take(&driver, &[]);

    let member = into_scratch(&cx(), &driver, &taken).unwrap();
    assert!(member.place.starts_with("lb_"), "{}", member.place);
    let on_live = format!("SELECT count(*) FROM pg_database WHERE datname = '{}'", member.place);
    assert_eq!(server.sql("postgres", &[&on_live]), "0", "nothing is made on the live server");
    let [directory] = &place.holds()[..] else { panic!("{:?}", place.holds()) };
    assert_eq!(member.identity["cluster"], directory.display().to_string());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(directory).unwrap().permissions().mode() & 0o777,
        0o700,
        "nobody else gets to its socket"
    );
    assert!(!member.beside);
    let verified = verify(&driver, &member, &taken);
    assert_eq!((rules(&verified), verified.rows), (vec![], 5000));
    let ask = |sql: &str| driver.query(&cx(), Some(&member), &question(sql)).unwrap().concat();
    assert_eq!(
        ask("SELECT current_setting('listen_addresses'), current_setting('fsync')"),
        [Some("".into()), Some("off".into())]
    );
    assert_eq!(
        ask("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"),
        [Some("f".into())],
        "an archive is code"
    );
    driver.execute(&cx(), &member, &["UPDATE app.t SET b = 'changed' WHERE a = 7".into()]).unwrap();
    let verified = verify(&driver, &member, &taken);
    assert!(!verified.findings.is_empty(), "a changed row is found there too");
    assert_eq!(driver.member_identity(&cx(), &member).unwrap(), member.identity);

    driver.discard(&cx(), &member).unwrap();
    place.is_clean();
    driver.discard(&cx(), &member).unwrap();
    let error = driver.query(&cx(), Some(&member), &question("SELECT 1")).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(error.message.contains("is gone"), "{error}");
}

#[test]
fn a_failed_staging_leaves_no_server_and_one_that_was_cut_off_is_begun_anew() {
    let server = server!();
    filled(&server, "cut_off");
    let place = ClusterPlace::new();
    let driver = driver(place.source(server.source("cut_off")));
    let taken = take(&driver, &[]);
    for at in ["cluster's directory made", "cluster made", "cluster runs", "database created", "database filled"] {
        let error = into_scratch(&cx().ended_at(at), &driver, &taken).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Cancelled, "{at}: {error}");
        place.is_clean();
    }

    // An engine that died left it running, half filled or whole: the next attempt has one of its own, and nothing of the first is left.
    let id = crate::identifier::fresh();
    let first = cx();
    let stage = |cx: &StepContext| {
        driver
            .stage(cx, &taken.manifest, &taken.objects, &id, &scratch(&id), &StageOptions { jobs: 2, data_only: false })
            .unwrap()
    };
    let left = stage(&first);
    let again = stage(&StepContext { attempt: 2, ..first });
    assert_eq!(left.identity["cluster"], again.identity["cluster"]);
    assert_ne!(left.identity, again.identity, "another server");
    assert_eq!(place.holds().len(), 1);
    assert_eq!(rules(&verify(&driver, &again, &taken)), [""; 0]);
    // Nobody knows its identity: the id alone is enough.
    driver.clear(&cx(), &id).unwrap();
    place.is_clean();
}

/// Text with all that COPY escapes.
const TEXT: &str = "E'tab\\t nl\\n \\\\. ü ' || repeat(md5(i::text), 10)";

#[test]
fn large_tables_of_a_private_server_are_written_by_it_and_compared_the_same() {
    let server = server!();
    server.create("written");
    server.sql(
        "written",
        &[
            "CREATE SCHEMA \"S; x\"",
            "CREATE TABLE \"S; x\".\"läsge's\"(a int PRIMARY KEY, b text, c int GENERATED ALWAYS AS (a * 2) STORED)",
            &format!("INSERT INTO \"S; x\".\"läsge's\"(a, b) SELECT i, {TEXT} FROM generate_series(1, 20000) i"),
            "CREATE TABLE values_of_their_own(a text)",
            "INSERT INTO values_of_their_own SELECT string_agg(md5((i * 1000 + j)::text), '') FROM generate_series(1, 3) i, \
             generate_series(1, 100000) j GROUP BY i",
            "CREATE TABLE small AS SELECT 1 AS a",
        ],
    );
    let place = ClusterPlace::new();
    let driver = driver(place.source(server.source("written")));
    let taken = take(&driver, &[]);
    let member = into_scratch(&cx(), &driver, &taken).unwrap();
    // How many tables the server writes.
    let written = || {
        let count = Arc::new(Mutex::new(0));
        let counted = count.clone();
        let waypoint: crate::context::Waypoint =
            Arc::new(move |place| *counted.lock().unwrap() += u32::from(place == "server writes rows"));
        let cx = StepContext { waypoint, ..cx() };
        let verified = driver.verify(&cx, &member, &taken.manifest, &taken.objects, &[]).unwrap();
        assert_eq!((rules(&verified), verified.rows), (vec![], 20_004));
        *count.lock().unwrap()
    };
    assert_eq!(written(), 2);
    let pipes = || {
        let names = std::fs::read_dir(&member.identity["cluster"]).unwrap();
        names.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("rows-")).count()
    };
    assert_eq!(pipes(), 0);

    // Every kind of difference is found there too.
    let execute = |statement: &str| driver.execute(&cx(), &member, &[statement.into()]).unwrap();
    execute("UPDATE \"S; x\".\"läsge's\" SET b = b || '!' WHERE a = 7");
    let verified = verify(&driver, &member, &taken);
    assert_eq!(rules(&verified), ["content-hash"]);
    execute("DELETE FROM \"S; x\".\"läsge's\" WHERE a = 7");
    execute("ALTER TABLE values_of_their_own RENAME a TO b");
    let verified = verify(&driver, &member, &taken);
    assert!(["row-count", "table-columns"].iter().all(|rule| rules(&verified).contains(rule)), "{verified:?}");
    execute("ALTER TABLE values_of_their_own RENAME b TO a");

    // Cut off in the middle: nothing goes on, and nothing waits for the other end of a pipe.
    let error = driver.verify(&cx().ended_at("server writes rows"), &member, &taken.manifest, &taken.objects, &[]);
    assert_eq!(error.unwrap_err().kind, ErrorKind::Cancelled);
    let others = || {
        let admin = PostgresSource { user: "lifeboat_cluster".into(), ..elsewhere::of(&driver.binding, &member) };
        let cx = cx();
        let tools = Tools::new(&cx, &admin).unwrap();
        let sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'lifeboat/%' AND pid <> pg_backend_pid()";
        tools.value("postgres", sessions).unwrap().unwrap()
    };
    assert!(crate::child::wait_until(&cx(), Duration::from_secs(20), || others() == "0"), "{} go on", others());

    // Where it has no pipe, they are asked for.
    execute(&format!("INSERT INTO \"S; x\".\"läsge's\"(a, b) SELECT 7, {}", TEXT.replace("i::text", "'7'")));
    let allow = |mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(&member.identity["cluster"], mode).unwrap();
    };
    allow(0o500);
    assert_eq!(written(), 0);
    allow(0o700);
    assert_eq!(written(), 2);
    driver.discard(&cx(), &member).unwrap();
    place.is_clean();
}

/// Gives its archive, or an error, once a private server answers.
struct OnceItAnswers<'a> {
    objects: &'a Memory,
    place: &'a ClusterPlace,
    fails: bool,
}

impl ObjectSource for OnceItAnswers<'_> {
    fn spool_through(&self, cx: &StepContext, entry: &ObjectEntry, write: &mut SpoolWrite<'_>) -> Result<SpooledFile> {
        let answers = || self.place.holds().iter().any(|directory| super::super::cluster::answers(directory));
        assert!(!answers(), "the archive is not fetched after the server was made");
        assert!(crate::child::wait_until(cx, Duration::from_secs(60), answers), "nor before");
        if self.fails {
            return Err(crate::Error::failed("the store is gone"));
        }
        self.objects.spool_through(cx, entry, write)
    }
    fn stream(&self, cx: &StepContext, entry: &ObjectEntry) -> Result<Box<dyn Read + Send>> {
        self.objects.stream(cx, entry)
    }
    fn private_file(&self, cx: &StepContext) -> Result<tempfile::NamedTempFile> {
        self.objects.private_file(cx)
    }
}

#[test]
fn a_private_server_is_made_while_the_archive_is_fetched() {
    let server = server!();
    filled(&server, "meanwhile");
    let place = ClusterPlace::new();
    let driver = driver(place.source(server.source("meanwhile")));
    let mut taken = take(&driver, &[]);
    let stage = |taken: &Taken, fails| {
        let (id, objects) =
            (crate::identifier::fresh(), OnceItAnswers { objects: &taken.objects, place: &place, fails });
        driver.stage(&cx(), &taken.manifest, &objects, &id, &scratch(&id), &StageOptions::default())
    };
    let member = stage(&taken, false).unwrap();
    assert_eq!(verify(&driver, &member, &taken).findings, []);
    driver.discard(&cx(), &member).unwrap();
    place.is_clean();
    // One of the two fails: nothing is left of the other.
    let error = stage(&taken, true).unwrap_err();
    assert_eq!(error.message, "the store is gone");
    place.is_clean();
    let SourceFacts::Postgres(facts) = &mut taken.manifest.facts else { panic!("facts of PostgreSQL") };
    facts.roles.push("pg_reserved".into());
    let error = stage(&taken, false).unwrap_err();
    assert!(error.message.contains("pg_reserved"), "{error}");
    place.is_clean();
}

/// An archive that never ends, as one that takes hours to fetch.
struct Endless(std::time::Instant);

impl ObjectSource for Endless {
    fn spool_through(&self, _: &StepContext, _: &ObjectEntry, write: &mut SpoolWrite<'_>) -> Result<SpooledFile> {
        while self.0.elapsed() < Duration::from_secs(60) {
            write(b"", &mut std::io::sink())?;
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("nobody stops it");
    }
    fn stream(&self, _: &StepContext, _: &ObjectEntry) -> Result<Box<dyn Read + Send>> {
        panic!("not asked for");
    }
    fn private_file(&self, _: &StepContext) -> Result<tempfile::NamedTempFile> {
        panic!("not asked for");
    }
}

#[test]
fn an_archive_is_not_fetched_to_its_end_for_a_server_that_can_not_be_made() {
    let server = server!();
    filled(&server, "endless");
    let place = ClusterPlace::new();
    let taken = take(&driver(server.source("endless")), &[]);
    let nothing = tempfile::tempdir().unwrap();
    let binding = ScratchCluster { bin_dir: Some(nothing.path().to_owned()), ..place.binding() };
    let driver =
        driver(PostgresSource { scratch: Some(ScratchPostgres::Cluster(binding)), ..server.source("endless") });
    let id = crate::identifier::fresh();
    let objects = Endless(std::time::Instant::now());
    let error =
        driver.stage(&cx(), &taken.manifest, &objects, &id, &scratch(&id), &StageOptions::default()).unwrap_err();
    assert!(error.message.contains("initdb"), "{error}");
    place.is_clean();
}

#[test]
fn data_alone_are_not_restored_where_their_structure_is_not() {
    let server = server!();
    server.create("alone");
    server.sql("alone", &["CREATE TABLE t AS SELECT 1 AS a"]);
    let place = ClusterPlace::new();
    let driver = driver(place.source(server.source("alone")));
    let taken = take(&driver, &[]);
    let id = crate::identifier::fresh();
    let options = StageOptions { jobs: 2, data_only: true };
    let error = driver.stage(&cx(), &taken.manifest, &taken.objects, &id, &scratch(&id), &options).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    place.is_clean();
}

#[test]
fn a_server_that_somebody_ended_is_said_to_be_gone_and_its_place_is_cleared() {
    let server = server!();
    filled(&server, "ended");
    let place = ClusterPlace::new();
    let driver = driver(place.source(server.source("ended")));
    let taken = take(&driver, &[]);
    let member = into_scratch(&cx(), &driver, &taken).unwrap();
    crate::leftovers::end("LIFEBOAT_CLUSTER", |of| of == member.identity["cluster"]).unwrap();
    let error = driver.verify(&cx(), &member, &taken.manifest, &taken.objects, &[]).unwrap_err();
    assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
    assert!(error.message.contains("is gone"), "{error}");

    // After a restart of the machine, its number may be another process's of the same user: the live server's, say. It is left alone.
    let prefix = place.binding().prefix;
    let words = prefix.iter().map(String::as_str).chain(["env", "--default-signal=QUIT", "sleep", "600"]);
    let words: Vec<&str> = words.collect();
    let mut bystander = std::process::Command::new(words[0]).args(&words[1..]).spawn().unwrap();
    let file = PathBuf::from(&member.identity["cluster"]).join("data/postmaster.pid");
    let text = std::fs::read_to_string(&file).unwrap();
    let (_, rest) = text.split_once('\n').unwrap();
    std::fs::write(&file, format!("{}\n{rest}", bystander.id())).unwrap();
    // Also by an environment that has no private servers any more.
    super::driver(server.source("ended")).discard(&cx(), &member).unwrap();
    place.is_clean();
    assert!(bystander.try_wait().unwrap().is_none(), "a stranger was signalled");
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn what_a_private_server_lacks_is_said_before_anything_is_made() {
    let server = server!();
    filled(&server, "lacking");
    let place = ClusterPlace::new();
    let taken = take(&driver(server.source("lacking")), &[]);
    let with = |change: &dyn Fn(&mut ScratchCluster)| {
        let mut binding = place.binding();
        change(&mut binding);
        driver(PostgresSource { scratch: Some(ScratchPostgres::Cluster(binding)), ..server.source("lacking") })
    };
    let empty = tempfile::tempdir().unwrap();
    let wrong_user = |b: &mut ScratchCluster| {
        b.prefix = if b.prefix.is_empty() { vec!["setpriv".into()] } else { Vec::new() };
    };
    type Change<'a> = &'a dyn Fn(&mut ScratchCluster);
    let cases: [(Change<'_>, ErrorKind, &str); 3] = [
        (&|b| b.directory = "/nowhere/at/all".into(), ErrorKind::NotFound, "there is no directory /nowhere/at/all"),
        (
            &|b| b.bin_dir = Some(empty.path().to_owned()),
            if place.binding().prefix.is_empty() { ErrorKind::NotFound } else { ErrorKind::Failed },
            "initdb",
        ),
        (&wrong_user, ErrorKind::Invalid, "private server"),
    ];
    for (change, kind, part) in cases {
        let driver = with(change);
        let error = into_scratch(&cx(), &driver, &taken).unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        assert!(error.message.contains(part), "{error}");
        assert!(driver.look(&cx(), Aspect::Drill, &|| 0).is_err(), "and a look would have said so: {part}");
        place.is_clean();
    }
    let seen = with(&|_| {}).look(&cx(), Aspect::Drill, &|| 0).unwrap();
    assert_eq!(seen.level, Level::Ok, "{seen:?}");

    // A server that does not come up says why, in its own words.
    let bin = tempfile::tempdir().unwrap();
    for name in ["psql", "pg_restore", "initdb", "postgres"] {
        std::os::unix::fs::symlink(server.bin_dir.join(name), bin.path().join(name)).unwrap();
    }
    let real = server.bin_dir.display();
    write_program(
        &bin.path().join("pg_ctl"),
        &format!(
            "#!/bin/sh\ncase \"$*\" in *' start') exec {real}/pg_ctl \"$@\" -o '-c shared_buffers=nonsense' ;; esac\nexec {real}/pg_ctl \"$@\"\n"
        ),
    );
    std::fs::set_permissions(bin.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let error = into_scratch(&cx(), &with(&|b| b.bin_dir = Some(bin.path().to_owned())), &taken).unwrap_err();
    assert!(error.message.contains("invalid value for parameter \"shared_buffers\""), "{error}");
    place.is_clean();
}

#[test]
fn what_takes_a_superuser_is_refused_until_it_is_allowed() {
    let server = server!();
    server.create("needing");
    server.sql("needing", &["CREATE TABLE t(a int)", "INSERT INTO t VALUES (1)", "CREATE EXTENSION amcheck"]);
    let place = ClusterPlace::new();
    let taken = take(&driver(server.source("needing")), &[]);
    let error = into_scratch(&cx(), &driver(place.source(server.source("needing"))), &taken).unwrap_err();
    assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("superuser = true")), "{error}");
    place.is_clean();
    let binding = ScratchCluster { superuser: true, ..place.binding() };
    let driver =
        driver(PostgresSource { scratch: Some(ScratchPostgres::Cluster(binding)), ..server.source("needing") });
    let member = into_scratch(&cx(), &driver, &taken).unwrap();
    assert_eq!(rules(&verify(&driver, &member, &taken)), [""; 0]);
    driver.discard(&cx(), &member).unwrap();
    place.is_clean();
}

#[test]
fn another_server_takes_scratch_candidates_and_the_live_one_none() {
    let server = server!();
    filled(&server, "moved_away");
    let Some(other) = PgServer::start() else { return };
    let scratch = ScratchServer {
        host: other.host.clone(),
        port: other.port,
        user: "postgres".into(),
        password: None,
        maintenance_database: "postgres".into(),
        ssl_mode: None,
        ssl_root_cert: None,
        bin_dir: Some(other.bin_dir.clone()),
        prefix: Vec::new(),
    };
    let driver =
        driver(PostgresSource { scratch: Some(ScratchPostgres::Server(scratch)), ..server.source("moved_away") });
    let taken = take(&driver, &[]);
    let made = || other.sql("postgres", &["SELECT count(*) FROM pg_database WHERE datname LIKE 'lb\\_%'"]);
    // Roles are the server's: their absence is said, and not hidden by making them.
    let error = into_scratch(&cx(), &driver, &taken).unwrap_err();
    assert!(error.message.contains("lacks roles") && error.message.contains("moved_away_app"), "{error}");
    assert_eq!(made(), "0");
    // The backup has them, as a person needs them. Tablespaces need directories there, which is for that person to decide.
    assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("backups globals")), "{error}");
    let globals = String::from_utf8(taken.objects.of_role("globals").unwrap()).unwrap();
    let roles: Vec<&str> = globals.lines().filter(|l| l.contains(" ROLE ") && l.contains("moved_away")).collect();
    assert!(roles.len() >= 4, "{globals}");
    assert!(!globals.contains("PASSWORD"), "{globals}");
    other.sql("postgres", &roles);
    assert_eq!(driver.look(&cx(), Aspect::Drill, &|| 0).unwrap().level, Level::Ok);
    let member = into_scratch(&cx(), &driver, &taken).unwrap();
    assert_eq!(made(), "1");
    let live =
        server.sql("postgres", &[&format!("SELECT count(*) FROM pg_database WHERE datname = '{}'", member.place)]);
    assert_eq!(live, "0");
    assert_eq!(rules(&verify(&driver, &member, &taken)), [""; 0]);
    // The same name on the live server is another database, and is left alone.
    server.sql("postgres", &[&format!("CREATE DATABASE {}", member.place)]);
    driver.discard(&cx(), &member).unwrap();
    assert_eq!(made(), "0");
    let live =
        server.sql("postgres", &[&format!("SELECT count(*) FROM pg_database WHERE datname = '{}'", member.place)]);
    assert_eq!(live, "1");
    server.sql("postgres", &[&format!("DROP DATABASE {}", member.place)]);
    // A candidate that lies where the configuration of now does not look is not taken for removed.
    let member = into_scratch(&cx(), &driver, &taken).unwrap();
    let error = super::driver(server.source("moved_away")).discard(&cx(), &member).unwrap_err();
    assert!(error.kind == ErrorKind::Refused && error.message.contains("another server"), "{error}");
    driver.discard(&cx(), &member).unwrap();
    // What is to be promoted lies next to what it replaces.
    let beside = stage(&driver, &taken).unwrap();
    assert_eq!(made(), "0");
    driver.discard(&cx(), &beside).unwrap();
}
