//! A hostile driver against a disk: `cargo +nightly fuzz run block`.
#![no_main]

use hyperfork_vmm::devices::virtio::block::Block;
use hyperfork_vmm::devices::virtio::block::overlays::Overlays;
use hyperfork_vmm::devices::virtio::hostile;
use libfuzzer_sys::fuzz_target;
use std::env;
use std::fs::File;
use std::sync::LazyLock;

/// A base image of 1 MiB that is all zeroes. No target ever changes it.
static BASE: LazyLock<File> = LazyLock::new(|| {
    let file = tempfile::tempfile().expect("a temporary file");
    file.set_len(1 << 20).expect("a length");
    file
});

static OVERLAYS: LazyLock<Overlays> =
    LazyLock::new(|| Overlays::in_directory(&env::temp_dir()).expect("a thread"));

fuzz_target!(|script: &[u8]| {
    let base = BASE.try_clone().expect("a descriptor");
    let block = Block::new(base, false, &OVERLAYS).expect("a disk");
    hostile::drive(Box::new(block), script);
});
