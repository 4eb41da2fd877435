//! A hostile driver against a disk: `cargo +nightly fuzz run block`.
#![no_main]

use hyperfork_vmm::devices::virtio::block::Block;
use hyperfork_vmm::devices::virtio::block::base::Base;
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

/// Headers of the six requests there are, and segments to discard and to zero:
/// of nothing, of little, of more than the disk has.
static REQUESTS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let kinds = [0u32, 1, 4, 8, 11, 13];
    let segments = [(0u64, 0u32, 0u32), (3, 9, 1), (8, 2048, 0), (u64::MAX, 1, 2)];
    let headers = kinds.iter().zip([0u64, 7, 2047].into_iter().cycle());
    let headers = headers.flat_map(|(kind, sector)| {
        [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
    });
    let segments = segments.iter().flat_map(|(sector, sectors, flags)| {
        let (sector, sectors) = (sector.to_le_bytes(), sectors.to_le_bytes());
        [&sector[..], &sectors, &flags.to_le_bytes()].concat()
    });
    headers.chain(segments).collect()
});

fuzz_target!(|script: &[u8]| {
    // The first byte says what kind of disk.
    let read_only = script.first().is_some_and(|first| first % 4 == 0);
    let base = BASE.try_clone().expect("a descriptor");
    let base = Base::raw(base).expect("an image");
    let block = Block::new(base, read_only, &OVERLAYS);
    hostile::drive_with_buffers(Box::new(block), &REQUESTS, script);
});
