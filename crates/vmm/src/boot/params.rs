//! The "zero page": `struct boot_params` with its E820 map.

use super::{Boot, BootError, Loaded, acpi, mptable};
use crate::memory::{GuestMemoryMmap, layout};
use linux_loader::bootparam::{boot_e820_entry, boot_params, setup_header};
use vm_memory::{Bytes, GuestAddress};

/// Where `boot_params` lie; RSI points here at entry.
pub(super) const ADDRESS: u64 = 0x7000;
/// Where data beyond the zero page lies.
const SETUP_DATA: u64 = 0x1_0000;
/// Where the command line lies.
const CMDLINE: u64 = 0x2_0000;
/// End of low memory that is RAM; MP and ACPI tables are above it.
const EBDA: u64 = mptable::ADDRESS;
/// Where RAM continues after the legacy area.
const HIGH_MEMORY: u64 = 1 << 20;

/// `boot_flag`, and "HdrS" (boot.rst, "The real-mode kernel header").
const BOOT_FLAG: u16 = 0xaa55;
const HEADER_MAGIC: u32 = 0x5372_6448;
/// `struct setup_data` of type `SETUP_RNG_SEED`: its fields before the data.
const SETUP_DATA_HEADER: usize = 16;
const SETUP_RNG_SEED: u32 = 9;
/// "Undefined" boot loader.
const LOADER_UNDEFINED: u8 = 0xff;
/// E820 type of usable memory.
const E820_RAM: u32 = 1;
/// E820 type of reserved memory.
const E820_RESERVED: u32 = 2;

pub(super) fn write(
    memory: &GuestMemoryMmap,
    kernel: &Loaded,
    initrd: Option<(u64, u64)>,
    boot: &Boot<'_>,
) -> Result<(), BootError> {
    let mut cmdline = boot.cmdline.as_bytes().to_vec();
    cmdline.push(0);
    memory.write_slice(&cmdline, GuestAddress(CMDLINE))?;

    let mut params = boot_params {
        hdr: kernel.header.unwrap_or(setup_header {
            boot_flag: BOOT_FLAG,
            header: HEADER_MAGIC,
            kernel_alignment: 1 << 24,
            ..Default::default()
        }),
        ..Default::default()
    };
    params.acpi_rsdp_addr = acpi::ADDRESS;
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = CMDLINE as u32;
    params.hdr.cmdline_size = boot.cmdline.len() as u32;
    if let Some((start, size)) = initrd {
        // Both below 3 GiB.
        params.hdr.ramdisk_image = start as u32;
        params.hdr.ramdisk_size = size as u32;
    }
    memory.write_slice(&seed_data(boot.seed), GuestAddress(SETUP_DATA))?;
    params.hdr.setup_data = SETUP_DATA;
    let map = e820(boot.memory);
    params.e820_entries = map.len() as u8;
    params.e820_table[..map.len()].copy_from_slice(&map);
    memory.write_obj(params, GuestAddress(ADDRESS))?;
    Ok(())
}

/// The seed as the only element of the list of setup data: no next one, type,
/// length, and the bytes. The kernel wipes it after use.
fn seed_data(seed: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(SETUP_DATA_HEADER + seed.len());
    data.extend(0u64.to_le_bytes());
    data.extend(SETUP_RNG_SEED.to_le_bytes());
    data.extend((seed.len() as u32).to_le_bytes());
    data.extend(seed);
    data
}

fn e820(ram: u64) -> Vec<boot_e820_entry> {
    let entry = |start, end, kind| boot_e820_entry {
        addr: start,
        size: end - start,
        r#type: kind,
    };
    let mut map = vec![
        entry(0, EBDA, E820_RAM),
        entry(EBDA, HIGH_MEMORY, E820_RESERVED),
    ];
    for region in layout::ram_regions(ram) {
        let end = region.start + region.len;
        map.push(entry(region.start.max(HIGH_MEMORY), end, E820_RAM));
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_tells_of_all_ram_but_the_legacy_area() {
        for ram in [64 << 20, 3 << 30, 8 << 30] {
            let usable: u64 = e820(ram)
                .iter()
                .filter(|entry| { entry.r#type } == E820_RAM)
                .map(|entry| entry.size)
                .sum();
            assert_eq!(usable, ram - (HIGH_MEMORY - EBDA));
        }
    }
}
