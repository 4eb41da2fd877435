//! The entry point (start.s), and starting the other CPUs.

use crate::interrupts::apic;
use core::arch::global_asm;
use core::array;
use core::hint::spin_loop;
use core::ptr;
use core::sync::atomic::{AtomicU64, Ordering};

// All that runs at CPL 0. Together, as the later ones use constants of the first.
global_asm!(
    include_str!("start.s"),
    include_str!("interrupts.s"),
    include_str!("trampoline.s"),
);

/// Most CPUs there are tables for, in start.s too.
pub(crate) const MAX: usize = 8;

/// As in trampoline.s.
const TRAMPOLINE: usize = 0x1_0000;

unsafe extern "C" {
    static mut nano_trampoline: [u8; 0];
    static nano_trampoline_end: [u8; 0];
    static mut nano_ap_gdt: [u8; 10];
    static mut nano_ap_cr3: u64;
    static mut nano_ap_params: u64;
    static mut nano_ap_entry: u64;
    static nano_gdt_pointer: [u8; 10];
    static nano_pml4: [u64; 512];
    fn nano_enter();
}

/// How far each CPU has come with its job.
static PROGRESS: [AtomicU64; MAX] = [const { AtomicU64::new(0) }; MAX];

/// Starts the CPUs from 1 up to `cpus`, all of which come to `nano_main` with the
/// same `boot_params`. Returns when each of them has made [`progress`].
pub(crate) fn start_others(cpus: usize, boot_params: usize) {
    if cpus == 1 {
        return;
    }
    // SAFETY: the trampoline is data that no other code writes; where it is copied to is
    // RAM that nothing else uses (lib.rs). The other CPUs do not run yet.
    unsafe {
        nano_ap_gdt = nano_gdt_pointer;
        nano_ap_cr3 = &raw const nano_pml4 as u64;
        nano_ap_params = boot_params as u64;
        nano_ap_entry = nano_enter as *const () as u64;
        let start = &raw const nano_trampoline as *const u8;
        let len = &raw const nano_trampoline_end as usize - start as usize;
        ptr::copy_nonoverlapping(start, TRAMPOLINE as *mut u8, len);
    }
    apic::start_others(TRAMPOLINE as u32);
    await_progress(cpus, [1; MAX]);
}

/// Says that CPU `cpu` is alive and has done another piece of its job.
pub(crate) fn progress(cpu: usize) {
    PROGRESS[cpu].fetch_add(1, Ordering::Release);
}

/// Waits until all CPUs but 0 have made `pieces` of [`progress`] from now.
pub(crate) fn await_others(cpus: usize, pieces: u64) {
    await_progress(cpus, array::from_fn(|cpu| done(cpu) + pieces));
}

/// If a CPU has died this never returns: the guest cannot distinguish a dead CPU from a
/// slow host.
fn await_progress(cpus: usize, goals: [u64; MAX]) {
    for (cpu, goal) in goals.into_iter().enumerate().take(cpus).skip(1) {
        while done(cpu) < goal {
            spin_loop();
        }
    }
}

fn done(cpu: usize) -> u64 {
    PROGRESS[cpu].load(Ordering::Acquire)
}
