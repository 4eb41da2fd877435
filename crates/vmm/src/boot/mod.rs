//! What a machine needs in memory and registers before its first instruction:
//! the 64-bit Linux boot protocol (Documentation/arch/x86/boot.rst, section 1.15),
//! an MP table (Intel MultiProcessor Specification 1.4), and ACPI tables.
//!
//! ```text
//! 0x0500  GDT                          0x7000  boot_params ("zero page")
//! 0x8ff0  stack, growing down          0x9000  page tables: the first 4 GiB, one to one
//! 0x10000 setup data                   0x20000 command line
//! 0x9fc00 MP table, up to 640 KiB
//! 0xe0000 ACPI tables                  1 MiB   kernel
//! end     initrd, as high below 3 GiB as it fits
//! ```

pub mod acpi;
pub mod cmdline;
pub mod entry;
pub mod generation;
pub mod kernel;
pub mod mptable;
pub mod nano;
mod params;

use crate::kvm::HostKind;
use std::io;
use std::path::PathBuf;
use vm_memory::GuestMemoryError;

/// Where the vCPUs begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The first instruction's address.
    pub address: u64,
}

/// Why a guest cannot be booted.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A file could not be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// It is neither an ELF file nor a bzImage.
    #[error("{0} is not a kernel: give an uncompressed ELF vmlinux or a bzImage")]
    NotAKernel(PathBuf),
    /// It looks like one, but is damaged or cut short.
    #[error("{path} is damaged or incomplete: {reason}")]
    BadKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The bzImage has no 64-bit entry point (boot.rst, XLF_KERNEL_64).
    #[error("{0} is a bzImage without a 64-bit entry point")]
    No64BitEntry(PathBuf),
    /// A compressed kernel on a host where decompressing takes minutes.
    #[error(
        "{0} is a compressed bzImage, which a PVM host cannot decompress in reasonable time: give the ELF vmlinux"
    )]
    CompressedOnPvm(PathBuf),
    /// Kernel or initrd do not fit.
    #[error(
        "{what} of {size} bytes does not fit into the guest's memory: give it more with --memory"
    )]
    TooLarge {
        /// What does not fit.
        what: &'static str,
        /// Its size.
        size: u64,
    },
    /// The command line is longer than the kernel reads.
    #[error("the kernel command line is {len} bytes long, over the limit of {max}", max = cmdline::MAX)]
    CommandLine {
        /// Its length.
        len: usize,
    },
    /// The kernel would read the command line only so far.
    #[error("the kernel command line has a zero byte")]
    ZeroByte,
    /// Guest memory could not be written.
    #[error("cannot write guest memory")]
    Memory(#[from] GuestMemoryError),
}

/// Everything the boot protocol wants to know.
#[derive(Debug)]
pub struct Boot<'a> {
    /// The whole command line.
    pub cmdline: &'a str,
    /// Virtual CPUs.
    pub cpus: u8,
    /// Virtio devices, in the first slots.
    pub virtio_devices: usize,
    /// Bytes of guest memory.
    pub memory: u64,
    /// The host, which decides what can be booted.
    pub host: HostKind,
    /// Randomness for the kernel's generator, so that it need not make its own.
    pub seed: &'a [u8],
}

/// A kernel in guest memory.
struct Loaded {
    /// Where its first instruction is.
    entry: u64,
    /// The first byte after it.
    end: u64,
    /// The header of a bzImage, to be handed on.
    header: Option<linux_loader::bootparam::setup_header>,
}
