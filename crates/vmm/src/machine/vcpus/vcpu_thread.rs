//! One vCPU thread: runs the guest, serves its exits, and rests while the machine is paused.

use super::gate::{End, RestsAfterEnd, Shared, Wanted};
use super::{Connections, Event, Events, FirstRun, lock};
use crate::devices::worker::panic_message;
use crate::kvm::Vcpu;
use crate::sys::clock::Monotonic;
use crate::sys::hands::LastHelp;
use crate::sys::kick::Kickable;
use crate::sys::sched::{self, RealtimeBoost};
use kvm_ioctls::VcpuExit;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

/// One vCPU and what its thread shares with others.
pub(super) struct VcpuThread<'a> {
    pub(super) shared: &'a Shared,
    pub(super) vcpu: &'a Mutex<Vcpu>,
    pub(super) index: usize,
}

/// What a vCPU thread does after an exit.
enum Next {
    Run,
    /// The thread was kicked: check what is wanted of it.
    Kicked,
    /// The vCPU can never run again.
    Stop(End),
}

impl VcpuThread<'_> {
    /// The thread's main function, confined by `confine`. With `warm`, the vCPU runs once before
    /// the thread comes to rest for the first time ([`Vcpu::warm_up`]). A failure ends the
    /// machine.
    pub(super) fn main(&self, confine: &dyn Fn() -> io::Result<()>, warm: bool) {
        let (shared, index) = (self.shared, self.index);
        let _guard = RestsAfterEnd { shared, index };
        if let Err(error) = confine() {
            return self.fault(&format_args!("its thread cannot be confined: {error}"));
        }
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(warm)));
        if let Err(panic) = served {
            let message = panic_message(&*panic);
            self.fault(&format_args!("the monitor's own code panicked: {message}"));
        }
    }

    fn fault(&self, what: &dyn std::fmt::Display) {
        self.shared.end(self.describe(what));
    }

    fn describe(&self, what: &dyn std::fmt::Display) -> End {
        End::Fault(format!("vCPU {}: {what}", self.index))
    }

    fn serve(&self, warm: bool) {
        if warm && let Err(error) = lock(self.vcpu).warm_up() {
            // The vCPU works nevertheless; only its first run is slower.
            let index = self.index;
            crate::sys::note!("vCPU {index} could not be run in advance: {error}");
        }
        let flag = ptr::from_ref(lock(self.vcpu).immediate_exit());
        // SAFETY: the flag is in the vCPU's kvm_run mapping, and the vCPU outlives this
        // thread's use of it: it is borrowed until after `_kickable` is dropped.
        let _kickable = unsafe { Kickable::this_thread(&self.shared.kickable, flag) };
        // The caller of a fork waits for this thread until its first exit. After that it is a
        // thread that computes, like any other.
        let boost = RealtimeBoost::for_vcpu();
        self.shared.boosts().push((self.index, boost));
        let mut is_new = true;
        let mut last_help = LastHelp::default();
        while let Some(connections) = self.may_run(is_new, &mut last_help) {
            let end = self.run(connections, &mut is_new);
            if let Some(end) = end {
                return self.shared.end(end);
            }
        }
        self.end_boost();
    }

    /// Gives the thread the default scheduling of one that computes.
    fn end_boost(&self) {
        self.shared.end_boost(self.index);
        sched::use_default_time_slice();
    }

    /// Rests while that is wanted, doing jobs and helping other threads meanwhile. `None` when
    /// the thread has to end. When a paused machine resumes, the thread that resumed it still has
    /// work that a fork waits for, so this one does not preempt it; but the caller of a fork waits
    /// for a vCPU that `is_new`.
    fn may_run(&self, is_new: bool, last_help: &mut LastHelp) -> Option<&Connections> {
        let shared = self.shared;
        let mut gate = shared.gate();
        if gate.wanted == Wanted::Rest {
            gate.set_at_rest(self.index, true);
            shared.changed.notify_all();
            let wait = || {
                while gate.wanted == Wanted::Rest {
                    gate = match gate.take_job(self.index) {
                        Some(job) => {
                            drop(gate);
                            job(&mut lock(self.vcpu));
                            shared.gate()
                        }
                        None if shared.work.has_work(last_help) => {
                            drop(gate);
                            shared.work.help(last_help);
                            shared.gate()
                        }
                        None => {
                            let changed = shared.changed.wait(gate);
                            changed.unwrap_or_else(PoisonError::into_inner)
                        }
                    };
                }
                gate
            };
            gate = match is_new {
                true => wait(),
                false => sched::wait_without_preempting(wait),
            };
            gate.set_at_rest(self.index, false);
        }
        let connections = shared.connections.get();
        connections.filter(|_| gate.wanted == Wanted::Run)
    }

    /// Runs the guest until the thread is kicked; `Some` if the vCPU can never run again.
    fn run(&self, connections: &Connections, is_new: &mut bool) -> Option<End> {
        let mut vcpu = lock(self.vcpu);
        if *is_new {
            self.shared.entered.get_or_init(Monotonic::now);
        }
        loop {
            let next = self.step(connections, &mut vcpu);
            if std::mem::take(is_new) {
                self.end_boost();
            }
            match next {
                Next::Run => {}
                Next::Kicked => {
                    // Before checking what is wanted: a later kick sets it again.
                    vcpu.immediate_exit().store(0, Ordering::Relaxed);
                    return None;
                }
                Next::Stop(end) => return Some(end),
            }
        }
    }

    /// Enters the guest once and serves the exit.
    fn step(&self, connections: &Connections, vcpu: &mut Vcpu) -> Next {
        let Connections {
            ports,
            mmio,
            xstate,
            power,
            events,
        } = connections;
        let fault = |what: String| Next::Stop(self.describe(&what));
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                return Next::Kicked;
            }
            Err(error) => {
                let error = io::Error::from_raw_os_error(error.errno());
                return fault(format!("KVM_RUN: {error}"));
            }
        };
        if !self.shared.has_exited.load(Ordering::Relaxed) {
            self.report_first_exit(events);
        }
        match exit {
            VcpuExit::IoIn(port, data) => ports.read(port.into(), data),
            VcpuExit::IoOut(port, data) => {
                if let Some(request) = xstate.request(port, data) {
                    return match xstate.serve(request, vcpu) {
                        Ok(()) => Next::Run,
                        Err(error) => fault(format!("its vector registers: {error}")),
                    };
                }
                ports.write(port.into(), data);
                if power.is_off() {
                    return Next::Stop(End::PowerOff);
                }
            }
            VcpuExit::MmioRead(address, data) => mmio.read(address, data),
            VcpuExit::MmioWrite(address, data) => mmio.write(address, data),
            VcpuExit::Intr => return Next::Kicked,
            VcpuExit::SystemEvent(..) => return Next::Stop(End::PowerOff),
            VcpuExit::Shutdown => {
                let state = vcpu.save().map(|state| state.describe());
                let state = state.unwrap_or_else(|error| error.to_string());
                return fault(format!("triple fault, {state}"));
            }
            VcpuExit::InternalError => {
                let (suberror, data) = vcpu.internal_error();
                let rip = vcpu.regs().map(|regs| regs.rip).unwrap_or(0);
                return fault(format!(
                    "KVM internal error {suberror} at {rip:#x}, data {data:x?}"
                ));
            }
            other => {
                let what = format!("unexpected exit {other:?}");
                return fault(what);
            }
        }
        Next::Run
    }

    /// Reports this exit, unless another vCPU was first.
    fn report_first_exit(&self, events: &Events) {
        let exited = Monotonic::now();
        let shared = self.shared;
        if !shared.has_exited.swap(true, Ordering::Relaxed) {
            let (has_exited, changed) = &shared.first_exit;
            *has_exited.lock().unwrap_or_else(PoisonError::into_inner) = true;
            changed.notify_all();
            let entered = *shared.entered.get().unwrap_or(&exited);
            events(Event::FirstExit(FirstRun { entered, exited }));
        }
    }
}
