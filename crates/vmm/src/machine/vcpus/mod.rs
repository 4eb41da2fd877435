//! The vCPU threads.

mod confinement;
mod errands;

use super::{Event, Events, FirstRun};
use crate::bus::Bus;
use crate::kvm::Vcpu;
use crate::sys::clock::Monotonic;
use crate::sys::hands::{Hands, Helped, Table};
use crate::sys::kick::{self, Kickable, kick};
use crate::sys::sched::{self, Urgent};
use errands::Errand;
pub(super) use errands::Errands;
use kvm_ioctls::VcpuExit;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often it is looked whether a vCPU has entered its guest that could not at once, and
/// for how long: so long it would take the processor from others.
const CROWD_STEP: Duration = Duration::from_millis(1);
const CROWD_STEPS: u32 = 100;

/// One thread per vCPU, all running or all at rest.
pub(super) struct Vcpus {
    shared: Arc<Shared>,
    cpus: Vec<Arc<Mutex<Vcpu>>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    gate: Mutex<Gate>,
    changed: Condvar,
    connections: OnceLock<Connections>,
    /// When the first of them ran.
    entered: OnceLock<Monotonic>,
    /// Said to whoever [waits](Vcpus::await_first_exit) for it.
    first_exit: (Mutex<bool>, Condvar),
    /// The same, for those who ask at every exit.
    has_exited: AtomicBool,
    /// The threads that have not run their guests yet, by their indices: others wait for
    /// them.
    urgent: Mutex<Vec<(usize, Urgent)>>,
    /// What threads at rest may help with.
    table: Table,
}

/// What exits of the guest lead to.
pub(super) struct Connections {
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    pub(super) events: Events,
}

struct Gate {
    wanted: Wanted,
    /// Threads that will not enter the guest until `wanted` changes.
    at_rest: usize,
    /// For each thread at rest, as long as nobody has begun with it.
    errands: Vec<Option<Errand>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Rest,
    Run,
    End,
}

