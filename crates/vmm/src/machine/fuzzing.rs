//! An entry point for the fuzz target of the machine's I/O ports.

use super::ports::{self, Power, ResetPort};
use super::signal_port::{GuestFork, SignalPort};
use super::vcpus::{Request, XstatePort};
use super::{Event, Events};
use crate::boot::acpi;
use crate::bus::Bus;
use crate::devices::log::{Log, TAIL_KEPT};
use crate::devices::serial::{COM1, COM1_LEN, Serial};
use crate::kvm::{HostKind, XstateLayout};
use crate::memory::Ram;
use crate::sys::clock::realtime_ns;
use crate::sys::memfd;
use hyperfork_api::clock::{CLOCK_PORT, CLOCK_PORT_LEN};
use hyperfork_api::signal::{FORK_PORT, ForkAnswer, ForkStatus, Message, PORT, Refusal};
use hyperfork_api::xstate::{AREA_ALIGNMENT, LOAD_PORT, SAVE_PORT};
use hyperfork_state::{BootId, CpuidLeaf, HostFingerprint};
use std::sync::{Arc, LazyLock, Mutex};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Most bytes of one access.
const WIDEST: usize = 8;

/// Of a processor with AVX.
static LAYOUT: LazyLock<XstateLayout> = LazyLock::new(|| {
    let leaf = |index, answer| CpuidLeaf {
        function: 0xd,
        index,
        answer,
    };
    XstateLayout::for_guests_of(&HostFingerprint {
        kind: HostKind::Pvm,
        cpuid: vec![leaf(0, [7, 0, 0, 0]), leaf(2, [256, 576, 0, 0])],
        xcr0: 7,
        tsc_khz: 0,
        boot: BootId(String::new()),
    })
});

/// The memory of all guests.
static RAM: LazyLock<Ram> = LazyLock::new(|| {
    let mut ram = Ram::reserve(1 << 20).expect("memory");
    ram.back_with_zeroes().expect("memory");
    ram
});

struct Guest {
    ports: Bus,
    power: Power,
    serial: Arc<Mutex<Serial>>,
    fork: GuestFork,
    xstate: Arc<XstatePort>,
    heard: Arc<Mutex<Vec<Event>>>,
    log: Log,
    /// The tag of the fork that was asked for and not answered.
    asked: Option<u32>,
    index: u32,
}

/// Runs `script`: accesses of a guest, and what its owner does about them.
///
/// # Panics
/// When a port returns an impossible value, reports an event that did not happen, or differs after
/// it is saved and restored.
pub fn drive_ports(script: &[u8]) {
    let mut script = script.iter().copied();
    let mut guest = Guest::new(script.next().unwrap_or(0).into());
    while let Some(step) = script.next() {
        let mut byte = || script.next().unwrap_or(0);
        match step {
            0..120 => {
                let (port, width) = (port(byte(), byte()), usize::from(byte()) % (WIDEST + 1));
                let mut data = [0; WIDEST];
                data.iter_mut().for_each(|place| *place = byte());
                guest.write(port, &data[..width]);
            }
            120..220 => guest.read(port(byte(), byte()), usize::from(byte()) % (WIDEST + 1)),
            220..230 => guest.begin(),
            230..245 => guest.answer(byte()),
            245..250 => guest.save(),
            250.. => change_area(byte(), byte(), byte()),
        }
        guest.check();
    }
}

/// Mostly a port of ours, or one beside it.
fn port(which: u8, offset: u8) -> u64 {
    let near = u64::from(offset % 12);
    match which {
        0..60 => u64::from(COM1) + near,
        60..130 => u64::from(PORT) + near,
        130..145 => u64::from(CLOCK_PORT) + near,
        145..160 => u64::from(SAVE_PORT) + near,
        160..200 => u64::from(acpi::POWER_PORT) + near,
        200..220 => u64::from(ResetPort::PORT),
        220.. => u64::from(which) << 8 | u64::from(offset),
    }
}

impl Guest {
    fn new(index: u32) -> Self {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let sink = heard.clone();
        let events: Events = Arc::new(move |event| sink.lock().expect("no panic").push(event));
        let file = memfd::create("log", 0).expect("memory");
        let log = Log::new(file).expect("a file");
        let serial = Arc::new(Mutex::new(Serial::new(irq(), log.clone())));
        let status = ForkStatus::NONE.encode();
        let fork = GuestFork::new(SignalPort::new(index, status, events));
        let power = Power::default();
        let xstate = Arc::new(XstatePort::new(LAYOUT.clone(), RAM.memory().clone()));
        let ports = ports::bus(serial.clone(), &fork, xstate.clone(), &power);
        Self {
            ports,
            power,
            serial,
            fork,
            xstate,
            heard,
            log,
            asked: None,
            index,
        }
    }

