//! The one thread that owns a VM: everything that changes it happens here, in
//! order. Others send it a [`Task`].
//!
//! ```text
//!            ready                 pause
//! STARTING ─────────> RUNNING <──────────> PAUSED
//!    │                   │       resume       │
//!    │ not ready,        │ stop, power-off,   │
//!    │ not wanted        │ panic, fault       │
//!    ▼                   ▼                    ▼
//! (gone)              STOPPED or FAILED: the process ends, its directory stays
//! ```

mod disks;
mod ending;
mod events;
mod ready;
mod requests;
mod signals;

use super::control::{Asked, Pending};
use super::follow::MainOutput;
use super::fork;
use super::handover::{Birth, Progress, Started, Steps};
use super::pool::Pool;
use super::publish::Published;
use super::record;
use super::rundir::{Claim, RunDir};
use crate::devices::log::Log;
use crate::machine::{Event, FirstRun, Machine, Restored};
use crate::net::Namespace;
use crate::snapshot::Primer;
use crate::sys::clock::Monotonic;
use crate::sys::fds::FdTable;
use ending::Ending;
use events::Unheard;
pub(super) use events::events;
use hyperfork_api::control::{Reply, Request};
use hyperfork_api::{ForkReport, Identity, Secrets, VmInfo, VmSpec};
use ready::{NotReady, Readiness};
use signals::Wishes;
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// What the owner is told or asked.
#[derive(Debug)]
pub(super) enum Task {
    /// A request came over the control socket.
    Asked(Asked),
    /// Something happened in the machine.
    Machine(Event),
    /// The guest has said something.
    Said(Unheard),
    /// The guest has asked for so many clones, and what it had printed by then is logged.
    ForkForGuest(u32),
    /// The fork that the guest asked for is complete, or failed for this reason.
    GuestForked(Result<ForkReport, String>),
    /// The guest knows who it is (and runs its main program), or will never.
    Identified(Result<(), NotReady>),
    /// The main program has ended; `None` when nobody can tell any more.
    MainEnded(Option<i32>),
    /// Whoever started the VM let it go its own way, and waits for our word.
    Released(Started),
    /// A fork is complete, or has failed; what its clones have shown of what the next
    /// ones will be like.
    Forked(Option<(Primer, FdTable)>),
    /// Whoever started the VM is gone.
    Abandoned,
    /// There is a pool.
    Pool(Pool),
    /// The process was asked to end.
    Terminate,
}
pub(super) struct Owner {
    pub(super) machine: Machine,
    pub(super) spec: VmSpec,
    pub(super) identity: Identity,
    /// What the guest may know, until it is told.
    secrets: Secrets,
    pub(super) info: VmInfo,
    pub(super) run_dir: RunDir,
    /// Where shells for its clones come from, once it is ready; nowhere if there is no
    /// pool.
    pub(super) pool: Option<Pool>,
    claim: Claim,
    /// Where the guest's card is plugged in: as long as the VM lives.
    network: Option<Namespace>,
    published: Published,
    console: Log,
    pub(super) output: MainOutput,
    pub(super) tasks: Sender<Task>,
    pending: Pending,
    /// Until the VM is ready: who waits for that.
    started: Option<Started>,
    /// Whether it lives by itself: whoever started it has seen it ready. Until then
    /// it leaves nothing behind when it ends.
    released: bool,
    wishes: Wishes,
    born: Monotonic,
    /// For a clone, until its first exit: when it got there.
    restored: Option<(Monotonic, Restored)>,
    ready_waiters: Vec<Sender<Reply>>,
    exit_waiters: Vec<Sender<Reply>>,
    stop_waiters: Vec<Sender<Reply>>,
    /// When patience with the guest ends: to become ready, or to power off.
    deadline: Option<Instant>,
}

/// What an owner is made of.
pub(super) struct Parts {
    pub(super) machine: Machine,
    pub(super) birth: Birth,
    pub(super) network: Option<Namespace>,
    pub(super) published: Published,
    pub(super) run_dir: RunDir,
    pub(super) claim: Claim,
    pub(super) console: Log,
    pub(super) output: Log,
    pub(super) tasks: Sender<Task>,
    pub(super) pending: Pending,
    pub(super) started: Started,
    pub(super) born: Monotonic,
    pub(super) restored: Option<(Monotonic, Restored)>,
}

impl Owner {
    pub(super) fn new(parts: Parts) -> Self {
        let Birth {
            spec,
            identity,
            mut info,
            logged,
            secrets,
        } = parts.birth;
        info.pid = Some(std::process::id());
        Self {
            machine: parts.machine,
            spec,
            identity,
            secrets,
            info,
            run_dir: parts.run_dir,
            pool: None,
            claim: parts.claim,
            network: parts.network,
            published: parts.published,
            console: parts.console,
            output: MainOutput::new(parts.output, logged),
            tasks: parts.tasks,
            pending: parts.pending,
            started: Some(parts.started),
            released: false,
            wishes: Wishes::default(),
            born: parts.born,
            restored: parts.restored,
            ready_waiters: Vec::new(),
            exit_waiters: Vec::new(),
            stop_waiters: Vec::new(),
            deadline: None,
        }
    }

    /// Serves the machine, which runs, until its end.
    pub(super) fn run(mut self, tasks: &Receiver<Task>) {
        self.begin_getting_ready();
        self.keep();
        self.keep_token();
        let ending = loop {
            let task = match self.deadline {
                None => tasks.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(deadline) => {
                    tasks.recv_timeout(deadline.saturating_duration_since(Instant::now()))
                }
            };
            let step = match task {
                Ok(task) => self.handle(task),
                Err(RecvTimeoutError::Timeout) => self.patience_is_over(),
                Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(Ending::stopped()),
            };
            if let ControlFlow::Break(ending) = step {
                break ending;
            }
        };
        self.end(ending);
    }

