//! Where a guest may connect to.

use crate::port::Protocol;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// Where a guest may connect to. Its answers on connections that others have made to it always
/// pass.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Egress {
    /// Everywhere but to other VMs.
    #[default]
    All,
    /// To these destinations; to none, if there are none.
    Only(Vec<Destination>),
}

/// A destination of a guest's connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Destination {
    /// The guest's name servers, on their DNS ports only.
    Dns,
    /// This host, at any of its addresses.
    Host,
    /// The public internet: no private, link-local, shared or other special address, and not
    /// this host.
    Public,
    /// A network, and all its ports or some.
    Place(Place),
}

/// A network's addresses, and ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Place {
    /// The first address.
    pub base: Ipv4Addr,
    /// The length of the network's prefix, in bits.
    pub prefix: u8,
    /// The first and last port; `None` for all ports, and for protocols without ports.
    pub ports: Option<(u16, u16)>,
    /// The protocol; `None` for all protocols.
    pub protocol: Option<Protocol>,
}

/// Why a policy is not valid. ([`Egress::of`] has more detailed messages.)
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEgress {
    /// Too many destinations.
    #[error("{0} destinations are too many: name up to {most}, such as whole networks", most = Egress::MOST)]
    TooMany(usize),
    /// Not a network, or not a range of ports.
    #[error(
        "{0} is no destination: a network has no bits beyond its prefix, and ports are from 1, the lower first"
    )]
    Place(Place),
}

impl Egress {
    /// Most destinations. Each is compared with every new connection.
    pub const MOST: usize = 64;

    /// Parses a user's entries, each `all`, `none` or a [`Destination`].
    ///
    /// # Errors
    /// What is wrong with an entry, in one line.
    pub fn of<S: AsRef<str>>(entries: &[S]) -> Result<Self, String> {
        match entries {
            [] => return Ok(Self::All),
            [entry] if entry.as_ref() == "all" => return Ok(Self::All),
            [entry] if entry.as_ref() == "none" => return Ok(Self::Only(Vec::new())),
            _ => {}
        }
        if entries.len() > Self::MOST {
            return Err(format!(
                "{} destinations are too many: name up to {}, such as whole networks",
                entries.len(),
                Self::MOST
            ));
        }
        let destinations = entries.iter().map(|entry| match entry.as_ref() {
            entry @ ("all" | "none") => Err(format!("'{entry}' stands alone, or not at all")),
            entry => entry.parse(),
        });
        destinations.collect::<Result<_, _>>().map(Self::Only)
    }

    /// Checks that the policy can be enforced, wherever it comes from.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(&self) -> Result<(), BadEgress> {
        let Self::Only(destinations) = self else {
            return Ok(());
        };
        if destinations.len() > Self::MOST {
            return Err(BadEgress::TooMany(destinations.len()));
        }
        let places = destinations
            .iter()
            .filter_map(|destination| match destination {
                Destination::Place(place) => Some(place),
                _ => None,
            });
        match places.into_iter().find(|place| !place.is_one()) {
            Some(place) => Err(BadEgress::Place(*place)),
            None => Ok(()),
        }
    }

    /// The entries that a user would write for it.
    pub fn to_strings(&self) -> Vec<String> {
        match self {
            Self::All => vec!["all".to_owned()],
            Self::Only(destinations) if destinations.is_empty() => vec!["none".to_owned()],
            Self::Only(destinations) => destinations.iter().map(ToString::to_string).collect(),
        }
    }
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dns" => Ok(Self::Dns),
            "host" => Ok(Self::Host),
            "public" => Ok(Self::Public),
            text => text.parse().map(Self::Place),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns => f.write_str("dns"),
            Self::Host => f.write_str("host"),
            Self::Public => f.write_str("public"),
            Self::Place(place) => place.fmt(f),
        }
    }
}

impl Place {
    fn is_one(&self) -> bool {
        let has_ports = |(first, last)| 0 < first && first <= last;
        self.prefix <= 32
            && u32::from(self.base) & self.host_bits() == 0
            && self.ports.is_none_or(has_ports)
    }

    /// The mask of the address bits beyond the prefix.
    fn host_bits(&self) -> u32 {
        u32::MAX.checked_shr(self.prefix.into()).unwrap_or(0)
    }
}

