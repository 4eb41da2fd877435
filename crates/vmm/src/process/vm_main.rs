//! The life of a VM's process.

use super::control::{self, Pending};
use super::handover::{Birth, Order, Progress, ShellOrder, Started};
use super::owner::{self, Owner, Parts, Task};
use super::publish::Published;
use super::rundir::{Claim, RunDir, VmDir};
use super::signals;
use crate::devices::log::Log;
use crate::devices::virtio::block::overlays::Overlays;
use crate::kvm::Host;
use crate::machine::{Backends, Events, Machine, MachineError, Plug, Restored, Shell};
use crate::net::Namespace;
use crate::one_line;
use crate::sys::clock::Monotonic;
use crate::sys::descriptors;
use crate::sys::fds::FdTable;
use crate::sys::sched::{self, Urgent};
use crate::sys::secrecy;
use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// The first argument that makes a program of ours a VM's process: its `main`
/// calls [`vm_main`] then. The second is the VM's name, for people who look at
/// process lists.
pub const VM_ARGUMENT: &str = "__vm";

/// Becomes a VM's process. The hand-over socket is its standard input.
pub fn vm_main() -> ExitCode {
    // Out of the starter's terminal and process group: its Ctrl-C is not ours.
    let _ = rustix::process::setsid();
    descriptors::expect_many();
    // Whoever asks for a fork waits for this process; its guest's CPUs compute.
    sched::prefer_short_turns();
    match live() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn live() -> Result<(), String> {
    secrecy::withhold_memory().map_err(|error| error.to_string())?;
    signals::hold().map_err(|error| error.to_string())?;
    let socket = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| error.to_string())?;
    let started = Started::new(UnixStream::from(socket));
    let (order, claim) = started.shell_order().map_err(|error| error.to_string())?;
    let run_dir = RunDir::at(order.run_dir.clone());
    live_as(started, &run_dir, claim, |started, claim| {
        let mut waiting = Waiting::build(&run_dir, &order)?;
        started.report(&Progress::Shell);
        while let (Some((order, fds)), urgent) = next_order(started)? {
            if let Some(name) = order.name() {
                claim.dir = run_dir.vm(name);
            }
            match order {
                Order::Prime(primer) => {
                    drop(urgent);
                    waiting.shell.prime(&primer, &fds)?;
                }
                Order::Boot(birth) => {
                    drop(urgent);
                    return waiting.boot(*birth).map(Some);
                }
                Order::Clone(birth) => {
                    return waiting.clone(*birth, started, urgent).map(Some);
                }
            }
        }
        Ok(None)
    })
}

/// Waits for what to do next, urgently: who wants a clone goes on with other things, and
/// would keep the processor.
fn next_order(started: &Started) -> io::Result<(Option<(Order, FdTable)>, Urgent)> {
    let urgent = Urgent::now();
    Ok((started.order()?, urgent))
}

/// Lives to its end as what is `born`.
///
/// # Errors
/// Why it was not born, in one line that the starter has been told, too.
pub(super) fn live_as(
    started: Started,
    run_dir: &RunDir,
    mut claim: Claim,
    born: impl FnOnce(&Started, &mut Claim) -> Result<Option<Born>, Box<dyn Error>>,
) -> Result<(), String> {
    match born(&started, &mut claim) {
        Ok(Some(born)) => born.live(started, run_dir.clone(), claim),
        // Nobody wants it after all.
        Ok(None) => claim.abandon(),
        Err(error) => {
            let words = one_line(&*error);
            claim.abandon();
            started.report(&Progress::Failed(words.clone()));
            return Err(words);
        }
    }
    Ok(())
}

/// How long a clone is left alone to come out for the first time. Idle guests may take
/// longer: a tick of their clock.
const FIRST_EXIT: Duration = Duration::from_millis(5);

/// How long its vCPUs take the processor from others at most, when nothing keeps them from
/// entering. Entering a guest takes 60 µs
/// on a PVM host.
const URGENT_RUN: Duration = Duration::from_micros(200);

/// A shell with everything around it that does not depend on what it will be: it may
/// wait long, and has little to do when it is wanted.
pub(super) struct Waiting {
    since: Monotonic,
    host: Host,
    shell: Shell,
    network: Option<Namespace>,
    backends: Backends,
    output: Log,
    tasks: (Sender<Task>, Receiver<Task>),
    pending: Pending,
}

/// A machine, and of a clone: when it had what it was made of, and how it went on.
type Made = Result<(Machine, Option<(Monotonic, Restored)>), MachineError>;

/// A machine that only has to be let run.
pub(super) struct Born {
    machine: Machine,
    birth: Birth,
    network: Option<Namespace>,
    published: Published,
    since: Monotonic,
    restored: Option<(Monotonic, Restored)>,
    console: Log,
    output: Log,
    tasks: (Sender<Task>, Receiver<Task>),
    pending: Pending,
    /// Of a clone: somebody waits for its first instruction.
    urgent: Option<Urgent>,
}

