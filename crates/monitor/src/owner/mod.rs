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
mod happenings;
mod life;
mod ready;
mod requests;
mod signals;
mod under_way;

use crate::control::{Answer, Asked, Pending, no_thread};
use crate::follow::MainOutput;
use crate::fork::{self, Begun, Parent};
use crate::prepared::ReadyVm;
use crate::publish::Published;
use crate::task::{Forked, Task};
pub(crate) use life::live;

use ending::Ending;
use happenings::Happenings;
use hyperfork_api::control::{Fork, Stop, WaitExit, WaitReady};
use hyperfork_api::event::What;
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
use signals::Wishes;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use under_way::UnderWay;

/// The one who changes the VM.
pub(crate) struct Owner {
    pub(crate) machine: Machine,
    pub(crate) spec: VmSpec,
    pub(crate) identity: Identity,
    /// What the guest may know, until it is told.
    secrets: Secrets,
    pub(crate) info: VmInfo,
    config: Config,
    /// Where shells for its clones come from, once it is ready; nowhere if there is no
    /// pool.
    pub(crate) pool: Option<Pool>,
    claim: Claim,
    /// Where the guest's card is plugged in: as long as the VM lives.
    network: Option<Namespace>,
    published: Published,
    console: Log,
    pub(crate) output: MainOutput,
    pub(crate) tasks: Sender<Task>,
    pending: Pending,
    /// Until it has let go of the VM, which it does when it has seen it ready. Until then the
    /// VM leaves nothing behind when it ends.
    launcher: Option<VmEnd>,
    /// Clones of forks that are not complete yet.
    forks_under_way: u32,
    /// A profile that is being taken.
    sampling: Option<Sampling>,
    wishes: Wishes,
    born: Monotonic,
    /// For a clone, until its first exit: when it got there.
    restored: Option<(Monotonic, Restored)>,
    ready_waiters: Vec<Answer<WaitReady>>,
    exit_waiters: Vec<Answer<WaitExit>>,
    stop_waiters: Vec<Answer<Stop>>,
    happenings: Happenings,
    /// When patience with the guest ends: to become ready, or to power off.
    deadline: Option<Instant>,
    /// When to see whether its directory is still there.
    looks_at: Instant,
}

impl Owner {
    /// Serves the machine, which runs, until its end.
    pub(crate) fn run(vm: ReadyVm, launcher: VmEnd, config: Config, claim: Claim) {
        let NewVm {
            spec,
            identity,
            mut info,
            logged,
            secrets,
        } = vm.new;
        info.status.pid = Some(std::process::id());
        let (tasks, received) = vm.around.tasks;
        let happenings = Happenings::new(identity.name.clone());
        let owner = Self {
            machine: vm.machine,
            spec,
            identity,
            secrets,
            info,
            config,
            pool: None,
            claim,
            network: vm.around.network,
            published: vm.published,
            console: vm.around.backends.log,
            output: MainOutput::new(vm.around.output, logged),
            tasks,
            pending: vm.around.pending,
            launcher: Some(launcher),
            forks_under_way: 0,
            sampling: None,
            wishes: Wishes::default(),
            born: vm.since,
            restored: vm.restored,
            ready_waiters: Vec::new(),
            exit_waiters: Vec::new(),
            stop_waiters: Vec::new(),
            happenings,
            deadline: None,
            looks_at: Instant::now() + LOOK,
        };
        owner.serve(&received);
    }

    fn serve(mut self, tasks: &Receiver<Task>) {
        self.begin_getting_ready();
        self.tell(What::Started {
            image: self.info.about.image.clone(),
            parent: self.info.about.parent.clone(),
        });
        // Without a record nothing lists a VM that does not answer: better none.
        if let Err(why) = self.try_keep() {
            return self.end(Ending::failed(why));
        }
        self.keep_token();
        let ending = loop {
            let left = self.wakes_at().saturating_duration_since(Instant::now());
            let step = match tasks.recv_timeout(left) {
                Ok(task) => self.handle(task),
                Err(RecvTimeoutError::Timeout) => self.time_has_come(),
                Err(RecvTimeoutError::Disconnected) => ControlFlow::Break(Ending::stopped()),
            };
            if let ControlFlow::Break(ending) = step {
                break ending;
            }
        };
        self.end(ending);
    }

    /// When there is something to do even if nothing comes.
    fn wakes_at(&self) -> Instant {
        let sample = self.sampling.as_ref().map(Sampling::next);
        let others = [self.deadline, sample].into_iter().flatten();
        others.fold(self.looks_at, Instant::min)
    }

