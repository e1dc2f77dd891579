//! A private S3 with access control: its own port, its own buckets and users, gone when it is dropped.
//!
//! The programs come from the folder that `LIFEBOAT_MOTO` names, else from `target/moto`, where `cargo xtask setup` puts them.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::bindings::{Credentials, Identities, S3Store, Secret};

/// Policies of a user who may only put, read, or remove; each as small as S3 allows it.
const WRITE: &[&str] = &["s3:PutObject", "s3:AbortMultipartUpload"];
const READ: &[&str] = &["s3:GetObject", "s3:ListBucket"];
const DELETE: &[&str] = &["s3:DeleteObject"];
/// Its name in every one of these servers.
const BUCKET: &str = "backups";
/// Starts it with two corrections, both to what Amazon does. What is signed is the query encoded anew; moto takes it as it was sent, where a `/`
/// may stand as itself. And whether an object is there (`If-None-Match`) is decided in one piece with putting it; moto, a thread a request,
/// looks first and puts later, so that now and then two of eight writers are told that they created it.
const SERVER: &str = "
import sys, threading
from urllib.parse import parse_qsl, quote
from botocore.auth import SigV4Auth
def encoded(self, parts):
    pairs = sorted((quote(k, safe='-_.~'), quote(v, safe='-_.~')) for k, v in parse_qsl(parts.query, keep_blank_values=True))
    return '&'.join(f'{k}={v}' for k, v in pairs)
SigV4Auth._canonical_query_string_url = encoded
from moto.s3.responses import S3Response
one_at_a_time = threading.RLock()
def in_one_piece(name):
    inner = getattr(S3Response, name)
    def outer(self, *args, **named):
        with one_at_a_time:
            return inner(self, *args, **named)
    setattr(S3Response, name, outer)
in_one_piece('put_object')
in_one_piece('_key_response_post')
from moto.server import main
main(sys.argv[1:])
";
/// How long it may take to come up: Python imports a lot.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running server with one empty bucket.
pub struct Moto {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

/// A user's access key.
#[derive(Debug, Clone)]
pub struct Key {
    /// Its id.
    pub id: String,
    /// The key itself.
    pub secret: String,
}

impl Moto {
    /// Starts one where anybody may do anything; none, with a loud line on stderr, where there is no moto.
    pub fn start() -> Option<Self> {
        Self::start_with(None)
    }

    /// Starts one that looks at who asks, with a user for each right, whose secrets lie in files; and who they are.
    pub fn guarded() -> Option<(Self, Identities)> {
        // Bucket, and three users with a policy and a key each: after these nobody is let in without a key.
        let moto = Self::start_with(Some(1 + 3 * 3))?;
        let write = moto.user("writer", WRITE);
        let read = moto.user("reader", READ);
        let delete = moto.user("remover", DELETE);
        let held = |name: &str, key: &Key| Some(moto.credentials(name, key));
        let identities =
            Identities { write: held("write", &write), read: held("read", &read), delete: held("delete", &delete) };
        Some((moto, identities))
    }

    fn start_with(free_requests: Option<u32>) -> Option<Self> {
        let Some(program) = program() else {
            eprintln!(
                "SKIPPED: no moto in target/moto; `cargo xtask setup`, or set LIFEBOAT_MOTO. Nothing was tested."
            );
            return None;
        };
        let directory = tempfile::Builder::new().prefix("lb-moto-").tempdir().expect("a directory for the server");
        // Bound and let go: nobody else is given this port for a while.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let log = std::fs::File::create(directory.path().join("log")).expect("its log");
        let mut command = Command::new(program);
        command.args(["-c", SERVER, "-H", "127.0.0.1", "-p", &port.to_string()]).stdin(Stdio::null());
        command.stdout(Stdio::null()).stderr(log).env("TMPDIR", directory.path()).current_dir(directory.path());
        if let Some(free) = free_requests {
            command.env("INITIAL_NO_AUTH_ACTION_COUNT", free.to_string());
        }
        let mut moto = Self { child: command.spawn().expect("moto starts"), port, directory };
        let end = Instant::now() + START_LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(moto.child.try_wait().expect("its state").is_none(), "moto ended: {}", moto.log());
            assert!(Instant::now() < end, "moto does not come up: {}", moto.log());
            std::thread::sleep(Duration::from_millis(50));
        }
        moto.ask("PUT", &format!("/{BUCKET}"), "s3", "");
        Some(moto)
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// Its base URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port on this machine.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The bucket as a store of these identities.
    pub fn store(&self, identity: Identities) -> S3Store {
        S3Store {
            bucket: BUCKET.into(),
            prefix: "some/prefix".into(),
            region: "us-east-1".into(),
            endpoint: Some(self.endpoint()),
            path_style: true,
            ca_file: None,
            storage_class: None,
            thaw: None,
            checksum: crate::bindings::Checksum::Crc32c,
            server_side_encryption: None,
            kms_key: None,
            expect: None,
            credentials: None,
            identity,
            bytes_per_s_max: None,
            parts_at_once: 4,
            timeout_s: 20,
        }
    }

