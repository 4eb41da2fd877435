//! The mode `regs`: all CPUs keep known values in all their registers while they
//! wait, other values each time, and check whether they are still there.

use super::{Job, done};
use crate::interrupts::DOORBELLS;
use crate::work::{descend, mix, report};
use crate::{cpu, fail, port};
use core::arch::global_asm;
use core::mem::offset_of;

global_asm!(include_str!("../registers.s"));

/// How often the loop goes around with the known values: some 10 ms.
const TURNS: u64 = 1 << 19;

/// The stack pointer's number in instructions.
const RSP: usize = 4;

/// Image of FXSAVE (SDM vol. 1, table 10-2).
#[derive(Clone, Copy)]
#[repr(C, align(16))]
struct Fx([u8; 512]);

/// What registers.s works on.
#[repr(C)]
struct Registers {
    known: Values,
    seen: Values,
    /// Those of the caller.
    saved: Fx,
}

#[repr(C)]
struct Values {
    fx: Fx,
    /// In the order of their numbers in instructions: RAX, RCX, RDX, RBX, ...
    general: [u64; 16],
}

// As registers.s has it.
const _: () = assert!(size_of::<Values>() == 640 && offset_of!(Registers, saved) == 1280);

unsafe extern "C" {
    /// Loads the known values, goes `turns` times around, and stores the seen ones.
    fn nano_hold(registers: &mut Registers, turns: u64);
}

pub(super) fn run(job: &Job<'_>) -> ! {
    let mut rung = DOORBELLS.get();
    let mut seed = job.cpu as u64;
    if job.cpu == 0 {
        job.ready();
    }
    loop {
        seed = mix(seed, 1);
        hold(seed);
        cpu::progress(job.cpu);
        if job.cpu == 0 && DOORBELLS.get() != rung {
            rung = DOORBELLS.get();
            let index = port::index();
            seed = descend(seed, index);
            cpu::await_others(job.cpus, 2);
            done(index, report(index));
        }
    }
}

/// Holds values that come from `seed`.
fn hold(seed: u64) {
    let known = Values {
        fx: Fx::known(seed),
        general: core::array::from_fn(|n| match n {
            // An address, though an unused one: without, PVM emulates CPL 3 too.
            RSP => mix(seed, n as u64) >> 17,
            n => mix(seed, n as u64),
        }),
    };
    let seen = Values {
        fx: Fx([0; 512]),
        general: [0; 16],
    };
    let mut registers = Registers {
        known,
        seen,
        saved: Fx([0; 512]),
    };
    // SAFETY: it keeps to the calling convention, and to `registers`.
    unsafe { nano_hold(&mut registers, TURNS) };
    let Registers { known, seen, .. } = &registers;
    for (n, (known, seen)) in known.general.iter().zip(seen.general).enumerate() {
        if *known != seen {
            fail(format_args!(
                "general register {n} was {known:#x} and is {seen:#x}"
            ));
        }
    }
    for byte in Fx::COMPARED.filter(|byte| !Fx::MXCSR_MASK.contains(byte)) {
        let (known, seen) = (known.fx.0[byte], seen.fx.0[byte]);
        if known != seen {
            fail(format_args!(
                "byte {byte} of FXSAVE was {known:#x} and is {seen:#x}"
            ));
        }
    }
}

impl Fx {
    const CONTROL: usize = 0;
    const STATUS: usize = 2;
    const TAGS: usize = 4;
    const MXCSR: usize = 24;
    /// Belongs to the processor.
    const MXCSR_MASK: core::ops::Range<usize> = 28..32;
    const X87: usize = 32;
    const XMM: usize = 160;
    const COMPARED: core::ops::Range<usize> = 0..416;

    /// Values from `seed` in all registers that hold numbers; modes that are unusual
    /// but raise no exceptions.
    fn known(seed: u64) -> Self {
        let mut fx = Self([0; 512]);
        let mut put = |at: usize, bytes: &[u8]| fx.0[at..at + bytes.len()].copy_from_slice(bytes);
        put(Self::CONTROL, &0x0f7f_u16.to_le_bytes()); // round to zero, all masked
        put(Self::STATUS, &0x2800_u16.to_le_bytes()); // top of stack is 5
        put(Self::TAGS, &[0xff]); // all in use
        put(Self::MXCSR, &0x7f80_u32.to_le_bytes()); // round to zero, all masked
        for n in 0..8 {
            let word = mix(seed, 0x100 + n as u64);
            put(Self::X87 + n * 16, &(word | 1 << 63).to_le_bytes()); // normal numbers
            put(Self::X87 + n * 16 + 8, &0x3fff_u16.to_le_bytes());
        }
        for n in 0..32 {
            put(
                Self::XMM + n * 8,
                &mix(seed, 0x200 + n as u64).to_le_bytes(),
            );
        }
        fx
    }
}
