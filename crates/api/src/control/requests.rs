//! The requests, and the types of their replies. A field that this version does not know is refused:
//! it may be misspelt, and ignoring it would do something else than was asked for.

use crate::{ForkReport, Secrets, Strategy, VmInfo, VmName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::path::PathBuf;

/// A request.
pub trait Ask: Into<Request> {
    /// The type of the reply.
    type Reply: Serialize + DeserializeOwned;
}

/// Makes [`Request`] of the types of requests, and names the type of each reply.
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
    /// Get the VM's description.
    Info => VmInfo,
    /// Wait until the VM is ready, or has failed.
    WaitReady => (),
    /// Wait until the main program, or the VM, has ended.
    WaitExit => VmInfo,
    /// Pause the vCPUs.
    Pause => (),
    /// Resume the vCPUs.
    Resume => (),
    /// Fork the VM.
    Fork => ForkReport,
    /// Write a disk as it is now into a new raw image.
    ExportDisk => (),
    /// Sample the vCPUs' instruction pointers.
    Sample => Vec<Sampled>,
    /// Stop the VM.
    Stop => (),
    /// Subscribe to the VM's events.
    Subscribe => (),
}

/// Get the VM's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Info {}

/// Wait until the VM is ready, or has failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitReady {}

/// Wait until the main program, or the VM, has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WaitExit {}

/// Pause the vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {}

/// Resume the vCPUs. With an agent in the guest, the answer comes when the agent has set the
/// clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {}

/// Fork the VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fork {
    /// How many clones, from 1.
    pub count: u32,
    /// Clones are named `<prefix>-<k>`; the parent's name where unset.
    #[serde(default)]
    pub prefix: Option<VmName>,
    /// The strategy.
    #[serde(default)]
    pub strategy: Strategy,
    /// The clones' secrets. They do not get their parent's.
    #[serde(default)]
    pub secrets: Secrets,
    /// Milliseconds after which a clone that is not ready has failed; the parent's limit where unset.
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
#[serde(deny_unknown_fields)]
pub struct ExportDisk {
    /// The disk, as [`DiskInfo::device`](crate::DiskInfo).
    pub device: String,
    /// The image, an absolute path; an existing file is replaced.
    pub path: PathBuf,
}

/// Sample the vCPUs' instruction pointers: a profiler for guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sample {
    /// How many samples to take.
    pub count: u32,
    /// Microseconds between two samples.
    pub interval_us: u32,
}

/// An instruction pointer at which vCPUs were sampled. A profile has the most frequent first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sampled {
    /// Its address, as the guest sees it.
    pub rip: u64,
    /// In how many samples.
    pub count: u32,
}

/// Stop the VM: the guest is asked to power off, and the VM is ended after the grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Milliseconds the guest has to power off; 0 ends it at once.
    pub grace_ms: u64,
}

/// Subscribe to the VM's events: those from now on, and those since `since_unix_ms` that the
/// VM's process still keeps. A subscriber that does not read its events is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
    fn a_field_that_a_request_does_not_have_is_refused_and_not_ignored() {
        for line in [
            r#"{"fork":{"count":2,"best_efort":true}}"#,
            r#"{"stop":{"grace_ms":0,"now":true}}"#,
            r#"{"pause":{"for":1}}"#,
        ] {
            let error = serde_json::from_str::<Request>(line).unwrap_err();
            assert!(error.to_string().contains("unknown field"), "{error}");
        }
    }

    #[test]
    fn a_request_does_nothing_in_a_vm_of_the_first_protocol() {
        // In the first protocol a request was a document with an `op` in it.
        let line = serde_json::to_value(Request::from(Fork::new(2))).unwrap();
        assert!(line.get("op").is_none(), "{line}");
        assert!(serde_json::from_str::<Request>(r#"{"op":"pause"}"#).is_err());
    }
}