    fn time_has_come(&mut self) -> ControlFlow<Ending> {
        let now = Instant::now();
        if self.deadline.is_some_and(|at| at <= now) {
            return self.deadline_passed();
        }
        if self.sampling.as_ref().is_some_and(|it| it.next() <= now) {
            self.take_sample();
        }
        if self.looks_at <= now {
            self.looks_at = now + LOOK;
            if !self.claim.is_in_place() {
                let error = Error::new(Code::Host, "its directory was removed");
                return ControlFlow::Break(Ending::failed(error));
            }
        }
        ControlFlow::Continue(())
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
            Task::LetGo => return self.look_for_release(),
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

    fn answer(&mut self, asked: Asked) -> ControlFlow<Ending> {
        self.look_for_release()?;
        match asked {
            Asked::Info(answer) => answer.give(Ok(self.info_now())),
            Asked::WaitReady(answer) if self.is_ready() => answer.give(Ok(())),
            Asked::WaitReady(answer) => self.ready_waiters.push(answer),
            Asked::WaitExit(answer) if self.info.status.exit_status.is_some() => {
                answer.give(Ok(self.info_now()));
            }
            Asked::WaitExit(answer) => self.exit_waiters.push(answer),
            Asked::Pause(answer) => answer.give(self.pause()),
            Asked::Resume(answer) => self.resume(answer),
            Asked::Fork(request, arrival, answer) => self.fork(&request, arrival, answer),
            Asked::ExportDisk(request, answer) => self.export_disk(request, answer),
            Asked::Sample(request, answer) => self.sample(request, answer),
            Asked::Stop(Stop { grace_ms }, answer) => {
                return self.stop(Duration::from_millis(grace_ms), Some(answer));
            }
            Asked::Subscribe(request, subscriber, answer) => {
                self.happenings.subscribe(request, subscriber, answer);
            }
        }
        ControlFlow::Continue(())
    }

    /// Tells those who have subscribed.
    fn tell(&mut self, what: What) {
        self.happenings.tell(what);
    }

    fn machine_event(&mut self, event: Event) -> ControlFlow<Ending> {
        match event {
            Event::FirstExit(first_run) => self.first_exit(first_run),
            Event::Message(message) => return self.message(message),
            Event::Reset => return ControlFlow::Break(self.guest_is_gone()),
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

    /// Forks the VM. The answer is given when it is known what has become of the clones.
    fn fork(&mut self, request: &Fork, arrival: Monotonic, answer: Answer<Fork>) {
        let parent = Parent {
            config: &self.config,
            spec: &self.spec,
            identity: &self.identity,
            info: &self.info,
            under_way: self.forks_under_way,
            live,
        };
        let output = &self.output;
        let logged = || output.logged();
        let (machine, pool) = (&mut self.machine, &mut self.pool);
        match fork::begin(&parent, machine, &logged, pool, request, arrival) {
            Ok(begun) => self.await_clones(begun, request.count, answer),
            Err(error) => answer.give(Err((&error).into())),
        }
    }

    /// Has a thread wait for the clones and answer, for from here on they need the processors
    /// more than this one does.
    fn await_clones(&mut self, begun: Begun, asked: u32, answer: Answer<Fork>) {
        let (sender, received) = channel::<(UnderWay, Begun)>();
        let waiting = fault::point("fork.thread").and_then(|()| {
            let thread = thread::Builder::new().name("clones".into());
            thread.spawn(move || {
                if let Ok((under_way, begun)) = received.recv() {
                    under_way.finish(begun);
                }
            })
        });
        match waiting {
            Ok(_) => {
                self.forks_under_way += asked;
                let under_way = UnderWay::new(asked, answer, self.tasks.clone());
                let _ = sender.send((under_way, begun));
            }
            // All that was begun is dropped, and the clones end.
            Err(error) => answer.give(Err(no_thread(&error))),
        }
    }

    fn main_ended(&mut self, status: Option<i32>) {
        if self.is_done() || status.is_none() && !self.info.status.state.is_alive() {
            return;
        }
        self.info.status.exit_status = status.or(self.info.status.exit_status);
        if let Some(status) = status {
            self.tell(What::Exited { status });
        }
        self.keep();
        let info = self.info_now();
        for waiter in self.exit_waiters.drain(..) {
            waiter.give(Ok(info.clone()));
        }
    }

    /// What is known, with memory and disks as of now.
    fn info_now(&mut self) -> VmInfo {
        if let Ok(usage) = self.machine.ram().usage() {
            self.info.usage.shared_kib = usage.shared >> 10;
            self.info.usage.private_kib = usage.private >> 10;
            self.info.usage.swapped_kib = usage.swapped >> 10;
        }
        self.info.usage.disks = disks::told(&self.spec, &self.machine);
        self.info.clone()
    }

    /// What is left to do when a fork is over and its caller has the report.
    fn forked(&mut self, forked: &Forked) {
        self.forks_under_way = self.forks_under_way.saturating_sub(forked.asked);
        let born = forked.born.len() as u32;
        self.info.status.forks = self.info.status.forks.saturating_add(born);
        if born > 0 {
            self.tell(What::Forked {
                clones: forked.born.clone(),
                failed: forked.asked.saturating_sub(born),
            });
        }
        self.keep();
    }

    fn keep(&self) {
        if let Err(why) = self.try_keep() {
            note!("{why}");
        }
    }

    fn try_keep(&self) -> Result<(), Error> {
        record::keep(&self.claim.dir, &self.info).map_err(|error| {
            let path = self.claim.dir.info_path();
            Error::because(
                Code::Host,
                format!("cannot write {}", path.display()),
                &error,
            )
        })
    }

    /// For guests with an agent, which has it, too.
    fn keep_token(&self) {
        let dir = &self.claim.dir;
        if self.machine.vsock().is_some()
            && let Err(error) = record::keep_token(dir, &self.identity)
        {
            let path = dir.token_path();
            note!("cannot write {}: {error}", path.display());
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
            let what = format!("cannot start a thread: {error}");
            let _ = self.tasks.send(Task::Machine(Event::Fault(what)));
        }
    }
}

/// How often the owner looks whether its VM can still be found. One that cannot must not run
/// on: no command would ever end it.
const LOOK: Duration = Duration::from_secs(10);

/// How long a guest has to power off when the process is told to end.
const TERMINATION_GRACE: Duration = Duration::from_secs(5);
