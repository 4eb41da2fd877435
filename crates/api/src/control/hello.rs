//! The version handshake: which protocol a peer speaks, and what to tell the user about a peer
//! that speaks another. After an upgrade, VMs that an earlier version has started still run.

use crate::{VmName, excerpt};
use serde::{Deserialize, Serialize};

/// The protocol's number. It changes with everything that a peer of another number could
/// misunderstand; the first protocol had neither a number nor a [`Hello`].
pub const PROTOCOL: u32 = 2;

/// This version of HyperFork.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The first line on a connection, each way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The version of the sender's program, for people.
    pub version: String,
    /// [`PROTOCOL`].
    pub protocol: u32,
}

/// A [`Hello`] as it is on the wire. Fields that later versions add on either level are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// The handshake.
    pub hello: Hello,
}

/// An error as clients of the first protocol read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FirstProtocolError {
    /// One line.
    pub error: String,
}

impl Hello {
    /// The handshake of this version.
    pub fn ours() -> Self {
        Self {
            version: VERSION.to_owned(),
            protocol: PROTOCOL,
        }
    }

    /// Whether the peer speaks the same protocol.
    pub fn is_understood(&self) -> bool {
        self.protocol == PROTOCOL
    }
}

/// What a peer's first line says that it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// It has greeted.
    Greeted(Hello),
    /// It speaks the first protocol, which has no greeting.
    First,
    /// Its line is none that any version known to this one begins with.
    Unreadable,
}

impl Peer {
    /// Whether it speaks the same protocol.
    pub fn is_understood(&self) -> bool {
        matches!(self, Self::Greeted(hello) if hello.is_understood())
    }

    /// Its version, where it has one.
    fn version(&self) -> Option<String> {
        match self {
            Self::Greeted(hello) => {
                let version = excerpt(&hello.version, LONGEST_VERSION);
                Some(format!("hyperfork {version} (protocol {})", hello.protocol))
            }
            Self::First => Some("an older hyperfork".to_owned()),
            Self::Unreadable => None,
        }
    }
}

/// Most characters of a peer's version in a message.
const LONGEST_VERSION: usize = 40;

/// The message of a client whose VM's process speaks another protocol, or none.
pub fn other_vm(name: &VmName, vm: &Peer) -> String {
    match vm.version() {
        Some(version) => format!(
            "{name} was started by {version}, which this one ({VERSION}, protocol {PROTOCOL}) \
             cannot talk to: use that version, or end the VM with `hyperfork stop {name}`"
        ),
        None => format!(
            "the process of {name} does not answer as a hyperfork of any version that this one \
             ({VERSION}, protocol {PROTOCOL}) knows: end it with `hyperfork stop {name}`"
        ),
    }
}

/// The message of a VM's process whose client speaks another protocol, or none.
pub fn other_client(client: &Peer) -> String {
    match client.version() {
        Some(version) => format!(
            "hyperfork {VERSION} (protocol {PROTOCOL}) started this VM, and cannot be talked to by \
             {version}: use version {VERSION}, also to stop the VM"
        ),
        None => format!(
            "this is a VM of hyperfork {VERSION}, which expects a greeting of protocol {PROTOCOL} \
             as the first line ({{\"hello\":{{\"version\":…,\"protocol\":{PROTOCOL}}}}}) and cannot \
             read this one as such: see docs/control.md, or use hyperfork {VERSION}"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_is_a_line_of_its_own_and_may_say_more_one_day() {
        let read = |line: &str| serde_json::from_str::<Greeting>(line).ok();
        let ours = Greeting {
            hello: Hello::ours(),
        };
        assert_eq!(read(&serde_json::to_string(&ours).unwrap()), Some(ours));
        let later = read(r#"{"hello":{"version":"9.0.0","protocol":7,"since":2},"zip":true}"#);
        let later = later.unwrap().hello;
        assert_eq!((later.protocol, later.is_understood()), (7, false));
        for other in [r#"{"op":"info"}"#, r#""ok""#, r#"{"error":"x"}"#, "", "{"] {
            assert_eq!(read(other), None, "{other}");
        }
    }

    #[test]
    fn a_peer_of_another_version_is_told_in_one_line_what_to_do() {
        let name = VmName::new("p").unwrap();
        let other = Hello {
            version: "0.9.0".to_owned(),
            protocol: 3,
        };
        let other = Peer::Greeted(other);
        for message in [
            other_vm(&name, &Peer::First),
            other_vm(&name, &other),
            other_client(&Peer::First),
            other_client(&other),
        ] {
            assert!(
                !message.contains('\n') && message.contains("stop"),
                "{message}"
            );
            assert!(message.contains(VERSION), "{message}");
        }
        assert!(other_vm(&name, &other).contains("hyperfork 0.9.0 (protocol 3)"));
    }

    #[test]
    fn a_version_that_is_no_version_does_not_fill_the_message() {
        let message = other_client(&Peer::Greeted(Hello {
            version: format!("\u{1b}[2J{}", "9".repeat(1 << 20)),
            protocol: 9,
        }));
        assert!(message.len() < 300, "{}", message.len());
        assert!(message.contains("hyperfork \\u{1b}[2J99"), "{message}");
    }
}