impl Waiting {
    fn build(run_dir: &RunDir, order: &ShellOrder) -> Result<Self, Box<dyn Error>> {
        let since = Monotonic::now();
        let host = Host::open().map_err(MachineError::from)?;
        let shape = order.shape.clone();
        let shell = match order.warm {
            true => Shell::warm(&host, shape)?,
            false => Shell::new(&host, shape)?,
        };
        Self::new(run_dir, &order.dir, since, host, shell)
    }

    /// Surrounds a shell with what it has in `dir`.
    pub(super) fn new(
        run_dir: &RunDir,
        dir: &VmDir,
        since: Monotonic,
        host: Host,
        shell: Shell,
    ) -> Result<Self, Box<dyn Error>> {
        let network = shell.shape().net.as_ref().map(Namespace::prepare);
        let network = network.transpose()?;
        let plug = network.as_ref().map(|network| -> io::Result<_> {
            Ok(Plug {
                tap: network.tap().try_clone()?,
                mac: network.mac(),
            })
        });
        let has_devices = !shell.shape().rings.is_empty();
        let overlays = has_devices.then(|| Overlays::in_directory(&overlay_directory(run_dir)));
        let backends = Backends {
            plug: plug.transpose()?,
            log: Log::new(dir.create(&dir.console_log())?)?,
            console: UnixListener::bind(dir.console_socket())?,
            overlays: overlays.transpose()?,
        };
        let output = Log::new(dir.create(&dir.output_log())?)?;
        let tasks = channel();
        let pending = Pending::default();
        control::serve(&dir.control_socket(), pending.clone(), {
            let tasks = tasks.0.clone();
            move |asked| {
                let _ = tasks.send(Task::Asked(asked));
            }
        })?;
        signals::watch(tasks.0.clone())?;
        Ok(Self {
            since,
            host,
            shell,
            network,
            backends,
            output,
            tasks,
            pending,
        })
    }

    fn boot(self, birth: Birth) -> Result<Born, Box<dyn Error>> {
        self.bear(birth, |host, shell, birth, backends, events| {
            let (spec, identity) = (&birth.spec, &birth.identity);
            let machine = Machine::boot(shell, host, spec, identity, backends, events)?;
            Ok((machine, None))
        })
    }

    fn clone(
        self,
        birth: Birth,
        started: &Started,
        urgent: Urgent,
    ) -> Result<Born, Box<dyn Error>> {
        let (state, fds) = started.state()?;
        let received = Monotonic::now();
        let born = self.bear(birth, |_, shell, birth, backends, events| {
            let identity = &birth.identity;
            let (machine, restored) =
                Machine::restore(shell, state, &fds, identity, backends, events)?;
            Ok((machine, Some((received, restored))))
        })?;
        Ok(Born {
            urgent: Some(urgent),
            ..born
        })
    }

    /// Becomes the VM of `birth`, whose machine `make` makes of the shell.
    pub(super) fn bear(
        self,
        mut birth: Birth,
        make: impl FnOnce(&Host, Shell, &Birth, &Backends, Events) -> Made,
    ) -> Result<Born, Box<dyn Error>> {
        let published = birth.connect(self.network.as_ref())?;
        let (backends, events) = (&self.backends, owner::events(self.tasks.0.clone()));
        let (machine, restored) = make(&self.host, self.shell, &birth, backends, events)?;
        Ok(Born {
            machine,
            birth,
            network: self.network,
            published,
            since: self.since,
            restored,
            console: self.backends.log,
            output: self.output,
            tasks: self.tasks,
            pending: self.pending,
            urgent: None,
        })
    }
}

impl Born {
    fn live(mut self, started: Started, run_dir: RunDir, claim: Claim) {
        // First of all: somebody waits for its first instruction, and what is to be done
        // here takes the processor it could run on.
        let urgent = self.urgent.filter(Urgent::is_granted);
        match urgent {
            Some(_) => self.machine.set_off(URGENT_RUN),
            None => self.machine.resume(),
        }
        drop(urgent);
        if self.restored.is_some() {
            self.machine.await_first_exit(FIRST_EXIT);
        }
        let (tasks, received) = self.tasks;
        if let Err(error) = watch_starter(&started, tasks.clone()) {
            claim.abandon();
            started.report(&Progress::Failed(error.to_string()));
            return;
        }
        let owner = Owner::new(Parts {
            machine: self.machine,
            birth: self.birth,
            network: self.network,
            published: self.published,
            run_dir,
            claim,
            console: self.console,
            output: self.output,
            tasks,
            pending: self.pending,
            started,
            born: self.since,
            restored: self.restored,
        });
        owner.run(&received);
    }
}

/// Tells the owner when the starter lets go of the VM, or is gone before.
fn watch_starter(started: &Started, tasks: Sender<Task>) -> io::Result<()> {
    let started = started.try_clone()?;
    thread::Builder::new()
        .name("starter".into())
        .spawn(move || {
            let _ = tasks.send(match started.released() {
                true => Task::Released(started),
                false => Task::Abandoned,
            });
        })?;
    Ok(())
}

/// Overlays of disks hold what guests write, which can be much: not on the
/// run directory's file system, which is usually memory.
fn overlay_directory(run_dir: &RunDir) -> PathBuf {
    let on_disk = PathBuf::from("/var/tmp");
    if on_disk.is_dir() {
        on_disk
    } else {
        run_dir.path().to_owned()
    }
}
