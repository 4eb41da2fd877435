//! Tests of a machine whose vCPU threads fail. They need `/dev/kvm`.

use super::*;
use crate::bus::BusDevice;
use crate::kvm::{Host, HostKind, Vm, XstateLayout};
use crate::machine::ports::ResetPort;
use crate::memory::Ram;
use hyperfork_state::HostFingerprint;
use kvm_bindings::{KVM_MP_STATE_RUNNABLE, kvm_mp_state};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use vm_memory::{Bytes, GuestAddress};

/// How long anything may take here that does not hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// `JMP $`
const SPIN: &[u8] = &[0xeb, 0xfe];
/// `OUT 0x80, AL; JMP` back to it.
const OUT_80: &[u8] = &[0xe6, 0x80, 0xeb, 0xfc];
/// `MOV AL, 0xfe; OUT 0x64, AL; JMP` back to the `OUT`.
const RESET: &[u8] = &[0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfc];

/// Loads the registers from an area at 64 KiB and saves them at 128 KiB (0x400 and 0x800 times
/// 64): `MOV DX, 0x5ec; MOV EAX, 0x400; OUT DX, EAX; MOV DX, 0x5e8; MOV EAX, 0x800; OUT DX, EAX`.
/// Then as [`RESET`].
const LOAD_AND_SAVE: &[u8] = &[
    0xba, 0xec, 0x05, 0x66, 0xb8, 0, 0x04, 0, 0, 0x66, 0xef, 0xba, 0xe8, 0x05, 0x66, 0xb8, 0, 0x08,
    0, 0, 0x66, 0xef, 0xb0, 0xfe, 0xe6, 0x64, 0xeb, 0xfc,
];

/// vCPUs with a little memory. The fields are in the order in which they must be dropped.
struct Machine {
    vcpus: Vcpus,
    _vm: Vm,
    ram: Ram,
    xstate: XstateLayout,
}

impl Machine {
    fn new(count: u8) -> Self {
        Self::confined(count, || Ok(())).unwrap()
    }

    fn confined(
        count: u8,
        confine: impl Fn() -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let host = Host::open().expect("these tests need /dev/kvm");
        let mut ram = Ram::reserve(4 << 20).unwrap();
        ram.back_with_zeroes().unwrap();
        let vm = Vm::new(&host).unwrap();
        // SAFETY: `ram` is dropped after `vm`, here and in the result.
        unsafe { vm.set_memory(&ram).unwrap() };
        let cpus = (0..count).map(|index| Vcpu::new(&host, &vm, index, count).unwrap());
        let cpus: Vec<_> = cpus.collect();
        let mut fingerprint = HostFingerprint::clone(&host.fingerprint(&cpus[0]).unwrap());
        fingerprint.kind = HostKind::Pvm;
        let vcpus = Vcpus::start_confined(confine, cpus, false)?;
        Ok(Self {
            vcpus,
            _vm: vm,
            ram,
            xstate: XstateLayout::for_guests_of(&fingerprint),
        })
    }

    /// Makes vCPU `index` execute this in real mode.
    fn load(&self, index: u8, code: &[u8]) {
        let at = 0x1000 * (u64::from(index) + 1);
        let memory = self.ram.memory();
        memory.write_slice(code, GuestAddress(at)).unwrap();
        let vcpu = self.vcpus.cpus().nth(index.into()).unwrap();
        let mut state = vcpu.save().unwrap();
        state.mp_state = kvm_mp_state {
            mp_state: KVM_MP_STATE_RUNNABLE,
        };
        (state.sregs.cs.base, state.sregs.cs.selector) = (0, 0);
        state.regs.rip = at;
        vcpu.restore(&state, 0).unwrap();
    }

    /// Connects what is at ports 0x64 and 0x80, and the events.
    fn connect(&self, at_80: impl BusDevice + 'static) -> Receiver<Event> {
        let (sender, events) = channel();
        let mut ports = Bus::default();
        let power = Power::default();
        let reset = ResetPort {
            power: power.clone(),
        };
        ports.insert(ResetPort::PORT.into(), 1, Arc::new(Mutex::new(reset)));
        ports.insert(0x80, 1, Arc::new(Mutex::new(at_80)));
        let xstate = XstatePort::new(self.xstate.clone(), self.ram.memory().clone());
        self.vcpus.connect(Connections {
            ports,
            mmio: Bus::default(),
            xstate: Arc::new(xstate),
            power,
            events: Arc::new(move |event| drop(sender.send(event))),
        });
        events
    }

    /// Does it, and fails should it hang.
    fn in_time(self, work: impl FnOnce(&Self) + Send + 'static) {
        let (sender, done) = channel();
        let thread = thread::spawn(move || {
            work(&self);
            drop(self);
            let _ = sender.send(());
        });
        match done.recv_timeout(PATIENCE) {
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => panic!("it hangs"),
            _ => thread.join().unwrap(),
        }
    }
}

/// A device with a bug.
struct Faulty;

impl BusDevice for Faulty {
    fn read(&mut self, _: u64, _: &mut [u8]) {}
    fn write(&mut self, _: u64, _: &[u8]) {
        panic!("a bug, on purpose");
    }
}

/// A device without one.
struct Quiet;

impl BusDevice for Quiet {
    fn read(&mut self, _: u64, _: &mut [u8]) {}
    fn write(&mut self, _: u64, _: &[u8]) {}
}

/// A device that waits for a permit.
struct Slow(Receiver<()>);

impl BusDevice for Slow {
    fn read(&mut self, _: u64, _: &mut [u8]) {}
    fn write(&mut self, _: u64, _: &[u8]) {
        let _ = self.0.recv();
    }
}

