//! The initial state of the vCPUs: 64-bit mode with paging, as the boot protocol requires.

use super::{BootError, Entry, params};
use crate::kvm::VcpuState;
use crate::memory::GuestMemoryMmap;
use kvm_bindings::kvm_segment;
use vm_memory::{Bytes, GuestAddress};

const GDT: u64 = 0x500;
const STACK: u64 = 0x8ff0;
const PML4: u64 = 0x9000;
const PDPT: u64 = 0xa000;
/// Four tables of 512 entries of 2 MiB each.
const PAGE_DIRECTORIES: u64 = 0xb000;

const PRESENT_WRITABLE: u64 = 3;
const LARGE_PAGE: u64 = 1 << 7;

const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// Flags with only the bit that is always set.
const RFLAGS: u64 = 2;

/// Selectors the boot protocol fixes: __BOOT_CS and __BOOT_DS.
const CODE: (u16, u64) = (0x10, 0x00af_9b00_0000_ffff);
const DATA: (u16, u64) = (0x18, 0x00cf_9300_0000_ffff);
const TASK: (u16, u64) = (0x20, 0x008f_8b00_0000_ffff);

/// Writes the tables that [`set`] makes the bootstrap processor use.
///
/// # Errors
/// When guest memory is too small.
pub fn write_tables(memory: &GuestMemoryMmap) -> Result<(), BootError> {
    for (selector, descriptor) in [CODE, DATA, TASK] {
        memory.write_obj(descriptor, GuestAddress(GDT + u64::from(selector)))?;
    }
    memory.write_obj(PDPT | PRESENT_WRITABLE, GuestAddress(PML4))?;
    for gib in 0..4 {
        let directory = PAGE_DIRECTORIES + gib * 0x1000;
        memory.write_obj(directory | PRESENT_WRITABLE, GuestAddress(PDPT + gib * 8))?;
        for entry in 0..512 {
            let address = gib << 30 | entry << 21;
            let value = address | LARGE_PAGE | PRESENT_WRITABLE;
            memory.write_obj(value, GuestAddress(directory + entry * 8))?;
        }
    }
    Ok(())
}

/// Turns a fresh vCPU's state into the bootstrap processor's at `entry`. The
/// other processors keep theirs: they wait to be started.
pub fn set(state: &mut VcpuState, entry: Entry) {
    state.regs.rip = entry.address;
    state.regs.rsp = STACK;
    state.regs.rbp = STACK;
    state.regs.rsi = params::ADDRESS;
    state.regs.rflags = RFLAGS;

    let sregs = &mut state.sregs;
    sregs.cs = segment(CODE);
    for data in [
        &mut sregs.ds,
        &mut sregs.es,
        &mut sregs.fs,
        &mut sregs.gs,
        &mut sregs.ss,
    ] {
        *data = segment(DATA);
    }
    sregs.tr = segment(TASK);
    sregs.gdt.base = GDT;
    sregs.gdt.limit = TASK.0 + 7;
    sregs.idt.base = 0;
    sregs.idt.limit = 0;
    sregs.cr0 = CR0_PE | CR0_ET | CR0_PG;
    sregs.cr3 = PML4;
    sregs.cr4 = CR4_PAE;
    sregs.efer = EFER_LME | EFER_LMA;
}

/// A segment register as the processor would load it from its descriptor
/// (SDM vol. 3A, 3.4.5).
fn segment((selector, descriptor): (u16, u64)) -> kvm_segment {
    let bits = |from: u32, count: u32| (descriptor >> from & ((1 << count) - 1)) as u8;
    kvm_segment {
        base: 0,
        limit: 0xffff_ffff,
        selector,
        type_: bits(40, 4),
        s: bits(44, 1),
        dpl: bits(45, 2),
        present: bits(47, 1),
        avl: bits(52, 1),
        l: bits(53, 1),
        db: bits(54, 1),
        g: bits(55, 1),
        ..Default::default()
    }
}
