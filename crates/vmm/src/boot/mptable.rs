//! The MP table (Intel MultiProcessor Specification 1.4, chapter 4): which CPUs
//! and interrupt lines there are. Chosen over ACPI because a guest reads it with
//! a few hundred instructions instead of interpreting byte code, which counts
//! where each instruction is emulated.

use super::BootError;
use crate::memory::{GuestMemoryMmap, layout};
use vm_memory::{Bytes, GuestAddress};

/// Where the table lies: the last KiB of low memory, where kernels look.
pub(super) const ADDRESS: u64 = 0x9_fc00;

const SPEC_1_4: u8 = 4;
const APIC_VERSION: u8 = 0x14;
const IOAPIC_PINS: u8 = 24;
const CPU_ENABLED: u8 = 1;
const CPU_BOOTSTRAP: u8 = 2;
/// Family 6 and "has an APIC and an FPU", as kernels print them.
const CPU_SIGNATURE: u32 = 0x600;
const CPU_FEATURES: u32 = 0x201;

/// Entry types (4.3).
const PROCESSOR: u8 = 0;
const BUS: u8 = 1;
const IOAPIC: u8 = 2;
const IO_INTERRUPT: u8 = 3;
const LOCAL_INTERRUPT: u8 = 4;

/// Interrupt types (table 4-10).
const INT: u8 = 0;
const NMI: u8 = 1;
const EXT_INT: u8 = 3;

/// Writes the table for `cpus` CPUs.
///
/// # Errors
/// When guest memory is too small.
pub fn write(memory: &GuestMemoryMmap, cpus: u8) -> Result<(), BootError> {
    memory.write_slice(&table(cpus), GuestAddress(ADDRESS))?;
    Ok(())
}

/// Floating pointer and configuration table, as they lie in memory.
fn table(cpus: u8) -> Vec<u8> {
    let ioapic_id = cpus;
    let mut entries: Vec<Vec<u8>> = Vec::new();
    for cpu in 0..cpus {
        let flags = CPU_ENABLED | if cpu == 0 { CPU_BOOTSTRAP } else { 0 };
        let mut entry = vec![PROCESSOR, cpu, APIC_VERSION, flags];
        entry.extend(CPU_SIGNATURE.to_le_bytes());
        entry.extend(CPU_FEATURES.to_le_bytes());
        entry.extend([0; 8]);
        entries.push(entry);
    }
    entries.push([&[BUS, 0][..], b"ISA   "].concat());
    let mut ioapic = vec![IOAPIC, ioapic_id, APIC_VERSION, 1];
    ioapic.extend((layout::IOAPIC as u32).to_le_bytes());
    entries.push(ioapic);
    // Each line to the pin of its number, with the bus's own polarity and trigger.
    for irq in 0..IOAPIC_PINS {
        entries.push(vec![IO_INTERRUPT, INT, 0, 0, 0, irq, ioapic_id, irq]);
    }
    entries.push(vec![LOCAL_INTERRUPT, EXT_INT, 0, 0, 0, 0, 0, 0]);
    entries.push(vec![LOCAL_INTERRUPT, NMI, 0, 0, 0, 0, 0xff, 1]);

    let body = entries.concat();
    let mut config = Vec::new();
    config.extend(b"PCMP");
    config.extend((44 + body.len() as u16).to_le_bytes());
    config.extend([SPEC_1_4, 0]); // checksum at 7
    config.extend(b"HYPERFRK");
    config.extend(b"MICROVM     ");
    config.extend([0; 6]); // no OEM table
    config.extend((entries.len() as u16).to_le_bytes());
    config.extend((layout::LAPIC as u32).to_le_bytes());
    config.extend([0; 4]); // no extended table
    config.extend(body);
    config[7] = checksum(&config);

    let mut pointer = b"_MP_".to_vec();
    pointer.extend((ADDRESS as u32 + 16).to_le_bytes());
    pointer.extend([1, SPEC_1_4, 0, 0, 0, 0, 0, 0]); // checksum at 10
    pointer[10] = checksum(&pointer);
    [pointer, config].concat()
}

/// What makes all bytes add up to 0.
fn checksum(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0u8, |sum, byte| sum.wrapping_sub(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_parts_add_up_to_zero_and_fit_below_640_kib() {
        for cpus in 1..=8 {
            let table = table(cpus);
            let sum = |bytes: &[u8]| bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
            assert_eq!(sum(&table[..16]), 0);
            assert_eq!(sum(&table[16..]), 0);
            assert!(ADDRESS + table.len() as u64 <= 0xa_0000);
            assert_eq!(
                u16::from_le_bytes([table[20], table[21]]) as usize,
                table.len() - 16
            );
        }
    }
}
