//! A device as it comes from another process, made again and driven: its state may say
//! anything.
//!
//! Its descriptors are those of a directory, an image, and a file to which nobody writes.
#![no_main]

use hyperfork_api::frame;
use hyperfork_fuzz::{SCRATCH, Untouched};
use hyperfork_vmm::devices::virtio::block::Block;
use hyperfork_vmm::devices::virtio::block::overlays::Overlays;
use hyperfork_vmm::devices::virtio::hostile;
use hyperfork_vmm::devices::virtio::p9::P9;
use hyperfork_vmm::devices::virtio::rng::Rng;
use hyperfork_vmm::devices::virtio::transport::TransportState;
use hyperfork_vmm::devices::virtio::vsock::Vsock;
use hyperfork_vmm::devices::virtio::{DeviceState, VirtioDevice};
use hyperfork_sys::fds::FdTable;
use libfuzzer_sys::fuzz_target;
use std::fs::{self, File};
use std::sync::LazyLock;

const CID: u32 = 5;

struct Host {
    fds: FdTable,
    overlays: Overlays,
    untouched: [Untouched; 3],
}

static HOST: LazyLock<Host> = LazyLock::new(|| {
    let (root, image) = (SCRATCH.path().join("root"), SCRATCH.path().join("image"));
    fs::create_dir(&root).expect("a directory");
    fs::write(root.join("file"), "content").expect("a file");
    fs::write(&image, vec![0x11; 64 << 10]).expect("a file");
    let paths = [root.clone(), image, root.join("file")];
    let mut fds = FdTable::default();
    for path in &paths {
        fds.push(File::open(path).expect("a file"))
            .expect("descriptors");
    }
    Host {
        fds,
        overlays: Overlays::in_directory(SCRATCH.path()).expect("a thread"),
        untouched: paths.map(|path| Untouched::new(&path).expect("a file")),
    }
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(state) = frame::from_bytes::<TransportState>(bytes) else {
        return;
    };
    let device: Option<Box<dyn VirtioDevice>> = match &state.device {
        DeviceState::Block(state) => Block::restore(state, &HOST.fds, &HOST.overlays)
            .ok()
            .map(|block| Box::new(block) as _),
        DeviceState::P9(state) => P9::restore(state, &HOST.fds)
            .ok()
            .map(|p9| Box::new(p9) as _),
        DeviceState::Rng(state) => Some(Box::new(Rng::restore(state))),
        DeviceState::Vsock(state) => Vsock::restore(CID, state)
            .ok()
            .map(|(vsock, _)| Box::new(vsock) as _),
        // These keep nothing of their own, or what only a TAP has a use for.
        _ => None,
    };
    if let Some(device) = device {
        hostile::go_on(device, &state);
    }
    HOST.untouched.iter().for_each(Untouched::check);
});
