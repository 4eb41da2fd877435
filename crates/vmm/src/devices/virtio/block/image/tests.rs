use super::*;
use crate::blobs::BlobWriter;
use crate::one_line;
use imago::file::File as Storage;
use imago::qcow2::Qcow2 as Library;
use imago::{DenyImplicitOpenGate, FormatAccess, StorageOpenOptions};
use imago::{FormatCreateBuilder, FormatDriverBuilder};
use proptest::prelude::*;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, symlink};
use std::path::PathBuf;
use tempfile::TempDir;

/// Bytes of the qcow2 images here.
const LEN: u64 = 1 << 20;

type Image = Library<Storage, FormatAccess<Storage>>;

/// A directory with images.
struct Images(TempDir);

impl Images {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        std::fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// A qcow2 image that holds `byte` in the 4 KiB clusters named, and lies on something.
    fn qcow2(&self, name: &str, on: Option<(&str, &str)>, byte: u8, clusters: &[u64]) -> PathBuf {
        let mut how = OpenOptions::new();
        how.read(true).write(true).create(true).truncate(true);
        let file = how.open(self.path(name)).unwrap();
        let options = StorageOpenOptions::new().write(true);
        let storage = Storage::from_open_file(file.try_clone().unwrap(), options.clone()).unwrap();
        let mut builder = Image::create_builder(storage).size(LEN).cluster_size(4096);
        if let Some((backing, format)) = on {
            builder = builder.backing(backing.to_owned(), format.to_owned());
        }
        builder.create().unwrap();
        let storage = Storage::from_open_file(file, options).unwrap();
        let image = Image::builder(storage).backing(None).write(true);
        let image = FormatAccess::new(image.open(DenyImplicitOpenGate::default()).unwrap());
        for cluster in clusters {
            image.write(&[byte; 4096][..], cluster << 12).unwrap();
        }
        image.flush().unwrap();
        self.path(name)
    }

    fn refused(&self, name: &str, format: Option<DiskFormat>) -> String {
        let error = open(&self.path(name), format).unwrap_err();
        let line = one_line(&error);
        assert!(!line.contains('\n') && line.contains(name), "{line}");
        line
    }
}

fn byte(base: &Base, at: u64) -> u8 {
    let mut byte = [0];
    base.read_at(at, &mut byte).unwrap();
    byte[0]
}

#[test]
fn an_image_has_the_format_that_it_seems_to_have_unless_one_is_given() {
    let images = Images::new();
    images.file("raw", &[7; 1024]);
    images.qcow2("qcow2", None, 9, &[0]);
    let (raw, qcow2) = (images.path("raw"), images.path("qcow2"));
    assert_eq!(byte(&open(&raw, None).unwrap(), 1000), 7);
    let image = open(&qcow2, None).unwrap();
    assert_eq!(
        (image.size(), byte(&image, 1000), byte(&image, 5000)),
        (LEN, 9, 0)
    );
    assert_eq!(byte(&open(&qcow2, Some(DiskFormat::Raw)).unwrap(), 0), b'Q');
    images.refused("raw", Some(DiskFormat::Qcow2));
}

#[test]
fn what_cannot_be_a_disk_is_refused_in_one_line() {
    let images = Images::new();
    let long = |mark: &[u8]| [mark, &[0; 1024][..]].concat();
    images.file("empty", b"");
    images.file("odd", &[1; 700]);
    images.file("vmdk", &long(b"KDMV"));
    images.file("gz", &long(&[0x1f, 0x8b]));
    images.file("garbage", &long(b"QFI\xfb and nothing that follows"));
    std::fs::create_dir(images.path("directory")).unwrap();
    rustix::fs::mkfifoat(CWD, images.path("pipe"), Mode::RWXU).unwrap();
    let huge = std::fs::File::create(images.path("huge")).unwrap();
    let grown = huge.set_len(16 << 40);
    for (name, word) in [
        ("missing", "cannot open"),
        ("empty", "is empty"),
        ("odd", "512"),
        ("vmdk", "qemu-img convert"),
        ("gz", "unpack"),
        ("garbage", "cannot be read as a qcow2 image"),
        ("directory", "cannot be a disk"),
        ("pipe", "cannot be a disk"),
    ] {
        let line = images.refused(name, None);
        assert!(line.contains(word), "{line}");
    }
    // Not every file system has files of this size.
    if grown.is_ok() {
        assert!(images.refused("huge", None).contains("the most"));
    }
}

