//! The version handshake: which protocol a peer speaks, and what to tell the user about a peer
//! that speaks another. After an upgrade, VMs that an earlier version has started still run.

use crate::VmName;
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

/// The message of a client whose VM's process speaks another protocol; `None` where it has not
/// named one.
pub fn other_vm(name: &VmName, vm: Option<&Hello>) -> String {
    format!(
        "{name} was started by {}, which this one ({VERSION}, protocol {PROTOCOL}) cannot talk \
         to: use that version, or end the VM with `hyperfork stop {name}`",
        named_version(vm)
    )
}

/// The message of a VM's process whose client speaks another protocol; `None` where it has not
/// named one.
pub fn other_client(client: Option<&Hello>) -> String {
    format!(
        "hyperfork {VERSION} (protocol {PROTOCOL}) started this VM, and cannot be talked to by \
         {}: use version {VERSION}, also to stop the VM",
        named_version(client)
    )
}

fn named_version(hello: Option<&Hello>) -> String {
    match hello {
        Some(hello) => format!("hyperfork {} (protocol {})", hello.version, hello.protocol),
        None => "an older hyperfork".to_owned(),
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
        for message in [
            other_vm(&name, None),
            other_vm(&name, Some(&other)),
            other_client(None),
            other_client(Some(&other)),
        ] {
            assert!(
                !message.contains('\n') && message.contains("stop"),
                "{message}"
            );
            assert!(message.contains(VERSION), "{message}");
        }
        assert!(other_vm(&name, Some(&other)).contains("hyperfork 0.9.0 (protocol 3)"));
    }
}
