//! A site: a folder with a configuration, stores, policies and a live service, and the command line to work on it.

pub mod disk;
pub mod guests;
pub mod http;
pub mod kneo;
pub mod registry;
mod warm;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// A folder laid out for one test, gone afterwards; what it started is stopped.
pub struct Site {
    root: TempDir,
    /// The live service's port.
    pub port: u16,
    serve: Option<Child>,
    /// Compiles its modules itself.
    cold: bool,
}

/// How a command came out.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit code.
    pub code: i32,
    /// What it said to programs.
    pub stdout: String,
    /// What it said to people.
    pub stderr: String,
}

impl Outcome {
    /// Of a program that has ended.
    pub fn of(out: std::process::Output) -> Self {
        Self {
            code: out.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
        }
    }

    /// The JSON document on stdout.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}\n{}", self.stdout, self.stderr))
    }

    /// Fails the test unless the command ended with this code.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Everything it said.
    pub fn said(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

/// A path that the set-up has put into a variable, or its usual place below `target/debug`.
fn from_setup(variable: &str, usual: &str) -> PathBuf {
    let path = std::env::var_os(variable)
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target").join(usual), PathBuf::from);
    assert!(path.exists(), "{} is not there: run the tests with `cargo xtask test`", path.display());
    path
}

/// The command line.
pub fn lifeboat() -> PathBuf {
    from_setup("LIFEBOAT_BIN", "debug/lifeboat")
}

/// The command line that was built with the feature `oci`.
pub fn lifeboat_oci() -> PathBuf {
    from_setup("LIFEBOAT_OCI_BIN", "debug/examples/lifeboat-oci")
}

/// A packed policy.
pub fn policy(name: &str) -> PathBuf {
    from_setup("LIFEBOAT_POLICIES", "policies").join(format!("{name}.wasm"))
}

/// A free TCP port of this machine, below those that the kernel gives to whoever asks for any: a service that is started a moment later, or
/// again, finds it free.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    // Other processes of tests begin elsewhere.
    let first = u16::try_from(std::process::id() % 100).unwrap() * 100;
    loop {
        let port = 20_000 + (first + TAKEN.fetch_add(1, Ordering::Relaxed)) % 12_000;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Site {
    /// An empty site.
    pub fn empty() -> Self {
        Self { root: tempfile::tempdir().unwrap(), port: free_port(), serve: None, cold: false }
    }

    /// The same, with nothing that was compiled for another site.
    pub fn cold(mut self) -> Self {
        self.cold = true;
        self
    }

    /// Before something makes its state: what others have compiled.
    fn warm(&self) {
        if !self.cold {
            warm::fill(&self.path(".lifeboat"));
        }
    }

    /// The example service `notes`, version 1.0.0 installed, as `examples/notes/lifeboat.toml` has it; not started.
    pub fn notes() -> Self {
        let site = Self::empty();
        for folder in ["backups", "offsite", "live/attachments", "policies", "versions/1.0.0@by-hand"] {
            fs::create_dir_all(site.path(folder)).unwrap();
        }
        let binaries = from_setup("LIFEBOAT_NOTES_BIN_DIR", "debug");
        for (version, binary) in [("1.0.0", "notes-1"), ("2.0.0", "notes-2")] {
            fs::create_dir_all(site.path("releases").join(version)).unwrap();
            fs::copy(binaries.join(binary), site.path("releases").join(version).join("notes")).unwrap();
        }
        fs::copy(binaries.join("notes-1"), site.path("versions/1.0.0@by-hand/notes")).unwrap();
        std::os::unix::fs::symlink("1.0.0@by-hand", site.path("versions/current")).unwrap();
        for name in ["backup", "drill", "upgrade", "rollback", "restore", "cadence"] {
            fs::copy(policy(name), site.path("policies").join(format!("{name}.wasm"))).unwrap();
        }
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/notes/lifeboat.toml");
        let text = fs::read_to_string(example).unwrap().replace("18080", &site.port.to_string());
        site.write("lifeboat.toml", &text);
        site
    }

    /// A copy of a site on which nothing runs, on a port of its own. What is large is never changed in place, and shared.
    pub fn copy_of(template: &Self) -> Self {
        let site = Self::empty();
        copy(template.root.path(), site.root.path());
        // What was started there was not started here: a start that is waited for has to be this site's.
        let _ = fs::remove_file(site.path("serve.log"));
        site.configure(&[(&template.port.to_string(), &site.port.to_string())]);
        site
    }

    /// Ends `lifeboat serve`, and with it the services.
    pub fn stop_serving(&mut self) {
        let mut serve = self.serve.take().expect("it was started");
        assert!(Command::new("kill").arg(serve.id().to_string()).status().unwrap().success());
        serve.wait().unwrap();
        // So that the next one is waited for, and not taken for this one.
        let _ = fs::remove_file(self.path(".lifeboat/serve.sock"));
    }

    /// Sends a signal to `lifeboat serve`, `-HUP`.
    pub fn signal_serve(&self, signal: &str) {
        let serve = self.serve.as_ref().expect("it was started").id().to_string();
        assert!(Command::new("kill").args([signal, &serve]).status().unwrap().success());
    }

    /// Kills it; the services that are its children live on.
    pub fn kill_serve(&mut self) {
        let mut serve = self.serve.take().expect("it was started");
        serve.kill().unwrap();
        serve.wait().unwrap();
    }

    /// Waits until it has ended by itself; its exit code.
    pub fn serve_ended(&mut self) -> Option<i32> {
        self.serve.take().expect("it was started").wait().unwrap().code()
    }

    /// What it has said.
    pub fn serve_log(&self) -> String {
        fs::read_to_string(self.path("serve.log")).unwrap_or_default()
    }

    /// A path below the site.
    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.root.path().join(relative)
    }

    /// Writes a file of the site.
    pub fn write(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Changes the configuration; every replacement must hit something.
    #[track_caller]
    pub fn configure(&self, replacements: &[(&str, &str)]) {
        let mut text = fs::read_to_string(self.path("lifeboat.toml")).unwrap();
        for (from, to) in replacements {
            assert!(text.contains(from), "the configuration has no {from:?}");
            text = text.replace(from, to);
        }
        self.write("lifeboat.toml", &text);
    }

    /// Adds to the configuration.
    pub fn append(&self, text: &str) {
        let before = fs::read_to_string(self.path("lifeboat.toml")).unwrap();
        self.write("lifeboat.toml", &format!("{before}\n{text}"));
    }

    /// Starts `lifeboat serve` with these services, and nothing that starts by itself.
    pub fn serve(&mut self, services: &[&str]) {
        let command = self.command(&["serve", "--no-schedule"]);
        self.serve_as(command, services);
    }

    /// The same, with the cadences.
    pub fn serve_on_schedule(&mut self, services: &[&str]) {
        let command = self.command(&["serve"]);
        self.serve_as(command, services);
    }

    /// The same, as a command that was made.
    pub fn serve_as(&mut self, mut command: Command, services: &[&str]) {
        for service in services {
            command.args(["--start", service]);
        }
        // One that was killed has left it.
        let _ = fs::remove_file(self.path(".lifeboat/serve.sock"));
        let log = fs::File::options().create(true).append(true).open(self.path("serve.log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        let child = self.serve.insert(child);
        let root = self.root.path();
        wait_until("lifeboat serve listens", || root.join(".lifeboat/serve.sock").exists());
        // It says so when a start is over; one that fails ends it.
        for service in services {
            let said = [format!("serve: {service} started"), format!("{service} is NOT started")];
            wait_until("the service was started, or could not be", || {
                fs::read_to_string(root.join("serve.log")).is_ok_and(|log| said.iter().any(|said| log.contains(said)))
                    || child.try_wait().unwrap().is_some()
            });
        }
    }

    /// Starts `lifeboat serve` with `notes`, and waits until it is ready.
    pub fn serve_notes(&mut self) {
        self.serve(&["notes"]);
        wait_until("notes is ready", || self.http("GET", "/readyz", None).is_some_and(|a| a.status == 200));
    }

    /// A command of the command line, to be changed before it is run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_of(&lifeboat(), arguments)
    }

    /// The same of the command line that was built in another way.
    pub fn command_of(&self, lifeboat: &Path, arguments: &[&str]) -> Command {
        // Verbs that only look must find no state where there is none.
        if arguments.iter().any(|word| ["run", "serve"].contains(word)) {
            self.warm();
        }
        let mut command = Command::new(lifeboat);
        command.args(arguments).current_dir(self.root.path()).env_remove("LIFEBOAT_CONFIG");
        command
    }

    /// Runs a verb with no terminal.
    pub fn lifeboat(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.command(arguments).stdin(Stdio::null()).output().unwrap())
    }

    /// Runs a policy with `--json`.
    pub fn run(&self, policy: &str, words: &[&str]) -> Outcome {
        self.lifeboat(&[&["--json", "run", policy], words].concat())
    }

    /// Asks the live service.
    pub fn http(&self, method: &str, path: &str, body: Option<&Value>) -> Option<http::Answer> {
        http::ask(self.port, method, path, body)
    }

    /// The findings of a policy's outcome as text, to look words up in.
    pub fn evidence(&self, outcome: &Outcome, file: &str) -> Value {
        let run = outcome.json()["run"].as_str().unwrap().to_owned();
        let path = self.path(".lifeboat/evidence").join(run).join(file);
        serde_json::from_str(&fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))).unwrap()
    }

    /// The stored data object of a source of the newest backup in a store's directory.
    pub fn object(&self, store: &str, source: &str) -> PathBuf {
        let mut found = Vec::new();
        walk(&self.path(store), &mut found);
        let wanted = format!("/{source}.data.");
        found.retain(|p| p.to_string_lossy().contains(&wanted));
        found.sort();
        found.pop().unwrap_or_else(|| panic!("no data object of {source} in {store}"))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(mut serve) = self.serve.take() {
            // It stops its children first.
            let _ = Command::new("kill").arg(serve.id().to_string()).status();
            let _ = serve.wait();
        }
        if !self.cold {
            warm::keep(&self.path(".lifeboat"));
        }
    }
}

/// Files above this size are shared between copies of a site: binaries, modules.
const SHARED_BYTES_MIN: u64 = 100_000;

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else if kind.is_dir() {
            fs::create_dir(&target).unwrap();
            fs::set_permissions(&target, entry.metadata().unwrap().permissions()).unwrap();
            copy(&entry.path(), &target);
        } else if entry.metadata().unwrap().len() >= SHARED_BYTES_MIN {
            fs::hard_link(entry.path(), target).unwrap();
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Every file below a folder.
pub fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { walk(&path, found) } else { found.push(path) }
    }
}

/// Waits until something is so; fails the test after a generous while.
#[track_caller]
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
