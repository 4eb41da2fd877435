//! The owner: the one thread that changes a VM, in the order in which it receives [`Task`]s
//! from all other threads.
//!
//! ```text
//!            ready                 pause
//! STARTING ─────────> RUNNING <──────────> PAUSED
//!    │                   │       resume       │
//!    │ not ready,        │ stop, power-off,   │
//!    │ abandoned         │ panic, fault       │
//!    ▼                   ▼                    ▼
//! (gone)              STOPPED or FAILED: the process ends, its directory stays
//! ```

mod disks;
mod ending;
mod events;
mod fork_waiter;
mod ready;
mod requests;
mod run;
mod signals;

use crate::control::{ControlRequest, PendingAnswers, Responder, no_thread};
use crate::follow::MainOutput;
use crate::fork::{self, ForkError, Parent, StartedFork};
use crate::prepared::ReadyVm;
use crate::publish::Published;
use crate::task::{Forked, Task};
pub(crate) use run::run_vm;

use ending::Ending;
use events::EventLog;
use fork_waiter::ForkWaiter;
use hyperfork_api::control::{Fork, Stop, WaitExit, WaitReady};
use hyperfork_api::event::EventKind;
use hyperfork_api::{Code, Error, Identity, Secrets, VmInfo, VmSpec};
use hyperfork_host::handover::{NewVm, Progress, Steps, VmEnd};
use hyperfork_host::pool::Pool;
use hyperfork_host::run_dir::Claim;
use hyperfork_host::{Config, record};
use hyperfork_net::Namespace;
use hyperfork_sys::clock::Monotonic;
use hyperfork_sys::{fault, note};
use hyperfork_vmm::devices::log::Log;
use hyperfork_vmm::machine::{Event, FirstRun, Machine, Restored};
use ready::Readiness;
use requests::Sampling;
use signals::GuestRequests;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The owner of a VM and all that it knows about it.
pub(crate) struct Owner {
    pub(crate) machine: Machine,
    pub(crate) spec: VmSpec,
    pub(crate) identity: Identity,
    /// The guest's secrets, until its agent has received them.
    secrets: Secrets,
    pub(crate) info: VmInfo,
    config: Config,
    /// The pool that gives shells for its clones, once the VM is ready; `None` without a pool.
    pub(crate) pool: Option<Pool>,
    claim: Claim,
    /// The network namespace that the guest's NIC is attached to, kept as long as the VM lives.
    network: Option<Namespace>,
    published: Published,
    console: Log,
    pub(crate) output: MainOutput,
    pub(crate) tasks: Sender<Task>,
    pending: PendingAnswers,
    /// The launcher's connection, until the launcher has released the VM. A VM that ends before
    /// its release leaves nothing behind.
    launcher: Option<VmEnd>,
    /// Clones of forks that are not complete yet.
    pending_clones: u32,
    /// The profile that is being taken.
    sampling: Option<Sampling>,
    guest_requests: GuestRequests,
    requested: Monotonic,
    /// For a clone until its first exit: the times of its restore.
    restored: Option<(Monotonic, Restored)>,
    ready_waiters: Vec<Responder<WaitReady>>,
    exit_waiters: Vec<Responder<WaitExit>>,
    stop_waiters: Vec<Responder<Stop>>,
    events: EventLog,
    /// When the guest must be ready, or must have powered off.
    deadline: Option<Instant>,
    /// When to check that its directory is still there.
    next_check: Instant,
}

impl Owner {
    /// Owns the running machine until its end.
    pub(crate) fn run(vm: ReadyVm, launcher: VmEnd, config: Config, claim: Claim) {
        let NewVm {
            requested,
            spec,
            identity,
            mut info,
            logged,
            secrets,
        } = vm.new;
        info.status.pid = Some(std::process::id());
        let (tasks, received) = vm.resources.tasks;
        let events = EventLog::new(identity.name.clone());
        let owner = Self {
            machine: vm.machine,
            spec,
            identity,
            secrets,
            info,
            config,
            pool: None,
            claim,
            network: vm.resources.network,
            published: vm.published,
            console: vm.resources.backends.log,
            output: MainOutput::new(vm.resources.output, logged),
            tasks,
            pending: vm.resources.pending,
            launcher: Some(launcher),
            pending_clones: 0,
            sampling: None,
            guest_requests: GuestRequests::default(),
            requested,
            restored: vm.restored,
            ready_waiters: Vec::new(),
            exit_waiters: Vec::new(),
            stop_waiters: Vec::new(),
            events,
            deadline: None,
            next_check: Instant::now() + CHECK_INTERVAL,
        };
        owner.serve(&received);
    }

