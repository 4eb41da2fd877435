//! KVM: the host's support, VMs and vCPUs, and their state.

pub mod clock;
mod cpuid;
mod exact;
mod fingerprint;
pub mod host;
mod lapic;
mod pvclock;
pub mod requests;
#[cfg(test)]
mod samples;
mod tsc;
pub mod vcpu;
pub mod vm;
pub mod xstate;

pub use clock::{ClockPlan, Clocks};
pub use host::{Host, HostKind};
pub use vcpu::{Vcpu, VcpuState, WARM_UP_CODE};
pub use vm::{Vm, VmState};
pub use xstate::XstateLayout;

use std::io;

/// Why KVM could not do something.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// There is no `/dev/kvm`.
    #[error(
        "this host has no /dev/kvm: load the kvm module, or enable virtualization in the firmware or the hypervisor; `hyperfork doctor` tells more"
    )]
    Missing,
    /// It may not be opened.
    #[error(
        "no permission to open /dev/kvm: join the group that owns it (usually `kvm`) or run as root"
    )]
    Permission,
    /// It could not be opened for another reason.
    #[error("cannot open /dev/kvm")]
    Open(#[source] io::Error),
    /// The kernel lacks something the monitor cannot do without.
    #[error("this host's KVM lacks {0}")]
    Capability(&'static str),
    /// The host's boot ID cannot be read.
    #[error("cannot read this host's boot id")]
    BootId(#[source] io::Error),
    /// A call failed.
    #[error("{call} failed")]
    Call {
        /// The ioctl, as in KVM's api.rst.
        call: &'static str,
        /// The kernel's reason.
        source: io::Error,
    },
    /// A clock value that no machine can have.
    #[error("kvm-clock cannot go on from {0} ns")]
    Clock(u64),
    /// More CPUID leaves than KVM takes.
    #[error("a vCPU of this host would have {0} CPUID leaves, more than KVM takes")]
    Cpuid(usize),
    /// A model-specific register of the state is refused by this host.
    #[error("this host refuses MSR {index:#x} of the state")]
    Msr {
        /// Its index.
        index: u32,
    },
}

/// Names the ioctl that failed.
fn call(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Call {
        call,
        source: io::Error::from_raw_os_error(error.errno()),
    }
}
