//! Events of VMs: what `hyperfork events --json` prints, and what a VM's process sends to its
//! [subscribers](crate::control::Subscribe).

use crate::VmName;
use serde::{Deserialize, Serialize};
use std::fmt;

/// An event of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When it happened, milliseconds since 1970.
    pub time_unix_ms: u64,
    /// The VM.
    pub vm: VmName,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// Its machine runs: it boots, or it is a clone of `parent`.
    Started {
        /// Name of its image.
        image: String,
        /// `null` if it boots.
        parent: Option<VmName>,
    },
    /// It is ready: clients may talk to its guest.
    Ready {
        /// From the request to now, microseconds.
        ready_us: u64,
    },
    /// It was forked.
    Forked {
        /// The clones that came to life.
        clones: Vec<VmName>,
        /// How many clones did not.
        failed: u32,
    },
    /// Its vCPUs are stopped.
    Paused,
    /// They run again.
    Resumed,
    /// Its main program has ended, or its guest has sent the result of its work.
    Exited {
        /// The exit status, or the result.
        status: i32,
    },
    /// It has ended: it was stopped, or its guest has powered off.
    Stopped,
    /// It has failed.
    Failed {
        /// Why, in one line.
        error: String,
    },
    /// Its directory is removed, and its name is free.
    Removed,
}

impl EventKind {
    /// Whether the VM has ended with this event.
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Stopped | Self::Failed { .. } | Self::Removed)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Started {
                image,
                parent: None,
            } => write!(f, "started from {image}"),
            Self::Started {
                parent: Some(parent),
                ..
            } => write!(f, "started as a clone of {parent}"),
            Self::Ready { ready_us } => write!(f, "ready after {ready_us} µs"),
            Self::Forked { clones, failed } => {
                write!(f, "forked:")?;
                for clone in clones {
                    write!(f, " {clone}")?;
                }
                match failed {
                    0 => Ok(()),
                    failed => write!(f, " ({failed} failed)"),
                }
            }
            Self::Paused => f.write_str("paused"),
            Self::Resumed => f.write_str("resumed"),
            Self::Exited { status } => write!(f, "exited with {status}"),
            Self::Stopped => f.write_str("stopped"),
            Self::Failed { error } => write!(f, "failed: {error}"),
            Self::Removed => f.write_str("removed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_flat_document() {
        let name = |name: &str| VmName::new(name).unwrap();
        for (kind, rest) in [
            (EventKind::Paused, r#""event":"paused""#),
            (
                EventKind::Exited { status: 3 },
                r#""event":"exited","status":3"#,
            ),
            (
                EventKind::Forked {
                    clones: vec![name("p-1")],
                    failed: 1,
                },
                r#""event":"forked","clones":["p-1"],"failed":1"#,
            ),
        ] {
            let event = Event {
                time_unix_ms: 1,
                vm: name("p"),
                kind,
            };
            let line = serde_json::to_string(&event).unwrap();
            assert_eq!(line, format!(r#"{{"time_unix_ms":1,"vm":"p",{rest}}}"#));
            assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        }
    }
}
