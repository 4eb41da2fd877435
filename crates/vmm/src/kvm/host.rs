//! What kind of KVM this host has.

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
    /// Whether local APICs can be told a time of the TSC at which to interrupt.
    tsc_deadline: bool,
    /// See [`fingerprint`](Self::fingerprint).
    pub(super) fingerprint: OnceLock<Arc<HostFingerprint>>,
}

/// The CPUID leaf that tells what KVM has for its guests (cpuid.rst).
const KVM_FEATURES: u32 = 0x4000_0001;

/// Of these what guests do by hypercalls: wake a CPU, flush another's TLB, interrupt several
/// at once, yield to one. On a PVM host no hypercall of an emulated kernel ever returns, so a
/// guest with more than two CPUs would hang as soon as two are to hear of the same thing.
const BY_HYPERCALL: u32 = 1 << 7 | 1 << 9 | 1 << 11 | 1 << 13;

/// Capabilities without which nothing works.
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

    /// Who executes guest code here.
    pub fn kind(&self) -> HostKind {
        self.kind
    }

    /// Whether KVM can tell and set the guest's clock against real time.
    pub fn clock_knows_realtime(&self) -> bool {
        let flags = self.kvm.check_extension_int(Cap::AdjustClock);
        flags as u32 & kvm_bindings::KVM_CLOCK_REALTIME != 0
    }

    /// The CPUID that vCPU `index` of `count` gets: all the host offers, with the
    /// leaves that tell a CPU which one it is.
    ///
    /// KVM never lists the TSC deadline, for only with a local APIC in the kernel it has
    /// it (api.rst, KVM_GET_SUPPORTED_CPUID). It matters: without it a guest finds out by
    /// counting ticks of the PIT how fast its APIC's timer is. Of a guest that was kept
    /// waiting, KVM makes up for all ticks at once, and from then on its timers fire many
    /// times too often, which on a slow host is all it ever does.
    pub(super) fn cpuid_for(&self, index: u8, count: u8) -> CpuId {
        let mut cpuid = self.cpuid.clone();
        for entry in cpuid.as_mut_slice() {
            match entry.function {
                // Intel SDM vol. 2A, CPUID: initial APIC ID and CPUs per package.
                1 => {
                    entry.ebx &= 0x0000_ffff;
                    entry.ebx |= u32::from(index) << 24 | u32::from(count) << 16;
                    entry.ecx |= 1 << 31; // there is a hypervisor
                    entry.ecx |= u32::from(self.tsc_deadline) << 24;
                }
                // Extended topology: x2APIC ID.
                0xb | 0x1f => entry.edx = u32::from(index),
                // AMD APM vol. 3, extended APIC ID.
                0x8000_001e => entry.eax = u32::from(index),
                KVM_FEATURES if self.kind == HostKind::Pvm => entry.eax &= !BY_HYPERCALL,
                _ => {}
            }
        }
        cpuid
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
