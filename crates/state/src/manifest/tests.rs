use super::*;
use crate::devices::{self, DeviceKind};
use crate::{
    BlobRef, BlobRole, BlobSource, BootId, CheckError, CpuidLeaf, HostKind, goldens, seal,
};
use hyperfork_api::{Bytes, NetKind};
use proptest::prelude::*;
use std::path::Path;

/// Blobs of the sample, by their places in its table.
const BASE: u32 = 0;
const LAYER: u32 = 1;
const IMAGE: u32 = 2;
const OVERLAY: u32 = 3;
const SHARE: u32 = 4;

fn record(kind: &'static str, blobs: &[u32], bytes: &[u8]) -> Record {
    Record {
        kind: kind.into(),
        version: 1,
        blobs: blobs.iter().map(|&blob| BlobRef(blob)).collect(),
        bytes: bytes.to_vec(),
    }
}

fn device(kind: &DeviceKind, blobs: &[u32]) -> Device {
    Device {
        transport: record("virtio-mmio", &[], &[7; 40]),
        own: record(kind.name, blobs, kind.name.as_bytes()),
    }
}

/// A machine with one of each device.
fn sample() -> Manifest {
    let blob = |role, len, place| Blob {
        role,
        len,
        source: BlobSource::Table(place),
    };
    Manifest {
        host: HostFingerprint {
            kind: HostKind::Hardware,
            cpuid: vec![CpuidLeaf {
                function: 0xd,
                index: 1,
                answer: [0xf, 0x240, 0, 0],
            }],
            xcr0: 0xe7,
            tsc_khz: 2_400_000,
            boot: BootId("a5a3bb00-8dd0-4225-9dd3-d7d885bbbb14".to_owned()),
        },
        taken: Taken {
            monotonic_ns: 123_456_789_012,
            wall_ns: 1_790_000_000_123_456_789,
        },
        shape: Shape {
            cpus: 2,
            memory: Bytes::mib(128),
            rings: devices::IN_ORDER.iter().map(|kind| kind.rings).collect(),
            net: Some(NetKind::default()),
            shares: true,
        },
        vm: record("kvm-vm", &[], &[1; 300]),
        vcpus: vec![
            record("kvm-vcpu", &[], &[2; 300]),
            record("kvm-vcpu", &[], &[3; 300]),
        ],
        serial: record("serial-8250", &[], &[4; 10]),
        signal_port: record("signal-port", &[], &[5]),
        devices: vec![
            device(&devices::BLOCK, &[IMAGE, OVERLAY]),
            device(&devices::CONSOLE, &[]),
            device(&devices::VSOCK, &[]),
            device(&devices::RNG, &[]),
            device(&devices::BALLOON, &[]),
            device(&devices::NET, &[]),
            device(&devices::P9, &[SHARE]),
        ],
        ram: record("ram", &[BASE, LAYER], &[6; 64]),
        blobs: vec![
            blob(BlobRole::RamBase, 128 << 20, 4),
            blob(BlobRole::RamLayer, 40 << 10, 0),
            blob(BlobRole::DiskImage, 1 << 30, 1),
            blob(BlobRole::DiskLayer, 1 << 30, 2),
            blob(BlobRole::Directory, 0, 3),
        ],
    }
}

#[test]
fn a_manifest_is_its_golden_file() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens");
    let golden = goldens::golden(&directory, "manifest-v1.bin", &sample().encode());
    let read = Manifest::decode(&golden).unwrap();
    assert_eq!(read, sample());
    assert_eq!(read.check(), Ok(()));
}

#[test]
fn a_golden_file_is_compared_and_never_written_again() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens");
    let compared = std::panic::catch_unwind(|| {
        goldens::golden(&directory, "manifest-v1.bin", b"another form");
    });
    assert!(compared.is_err());
    let kept = std::fs::read(directory.join("manifest-v1.bin")).unwrap();
    assert!(kept == sample().encode());
}

#[test]
fn what_is_left_over_within_is_an_error() {
    let encoded = sample().encode();
    let mut body = encoded[HEADER..].to_vec();
    body.push(0);
    let left = Manifest::decode(&seal(&body)).unwrap_err();
    assert!(matches!(left, ManifestError::LeftOver(1)), "{left}");
    body.truncate(body.len() - 2);
    let cut = Manifest::decode(&seal(&body)).unwrap_err();
    assert!(matches!(cut, ManifestError::Malformed(_)), "{cut}");
}

/// What is said of a manifest that was changed.
fn refusal(change: impl FnOnce(&mut Manifest)) -> CheckError {
    let mut changed = sample();
    change(&mut changed);
    changed.check().unwrap_err()
}