    fn serve(mut self, tasks: &Receiver<Task>) {
        self.start_readiness();
        self.publish(EventKind::Started {
            image: self.info.about.image.clone(),
            parent: self.info.about.parent.clone(),
        });
        // `ps` could not list this VM while it does not answer: fail instead.
        if let Err(why) = self.try_persist_info() {
            return self.end(Ending::failed(why));
        }
        self.persist_token();
        let ending = loop {
            let left = self.next_wakeup().saturating_duration_since(Instant::now());
            let step = match tasks.recv_timeout(left) {
                Ok(task) => self.handle(task),
                Err(RecvTimeoutError::Timeout) => self.handle_timers(),
                Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(Ending::stopped()),
            };
            if let ControlFlow::Break(ending) = step {
                break ending;
            }
        };
        self.end(ending);
    }

    /// The next moment at which the owner acts even without a task.
    fn next_wakeup(&self) -> Instant {
        let sample = self.sampling.as_ref().map(Sampling::next);
        let others = [self.deadline, sample].into_iter().flatten();
        others.fold(self.next_check, Instant::min)
    }

    fn handle_timers(&mut self) -> ControlFlow<Ending> {
        let now = Instant::now();
        if self.deadline.is_some_and(|at| at <= now) {
            return self.deadline_passed();
        }
        if self.sampling.as_ref().is_some_and(|it| it.next() <= now) {
            self.take_sample();
        }
        if self.next_check <= now {
            self.next_check = now + CHECK_INTERVAL;
            if !self.claim.is_in_place() {
                let error = Error::new(Code::Host, "its directory was removed");
                return ControlFlow::Break(Ending::failed(error));
            }
        }
        ControlFlow::Continue(())
    }

    fn handle(&mut self, task: Task) -> ControlFlow<Ending> {
        match task {
            Task::Request(request) => return self.answer(request),
            Task::Machine(event) => return self.machine_event(event),
            Task::GuestMessage(latest) => {
                if let Some(message) = latest.take() {
                    return self.message(message);
                }
            }
            Task::ForkForGuest(clones) => self.fork_for_guest_now(clones),
            Task::GuestForked(result) => self.guest_forked(result),
            Task::Identified(Ok(())) => self.ready(),
            Task::Identified(Err(why)) => return self.not_ready(why),
            Task::MainEnded(status) => self.main_ended(status),
            Task::LauncherFinished => return self.check_launcher(),
            Task::ReportTouched(launcher) => launcher.report_touched(self.touched()),
            Task::Forked(forked) => self.forked(&forked),
            Task::Preload(hint, fds) => match self.pool {
                Some(_) => self.preload_pool(hint, &fds),
                None => self.connect_to_pool(),
            },
            Task::Pool(pool) => self.pool = Some(pool),
            Task::Terminate => return self.stop(TERMINATION_GRACE, None),
        }
        ControlFlow::Continue(())
    }

    fn answer(&mut self, request: ControlRequest) -> ControlFlow<Ending> {
        self.check_launcher()?;
        match request {
            ControlRequest::Info(responder) => responder.respond(Ok(self.info_now())),
            ControlRequest::WaitReady(responder) if self.is_ready() => responder.respond(Ok(())),
            ControlRequest::WaitReady(responder) => self.ready_waiters.push(responder),
            ControlRequest::WaitExit(responder) if self.info.status.exit_status.is_some() => {
                responder.respond(Ok(self.info_now()));
            }
            ControlRequest::WaitExit(responder) => self.exit_waiters.push(responder),
            ControlRequest::Pause(responder) => responder.respond(self.pause()),
            ControlRequest::Resume(responder) => self.resume(responder),
            ControlRequest::Fork(request, arrival, responder) => {
                self.fork(&request, arrival, responder)
            }
            ControlRequest::ExportDisk(request, responder) => self.export_disk(request, responder),
            ControlRequest::Sample(request, responder) => self.sample(request, responder),
            ControlRequest::Stop(Stop { grace_ms }, responder) => {
                return self.stop(Duration::from_millis(grace_ms), Some(responder));
            }
            ControlRequest::Subscribe(request, subscriber, responder) => {
                self.events.subscribe(request, subscriber, responder);
            }
        }
        ControlFlow::Continue(())
    }

    /// Publishes an event to all subscribers.
    fn publish(&mut self, kind: EventKind) {
        self.events.publish(kind);
    }

    fn machine_event(&mut self, event: Event) -> ControlFlow<Ending> {
        match event {
            Event::FirstExit(first_run) => self.first_exit(first_run),
            Event::Message(message) => return self.message(message),
            Event::Reset => return ControlFlow::Break(self.guest_ended()),
            Event::Fault(what) => {
                return ControlFlow::Break(Ending::failed(Error::new(Code::Internal, what)));
            }
        }
        ControlFlow::Continue(())
    }

    fn first_exit(&mut self, first_run: FirstRun) {
        if let (Some((received, restored)), Some(launcher)) = (self.restored.take(), &self.launcher)
        {
            launcher.report(&Progress::Running(Steps {
                received,
                memory: restored.memory,
                state: restored.state,
                entered: first_run.entered,
                exited: first_run.exited,
            }));
        }
        if !self.is_ready() && self.readiness() == Readiness::FirstExit {
            self.ready();
        }
    }

