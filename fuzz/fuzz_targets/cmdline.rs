//! A user's words for the kernel's command line, in machines of any shape: either the guest
//! finds them as they are, or it is not booted.
//!
//! The first bytes are the machine's shape.
#![no_main]

use hyperfork_vmm::boot::{Boot, cmdline, nano};
use hyperfork_vmm::kvm::HostKind;
use hyperfork_vmm::memory::GuestMemoryMmap;
use hyperfork_vmm::memory::layout;
use hyperfork_vmm::memory::region::zeroed;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;
use vm_memory::{Bytes, GuestAddress};

const MEMORY: u64 = 64 << 20;
/// Where `boot_params` lie, and in them the command line's address (boot.rst).
const PARAMS: u64 = 0x7000;
const CMD_LINE_PTR: u64 = 0x228;

static GUEST: LazyLock<GuestMemoryMmap> =
    LazyLock::new(|| zeroed(&[(GuestAddress(0), MEMORY as usize)]));

fuzz_target!(|input: &[u8]| {
    let Some(([choice, cpus, devices], words)) = input.split_first_chunk() else {
        return;
    };
    let Ok(words) = str::from_utf8(words) else {
        return;
    };
    let host = match choice % 2 {
        0 => HostKind::Hardware,
        _ => HostKind::Pvm,
    };
    let virtio_devices = usize::from(*devices) % (layout::VIRTIO_MAX + 1);
    let line = cmdline::linux(host, choice & 2 != 0, virtio_devices, words);
    assert!(line.ends_with(words));
    let boot = Boot {
        cmdline: &line,
        cpus: 1 + cpus % 8,
        virtio_devices,
        memory: MEMORY,
        host,
        seed: &[*choice; 32],
    };
    let Ok(entry) = nano::load(&GUEST, &boot) else {
        return;
    };
    assert!(entry.address < MEMORY);
    let at: u32 = GUEST
        .read_obj(GuestAddress(PARAMS + CMD_LINE_PTR))
        .expect("memory");
    let mut found = vec![0; line.len() + 1];
    GUEST
        .read_slice(&mut found, GuestAddress(at.into()))
        .expect("memory");
    let end = found.iter().position(|byte| *byte == 0).expect("an end");
    assert_eq!(&found[..end], line.as_bytes());
});
