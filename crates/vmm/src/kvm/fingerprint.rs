//! What of this host a captured machine depends on.

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
        let leaves = cpuid.as_slice().iter().map(|leaf| CpuidLeaf {
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

    #[test]
    fn a_host_that_is_opened_twice_has_one_fingerprint() {
        let fingerprint = || {
            let host = Host::open().expect("these tests need /dev/kvm");
            let vm = Vm::new(&host).unwrap();
            // Another CPU of another machine each time.
            let vcpu = Vcpu::new(&host, &vm, 1, 2).unwrap();
            host.fingerprint(&vcpu).unwrap()
        };
        let (first, second) = (fingerprint(), fingerprint());
        assert_eq!(first.check(&second), Ok(()));
        assert!(!first.cpuid.is_empty());
    }
}
