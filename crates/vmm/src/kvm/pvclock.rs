//! Updates the pages from which a guest reads kvm-clock (Documentation/virt/kvm/x86/msr.rst,
//! MSR_KVM_SYSTEM_TIME_NEW).
//!
//! KVM updates a vCPU's page when that vCPU enters the guest. But programs on **all** CPUs read the
//! page of the first one (Linux's vDSO). If another vCPU is the first to enter after a fork or a
//! pause, its programs compute the time from an old page, as if there had been neither. When the
//! first vCPU enters, KVM updates the page, and the clock goes back. So all pages are updated
//! before any vCPU enters.

use super::{KvmError, Vcpu, Vm, call};
use crate::memory::GuestMemoryMmap;
use crate::sys::clock::host_tsc;
use kvm_bindings::{Msrs, kvm_msr_entry};
use vm_memory::{Bytes, GuestAddress};

/// Which page a vCPU uses, and in bit 0 whether it does; the other is its old number.
const SYSTEM_TIME: [u32; 2] = [0x4b56_4d01, 0x12];
const ENABLED: u64 = 1;

/// Fields of `struct pvclock_vcpu_time_info`.
const VERSION: u64 = 0;
const TSC_TIMESTAMP: u64 = 8;
const SYSTEM_TIME_NS: u64 = 16;

impl Vm {
    /// Sets kvm-clock, also in the pages of vCPUs that do not run.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn set_clock_of<'a>(
        &self,
        vcpus: impl Iterator<Item = impl std::ops::Deref<Target = Vcpu> + 'a>,
        memory: &GuestMemoryMmap,
        kvm_clock_ns: u64,
    ) -> Result<(), KvmError> {
        self.set_clock(kvm_clock_ns)?;
        // In this order the pages are not ahead of what KVM will write.
        let clock = self.clocks()?.kvm_clock_ns;
        let tsc = host_tsc();
        for vcpu in vcpus {
            if let Some(page) = vcpu.clock_page()? {
                // A page outside of guest memory is the guest's own fault.
                let _ = show(memory, page, tsc.wrapping_add(vcpu.tsc_offset()?), clock);
            }
        }
        Ok(())
    }
}

impl Vcpu {
    /// The guest-physical address of its page, if the guest uses one.
    fn clock_page(&self) -> Result<Option<u64>, KvmError> {
        for index in SYSTEM_TIME {
            let entry = kvm_msr_entry {
                index,
                ..Default::default()
            };
            let mut msrs = Msrs::from_entries(&[entry]).expect("one MSR");
            let read = self.fd.get_msrs(&mut msrs).map_err(call("KVM_GET_MSRS"))?;
            let value = msrs.as_slice()[0].data;
            if read == 1 && value & ENABLED != 0 {
                return Ok(Some(value & !ENABLED));
            }
        }
        Ok(None)
    }
}

/// Writes to the page that at the guest's TSC `tsc` the clock is `clock`, nanoseconds.
fn show(
    memory: &GuestMemoryMmap,
    page: u64,
    tsc: u64,
    clock: u64,
) -> Result<(), vm_memory::GuestMemoryError> {
    let field = |at: u64| GuestAddress(page.wrapping_add(at));
    let version: u32 = memory.read_obj(field(VERSION))?;
    memory.write_obj(tsc, field(TSC_TIMESTAMP))?;
    memory.write_obj(clock, field(SYSTEM_TIME_NS))?;
    // A new even version: a program that was just reading reads again.
    memory.write_obj((version | 1).wrapping_add(1), field(VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_shows_what_it_is_told_and_its_readers_notice() {
        let memory = crate::memory::region::zeroed(&[(GuestAddress(0), 0x1000)]);
        memory.write_obj(7u32, GuestAddress(0x40)).unwrap();
        memory.write_obj(0xabcdu32, GuestAddress(0x58)).unwrap();
        for version in [8, 10] {
            show(&memory, 0x40, 5, 6).unwrap();
            let read = |at: u64| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
            assert_eq!([read(0x40), read(0x48), read(0x50)], [version, 5, 6]);
            // The rate stays as KVM has set it.
            assert_eq!(read(0x58), 0xabcd);
        }
        for nowhere in [0xff8, 0x1000, u64::MAX - 7] {
            assert!(show(&memory, nowhere, 0, 0).is_err());
        }
    }
}
