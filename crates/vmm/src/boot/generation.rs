//! The VM generation ID (Microsoft, "Virtual Machine Generation ID"): 16 random bytes in guest
//! memory that differ in every clone, and an ACPI device that tells their address and, by the
//! doorbell interrupt, that they have changed. A kernel with a driver for it (Linux since 5.18)
//! then reseeds its random number generator. The kernel of this project has no ACPI.

use crate::memory::{GuestMemoryMmap, layout};
use acpi_tables::Aml;
use acpi_tables::aml::{Device, Interrupt, Method, Name, Notify, Package, Path, ResourceTemplate};
use hyperfork_api::Identity;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// The address of the ID: after the ACPI tables, in memory that no kernel allocates.
pub const ADDRESS: u64 = 0xf_0000;

/// Puts the machine's identifier there.
///
/// # Errors
/// When there is no such memory.
pub fn write(memory: &GuestMemoryMmap, identity: &Identity) -> Result<(), GuestMemoryError> {
    memory.write_slice(&identity.boot_id.into_bytes(), GuestAddress(ADDRESS))
}

/// The device with the address, and the one whose interrupt reports a change (ACPI 6.5, 5.6.9).
pub(super) fn devices() -> Vec<u8> {
    const HAS_CHANGED: u8 = 0x80;
    let mut devices = Vec::new();
    Device::new(
        "VGEN".into(),
        vec![
            &Name::new("_HID".into(), &"HYPF0001"),
            // The one of the two that fits into ACPI's limits, and the first there was.
            &Name::new(
                "_CID".into(),
                &Package::new(vec![&"VMGENCTR", &"VM_Gen_Counter"]),
            ),
            &Name::new("_DDN".into(), &"VM_Gen_Counter"),
            // The low half of the address and the high one.
            &Name::new("ADDR".into(), &Package::new(vec![&(ADDRESS as u32), &0u8])),
        ],
    )
    .to_aml_bytes(&mut devices);
    Device::new(
        "GED_".into(),
        vec![
            &Name::new("_HID".into(), &"ACPI0013"),
            &Name::new("_UID".into(), &0u8),
            &Name::new(
                "_CRS".into(),
                &ResourceTemplate::new(vec![&Interrupt::new(
                    true,
                    true,
                    false,
                    false,
                    layout::DOORBELL_IRQ,
                )]),
            ),
            &Method::new(
                "_EVT".into(),
                1,
                true,
                vec![&Notify::new(&Path::new("\\_SB_.VGEN"), &HAS_CHANGED)],
            ),
        ],
    )
    .to_aml_bytes(&mut devices);
    devices
}
