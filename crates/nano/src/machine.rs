//! Reads what the monitor has written into memory about the machine.

use crate::{Work, fail};
use core::ffi::CStr;
use core::ptr::{read_unaligned, write_volatile};
use core::slice;

/// `struct boot_params` (Documentation/arch/x86/zero-page.rst).
const E820_ENTRIES: usize = 0x1e8;
const CMD_LINE_PTR: usize = 0x228;
const E820_TABLE: usize = 0x2d0;
const E820_RAM: u32 = 1;
/// As for Linux (COMMAND_LINE_SIZE).
const CMDLINE_MAX: usize = 2048;

/// Floating pointer of the MP table, where the monitor puts it (MultiProcessor
/// Specification 1.4, 4.1 and 4.2).
const MP_POINTER: usize = 0x9_fc00;
const MP_ENTRIES: usize = 34;
const MP_HEADER: usize = 44;
const MP_PROCESSOR: u8 = 0;
const MP_PROCESSOR_SIZE: usize = 20;

/// Tables for this and the following GiB are made when needed, in low memory.
const FIRST_GIB: u64 = 4;
const DIRECTORIES: usize = 0x4_0000;
const DIRECTORIES_END: usize = 0x9_f000;
/// Present, writable, user, accessed, dirty, 2 MiB; without the last two for tables.
const LARGE_PAGE: u64 = 0xe7;
const TABLE: u64 = 0x27;

/// The machine.
pub(crate) struct Machine {
    /// Address of `struct boot_params`.
    pub(crate) boot_params: usize,
}

unsafe extern "C" {
    static mut nano_pdpt: [u64; 512];
}

impl Machine {
    /// From what the boot protocol passes.
    pub(crate) fn from(boot_params: u64) -> Self {
        Self {
            boot_params: boot_params as usize,
        }
    }

    pub(crate) fn cmdline(&self) -> &'static str {
        let address: u32 = read(self.boot_params + CMD_LINE_PTR);
        let start = address as usize as *const u8;
        // SAFETY: the boot protocol promises a string there; no code writes to it, nor to
        // what follows it in low memory.
        let bytes = unsafe { slice::from_raw_parts(start, CMDLINE_MAX) };
        let cmdline = CStr::from_bytes_until_nul(bytes).ok();
        match cmdline.and_then(|cmdline| cmdline.to_str().ok()) {
            Some(cmdline) => cmdline,
            None => fail(format_args!("the command line is not UTF-8, or too long")),
        }
    }

    /// First address above all RAM.
    fn ram_end(&self) -> u64 {
        let count: u8 = read(self.boot_params + E820_ENTRIES);
        (0..usize::from(count))
            .map(|n| self.boot_params + E820_TABLE + n * 20)
            .filter(|entry| read::<u32>(entry + 16) == E820_RAM)
            .map(|entry| read::<u64>(entry) + read::<u64>(entry + 8))
            .max()
            .unwrap_or(0)
    }

    /// How many CPUs there are. They come first in the MP table.
    pub(crate) fn cpus(&self) -> usize {
        let table = read::<u32>(MP_POINTER + 4) as usize;
        let entries: u16 = read(table + MP_ENTRIES);
        (0..usize::from(entries))
            .take_while(|n| read::<u8>(table + MP_HEADER + n * MP_PROCESSOR_SIZE) == MP_PROCESSOR)
            .count()
    }

    /// Makes sure that the pages of `work` are there, and maps those above 4 GiB.
    pub(crate) fn provide(&self, work: &Work) {
        let end = work.end();
        if end > self.ram_end() {
            fail(format_args!("touch_mib is more than there is memory"));
        }
        let gibs = end.div_ceil(1 << 30);
        for (gib, directory) in (FIRST_GIB..gibs).zip((DIRECTORIES..).step_by(0x1000)) {
            if directory >= DIRECTORIES_END {
                fail(format_args!("touch_mib is more than there are tables for"));
            }
            for entry in 0..512 {
                let page = gib << 30 | entry << 21 | LARGE_PAGE;
                // SAFETY: low memory that is for this and nothing else (lib.rs).
                unsafe { write_volatile((directory as *mut u64).add(entry as usize), page) };
            }
            // SAFETY: the table is used by the processor only, and here; `gib` is below the
            // number of tables. An entry that was absent may appear without further ado.
            unsafe { write_volatile(&raw mut nano_pdpt[gib as usize], directory as u64 | TABLE) };
        }
    }
}

/// Reads what the monitor has put at `address`.
fn read<T: Copy>(address: usize) -> T {
    // SAFETY: only called for integers in the tables the monitor has put into RAM before
    // the start, all of it mapped one to one; no code writes there.
    unsafe { read_unaligned(address as *const T) }
}
