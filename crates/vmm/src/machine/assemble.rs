//! Putting a machine together: the one path of boot, fork and restore.

use super::pending::PendingRestore;
use super::signal_port::{GuestFork, SignalPort};
use super::vcpus::Connections;
use super::{Events, Machine, MachineError, Shell, ports};
use crate::bus::Bus;
use crate::devices::serial::Serial;
use crate::devices::virtio::block::handle::DiskHandle;
use crate::devices::virtio::transport::{MmioTransport, Slot};
use crate::devices::virtio::vsock::VsockHandle;
use crate::kvm::VmState;
use crate::memory::layout;
use crate::sys::fault;
use hyperfork_api::Identity;
use std::sync::{Arc, Mutex};

/// What differs between the ways to a machine.
pub(super) struct Parts<'a> {
    pub(super) vm: &'a VmState,
    pub(super) vcpus: PendingRestore,
    pub(super) serial: Serial,
    pub(super) devices: Vec<MmioTransport>,
    pub(super) guest_fork: u32,
    pub(super) disks: Vec<DiskHandle>,
    pub(super) vsock: Option<VsockHandle>,
}

/// Sets all state and connects the devices. What comes out is at rest and complete.
pub(super) fn assemble(
    shell: Shell,
    parts: Parts<'_>,
    identity: &Identity,
    events: Events,
) -> Result<Machine, MachineError> {
    let signal_port = SignalPort::new(identity.index, parts.guest_fork, events.clone());
    let slots = parts.devices.into_iter().map(Slot::new);
    // It is whole before anything can fail, so that it goes in the order in which it must.
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

/// Connects the vCPUs with the devices, and those with the thread that serves them.
fn connect(machine: &Machine, events: Events) -> Result<(), MachineError> {
    fault::point("restore.connect").map_err(MachineError::host("attaching the devices"))?;
    let mut mmio = Bus::default();
    for (slot, device) in machine.devices.iter().enumerate() {
        let (range, _) = layout::virtio_slot(slot);
        mmio.insert(range.start, range.end - range.start, device.clone());
    }
    if let Some(worker) = &machine.worker {
        worker
            .attach(machine.devices.clone(), machine.vcpus.fault_teller())
            .map_err(MachineError::host("attaching the devices"))?;
    }
    let power = ports::Power::default();
    machine.vcpus.connect(Connections {
        ports: ports::bus(machine.serial.clone(), &machine.guest_fork, &power),
        mmio,
        power,
        events,
    });
    // What fails from here on is told.
    Ok(machine.vcpus.check()?)
}
