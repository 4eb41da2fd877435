//! Loads the embedded guest (crates/nano) into guest memory.

use super::kernel::load_embedded;
use super::{Boot, BootError, Entry};
use crate::memory::GuestMemoryMmap;
use crate::sys::memfd;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The guest as an ELF file, for the 64-bit boot protocol.
static ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/nano.elf"));

/// Puts the guest, boot parameters, MP and ACPI tables into guest memory.
///
/// # Errors
/// [`BootError::Read`] out of descriptors or memory; otherwise as
/// [`load_embedded`].
pub fn load(memory: &GuestMemoryMmap, boot: &Boot<'_>) -> Result<Entry, BootError> {
    let mut elf = elf().map_err(|source| BootError::Read {
        path: "the embedded guest".into(),
        source,
    })?;
    load_embedded(memory, &mut elf, boot)
}

/// The loader wants a file.
fn elf() -> io::Result<File> {
    let file = memfd::create("hyperfork-nano", ELF.len() as u64)?;
    file.write_all_at(ELF, 0)?;
    Ok(file)
}
