//! The egress policy of a guest as a list of rules: the first rule that matches a packet decides.
//!
//! The rules apply to packets that begin a connection; replies pass. The kernel applies them in the
//! guest's namespace ([`filter`](super::filter)); for tests, `permits` is the same check in this
//! process.

use hyperfork_api::Egress;
use hyperfork_api::egress::{Destination, Place};
use hyperfork_api::port::Protocol;
use hyperfork_netlink::route::Net;
use serde::{Deserialize, Serialize};
use std::net::Ipv4Addr;
#[cfg(test)]
use std::net::SocketAddrV4;

/// Allows or refuses packets to some addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Rule {
    pub(super) to: Net,
    /// The packets it is about; `None` for all that IP carries.
    pub(super) transport: Option<Transport>,
    pub(super) allow: bool,
}

/// Packets of a protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transport {
    pub(super) protocol: Protocol,
    /// The first and the last; `None` for all.
    pub(super) ports: Option<(u16, u16)>,
}

/// The addresses that the keywords of a policy stand for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostAddresses {
    /// The name servers.
    pub(super) nameservers: Vec<Ipv4Addr>,
    /// This host's addresses.
    pub(super) host: Vec<Ipv4Addr>,
}

/// Addresses that no host on the internet has, or that are not unicast (RFC 6890 and its registry).
const SPECIAL: [Net; 14] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    (Ipv4Addr::new(224, 0, 0, 0), 4),
    (Ipv4Addr::new(240, 0, 0, 0), 4),
];

const ANY_ADDRESS: Net = (Ipv4Addr::UNSPECIFIED, 0);
const DNS_PORTS: (u16, u16) = (53, 53);

/// The rules of a policy; a packet that no rule matches is refused. `None` if all are allowed.
pub(super) fn rules(egress: &Egress, addresses: &HostAddresses) -> Option<Vec<Rule>> {
    let Egress::Only(destinations) = egress else {
        return None;
    };
    let mut rules = Vec::new();
    for destination in destinations {
        match destination {
            Destination::Dns => rules.extend(addresses.nameservers.iter().flat_map(|&server| {
                all_protocols(Some(DNS_PORTS))
                    .map(|transport| allowed((server, 32), Some(transport)))
            })),
            Destination::Host => {
                rules.extend(addresses.host.iter().map(|&host| allowed((host, 32), None)));
            }
            Destination::Place(place) => rules.extend(of_place(place)),
            // Its rules come last, because they refuse something.
            Destination::Public => {}
        }
    }
    if destinations.contains(&Destination::Public) {
        let host = addresses.host.iter().map(|&host| (host, 32));
        rules.extend(host.chain(SPECIAL).map(refused));
        rules.push(allowed(ANY_ADDRESS, None));
    }
    Some(rules)
}

/// The rules that allow every destination but this host. A name server on this host is allowed.
pub(super) fn all_but_the_host(addresses: &HostAddresses) -> Vec<Rule> {
    let names = addresses.nameservers.iter().flat_map(|&server| {
        all_protocols(Some(DNS_PORTS)).map(|transport| allowed((server, 32), Some(transport)))
    });
    let host = addresses.host.iter().map(|&host| refused((host, 32)));
    let rest = allowed(ANY_ADDRESS, None);
    names.chain(host).chain([rest]).collect()
}

/// Whether a guest may connect to a port.
#[cfg(test)]
pub(super) fn permits(rules: Option<&[Rule]>, to: SocketAddrV4, protocol: Protocol) -> bool {
    let about = |rule: &&Rule| {
        let (base, prefix) = rule.to;
        let differs = u32::from(base) ^ u32::from(*to.ip());
        let is_there = differs.checked_shr(32 - u32::from(prefix)).unwrap_or(0) == 0;
        is_there
            && rule.transport.is_none_or(|transport| {
                let (first, last) = transport.ports.unwrap_or((0, u16::MAX));
                transport.protocol == protocol && (first..=last).contains(&to.port())
            })
    };
    match rules {
        None => true,
        Some(rules) => rules.iter().find(about).is_some_and(|rule| rule.allow),
    }
}

