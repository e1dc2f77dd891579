//! A private Azure Blob Storage: Azurite on a port of its own, with one container, gone when it is dropped.
//!
//! The program comes from the folder that `LIFEBOAT_AZURITE` names, else from `target/azurite`, where `cargo xtask setup` puts it.

use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;

use crate::bindings::{AzureCredentials, AzureStore, Identities, Right, Secret};

/// What a signature lets each right do: a block list needs `w` besides `c`; a list, `l`.
const WRITE: &str = "cw";
const READ: &str = "rl";
const DELETE: &str = "d";
const ACCOUNT: &str = "lifeboattests";
const CONTAINER: &str = "backups";
/// How long it may take to come up.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server with one empty container.
pub struct Azurite {
    child: Child,
    port: u16,
    key: String,
    directory: tempfile::TempDir,
}

impl Azurite {
    /// Starts one; none, with a loud line on stderr, where there is no Azurite.
    pub fn start() -> Option<Self> {
        let Some((node, program)) = program() else {
            eprintln!(
                "SKIPPED: no Azurite in target/azurite; `cargo xtask setup`, or set LIFEBOAT_AZURITE. Nothing was tested."
            );
            return None;
        };
        let directory = tempfile::Builder::new().prefix("lb-azurite-").tempdir().expect("a directory for the server");
        // Bound and let go: nobody else is given this port for a while.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let log = std::fs::File::create(directory.path().join("log")).expect("its log");
        // Random enough for an account that ends with the test.
        let key = base64::engine::general_purpose::STANDARD.encode(format!("{:?}", std::time::SystemTime::now()));
        let child = Command::new(node)
            .arg(program)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string(), "--inMemoryPersistence"])
            .args(["--skipApiVersionCheck", "--disableTelemetry"])
            .env("AZURITE_ACCOUNTS", format!("{ACCOUNT}:{key}"))
            .current_dir(directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("its log"))
            .stderr(log)
            .spawn()
            .expect("Azurite starts");
        let mut azurite = Self { child, port, key, directory };
        let end = Instant::now() + START_LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(azurite.child.try_wait().expect("its state").is_none(), "Azurite ended: {}", azurite.log());
            assert!(Instant::now() < end, "Azurite does not come up: {}", azurite.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        azurite.make_container();
        Some(azurite)
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Its port on this machine.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The container as a store of these identities, asked for at this port.
    pub fn store(&self, port: u16, identity: Identities<AzureCredentials>) -> AzureStore {
        AzureStore {
            account: ACCOUNT.into(),
            container: CONTAINER.into(),
            prefix: "some/prefix".into(),
            endpoint: Some(format!("http://127.0.0.1:{port}/{ACCOUNT}")),
            ca_file: None,
            credentials: None,
            identity,
            bytes_per_s_max: None,
            parts_at_once: 4,
            timeout_s: 20,
        }
    }

    /// The container as a store of the account's key, which may do everything.
    pub fn open_store(&self) -> AzureStore {
        let credentials = AzureCredentials { account_key: self.held("key", &self.key), ..AzureCredentials::default() };
        AzureStore { credentials: Some(credentials), ..self.store(self.port, Identities::default()) }
    }

    /// Identities with a shared access signature each, for these rights.
    pub fn identities(&self, rights: &[Right]) -> Identities<AzureCredentials> {
        let has = |right: Right, permissions| {
            rights.contains(&right).then(|| AzureCredentials {
                sas_token: self.held(right.word(), &self.sas(permissions)),
                ..AzureCredentials::default()
            })
        };
        Identities { write: has(Right::Write, WRITE), read: has(Right::Read, READ), delete: has(Right::Delete, DELETE) }
    }

    /// A secret in a file.
    fn held(&self, name: &str, text: &str) -> Option<Secret> {
        let file = self.directory.path().join(format!("{name}.secret"));
        std::fs::write(&file, text).expect("a secret's file");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("our own file");
        Some(Secret { file: Some(file), ..Secret::default() })
    }

    fn signed(&self, text: &str) -> String {
        let base64 = base64::engine::general_purpose::STANDARD;
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &base64.decode(&self.key).expect("our own key"));
        base64.encode(ring::hmac::sign(&key, text.as_bytes()))
    }

    /// A signature for the container, as Azure describes it for version 2020-12-06: an empty line for what is not limited.
    fn sas(&self, permissions: &str) -> String {
        let (version, expires) = ("2020-12-06", "2099-01-01T00:00:00Z");
        let text = format!("{permissions}\n\n{expires}\n/blob/{ACCOUNT}/{CONTAINER}\n\n\n\n{version}\nc\n\n\n\n\n\n\n");
        let signature: String = url::form_urlencoded::byte_serialize(self.signed(&text).as_bytes()).collect();
        format!("sv={version}&se={expires}&sr=c&sp={permissions}&sig={signature}").replace(':', "%3A")
    }

    /// Makes the container, signed by the account's key.
    fn make_container(&self) {
        use std::io::{Read, Write};
        let version = "2020-12-06";
        let date = "Thu, 01 Jan 2026 00:00:00 GMT";
        let text = format!(
            "PUT\n\n\n\n\n\n\n\n\n\n\n\nx-ms-date:{date}\nx-ms-version:{version}\n/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container"
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("Azurite is there");
        write!(
            stream,
            "PUT /{ACCOUNT}/{CONTAINER}?restype=container HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nx-ms-date: {date}\r\n\
             x-ms-version: {version}\r\nAuthorization: SharedKey {ACCOUNT}:{}\r\nContent-Length: 0\r\n\r\n",
            self.port,
            self.signed(&text)
        )
        .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Node, and Azurite's own script.
fn program() -> Option<(PathBuf, PathBuf)> {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/azurite");
    let folder = std::env::var_os("LIFEBOAT_AZURITE").map_or_else(usual, PathBuf::from);
    let script = folder.join("node_modules/azurite/dist/src/blob/main.js");
    script.is_file().then(|| (folder.join("node"), script))
}
