//! Against real sockets: what an answer, and what no answer, comes to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject};

use super::test_server::{Server, answer};
use super::*;
use crate::bindings::{Capture, Secret, Service};

/// A host with one service `notes` whose endpoint `api` is this.
struct World {
    host: RealHost,
    dir: tempfile::TempDir,
}

fn endpoint(url: String) -> Endpoint {
    Endpoint {
        url,
        scratch_url: "http://127.0.0.1:{port}".into(),
        header: BTreeMap::new(),
        ca_file: None,
        client_identity_file: None,
        idempotency_key: false,
        capture: BTreeMap::new(),
    }
}

pub(crate) fn service() -> Service {
    serde_json::from_str("{}").unwrap()
}

fn world(endpoint: Endpoint) -> World {
    let dir = tempfile::tempdir().unwrap();
    let service = Service { endpoint: [("api".to_owned(), endpoint)].into(), ..service() };
    let host = RealHost::new([("notes".to_owned(), service)].into(), &BTreeMap::new(), dir.path()).unwrap();
    World { host, dir }
}

fn at(server: &Server) -> Endpoint {
    endpoint(format!("http://127.0.0.1:{}", server.port))
}

fn get(path: &str) -> Request {
    Request { method: "GET".into(), path: path.into(), ..Request::default() }
}

fn cx() -> StepContext {
    StepContext::detached("test", Duration::from_secs(60))
}

impl World {
    async fn ask(&self, request: &Request) -> Observation {
        self.host.check(&cx(), "notes/api", request, "run/1").await.unwrap()
    }
}

