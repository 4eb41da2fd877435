//! Interrupts and exceptions. The handlers, in interrupts.s, only count.

use crate::fail;
use crate::signal::Message;
use core::arch::asm;
use core::cell::UnsafeCell;
use core::ptr::write_volatile;
use core::sync::atomic::{AtomicU64, Ordering};

/// The interrupt that makes the guest look at its signal port. An edge; a pin of
/// the IOAPIC.
pub const DOORBELL_IRQ: u32 = 5;

/// Vectors. The fence is below the others in priority: when it has come, they have.
#[derive(Clone, Copy)]
pub(crate) enum Vector {
    Fence = 0x30,
    Ipi = 0x40,
    Timer = 0x50,
    Doorbell = 0x60,
    Spurious = 0xff,
}

/// As in interrupts.s.
const EXCEPTIONS: usize = 32;
const HANDLER_SIZE: usize = 16;
const WAIT: u32 = 0;
const HOLD_OFF: u32 = 1;

unsafe extern "C" {
    static nano_exceptions: [[u8; HANDLER_SIZE]; EXCEPTIONS];
    fn nano_on_doorbell();
    fn nano_on_timer();
    fn nano_on_ipi();
    fn nano_on_fence();
    fn nano_on_spurious();
    /// How many of each have come. Counted by the handlers, read here.
    /// What the doorbell's handler has read from the signal port.
    safe static nano_index: AtomicU64;
    safe static nano_doorbells: AtomicU64;
    safe static nano_timers: AtomicU64;
    safe static nano_ipis: AtomicU64;
    safe static nano_fences: AtomicU64;
}

