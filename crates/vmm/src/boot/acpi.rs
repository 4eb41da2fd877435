//! ACPI tables (ACPI specification 6.5, chapters 5 and 6), through which distribution
//! kernels find CPUs, interrupts and devices.
//!
//! Our own kernel has no ACPI: it reads the MP table and the command line, which
//! costs a PVM host less. Both describe the same machine. It is not a
//! "hardware-reduced" one, for it has PICs and a PIT, by which kernels without a
//! better reference calibrate their timers.

use super::{Boot, BootError, generation};
use crate::devices::serial::{COM1, COM1_IRQ, COM1_LEN};
use crate::memory::{GuestMemoryMmap, layout};
use acpi_tables::Aml;
use acpi_tables::aml::{
    Device, EISAName, IO, Interrupt, Memory32Fixed, Name, Package, ResourceTemplate, Scope,
};
use acpi_tables::facs::FACS;
use acpi_tables::fadt::{FADTBuilder, Flags};
use acpi_tables::gas::{AccessSize, AddressSpace, GAS};
use acpi_tables::madt::{EnabledStatus, IoApic, ProcessorLocalApic};
use acpi_tables::rsdp::Rsdp;
use acpi_tables::sdt::Sdt;
use acpi_tables::xsdt::XSDT;
use vm_memory::{Bytes, GuestAddress};

/// The address of the root pointer, with the tables after it: in the area where kernels
/// search for it (5.2.5.1).
pub(super) const ADDRESS: u64 = 0xe_0000;

/// First port of the power management registers (4.8.3): status and enable, then
/// control.
pub const POWER_PORT: u16 = 0x600;
/// Offset of PM1_CNT in them.
pub const POWER_CONTROL: u16 = 4;
/// How many ports they are.
pub const POWER_LEN: u16 = 6;

/// The keyboard controller's command port and its word for a reset, which the
/// machine has in any case.
const RESET: (u64, u8) = (0x64, 0xfe);
/// The interrupt of power management events, of which there are none.
const SCI: u8 = 9;

const OEM: [u8; 6] = *b"HYPERF";
const OEM_TABLE: [u8; 8] = *b"MICROVM ";
const OEM_REVISION: u32 = 1;
/// Bytes of a table's header (5.2.6).
const HEADER: u32 = 36;

/// Writes the tables.
///
/// # Errors
/// When guest memory is too small.
pub fn write(memory: &GuestMemoryMmap, boot: &Boot<'_>) -> Result<(), BootError> {
    memory.write_slice(
        &tables(boot.cpus, boot.virtio_devices),
        GuestAddress(ADDRESS),
    )?;
    Ok(())
}

/// All of them, as they lie in memory.
fn tables(cpus: u8, virtio_devices: usize) -> Vec<u8> {
    let mut area = Area(vec![0; Rsdp::len()]);
    let dsdt = area.push(&dsdt(virtio_devices));
    let facs = area.push(&FACS::new());
    let fadt = area.push(&fadt(dsdt, facs).finalize());
    let madt = area.push(&madt(cpus));
    let mut xsdt = XSDT::new(OEM, OEM_TABLE, OEM_REVISION);
    xsdt.add_entry(fadt);
    xsdt.add_entry(madt);
    let xsdt = area.push(&xsdt);
    area.0[..Rsdp::len()].copy_from_slice(&bytes(&Rsdp::new(OEM, xsdt)));
    area.0
}

/// Guest memory from [`ADDRESS`] on.
struct Area(Vec<u8>);

impl Area {
    /// Appends a table and gives its address.
    fn push(&mut self, table: &dyn Aml) -> u64 {
        // The FACS wants 64; the others take it (5.2.10).
        self.0.resize(self.0.len().next_multiple_of(64), 0);
        let address = ADDRESS + self.0.len() as u64;
        table.to_aml_bytes(&mut self.0);
        address
    }
}

fn bytes(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

/// The fixed hardware (5.2.9): no buttons, no clock in CMOS, no keyboard, no
/// display, no PCI; registers to power off and to reset.
fn fadt(dsdt: u64, facs: u64) -> FADTBuilder {
    const VGA_NOT_PRESENT: u16 = 1 << 2;
    const MSI_NOT_SUPPORTED: u16 = 1 << 3;
    const CMOS_RTC_NOT_PRESENT: u16 = 1 << 5;
    /// Latencies that mean that there are no such processor states.
    const NO_C2: u16 = 101;
    const NO_C3: u16 = 1001;

    let io = |bits, access, port| GAS::new(AddressSpace::SystemIo, bits, 0, access, port);
    let event = POWER_PORT;
    let control = POWER_PORT + POWER_CONTROL;
    // All tables lie below 1 MiB.
    let mut fadt = FADTBuilder::new(OEM, OEM_TABLE, OEM_REVISION)
        .dsdt_32(dsdt as u32)
        .firmware_ctrl_32(facs as u32)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::FixRtc)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless);
    fadt.sci_int = u16::from(SCI).into();
    fadt.pm1a_evt_blk = u32::from(event).into();
    fadt.pm1_evt_len = 4;
    fadt.x_pm1a_evt_blk = io(32, AccessSize::WordAccess, event.into());
    fadt.pm1a_cnt_blk = u32::from(control).into();
    fadt.pm1_cnt_len = 2;
    fadt.x_pm1a_cnt_blk = io(16, AccessSize::WordAccess, control.into());
    fadt.p_lvl2_lat = NO_C2.into();
    fadt.p_lvl3_lat = NO_C3.into();
    fadt.iapc_boot_arch = (VGA_NOT_PRESENT | MSI_NOT_SUPPORTED | CMOS_RTC_NOT_PRESENT).into();
    fadt.reset_reg = io(8, AccessSize::ByteAccess, RESET.0);
    fadt.reset_value = RESET.1;
    fadt
}

