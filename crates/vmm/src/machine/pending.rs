//! A restore of the vCPUs' state that is under way while the rest of the machine is built.

use super::vcpus::{VcpuJobs, Vcpus};
use super::{Machine, MachineError};
use crate::kvm::{ClockPlan, Clocks, KvmError, VcpuState, VmState};
use crate::sys::clock::{Monotonic, host_tsc};
use crate::sys::fault;

/// Jobs of the vCPU threads that set the vCPUs' state, and the clocks to set once they are done.
pub(super) struct PendingRestore {
    jobs: VcpuJobs<()>,
    /// What the machine's clocks show at `since`.
    clock_plan: ClockPlan,
    since: Monotonic,
}

impl PendingRestore {
    /// Has the vCPU threads set `states`; [`finish`](Self::finish) waits for them.
    pub(super) fn begin(
        vcpus: &Vcpus,
        states: Vec<VcpuState>,
        clocks: &Clocks,
    ) -> Result<Self, MachineError> {
        let since = Monotonic::now();
        let clock_plan = clocks.plan_restore(since, host_tsc())?;
        Ok(Self {
            jobs: vcpus.restore(states, clock_plan.tsc_back),
            clock_plan,
            since,
        })
    }

    /// Waits until the vCPUs' state is set, then sets the VM's state and clocks, which must come
    /// after it.
    pub(super) fn finish(self, machine: &Machine, vm: &VmState) -> Result<(), MachineError> {
        // The local APICs come before the interrupt controllers, which may have an interrupt
        // pending for them.
        self.jobs.finish()?;
        fault::point("restore.vm").map_err(MachineError::host("setting the VM's state"))?;
        machine.vm.restore(vm)?;
        // kvm-clock continues from this call, the TSCs from `since`.
        let passed = Monotonic::now().ns_since(self.since);
        let then = self.clock_plan.kvm_clock_ns;
        let now = then.checked_add(passed).ok_or(KvmError::Clock(then))?;
        let (vcpus, memory) = (machine.vcpus.cpus(), machine.ram.memory());
        Ok(machine.vm.set_clock_of(vcpus, memory, now)?)
    }
}
