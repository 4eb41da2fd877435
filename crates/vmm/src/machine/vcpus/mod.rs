//! The vCPU threads: starting, running, pausing and ending them together.

mod confinement;
mod gate;
mod jobs;
mod vcpu_thread;
mod xstate_port;

use super::ports::Power;
use super::{Event, Events, FirstRun};
use crate::bus::Bus;
use crate::kvm::Vcpu;
use crate::sys::hands::Helpers;
pub use gate::End;
use gate::{Shared, Wanted};
pub use jobs::VcpuJobError;
pub(super) use jobs::VcpuJobs;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;
use vcpu_thread::VcpuThread;
#[cfg(feature = "fuzzing")]
pub(super) use xstate_port::Request;
pub(super) use xstate_port::XstatePort;

/// How often [`Vcpus::run_boosted`] checks whether a vCPU has entered the guest, and how many
/// times: while it checks, the vCPU threads keep their real-time priority.
const ENTRY_POLL: Duration = Duration::from_millis(1);
const ENTRY_POLLS: u32 = 100;

/// How long threads may take to start or to end: far longer than on any host that works.
const THREAD_LIMIT: Duration = Duration::from_secs(60);

/// One thread per vCPU, all running or all at rest.
pub(super) struct Vcpus {
    shared: Arc<Shared>,
    cpus: Vec<Arc<Mutex<Vcpu>>>,
    threads: Vec<JoinHandle<()>>,
}

/// What serves the exits of the vCPUs.
pub(super) struct Connections {
    pub(super) ports: Bus,
    pub(super) mmio: Bus,
    /// Serves what is written to its ports, for that needs the vCPU.
    pub(super) xstate: Arc<XstatePort>,
    /// How the guest turns the machine off.
    pub(super) power: Power,
    pub(super) events: Events,
}

impl Vcpus {
    /// Starts the threads, confined and at rest. With `warm`, each has run its vCPU once by then
    /// ([`Vcpu::warm_up`]).
    ///
    /// # Errors
    /// When the process is out of threads, or one cannot be confined or kicked.
    pub(super) fn start(cpus: Vec<Vcpu>, warm: bool) -> io::Result<Self> {
        let confinement = confinement::new()?;
        Self::start_confined(move || confinement.enter(), cpus, warm)
    }

    /// The same, where each thread first confines itself by `confine`.
    fn start_confined(
        confine: impl Fn() -> io::Result<()> + Send + Sync + 'static,
        cpus: Vec<Vcpu>,
        warm: bool,
    ) -> io::Result<Self> {
        let mut vcpus = Self {
            shared: Arc::new(Shared::new()?),
            cpus: Vec::new(),
            threads: Vec::new(),
        };
        let confine = Arc::new(confine);
        for (index, vcpu) in cpus.into_iter().enumerate() {
            let vcpu = Arc::new(Mutex::new(vcpu));
            let (shared, cpu) = (vcpus.shared.clone(), vcpu.clone());
            let confine = confine.clone();
            vcpus.shared.gate().add_thread();
            let main = move || {
                let thread = VcpuThread {
                    shared: &shared,
                    vcpu: &cpu,
                    index,
                };
                thread.main(&*confine, warm);
            };
            let thread = thread::Builder::new().name(format!("vcpu{index}"));
            vcpus.threads.push(thread.spawn(main)?);
            vcpus.cpus.push(vcpu);
        }
        if !vcpus.shared.wait_for_rest(THREAD_LIMIT) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        vcpus.check().map_err(io::Error::other)?;
        Ok(vcpus)
    }

    /// Connects the vCPUs to the buses; once, before they run.
    pub(super) fn connect(&self, connections: Connections) {
        if self.shared.connections.set(connections).is_err() {
            unreachable!("a shell becomes a machine once");
        }
    }

    /// # Errors
    /// Why no vCPU will run again, if the machine has ended by itself.
    pub(super) fn check(&self) -> Result<(), End> {
        self.shared.ended().cloned().map_or(Ok(()), Err)
    }

    /// A callback for any thread that reports the failure of another part of the machine. It
    /// stops the vCPUs.
    pub(super) fn fault_reporter(&self) -> impl Fn(String) + Send + Sync + 'static {
        let shared = self.shared.clone();
        move |what| shared.end(End::Fault(what))
    }

    /// Brings all vCPUs to rest, outside of `KVM_RUN` and with no I/O half done. A vCPU whose
    /// thread has ended counts as at rest. Returns whether all came to rest within `most`.
    pub(super) fn rest(&self, most: Duration) -> bool {
        self.shared.want(Wanted::Rest);
        self.shared.kickable.kick_all();
        self.shared.wait_for_rest(most)
    }

    /// Lets them run.
    pub(super) fn run(&self) {
        self.shared.boosts().clear();
        self.shared.want(Wanted::Run);
    }

    /// Runs new vCPUs with real-time priority. Each thread loses it at its first exit, and all
    /// lose it when `most` has passed. Waits for the first exit meanwhile. The caller needs a
    /// [boost](crate::sys::sched::RealtimeBoost::for_monitor) itself, or might not get the
    /// processor to end theirs.
    ///
    /// When many clones start at once, boosted threads of other clones may run before a vCPU
    /// enters the guest. Then this waits for that entry, too, because no guest runs until then,
    /// and for one [`ENTRY_POLL`] more for the exit.
    pub(super) fn run_boosted(&self, most: Duration) {
        self.shared.want(Wanted::Run);
        self.await_first_exit(most);
        if !self.has_entered() {
            self.await_entry();
            self.await_first_exit(ENTRY_POLL);
        }
        self.shared.boosts().clear();
    }

    fn has_entered(&self) -> bool {
        self.shared.entered.get().is_some()
    }

    fn await_entry(&self) {
        let mut steps = 0..ENTRY_POLLS;
        while !self.has_entered() && steps.next().is_some() {
            self.await_first_exit(ENTRY_POLL);
        }
    }

    /// Waits for the first exit, but not longer than `most`.
    pub(super) fn await_first_exit(&self, most: Duration) {
        let (exited, changed) = &self.shared.first_exit;
        let exited = exited.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = changed.wait_timeout_while(exited, most, |exited| !*exited);
    }

    /// The vCPUs. Locking one waits for it to come to rest.
    pub(super) fn cpus(&self) -> impl Iterator<Item = MutexGuard<'_, Vcpu>> {
        self.cpus.iter().map(|vcpu| lock(vcpu))
    }
}

/// vCPU threads at rest help other threads.
impl Helpers for Vcpus {
    fn run(&self, work: &(dyn Fn() + Sync)) {
        let wake = || {
            let _gate = self.shared.gate();
            self.shared.changed.notify_all();
        };
        self.shared.work.run(work, wake);
    }
}

impl Drop for Vcpus {
    fn drop(&mut self) {
        self.shared.want(Wanted::End);
        self.shared.kickable.kick_all();
        // This kicks threads again that have missed a kick.
        self.shared.wait_for_rest(THREAD_LIMIT);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn lock(vcpu: &Mutex<Vcpu>) -> MutexGuard<'_, Vcpu> {
    vcpu.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