#[tokio::test]
async fn a_busy_service_is_asked_again_until_it_answers() {
    let server = Server::plain(|number, _, c| match number {
        0 | 1 => answer(c, "429 Too Many Requests", "retry-after: 0\r\n", "{}"),
        _ => answer(c, "200 OK", "", r#"{"ready":true}"#),
    });
    let world = world(at(&server));
    let mut request = get("/readyz");
    request.json_equals = vec![("/ready".into(), "true".into())];
    request.attempts = Some((5, 1));
    let seen = world.ask(&request).await;
    assert_eq!((seen.passed, seen.status, seen.attempts, server.requests().len()), (true, Some(200), 3, 3), "{seen:?}");
    // Without being told to, it asks once.
    request.attempts = None;
    request.json_equals = vec![("/ready".into(), "false".into())];
    let seen = world.ask(&request).await;
    assert_eq!((seen.passed, seen.attempts, server.requests().len()), (false, 1, 4), "{seen:?}");
    assert_eq!(seen.failures, ["`/ready` is not false"]);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_never_followed() {
    let elsewhere = Server::plain(|_, _, c| answer(c, "200 OK", "", "{}"));
    let to = format!("location: http://127.0.0.1:{}/\r\n", elsewhere.port);
    let server = Server::plain(move |_, _, c| answer(c, "302 Found", &to, ""));
    let mut endpoint = at(&server);
    let world_dir = tempfile::tempdir().unwrap();
    let file = world_dir.path().join("token");
    std::fs::write(&file, "s3cret").unwrap();
    endpoint
        .header
        .insert("Authorization".into(), Secret { file: Some(file), prefix: "Bearer ".into(), ..Secret::default() });
    let world = world(endpoint);
    let mut request = get("/old");
    let seen = world.ask(&request).await;
    assert_eq!((seen.passed, seen.status), (false, Some(302)));
    request.status = Some(302);
    assert!(world.ask(&request).await.passed);
    assert_eq!((server.requests().len(), elsewhere.connections()), (2, 0));
    assert!(server.requests()[0].contains("Bearer s3cret"), "the fault needs a secret that could leak");
}

#[tokio::test]
async fn answers_without_end_are_cut() {
    let server = Server::plain(|_, request, c| {
        if request.starts_with("GET /declared") {
            let _ = c.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n");
        } else {
            let _ = c.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
        }
        while c.write_all(&[b'x'; 64 * 1024]).is_ok() {}
    });
    let world = world(at(&server));
    for path in ["/declared", "/endless"] {
        let seen = world.ask(&get(path)).await;
        assert_eq!((seen.passed, seen.status), (false, Some(200)));
        assert_eq!(seen.failures, ["the answer is larger than 4194304 bytes"]);
    }
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn slow_answers_end_with_the_attempts_time() {
    let server = Server::plain(|_, request, c| {
        if request.starts_with("GET /headers") {
            let _ = c.write_all(b"HTTP/1.1 200 OK\r\n");
        } else {
            let _ = c.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n");
        }
        // One byte at a time, for longer than anyone waits.
        while c.write_all(b"x").and_then(|()| c.flush()).is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let world = world(at(&server));
    let mut request = get("/headers");
    request.timeout_ms = Some(1_000);
    let seen = world.ask(&request).await;
    assert_eq!((seen.status, seen.failures), (None, vec!["no answer within 1000 ms".into()]));
    request.path = "/body".into();
    let seen = world.ask(&request).await;
    assert_eq!((seen.status, seen.failures), (Some(200), vec!["the answer did not end within 1000 ms".into()]));
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn broken_answers_are_observations() {
    let server = Server::plain(|_, request, c| {
        let text: Vec<u8> = match request.split(' ').nth(1).unwrap() {
            "/nothing" => Vec::new(),
            "/half" => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"ready\":".to_vec(),
            "/huge" => {
                let mut text = b"HTTP/1.1 200 OK\r\nx: ".to_vec();
                text.resize(2 * 1024 * 1024, b'x');
                text
            }
            _ => b"SSH-2.0-OpenSSH_9.2\r\n\r\n".to_vec(),
        };
        let _ = c.write_all(&text);
    });
    let world = world(at(&server));
    for (path, status, words) in [
        ("/nothing", None, "no usable answer"),
        ("/half", Some(200), "the answer broke off"),
        ("/huge", None, ""),
        ("/ssh", None, "no usable answer"),
    ] {
        let seen = world.ask(&get(path)).await;
        assert_eq!((seen.passed, seen.status), (false, status), "{path}");
        assert!(seen.failures.len() == 1 && seen.failures[0].contains(words), "{path}: {seen:?}");
        assert!(!seen.failures[0].contains("xxx"), "{seen:?}");
    }
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn nobody_there_is_an_observation_too() {
    let port = crate::control::ports::free().unwrap();
    let world = world(endpoint(format!("http://127.0.0.1:{port}")));
    let mut request = get("/readyz");
    request.attempts = Some((3, 1));
    let seen = world.ask(&request).await;
    assert_eq!((seen.passed, seen.status, seen.attempts), (false, None, 3));
    assert_eq!(seen.failures, ["connection refused"]);
}

#[tokio::test]
async fn what_changes_something_carries_its_key_and_what_only_asks_does_not() {
    let server = Server::plain(|_, _, c| answer(c, "201 Created", "", r#"{"id":"n-1","n":7}"#));
    let mut endpoint = at(&server);
    let capture = |method: &str, path: &str, pointer: &str| Capture {
        method: method.into(),
        path: path.into(),
        pointer: pointer.into(),
    };
    endpoint.capture = BTreeMap::from([
        ("id".into(), capture("POST", "/notes", "/id")),
        ("number".into(), capture("POST", "/notes", "/n")),
        ("other".into(), capture("GET", "/notes", "/id")),
        ("elsewhere".into(), capture("POST", "/notes?x=1", "/id")),
    ]);
    let world = world(endpoint);
    let mut request = get("/notes");
    request.method = "POST".into();
    request.body_json = Some(r#"{"title":"t"}"#.into());
    let seen = world.ask(&request).await;
    assert_eq!(seen.captures, [("id".into(), "n-1".into()), ("number".into(), "7".into())]);
    let sent = server.requests().pop().unwrap();
    assert!(sent.starts_with("POST /notes HTTP/1.1\r\n"), "{sent}");
    assert!(sent.contains("idempotency-key: run/1\r\n") && sent.contains("content-type: application/json"), "{sent}");
    assert!(sent.ends_with(r#"{"title":"t"}"#), "{sent}");

    // Nothing is captured from an answer that did not pass.
    request.status = Some(200);
    let seen = world.ask(&request).await;
    assert!(!seen.passed && seen.captures.is_empty());

    let seen = world.ask(&get("/caf%C3%A9/%6eotes?q=a%20b")).await;
    assert!(seen.passed && seen.captures.is_empty());
    let sent = server.requests().pop().unwrap();
    assert!(sent.starts_with("GET /caf%C3%A9/notes?q=a%20b HTTP/1.1\r\n"), "{sent}");
    assert!(!sent.contains("idempotency-key"), "{sent}");
}

#[tokio::test]
async fn an_absent_capture_fails_the_check() {
    let server = Server::plain(|_, _, c| answer(c, "200 OK", "", "{}"));
    let mut endpoint = at(&server);
    endpoint.capture.insert("id".into(), Capture { method: "GET".into(), path: "/".into(), pointer: "/id".into() });
    let seen = world(endpoint).ask(&get("/")).await;
    assert!(!seen.passed && seen.failures[0].contains("capture `id`"), "{seen:?}");
}

#[tokio::test]
async fn the_steps_own_limits_hold() {
    let server = Server::plain(|_, _, c| answer(c, "500 Oops", "", ""));
    let world = world(at(&server));
    let mut request = get("/");
    request.attempts = Some((100, 500));
    // The deadline ends the attempts, with what was seen so far.
    let short = StepContext::detached("test", Duration::from_millis(2_000));
    let seen = world.host.check(&short, "notes/api", &request, "k").await.unwrap();
    assert!(!seen.passed && (1..5).contains(&seen.attempts), "{seen:?}");
    assert_eq!(seen.failures, ["status 500, expected 200 to 299", "the deadline left no time for another attempt"]);
    // A cancelled run ends them at once.
    request.attempts = Some((100, 10_000));
    let long = cx();
    let cancelled = Arc::clone(&long.cancelled);
    let requests = server.requests().len();
    let canceller = async {
        while server.requests().len() == requests {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        cancelled.store(true, Ordering::Relaxed);
    };
    let (result, ()) = tokio::join!(world.host.check(&long, "notes/api", &request, "k"), canceller);
    assert_eq!(result.unwrap_err().kind, ErrorKind::Cancelled);
}

#[tokio::test]
async fn what_makes_no_sense_is_an_error_and_reaches_nobody() {
    let server = Server::plain(|_, _, c| answer(c, "200 OK", "", ""));
    let world = world(at(&server));
    let ask =
        async |endpoint: &str, request: Request| world.host.check(&cx(), endpoint, &request, "k").await.unwrap_err();
    assert_eq!(ask("notes/api", get("/a/%2e%2e/b")).await.kind, ErrorKind::Invalid);
    assert_eq!(ask("notes/api", Request { method: "CONNECT".into(), ..get("/") }).await.kind, ErrorKind::Invalid);
    assert_eq!(ask("notes/api", Request { attempts: Some((0, 1)), ..get("/") }).await.kind, ErrorKind::Invalid);
    assert_eq!(ask("notes", get("/")).await.kind, ErrorKind::Invalid);
    assert_eq!(ask("other/api", get("/")).await.hint.as_deref(), Some("configured: notes"));
    assert_eq!(ask("notes/other", get("/")).await.hint.as_deref(), Some("configured: api"));
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_bad_base_url_or_secret_is_named_without_its_value() {
    let check = async |endpoint: Endpoint| world(endpoint).host.check(&cx(), "notes/api", &get("/"), "k").await;
    for url in ["ftp://h/", "nonsense", "http://user:hunter2@h/", "http://h/?q=1", "unix:/x"] {
        let error = check(endpoint(url.into())).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{url}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "hunter2\r\nX-Admin: 1\n").unwrap();
    let mut bad = endpoint("http://127.0.0.1:1".into());
    bad.header.insert("Authorization".into(), Secret { file: Some(file), ..Secret::default() });
    let error = check(bad).await.unwrap_err();
    assert!(error.message.contains("Authorization") && !error.to_string().contains("hunter2"), "{error}");
}

#[tokio::test]
async fn proxies_of_the_environment_are_ignored() {
    // The variable would have to be set before the client is made; a child process of this test binary has it.
    let proxy = Server::plain(|_, _, c| answer(c, "200 OK", "", "proxied"));
    let exe = std::env::current_exe().unwrap();
    let url = format!("http://127.0.0.1:{}", proxy.port);
    let status = tokio::process::Command::new(exe)
        .args(["--exact", "http_check::tests::nobody_there_is_an_observation_too"])
        .envs([("http_proxy", &url), ("HTTP_PROXY", &url), ("all_proxy", &url), ("ALL_PROXY", &url)])
        .env_remove("no_proxy")
        .env_remove("NO_PROXY")
        .stdout(std::process::Stdio::null())
        .status()
        .await
        .unwrap();
    assert!(status.success());
    assert_eq!(proxy.connections(), 0);
}

/// Files of a certificate authority, and certificates signed by it.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: PathBuf,
}

impl Authority {
    fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("ca.pem"), issuer.pem()).unwrap();
        Self { issuer, dir: dir.into() }
    }

    fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// A file with a certificate for a name and its key.
    fn issue(&self, name: &str) -> PathBuf {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let path = self.dir.join(format!("{name}.pem"));
        std::fs::write(&path, certificate.pem() + &key.serialize_pem()).unwrap();
        path
    }

    fn server(&self, name: &str, clients: Option<&Authority>, spoken: Arc<AtomicBool>) -> Server {
        let path = self.issue(name);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(authority) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(authority.issuer.der().clone()).unwrap();
                builder.with_client_cert_verifier(
                    rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider)
                        .build()
                        .unwrap(),
                )
            }
        };
        let chain = rustls::pki_types::CertificateDer::pem_file_iter(&path).unwrap().map(Result::unwrap).collect();
        let config = builder.with_single_cert(chain, PrivateKeyDer::from_pem_file(&path).unwrap()).unwrap();
        Server::tls(config, move |_, _, c| {
            spoken.store(true, Ordering::Relaxed);
            answer(c, "200 OK", "", "{}");
        })
    }
}

#[tokio::test]
async fn only_the_configured_root_is_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Authority::new(&dir.path().join("ours")), Authority::new(&dir.path().join("other")));
    let spoken = Arc::new(AtomicBool::new(false));
    let server = ours.server("localhost", None, spoken.clone());
    let at = |name: &str, ca_file| Endpoint { ca_file, ..endpoint(format!("https://{name}:{}", server.port)) };

    for (name, ca_file, words) in [
        ("localhost", None, "no root in `ca-file`"),
        ("localhost", Some(other.ca_file()), "no root in `ca-file`"),
        ("127.0.0.1", Some(ours.ca_file()), "for another name"),
    ] {
        let seen = world(at(name, ca_file)).ask(&get("/")).await;
        assert!(!seen.passed && seen.failures[0].contains(words), "{seen:?}");
    }
    assert!(server.connections() >= 3 && !spoken.load(Ordering::Relaxed), "the handshakes failed, not the connections");
    let seen = world(at("localhost", Some(ours.ca_file()))).ask(&get("/")).await;
    assert!(seen.passed && spoken.load(Ordering::Relaxed), "{seen:?}");
}

#[tokio::test]
async fn a_client_certificate_is_shown_where_one_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, clients) = (Authority::new(&dir.path().join("ours")), Authority::new(&dir.path().join("clients")));
    let spoken = Arc::new(AtomicBool::new(false));
    let server = ours.server("localhost", Some(&clients), spoken.clone());
    let base = Endpoint { ca_file: Some(ours.ca_file()), ..endpoint(format!("https://localhost:{}", server.port)) };

    let seen = world(base.clone()).ask(&get("/")).await;
    assert!(!seen.passed && !spoken.load(Ordering::Relaxed), "{seen:?}");
    let wrong = Endpoint { client_identity_file: Some(ours.issue("client")), ..base.clone() };
    let seen = world(wrong).ask(&get("/")).await;
    assert!(!seen.passed && !spoken.load(Ordering::Relaxed), "{seen:?}");
    let right = Endpoint { client_identity_file: Some(clients.issue("client")), ..base.clone() };
    let seen = world(right).ask(&get("/")).await;
    assert!(seen.passed, "{seen:?}");

    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    for bad in [
        Endpoint { ca_file: Some(empty.clone()), ..base.clone() },
        Endpoint { client_identity_file: Some(clients.ca_file()), ..base.clone() },
        Endpoint { client_identity_file: Some(dir.path().join("gone.pem")), ..base },
    ] {
        let error = world(bad).host.check(&cx(), "notes/api", &get("/"), "k").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    }
}

#[tokio::test]
async fn a_renewed_root_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(&dir.path().join("old")), Authority::new(&dir.path().join("new")));
    let server = new.server("localhost", None, Arc::default());
    let file = dir.path().join("trusted.pem");
    std::fs::copy(old.ca_file(), &file).unwrap();
    let world =
        world(Endpoint { ca_file: Some(file.clone()), ..endpoint(format!("https://localhost:{}", server.port)) });
    assert!(!world.ask(&get("/")).await.passed);
    // Another size, as file systems' clocks may be coarse.
    std::fs::write(&file, std::fs::read_to_string(new.ca_file()).unwrap() + "\n\n").unwrap();
    let seen = world.ask(&get("/")).await;
    assert!(seen.passed, "{seen:?}");
    assert!(world.dir.path().exists());
}
