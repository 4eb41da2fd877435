//! Any file as a qcow2 image: header, tables, and what it lies on.
//!
//! It has siblings that it may name: a raw image `raw`, a qcow2 image `qcow2`, the file itself
//! as `image`, and a link `out` to a file that is not of its directory.
#![no_main]

use hyperfork_api::spec::DiskFormat;
use hyperfork_fuzz::{SCRATCH, Untouched};
use hyperfork_vmm::blobs::BlobWriter;
use hyperfork_vmm::devices::virtio::block::base::Base;
use hyperfork_vmm::devices::virtio::block::image;
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::LazyLock;

/// What no image may make the monitor read.
const SECRET: &[u8; 16] = b"not for a guest!";

/// As an image of this format the raw one is 64 KiB long.
const RAW: usize = 64 << 10;

struct Images {
    image: PathBuf,
    siblings: [Untouched; 3],
}

static IMAGES: LazyLock<Images> = LazyLock::new(|| {
    let dir = SCRATCH.path().join("images");
    fs::create_dir(&dir).expect("a directory");
    let secret = SCRATCH.path().join("secret");
    let (raw, qcow2) = (dir.join("raw"), dir.join("qcow2"));
    fs::write(&secret, SECRET.repeat(256)).expect("a file");
    fs::write(&raw, vec![0x11; RAW]).expect("a file");
    fs::write(&qcow2, include_bytes!("../seeds/plain.qcow2")).expect("a file");
    symlink(&secret, dir.join("out")).expect("a link");
    Images {
        siblings: [raw, qcow2, secret].map(|path| Untouched::new(&path).expect("a file")),
        image: dir.join("image"),
    }
});

fuzz_target!(|content: &[u8]| {
    let path = &IMAGES.image;
    fs::write(path, content).expect("a file");
    let itself = Untouched::new(path).expect("a file");
    if let Ok(base) = image::open(path, Some(DiskFormat::Qcow2)) {
        let read = read_all(&base);
        let mut blobs = BlobWriter::default();
        let state = base.save(&mut blobs).expect("descriptors");
        let clone = Base::restore(&state, blobs.reader()).expect("it was saved");
        assert!(read == read_all(&clone), "a clone reads the same");
    }
    itself.check();
    IMAGES.siblings.iter().for_each(Untouched::check);
});

/// The first and the last of it, as far as it can be read.
fn read_all(base: &Base) -> Vec<Option<Vec<u8>>> {
    const PIECE: u64 = 4096;
    const PIECES: u64 = 32;
    let pieces = base.size().div_ceil(PIECE);
    let first = 0..pieces.min(PIECES);
    let last = pieces.saturating_sub(PIECES).max(first.end)..pieces;
    first
        .chain(last)
        .map(|piece| {
            let at = piece * PIECE;
            let mut buffer = vec![0; PIECE.min(base.size() - at) as usize];
            base.read_at(at, &mut buffer).ok()?;
            let is_secret = buffer.windows(SECRET.len()).any(|part| part == SECRET);
            assert!(
                !is_secret,
                "a file that is not of the image's directory is read"
            );
            Some(buffer)
        })
        .collect()
}
