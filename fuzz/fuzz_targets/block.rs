//! A hostile driver against a disk, whose image is never changed.
//!
//! The first byte says whether the disk is read-only.
#![no_main]

use hyperfork_fuzz::{SCRATCH, Untouched};
use hyperfork_vmm::devices::virtio::block::Block;
use hyperfork_vmm::devices::virtio::block::base::Base;
use hyperfork_vmm::devices::virtio::block::overlays::Overlays;
use hyperfork_vmm::devices::virtio::hostile;
use libfuzzer_sys::fuzz_target;
use std::fs::File;
use std::sync::LazyLock;

/// An image of 1 MiB that is all zeroes, open for writing too.
static BASE: LazyLock<(File, Untouched)> = LazyLock::new(|| {
    let path = SCRATCH.path().join("image");
    let file = File::create_new(&path).expect("a file");
    file.set_len(1 << 20).expect("a length");
    let file = File::options()
        .read(true)
        .write(true)
        .open(&path)
        .expect("a file");
    (file, Untouched::new(&path).expect("a file"))
});

static OVERLAYS: LazyLock<Overlays> =
    LazyLock::new(|| Overlays::in_directory(SCRATCH.path()).expect("a thread"));

/// Headers of the six requests there are, and segments to discard and to zero:
/// of nothing, of little, of more than the disk has.
static REQUESTS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let kinds = [0u32, 1, 4, 8, 11, 13];
    let segments = [
        (0u64, 0u32, 0u32),
        (3, 9, 1),
        (8, 2048, 0),
        (u64::MAX, 1, 2),
    ];
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
    let read_only = script.first().is_some_and(|first| first % 4 == 0);
    let (image, untouched) = &*BASE;
    let base = image.try_clone().expect("a descriptor");
    let base = Base::raw(base).expect("an image");
    let block = Block::new(base, read_only, &OVERLAYS);
    hostile::drive_with_buffers(Box::new(block), &REQUESTS, script);
    untouched.check();
});
