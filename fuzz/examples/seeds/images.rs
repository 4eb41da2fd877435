//! Kernels and disk images.

use crate::{ROOT, keep};
use imago::StorageOpenOptions;
use imago::file::File as Storage;
use imago::qcow2::Qcow2;
use imago::{DenyImplicitOpenGate, FormatAccess, FormatCreateBuilder, FormatDriverBuilder};
use std::fs::{self, OpenOptions};
use std::path::Path;

/// Headers with little behind them.
pub(crate) fn kernels() {
    let mut elf = vec![0; 120];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &[2, 0, 62, 0, 1, 0, 0, 0]);
    put(24, &(1u64 << 20).to_le_bytes()); // e_entry
    put(32, &64u64.to_le_bytes()); // e_phoff
    put(52, &[64, 0, 56, 0, 1, 0]); // e_ehsize, e_phentsize, e_phnum
    put(64, &[1, 0, 0, 0, 5, 0, 0, 0]); // PT_LOAD
    for (at, value) in [
        (72, 0),
        (80, 1 << 20),
        (88, 1 << 20),
        (96, 120u64),
        (104, 4096),
    ] {
        put(at, &value.to_le_bytes());
    }
    keep("kernel", "elf", &[&[0, 0, 0], &elf[..]].concat());
    keep(
        "kernel",
        "elf-initrd",
        &[&[2, 5, 0], &elf[..], b"070701"].concat(),
    );

    let mut image = vec![0; 0x600];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[1]); // setup_sects
    put(0x1fe, &[0x55, 0xaa]); // boot_flag
    put(0x202, b"HdrS\x0f\x02"); // header, version
    put(0x211, &[1]); // loadflags: loaded high
    put(0x214, &(1u32 << 20).to_le_bytes()); // code32_start
    put(0x236, &[1, 0]); // xloadflags: 64-bit entry
    put(0x258, &(16u64 << 20).to_le_bytes()); // pref_address
    put(0x260, &(1u32 << 20).to_le_bytes()); // init_size
    keep("kernel", "bzimage", &[&[0, 0, 0], &image[..]].concat());
}

/// Images of 512-byte clusters, by the library that reads them.
pub(crate) fn qcow2() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, backing) in [
        ("plain", None),
        ("on-raw", Some(("raw", "raw"))),
        ("on-qcow2", Some(("qcow2", "qcow2"))),
        ("on-itself", Some(("image", "qcow2"))),
        ("on-secret", Some(("out", "raw"))),
    ] {
        let path = dir.path().join(name);
        write_qcow2(&path, backing);
        let content = fs::read(&path).expect("a file");
        if name == "plain" {
            fs::write(format!("{ROOT}/seeds/plain.qcow2"), &content).expect("a file");
        }
        keep("qcow2", name, &content);
    }
}

fn write_qcow2(path: &Path, backing: Option<(&str, &str)>) {
    type Image = Qcow2<Storage, FormatAccess<Storage>>;
    let mut how = OpenOptions::new();
    let file = how
        .read(true)
        .write(true)
        .create(true)
        .open(path)
        .expect("a file");
    let options = StorageOpenOptions::new().write(true);
    let storage =
        || Storage::from_open_file(file.try_clone().expect("a descriptor"), options.clone());
    let builder = Image::create_builder(storage().expect("a file"));
    let mut builder = builder.size(64 << 10).cluster_size(512);
    if let Some((backing, format)) = backing {
        builder = builder.backing(backing.to_owned(), format.to_owned());
    }
    builder.create().expect("an image");
    let image = Image::builder(storage().expect("a file"))
        .backing(None)
        .write(true);
    let image = FormatAccess::new(
        image
            .open(DenyImplicitOpenGate::default())
            .expect("an image"),
    );
    image.write(&[9; 1024][..], 0).expect("room");
    image.flush().expect("room");
}
