//! The nouns that HyperFork's parts share over the wire: names, sizes, machine
//! specifications, and the messages of the three protocols.
//!
//! | module | spoken between | encoding |
//! |---|---|---|
//! | [`control`], [`event`] | `hyperfork` (or the node) and a VM's process | one JSON document a line |
//! | [`guest`] | the host and the agent inside the guest | [`frame`]s of postcard |
//! | [`signal`] | any guest program and the monitor | two ports |
//! | [`clock`] | any guest program and the monitor | one port |
//! | [`xstate`] | a guest's kernel and the monitor | two ports |
//!
//! Pure data: nothing here opens a file or a socket, and nothing here imports
//! another crate of the workspace.
#![forbid(unsafe_code)]

pub mod clock;
pub mod control;
pub mod egress;
pub mod error;
pub mod event;
mod excerpt;
pub mod fork;
pub mod frame;
pub mod guest;
pub mod identity;
pub mod info;
pub mod name;
pub mod net;
mod one_line;
pub mod port;
pub mod secret;
pub mod signal;
pub mod size;
pub mod spec;
pub mod xstate;

pub use egress::Egress;
pub use error::{Code, Error};
pub use event::Event;
pub use excerpt::excerpt;
pub use fork::{CloneFailure, CloneReport, ForkReport, Phases, ShellSource, Strategy};
pub use identity::{Id, Identity};
pub use info::{DiskInfo, VmAbout, VmInfo, VmState, VmStatus, VmUsage};
pub use name::VmName;
pub use net::{Mac, NetKind, NetMode, Network};
pub use one_line::one_line;
pub use secret::Secrets;
pub use size::Bytes;
pub use spec::VmSpec;