impl Vcpus {
    /// Starts the threads, confined and at rest. With `warm`, each has run its vCPU once by then
    /// ([`Vcpu::warm_up`]).
    pub(super) fn start(cpus: Vec<Vcpu>, warm: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            gate: Mutex::new(Gate {
                wanted: Wanted::Rest,
                at_rest: 0,
                errands: Vec::new(),
            }),
            changed: Condvar::new(),
            connections: OnceLock::new(),
            entered: OnceLock::new(),
            first_exit: (Mutex::new(false), Condvar::new()),
            has_exited: AtomicBool::new(false),
            urgent: Mutex::default(),
            table: Table::default(),
        });
        let mut vcpus = Self {
            shared,
            cpus: Vec::new(),
            threads: Vec::new(),
        };
        kick::prepare()?;
        let confinement = Arc::new(confinement::new()?);
        for (index, vcpu) in cpus.into_iter().enumerate() {
            let vcpu = Arc::new(Mutex::new(vcpu));
            let (shared, cpu) = (vcpus.shared.clone(), vcpu.clone());
            let confinement = confinement.clone();
            let thread = thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(move || match confinement.enter() {
                    Ok(()) => shared.serve(&cpu, index, warm),
                    Err(error) => {
                        eprintln!("vCPU {index} cannot be confined: {error}");
                        shared.stop();
                    }
                })?;
            vcpus.cpus.push(vcpu);
            vcpus.threads.push(thread);
        }
        vcpus.wait_for_rest();
        Ok(vcpus)
    }

    /// Says what exits lead to. Before the vCPUs run, and once.
    pub(super) fn connect(&self, connections: Connections) {
        if self.shared.connections.set(connections).is_err() {
            unreachable!("a shell becomes a machine once");
        }
    }

    /// Brings all vCPUs to rest, outside of `KVM_RUN` and with no I/O half done.
    pub(super) fn rest(&self) {
        self.shared.gate().wanted = Wanted::Rest;
        self.kick();
        self.wait_for_rest();
    }

    /// Lets them run.
    pub(super) fn run(&self) {
        self.shared.urgent().clear();
        self.let_go();
    }

    /// Lets them run for the first time, waiting for no thread that computes: until each
    /// comes out, or `most` has passed. So long this waits for the first of them. The caller
    /// has to be [urgent](Urgent::now), or may be kept from ending it.
    ///
    /// Where many clones come to life at once, the urgent steps of others come before a vCPU's
    /// entering. That is waited for, for until then no guest runs; and for one
    /// [`CROWD_STEP`] more, in which it comes out if others let it.
    pub(super) fn run_urgently(&self, most: Duration) {
        self.let_go();
        self.await_first_exit(most);
        if !self.has_entered() {
            self.await_entry();
            self.await_first_exit(CROWD_STEP);
        }
        self.shared.urgent().clear();
    }

    fn has_entered(&self) -> bool {
        self.shared.entered.get().is_some()
    }

    fn await_entry(&self) {
        let mut steps = 0..CROWD_STEPS;
        while !self.has_entered() && steps.next().is_some() {
            self.await_first_exit(CROWD_STEP);
        }
    }

    fn let_go(&self) {
        let mut gate = self.shared.gate();
        gate.wanted = Wanted::Run;
        self.shared.changed.notify_all();
    }

    /// Waits until the guest has come out once, but not longer than `most`.
    pub(super) fn await_first_exit(&self, most: Duration) {
        let (exited, said) = &self.shared.first_exit;
        let exited = exited.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = said.wait_timeout_while(exited, most, |exited| !*exited);
    }

    /// The vCPUs. Locking one waits for it to come to rest.
    pub(super) fn cpus(&self) -> impl Iterator<Item = MutexGuard<'_, Vcpu>> {
        self.cpus.iter().map(|vcpu| lock(vcpu))
    }

    fn kick(&self) {
        for thread in &self.threads {
            // A thread that has ended needs no kick.
            let _ = kick(thread);
        }
    }

    fn wait_for_rest(&self) {
        let mut gate = self.shared.gate();
        while gate.at_rest < self.threads.len() {
            gate = self
                .shared
                .changed
                .wait(gate)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The threads of vCPUs that are at rest have time.
impl Hands for Vcpus {
    fn together(&self, work: &(dyn Fn() + Sync)) {
        let call = || {
            let _gate = self.shared.gate();
            self.shared.changed.notify_all();
        };
        self.shared.table.together(work, call);
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.shared.gate().wanted = Wanted::End;
        self.shared.changed.notify_all();
        self.kick();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Gate {
    fn take_errand(&mut self, index: usize) -> Option<Errand> {
        self.errands.get_mut(index)?.take()
    }
}

/// Whether a vCPU goes on after an exit.
enum Next {
    Run,
    /// It was kicked: see what is wanted.
    Look,
    /// It can never run again.
    Stop,
}

impl Shared {
    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn urgent(&self) -> MutexGuard<'_, Vec<(usize, Urgent)>> {
        self.urgent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a thread be one that computes.
    fn take_usual_turns(&self, index: usize) {
        self.urgent().retain(|(urgent, _)| *urgent != index);
        sched::take_usual_turns();
    }

    /// The life of a vCPU thread.
    fn serve(&self, vcpu: &Mutex<Vcpu>, index: usize, warm: bool) {
        if warm && let Err(error) = lock(vcpu).warm_up() {
            // It works nevertheless, only slower at first.
            eprintln!("vCPU {index} could not be run in advance: {error}");
        }
        let flag: *mut u8 = lock(vcpu).immediate_exit();
        // SAFETY: the flag is in the vCPU's kvm_run mapping, and the vCPU outlives this
        // thread's use of it: `vcpu` is borrowed until after `_kickable` is dropped.
        let _kickable = unsafe { Kickable::this_thread(flag) };
        // Until it has entered the guest, and come out again, somebody waits for it. Then it
        // is one that computes.
        self.urgent().push((index, Urgent::guest()));
        let mut is_new = true;
        let mut helped = Helped::default();
        while let Some(connections) = self.may_run(vcpu, index, is_new, &mut helped) {
            let mut vcpu = lock(vcpu);
            if is_new {
                self.entered.get_or_init(Monotonic::now);
            }
            loop {
                let next = self.step(connections, &mut vcpu, index);
                if std::mem::take(&mut is_new) {
                    self.take_usual_turns(index);
                }
                match next {
                    Next::Run => {}
                    Next::Look => {
                        // Before looking: a kick that comes after this sets it again.
                        *vcpu.immediate_exit() = 0;
                        break;
                    }
                    Next::Stop => {
                        drop(vcpu);
                        return self.stop();
                    }
                }
            }
        }
        self.take_usual_turns(index);
    }

    /// Rests while that is wanted, but for errands and for helping; `None` when it is time to
    /// end. When a machine goes on, whoever paused it has something to do yet that others
    /// wait for; a vCPU that `is_new` is itself waited for.
    fn may_run(
        &self,
        vcpu: &Mutex<Vcpu>,
        index: usize,
        is_new: bool,
        helped: &mut Helped,
    ) -> Option<&Connections> {
        let mut gate = self.gate();
        if gate.wanted == Wanted::Rest {
            gate.at_rest += 1;
            self.changed.notify_all();
            let wait = || {
                while gate.wanted == Wanted::Rest {
                    gate = match gate.take_errand(index) {
                        Some(errand) => {
                            drop(gate);
                            errand(&mut lock(vcpu));
                            self.gate()
                        }
                        None if self.table.calls(helped) => {
                            drop(gate);
                            self.table.help(helped);
                            self.gate()
                        }
                        None => self
                            .changed
                            .wait(gate)
                            .unwrap_or_else(PoisonError::into_inner),
                    };
                }
                gate
            };
            gate = match is_new {
                true => wait(),
                false => sched::wait_politely(wait),
            };
            gate.at_rest -= 1;
        }
        self.connections
            .get()
            .filter(|_| gate.wanted == Wanted::Run)
    }

    /// Counts as at rest for ever.
    fn stop(&self) {
        self.gate().at_rest += 1;
        self.changed.notify_all();
    }

    /// Only one vCPU's exit is the first.
    fn has_now_exited(&self, events: &Events) {
        let exited = Monotonic::now();
        if !self.has_exited.swap(true, Ordering::Relaxed) {
            let (has_exited, said) = &self.first_exit;
            *has_exited.lock().unwrap_or_else(PoisonError::into_inner) = true;
            said.notify_all();
            let entered = *self.entered.get().unwrap_or(&exited);
            events(Event::FirstExit(FirstRun { entered, exited }));
        }
    }

    /// Enters the guest once and serves what it comes out with.
    fn step(&self, connections: &Connections, vcpu: &mut Vcpu, index: usize) -> Next {
        let Connections {
            ports,
            mmio,
            events,
        } = connections;
        let fault = |what: String| {
            events(Event::Fault(what));
            Next::Stop
        };
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => return Next::Look,
            Err(error) => {
                let error = io::Error::from_raw_os_error(error.errno());
                return fault(format!("vCPU {index}: KVM_RUN: {error}"));
            }
        };
        if !self.has_exited.load(Ordering::Relaxed) {
            self.has_now_exited(events);
        }
        match exit {
            VcpuExit::IoIn(port, data) => ports.read(port.into(), data),
            VcpuExit::IoOut(port, data) => ports.write(port.into(), data),
            VcpuExit::MmioRead(address, data) => mmio.read(address, data),
            VcpuExit::MmioWrite(address, data) => mmio.write(address, data),
            VcpuExit::Intr => return Next::Look,
            VcpuExit::SystemEvent(..) => {
                events(Event::Reset);
                return Next::Stop;
            }
            VcpuExit::Shutdown => {
                let state = vcpu.save().map(|state| state.describe());
                let state = state.unwrap_or_else(|error| error.to_string());
                return fault(format!("vCPU {index}: triple fault, {state}"));
            }
            VcpuExit::InternalError => {
                let (suberror, data) = vcpu.internal_error();
                let rip = vcpu.regs().map(|regs| regs.rip).unwrap_or(0);
                return fault(format!(
                    "vCPU {index}: KVM internal error {suberror} at {rip:#x}, data {data:x?}"
                ));
            }
            other => {
                let what = format!("vCPU {index}: unexpected exit {other:?}");
                return fault(what);
            }
        }
        Next::Run
    }
}

fn lock(vcpu: &Mutex<Vcpu>) -> MutexGuard<'_, Vcpu> {
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}
