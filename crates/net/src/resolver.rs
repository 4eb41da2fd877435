//! Finds the host's name servers that a guest can reach.

use std::fs;
use std::net::Ipv4Addr;

/// The configuration files of the host's resolver. The first file that has a server which a guest
/// can reach is used. The second belongs to systemd-resolved, which itself listens on loopback.
const FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Most name servers that a resolver uses (resolv.conf(5)).
const MOST: usize = 3;

/// The host's name servers.
pub(super) fn nameservers() -> Vec<Ipv4Addr> {
    let texts = FILES
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok());
    let mut found = texts.map(|text| reachable(&text));
    found.find(|found| !found.is_empty()).unwrap_or_default()
}

fn reachable(text: &str) -> Vec<Ipv4Addr> {
    let servers = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then_some(words.next()?.parse().ok()?)
    });
    servers
        .filter(|server: &Ipv4Addr| !server.is_loopback() && !server.is_unspecified())
        .take(MOST)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_only_the_host_can_reach_is_left_out() {
        let text = "# x\nsearch a b\nnameserver 127.0.0.53\nnameserver fd00::1\n nameserver  10.0.0.1 \nnameserver\n";
        assert_eq!(reachable(text), [Ipv4Addr::new(10, 0, 0, 1)]);
        assert_eq!(
            reachable("nameserver 1.1.1.1\n".repeat(5).as_str()).len(),
            MOST
        );
    }
}