#[test]
fn an_image_with_a_writer_is_refused_and_one_in_use_cannot_be_locked_for_writing() {
    let images = Images::new();
    images.file("disk", &[1; 1024]);
    let writer = || {
        OpenOptions::new()
            .read(true)
            .write(true)
            .open(images.path("disk"))
            .unwrap()
    };
    let lock_all = |file: &std::fs::File| {
        rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
    };

    let writing = writer();
    lock_all(&writing).unwrap();
    assert!(images.refused("disk", None).contains("in use"));
    drop(writing);

    // As QEMU does that writes to it.
    let qemu = writer();
    crate::sys::file_lock::share(&qemu, 101).unwrap();
    assert!(images.refused("disk", None).contains("in use"));
    drop(qemu);

    let one = open(&images.path("disk"), None).unwrap();
    let another = open(&images.path("disk"), None).unwrap();
    assert!(lock_all(&writer()).is_err());
    // QEMU checks whether a program does not share the permission to write.
    assert!(crate::sys::file_lock::is_locked(&writer(), 201).unwrap());
    drop(one);
    assert!(lock_all(&writer()).is_err());
    // A clone has it as long as it lives.
    let mut blobs = BlobWriter::default();
    let state = another.save(&mut blobs).unwrap();
    let clone = Base::restore(&state, blobs.reader()).unwrap();
    drop((another, blobs));
    assert!(lock_all(&writer()).is_err());
    drop(clone);
    lock_all(&writer()).unwrap();
}

#[test]
fn an_image_is_read_through_all_it_lies_on_also_by_a_clone() {
    let images = Images::new();
    images.file("bottom.raw", &[1; 512 << 10]);
    std::fs::create_dir(images.path("sub")).unwrap();
    images.qcow2(
        "sub/middle",
        Some(("../bottom.raw", "raw")),
        2,
        &[1, 2, 200],
    );
    let absolute = images.path("sub/middle");
    images.qcow2("top", Some((absolute.to_str().unwrap(), "qcow2")), 3, &[2]);
    let image = open(&images.path("top"), None).unwrap();
    let mut blobs = BlobWriter::default();
    let state = image.save(&mut blobs).unwrap();
    assert_eq!(blobs.reader().table().len(), 3);
    let clone = Base::restore(&state, blobs.reader()).unwrap();
    for image in [image, clone] {
        let found = [0, 1, 2, 3, 200, 210].map(|cluster| byte(&image, cluster << 12));
        assert_eq!(found, [1, 2, 3, 1, 2, 0]);
    }
}

#[test]
fn an_image_that_lies_on_what_it_must_not_is_refused() {
    let images = Images::new();
    let outside = Images::new();
    outside.file("secret", &[1; 1024]);
    let secret = outside.path("secret");
    let secret = secret.to_str().unwrap();
    symlink(secret, images.path("link")).unwrap();
    let up = format!(
        "../{}/secret",
        outside.0.path().file_name().unwrap().to_str().unwrap()
    );
    for (name, backing, format, word) in [
        ("escape1", secret, "raw", "not in its directory"),
        ("escape2", up.as_str(), "raw", "not in its directory"),
        ("escape3", "link", "raw", "not in its directory"),
        ("url", "nbd://host/export", "raw", "cannot open"),
        ("gone", "missing", "raw", "cannot open"),
        ("other", "link", "vmdk", "vmdk"),
        ("itself", "itself", "qcow2", "on it again"),
        ("ring1", "ring2", "qcow2", "on it again"),
    ] {
        images.qcow2(name, Some((backing, format)), 0, &[]);
        if name == "ring1" {
            images.qcow2("ring2", Some(("ring1", "qcow2")), 0, &[]);
        }
        let line = one_line(&open(&images.path(name), None).unwrap_err());
        assert!(line.contains(word), "{name}: {line}");
    }
    images.qcow2("deep0", None, 0, &[]);
    for depth in 1..9 {
        let below = format!("deep{}", depth - 1);
        images.qcow2(&format!("deep{depth}"), Some((&below, "qcow2")), 0, &[]);
    }
    assert!(open(&images.path("deep7"), None).is_ok());
    assert!(images.refused("deep8", None).contains("more than 7"));
}

#[test]
fn features_that_the_library_does_not_know_are_refused() {
    let images = Images::new();
    // The fields of the header: bytes of crypt_method, and bits of incompatible_features.
    for (at, value, word) in [
        (35, 1, "encrypted"),
        (79, 1 << 4, "feature"),
        (79, 1 << 3, "feature"),
        (79, 1 << 2, "another file"),
        (79, 1 << 1, "feature"),
        (7, 9, "not supported"),
        (23, 99, "luster size"),
    ] {
        let path = images.qcow2("image", None, 1, &[0]);
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&[value], at).unwrap();
        let line = images.refused("image", None);
        assert!(line.contains(word), "{at}: {line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_damaged_image_is_refused_or_read_somehow(
        damage in prop::collection::vec((0usize..24 << 10, any::<u8>()), 1..20),
        cut in prop::option::of(0u64..40 << 10),
    ) {
        let images = Images::new();
        let path = images.qcow2("image", None, 1, &[0, 5, 200]);
        let mut content = std::fs::read(&path).unwrap();
        for (at, byte) in damage {
            let at = at % content.len();
            content[at] = byte;
        }
        content.truncate(cut.unwrap_or(u64::MAX) as usize);
        std::fs::write(&path, content).unwrap();
        if let Ok(image) = open(&path, Some(DiskFormat::Qcow2)) {
            let mut buffer = vec![0; 4096];
            for at in (0..image.size().min(LEN)).step_by(4096) {
                let len = (image.size() - at).min(4096) as usize;
                let _ = image.read_at(at, &mut buffer[..len]);
            }
        }
    }
}
