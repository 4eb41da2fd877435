//! A shell with everything that a VM needs and that does not depend on which VM it becomes. A
//! prepared shell may wait for long, and has little left to do when its order comes.

use crate::control::{self, PendingAnswers};
use crate::publish::{self, Published};
use crate::signals;
use crate::task::{self, Task};
use hyperfork_host::handover::{BuildShell, NewVm};
use hyperfork_host::{Config, RunDir, VmDir};
use hyperfork_net::Namespace;
use hyperfork_sys::clock::Monotonic;
use hyperfork_sys::fault;
use hyperfork_sys::fds::FdTable;
use hyperfork_vmm::devices::log::Log;
use hyperfork_vmm::devices::virtio::block::overlays::Overlays;
use hyperfork_vmm::kvm::Host;
use hyperfork_vmm::machine::{
    Backends, Events, Machine, MachineError, NicBackend, Restored, Shell,
};
use hyperfork_vmm::snapshot::{MachineState, Preload};
use std::error::Error;
use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};

/// A shell that waits for its order.
pub(crate) struct Prepared {
    host: Host,
    shell: Shell,
    resources: Resources,
}

/// What a VM's process has beside its machine.
pub(crate) struct Resources {
    pub(crate) network: Option<Namespace>,
    pub(crate) backends: Backends,
    pub(crate) output: Log,
    pub(crate) tasks: (Sender<Task>, Receiver<Task>),
    pub(crate) pending: PendingAnswers,
}

/// A machine that is ready to run, with all that its owner needs.
pub(crate) struct ReadyVm {
    pub(crate) machine: Machine,
    pub(crate) new: NewVm,
    pub(crate) published: Published,
    pub(crate) resources: Resources,
    /// For a clone: when it had received the state, and when it was restored.
    pub(crate) restored: Option<(Monotonic, Restored)>,
}

impl Prepared {
    /// Builds the shell that the launcher ordered, in its directory.
    pub(crate) fn build(config: &Config, order: &BuildShell) -> Result<Self, Box<dyn Error>> {
        fault::point("shell.kvm")?;
        let host = Host::open().map_err(MachineError::from)?;
        let shape = order.shape.clone();
        let shell = match order.warm {
            true => Shell::warm(&host, shape)?,
            false => Shell::new(&host, shape)?,
        };
        if order.warm {
            MachineState::rehearse_decoding();
        }
        Self::with_shell(config, &order.dir, host, shell)
    }

    /// Adds the network, and the sockets and logs in `dir`, to a shell.
    pub(crate) fn with_shell(
        config: &Config,
        dir: &VmDir,
        host: Host,
        shell: Shell,
    ) -> Result<Self, Box<dyn Error>> {
        fault::point("shell.surroundings")?;
        let kind = shell.shape().net.as_ref();
        let network = kind.map(|kind| Namespace::prepare(&config.network(), kind));
        let network = network.transpose()?;
        let nic = network.as_ref().map(|network| -> io::Result<_> {
            Ok(NicBackend {
                tap: network.tap().try_clone()?,
                mac: network.mac(),
            })
        });
        let has_devices = !shell.shape().rings.is_empty();
        let overlays =
            has_devices.then(|| Overlays::in_directory(&overlay_directory(&config.run_dir)));
        let backends = Backends {
            nic: nic.transpose()?,
            log: Log::new(dir.create(&dir.console_log())?)?,
            console: UnixListener::bind(dir.console_socket())?,
            overlays: overlays.transpose()?,
        };
        let output = Log::new(dir.create(&dir.output_log())?)?;
        let tasks = channel();
        let pending = PendingAnswers::default();
        control::serve(&dir.control_socket(), pending.clone(), {
            let tasks = tasks.0.clone();
            move |asked| {
                let _ = tasks.send(Task::Request(asked));
            }
        })?;
        signals::watch({
            let tasks = tasks.0.clone();
            move || {
                let _ = tasks.send(Task::Terminate);
            }
        })?;
        Ok(Self {
            host,
            shell,
            resources: Resources {
                network,
                backends,
                output,
                tasks,
                pending,
            },
        })
    }

    /// Preloads the memory that clones of one parent have in common.
    pub(crate) fn preload(&mut self, hint: &[u8], fds: &FdTable) -> Result<(), Box<dyn Error>> {
        fault::point("shell.preload")?;
        Ok(self.shell.preload(&Preload::decode(hint)?, fds)?)
    }

    /// Boots a VM in the shell.
    pub(crate) fn boot(self, new: NewVm) -> Result<ReadyVm, Box<dyn Error>> {
        new.spec.check()?;
        let (host, shell, vm) = self.become_vm(new)?;
        let (spec, identity) = (&vm.new.spec, &vm.new.identity);
        let machine = Machine::boot(shell, &host, spec, identity, vm.backends(), vm.events())?;
        Ok(vm.ready(machine, None))
    }

    /// Restores a clone into the shell from an encoded state.
    pub(crate) fn restore(
        self,
        new: NewVm,
        state: &[u8],
        fds: &FdTable,
    ) -> Result<ReadyVm, Box<dyn Error>> {
        let received = Monotonic::now();
        fault::point("clone.decode")?;
        new.spec.check()?;
        let state = MachineState::decode(state)?;
        let (_, shell, vm) = self.become_vm(new)?;
        let identity = &vm.new.identity;
        let (machine, restored) =
            Machine::restore(shell, state, fds, identity, vm.backends(), vm.events())?;
        Ok(vm.ready(machine, Some((received, restored))))
    }

    /// Restores a clone in a child made by `fork(2)`, whose shell has the memory already; the
    /// child began to run at `running`.
    pub(crate) fn restore_inherited(
        self,
        new: NewVm,
        state: &mut MachineState,
        fds: &FdTable,
        running: Monotonic,
    ) -> Result<ReadyVm, Box<dyn Error>> {
        let built = Monotonic::now();
        let (_, shell, vm) = self.become_vm(new)?;
        let identity = &vm.new.identity;
        let machine =
            Machine::restore_inherited(shell, state, fds, identity, vm.backends(), vm.events())?;
        let restored = Restored {
            memory: built,
            state: Monotonic::now(),
        };
        Ok(vm.ready(machine, Some((running, restored))))
    }

    /// Binds the ports that the VM publishes. Only the machine is missing then.
    fn become_vm(self, mut new: NewVm) -> Result<(Host, Shell, WithoutMachine), Box<dyn Error>> {
        let published = publish::connect(&mut new, self.resources.network.as_ref())?;
        let vm = WithoutMachine {
            new,
            published,
            resources: self.resources,
        };
        Ok((self.host, self.shell, vm))
    }
}

/// A VM that has everything but its machine.
struct WithoutMachine {
    new: NewVm,
    published: Published,
    resources: Resources,
}

impl WithoutMachine {
    fn backends(&self) -> &Backends {
        &self.resources.backends
    }

    fn events(&self) -> Events {
        task::events(self.resources.tasks.0.clone())
    }

    fn ready(self, machine: Machine, restored: Option<(Monotonic, Restored)>) -> ReadyVm {
        ReadyVm {
            machine,
            new: self.new,
            published: self.published,
            resources: self.resources,
            restored,
        }
    }
}

/// Where the overlays of disks are. They hold what guests write, which can be much, so they are
/// not on the run directory's file system, which is usually in memory.
fn overlay_directory(run_dir: &RunDir) -> PathBuf {
    let on_disk = PathBuf::from("/var/tmp");
    if on_disk.is_dir() {
        on_disk
    } else {
        run_dir.path().to_owned()
    }
}
