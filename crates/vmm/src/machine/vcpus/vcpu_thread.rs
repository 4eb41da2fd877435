//! The life of one vCPU thread.

use super::gate::{End, RestsInTheEnd, Shared, Wanted};
use super::{Connections, Event, Events, FirstRun, lock};
use crate::devices::worker::panic_message;
use crate::kvm::Vcpu;
use crate::sys::clock::Monotonic;
use crate::sys::hands::LastHelp;
use crate::sys::kick::Kickable;
use crate::sys::sched::{self, Urgent};
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

/// Whether a vCPU goes on after an exit.
enum Next {
    Run,
    /// It was kicked: see what is wanted.
    Look,
    /// It can never run again.
    Stop(End),
}

impl VcpuThread<'_> {
    /// All of it, confined by `confine`. With `warm`, the vCPU has run once before it comes to rest for the first
    /// time ([`Vcpu::warm_up`]). What goes wrong ends the machine.
    pub(super) fn live(&self, confine: &dyn Fn() -> io::Result<()>, warm: bool) {
        let (shared, index) = (self.shared, self.index);
        let _rests = RestsInTheEnd { shared, index };
        if let Err(error) = confine() {
            return self.fault(&format_args!("its thread cannot be confined: {error}"));
        }
        let served = catch_unwind(AssertUnwindSafe(|| self.serve(warm)));
        if let Err(panic) = served {
            let words = panic_message(&*panic);
            self.fault(&format_args!("the monitor's own code panicked: {words}"));
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
            // It works nevertheless, only slower at first.
            let index = self.index;
            crate::sys::note!("vCPU {index} could not be run in advance: {error}");
        }
        let flag = ptr::from_ref(lock(self.vcpu).immediate_exit());
        // SAFETY: the flag is in the vCPU's kvm_run mapping, and the vCPU outlives this
        // thread's use of it: it is borrowed until after `_kickable` is dropped.
        let _kickable = unsafe { Kickable::this_thread(&self.shared.kickable, flag) };
        // Until it has entered the guest, and come out again, the caller of a fork waits for it. Then it
        // is one that computes.
        let urgent = Urgent::guest();
        self.shared.urgent().push((self.index, urgent));
        let mut is_new = true;
        let mut last_help = LastHelp::default();
        while let Some(connections) = self.may_run(is_new, &mut last_help) {
            let end = self.run(connections, &mut is_new);
            if let Some(end) = end {
                return self.shared.end(end);
            }
        }
        self.take_usual_turns();
    }

    /// Has the thread be one that computes.
    fn take_usual_turns(&self) {
        self.shared.keep_urgent_no_more(self.index);
        sched::take_usual_turns();
    }

    /// Rests while that is wanted, but for jobs and for helping; `None` when it is time to
    /// end. When a machine goes on, its owner, who paused it, has something to do yet that others
    /// wait for; a vCPU that `is_new` is itself waited for.
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
                false => sched::wait_politely(wait),
            };
            gate.set_at_rest(self.index, false);
        }
        let connections = shared.connections.get();
        connections.filter(|_| gate.wanted == Wanted::Run)
    }

    /// Runs the guest until something else is wanted; or `Some` why it can never run again.
    fn run(&self, connections: &Connections, is_new: &mut bool) -> Option<End> {
        let mut vcpu = lock(self.vcpu);
        if *is_new {
            self.shared.entered.get_or_init(Monotonic::now);
        }
        loop {
            let next = self.step(connections, &mut vcpu);
            if std::mem::take(is_new) {
                self.take_usual_turns();
            }
            match next {
                Next::Run => {}
                Next::Look => {
                    // Before looking: a kick that comes after this sets it again.
                    vcpu.immediate_exit().store(0, Ordering::Relaxed);
                    return None;
                }
                Next::Stop(end) => return Some(end),
            }
        }
    }

    /// Enters the guest once and serves what it comes out with.
    fn step(&self, connections: &Connections, vcpu: &mut Vcpu) -> Next {
        let Connections {
            ports,
            mmio,
            power,
            events,
        } = connections;
        let fault = |what: String| Next::Stop(self.describe(&what));
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return Next::Look,
            Err(error) => {
                let error = io::Error::from_raw_os_error(error.errno());
                return fault(format!("KVM_RUN: {error}"));
            }
        };
        if !self.shared.has_exited.load(Ordering::Relaxed) {
            self.has_now_exited(events);
        }
        match exit {
            VcpuExit::IoIn(port, data) => ports.read(port.into(), data),
            VcpuExit::IoOut(port, data) => {
                ports.write(port.into(), data);
                if power.is_off() {
                    return Next::Stop(End::PowerOff);
                }
            }
            VcpuExit::MmioRead(address, data) => mmio.read(address, data),
            VcpuExit::MmioWrite(address, data) => mmio.write(address, data),
            VcpuExit::Intr => return Next::Look,
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

    /// Only one vCPU's exit is the first.
    fn has_now_exited(&self, events: &Events) {
        let exited = Monotonic::now();
        let shared = self.shared;
        if !shared.has_exited.swap(true, Ordering::Relaxed) {
            let (has_exited, said) = &shared.first_exit;
            *has_exited.lock().unwrap_or_else(PoisonError::into_inner) = true;
            said.notify_all();
            let entered = *shared.entered.get().unwrap_or(&exited);
            events(Event::FirstExit(FirstRun { entered, exited }));
        }
    }
}
