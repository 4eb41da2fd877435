//! Restores a captured machine in a shell.

use super::assemble::{MachineParts, assemble};
use super::pending::PendingRestore;
use super::slots::{self, Backends};
use super::{Events, Machine, MachineError, Shell};
use crate::blobs::{BlobReader, Blobs};
use crate::boot::{self, BootError};
use crate::devices::serial::Serial;
use crate::devices::virtio::transport::MmioTransport;
use crate::kvm::HostKind;
use crate::memory::{RamImage, layout};
use crate::snapshot::MachineState;
use crate::sys::clock::Monotonic;
use crate::sys::fault;
use hyperfork_api::Identity;
use std::mem;

/// When the phases of a restore ended.
#[derive(Debug, Clone, Copy)]
pub struct Restored {
    /// The memory image is mapped.
    pub memory: Monotonic,
    /// All other state is set.
    pub state: Monotonic,
}

impl Machine {
    /// Restores `state` in a shell of the same shape, as the machine `identity`. The result is
    /// paused.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn restore(
        mut shell: Shell,
        mut state: MachineState,
        carrier: &dyn Blobs,
        identity: &Identity,
        backends: &Backends,
        events: Events,
    ) -> Result<(Self, Restored), MachineError> {
        if shell.shape != state.shape {
            return Err(MachineError::Shape {
                shell: Box::new(shell.shape),
                state: Box::new(state.shape),
            });
        }
        state.host.check(&shell.host)?;
        fault::point("restore.vcpus").map_err(MachineError::host("setting the vCPUs' state"))?;
        let vcpus = mem::take(&mut state.vcpus);
        let vcpus = PendingRestore::begin(&shell.vcpus, vcpus, &state.vm.clocks)?;
        fault::point("restore.memory")
            .and_then(|()| {
                RamImage::restore(state.ram.clone(), BlobReader::new(&state.blobs, carrier))
            })
            .and_then(|image| shell.ram.back_with_help(&image, &shell.vcpus))
            .map_err(MachineError::host("mapping the memory image"))?;
        let memory_done = Monotonic::now();
        let machine = Self::rebuild(shell, vcpus, &state, carrier, identity, backends, events)?;
        Ok((
            machine,
            Restored {
                memory: memory_done,
                state: Monotonic::now(),
            },
        ))
    }

    /// The same in a child made by `fork(2)`, whose shell has
    /// [inherited](super::Paused::inherit_memory) the memory.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn restore_inherited(
        shell: Shell,
        state: &mut MachineState,
        carrier: &dyn Blobs,
        identity: &Identity,
        backends: &Backends,
        events: Events,
    ) -> Result<Self, MachineError> {
        state.host.check(&shell.host)?;
        let vcpus = mem::take(&mut state.vcpus);
        let vcpus = PendingRestore::begin(&shell.vcpus, vcpus, &state.vm.clocks)?;
        Self::rebuild(shell, vcpus, state, carrier, identity, backends, events)
    }

    fn rebuild(
        mut shell: Shell,
        vcpus: PendingRestore,
        state: &MachineState,
        carrier: &dyn Blobs,
        identity: &Identity,
        backends: &Backends,
        events: Events,
    ) -> Result<Self, MachineError> {
        let memory = shell.ram.memory().clone();
        fault::point("restore.devices").map_err(MachineError::host("restoring a device"))?;
        let is_read = shell.host.kind == HostKind::Hardware && !shell.shape.rings.is_empty();
        let device_states = state.devices.iter().map(|device| &device.own);
        let slots = slots::restored(
            device_states,
            BlobReader::new(&state.blobs, carrier),
            identity.cid,
            backends,
            shell.ram.free_pages(),
        )?;
        let serial_irq = shell.serial_line()?;
        let devices = slots.devices.into_iter().zip(shell.lines.drain(..));
        let devices = devices.zip(&state.devices).map(|((device, lines), state)| {
            MmioTransport::restore(device, lines, &state.transport, memory.clone())
        });
        let parts = MachineParts {
            vm: &state.vm,
            vcpus,
            serial: Serial::restore(&state.serial, serial_irq, backends.log.clone())
                .map_err(MachineError::host("restoring the serial port"))?,
            devices: devices
                .collect::<Result<_, _>>()
                .map_err(MachineError::host("restoring a device"))?,
            guest_fork: state.signal_port.0,
            disks: slots.disks,
            vsock: slots.vsock,
        };
        let machine = assemble(shell, parts, identity, events)?;
        // The generation ID that a guest reads after the doorbell. Only kernels with ACPI read it:
        // none that a PVM host can run, nor the embedded guest, which has no devices and uses that
        // memory itself.
        if is_read {
            boot::generation::write(&memory, identity).map_err(BootError::from)?;
        }
        // Queued before the first instruction, so that the guest cannot run without learning that
        // it is a clone.
        machine.vm.interrupt(layout::DOORBELL_IRQ)?;
        Ok(machine)
    }
}
