//! The fingerprint of this host: what a captured machine depends on.

use super::{Host, KvmError, Vcpu, call};
use crate::sys::host::{boot_id, xcr0};
use hyperfork_state::{BootId, CpuidLeaf, HostFingerprint};
use std::sync::Arc;

impl Host {
    /// This host's fingerprint, found out once. `vcpu` is any that KVM has made here: only
    /// they tell the TSC's frequency.
    ///
    /// # Errors
    /// [`KvmError`].
    pub fn fingerprint(&self, vcpu: &Vcpu) -> Result<Arc<HostFingerprint>, KvmError> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(known.clone());
        }
        // Of the only vCPU there is: otherwise the answers tell which one was asked.
        let cpuid = self.cpuid_for(0, 1)?;
        let leaves = cpuid.as_slice().iter();
        let leaves = leaves.filter(|leaf| !tells_of_core(leaf.function));
        let leaves = leaves.map(|leaf| CpuidLeaf {
            function: leaf.function,
            index: leaf.index,
            answer: [leaf.eax, leaf.ebx, leaf.ecx, leaf.edx],
        });
        let fingerprint = Arc::new(HostFingerprint {
            kind: self.kind(),
            cpuid: leaves.collect(),
            xcr0: xcr0(),
            tsc_khz: vcpu.tsc_khz()?,
            boot: BootId(boot_id().map_err(KvmError::BootId)?),
        });
        Ok(self.fingerprint.get_or_init(|| fingerprint).clone())
    }
}

/// Whether a leaf of CPUID tells of caches, TLBs or topology. KVM asks the core that it is
/// called on, and a processor may have two kinds of cores. No program depends on it.
fn tells_of_core(function: u32) -> bool {
    matches!(
        function,
        2 | 4 | 0xb | 0x1f | 0x8000_0005 | 0x8000_0006 | 0x8000_0019 | 0x8000_001d | 0x8000_001e
    )
}

impl Vcpu {
    /// The TSC's frequency, kHz; 0 where KVM does not know it.
    fn tsc_khz(&self) -> Result<u32, KvmError> {
        match self.fd.get_tsc_khz() {
            // What KVM says of a host whose TSC is not stable (api.rst, KVM_GET_TSC_KHZ).
            Err(error) if error.errno() == libc::EIO => Ok(0),
            other => other.map_err(call("KVM_GET_TSC_KHZ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::kvm::{Host, Vcpu, Vm};
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    #[test]
    fn a_host_has_one_fingerprint_whichever_of_its_processors_is_asked() {
        let fingerprint = |cpu| {
            let mut only = CpuSet::new();
            only.set(cpu);
            sched_setaffinity(None, &only).unwrap();
            let host = Host::open().expect("these tests need /dev/kvm");
            let vm = Vm::new(&host).unwrap();
            // Another CPU of another machine each time.
            let vcpu = Vcpu::new(&host, &vm, 1, 2).unwrap();
            host.fingerprint(&vcpu).unwrap()
        };
        let may = sched_getaffinity(None).unwrap();
        let mut cpus = (0..CpuSet::MAX_CPU).filter(|&cpu| may.is_set(cpu));
        let first = fingerprint(cpus.next().unwrap());
        assert!(!first.cpuid.is_empty());
        for cpu in cpus {
            assert_eq!(first.check(&fingerprint(cpu)), Ok(()), "CPU {cpu}");
        }
    }
}