impl FromStr for Place {
    type Err = String;

    /// `ADDRESS[/BITS][:PORT[-PORT]][/tcp|/udp]`.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || {
            format!(
                "'{text}' is no destination: write all, none, dns, host, public, or an address as in 10.0.0.0/8, 1.2.3.4:443/tcp or 10.1.0.0/16:8000-8099"
            )
        };
        let (rest, protocol) = match text.rsplit_once('/') {
            Some((rest, "tcp")) => (rest, Some(Protocol::Tcp)),
            Some((rest, "udp")) => (rest, Some(Protocol::Udp)),
            _ => (text, None),
        };
        let (net, ports) = match rest.split_once(':') {
            Some((net, ports)) => (net, Some(port_range(ports).ok_or_else(form)?)),
            None => (rest, None),
        };
        let (base, prefix) = match net.split_once('/') {
            Some((base, prefix)) => (base, prefix.parse().map_err(|_| form())?),
            None => (net, 32),
        };
        let base: Ipv4Addr = base.parse().map_err(|_| form())?;
        if prefix > 32 {
            return Err(form());
        }
        let host_bits = u32::MAX.checked_shr(prefix.into()).unwrap_or(0);
        if u32::from(base) & host_bits != 0 {
            let first = Ipv4Addr::from(u32::from(base) & !host_bits);
            return Err(format!(
                "'{text}' has bits beyond its /{prefix}: the network is {first}/{prefix}"
            ));
        }
        Ok(Self {
            base,
            prefix,
            ports,
            protocol,
        })
    }
}

/// `PORT` or `PORT-PORT`.
fn port_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (0 < first && first <= last).then_some((first, last))
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.base)?;
        if self.prefix < 32 {
            write!(f, "/{}", self.prefix)?;
        }
        match self.ports {
            Some((first, last)) if first == last => write!(f, ":{first}")?,
            Some((first, last)) => write!(f, ":{first}-{last}")?,
            None => {}
        }
        match self.protocol {
            Some(protocol) => write!(f, "/{protocol}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place() -> impl Strategy<Value = Place> {
        let ports = prop::option::of((1u16.., 1u16..).prop_map(|(a, b)| (a.min(b), a.max(b))));
        let protocol = prop::option::of(prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]);
        (any::<u32>(), 0u8..=32, ports, protocol).prop_map(|(base, prefix, ports, protocol)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            Place {
                base: (base & mask).into(),
                prefix,
                ports,
                protocol,
            }
        })
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_written(place in place()) {
            prop_assert_eq!(place.to_string().parse::<Place>(), Ok(place));
        }

        #[test]
        fn no_text_is_too_strange_to_be_refused(text in "\\PC{0,40}") {
            let _ = text.parse::<Destination>();
        }
    }

    #[test]
    fn a_policy_is_everything_nothing_or_a_list() {
        assert_eq!(Egress::of::<&str>(&[]), Ok(Egress::All));
        assert_eq!(Egress::of(&["all"]), Ok(Egress::All));
        assert_eq!(Egress::of(&["none"]), Ok(Egress::Only(Vec::new())));
        let entries = ["dns", "host", "public", "10.0.0.0/8", "1.2.3.4:443/tcp"];
        assert_eq!(Egress::of(&entries).unwrap().to_strings(), entries);
        for entries in [["dns", "none"], ["all", "host"]] {
            assert!(Egress::of(&entries).unwrap_err().contains("alone"));
        }
        assert!(Egress::of(&["dns"; 65]).unwrap_err().contains("too many"));
    }

    #[test]
    fn what_is_no_destination_is_told_with_the_form_of_one() {
        for bad in [
            "",
            "world",
            "1.2.3",
            "1.2.3.4/33",
            "1.2.3.4:0",
            "1.2.3.4:9-8",
            "1.2.3.4/tcp/udp",
            "1.2.3.4:443/sctp",
            "::1",
            "example.org:443",
            "1.2.3.4:65536",
        ] {
            let error = bad.parse::<Destination>().unwrap_err();
            assert!(error.contains("is no destination: write"), "{error}");
        }
        let error = "10.1.2.3/8".parse::<Destination>().unwrap_err();
        assert!(error.contains("10.0.0.0/8"), "{error}");
    }
}
