//! The machine itself: how it runs, rests and is looked at.

use super::MachineError;
use super::error::REST_LIMIT;
use super::signal_port::GuestFork;
use super::vcpus::Vcpus;
use crate::devices::serial::Serial;
use crate::devices::virtio::block::handle::DiskHandle;
use crate::devices::virtio::transport::Slot;
use crate::devices::virtio::vsock::VsockHandle;
use crate::devices::worker::DeviceWorker;
use crate::kvm::{Clocks, KvmError, Vm};
use crate::memory::{Ram, layout};
use crate::snapshot::Shape;
use crate::sys::clock::host_tsc;
use hyperfork_state::HostFingerprint;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A machine. It starts paused; dropping it ends it.
///
/// The fields are in the order in which they must go: threads before what they
/// use, and memory after the VM that has its addresses.
pub struct Machine {
    pub(super) vcpus: Vcpus,
    pub(super) worker: Option<DeviceWorker>,
    pub(super) devices: Vec<Arc<Slot>>,
    pub(super) serial: Arc<Mutex<Serial>>,
    pub(super) vm: Vm,
    pub(super) ram: Ram,
    pub(super) shape: Shape,
    /// Where it runs.
    pub(super) host: Arc<HostFingerprint>,
    pub(super) guest_fork: GuestFork,
    /// What its clocks showed when it was paused [to stay](super::Paused::stay) so.
    pub(super) clocks_held: Option<Clocks>,
    pub(super) disks: Vec<DiskHandle>,
    pub(super) vsock: Option<VsockHandle>,
}

impl Machine {
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

    /// Lets a machine run that is new, and for whose first instruction the caller of a fork waits: its
    /// vCPUs take the processor from threads that compute, until they come out or `most` has
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

    /// Stops vCPUs and devices. Each is asked before any is waited for: a device may be at a
    /// piece of work that takes a while, and a vCPU may wait for it.
    /// Returns whether all are at rest: it waits no longer than [`REST_LIMIT`].
    pub(super) fn rest(&self) -> bool {
        let deadline = Instant::now() + REST_LIMIT;
        if let Some(worker) = &self.worker {
            worker.begin_pause();
        }
        let vcpus_rest = self.vcpus.rest(REST_LIMIT);
        let left = deadline.saturating_duration_since(Instant::now());
        let devices_rest = self.worker.as_ref().is_none_or(|worker| worker.pause(left));
        vcpus_rest && devices_rest
    }

    /// Does of a [capture](super::Paused::capture) what can be done while it runs.
    ///
    /// # Errors
    /// [`MachineError::Host`]. A capture only takes longer then.
    pub fn prepare_capture(&mut self) -> Result<(), MachineError> {
        let prepared = self.ram.prepare_freeze();
        prepared.map_err(MachineError::host("freezing memory"))
    }

    /// The same for a [capture for children](super::Paused::capture_for_children).
    ///
    /// # Errors
    /// As [`prepare_capture`](Self::prepare_capture).
    pub fn prepare_capture_for_children(&mut self) -> Result<(), MachineError> {
        let prepared = self.ram.prepare_freeze_base();
        prepared.map_err(MachineError::host("freezing memory"))
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
    /// [`MachineError::Kvm`]; [`MachineError::NotAtRest`].
    pub fn instruction_pointers(&self) -> Result<Vec<u64>, MachineError> {
        let pointers = match self.vcpus.rest(REST_LIMIT) {
            true => {
                let vcpus = self.vcpus.cpus();
                let pointers = vcpus.map(|vcpu| vcpu.regs().map(|regs| regs.rip));
                pointers
                    .collect::<Result<_, _>>()
                    .map_err(MachineError::from)
            }
            false => Err(MachineError::NotAtRest),
        };
        self.vcpus.run();
        pointers
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