#[test]
fn cpus_and_devices_are_as_many_as_the_shape_says() {
    let vcpus = |found| CheckError::Vcpus { found, said: 2 };
    assert_eq!(refusal(|it| drop(it.vcpus.pop())), vcpus(1));
    assert_eq!(refusal(|it| it.vcpus.push(it.vm.clone())), vcpus(3));
    let devices = |found| CheckError::Devices { found, said: 7 };
    assert_eq!(refusal(|it| drop(it.devices.pop())), devices(6));
    let none = refusal(|it| (it.shape.cpus, it.vcpus) = (0, Vec::new()));
    assert!(matches!(none, CheckError::Shape(_)), "{none}");
}

#[test]
fn devices_are_known_and_in_the_order_of_slots() {
    let unknown = refusal(|it| it.devices[3].own.kind = "virtio-gpu".into());
    let kind = "virtio-gpu".to_owned();
    assert_eq!(unknown, CheckError::UnknownDevice { slot: 3, kind });
    let order = refusal(|it| {
        it.devices.swap(1, 2);
        it.shape.rings.swap(1, 2);
    });
    let kind = devices::CONSOLE.name;
    assert_eq!(order, CheckError::Slot { slot: 2, kind });
    let twice = refusal(|it| {
        it.devices.push(device(&devices::NET, &[]));
        it.devices.swap(6, 7);
        it.shape.rings = vec![1, 2, 3, 1, 3, 2, 2, 1];
    });
    let kind = devices::NET.name;
    assert_eq!(twice, CheckError::Slot { slot: 6, kind });
    let said = 5;
    let rings = refusal(|it| it.shape.rings[2] = said);
    let (slot, kind) = (2, devices::VSOCK.name);
    assert_eq!(rings, CheckError::Rings { slot, kind, said });
    let kind = devices::NET.name;
    assert_eq!(
        refusal(|it| it.shape.net = None),
        CheckError::Around { kind }
    );
    let kind = devices::P9.name;
    assert_eq!(
        refusal(|it| it.shape.shares = false),
        CheckError::Around { kind }
    );
}

#[test]
fn there_can_be_many_disks_and_shared_directories() {
    let mut many = sample();
    let blobs = many.blobs.len() as u32;
    many.devices.insert(1, device(&devices::BLOCK, &[blobs]));
    many.shape.rings.insert(1, devices::BLOCK.rings);
    many.blobs.push(Blob {
        role: BlobRole::DiskImage,
        len: 1 << 20,
        source: BlobSource::Table(blobs),
    });
    assert_eq!(many.check(), Ok(()));
}

#[test]
fn each_blob_is_there_and_belongs_to_one_record() {
    let missing = refusal(|it| it.blobs.truncate(4));
    let (kind, blob, count) = (devices::P9.name.to_owned(), SHARE, 4);
    assert_eq!(missing, CheckError::NoBlob { kind, blob, count });
    let unused = refusal(|it| it.devices[0].own.blobs.truncate(1));
    assert_eq!(unused, CheckError::UnusedBlob(OVERLAY));
    let shared = refusal(|it| it.devices[0].own.blobs.push(BlobRef(IMAGE)));
    assert_eq!(shared, CheckError::SharedBlob(IMAGE));
    let role = refusal(|it| it.devices[0].own.blobs.push(BlobRef(BASE)));
    let wrong = CheckError::Role {
        kind: devices::BLOCK.name.to_owned(),
        blob: BASE,
        role: BlobRole::RamBase,
    };
    assert_eq!(role, wrong);
}

#[test]
fn blobs_are_found_in_as_many_places_as_there_are() {
    for place in [0, 5, u32::MAX] {
        let refused = refusal(|it| it.blobs[2].source = BlobSource::Table(place));
        assert_eq!(refused, CheckError::Source(2));
    }
}

#[test]
fn memory_has_the_size_that_it_says() {
    let said = 128 << 20;
    let found = Some(64 << 20);
    let small = refusal(|it| it.blobs[0].len = 64 << 20);
    assert_eq!(small, CheckError::Memory { found, said });
    let none = refusal(|it| it.blobs[0].role = BlobRole::RamLayer);
    assert_eq!(none, CheckError::Memory { found: None, said });
}

proptest! {
    #[test]
    fn mutated_bytes_are_never_a_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        len in any::<prop::sample::Index>(),
        cut in any::<bool>(),
        sealed in any::<bool>(),
    ) {
        let whole = sample().encode();
        // With a header that fits, or else nothing is read but that.
        let mut bytes = match sealed {
            true => whole[HEADER..].to_vec(),
            false => whole.clone(),
        };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cut {
            bytes.truncate(len.index(bytes.len()));
        }
        if sealed {
            bytes = seal(&bytes);
        }
        match Manifest::decode(&bytes) {
            Ok(manifest) => drop(manifest.check()),
            Err(error) => prop_assert!(sealed || !matches!(error, ManifestError::LeftOver(_))),
        }
    }
}
