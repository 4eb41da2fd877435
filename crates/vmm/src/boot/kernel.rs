//! Loads a kernel and its initrd into guest memory.

use super::{Boot, BootError, Entry, Loaded, acpi, cmdline, mptable, params};
use crate::kvm::HostKind;
use crate::memory::{GuestMemoryMmap, layout};
use linux_loader::loader::{BzImage, Elf, KernelLoader};
use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use vm_memory::{Bytes, GuestAddress};

/// Kernels go here or above.
const HIGH_MEMORY: u64 = 1 << 20;
/// Offset of the 64-bit entry point in a bzImage's protected-mode part.
const BZIMAGE_64_ENTRY: u64 = 0x200;
/// boot.rst, xloadflags bit 0.
const XLF_KERNEL_64: u16 = 1;
/// What a bzImage's own decompressor may need beyond its end before it has
/// read `init_size`.
const PAGE: u64 = 4096;

/// Puts kernel, initrd, boot parameters, MP and ACPI tables into guest memory.
///
/// # Errors
/// [`BootError`]: the files, their contents, or the guest's memory size.
pub fn load(
    memory: &GuestMemoryMmap,
    kernel: &Path,
    initrd: Option<&Path>,
    boot: &Boot<'_>,
) -> Result<Entry, BootError> {
    let read = |source| BootError::Read {
        path: kernel.to_owned(),
        source,
    };
    let mut file = File::open(kernel).map_err(read)?;
    let mut magic = [0; 4];
    file.read_exact(&mut magic)
        .map_err(|_| BootError::NotAKernel(kernel.to_owned()))?;
    file.rewind().map_err(read)?;
    let kernel = match &magic {
        b"\x7fELF" => load_elf(memory, &mut file, kernel, boot)?,
        _ => load_bzimage(memory, &mut file, kernel, boot)?,
    };
    let initrd = match initrd {
        None => None,
        Some(path) => Some(load_initrd(memory, path, kernel.end, boot.memory)?),
    };
    finish(memory, &kernel, initrd, boot)
}

/// Puts an ELF file that is embedded in the monitor into guest memory.
///
/// # Errors
/// [`BootError::TooLarge`] and memory errors.
pub fn load_embedded(
    memory: &GuestMemoryMmap,
    elf: &mut File,
    boot: &Boot<'_>,
) -> Result<Entry, BootError> {
    let kernel = load_elf(memory, elf, Path::new("the embedded guest"), boot)?;
    finish(memory, &kernel, None, boot)
}

fn finish(
    memory: &GuestMemoryMmap,
    kernel: &Loaded,
    initrd: Option<(u64, u64)>,
    boot: &Boot<'_>,
) -> Result<Entry, BootError> {
    if boot.cmdline.len() > cmdline::MAX {
        return Err(BootError::CommandLine {
            len: boot.cmdline.len(),
        });
    }
    if boot.cmdline.contains('\0') {
        return Err(BootError::ZeroByte);
    }
    params::write(memory, kernel, initrd, boot)?;
    mptable::write(memory, boot.cpus)?;
    acpi::write(memory, boot)?;
    Ok(Entry {
        address: kernel.entry,
    })
}

fn load_elf(
    memory: &GuestMemoryMmap,
    file: &mut File,
    path: &Path,
    boot: &Boot<'_>,
) -> Result<Loaded, BootError> {
    let size = file.metadata().map(|meta| meta.len()).unwrap_or(0);
    let loaded = Elf::load(memory, None, file, Some(GuestAddress(HIGH_MEMORY)))
        .map_err(|error| bad_kernel(path, size, error))?;
    let (entry, end) = (loaded.kernel_load.0, loaded.kernel_end);
    // With what it needs and does not bring, its .bss.
    if end > boot.memory.min(layout::HOLE_START) {
        return Err(BootError::TooLarge {
            what: "the kernel",
            size: end,
        });
    }
    if entry >= end {
        return Err(BootError::BadKernel {
            path: path.to_owned(),
            reason: "its entry point lies behind its end".to_owned(),
        });
    }
    Ok(Loaded {
        entry,
        end,
        header: None,
    })
}

fn load_bzimage(
    memory: &GuestMemoryMmap,
    file: &mut File,
    path: &Path,
    boot: &Boot<'_>,
) -> Result<Loaded, BootError> {
    use linux_loader::loader::{Error, bzimage};
    let size = file.metadata().map(|meta| meta.len()).unwrap_or(0);
    let start = GuestAddress(HIGH_MEMORY);
    let loaded = BzImage::load(memory, None, file, Some(start)).map_err(|error| match error {
        Error::Bzimage(bzimage::Error::InvalidBzImage) => BootError::NotAKernel(path.to_owned()),
        Error::Bzimage(bzimage::Error::ReadBzImageHeader) => BootError::NotAKernel(path.to_owned()),
        error => bad_kernel(path, size, error),
    })?;
    let header = loaded
        .setup_header
        .ok_or_else(|| BootError::NotAKernel(path.to_owned()))?;
    if header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(BootError::No64BitEntry(path.to_owned()));
    }
    if boot.host == HostKind::Pvm {
        return Err(BootError::CompressedOnPvm(path.to_owned()));
    }
    // The decompressor works from its load address up to init_size beyond where the
    // kernel prefers to be; nothing else may lie there.
    let start = header.pref_address.max(loaded.kernel_load.0);
    let end = end_of(start, header.init_size, boot.memory)?;
    Ok(Loaded {
        entry: loaded.kernel_load.0 + BZIMAGE_64_ENTRY,
        end,
        header: Some(header),
    })
}

/// Where a bzImage's kernel ends that works from `start` on; both are the file's word.
fn end_of(start: u64, init_size: u32, memory: u64) -> Result<u64, BootError> {
    let end = start.checked_add(init_size.into());
    end.filter(|&end| end <= memory.min(layout::HOLE_START))
        .ok_or(BootError::TooLarge {
            what: "the kernel",
            size: init_size.into(),
        })
}

/// As high as it fits below the hole, for the kernel unpacks upwards.
fn load_initrd(
    memory: &GuestMemoryMmap,
    path: &Path,
    kernel_end: u64,
    ram: u64,
) -> Result<(u64, u64), BootError> {
    let read = |source| BootError::Read {
        path: path.to_owned(),
        source,
    };
    let mut file = File::open(path).map_err(read)?;
    let size = file.metadata().map_err(read)?.len();
    let too_large = BootError::TooLarge {
        what: "the initrd",
        size,
    };
    let top = ram.min(layout::HOLE_START);
    let start = match top.checked_sub(size) {
        Some(start) => start & !(PAGE - 1),
        None => return Err(too_large),
    };
    if start < kernel_end {
        return Err(too_large);
    }
    memory.read_exact_volatile_from(GuestAddress(start), &mut file, size as usize)?;
    Ok((start, size))
}

fn bad_kernel(path: &Path, size: u64, error: linux_loader::loader::Error) -> BootError {
    use linux_loader::loader::{Error, elf};
    match error {
        Error::MemoryOverflow | Error::InvalidKernelStartAddress => BootError::TooLarge {
            what: "the kernel",
            size,
        },
        Error::Elf(elf::Error::ReadKernelImage) => BootError::BadKernel {
            path: path.to_owned(),
            reason: "it is truncated, or larger than the guest's memory".to_owned(),
        },
        error => BootError::BadKernel {
            path: path.to_owned(),
            reason: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests;
