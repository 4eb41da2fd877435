//! The VM generation identifier (Microsoft, "Virtual Machine Generation ID"): 16 random bytes
//! in guest memory that are others in every clone, and a device that says where and, by the
//! doorbell interrupt, when. Kernels with a driver for it (Linux has one since 5.18; our kernel has no ACPI)
//! start their random generator anew by themselves.

use crate::memory::{GuestMemoryMmap, layout};
use acpi_tables::Aml;
use acpi_tables::aml::{Device, Interrupt, Method, Name, Notify, Package, Path, ResourceTemplate};
use hyperfork_api::Identity;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

/// Where the identifier is: behind the tables, in memory that no guest takes for its own.
pub const ADDRESS: u64 = 0xf_0000;

/// Puts the machine's identifier there.
///
/// # Errors
/// When there is no such memory.
pub fn write(memory: &GuestMemoryMmap, identity: &Identity) -> Result<(), GuestMemoryError> {
    memory.write_slice(&identity.boot_id.into_bytes(), GuestAddress(ADDRESS))
}

/// The device with its address, and the one whose interrupt is the news (ACPI 6.5, 5.6.9).
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
