//! A little HTTP service to start as a child: this test binary itself, told to run one ignored test.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

/// Its command line.
pub(crate) fn command() -> Vec<String> {
    let exe = std::env::current_exe().unwrap().display().to_string();
    [exe.as_str(), "--exact", "control::test_child::serve", "--ignored", "--nocapture"].map(str::to_owned).into()
}

/// Its environment: the port, what `/readyz` says beside `ready`, and what it does (`serve`, `die`, `late`).
pub(crate) fn environment(port: &str, says: &str, mode: &str) -> BTreeMap<String, String> {
    [("TEST_CHILD_PORT", port), ("TEST_CHILD_SAYS", says), ("TEST_CHILD_MODE", mode)]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into()
}

#[test]
#[ignore = "no test: the body of the child that other tests start"]
fn serve() {
    let Ok(port) = std::env::var("TEST_CHILD_PORT") else { return };
    let says = std::env::var("TEST_CHILD_SAYS").unwrap_or_default();
    let mode = std::env::var("TEST_CHILD_MODE").unwrap_or_default();
    if mode == "die" {
        eprintln!("fatal: the \u{1b}[31mdatabase\u{1b}[0m is malformed");
        std::process::exit(3);
    }
    if mode == "late" {
        std::thread::sleep(Duration::from_millis(400));
    }
    let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
    let mut asked = 0;
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut head = [0; 4096];
        let Ok(count @ 1..) = stream.read(&mut head) else { continue };
        let head = String::from_utf8_lossy(&head[..count]).into_owned();
        if head.starts_with("POST /die") {
            std::process::exit(4);
        }
        asked += 1;
        // The first answer is wrong, as after a database came back.
        let (status, ready) = if asked == 1 { ("503 Unavailable", false) } else { ("200 OK", true) };
        let body = format!(r#"{{"ready":{ready},"says":{says:?}}}"#);
        let _ =
            write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
    }
}