    fn handle(&mut self, task: Task) -> ControlFlow<Ending> {
        match task {
            Task::Asked(asked) => return self.answer(asked),
            Task::Machine(event) => return self.machine_event(event),
            Task::Said(unheard) => {
                if let Some(message) = unheard.take() {
                    return self.message(message);
                }
            }
            Task::ForkForGuest(clones) => self.fork_for_guest_now(clones),
            Task::GuestForked(result) => self.guest_forked(result),
            Task::Identified(Ok(())) => self.ready(),
            Task::Identified(Err(why)) => return self.not_ready(why),
            Task::MainEnded(status) => self.main_ended(status),
            Task::Released(started) => {
                started.confirm_release(self.touched());
                return self.released();
            }
            Task::Forked(primer) => self.forked(primer),
            Task::Abandoned => {
                return ControlFlow::Break(Ending::failed("nobody waits for it any more"));
            }
            Task::Pool(pool) => self.pool = Some(pool),
            Task::Terminate => return self.stop(TERMINATION_GRACE, None),
        }
        ControlFlow::Continue(())
    }

    fn answer(&mut self, asked: Asked) -> ControlFlow<Ending> {
        let Asked {
            request,
            arrival,
            reply,
        } = asked;
        let answer = match request {
            Request::Info => Some(Reply::Info(Box::new(self.info_now()))),
            Request::WaitReady if self.started.is_none() => Some(Reply::Ok),
            Request::WaitReady => {
                self.ready_waiters.push(reply.clone());
                None
            }
            Request::WaitExit if self.info.exit_status.is_some() => {
                Some(Reply::Info(Box::new(self.info_now())))
            }
            Request::WaitExit => {
                self.exit_waiters.push(reply.clone());
                None
            }
            Request::Pause => Some(self.pause()),
            Request::Resume => self.resume(&reply),
            Request::Fork(request) => {
                let refused = fork::fork(self, &request, arrival, reply.clone());
                refused.err().map(|error| Reply::Error(error.to_string()))
            }
            Request::ExportDisk { device, path } => {
                let refused = self.export_disk(&device, path, reply.clone());
                refused.err().map(Reply::Error)
            }
            Request::Sample { count, interval_us } => Some(self.sample(count, interval_us)),
            Request::Stop { grace_ms } => {
                return self.stop(Duration::from_millis(grace_ms), Some(reply));
            }
        };
        if let Some(answer) = answer {
            let _ = reply.send(answer);
        }
        ControlFlow::Continue(())
    }

    fn machine_event(&mut self, event: Event) -> ControlFlow<Ending> {
        match event {
            Event::FirstExit(first_run) => self.first_exit(first_run),
            Event::Message(message) => return self.message(message),
            Event::Reset => return ControlFlow::Break(self.guest_is_gone()),
            Event::Fault(what) => return ControlFlow::Break(Ending::failed(what)),
        }
        ControlFlow::Continue(())
    }

    fn first_exit(&mut self, first_run: FirstRun) {
        if let (Some((received, restored)), Some(started)) = (self.restored.take(), &self.started) {
            started.report(&Progress::Running(Steps {
                received,
                memory: restored.memory,
                state: restored.state,
                first_run,
            }));
        }
        if self.started.is_some() && self.readiness() == Readiness::FirstExit {
            self.ready();
        }
    }

    fn main_ended(&mut self, status: Option<i32>) {
        if self.is_done() || status.is_none() && !self.info.state.is_alive() {
            return;
        }
        self.info.exit_status = status.or(self.info.exit_status);
        self.keep();
        let info = self.info_now();
        for waiter in self.exit_waiters.drain(..) {
            let _ = waiter.send(Reply::Info(Box::new(info.clone())));
        }
    }

    /// What is known, with memory and disks as of now.
    fn info_now(&mut self) -> VmInfo {
        if let Ok(usage) = self.machine.ram().usage() {
            self.info.shared_kib = usage.shared >> 10;
            self.info.private_kib = usage.private >> 10;
            self.info.swapped_kib = usage.swapped >> 10;
        }
        self.info.disks = disks::told(&self.spec, &self.machine);
        self.info.clone()
    }

    /// What is left to do when a fork is over and nobody waits.
    fn forked(&mut self, primer: Option<(Primer, FdTable)>) {
        self.keep();
        let Some((primer, fds)) = primer else { return };
        match self.pool {
            Some(_) => self.prime_pool(primer, &fds),
            None => self.connect_to_pool(),
        }
    }

    fn keep(&self) {
        if let Err(error) = record::keep(&self.claim.dir, &self.info) {
            eprintln!(
                "cannot write {}: {error}",
                self.claim.dir.info_path().display()
            );
        }
    }

    /// For guests with an agent, which has it, too.
    fn keep_token(&self) {
        let dir = &self.claim.dir;
        if self.machine.vsock().is_some()
            && let Err(error) = record::keep_token(dir, &self.identity)
        {
            let path = dir.token_path();
            let _ = writeln!(io::stderr(), "cannot write {}: {error}", path.display());
        }
    }

    /// Does `work` on a thread and sends what comes out to the owner.
    fn in_background(&self, name: &str, work: impl FnOnce() -> Task + Send + 'static) {
        let tasks = self.tasks.clone();
        let spawned = thread::Builder::new().name(name.into()).spawn(move || {
            // The owner may be gone by then.
            let _ = tasks.send(work());
        });
        if let Err(error) = spawned {
            eprintln!("cannot start a thread: {error}");
            let _ = self.tasks.send(Task::Terminate);
        }
    }
}

/// How long a guest has to power off when the process is told to end.
const TERMINATION_GRACE: Duration = Duration::from_secs(5);
