//! A KVM VM: memory, interrupts and clocks, and its state without that of the vCPUs.

use super::{Clocks, Host, KvmError, call, exact};
use crate::memory::{Ram, layout};
use crate::sys::clock::{Monotonic, host_tsc};
use hyperfork_state::RecordType;
use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, KVM_PIT_SPEAKER_DUMMY,
    kvm_clock_data, kvm_irqchip, kvm_pit_config, kvm_pit_state2, kvm_userspace_memory_region,
};
use kvm_ioctls::{IoEventAddress, VmFd};
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::EventFd;

/// A VM with its interrupt controllers and timer, and no memory yet.
#[derive(Debug)]
pub struct Vm {
    pub(super) fd: VmFd,
}

/// The state of a VM without its memory and vCPUs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmState {
    #[serde(deserialize_with = "exact::deserialize")]
    pub(super) pic_master: kvm_irqchip,
    #[serde(deserialize_with = "exact::deserialize")]
    pub(super) pic_slave: kvm_irqchip,
    #[serde(deserialize_with = "exact::deserialize")]
    pub(super) ioapic: kvm_irqchip,
    #[serde(deserialize_with = "exact::deserialize")]
    pub(super) pit: kvm_pit_state2,
    /// What its clocks showed.
    pub clocks: Clocks,
}

impl RecordType for VmState {
    const KIND: &'static str = "kvm-vm";
    const VERSION: u16 = 1;
}

impl Vm {
    /// Makes a VM with in-kernel PICs, IOAPIC and PIT.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn new(host: &Host) -> Result<Self, KvmError> {
        let fd = host.kvm.create_vm().map_err(call("KVM_CREATE_VM"))?;
        fd.set_tss_address(layout::KVM_TSS as usize)
            .map_err(call("KVM_SET_TSS_ADDR"))?;
        fd.create_irq_chip().map_err(call("KVM_CREATE_IRQCHIP"))?;
        let pit = kvm_pit_config {
            flags: KVM_PIT_SPEAKER_DUMMY,
            ..Default::default()
        };
        fd.create_pit2(pit).map_err(call("KVM_CREATE_PIT2"))?;
        Ok(Self { fd })
    }

    /// Registers the RAM's addresses as the guest's memory. Whatever is mapped
    /// there, now or later, is what the guest sees.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    ///
    /// # Safety
    /// `ram` must live as long as this VM.
    pub unsafe fn set_memory(&self, ram: &Ram) -> Result<(), KvmError> {
        for (slot, region) in layout::ram_regions(ram.size()).into_iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.start,
                memory_size: region.len,
                userspace_addr: ram.host_base() as u64 + region.offset,
            };
            // SAFETY: the addresses belong to `ram`, which by contract lives as long.
            unsafe { self.fd.set_user_memory_region(region) }
                .map_err(call("KVM_SET_USER_MEMORY_REGION"))?;
        }
        Ok(())
    }

    /// Registers an ioeventfd: a 4-byte write of `value` to `address` by the guest signals
    /// `event`.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn on_write(&self, address: u64, value: u32, event: &EventFd) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)
            .map_err(call("KVM_IOEVENTFD"))
    }

    /// Registers an irqfd: signalling `event` raises interrupt `irq`.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn interrupt_on(&self, event: &EventFd, irq: u32) -> Result<(), KvmError> {
        self.fd
            .register_irqfd(event, irq)
            .map_err(call("KVM_IRQFD"))
    }

    /// Raises interrupt `irq` once, edge-triggered; queued when this returns.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn interrupt(&self, irq: u32) -> Result<(), KvmError> {
        for level in [true, false] {
            self.fd
                .set_irq_line(irq, level)
                .map_err(call("KVM_IRQ_LINE"))?;
        }
        Ok(())
    }

    /// Saves the state. No vCPU may be running.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn save(&self) -> Result<VmState, KvmError> {
        // The clocks first, so that little time passes between them and the vCPUs.
        let clocks = self.clocks()?;
        Ok(VmState {
            pic_master: self.irqchip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: self.irqchip(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: self.irqchip(KVM_IRQCHIP_IOAPIC)?,
            pit: self.fd.get_pit2().map_err(call("KVM_GET_PIT2"))?,
            clocks,
        })
    }

    /// Restores interrupt controllers and timer. This comes after the vCPUs: setting the IOAPIC
    /// delivers its pending interrupts to the local APICs, and setting a local APIC's state later
    /// would erase them.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn restore(&self, state: &VmState) -> Result<(), KvmError> {
        for chip in [&state.pic_master, &state.pic_slave, &state.ioapic] {
            self.fd.set_irqchip(chip).map_err(call("KVM_SET_IRQCHIP"))?;
        }
        self.fd.set_pit2(&state.pit).map_err(call("KVM_SET_PIT2"))
    }

    /// Reads the clocks.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn clocks(&self) -> Result<Clocks, KvmError> {
        // The host's time first: if this thread is preempted in between, a clone's clock is ahead
        // by that time, and never behind what its parent has seen.
        let (at, host_tsc) = (Monotonic::now(), host_tsc());
        let clock = self.fd.get_clock().map_err(call("KVM_GET_CLOCK"))?;
        Ok(Clocks {
            kvm_clock_ns: clock.clock,
            host_tsc,
            at,
        })
    }

    /// Sets kvm-clock.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn set_clock(&self, kvm_clock_ns: u64) -> Result<(), KvmError> {
        // The caller computes how much time has passed. KVM_CLOCK_REALTIME (api.rst, KVM_SET_CLOCK)
        // would do that, but not every host has it, and with it a change of the host's wall clock
        // would show as time passed.
        let clock = kvm_clock_data {
            clock: kvm_clock_ns,
            ..Default::default()
        };
        self.fd.set_clock(&clock).map_err(call("KVM_SET_CLOCK"))
    }

    fn irqchip(&self, chip_id: u32) -> Result<kvm_irqchip, KvmError> {
        let mut chip = kvm_irqchip {
            chip_id,
            ..Default::default()
        };
        self.fd
            .get_irqchip(&mut chip)
            .map_err(call("KVM_GET_IRQCHIP"))?;
        Ok(chip)
    }
}
