//! Captures a machine while it is paused.

use super::{Machine, MachineError};
use crate::blobs::{BlobReader, BlobWriter};
use crate::memory::{AtRest, DeferredCleanup, Ram, RamImage};
use crate::snapshot::{MachineState, SignalPortState};
use crate::sys::clock::{Monotonic, realtime_ns};
use crate::sys::fault;
use crate::sys::fds::FdTable;
use crate::sys::hands::Helpers;
use hyperfork_state::Taken;
use std::io;
use std::sync::PoisonError;

/// A paused machine, and the only way to capture one. Dropping it resumes the machine.
pub struct Paused<'a> {
    machine: &'a mut Machine,
    since: Monotonic,
    /// Whether all vCPUs and devices came to rest in time.
    at_rest: bool,
}

/// A machine at one point in time.
#[derive(Debug)]
pub struct Capture {
    /// Everything but what lies in blobs.
    pub state: MachineState,
    /// The descriptors by which the state's blobs are found.
    pub fds: FdTable,
    /// The memory without the rest: what shells preload, and forks that need no descriptors.
    pub ram: RamImage,
    /// How long freezing the memory took, microseconds.
    pub image_us: u64,
    /// Work to be done off the fork path: [`DeferredCleanup::run`].
    pub cleanup: DeferredCleanup,
}

impl Machine {
    /// Pauses the machine; dropping the result resumes it. If the machine does not come to rest
    /// in time, a [capture](Paused::capture) fails with [`MachineError::NotAtRest`].
    pub fn pause(&mut self) -> Paused<'_> {
        Paused::new(self)
    }
}

impl<'a> Paused<'a> {
    fn new(machine: &'a mut Machine) -> Self {
        let since = Monotonic::now();
        let at_rest = machine.rest();
        Self {
            machine,
            since,
            at_rest,
        }
    }

    /// Captures the whole machine (HyperFork paper, section 4.1, the pre-fork routine): vCPUs, VM,
    /// devices, and last the memory, which a device may still write while it is saved.
    ///
    /// # Errors
    /// [`MachineError`]. The machine is as it was.
    pub fn capture(&mut self) -> Result<Capture, MachineError> {
        self.read(Ram::freeze_with_help)
    }

    /// Captures all but the machine's private pages, for children made by `fork(2)`, which
    /// [inherit](Self::inherit_memory) those.
    ///
    /// # Errors
    /// [`MachineError`]. The machine is as it was.
    pub fn capture_for_children(&mut self) -> Result<Capture, MachineError> {
        self.read(|ram, _, _| ram.freeze_base())
    }

    /// In a child made by `fork(2)`: takes over the memory of the captured machine. The rest of
    /// the machine must be neither used nor dropped there.
    ///
    /// # Errors
    /// [`MachineError::Host`] when `fds` are not those of the capture.
    pub fn inherit_memory(
        &mut self,
        state: &MachineState,
        fds: &FdTable,
    ) -> Result<Ram, MachineError> {
        RamImage::restore(state.ram.clone(), BlobReader::new(&state.blobs, fds))
            .and_then(|base| self.machine.ram.inherit(base))
            .map_err(MachineError::host("taking memory over"))
    }

    fn read(
        &mut self,
        freeze: impl FnOnce(&mut Ram, &AtRest, &dyn Helpers) -> io::Result<RamImage>,
    ) -> Result<Capture, MachineError> {
        self.check()?;
        let machine = &mut *self.machine;
        let mut blobs = BlobWriter::default();
        fault::point("capture.vcpus").map_err(MachineError::host("reading the vCPUs"))?;
        let vcpus = machine.vcpus.save();
        fault::point("capture.vm").map_err(MachineError::host("reading the VM"))?;
        let mut vm = machine.vm.save()?;
        let serial = machine
            .serial
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .save();
        fault::point("capture.devices").map_err(MachineError::host("saving a device"))?;
        let devices = machine
            .devices
            .iter()
            .map(|device| device.lock().save(&mut blobs))
            .collect::<Result<_, _>>()
            .map_err(MachineError::host("saving a device"))?;
        let freezing = Monotonic::now();
        // SAFETY: the machine is paused as long as this borrows it: the vCPU threads and the
        // device thread are at rest.
        let at_rest = unsafe { AtRest::new() };
        // The vCPU threads help with this as soon as they have read their vCPUs' state.
        let frozen = fault::point("capture.freeze")
            .and_then(|()| freeze(&mut machine.ram, &at_rest, &machine.vcpus))
            .map_err(MachineError::host("freezing memory"));
        let image_us = Monotonic::now().us_since(freezing);
        let mut vcpus = vcpus.finish()?;
        let ram = frozen?;
        if let Some(held) = machine.clocks_held {
            let (clocks, tsc_back) = held.hold_until_now();
            vm.clocks = clocks;
            vcpus
                .iter_mut()
                .for_each(|vcpu| vcpu.turn_tsc_back(tsc_back));
        }
        let ram_state = fault::point("capture.share")
            .and_then(|()| ram.save(&mut blobs))
            .map_err(MachineError::host("sharing memory"))?;
        let signal_port = SignalPortState(machine.guest_fork.capture());
        let shape = machine.shape.clone();
        let (blobs, fds) = blobs.into_parts();
        let taken = Taken {
            monotonic_ns: vm.clocks.at.as_duration().as_nanos() as u64,
            wall_ns: realtime_ns(),
        };
        let state = MachineState {
            host: machine.host.clone(),
            taken,
            shape,
            vm,
            vcpus,
            serial,
            devices,
            signal_port,
            ram: ram_state,
            blobs,
        };
        Ok(Capture {
            state,
            fds,
            ram,
            image_us,
            // Last: if a step fails, the cleanup stays with the RAM for the next capture.
            cleanup: machine.ram.take_cleanup(),
        })
    }

    /// Checks that the machine is at rest and that no part of it has failed.
    ///
    /// # Errors
    /// [`MachineError::NotAtRest`], [`MachineError::Ended`].
    pub fn check(&self) -> Result<(), MachineError> {
        match self.at_rest {
            true => Ok(self.machine.vcpus.check()?),
            false => Err(MachineError::NotAtRest),
        }
    }

    /// Leaves the machine paused until [`Machine::resume`]. Until then no time passes for the
    /// guest.
    pub fn stay(self) {
        let machine = &mut *self.machine;
        if machine.clocks_held.is_none() {
            match machine.vm.clocks() {
                Ok(clocks) => machine.clocks_held = Some(clocks),
                Err(error) => {
                    crate::sys::note!("the guest's clocks go on during the pause: {error}");
                }
            }
        }
        std::mem::forget(self);
    }

    /// When the pause was asked for.
    pub fn since(&self) -> Monotonic {
        self.since
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        self.machine.resume();
    }
}
