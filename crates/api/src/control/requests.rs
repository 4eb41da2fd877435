//! The requests, and what each is answered with.

use crate::{ForkReport, Secrets, Strategy, VmInfo, VmName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::PathBuf;

/// A request.
pub trait Ask: Into<Request> {
    /// What it is answered with when it is done.
    type Reply: Serialize + DeserializeOwned;
}

/// Makes [`Request`] of the types of requests, and says what each is answered with.
macro_rules! requests {
    ($($(#[$meta:meta])* $name:ident => $reply:ty,)*) => {
        /// Any request, as it is on the wire: `{"<name>":{<its fields>}}`.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Request {
            $($(#[$meta])* $name($name),)*
        }

        $(
            impl Ask for $name {
                type Reply = $reply;
            }

            impl From<$name> for Request {
                fn from(request: $name) -> Self {
                    Self::$name(request)
                }
            }
        )*
    };
}

requests! {
    /// Tell about yourself.
    Info => VmInfo,
    /// Answer when the VM is ready, or when it has failed to become so.
    WaitReady => (),
    /// Answer when the main program has ended (or the VM has).
    WaitExit => VmInfo,
    /// Stop the vCPUs where they are.
    Pause => (),
    /// Let the vCPUs run on.
    Resume => (),
    /// Clone yourself.
    Fork => ForkReport,
    /// Write a disk as it is now into a new raw image.
    ExportDisk => (),
    /// Look where the vCPUs are, many times over.
    Sample => Vec<Sampled>,
    /// End.
    Stop => (),
    /// Tell what happens.
    Subscribe => (),
}

/// Tell about yourself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Info {}

/// Answer when the VM is ready, or when it has failed to become so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WaitReady {}

/// Answer when the main program has ended (or the VM has).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct WaitExit {}

/// Stop the vCPUs where they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pause {}

/// Let the vCPUs run on. Where the guest has an agent, the answer comes when its clock is
/// right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Resume {}

/// Clone yourself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fork {
    /// How many clones, from 1.
    pub count: u32,
    /// Clones are named `<prefix>-<k>`; the parent's name where unset.
    #[serde(default)]
    pub prefix: Option<VmName>,
    /// How.
    #[serde(default)]
    pub strategy: Strategy,
    /// What the clones may know. They know none of their parent's.
    #[serde(default)]
    pub secrets: Secrets,
    /// Milliseconds after which a clone that is not ready is given up; the parent's where unset.
    #[serde(default)]
    pub ready_timeout_ms: Option<u64>,
    /// Whether clones succeed or fail one by one; otherwise all come to life or none does.
    #[serde(default)]
    pub best_effort: bool,
}

impl Fork {
    /// A request for so many clones, with nothing else asked for.
    pub fn new(count: u32) -> Self {
        Self {
            count,
            prefix: None,
            strategy: Strategy::Image,
            secrets: Secrets::default(),
            ready_timeout_ms: None,
            best_effort: false,
        }
    }
}

/// Write a disk as it is now into a new raw image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportDisk {
    /// Which, as [`DiskInfo::device`](crate::DiskInfo).
    pub device: String,
    /// The image, an absolute path; a file that is there is replaced.
    pub path: PathBuf,
}

/// Look where the vCPUs are, many times over: a profiler for guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// How often.
    pub count: u32,
    /// Microseconds between two looks.
    pub interval_us: u32,
}

/// An instruction at which vCPUs were found. A profile has the most frequent first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    /// Its address, as the guest sees it.
    pub rip: u64,
    /// How many times.
    pub count: u32,
}

/// End: ask the guest first, and end without it after this long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stop {
    /// Milliseconds the guest has to power off; 0 ends it at once.
    pub grace_ms: u64,
}

/// Tell what happens from now on, and what has since `since_unix_ms`, as far as the VM's
/// process keeps it. A subscriber that does not read what it is told is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// Milliseconds since 1970.
    pub since_unix_ms: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_on_the_wire_is_its_name_and_its_fields() {
        for (request, line) in [
            (Request::from(Info {}), r#"{"info":{}}"#),
            (
                Request::from(Stop { grace_ms: 0 }),
                r#"{"stop":{"grace_ms":0}}"#,
            ),
            (Request::from(Fork::new(2)), r#"{"fork":{"count":2}}"#),
        ] {
            assert_eq!(serde_json::from_str::<Request>(line).unwrap(), request);
        }
        let line = serde_json::to_string(&Request::from(WaitExit {})).unwrap();
        assert_eq!(line, r#"{"wait_exit":{}}"#);
    }

    #[test]
    fn a_request_does_nothing_in_a_vm_of_the_first_protocol() {
        // There a request was a document with an `op` in it.
        let line = serde_json::to_value(Request::from(Fork::new(2))).unwrap();
        assert!(line.get("op").is_none(), "{line}");
        assert!(serde_json::from_str::<Request>(r#"{"op":"pause"}"#).is_err());
    }
}
