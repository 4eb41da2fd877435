//! Assembles a machine: the last step of boot, fork and restore alike.

use super::pending::PendingRestore;
use super::signal_port::{GuestFork, SignalPort};
use super::vcpus::{Connections, XstatePort};
use super::{Events, Machine, MachineError, Shell, ports};
use crate::bus::Bus;
use crate::devices::serial::Serial;
use crate::devices::virtio::block::handle::DiskHandle;
use crate::devices::virtio::transport::{MmioTransport, Slot};
use crate::devices::virtio::vsock::VsockHandle;
use crate::kvm::{VmState, XstateLayout};
use crate::memory::layout;
use crate::sys::fault;
use hyperfork_api::Identity;
use std::sync::{Arc, Mutex};

/// The parts of a machine that boot and restore make differently.
pub(super) struct MachineParts<'a> {
    pub(super) vm: &'a VmState,
    pub(super) vcpus: PendingRestore,
    pub(super) serial: Serial,
    pub(super) devices: Vec<MmioTransport>,
    pub(super) guest_fork: u32,
    pub(super) disks: Vec<DiskHandle>,
    pub(super) vsock: Option<VsockHandle>,
}

/// Sets all state and connects the devices. The machine it returns is complete and paused.
pub(super) fn assemble(
    shell: Shell,
    parts: MachineParts<'_>,
    identity: &Identity,
    events: Events,
) -> Result<Machine, MachineError> {
    let signal_port = SignalPort::new(identity.index, parts.guest_fork, events.clone());
    let slots = parts.devices.into_iter().map(Slot::new);
    // The machine is built before anything can fail, so that an error drops the parts in the
    // order of its fields.
    let machine = Machine {
        vcpus: shell.vcpus,
        worker: shell.worker,
        devices: slots.map(Arc::new).collect(),
        serial: Arc::new(Mutex::new(parts.serial)),
        vm: shell.vm,
        ram: shell.ram,
        shape: shell.shape,
        host: shell.host,
        guest_fork: GuestFork::new(signal_port),
        clocks_held: None,
        disks: parts.disks,
        vsock: parts.vsock,
    };
    parts.vcpus.finish(&machine, parts.vm)?;
    connect(&machine, events)?;
    Ok(machine)
}

/// Connects the vCPUs to the devices, and the devices to the device thread.
fn connect(machine: &Machine, events: Events) -> Result<(), MachineError> {
    fault::point("restore.connect").map_err(MachineError::host("attaching the devices"))?;
    let mut mmio = Bus::default();
    for (slot, device) in machine.devices.iter().enumerate() {
        let (range, _) = layout::virtio_slot(slot);
        mmio.insert(range.start, range.end - range.start, device.clone());
    }
    if let Some(worker) = &machine.worker {
        worker
            .attach(machine.devices.clone(), machine.vcpus.fault_reporter())
            .map_err(MachineError::host("attaching the devices"))?;
    }
    let power = ports::Power::default();
    let layout = XstateLayout::for_guests_of(&machine.host);
    let xstate = Arc::new(XstatePort::new(layout, machine.ram.memory().clone()));
    let (serial, guest_fork) = (machine.serial.clone(), &machine.guest_fork);
    machine.vcpus.connect(Connections {
        ports: ports::bus(serial, guest_fork, xstate.clone(), &power),
        mmio,
        xstate,
        power,
        events,
    });
    // A failure before this is returned here; a later one is reported as an event.
    Ok(machine.vcpus.check()?)
}