/// CPUs and interrupt lines (5.2.12), as in the MP table: each line goes to the
/// IOAPIC's pin of its number.
fn madt(cpus: u8) -> Sdt {
    const REVISION: u8 = 5;
    const PCAT_COMPAT: u32 = 1;
    const INTERRUPT_SOURCE_OVERRIDE: u8 = 2;
    const LOCAL_APIC_NMI: u8 = 4;
    const ACTIVE_HIGH_LEVEL: u8 = 0b1101;
    const ALL_CPUS: u8 = 0xff;

    let mut madt = Sdt::new(*b"APIC", HEADER, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    madt.append_slice(&(layout::LAPIC as u32).to_le_bytes());
    madt.append_slice(&PCAT_COMPAT.to_le_bytes());
    for cpu in 0..cpus {
        let cpu = ProcessorLocalApic::new(cpu, cpu, EnabledStatus::Enabled);
        madt.append_slice(&bytes(&cpu));
    }
    madt.append_slice(&bytes(&IoApic::new(cpus, layout::IOAPIC as u32, 0)));
    // Otherwise that of the ISA bus would be assumed: edge-triggered.
    let to = u32::from(SCI).to_le_bytes();
    madt.append_slice(&[INTERRUPT_SOURCE_OVERRIDE, 10, 0, SCI]);
    madt.append_slice(&to);
    madt.append_slice(&[ACTIVE_HIGH_LEVEL, 0]);
    madt.append_slice(&[LOCAL_APIC_NMI, 6, ALL_CPUS, 0, 0, 1]);
    madt
}

/// What is there beside that (5.2.11.1): the serial port, virtio devices, and the
/// way to say "off".
fn dsdt(virtio_devices: usize) -> Sdt {
    const REVISION: u8 = 2;
    let mut dsdt = Sdt::new(*b"DSDT", HEADER, REVISION, OEM, OEM_TABLE, OEM_REVISION);
    let mut devices = serial_port();
    devices.extend(generation::devices());
    for slot in 0..virtio_devices {
        devices.extend(virtio_device(slot));
    }
    dsdt.append_slice(&Scope::raw("_SB_".into(), devices));
    // SLP_TYP for PM1a and PM1b; any will do, as there is only this state (7.4.2).
    let soft_off = Package::new(vec![&0u8, &0u8, &0u8, &0u8]);
    dsdt.append_slice(&bytes(&Name::new("_S5_".into(), &soft_off)));
    dsdt
}

fn serial_port() -> Vec<u8> {
    bytes(&Device::new(
        "COM1".into(),
        vec![
            &Name::new("_HID".into(), &EISAName::new("PNP0501")),
            &Name::new("_UID".into(), &0u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &IO::new(COM1, COM1, 1, COM1_LEN as u8),
                    &edge_interrupt(COM1_IRQ),
                ]),
            ),
        ],
    ))
}

/// `LNRO0005` is what Linux knows virtio over MMIO by.
fn virtio_device(slot: usize) -> Vec<u8> {
    let (range, irq) = layout::virtio_slot(slot);
    bytes(&Device::new(
        format!("VR{slot:02}").as_str().into(),
        vec![
            &Name::new("_HID".into(), &"LNRO0005"),
            &Name::new("_UID".into(), &slot),
            // DMA sees what the CPU sees (6.2.17).
            &Name::new("_CCA".into(), &1u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![
                    &Memory32Fixed::new(true, range.start as u32, layout::VIRTIO_STRIDE as u32),
                    &edge_interrupt(irq),
                ]),
            ),
        ],
    ))
}

/// Active high, not shared.
fn edge_interrupt(irq: u32) -> Interrupt {
    Interrupt::new(true, true, false, false, irq)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(tables: &[u8], offset: usize) -> usize {
        u32::from_le_bytes(tables[offset..offset + 4].try_into().unwrap()) as usize
    }

    /// The table at a guest address, whole.
    fn table(tables: &[u8], address: usize) -> &[u8] {
        let start = address - ADDRESS as usize;
        &tables[start..start + word(tables, start + 4)]
    }

    fn adds_up(bytes: &[u8]) -> bool {
        bytes.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte)) == 0
    }

    #[test]
    fn every_table_is_found_from_the_root_pointer_and_adds_up() {
        for (cpus, devices) in [(1, 0), (8, layout::VIRTIO_MAX)] {
            let tables = tables(cpus, devices);
            assert!(ADDRESS as usize + tables.len() <= generation::ADDRESS as usize);
            assert!(adds_up(&tables[..20]) && adds_up(&tables[..36]));
            let xsdt = table(&tables, word(&tables, 24));
            let (fadt, madt) = (word(xsdt, 36), word(xsdt, 44));
            let (fadt, madt) = (table(&tables, fadt), table(&tables, madt));
            let (facs, dsdt) = (word(fadt, 36), table(&tables, word(fadt, 40)));
            for (table, name) in [
                (xsdt, b"XSDT"),
                (fadt, b"FACP"),
                (madt, b"APIC"),
                (dsdt, b"DSDT"),
            ] {
                assert_eq!(&table[..4], name);
                assert!(adds_up(table), "{name:?}");
            }
            assert_eq!(facs % 64, 0);
            assert_eq!(&table(&tables, facs)[..4], b"FACS");
            let described = dsdt.windows(8).filter(|text| text == b"LNRO0005").count();
            assert_eq!(described, devices);
        }
    }
}
