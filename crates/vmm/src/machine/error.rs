//! The errors of making, pausing and capturing a machine.

use super::slots::SlotError;
use super::vcpus::{End, VcpuJobError};
use crate::boot::BootError;
use crate::kvm::KvmError;
use crate::memory::layout;
use crate::memory::ram::RamError;
use crate::snapshot::Shape;
use hyperfork_state::OtherHost;
use std::io;
use std::time::Duration;

/// How long a machine may take to come to rest before the caller gets an error: a disk or shared
/// directory of the host may hang for any time, and the machine's owner must not hang with it.
pub(super) const REST_LIMIT: Duration = Duration::from_secs(10);

/// Why there is no machine, or no capture of one.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The state of a vCPU.
    #[error(transparent)]
    Vcpu(#[from] VcpuJobError),
    /// The machine has ended by itself.
    #[error("the machine has ended")]
    Ended(#[from] End),
    /// A vCPU or a device could not be stopped in time.
    #[error(
        "the machine did not come to rest within {} s: a disk or a shared directory of the host may hang",
        REST_LIMIT.as_secs()
    )]
    NotAtRest,
    /// Memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Kernel, initrd or command line.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A device.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// More devices than interrupt lines.
    #[error("{count} devices are too many: a VM has {max} slots", max = layout::VIRTIO_MAX)]
    TooManyDevices {
        /// Devices wanted.
        count: usize,
    },
    /// The state was captured on a host that differs from this one.
    #[error("the captured machine cannot go on here")]
    OtherHost(#[from] OtherHost),
    /// The state is for another kind of shell.
    #[error("a shell of {shell:?} cannot take a machine of {state:?}")]
    Shape {
        /// What there is.
        shell: Box<Shape>,
        /// What is needed.
        state: Box<Shape>,
    },
    /// A shell was to have no vCPU.
    #[error("a machine has at least one vCPU")]
    NoVcpu,
    /// The host failed in something else.
    #[error("{what} failed")]
    Host {
        /// What was attempted.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl MachineError {
    /// The host failed in `what`.
    pub fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}
