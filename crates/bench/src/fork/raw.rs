//! Measures the lower limit of a fork: KVM's calls alone, without processes, messages, devices and
//! threads.
//!
//! A VM with its vCPUs and its memory slot is made in advance, has run once, and has the image
//! mapped, as the shells of a pool have. (Mapping the image under a slot in use takes 0.3 us a MiB
//! on PVM, where KVM searches its records of all pages; at addresses where nothing is mapped it
//! takes 4 us.) Only the steps that every fork by images needs are timed: the clone's memory is
//! placed, all state is set, and the first vCPU runs until its first exit.

use super::sample::Sample;
use crate::error::BenchError;
use crate::guest::Guest;
use hyperfork_api::VmName;
use hyperfork_api::signal::Message;
use hyperfork_host::identity;
use hyperfork_state::Shape;
use hyperfork_vmm::devices::log::Log;
use hyperfork_vmm::kvm::{Host, KvmError, Vcpu, VcpuState, Vm, VmState};
use hyperfork_vmm::machine::{Backends, Event, Events, Machine, MachineError, Shell};
use hyperfork_vmm::memory::{Ram, RamImage, layout};
use std::fs::File;
use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// How long the guest may take to boot.
const TIMEOUT: Duration = Duration::from_secs(300);

/// How long it may take from its last message to its halt.
const TO_HALT: Duration = Duration::from_millis(100);

/// A captured machine.
pub(crate) struct Template {
    host: Host,
    shape: Shape,
    image: RamImage,
    vm: VmState,
    vcpus: Vec<VcpuState>,
}

impl Template {
    /// Boots the embedded guest in this process, captures it, and ends it.
    ///
    /// # Errors
    /// [`BenchError::OnlyNano`]; [`BenchError::Silent`] for a guest that does not become
    /// ready; the machine's.
    pub(crate) fn boot(
        guest: &Guest,
        cpus: u8,
        memory_mib: u64,
        options: &str,
    ) -> Result<Self, BenchError> {
        let Guest::Nano = guest else {
            return Err(BenchError::OnlyNano("the strategy raw"));
        };
        let spec = guest.spec(VmName::new("raw")?, cpus, memory_mib, options);
        let shape = Shape::of(&spec);
        let host = Host::open()?;
        let directory =
            tempfile::tempdir().map_err(BenchError::io("make", std::env::temp_dir()))?;
        let backends =
            backends(directory.path()).map_err(BenchError::io("use", directory.path()))?;
        let identity = identity::booted(&spec.name)
            .map_err(BenchError::io("read", "the host's randomness"))?;
        let (sender, events) = channel();
        let tell: Events = Arc::new(move |event| drop(sender.send(event)));
        let shell = Shell::new(&host, shape.clone())?;
        let mut machine = Machine::boot(shell, &host, &spec, &identity, &backends, tell)?;
        machine.resume();
        await_ready(&events)?;
        // The guest halts after its message. It is captured halted, as forked parents are.
        std::thread::sleep(TO_HALT);
        let capture = machine.pause().capture()?;
        drop(machine);
        capture
            .cleanup
            .run()
            .map_err(BenchError::io("seal", "the memory image"))?;
        Ok(Self {
            host,
            shape,
            image: capture.ram,
            vm: capture.state.vm,
            vcpus: capture.state.vcpus,
        })
    }

    /// Makes one clone and ends it.
    ///
    /// # Errors
    /// KVM's.
    pub(crate) fn fork(&self) -> Result<Sample, BenchError> {
        let mut blank = Blank::new(&self.host, &self.shape)?;
        // After this KVM has also made what it makes only when a vCPU runs.
        blank.become_clone(self)?;
        blank.vcpus[0].complete();
        blank
            .ram
            .preload(&self.image, &[])
            .map_err(BenchError::io("map", "the memory image"))?;
        blank.become_clone(self)
    }
}

fn backends(directory: &std::path::Path) -> io::Result<Backends> {
    Ok(Backends {
        nic: None,
        log: Log::new(File::create_new(directory.join("console.log"))?)?,
        console: UnixListener::bind(directory.join("console.sock"))?,
        overlays: None,
    })
}

fn await_ready(events: &Receiver<Event>) -> Result<(), BenchError> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match events.recv_timeout(left) {
            Ok(Event::Message(Message::Ready(_))) => return Ok(()),
            Ok(Event::FirstExit(_) | Event::Message(Message::Fork { .. })) => {}
            Ok(_) | Err(_) => {
                return Err(BenchError::Silent {
                    vm: "the guest".to_owned(),
                    what: "that it is ready",
                });
            }
        }
    }
}

/// A VM without a guest. Its fields are dropped in this order: the memory after the VM, whose
/// memory slots refer to its addresses.
struct Blank {
    vcpus: Vec<Vcpu>,
    vm: Vm,
    ram: Ram,
}

impl Blank {
    fn new(host: &Host, shape: &Shape) -> Result<Self, BenchError> {
        let ram = Ram::reserve(shape.memory.0).map_err(MachineError::from)?;
        let vm = Vm::new(host)?;
        // SAFETY: `Blank` drops `ram` after `vm`, and no code takes either out of it.
        #[allow(unsafe_code)]
        unsafe {
            vm.set_memory(&ram)?;
        }
        let vcpus = (0..shape.cpus)
            .map(|index| Vcpu::new(host, &vm, index, shape.cpus))
            .collect::<Result<_, _>>()?;
        Ok(Self { vcpus, vm, ram })
    }

    /// Does what a fork must, in the order of `hyperfork_vmm::machine::assemble`.
    fn become_clone(&mut self, template: &Template) -> Result<Sample, BenchError> {
        let begun = Instant::now();
        self.ram
            .back_with(&template.image)
            .map_err(BenchError::io("map", "the memory image"))?;
        let memory = Instant::now();
        for (vcpu, state) in self.vcpus.iter().zip(&template.vcpus) {
            vcpu.restore(state, 0)?;
        }
        self.vm.restore(&template.vm)?;
        self.vm.set_clock(template.vm.clocks.kvm_clock_ns)?;
        self.vm.interrupt(layout::DOORBELL_IRQ)?;
        let state = Instant::now();
        run_once(&mut self.vcpus[0])?;
        let first_exit = Instant::now();
        let us = |from: Instant, to: Instant| (to - from).as_nanos() as f64 / 1000.0;
        let phases = [
            ("memory", us(begun, memory)),
            ("state", us(memory, state)),
            ("first_run", us(state, first_exit)),
        ];
        Ok(Sample {
            ready_us: None,
            phases_us: phases.map(|(name, us)| (name.to_owned(), us)).into(),
            ..Sample::ready_after(us(begun, first_exit))
        })
    }
}

/// Runs the guest until its first exit.
fn run_once(vcpu: &mut Vcpu) -> Result<(), BenchError> {
    match vcpu.run() {
        Ok(_) => Ok(()),
        Err(error) => Err(KvmError::Call {
            call: "KVM_RUN",
            source: io::Error::from_raw_os_error(error.errno()),
        }
        .into()),
    }
}
