//! Whether anything listens on a port of this machine.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// A loopback connection takes microseconds; one that takes this long waits in a full queue, which someone holds open.
const CONNECT_LIMIT: Duration = Duration::from_millis(250);

/// Those of these ports that are open.
pub(crate) fn open(ports: &[u16]) -> Vec<u16> {
    ports.iter().copied().filter(|port| is_open(*port)).collect()
}

/// True if something listens on a port: the kernel lists a socket (whatever its address), or a connection to loopback is taken
/// (a port that a container's rules forward has no socket here).
pub(crate) fn is_open(port: u16) -> bool {
    listed(port, "/proc/net/tcp") || listed(port, "/proc/net/tcp6") || connects(port)
}

pub(crate) fn listed(port: u16, table: &str) -> bool {
    let Ok(text) = std::fs::read_to_string(table) else { return false };
    text.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let local = fields.next().and_then(|address| address.rsplit_once(':'));
        let is_port = local.is_some_and(|(_, p)| u16::from_str_radix(p, 16) == Ok(port));
        // 0A: listening.
        is_port && fields.nth(1) == Some("0A")
    })
}

fn connects(port: u16) -> bool {
    [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))].iter().any(
        |address| {
            match TcpStream::connect_timeout(address, CONNECT_LIMIT) {
                // Where nobody listens on a port that the kernel also gives to clients, a connection may meet itself.
                Ok(stream) => stream.local_addr().ok() != stream.peer_addr().ok(),
                Err(e) => e.kind() == std::io::ErrorKind::TimedOut,
            }
        },
    )
}

/// A port that is free now. Nothing keeps it so: whoever uses it must notice when it was taken meanwhile.
pub(crate) fn free() -> std::io::Result<u16> {
    Ok(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// `port 8080`, `ports 8080 and 8081`.
pub(crate) fn words(ports: &[u16]) -> String {
    let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" and ");
    format!("port{} {list}", if ports.len() == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_opens_a_port_and_its_end_closes_it() {
        for address in ["127.0.0.1:0", "127.0.0.2:0", "[::1]:0"] {
            // A machine without IPv6 has no such loopback.
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let port = listener.local_addr().unwrap().port();
            assert_eq!(open(&[port]), [port], "{address}");
            drop(listener);
            // A child that another test has just begun to start holds it until it has become another program.
            let cx = crate::StepContext::detached("free", Duration::from_secs(30));
            assert!(crate::child::wait_until(&cx, Duration::from_secs(30), || !is_open(port)), "{address}");
        }
        assert_eq!(words(&[1, 2]), "ports 1 and 2");
    }
}