    /// Forks the VM. A [`ForkWaiter`] answers when the outcome of every clone is known.
    fn fork(&mut self, request: &Fork, arrival: Monotonic, responder: Responder<Fork>) {
        // The client may have given up while the owner was busy.
        if !responder.is_awaited() {
            return responder.respond(Err((&ForkError::NotAwaited).into()));
        }
        let parent = Parent {
            config: &self.config,
            spec: &self.spec,
            identity: &self.identity,
            info: &self.info,
            requested: arrival,
            pending_clones: self.pending_clones,
            run_vm,
        };
        let output = &self.output;
        let logged = || output.logged();
        let (machine, pool) = (&mut self.machine, &mut self.pool);
        match fork::begin(&parent, machine, &logged, pool, request) {
            Ok(started) => self.await_clones(started, request.count, responder),
            Err(error) => responder.respond(Err((&error).into())),
        }
    }

    /// Starts a thread that waits for the clones and answers: from here on the clones need the
    /// processors more than the owner does.
    fn await_clones(&mut self, started: StartedFork, requested: u32, responder: Responder<Fork>) {
        let (sender, received) = channel::<(ForkWaiter, StartedFork)>();
        let waiting = fault::point("fork.thread").and_then(|()| {
            let thread = thread::Builder::new().name("clones".into());
            thread.spawn(move || {
                if let Ok((waiter, started)) = received.recv() {
                    waiter.finish(started);
                }
            })
        });
        match waiting {
            Ok(_) => {
                self.pending_clones += requested;
                let waiter = ForkWaiter::new(requested, responder, self.tasks.clone());
                let _ = sender.send((waiter, started));
            }
            // Dropping the started fork ends its clones.
            Err(error) => responder.respond(Err(no_thread(&error))),
        }
    }

    fn main_ended(&mut self, status: Option<i32>) {
        if self.is_done() || status.is_none() && !self.info.status.state.is_alive() {
            return;
        }
        self.info.status.exit_status = status.or(self.info.status.exit_status);
        if let Some(status) = status {
            self.publish(EventKind::Exited { status });
        }
        self.persist_info();
        let info = self.info_now();
        for waiter in self.exit_waiters.drain(..) {
            waiter.respond(Ok(info.clone()));
        }
    }

    /// The VM's description with its present use of memory and disks.
    fn info_now(&mut self) -> VmInfo {
        if let Ok(usage) = self.machine.ram().usage() {
            self.info.usage.shared_kib = usage.shared >> 10;
            self.info.usage.private_kib = usage.private >> 10;
            self.info.usage.swapped_kib = usage.swapped >> 10;
        }
        self.info.usage.disks = disks::info(&self.spec, &self.machine);
        self.info.clone()
    }

    /// Accounts for a fork whose caller has the report.
    fn forked(&mut self, forked: &Forked) {
        self.pending_clones = self.pending_clones.saturating_sub(forked.requested);
        let cloned = forked.clones.len() as u32;
        self.info.status.forks = self.info.status.forks.saturating_add(cloned);
        if cloned > 0 {
            self.publish(EventKind::Forked {
                clones: forked.clones.clone(),
                failed: forked.requested.saturating_sub(cloned),
            });
        }
        self.persist_info();
    }

    fn persist_info(&self) {
        if let Err(why) = self.try_persist_info() {
            note!("{why}");
        }
    }

    fn try_persist_info(&self) -> Result<(), Error> {
        record::write_info(&self.claim.dir, &self.info).map_err(|error| {
            let path = self.claim.dir.info_path();
            Error::because(
                Code::Host,
                format!("cannot write {}", path.display()),
                &error,
            )
        })
    }

    /// Writes the token file, for guests whose agent has the token, too.
    fn persist_token(&self) {
        let dir = &self.claim.dir;
        if self.machine.vsock().is_some()
            && let Err(error) = record::write_token(dir, &self.identity)
        {
            let path = dir.token_path();
            note!("cannot write {}: {error}", path.display());
        }
    }

    /// Does `work` on a thread of its own and sends the resulting task to the owner.
    fn in_background(&self, name: &str, work: impl FnOnce() -> Task + Send + 'static) {
        let tasks = self.tasks.clone();
        let spawned = thread::Builder::new().name(name.into()).spawn(move || {
            // The owner may be gone by then.
            let _ = tasks.send(work());
        });
        if let Err(error) = spawned {
            let what = format!("cannot start a thread: {error}");
            let _ = self.tasks.send(Task::Machine(Event::Fault(what)));
        }
    }
}

/// How often the owner checks that its VM's directory is in place. A VM that commands cannot
/// find must not run on: no command could end it.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// How long a guest has to power off when the process is told to end.
const TERMINATION_GRACE: Duration = Duration::from_secs(5);
