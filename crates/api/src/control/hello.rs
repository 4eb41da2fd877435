//! Which protocol a peer speaks, and what to do about one that speaks another: after an upgrade
//! VMs live on that the version before has started.

use crate::VmName;
use serde::{Deserialize, Serialize};

/// The protocol's number. It changes with everything that a peer of another number could take
/// amiss; the first one had none, and no [`Hello`].
pub const PROTOCOL: u32 = 2;

/// This version of HyperFork.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The first line on a connection, each way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who says so, for people.
    pub version: String,
    /// [`PROTOCOL`].
    pub protocol: u32,
}

/// A [`Hello`] as it is on the wire. What later versions add to either level means nothing
/// here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Greeting {
    /// What it says.
    pub hello: Hello,
}

/// An error as clients of the first protocol read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FirstProtocolError {
    /// One line.
    pub error: String,
}

impl Hello {
    /// This version's.
    pub fn ours() -> Self {
        Self {
            version: VERSION.to_owned(),
            protocol: PROTOCOL,
        }
    }

    /// Whether the two understand each other.
    pub fn is_understood(&self) -> bool {
        self.protocol == PROTOCOL
    }
}

/// For a client: the VM's process speaks another protocol; `None` where it has not told which.
pub fn other_vm(name: &VmName, vm: Option<&Hello>) -> String {
    format!(
        "{name} was started by {}, which this one ({VERSION}, protocol {PROTOCOL}) cannot talk \
         to: use that version, or end the VM with `hyperfork stop {name}`",
        told(vm)
    )
}

/// For a VM's process: the client speaks another protocol; `None` where it has not told which.
pub fn other_client(client: Option<&Hello>) -> String {
    format!(
        "hyperfork {VERSION} (protocol {PROTOCOL}) started this VM, and cannot be talked to by \
         {}: use version {VERSION}, also to stop the VM",
        told(client)
    )
}

fn told(hello: Option<&Hello>) -> String {
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
        for words in [
            other_vm(&name, None),
            other_vm(&name, Some(&other)),
            other_client(None),
            other_client(Some(&other)),
        ] {
            assert!(!words.contains('\n') && words.contains("stop"), "{words}");
            assert!(words.contains(VERSION), "{words}");
        }
        assert!(other_vm(&name, Some(&other)).contains("hyperfork 0.9.0 (protocol 3)"));
    }
}
