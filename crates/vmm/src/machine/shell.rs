//! A shell: a VM without guest state, made in advance because KVM takes milliseconds for it.

use super::MachineError;
use super::vcpus::Vcpus;
use crate::blobs::{BlobReader, Blobs};
use crate::devices::confinement::FileAccess;
use crate::devices::serial::COM1_IRQ;
use crate::devices::virtio::transport::Lines;
use crate::devices::worker::DeviceWorker;
use crate::kvm::{Host, Vcpu, Vm, WARM_UP_CODE};
use crate::memory::{Ram, RamImage, layout};
use crate::snapshot::{Preload, Shape};
use crate::sys::fault;
use hyperfork_state::HostFingerprint;
use std::sync::Arc;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// A VM with its vCPUs and their confined threads, interrupt controllers, memory slots over
/// reserved addresses, and the eventfds of all devices. Registering memory slots, timers and
/// eventfds waits for RCU grace periods of the host kernel, a millisecond or more each, so all of
/// it is done before it is needed.
///
/// The fields are in the order in which they must be dropped: threads before what they use, and
/// memory after the VM, whose memory slots refer to its addresses.
pub struct Shell {
    pub(super) vcpus: Vcpus,
    /// `None` if the machine has no virtio devices.
    pub(super) worker: Option<DeviceWorker>,
    pub(super) lines: Vec<Lines>,
    pub(super) serial_irq: EventFd,
    pub(super) vm: Vm,
    pub(super) ram: Ram,
    pub(super) shape: Shape,
    pub(super) host: Arc<HostFingerprint>,
}

impl Shell {
    /// Builds a shell for machines of this shape.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn new(host: &Host, shape: Shape) -> Result<Self, MachineError> {
        let ram = Ram::reserve(shape.memory.0)?;
        Self::build(host, shape, ram, false)
    }

    /// Builds a shell whose vCPUs have run once, for the pool, where that costs no fork any time.
    /// Only a clone can use it: a vCPU that has run is not in the state after power-on.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn warm(host: &Host, shape: Shape) -> Result<Self, MachineError> {
        let mut ram = Ram::reserve(shape.memory.0)?;
        ram.back_with_zeroes()
            .map_err(MachineError::host("mapping a page to warm up"))?;
        ram.memory()
            .write_slice(&WARM_UP_CODE, GuestAddress(0))
            .expect("every machine has memory at 0");
        Self::build(host, shape, ram, true)
    }

    /// Builds a shell with the given RAM, in a child made by `fork(2)` that has inherited it.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn with_ram(host: &Host, shape: Shape, ram: Ram) -> Result<Self, MachineError> {
        Self::build(host, shape, ram, false)
    }

    /// Maps memory in advance that the clones of one family share ([`Ram::preload`]).
    ///
    /// # Errors
    /// [`MachineError::Host`].
    pub fn preload(&mut self, preload: &Preload, carrier: &dyn Blobs) -> Result<(), MachineError> {
        let blobs = BlobReader::new(&preload.blobs, carrier);
        RamImage::restore(preload.image.clone(), blobs)
            .and_then(|image| self.ram.preload(&image, &preload.touched))
            .map_err(MachineError::host("preparing memory for a clone"))
    }

    /// Its vCPUs, memory and devices, in numbers.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// A duplicate of the eventfd that raises the serial port's interrupt.
    pub(super) fn serial_line(&self) -> Result<EventFd, MachineError> {
        let line = self.serial_irq.try_clone();
        line.map_err(MachineError::host("making the serial port"))
    }

    fn build(host: &Host, shape: Shape, ram: Ram, warm: bool) -> Result<Self, MachineError> {
        if shape.rings.len() > layout::VIRTIO_MAX {
            return Err(MachineError::TooManyDevices {
                count: shape.rings.len(),
            });
        }
        fault::point("shell.vm").map_err(MachineError::host("making a VM"))?;
        let vm = Vm::new(host)?;
        fault::point("shell.memory").map_err(MachineError::host("registering memory"))?;
        // SAFETY: a shell, and the machine made of it, drop `ram` after `vm`.
        unsafe { vm.set_memory(&ram)? };
        fault::point("shell.vcpus").map_err(MachineError::host("making the vCPUs"))?;
        let vcpus = (0..shape.cpus)
            .map(|index| Vcpu::new(host, &vm, index, shape.cpus))
            .collect::<Result<Vec<_>, _>>()?;
        fault::point("shell.lines").map_err(MachineError::host("making a device"))?;
        let fingerprint = host.fingerprint(vcpus.first().ok_or(MachineError::NoVcpu)?)?;
        let (serial_irq, lines) = wire(&vm, &shape)?;
        let vcpus = fault::point("shell.threads")
            .and_then(|()| Vcpus::start(vcpus, warm))
            .map_err(MachineError::host("starting the vCPU threads"))?;
        let files = match shape.shares {
            true => FileAccess::BelowShares,
            false => FileAccess::None,
        };
        let worker = match lines.is_empty() {
            true => None,
            false => Some(
                DeviceWorker::spawn(files)
                    .map_err(MachineError::host("starting the device thread"))?,
            ),
        };
        Ok(Self {
            vcpus,
            worker,
            lines,
            serial_irq,
            vm,
            ram,
            shape,
            host: fingerprint,
        })
    }
}

/// Makes the eventfds of all devices and registers them with KVM (irqfd, ioeventfd).
fn wire(vm: &Vm, shape: &Shape) -> Result<(EventFd, Vec<Lines>), MachineError> {
    let serial_irq =
        EventFd::new(EFD_NONBLOCK).map_err(MachineError::host("making the serial port"))?;
    vm.interrupt_on(&serial_irq, COM1_IRQ)?;
    let mut all = Vec::new();
    for (slot, &rings) in shape.rings.iter().enumerate() {
        let lines = Lines::new(rings.into()).map_err(MachineError::host("making a device"))?;
        let (range, irq) = layout::virtio_slot(slot);
        vm.interrupt_on(&lines.irq, irq)?;
        let notify = range.start + layout::VIRTIO_QUEUE_NOTIFY;
        for (ring, event) in lines.queues.iter().enumerate() {
            vm.on_write(notify, ring as u32, event)?;
        }
        all.push(lines);
    }
    Ok((serial_irq, all))
}
