//! The host's KVM: opening it, and what it supports.

use super::cpuid::{self, GuestCpu};
use super::{KvmError, call};
use hyperfork_state::HostFingerprint;
pub use hyperfork_state::HostKind;
use kvm_bindings::{CpuId, KVM_MAX_CPUID_ENTRIES};
use kvm_ioctls::{Cap, Kvm};
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// This host's KVM, open.
#[derive(Debug)]
pub struct Host {
    pub(super) kvm: Kvm,
    kind: HostKind,
    cpuid: CpuId,
    /// Whether local APICs have the TSC-deadline mode.
    tsc_deadline: bool,
    /// See [`fingerprint`](Self::fingerprint).
    pub(super) fingerprint: OnceLock<Arc<HostFingerprint>>,
}

/// The KVM capabilities that the monitor needs.
const NEEDED: [(Cap, &str); 9] = [
    (Cap::Irqchip, "an in-kernel interrupt controller"),
    (Cap::Irqfd, "irqfd"),
    (Cap::Ioeventfd, "ioeventfd"),
    (Cap::UserMemory, "user memory slots"),
    (Cap::ImmediateExit, "immediate_exit"),
    (Cap::Pit2, "an in-kernel timer (PIT)"),
    (Cap::Xsave, "KVM_GET_XSAVE"),
    (Cap::VcpuEvents, "KVM_GET_VCPU_EVENTS"),
    (Cap::AdjustClock, "KVM_SET_CLOCK"),
];

impl Host {
    /// Opens `/dev/kvm` and finds out what it is.
    ///
    /// # Errors
    /// [`KvmError`] where there is none, it may not be opened, or it is too old.
    pub fn open() -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => KvmError::Missing,
            libc::EACCES | libc::EPERM => KvmError::Permission,
            errno => KvmError::Open(io::Error::from_raw_os_error(errno)),
        })?;
        if let Some((_, name)) = NEEDED.iter().find(|(cap, _)| !kvm.check_extension(*cap)) {
            return Err(KvmError::Capability(name));
        }
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(call("KVM_GET_SUPPORTED_CPUID"))?;
        let kind = kind();
        let tsc_deadline = kind == HostKind::Hardware && kvm.check_extension(Cap::TscDeadlineTimer);
        Ok(Self {
            kvm,
            kind,
            cpuid,
            tsc_deadline,
            fingerprint: OnceLock::new(),
        })
    }

    /// How this host runs guest code.
    pub fn kind(&self) -> HostKind {
        self.kind
    }

    /// Whether KVM supports KVM_CLOCK_REALTIME.
    pub fn clock_knows_realtime(&self) -> bool {
        let flags = self.kvm.check_extension_int(Cap::AdjustClock);
        flags as u32 & kvm_bindings::KVM_CLOCK_REALTIME != 0
    }

    /// The CPUID that vCPU `index` of `count` gets.
    ///
    /// # Errors
    /// [`KvmError::Cpuid`].
    pub(super) fn cpuid_for(&self, index: u8, count: u8) -> Result<CpuId, KvmError> {
        let cpu = GuestCpu {
            index,
            count,
            tsc_deadline: self.tsc_deadline,
            hypercalls: self.kind == HostKind::Hardware,
        };
        let leaves = cpuid::of_guest(self.cpuid.as_slice(), cpu);
        CpuId::from_entries(&leaves).map_err(|_| KvmError::Cpuid(leaves.len()))
    }
}

/// PVM is there when its module is and the processor's extension is not: on a
/// host with both, `kvm_intel` or `kvm_amd` owns `/dev/kvm`.
fn kind() -> HostKind {
    let loaded = |module: &str| Path::new("/sys/module").join(module).exists();
    if loaded("kvm_pvm") && !loaded("kvm_intel") && !loaded("kvm_amd") {
        HostKind::Pvm
    } else {
        HostKind::Hardware
    }
}