    /// The bucket as a store that one key may do everything in, where nobody looks at keys.
    pub fn open_store(&self) -> S3Store {
        let key = Key { id: "anybody".into(), secret: "anything".into() };
        S3Store { credentials: Some(self.credentials("anybody", &key)), ..self.store(Identities::default()) }
    }

    /// Sets something of the bucket itself, where nobody looks at keys.
    pub fn set(&self, what: &str, text: &str) {
        self.ask("PUT", &format!("/{BUCKET}?{what}"), "s3", text);
    }

    /// From now on, archived objects that are asked for can be read only after they were looked at so often.
    pub fn thaws_slowly(&self, looks: u32) {
        let transition = serde_json::json!({"model_name": "s3::keyrestore", "transition": {"progression": "manual", "times": looks}});
        self.ask("POST", "/moto-api/state-manager/set-transition", "s3", &transition.to_string());
    }

    /// A key in two files.
    pub fn credentials(&self, name: &str, key: &Key) -> Credentials {
        let file = |what: &str, text: &str| {
            let file = self.directory.path().join(format!("{name}.{what}"));
            std::fs::write(&file, text).expect("a secret's file");
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("our own file");
            Some(Secret { file: Some(file), ..Secret::default() })
        };
        Credentials {
            access_key_id: file("id", &key.id),
            secret_access_key: file("key", &key.secret),
            ..Credentials::default()
        }
    }

    /// A new user who may do this in the bucket, and a key.
    fn user(&self, name: &str, actions: &[&str]) -> Key {
        let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow", "Action": actions,
            "Resource": [format!("arn:aws:s3:::{BUCKET}"), format!("arn:aws:s3:::{BUCKET}/*")],
        }]});
        let policy =
            percent_encoding::utf8_percent_encode(&policy.to_string(), percent_encoding::NON_ALPHANUMERIC).to_string();
        let iam = |query: String| self.ask("POST", "/", "iam", &format!("Version=2010-05-08&UserName={name}&{query}"));
        iam("Action=CreateUser".into());
        iam(format!("Action=PutUserPolicy&PolicyName=only&PolicyDocument={policy}"));
        let answer = iam("Action=CreateAccessKey".into());
        let between = |tag: &str| {
            let after = answer.split_once(&format!("<{tag}>")).expect("a key").1;
            after.split_once('<').expect("a key").0.to_owned()
        };
        Key { id: between("AccessKeyId"), secret: between("SecretAccessKey") }
    }

    /// One request of an administrator, whom nobody looks at yet; its answer.
    fn ask(&self, method: &str, path: &str, service: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("moto is there");
        // Which service is meant shows in what the request is signed for.
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/{service}/aws4_request, SignedHeaders=host, Signature=x\r\n\
             Content-Type: application/{}\r\nContent-Length: {}\r\n\r\n{body}",
            self.port,
            if body.starts_with('<') { "xml" } else { "x-www-form-urlencoded" },
            body.len()
        )
        .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 20"), "{method} {path} {body}: {answer}");
        answer
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Its Python.
fn program() -> Option<PathBuf> {
    let usual = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/moto");
    let python = std::env::var_os("LIFEBOAT_MOTO").map_or_else(usual, PathBuf::from).join("bin/python");
    python.is_file().then_some(python)
}
