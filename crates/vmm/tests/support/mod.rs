//! Runs machines in the test's own process, for tests that look inside.

use hyperfork_api::signal::Message;
use hyperfork_api::spec::Guest;
use hyperfork_api::{Bytes, Identity, VmName, VmSpec};
use hyperfork_host::identity;
use hyperfork_vmm::devices::log::Log;
use hyperfork_vmm::kvm::Host;
use hyperfork_vmm::machine::{Backends, Capture, Event, Events, Machine, Shell};
use hyperfork_vmm::snapshot::MachineState;
use hyperfork_vmm::snapshot::Shape;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long a guest may take for anything. Generous: these machines are shared,
/// and slow inside an emulated one.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A nano guest.
pub(crate) struct Vm {
    machine: Machine,
    events: Receiver<Event>,
    identity: Identity,
    console: Log,
    spec: VmSpec,
    _dir: TempDir,
}

impl Vm {
    /// Boots a guest and waits until it is ready.
    pub(crate) fn boot(cpus: u8, memory_mib: u64, options: &str) -> Self {
        let spec = VmSpec {
            name: VmName::new("test").unwrap(),
            cpus,
            memory: Bytes::mib(memory_mib),
            guest: Guest::Nano {
                options: options.to_owned(),
            },
            image: "nano".to_owned(),
            max_forks: None,
            identical_clones: false,
            ready_timeout_ms: 0,
        };
        let host = Host::open().expect("these tests need /dev/kvm");
        let shell = Shell::new(&host, Shape::of(&spec)).unwrap();
        let identity = identity::booted(&spec.name).unwrap();
        let (dir, console, backends) = backends();
        let (events, received) = events();
        let mut machine = Machine::boot(shell, &host, &spec, &identity, &backends, events).unwrap();
        machine.resume();
        let vm = Self {
            machine,
            events: received,
            identity,
            console,
            spec,
            _dir: dir,
        };
        assert_eq!(vm.message(), Message::Ready(0), "{}", vm.console());
        vm
    }

    /// Captures it while it runs, and resumes it.
    pub(crate) fn capture(&mut self) -> Capture {
        self.machine.pause().capture().unwrap()
    }

    /// Captures it while it is paused, and leaves it so.
    pub(crate) fn capture_paused(&mut self) -> Capture {
        let mut paused = self.machine.pause();
        let capture = paused.capture().unwrap();
        paused.stay();
        capture
    }

    /// Forks it while it runs. The clones run.
    pub(crate) fn fork(&mut self, count: u32) -> Vec<Self> {
        let capture = self.capture();
        (1..=count)
            .map(|index| self.clone_of(&capture, index))
            .collect()
    }

    /// A running clone of a capture.
    pub(crate) fn clone_of(&self, capture: &Capture, index: u32) -> Self {
        let host = Host::open().unwrap();
        let shell = Shell::warm(&host, capture.state.shape.clone()).unwrap();
        let name = self.spec.name.clone_name(index).unwrap();
        let identity = identity::cloned(&self.identity, name, index).unwrap();
        let (dir, console, backends) = backends();
        let (events, received) = events();
        // Encoded and decoded, as between processes.
        let state = MachineState::decode(&capture.state.encode()).unwrap();
        let (mut machine, _) =
            Machine::restore(shell, state, &capture.fds, &identity, &backends, events).unwrap();
        machine.resume();
        Self {
            machine,
            events: received,
            identity,
            console,
            spec: self.spec.clone(),
            _dir: dir,
        }
    }

    /// Rings the doorbell, as a fork does in its clones.
    pub(crate) fn ring(&self) {
        self.machine.ring_doorbell().unwrap();
    }

    /// The next message that says something about work done.
    pub(crate) fn done(&self) -> u32 {
        loop {
            match self.message() {
                Message::Done(code) => return code,
                Message::Ready(_) | Message::Fork { .. } => {}
            }
        }
    }

    /// The next message.
    pub(crate) fn message(&self) -> Message {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(Event::Message(message)) => return message,
                Ok(Event::FirstExit(_)) => {}
                Ok(event) => panic!("the guest ended: {event:?}\n{}", self.console()),
                Err(error) => panic!("no message: {error}\n{}", self.console()),
            }
        }
    }

    /// Whether there has been no message since the last that was asked for.
    pub(crate) fn has_said_nothing(&self) -> bool {
        let mut events = self.events.try_iter();
        !events.any(|event| matches!(event, Event::Message(_)))
    }

    /// What the guest has printed.
    pub(crate) fn console(&self) -> String {
        String::from_utf8_lossy(&self.console.tail()).into_owned()
    }

    /// The machine itself.
    pub(crate) fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }
}

fn backends() -> (TempDir, Log, Backends) {
    // Whatever TMPDIR is: a socket's path has 107 bytes at most.
    let dir = tempfile::tempdir_in("/tmp").unwrap();
    let console = Log::new(tempfile::tempfile().unwrap()).unwrap();
    let backends = Backends {
        nic: None,
        log: console.clone(),
        console: UnixListener::bind(dir.path().join("console.sock")).unwrap(),
        overlays: None,
    };
    (dir, console, backends)
}

fn events() -> (Events, Receiver<Event>) {
    let (sender, receiver) = channel();
    (Arc::new(move |event| drop(sender.send(event))), receiver)
}

/// Tries to restore a capture into `shell`.
pub(crate) fn restore(
    shell: Shell,
    capture: Capture,
) -> Result<(), hyperfork_vmm::machine::MachineError> {
    let (_dir, _console, backends) = backends();
    let identity = identity::booted(&VmName::new("test").unwrap()).unwrap();
    Machine::restore(
        shell,
        capture.state,
        &capture.fds,
        &identity,
        &backends,
        events().0,
    )
    .map(drop)
}
