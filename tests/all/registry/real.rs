//! The same with a registry that many run: Debian's `docker-registry`, with a password, and what was pushed to it as tools push.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use super::placed::{ask, backup, signed, site};
use crate::support::registry::{Artifact, sha256};
use crate::support::{Site, free_port, wait_until};

const PROGRAM: &str = "/usr/bin/docker-registry";
/// `me:s3cret`, and as the registry keeps it.
const PAIR: &str = "bWU6czNjcmV0";
const HTPASSWD: &str = "$2y$05$abcdefghijklmnopqrstuuLK7U1u6pVRmL7L1BBM2aS35PSZnDXlK";

/// A server that ends with the test.
struct Real {
    server: Child,
    port: u16,
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

impl Real {
    fn start(site: &Site) -> Self {
        let port = free_port();
        let place = |name: &str| site.path(name).display().to_string();
        site.write("htpasswd", &format!("me:{HTPASSWD}\n"));
        site.write(
            "registry.yml",
            &format!(
                "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n\
                 auth:\n  htpasswd:\n    realm: here\n    path: {}\n",
                place("registry"),
                place("htpasswd")
            ),
        );
        let log = fs::File::create(site.path("registry.log")).unwrap();
        let mut command = Command::new(PROGRAM);
        command.arg("serve").arg(place("registry.yml")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let real = Self { server: command.spawn().unwrap(), port };
        wait_until("the registry listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        real
    }

    /// One request of a tool that pushes; where it is to go on.
    fn push(&self, method: &str, path: &str, kind: &str, body: &[u8]) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\nAuthorization: Basic {PAIR}\r\n\
             Content-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
            self.port,
            body.len()
        )
        .unwrap();
        stream.write_all(body).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{method} {path}: {answer}");
        let location = answer.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or_default();
        location.split_once(&format!(":{}", self.port)).map_or(location, |(_, path)| path).to_owned()
    }

    fn push_artifact(&self, artifact: &Artifact) {
        for (digest, bytes) in artifact.blobs() {
            let upload = self.push("POST", "/v2/vendor/nightly/blobs/uploads/", "application/octet-stream", b"");
            let with = if upload.contains('?') { '&' } else { '?' };
            self.push("PUT", &format!("{upload}{with}digest=sha256:{digest}"), "application/octet-stream", bytes);
        }
        let path = format!("/v2/vendor/nightly/manifests/sha256:{}", artifact.sha256());
        self.push("PUT", &path, "application/vnd.oci.image.manifest.v1+json", &artifact.text());
    }
}

#[test]
fn a_registry_that_many_run_gives_a_module_to_who_has_the_password() {
    if !Path::new(PROGRAM).exists() {
        eprintln!("skipped: {PROGRAM} is not there: apt-get install docker-registry");
        return;
    }
    let site = site();
    let module = backup();
    let signature = signed(&site, &module);
    let artifact = Artifact::new(&module, &[(".minisig", &signature)]);
    let real = Real::start(&site);
    real.push_artifact(&artifact);
    let reference = format!("oci://127.0.0.1:{}/vendor/nightly@sha256:{}", real.port, artifact.sha256());

    let refused = ask(&site, &["policy", "add", "nightly", &reference]).expect(1);
    assert!(refused.stderr.contains("--auth-file FILE"), "{refused:?}");
    let auth = |pair: &str| format!("{{\"auths\":{{\"127.0.0.1:{}\":{{\"auth\":\"{pair}\"}}}}}}", real.port);
    let add = || ask(&site, &["policy", "add", "nightly", &reference, "--auth-file", "auth.json"]);
    // `me:other`
    site.write("auth.json", &auth("bWU6b3RoZXI="));
    assert!(add().expect(1).stderr.contains("may be wrong"));
    site.write("auth.json", &auth(PAIR));
    let gone = reference.replace(&artifact.sha256(), &"0".repeat(64));
    let missing = ask(&site, &["policy", "add", "nightly", &gone, "--auth-file", "auth.json"]).expect(1);
    assert!(missing.stderr.contains("(404)"), "{missing:?}");
    let added = add().expect(0);
    assert!(!added.said().contains("s3cret") && !added.said().contains(PAIR), "{added:?}");
    assert_eq!(sha256(&fs::read(site.path("policies/nightly.wasm")).unwrap()), sha256(&module));
    site.lifeboat(&["policy", "verify", "nightly"]).expect(0);
}
