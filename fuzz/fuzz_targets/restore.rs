//! A device as it comes from another process, made again and driven: its state may say
//! anything.
//!
//! Its descriptors are those of a directory, an image, and a file that is not written to.
#![no_main]

use hyperfork_api::frame;
use hyperfork_fuzz::{SCRATCH, Untouched};
use hyperfork_state::BlobRole;
use hyperfork_vmm::blobs::BlobWriter;
use hyperfork_vmm::devices::virtio::VirtioDevice;
use hyperfork_vmm::devices::virtio::block::Block;
use hyperfork_vmm::devices::virtio::block::overlays::Overlays;
use hyperfork_vmm::devices::virtio::hostile;
use hyperfork_vmm::devices::virtio::p9::P9;
use hyperfork_vmm::devices::virtio::rng::Rng;
use hyperfork_vmm::devices::virtio::transport::TransportState;
use hyperfork_vmm::devices::virtio::vsock::Vsock;
use libfuzzer_sys::fuzz_target;
use std::fs::{self, File};
use std::sync::LazyLock;

const CID: u32 = 5;

struct Host {
    blobs: BlobWriter,
    overlays: Overlays,
    untouched: [Untouched; 3],
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let (root, image) = (SCRATCH.path().join("root"), SCRATCH.path().join("image"));
    fs::create_dir(&root).expect("a directory");
    fs::write(root.join("file"), "content").expect("a file");
    fs::write(&image, vec![0x11; 64 << 10]).expect("a file");
    let paths = [root.clone(), image, root.join("file")];
    let mut blobs = BlobWriter::default();
    for path in &paths {
        let file = File::open(path).expect("a file");
        blobs
            .put(file, BlobRole::DiskImage, 64 << 10)
            .expect("descriptors");
    }
    Host {
        blobs,
        overlays: Overlays::in_directory(SCRATCH.path()).expect("a thread"),
        untouched: paths.map(|path| Untouched::new(&path).expect("a file")),
    }
});

/// Which device, its transport, and its own part.
type Input = (u8, TransportState, Vec<u8>);

fuzz_target!(|bytes: &[u8]| {
    let Ok((choice, transport, own)) = frame::from_bytes::<Input>(bytes) else {
        return;
    };
    if let Some(device) = restored(choice, &own) {
        hostile::resume(device, &transport);
    }
    HOST.untouched.iter().for_each(Untouched::check);
});

/// The other devices keep nothing of their own, or what only a TAP has a use for.
fn restored(choice: u8, own: &[u8]) -> Option<Box<dyn VirtioDevice>> {
    let blobs = HOST.blobs.reader();
    Some(match choice % 4 {
        0 => Box::new(Rng::restore(&frame::from_bytes(own).ok()?)),
        1 => Box::new(Vsock::restore(CID, &frame::from_bytes(own).ok()?).ok()?.0),
        2 => Box::new(P9::restore(&frame::from_bytes(own).ok()?, blobs).ok()?),
        _ => {
            let state = frame::from_bytes(own).ok()?;
            Box::new(Block::restore(&state, blobs, &HOST.overlays).ok()?)
        }
    })
}
