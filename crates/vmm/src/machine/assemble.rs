//! Putting a machine together: the one path of boot, fork and restore.

use super::capture::Paused;
use super::ports::{ClockPort, PowerPort, ResetPort};
use super::signal_port::{GuestFork, SignalPort};
use super::slots::{self, Backends, SlotError, Slots};
use super::vcpus::{Connections, Errands, Vcpus};
use super::{Events, Shell};
use crate::blobs::{BlobReader, Blobs};
use crate::boot::{self, Boot, BootError, acpi};
use crate::bus::Bus;
use crate::devices::serial::{COM1, COM1_LEN, Serial};
use crate::devices::virtio::block::handle::DiskHandle;
use crate::devices::virtio::transport::MmioTransport;
use crate::devices::virtio::vsock::VsockHandle;
use crate::devices::worker::DeviceWorker;
use crate::kvm::{Clocks, GoingOn, Host, HostKind, KvmError, VcpuState, Vm, VmState};
use crate::memory::ram::RamError;
use crate::memory::{Ram, RamImage, layout};
use crate::snapshot::{MachineState, Shape};
use crate::sys::clock::{Monotonic, host_tsc};
use crate::sys::huge_pages;
use hyperfork_api::clock::{CLOCK_PORT, CLOCK_PORT_LEN};
use hyperfork_api::signal::{ForkStatus, PORT, PORT_LEN};
use hyperfork_api::spec::Guest;
use hyperfork_api::{Identity, VmSpec};
use hyperfork_state::{HostFingerprint, OtherHost};
use std::io;
use std::mem;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use vmm_sys_util::eventfd::EventFd;

/// A machine. It starts paused; dropping it ends it.
///
/// The fields are in the order in which they must go: threads before what they
/// use, and memory after the VM that has its addresses.
pub struct Machine {
    pub(super) vcpus: Vcpus,
    worker: Option<DeviceWorker>,
    pub(super) devices: Vec<Arc<Mutex<MmioTransport>>>,
    pub(super) serial: Arc<Mutex<Serial>>,
    pub(super) vm: Vm,
    pub(super) ram: Ram,
    pub(super) shape: Shape,
    pub(super) host: Arc<HostFingerprint>,
    pub(super) guest_fork: GuestFork,
    /// What its clocks showed when it was paused [to stay](super::Paused::stay) so.
    pub(super) clocks_held: Option<Clocks>,
    disks: Vec<DiskHandle>,
    vsock: Option<VsockHandle>,
}

/// Why there is no machine, or no capture of one.
#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    /// KVM.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// Memory.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// Kernel, initrd or command line.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// A device.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// More devices than interrupt lines.
    #[error("{count} devices are too many: a VM has {max} slots", max = layout::VIRTIO_MAX)]
    TooManyDevices {
        /// Devices wanted.
        count: usize,
    },
    /// A machine has at least one vCPU.
    #[error("a machine without vCPUs cannot be")]
    NoVcpu,
    /// The state is from elsewhere.
    #[error("the captured machine cannot go on here")]
    OtherHost(#[from] OtherHost),
    /// The state is for another kind of shell.
    #[error("a shell of {shell:?} cannot take a machine of {state:?}")]
    Shape {
        /// What there is.
        shell: Box<Shape>,
        /// What is needed.
        state: Box<Shape>,
    },
    /// The host failed in something else.
    #[error("{what} failed")]
    Host {
        /// What was attempted.
        what: &'static str,
        /// The system's reason.
        source: io::Error,
    },
}

impl MachineError {
    pub(super) fn host(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// What differs between the ways to a machine.
struct Parts<'a> {
    vm: &'a VmState,
    vcpus: BeingSet,
    serial: Serial,
    devices: Vec<MmioTransport>,
    guest_fork: u32,
    disks: Vec<DiskHandle>,
    vsock: Option<VsockHandle>,
}

/// vCPUs that are about to have a state.
struct BeingSet {
    done: Errands<()>,
    /// How the machine's clocks go on since.
    going_on: GoingOn,
    since: Monotonic,
}

impl BeingSet {
    fn begin(vcpus: &Vcpus, states: Vec<VcpuState>, clocks: &Clocks) -> Self {
        let since = Monotonic::now();
        let going_on = clocks.go_on(since, host_tsc());
        Self {
            done: vcpus.restore(states, going_on.tsc_back),
            going_on,
            since,
        }
    }
}

/// When the phases of a restore ended.
#[derive(Debug, Clone, Copy)]
pub struct Restored {
    /// The image is under the memory slot.
    pub memory: Monotonic,
    /// All state is set.
    pub state: Monotonic,
}

impl Machine {
    /// Boots: an initial state, made of the shell's own.
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