/// A count of interrupts.
pub(crate) struct Count(&'static AtomicU64);

pub(crate) static DOORBELLS: Count = Count(&nano_doorbells);
pub(crate) static TIMERS: Count = Count(&nano_timers);
pub(crate) static IPIS: Count = Count(&nano_ipis);
pub(crate) static FENCES: Count = Count(&nano_fences);

impl Count {
    /// How many have come.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Halts until there are more than `seen`.
    pub(crate) fn wait_beyond(&self, seen: u64) {
        while self.get() == seen {
            halt_while(self.0, seen);
        }
    }
}

/// Which clone this was when the doorbell was rung last: 0 for the parent.
pub(crate) fn index() -> u32 {
    // The handler writes no more than its lower half.
    nano_index.load(Ordering::Acquire) as u32
}

/// Halts until an interrupt.
pub(crate) fn wait() {
    halt_while(&AtomicU64::new(0), 0);
}

/// Halts until an interrupt, if `word` is still `seen`. See interrupts.s.
fn halt_while(word: &AtomicU64, seen: u64) {
    // SAFETY: HLT ends in a handler that reads the word and returns behind the HLT.
    unsafe { asm!("hlt", in("eax") WAIT, in("rdi") word, in("rsi") seen) }
}

/// Turns interrupts off, requests `vector` for this CPU, signals `message`, and
/// turns them on again when the doorbell, rung `rung` times so far, has been
/// requested too. See interrupts.s.
pub(crate) fn hold_off(vector: Vector, message: Message, rung: u64) {
    let (command, to_self) = apic::send_to_self_command(vector);
    let (requested, bit) = apic::requested(Vector::Doorbell);
    // SAFETY: HLT ends in a handler that makes these accesses, of registers of the local
    // APIC, and returns behind the HLT.
    unsafe {
        asm!("hlt", in("eax") HOLD_OFF, in("rdx") command, in("ecx") to_self, in("r8d") message.encode(),
             in("rdi") requested, in("esi") bit, in("r9") rung);
    }
}

/// The interrupt descriptor table (SDM vol. 3A, 7.14.1), two words per vector.
#[repr(align(16))]
struct Idt(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: only `set_up` writes it, on the one CPU there is then.
unsafe impl Sync for Idt {}

/// IDTR has its address since the start.
#[unsafe(no_mangle)]
static NANO_IDT: Idt = Idt(UnsafeCell::new([[0; 2]; 256]));

/// Fills the interrupt descriptor table and the interrupt controllers.
pub(crate) fn set_up() {
    let exceptions = &raw const nano_exceptions as u64;
    for vector in 0..EXCEPTIONS {
        set_gate(vector, exceptions + (vector * HANDLER_SIZE) as u64);
    }
    set_gate(Vector::Fence as usize, nano_on_fence as *const () as u64);
    set_gate(Vector::Ipi as usize, nano_on_ipi as *const () as u64);
    set_gate(Vector::Timer as usize, nano_on_timer as *const () as u64);
    set_gate(
        Vector::Doorbell as usize,
        nano_on_doorbell as *const () as u64,
    );
    set_gate(
        Vector::Spurious as usize,
        nano_on_spurious as *const () as u64,
    );
    apic::set_up();
}

fn set_gate(vector: usize, handler: u64) {
    /// Present, 64-bit interrupt gate, to the code segment of CPL 0.
    const GATE: u64 = 0x8e00 << 32 | 0x08 << 16;
    let low = GATE | handler & 0xffff | (handler >> 16 & 0xffff) << 48;
    // SAFETY: within the table, which no other code writes (see `Sync`). The processor
    // reads it behind the compiler's back, hence volatile.
    unsafe { write_volatile(&raw mut (*NANO_IDT.0.get())[vector], [low, handler >> 32]) };
}

/// Where an exception ends, back at CPL 3.
#[unsafe(no_mangle)]
extern "C" fn nano_fault(vector: u64, error: u64, rip: u64, cr2: u64) -> ! {
    fail(format_args!(
        "exception {vector}, error {error:#x}, at {rip:#x}, CR2 {cr2:#x}"
    ))
}

/// The interrupt controllers, as far as they are needed here.
pub(crate) mod apic {
    use super::{DOORBELL_IRQ, Vector};
    use core::ptr::write_volatile;

    /// The local APIC (SDM vol. 3A, table 12-1).
    const LOCAL: usize = 0xfee0_0000;
    const SPURIOUS: usize = LOCAL + 0xf0;
    const REQUESTED: usize = LOCAL + 0x200;
    const COMMAND: usize = LOCAL + 0x300;
    const COMMAND_HIGH: usize = LOCAL + 0x310;
    const LVT_TIMER: usize = LOCAL + 0x320;
    const LVT_LINT0: usize = LOCAL + 0x350;
    const TIMER_COUNT: usize = LOCAL + 0x380;
    const TIMER_DIVIDE: usize = LOCAL + 0x3e0;

    const ENABLED: u32 = 1 << 8;
    const MASKED: u32 = 1 << 16;
    const DIVIDE_BY_128: u32 = 0b1010;
    /// KVM's APIC bus runs at 1 GHz (api.rst, KVM_CAP_X86_APIC_BUS_CYCLES_NS).
    const TICKS_PER_MS: u32 = 1_000_000 / 128;

    const TO_SELF: u32 = 1 << 18;
    const TO_OTHERS: u32 = 3 << 18;
    const ASSERT: u32 = 1 << 14;
    const INIT: u32 = 5 << 8;
    const STARTUP: u32 = 6 << 8;

    /// The IOAPIC (82093AA): an index and a window.
    const IO_SELECT: usize = 0xfec0_0000;
    const IO_WINDOW: usize = 0xfec0_0010;
    const REDIRECTION: u32 = 0x10;

    /// Opens the way for the doorbell and closes that of the 8259.
    pub(super) fn set_up() {
        write(SPURIOUS, ENABLED | Vector::Spurious as u32);
        write(LVT_LINT0, MASKED);
        write(TIMER_DIVIDE, DIVIDE_BY_128);
        for (register, value) in [
            (REDIRECTION + 2 * DOORBELL_IRQ + 1, 0), // to CPU 0
            (REDIRECTION + 2 * DOORBELL_IRQ, Vector::Doorbell as u32),
        ] {
            write(IO_SELECT, register);
            write(IO_WINDOW, value);
        }
    }

    /// Has the timer send `vector`, once, in `ms` milliseconds; or right now.
    pub(crate) fn arm_timer(vector: Vector, ms: u32) {
        write(LVT_TIMER, vector as u32);
        write(TIMER_COUNT, (ms * TICKS_PER_MS).max(1));
    }

    /// Sends `vector` to this CPU.
    pub(crate) fn send_to_self(vector: Vector) {
        let (command, to_self) = send_to_self_command(vector);
        write(command, to_self);
    }

    /// The register, and what to write to it, that sends `vector` to this CPU.
    pub(super) fn send_to_self_command(vector: Vector) -> (usize, u32) {
        (COMMAND, TO_SELF | ASSERT | vector as u32)
    }

    /// The register, and the bit of it, that says whether `vector` has been requested
    /// and not yet delivered.
    pub(super) fn requested(vector: Vector) -> (usize, u32) {
        let vector = vector as usize;
        (REQUESTED + vector / 32 * 16, 1 << (vector % 32))
    }

    /// Starts all other CPUs in real mode at the beginning of `page` (SDM vol. 3A,
    /// 10.4.4).
    pub(crate) fn start_others(page: u32) {
        write(COMMAND_HIGH, 0);
        write(COMMAND, TO_OTHERS | ASSERT | INIT);
        write(COMMAND, TO_OTHERS | ASSERT | STARTUP | page >> 12);
    }

    fn write(register: usize, value: u32) {
        // SAFETY: a register of this module, mapped one to one like everything; what it
        // causes beyond the APICs is an interrupt, for which there is a handler.
        unsafe { write_volatile(register as *mut u32, value) };
    }
}