/// Whether a policy has keywords that depend on the host's addresses.
pub(super) fn is_about_the_host(egress: &Egress) -> bool {
    let keywords = [Destination::Host, Destination::Public];
    matches!(egress, Egress::Only(all) if all.iter().any(|one| keywords.contains(one)))
}

fn allowed(to: Net, transport: Option<Transport>) -> Rule {
    Rule {
        to,
        transport,
        allow: true,
    }
}

fn refused(to: Net) -> Rule {
    Rule {
        to,
        transport: None,
        allow: false,
    }
}

fn all_protocols(ports: Option<(u16, u16)>) -> [Transport; 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| Transport { protocol, ports })
}

fn of_place(place: &Place) -> Vec<Rule> {
    let Place {
        base,
        prefix,
        ports,
        protocol,
    } = *place;
    let transports: Vec<_> = match (protocol, ports) {
        (None, None) => return vec![allowed((base, prefix), None)],
        (None, ports) => all_protocols(ports).to_vec(),
        (Some(protocol), ports) => vec![Transport { protocol, ports }],
    };
    let rule = |transport| allowed((base, prefix), Some(transport));
    transports.into_iter().map(rule).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Protocol::{Tcp, Udp};

    fn addresses() -> HostAddresses {
        HostAddresses {
            nameservers: vec![Ipv4Addr::new(10, 0, 0, 2)],
            host: vec![Ipv4Addr::new(10, 213, 0, 5), Ipv4Addr::new(80, 1, 2, 3)],
        }
    }

    fn may(words: &[&str], to: &str, protocol: Protocol) -> bool {
        let rules = rules(&Egress::of(words).unwrap(), &addresses());
        permits(rules.as_deref(), to.parse().unwrap(), protocol)
    }

    #[test]
    fn all_but_the_host_allows_other_hosts_and_a_name_server_on_the_host() {
        let mut addresses = addresses();
        addresses.nameservers.push(addresses.host[1]);
        let rules = all_but_the_host(&addresses);
        let may = |to: &str| permits(Some(&rules), to.parse().unwrap(), Tcp);
        assert!(may("8.8.8.8:80") && may("10.0.0.2:80") && may("80.1.2.3:53"));
        assert!(!may("80.1.2.3:80") && !may("10.213.0.5:53"));
    }

    #[test]
    fn the_words_of_a_policy_mean_what_they_say() {
        assert!(may(&["all"], "10.0.0.2:1", Udp));
        assert!(!may(&["none"], "10.0.0.2:53", Udp));
        for (words, allowed, refused) in [
            (
                &["dns"][..],
                &["10.0.0.2:53"][..],
                &["10.0.0.2:80", "8.8.8.8:53"][..],
            ),
            (
                &["host"],
                &["10.213.0.5:22", "80.1.2.3:80"],
                &["80.1.2.4:80", "10.0.0.2:53"],
            ),
            (
                &["public"],
                &["8.8.8.8:53", "80.1.2.4:80"],
                &[
                    "80.1.2.3:80",
                    "10.0.0.2:53",
                    "169.254.169.254:80",
                    "192.168.1.1:80",
                    "127.0.0.1:1",
                    "172.31.0.1:9",
                ],
            ),
            // What is named is allowed, public or not.
            (
                &["public", "10.1.0.0/16", "dns", "80.1.2.3:80"],
                &["10.1.2.3:80", "10.0.0.2:53", "80.1.2.3:80", "1.1.1.1:1"],
                &["10.2.0.1:80", "80.1.2.3:81", "10.0.0.2:54"],
            ),
            (&["0.0.0.0/0"], &["1.2.3.4:5", "10.0.0.1:1"], &[]),
            (
                &["1.2.3.4:80-90"],
                &["1.2.3.4:80", "1.2.3.4:90"],
                &["1.2.3.4:79", "1.2.3.4:91", "1.2.3.5:80"],
            ),
        ] {
            for protocol in [Tcp, Udp] {
                for to in allowed {
                    assert!(may(words, to, protocol), "{words:?} {to}");
                }
                for to in refused {
                    assert!(!may(words, to, protocol), "{words:?} {to}");
                }
            }
        }
        assert!(may(&["1.2.3.4:443/tcp"], "1.2.3.4:443", Tcp));
        assert!(!may(&["1.2.3.4:443/tcp"], "1.2.3.4:443", Udp));
    }
}
