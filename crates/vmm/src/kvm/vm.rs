//! A KVM VM and the state it holds beside its vCPUs.

use super::{Clocks, Host, KvmError, call};
use crate::memory::{Ram, layout};
use crate::sys::clock::{Monotonic, host_tsc};
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

/// What a VM holds beside memory and vCPUs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VmState {
    pic_master: kvm_irqchip,
    pic_slave: kvm_irqchip,
    ioapic: kvm_irqchip,
    pit: kvm_pit_state2,
    /// What its clocks showed.
    pub clocks: Clocks,
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

    /// Has the guest's 4-byte writes of `value` to `address` signal `event`.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn on_write(&self, address: u64, value: u32, event: &EventFd) -> Result<(), KvmError> {
        self.fd
            .register_ioevent(event, &IoEventAddress::Mmio(address), value)
            .map_err(call("KVM_IOEVENTFD"))
    }

    /// Has `event` raise interrupt `irq`.
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

    /// Reads the state. All vCPUs must stand still.
    ///
    /// # Errors
    /// [`KvmError::Call`].
    pub fn save(&self) -> Result<VmState, KvmError> {
        // The clocks first: the less passes between them and the vCPUs, the better.
        let clocks = self.clocks()?;
        Ok(VmState {
            pic_master: self.irqchip(KVM_IRQCHIP_PIC_MASTER)?,
            pic_slave: self.irqchip(KVM_IRQCHIP_PIC_SLAVE)?,
            ioapic: self.irqchip(KVM_IRQCHIP_IOAPIC)?,
            pit: self.fd.get_pit2().map_err(call("KVM_GET_PIT2"))?,
            clocks,
        })
    }

    /// Sets interrupt controllers and timer. After the vCPUs: setting the IOAPIC
    /// delivers what it has pending to the local APICs, whose state must already
    /// be there or would wipe it out.
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
        // The time first: should this thread be held up in between, a clone's clock is
        // ahead by that, and not behind what its parent has seen.
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
        // By our own reckoning of what has passed, and without KVM_CLOCK_REALTIME (api.rst,
        // KVM_SET_CLOCK): not every host has that, and with it the guest would live through
        // it when the host's clock is put forward.
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
