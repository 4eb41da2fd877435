//! Tests of kernel files that cannot be booted.

use super::*;
use std::io::Write;
use tempfile::NamedTempFile;

const MEMORY: u64 = 64 << 20;

fn boot(cmdline: &str) -> Boot<'_> {
    Boot {
        cmdline,
        cpus: 1,
        virtio_devices: 0,
        memory: MEMORY,
        host: HostKind::Hardware,
        seed: &[],
    }
}

fn load_bytes(kernel: &[u8], cmdline: &str) -> Result<Entry, BootError> {
    let memory = crate::memory::region::zeroed(&[(GuestAddress(0), MEMORY as usize)]);
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(kernel).unwrap();
    load(&memory, file.path(), None, &boot(cmdline))
}

/// An ELF file with one segment at 1 MiB, of 120 bytes in the file.
fn elf(entry: u64, bytes_in_memory: u64) -> Vec<u8> {
    let mut elf = vec![0; 120];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &entry.to_le_bytes());
    put(32, &64u64.to_le_bytes()); // e_phoff
    put(52, &[64, 0, 56, 0, 1, 0]); // e_ehsize, e_phentsize, e_phnum
    put(64, &[1]); // PT_LOAD
    put(88, &HIGH_MEMORY.to_le_bytes()); // p_paddr
    put(96, &120u64.to_le_bytes()); // p_filesz
    put(104, &bytes_in_memory.to_le_bytes()); // p_memsz
    elf
}

/// A bzImage of nothing.
fn bzimage(pref_address: u64, init_size: u32) -> Vec<u8> {
    let mut image = vec![0; 0x600];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // setup_sects
    put(0x1fe, &[0x55, 0xaa]); // boot_flag
    put(0x202, b"HdrS\x0f\x02"); // header, version
    put(0x211, &[1]); // loadflags: loaded high
    put(0x214, &(HIGH_MEMORY as u32).to_le_bytes()); // code32_start
    put(0x236, &XLF_KERNEL_64.to_le_bytes());
    put(0x258, &pref_address.to_le_bytes());
    put(0x260, &init_size.to_le_bytes());
    image
}

#[test]
fn an_elf_kernel_begins_within_itself_or_is_refused() {
    let entry = load_bytes(&elf(HIGH_MEMORY + 8, 4096), "").unwrap();
    assert_eq!(entry.address, HIGH_MEMORY + 8);
    for entry in [HIGH_MEMORY + 4096, MEMORY, u64::MAX] {
        let error = load_bytes(&elf(entry, 4096), "").unwrap_err();
        assert!(matches!(error, BootError::BadKernel { .. }), "{error}");
    }
}

#[test]
fn an_elf_kernel_that_needs_more_memory_than_there_is_is_refused() {
    let error = load_bytes(&elf(HIGH_MEMORY, MEMORY), "").unwrap_err();
    assert!(matches!(error, BootError::TooLarge { .. }), "{error}");
}

#[test]
fn a_bzimage_that_prefers_to_be_at_the_end_of_the_world_is_refused() {
    assert!(load_bytes(&bzimage(16 << 20, 1 << 20), "").is_ok());
    for (address, size) in [
        (u64::MAX, 1),
        (u64::MAX - 7, u32::MAX),
        (16 << 20, u32::MAX),
    ] {
        let error = load_bytes(&bzimage(address, size), "").unwrap_err();
        assert!(matches!(error, BootError::TooLarge { .. }), "{error}");
    }
}

#[test]
fn a_command_line_with_a_zero_byte_is_refused_and_not_cut() {
    assert!(load_bytes(&elf(HIGH_MEMORY, 4096), "root=/dev/vda").is_ok());
    let error = load_bytes(&elf(HIGH_MEMORY, 4096), "root=/dev/vda\0 ro").unwrap_err();
    assert!(matches!(error, BootError::ZeroByte), "{error}");
}
