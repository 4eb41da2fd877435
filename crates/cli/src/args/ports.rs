//! Published ports, as Docker writes them.

use hyperfork_api::port::{Protocol, PublishedPort};
use std::net::Ipv4Addr;

/// `[ADDRESS:]HOST:GUEST[/tcp|/udp]`: at 127.0.0.1 unless another address is given, so that a
/// guest's port is not open to the world unasked.
///
/// # Errors
/// What is wrong with it.
pub(super) fn published(text: &str) -> Result<PublishedPort, String> {
    let form = || {
        "write [ADDRESS:]HOST:GUEST[/udp], as in 8080:80, 0.0.0.0:8080:80 or 5353:53/udp".to_owned()
    };
    let (ports, protocol) = match text.rsplit_once('/') {
        None => (text, Protocol::Tcp),
        Some((ports, "tcp")) => (ports, Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => return Err(form()),
    };
    let (host, guest) = ports.rsplit_once(':').ok_or_else(form)?;
    let (address, host) = match host.rsplit_once(':') {
        None => (Ipv4Addr::LOCALHOST, host),
        Some((address, host)) => (address.parse().map_err(|_| form())?, host),
    };
    let host = host.parse().map_err(|_| form())?;
    match guest.parse() {
        Ok(guest) if guest > 0 => Ok(PublishedPort {
            protocol,
            address,
            host,
            guest,
        }),
        _ => Err(form()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_published_port_is_one_of_the_host_and_one_of_the_guest() {
        let port = PublishedPort {
            protocol: Protocol::Tcp,
            address: Ipv4Addr::LOCALHOST,
            host: 8080,
            guest: 80,
        };
        let udp = PublishedPort {
            protocol: Protocol::Udp,
            ..port
        };
        let everywhere = PublishedPort {
            address: Ipv4Addr::UNSPECIFIED,
            ..port
        };
        let free = PublishedPort { host: 0, ..port };
        for (text, expected) in [
            ("8080:80", port),
            ("8080:80/tcp", port),
            ("8080:80/udp", udp),
            ("127.0.0.1:8080:80", port),
            ("0.0.0.0:8080:80", everywhere),
            ("0:80", free),
        ] {
            assert_eq!(published(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_none_is_told_with_the_form_of_one() {
        for bad in [
            "",
            "80",
            "80:0",
            ":80",
            "80:",
            "65536:80",
            "80:65536",
            "-1:80",
            "80:80/sctp",
            "80:80/",
            "1.2.3:80:80",
            "::1:80:80",
            "localhost:80:80",
            "1.2.3.4::80",
            "8000-8010:80",
        ] {
            assert!(published(bad).unwrap_err().contains("8080:80"), "{bad:?}");
        }
    }
}
