//! The life of a VM's process.

use super::control::{self, Pending};
use super::handover::{Birth, Order, Progress, Started};
use super::owner::{self, Owner, Parts, Task};
use super::rundir::{Claim, RunDir};
use crate::devices::log::Log;
use crate::kvm::Host;
use crate::machine::{Backends, Machine, MachineError, Shell};
use crate::one_line;
use crate::snapshot::Shape;
use crate::sys::clock::Monotonic;
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::error::Error;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::thread;

/// The first argument that makes a program of ours a VM's process: its `main`
/// calls [`vm_main`] then. The second is the VM's name, for people who look at
/// process lists.
pub const VM_ARGUMENT: &str = "__vm";

/// Becomes a VM's process. The hand-over socket is its standard input.
pub fn vm_main() -> ExitCode {
    // Out of the starter's terminal and process group: its Ctrl-C is not ours.
    let _ = rustix::process::setsid();
    allow_many_descriptors();
    match live() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn live() -> Result<(), String> {
    let socket = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| error.to_string())?;
    let started = Started::new(UnixStream::from(socket));
    let (order, claim) = started.shell_order().map_err(|error| error.to_string())?;
    let run_dir = RunDir::at(order.run_dir);
    match prepare(&started, &run_dir, &claim, order.shape) {
        Ok(Some(prepared)) => {
            prepared.live(started, run_dir, claim);
            Ok(())
        }
        Ok(None) => {
            claim.abandon();
            Ok(())
        }
        Err(error) => {
            let words = one_line(&*error);
            claim.abandon();
            started.report(&Progress::Failed(words.clone()));
            Err(words)
        }
    }
}

/// A guest may have a thousand connections, each a descriptor here.
fn allow_many_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Without it the VM has fewer connections, and says so when it comes to that.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// A machine that only has to be let run.
struct Prepared {
    machine: Machine,
    birth: Birth,
    born: Monotonic,
    restored: Option<(Monotonic, crate::machine::Restored)>,
    console: Log,
    output: Log,
    tasks: (Sender<Task>, std::sync::mpsc::Receiver<Task>),
}

/// Builds the shell, then what is ordered; `None` if nothing is, after all.
fn prepare(
    started: &Started,
    run_dir: &RunDir,
    claim: &Claim,
    shape: Shape,
) -> Result<Option<Prepared>, Box<dyn Error>> {
    let born = Monotonic::now();
    let host = Host::open().map_err(MachineError::from)?;
    let shell = Shell::new(&host, shape)?;
    let dir = &claim.dir;
    let console = Log::new(dir.create(&dir.console_log())?)?;
    let output = Log::new(dir.create(&dir.output_log())?)?;
    let backends = Backends {
        log: console.clone(),
        console: UnixListener::bind(dir.console_socket())?,
        overlays: overlay_directory(run_dir),
    };
    let tasks = channel();
    let events = owner::events(tasks.0.clone());

    let Some(order) = started.order()? else {
        return Ok(None);
    };
    let (machine, birth, restored) = match order {
        Order::Boot(birth) => {
            let machine = Machine::boot(
                shell,
                &host,
                &birth.spec,
                &birth.identity,
                &backends,
                events,
            )?;
            (machine, birth, None)
        }
        Order::Clone(birth) => {
            let (state, fds) = started.state()?;
            let received = Monotonic::now();
            let (machine, restored) =
                Machine::restore(shell, state, &fds, &birth.identity, &backends, events)?;
            (machine, birth, Some((received, restored)))
        }
    };
    Ok(Some(Prepared {
        machine,
        birth: *birth,
        born,
        restored,
        console,
        output,
        tasks,
    }))
}

impl Prepared {
    fn live(self, started: Started, run_dir: RunDir, claim: Claim) {
        let (tasks, received) = self.tasks;
        let pending = Pending::default();
        let ask = {
            let tasks = tasks.clone();
            move |asked| {
                let _ = tasks.send(Task::Asked(asked));
            }
        };
        let listening = control::serve(&claim.dir.control_socket(), pending.clone(), ask)
            .and_then(|()| watch_starter(&started, tasks.clone()))
            .and_then(|()| watch_signals(tasks.clone()));
        if let Err(error) = listening {
            claim.abandon();
            started.report(&Progress::Failed(error.to_string()));
            return;
        }
        let owner = Owner::new(Parts {
            machine: self.machine,
            birth: self.birth,
            run_dir,
            claim,
            console: self.console,
            output: self.output,
            tasks,
            pending,
            started,
            born: self.born,
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
            let released = started.released();
            let _ = tasks.send(match released {
                true => Task::Released,
                false => Task::Abandoned,
            });
            if released {
                started.confirm_release();
            }
        })?;
    Ok(())
}

/// Ends in order when told to, and reaps clones that ended before us.
fn watch_signals(tasks: Sender<Task>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP, SIGCHLD])?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                if signal == SIGCHLD {
                    while let Ok(Some(_)) =
                        rustix::process::wait(rustix::process::WaitOptions::NOHANG)
                    {
                    }
                } else {
                    let _ = tasks.send(Task::Terminate);
                }
            }
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
