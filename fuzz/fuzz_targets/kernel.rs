//! Any file as a kernel, ELF or bzImage, and any as its initrd.
//!
//! The first byte says what kind of host it is on, the next two how many of the last bytes
//! are the initrd.
#![no_main]

use hyperfork_sys::memfd;
use hyperfork_vmm::boot::{Boot, kernel};
use hyperfork_vmm::kvm::HostKind;
use hyperfork_vmm::memory::region::zeroed;
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use vm_memory::GuestAddress;

const MEMORY: u64 = 64 << 20;

fuzz_target!(|input: &[u8]| {
    let Some(([choice, low, high], files)) = input.split_first_chunk() else {
        return;
    };
    let len = usize::from(u16::from_le_bytes([*low, *high])).min(files.len());
    let (image, initrd) = files.split_at(files.len() - len);
    let (image, initrd) = (file(image), file(initrd));
    let memory = zeroed(&[(GuestAddress(0), MEMORY as usize)]);
    let boot = Boot {
        cmdline: "console=hvc0",
        cpus: 1,
        virtio_devices: 2,
        memory: MEMORY,
        host: match choice % 2 {
            0 => HostKind::Hardware,
            _ => HostKind::Pvm,
        },
        seed: &[7; 32],
    };
    let initrd = (choice & 2 != 0).then(|| path(&initrd));
    if let Ok(entry) = kernel::load(&memory, &path(&image), initrd.as_deref(), &boot) {
        assert!(entry.address < MEMORY, "the first instruction is in memory");
    }
});

fn file(content: &[u8]) -> File {
    let file = memfd::create("file", 0).expect("memory");
    file.write_all_at(content, 0).expect("memory");
    file
}

fn path(file: &File) -> PathBuf {
    format!("/proc/self/fd/{}", file.as_raw_fd()).into()
}