    fn write(&mut self, port: u64, data: &[u8]) {
        // As a vCPU's thread does.
        if let Some(request) = self.xstate.request(port as u16, data) {
            return requested(request, port, data);
        }
        self.ports.write(port, data);
        for event in self.heard() {
            match event {
                Event::Message(message) => self.told(message, port, data),
                event => panic!("no port says {event:?}"),
            }
        }
        if self.power.is_off() {
            self.ended(port, data);
            self.power = Power::default();
            self.ports = ports::bus(
                self.serial.clone(),
                &self.fork,
                self.xstate.clone(),
                &self.power,
            );
        }
    }

    /// A message is reported as it was written, a fork only while no other is under way.
    fn told(&mut self, message: Message, port: u64, data: &[u8]) {
        let word = data.try_into().map(u32::from_le_bytes);
        assert_eq!((port, word.ok()), (PORT.into(), Some(message.encode())));
        if let Message::Fork { tag, .. } = message {
            assert_eq!(self.asked, None, "one fork at a time");
            self.asked = Some(tag);
        }
    }

    /// A machine ends by a pulse of the reset line, or by the bit that has it sleep.
    fn ended(&self, port: u64, data: &[u8]) {
        let control = u64::from(acpi::POWER_PORT + acpi::POWER_CONTROL) + 1;
        let sleeps = (port..)
            .zip(data)
            .any(|(at, byte)| at == control && byte & 0x20 != 0);
        let is_pulsed = port == u64::from(ResetPort::PORT) && data == [0xfe];
        assert!(
            sleeps || is_pulsed,
            "{data:x?} at {port:#x} ends the machine"
        );
    }

    /// What is read is the same whatever was in its place before, but for the clock.
    fn read(&self, port: u64, width: usize) {
        let (mut one, mut other) = ([0x55; WIDEST], [0xaa; WIDEST]);
        let before = realtime_ns();
        self.ports.read(port, &mut one[..width]);
        if port == u64::from(CLOCK_PORT) && width == WIDEST {
            assert!((before..=realtime_ns()).contains(&u64::from_le_bytes(one)));
        }
        // Reading the serial port changes it, and the clock advances.
        let of_serial = u64::from(COM1)..u64::from(COM1 + COM1_LEN);
        let of_clock = u64::from(CLOCK_PORT)..u64::from(CLOCK_PORT + CLOCK_PORT_LEN);
        if !of_serial.contains(&port) && !of_clock.contains(&port) {
            self.ports.read(port, &mut other[..width]);
            assert_eq!(one[..width], other[..width]);
        }
    }

    fn begin(&mut self) {
        self.fork.begin();
        self.fork.capture();
    }

    fn answer(&mut self, choice: u8) {
        match choice {
            0..128 => self.fork.complete(),
            _ => self.fork.refuse(Refusal::Failed),
        }
        self.asked = None;
    }

    fn save(&self) {
        let mut serial = self.serial.lock().expect("no panic");
        let state = serial.save();
        *serial = Serial::restore(&state, irq(), self.log.clone()).expect("it was saved");
        assert_eq!(serial.save(), state);
    }

    fn check(&self) {
        assert!(self.log.tail().len() <= TAIL_KEPT);
        let mut words = [0; 8];
        self.ports.read(PORT.into(), &mut words);
        let [index, status] = [0, 4].map(|at| {
            let word = words[at..at + 4].try_into();
            u32::from_le_bytes(word.expect("4 bytes"))
        });
        assert_eq!(index, self.index);
        let status = ForkStatus::decode(status).expect("a status is always one");
        let pending = status.answer == ForkAnswer::Pending;
        assert_eq!(
            pending.then_some(status.tag),
            self.asked,
            "port {FORK_PORT:#x}"
        );
    }

    fn heard(&self) -> Vec<Event> {
        std::mem::take(&mut *self.heard.lock().expect("no panic"))
    }
}

/// What is requested is what was written, and of an area KVM is given what it takes.
fn requested(request: Request, port: u64, data: &[u8]) {
    let word = data.try_into().map(u32::from_le_bytes).expect("4 bytes");
    let area = GuestAddress(u64::from(word) * AREA_ALIGNMENT);
    match u16::try_from(port) {
        Ok(SAVE_PORT) => assert_eq!(request, Request::Save(area)),
        Ok(LOAD_PORT) => assert_eq!(request, Request::Load(area)),
        _ => panic!("port {port:#x} is another one"),
    }
    let image = LAYOUT.image_in(RAM.memory(), area);
    let is_whole = area.0 + 832 <= 1 << 20;
    assert_eq!(image.is_some(), is_whole);
    if let Some(image) = image {
        let (header, beyond) = (&image.region[128..144], &image.region[208..]);
        assert_eq!(header[0] & !7, 0);
        assert!(header[1..].iter().chain(beyond).all(|&word| word == 0));
    }
}

/// Changes a byte of the header of an area at the memory's beginning or end.
fn change_area(which: u8, offset: u8, byte: u8) {
    let area = u64::from(which % 2) * ((1 << 20) - 832);
    let at = GuestAddress(area + 512 + u64::from(offset % 64));
    RAM.memory().write_obj(byte, at).expect("it is memory");
}

fn irq() -> EventFd {
    EventFd::new(EFD_NONBLOCK).expect("descriptors")
}
