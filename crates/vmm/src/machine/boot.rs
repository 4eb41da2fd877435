//! Boots a machine: loads a kernel and sets the state of vCPUs and devices after power-on.

use super::assemble::{MachineParts, assemble};
use super::pending::PendingRestore;
use super::slots::{self, Backends, Slots};
use super::{Events, Machine, MachineError, Shell};
use crate::boot::{self, Boot, BootError};
use crate::devices::serial::Serial;
use crate::devices::virtio::transport::MmioTransport;
use crate::kvm::{Host, VcpuState};
use crate::sys::huge_pages;
use hyperfork_api::signal::ForkStatus;
use hyperfork_api::spec::Guest;
use hyperfork_api::{Identity, VmSpec};

impl Machine {
    /// Boots `spec` in a shell. The result is paused.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn boot(
        mut shell: Shell,
        host: &Host,
        spec: &VmSpec,
        identity: &Identity,
        backends: &Backends,
        events: Events,
    ) -> Result<Self, MachineError> {
        shell
            .ram
            .back_with_zeroes()
            .map_err(MachineError::host("mapping guest memory"))?;
        let memory = shell.ram.memory().clone();
        let boot = |cmdline, virtio_devices| Boot {
            cmdline,
            cpus: spec.cpus,
            virtio_devices,
            memory: spec.memory.0,
            host: host.kind(),
            seed: &identity.seed,
        };
        let (entry, slots) = match &spec.guest {
            Guest::Nano { options } => {
                let entry = boot::nano::load(&memory, &boot(options, 0))?;
                (
                    entry,
                    Slots {
                        devices: Vec::new(),
                        disks: Vec::new(),
                        vsock: None,
                    },
                )
            }
            Guest::Linux(guest) => {
                let count = shell.shape.rings.len();
                let huge = huge_pages::setting().is_some_and(|it| huge_pages::are_given(&it));
                let cmdline = boot::cmdline::linux(host.kind(), huge, count, &guest.cmdline);
                let initrd = guest.initrd.as_deref();
                let boot = boot(&cmdline, count);
                let entry = boot::kernel::load(&memory, &guest.kernel, initrd, &boot)?;
                boot::generation::write(&memory, identity).map_err(BootError::from)?;
                (
                    entry,
                    slots::fresh(guest, identity.cid, backends, shell.ram.free_pages())?,
                )
            }
        };
        boot::entry::write_tables(&memory)?;
        let mut vcpus = shell.vcpus.save().finish()?;
        vcpus.iter_mut().for_each(VcpuState::wire_local_interrupts);
        boot::entry::set(&mut vcpus[0], entry);

        let serial_irq = shell.serial_line()?;
        let devices = slots.devices.into_iter().zip(shell.lines.drain(..));
        let devices =
            devices.map(|(device, lines)| MmioTransport::new(device, lines, memory.clone()));
        let vm = shell.vm.save()?;
        let parts = MachineParts {
            vm: &vm,
            vcpus: PendingRestore::begin(&shell.vcpus, vcpus, &vm.clocks)?,
            serial: Serial::new(serial_irq, backends.log.clone()),
            devices: devices
                .collect::<Result<_, _>>()
                .map_err(MachineError::host("making a device"))?,
            guest_fork: ForkStatus::NONE.encode(),
            disks: slots.disks,
            vsock: slots.vsock,
        };
        assemble(shell, parts, identity, events)
    }
}
