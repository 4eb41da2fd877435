//! The machine: running, pausing and inspecting it.

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
/// The fields are in the order in which they must be dropped: threads before what they use, and
/// memory after the VM, whose memory slots refer to its addresses.
pub struct Machine {
    pub(super) vcpus: Vcpus,
    pub(super) worker: Option<DeviceWorker>,
    pub(super) devices: Vec<Arc<Slot>>,
    pub(super) serial: Arc<Mutex<Serial>>,
    pub(super) vm: Vm,
    pub(super) ram: Ram,
    pub(super) shape: Shape,
    /// The host it runs on.
    pub(super) host: Arc<HostFingerprint>,
    pub(super) guest_fork: GuestFork,
    /// What the guest's clocks showed when the machine was [left paused](super::Paused::stay).
    pub(super) clocks_held: Option<Clocks>,
    pub(super) disks: Vec<DiskHandle>,
    pub(super) vsock: Option<VsockHandle>,
}

impl Machine {
    /// Resumes a paused machine. If it was [left paused](super::Paused::stay), the guest's clocks
    /// continue from what they showed then.
    pub fn resume(&mut self) {
        if let Some(clocks) = self.clocks_held.take()
            && let Err(error) = self.turn_clocks_back(&clocks)
        {
            // A guest that sees a jump in time is better than one that does not run.
            crate::sys::note!("the guest's clocks have gone on during the pause: {error}");
        }
        self.resume_devices();
        self.vcpus.run();
    }

    /// Runs a new machine for whose first instruction the caller of a fork waits. Its vCPU threads
    /// have real-time priority until their first exit or until `most` has passed; longer if the
    /// boosted threads of other clones keep all of them from entering the guest that long. This
    /// waits for the first exit meanwhile. The caller needs a
    /// [boost](crate::sys::sched::RealtimeBoost::for_monitor) itself, or might not get the
    /// processor to end theirs.
    pub fn start(&self, most: Duration) {
        self.resume_devices();
        self.vcpus.run_boosted(most);
    }

    fn resume_devices(&self) {
        if let Some(worker) = &self.worker {
            worker.resume();
        }
    }

    fn turn_clocks_back(&self, clocks: &Clocks) -> Result<(), KvmError> {
        let clock_plan = clocks.plan_hold(host_tsc());
        for vcpu in self.vcpus.cpus() {
            vcpu.turn_tsc_back(clock_plan.tsc_back)?;
        }
        let memory = self.ram.memory();
        self.vm
            .set_clock_of(self.vcpus.cpus(), memory, clock_plan.kvm_clock_ns)
    }

    /// Waits for the first exit of a running guest, but not longer than `most`: the guest may
    /// have no reason to exit.
    pub fn await_first_exit(&self, most: Duration) {
        self.vcpus.await_first_exit(most);
    }

    /// Brings vCPUs and devices to rest. All are asked before any is waited for: a device may be
    /// in the middle of a request that takes a while, and a vCPU may wait for that device.
    /// Returns whether all came to rest within [`REST_LIMIT`].
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

    /// Does the part of a [capture](super::Paused::capture) that needs no pause.
    ///
    /// # Errors
    /// [`MachineError::Host`]. A capture works nevertheless, but takes longer.
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

    /// Raises the doorbell interrupt, which tells the guest that it was cloned or resumed.
    ///
    /// # Errors
    /// [`MachineError::Kvm`].
    pub fn ring_doorbell(&self) -> Result<(), MachineError> {
        Ok(self.vm.interrupt(layout::DOORBELL_IRQ)?)
    }

    /// The instruction pointers of a running machine's vCPUs. The vCPUs stop for a moment, the
    /// devices do not.
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

    /// The vsock device's handle, if the machine has one.
    pub fn vsock(&self) -> Option<&VsockHandle> {
        self.vsock.as_ref()
    }

    /// The state of a fork that the guest has asked for.
    pub fn guest_fork(&self) -> &GuestFork {
        &self.guest_fork
    }

    /// Its vCPUs, memory and devices, in numbers.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Its memory, for accounting.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }
}