        let serial_irq = serial_line(&shell)?;
        let devices = slots.devices.into_iter().zip(shell.lines.drain(..));
        let devices =
            devices.map(|(device, lines)| MmioTransport::new(device, lines, memory.clone()));
        let vm = shell.vm.save()?;
        let parts = Parts {
            vm: &vm,
            vcpus: BeingSet::begin(&shell.vcpus, vcpus, &vm.clocks),
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

    /// Goes on where `state` was captured, with `identity`.
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
        let vcpus = mem::take(&mut state.vcpus);
        let vcpus = BeingSet::begin(&shell.vcpus, vcpus, &state.vm.clocks);
        RamImage::restore(state.ram.clone(), BlobReader::new(&state.blobs, carrier))
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

    /// As [`restore`](Self::restore), in a shell that has the memory already.
    ///
    /// # Errors
    /// [`MachineError`].
    pub fn go_on(
        shell: Shell,
        state: &mut MachineState,
        carrier: &dyn Blobs,
        identity: &Identity,
        backends: &Backends,
        events: Events,
    ) -> Result<Self, MachineError> {
        state.host.check(&shell.host)?;
        let vcpus = mem::take(&mut state.vcpus);
        let vcpus = BeingSet::begin(&shell.vcpus, vcpus, &state.vm.clocks);
        Self::rebuild(shell, vcpus, state, carrier, identity, backends, events)
    }

    fn rebuild(
        mut shell: Shell,
        vcpus: BeingSet,
        state: &MachineState,
        carrier: &dyn Blobs,
        identity: &Identity,
        backends: &Backends,
        events: Events,
    ) -> Result<Self, MachineError> {
        let memory = shell.ram.memory().clone();
        let is_read = shell.host.kind == HostKind::Hardware && !shell.shape.rings.is_empty();
        let device_states = state.devices.iter().map(|device| &device.own);
        let slots = slots::restored(
            device_states,
            BlobReader::new(&state.blobs, carrier),
            identity.cid,
            backends,
            shell.ram.free_pages(),
        )?;
        let serial_irq = serial_line(&shell)?;
        let devices = slots.devices.into_iter().zip(shell.lines.drain(..));
        let devices = devices.zip(&state.devices).map(|((device, lines), state)| {
            MmioTransport::restore(device, lines, &state.transport, memory.clone())
        });
        let parts = Parts {
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
        // What the doorbell then tells of. It is for kernels that a PVM host cannot run, and in
        // memory that the embedded guest, which has no devices, takes for its own.
        if is_read {
            boot::generation::write(&memory, identity).map_err(BootError::from)?;
        }
        // Queued before the first instruction, so that the guest cannot miss that it
        // is a clone.
        machine.vm.interrupt(layout::DOORBELL_IRQ)?;
        Ok(machine)
    }

    /// Lets a paused machine run. Where it has [stayed](super::Paused::stay) paused, its
    /// clocks go on where they were.
    pub fn resume(&mut self) {
        if let Some(clocks) = self.clocks_held.take()
            && let Err(error) = self.turn_clocks_back(&clocks)
        {
            // It can live with that better than with not going on.
            crate::sys::note!("the guest's clocks have gone on during the pause: {error}");
        }
        self.resume_devices();
        self.vcpus.run();
    }

    /// Lets a machine run that is new, and for whose first instruction somebody waits: its
    /// vCPUs take the processor from whoever computes, until they come out or `most` has
    /// passed; longer where others' urgent steps kept them from entering so long. Until
    /// then this waits for the first that does. The caller has to be
    /// [urgent](crate::sys::sched::Urgent::now) itself, or may be kept from ending it.
    pub fn set_off(&self, most: Duration) {
        self.resume_devices();
        self.vcpus.run_urgently(most);
    }

    fn resume_devices(&self) {
        if let Some(worker) = &self.worker {
            worker.resume();
        }
    }

    fn turn_clocks_back(&self, clocks: &Clocks) -> Result<(), KvmError> {
        let going_on = clocks.stand_still(host_tsc());
        for vcpu in self.vcpus.cpus() {
            vcpu.turn_tsc_back(going_on.tsc_back)?;
        }
        let memory = self.ram.memory();
        self.vm
            .set_clock_of(self.vcpus.cpus(), memory, going_on.kvm_clock_ns)
    }

    /// Waits until the guest, which runs, has come out for the first time, but not
    /// longer than `most`: it may well have nothing to say.
    pub fn await_first_exit(&self, most: Duration) {
        self.vcpus.await_first_exit(most);
    }

    /// Stops the vCPUs, then the devices, which so have nothing new to do.
    pub(super) fn rest(&self) {
        self.vcpus.rest();
        if let Some(worker) = &self.worker {
            worker.pause();
        }
    }

    /// Does of a [capture](Paused::capture) what can be done while it runs.
    ///
    /// # Errors
    /// [`MachineError::Host`]. A capture only takes longer then.
    pub fn prepare_capture(&mut self) -> Result<(), MachineError> {
        let prepared = self.ram.prepare_freeze();
        prepared.map_err(MachineError::host("freezing memory"))
    }

    /// The same for a [capture for children](Paused::capture_for_children).
    ///
    /// # Errors
    /// As [`prepare_capture`](Self::prepare_capture).
    pub fn prepare_capture_for_children(&mut self) -> Result<(), MachineError> {
        let prepared = self.ram.prepare_freeze_base();
        prepared.map_err(MachineError::host("freezing memory"))
    }

    /// Brings it to rest. The machine goes on when the result is dropped.
    pub fn pause(&mut self) -> Paused<'_> {
        Paused::new(self)
    }

    /// Tells the guest that something has happened to it.
    ///
    /// # Errors
    /// [`MachineError::Kvm`].
    pub fn ring_doorbell(&self) -> Result<(), MachineError> {
        Ok(self.vm.interrupt(layout::DOORBELL_IRQ)?)
    }

    /// Where the vCPUs of a running machine are: stops them for a moment, the devices
    /// go on.
    ///
    /// # Errors
    /// [`MachineError::Kvm`].
    pub fn instruction_pointers(&self) -> Result<Vec<u64>, MachineError> {
        self.vcpus.rest();
        let pointers: Result<_, KvmError> = self
            .vcpus
            .cpus()
            .map(|vcpu| vcpu.regs().map(|regs| regs.rip))
            .collect();
        self.vcpus.run();
        Ok(pointers?)
    }

    /// Its disks, in order.
    pub fn disks(&self) -> &[DiskHandle] {
        &self.disks
    }

    /// The way to the guest's sockets, if it has that device.
    pub fn vsock(&self) -> Option<&VsockHandle> {
        self.vsock.as_ref()
    }

    /// Where the fork stands that its guest has asked for.
    pub fn guest_fork(&self) -> &GuestFork {
        &self.guest_fork
    }

    /// How it is built.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its memory, for accounting.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }
}

fn serial_line(shell: &Shell) -> Result<EventFd, MachineError> {
    let line = shell.serial_irq.try_clone();
    line.map_err(MachineError::host("making the serial port"))
}

/// Sets all state and connects the devices. What comes out is at rest and complete.
fn assemble(
    shell: Shell,
    parts: Parts<'_>,
    identity: &Identity,
    events: Events,
) -> Result<Machine, MachineError> {
    let Shell {
        vcpus,
        worker,
        vm,
        ram,
        shape,
        host,
        ..
    } = shell;
    // Before the interrupt controllers, which may have something for their APICs.
    parts.vcpus.done.finish()?;
    vm.restore(parts.vm)?;
    // It goes on from here, the TSCs from before.
    let passed = Monotonic::now().ns_since(parts.vcpus.since);
    let now = parts.vcpus.going_on.kvm_clock_ns + passed;
    vm.set_clock_of(vcpus.cpus(), ram.memory(), now)?;

    let mut ports = Bus::default();
    let mut mmio = Bus::default();
    let serial = Arc::new(Mutex::new(parts.serial));
    ports.insert(COM1.into(), COM1_LEN.into(), serial.clone());
    let signal_port = SignalPort::new(identity.index, parts.guest_fork, events.clone());
    let guest_fork = GuestFork::new(signal_port);
    ports.insert(PORT.into(), PORT_LEN.into(), guest_fork.device());
    let reset = ResetPort {
        events: events.clone(),
    };
    ports.insert(ResetPort::PORT.into(), 1, Arc::new(Mutex::new(reset)));
    let power = PowerPort {
        events: events.clone(),
    };
    ports.insert(
        acpi::POWER_PORT.into(),
        acpi::POWER_LEN.into(),
        Arc::new(Mutex::new(power)),
    );

    ports.insert(
        CLOCK_PORT.into(),
        CLOCK_PORT_LEN.into(),
        Arc::new(Mutex::new(ClockPort::default())),
    );

    let mut devices = Vec::new();
    for (slot, device) in parts.devices.into_iter().enumerate() {
        let (range, _) = layout::virtio_slot(slot);
        let device = Arc::new(Mutex::new(device));
        mmio.insert(range.start, range.end - range.start, device.clone());
        devices.push(device);
    }

    if let Some(worker) = &worker {
        worker
            .attach(devices.clone())
            .map_err(MachineError::host("attaching the devices"))?;
    }
    vcpus.connect(Connections {
        ports,
        mmio,
        events,
    });
    Ok(Machine {
        vcpus,
        worker,
        devices,
        serial,
        vm,
        ram,
        shape,
        host,
        guest_fork,
        clocks_held: None,
        disks: parts.disks,
        vsock: parts.vsock,
    })
}
