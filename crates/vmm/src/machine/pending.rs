//! vCPUs that are about to have a state.

use super::vcpus::{VcpuJobs, Vcpus};
use super::{Machine, MachineError};
use crate::kvm::{Clocks, GoingOn, KvmError, VcpuState, VmState};
use crate::sys::clock::{Monotonic, host_tsc};
use crate::sys::fault;

/// vCPUs whose state is being set, by their threads, while the rest of the machine is built.
pub(super) struct PendingRestore {
    done: VcpuJobs<()>,
    /// How the machine's clocks go on since.
    going_on: GoingOn,
    since: Monotonic,
}

impl PendingRestore {
    pub(super) fn begin(
        vcpus: &Vcpus,
        states: Vec<VcpuState>,
        clocks: &Clocks,
    ) -> Result<Self, MachineError> {
        let since = Monotonic::now();
        let going_on = clocks.go_on(since, host_tsc())?;
        Ok(Self {
            done: vcpus.restore(states, going_on.tsc_back),
            going_on,
            since,
        })
    }

    /// Waits for it, and sets what of the VM has to come after it.
    pub(super) fn finish(self, machine: &Machine, vm: &VmState) -> Result<(), MachineError> {
        // Before the interrupt controllers, which may have something for their APICs.
        self.done.finish()?;
        fault::point("restore.vm").map_err(MachineError::host("setting the VM's state"))?;
        machine.vm.restore(vm)?;
        // It goes on from here, the TSCs from before.
        let passed = Monotonic::now().ns_since(self.since);
        let then = self.going_on.kvm_clock_ns;
        let now = then.checked_add(passed).ok_or(KvmError::Clock(then))?;
        let (vcpus, memory) = (machine.vcpus.cpus(), machine.ram.memory());
        Ok(machine.vm.set_clock_of(vcpus, memory, now)?)
    }
}