/// The next event but for the guest's first exit.
fn next(events: &Receiver<Event>) -> Event {
    loop {
        match events.recv_timeout(PATIENCE).expect("an event") {
            Event::FirstExit(_) => {}
            event => return event,
        }
    }
}

#[test]
fn a_vcpu_thread_that_panics_is_a_fault_told_at_once_its_peers_stop_and_nothing_waits_for_it() {
    Machine::new(2).in_time(|machine| {
        machine.load(0, OUT_80);
        machine.load(1, SPIN);
        let events = machine.connect(Faulty);
        machine.vcpus.run();
        let Event::Fault(why) = next(&events) else {
            panic!("not a fault");
        };
        assert!(why.contains("vCPU 0"), "{why}");
        assert!(why.contains("a bug, on purpose"), "{why}");
        // Though the other one was not asked to.
        assert!(machine.vcpus.shared.wait_for_rest(PATIENCE));
        for _ in 0..2 {
            assert!(machine.vcpus.rest(PATIENCE));
            machine.vcpus.run();
        }
        assert_eq!(machine.vcpus.check(), Err(End::Fault(why)));
        assert!(events.try_recv().is_err(), "it is told once");
    });
}

#[test]
fn a_vcpu_thread_that_cannot_be_confined_is_an_error_with_its_cause() {
    let refused = Machine::confined(2, || Err(io::Error::other("no such filters")));
    let why = refused.map(drop).unwrap_err().to_string();
    assert!(why.contains("no such filters"), "{why}");
}

#[test]
fn a_guest_that_turns_its_machine_off_in_a_loop_is_heard_once_and_stops() {
    Machine::new(2).in_time(|machine| {
        machine.load(0, RESET);
        machine.load(1, RESET);
        let events = machine.connect(Quiet);
        machine.vcpus.run();
        assert!(matches!(next(&events), Event::Reset));
        assert!(machine.vcpus.shared.wait_for_rest(PATIENCE));
        assert_eq!(machine.vcpus.check(), Err(End::PowerOff));
        assert!(machine.vcpus.rest(PATIENCE));
        machine.vcpus.run();
        assert!(machine.vcpus.rest(PATIENCE));
        let more = events.try_iter().filter(|it| matches!(it, Event::Reset));
        assert_eq!(more.count(), 0);
    });
}

#[test]
fn a_vcpu_that_waits_for_a_slow_device_is_not_waited_for_without_a_limit_and_rests_afterwards() {
    Machine::new(1).in_time(|machine| {
        machine.load(0, OUT_80);
        let (permit, permitted) = channel();
        let _events = machine.connect(Slow(permitted));
        machine.vcpus.run();
        machine.vcpus.await_first_exit(PATIENCE);
        assert!(!machine.vcpus.rest(Duration::from_millis(300)));
        drop(permit);
        assert!(machine.vcpus.rest(PATIENCE));
        assert_eq!(machine.vcpus.check(), Ok(()));
    });
}

#[test]
fn a_fault_of_another_part_of_the_machine_stops_the_vcpus_and_is_told() {
    Machine::new(1).in_time(|machine| {
        machine.load(0, SPIN);
        let events = machine.connect(Quiet);
        machine.vcpus.run();
        machine.vcpus.fault_reporter()("the device thread panicked".into());
        let Event::Fault(why) = next(&events) else {
            panic!("not a fault");
        };
        assert_eq!(why, "the device thread panicked");
        assert!(machine.vcpus.shared.wait_for_rest(PATIENCE));
    });
}

#[test]
fn a_job_that_panics_is_an_error_and_its_thread_does_the_next() {
    Machine::new(2).in_time(|machine| {
        let work = |index: usize| {
            move |_: &mut Vcpu| {
                assert_ne!(index, 1, "a bug, on purpose");
                Ok(index)
            }
        };
        let jobs = machine.vcpus.post((0..2).map(work));
        let failed = jobs.finish();
        assert!(matches!(failed, Err(VcpuJobError::Panicked { index: 1 })));
        let states = machine.vcpus.save().finish().unwrap();
        assert_eq!(states.len(), 2);
        assert_eq!(machine.vcpus.check(), Ok(()));
    });
}

#[test]
fn states_for_fewer_vcpus_than_there_are_is_an_error_that_names_the_first_without() {
    Machine::new(2).in_time(|machine| {
        let mut states = machine.vcpus.save().finish().unwrap();
        states.truncate(1);
        let restored = machine.vcpus.restore(states, 0).finish();
        assert!(matches!(restored, Err(VcpuJobError::Lost { index: 1 })));
    });
}

#[test]
fn a_guests_kernel_loads_and_saves_the_registers_of_the_vcpu_that_asks_even_if_it_is_confined() {
    let confinement = confinement::new().unwrap();
    let machine = Machine::confined(1, move || confinement.enter()).unwrap();
    machine.in_time(|machine| {
        let mut area = [0; 832];
        // x87 and SSE are in use, with the MXCSR of a reset, and AVX, with the upper half of YMM3.
        (area[25], area[24], area[512]) = (0x1f, 0x80, 0b111);
        (area[0], area[1]) = (0x7f, 0x03);
        area[160 + 3 * 16..][..16].fill(0x33);
        area[576 + 3 * 16..][..16].fill(0x99);
        let memory = machine.ram.memory();
        memory.write_slice(&area, GuestAddress(0x1_0000)).unwrap();
        machine.load(0, LOAD_AND_SAVE);
        let events = machine.connect(Quiet);
        machine.vcpus.run();
        assert!(matches!(next(&events), Event::Reset));
        let mut saved = [0; 832];
        let at = GuestAddress(0x2_0000);
        memory.read_slice(&mut saved, at).unwrap();
        // The mask of MXCSR's bits is the processor's.
        saved[28..32].fill(0);
        assert_eq!(saved, area);
    });
}
