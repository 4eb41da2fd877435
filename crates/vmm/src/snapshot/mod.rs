//! A machine at rest: what a fork hands to its children, and what a snapshot
//! keeps. Memory and descriptors go beside it (see [`RamImageState`] and
//! [`FdTable`](crate::sys::fds::FdTable)).

use crate::devices::serial::SerialState;
use crate::devices::virtio::transport::TransportState;
use crate::kvm::{VcpuState, VmState};
use crate::memory::image::RamImageState;
use hyperfork_api::{Bytes, NetKind};
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// All of a machine but its identity.
#[derive(Debug, Serialize, Deserialize)]
pub struct MachineState {
    /// How it is built.
    pub shape: Shape,
    /// Its interrupt controllers, timer and clock.
    pub vm: VmState,
    /// Its CPUs, in order.
    pub vcpus: Vec<VcpuState>,
    /// Its serial port.
    pub serial: SerialState,
    /// Its virtio devices, by slot.
    pub devices: Vec<TransportState>,
    /// What its guest reads of the fork it has asked for
    /// ([`ForkStatus`](hyperfork_api::signal::ForkStatus)).
    pub guest_fork: u32,
    /// Its memory.
    pub ram: RamImageState,
}

/// What makes shells ready for clones of one line before there are any.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Primer {
    /// Memory as it was at the last fork.
    pub image: RamImageState,
    /// Pages, as ranges of bytes, that clones write first.
    pub touched: Vec<Range<usize>>,
}

/// What has to be known to build a shell for a machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Shape {
    /// Virtual CPUs.
    pub cpus: u8,
    /// Guest memory.
    pub memory: Bytes,
    /// How many rings each virtio device has, by slot.
    pub rings: Vec<u8>,
    /// The kind of network around it, if any.
    pub net: Option<NetKind>,
    /// Whether it has shared directories, whose devices open files by name.
    pub shares: bool,
}
