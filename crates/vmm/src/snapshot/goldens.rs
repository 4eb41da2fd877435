//! Golden files: the encoding of every record, and of a whole machine, from when their versions
//! were introduced.

use super::*;
use crate::devices::virtio::balloon::BalloonState;
use crate::devices::virtio::block::BlockState;
use crate::devices::virtio::console::ConsoleState;
use crate::devices::virtio::net::NetState;
use crate::devices::virtio::p9::P9State;
use crate::devices::virtio::rng::RngState;
use crate::devices::virtio::transport::TransportState;
use crate::devices::virtio::vsock::VsockState;
use hyperfork_api::{Bytes, NetKind};
use hyperfork_state::devices::{self, DeviceKind};
use hyperfork_state::goldens::{check_record, check_variant, golden};
use hyperfork_state::{BlobRole, BlobSource, BootId, CpuidLeaf, HostKind, seal};
use proptest::prelude::*;
use std::path::{Path, PathBuf};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens")
}

#[test]
fn every_record_is_its_golden_file() {
    let directory = &directory();
    check_record(directory, &VmState::sample());
    check_record(directory, &VcpuState::sample());
    check_record(directory, &SerialState::sample());
    check_record(directory, &SignalPortState(0x0102_0304));
    check_record(directory, &TransportState::sample(2));
    check_record(directory, &BlockState::sample());
    check_variant(directory, "-on-qcow2", &BlockState::sample_of_qcow2());
    check_record(directory, &ConsoleState);
    check_record(directory, &VsockState::sample());
    check_record(directory, &RngState);
    check_record(directory, &BalloonState);
    check_record(directory, &NetState::sample());
    check_record(directory, &P9State::sample());
    check_record(directory, &RamImageState::sample());
}

/// A device whose own part is `own`.
fn device(kind: &DeviceKind, own: &impl RecordType) -> DeviceState {
    DeviceState {
        transport: TransportState::sample(kind.rings),
        own: Record::of(own),
    }
}

/// A machine that has one of each device. Its blobs are in the order in which its records
/// have them, but for the last one.
fn sample() -> MachineState {
    let blobs = [
        (BlobRole::RamBase, 64 << 20),
        (BlobRole::RamLayer, 2 << 20),
        (BlobRole::RamLayer, 0x2000),
        (BlobRole::DiskImage, 5 << 30),
        (BlobRole::DiskImage, 1 << 30),
    ];
    let blobs = blobs.into_iter().zip(0..).map(|((role, len), place)| Blob {
        role,
        len,
        source: BlobSource::Table(place),
    });
    MachineState {
        host: Arc::new(HostFingerprint {
            kind: HostKind::Pvm,
            cpuid: vec![CpuidLeaf {
                function: 1,
                index: 0,
                answer: [0x00b4_0f40, 0x0800, 0x8020_0000, 0x0178_bfff],
            }],
            xcr0: 0xe7,
            tsc_khz: 2_596_122,
            boot: BootId("a5a3bb00-8dd0-4225-9dd3-d7d885bbbb14".to_owned()),
        }),
        taken: Taken {
            monotonic_ns: 7_000_000_000,
            wall_ns: 1_790_000_000_000_000_000,
        },
        shape: Shape {
            cpus: 2,
            memory: Bytes::mib(64),
            rings: [
                devices::BLOCK,
                devices::CONSOLE,
                devices::VSOCK,
                devices::RNG,
                devices::BALLOON,
                devices::NET,
            ]
            .map(|kind| kind.rings)
            .to_vec(),
            net: Some(NetKind::default()),
            shares: false,
        },
        vm: VmState::sample(),
        vcpus: vec![VcpuState::sample(), VcpuState::sample()],
        serial: SerialState::sample(),
        signal_port: SignalPortState(0),
        devices: vec![
            device(&devices::BLOCK, &BlockState::sample_of_qcow2()),
            device(&devices::CONSOLE, &ConsoleState),
            device(&devices::VSOCK, &VsockState::sample()),
            device(&devices::RNG, &RngState),
            device(&devices::BALLOON, &BalloonState),
            device(&devices::NET, &NetState::sample()),
        ],
        ram: RamImageState::sample(),
        blobs: blobs.collect(),
    }
}

#[test]
fn a_whole_machine_is_its_golden_file() {
    let golden = golden(&directory(), "machine-v1.bin", &sample().encode());
    let read = MachineState::decode(&golden).unwrap();
    assert!(read.encode() == golden, "it is read as another machine");
}

#[test]
fn a_machine_that_does_not_fit_itself_is_not_decoded() {
    let refusal = |change: fn(&mut MachineState)| {
        let mut state = sample();
        change(&mut state);
        MachineState::decode(&state.encode()).unwrap_err()
    };
    let missing = refusal(|state| state.vcpus.truncate(1));
    assert!(matches!(missing, DecodeError::Check(_)), "{missing}");
    let unused = refusal(|state| state.blobs.push(state.blobs[4]));
    assert!(matches!(unused, DecodeError::Check(_)), "{unused}");
    let mut state = sample();
    state.devices[0].transport.queues.clear();
    let (slot, found, said) = (0, 0, 1);
    let missing = RingError::Count { slot, found, said };
    let refused = MachineState::decode(&state.encode()).unwrap_err();
    assert!(
        matches!(&refused, DecodeError::Rings(error) if *error == missing),
        "{refused}"
    );
}

#[test]
fn a_record_of_another_version_or_kind_is_named() {
    let refusal = |change: fn(&mut Manifest)| {
        let mut manifest = Manifest::decode(&sample().encode()).unwrap();
        change(&mut manifest);
        let error = MachineState::decode(&manifest.encode()).unwrap_err();
        error.to_string()
    };
    let newer = refusal(|manifest| manifest.vcpus[1].version = 2);
    assert_eq!(
        newer,
        "this program reads kvm-vcpu records of version 1, not 2"
    );
    let other = refusal(|manifest| manifest.vm.kind = "kvm-arm".into());
    assert!(other.contains("kvm-arm"), "{other}");
}

proptest! {
    #[test]
    fn mutated_bytes_are_never_a_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        // Behind the header, and with another that fits: else nothing is read but that.
        const HEADER: usize = 24;
        let mut bytes = sample().encode().split_off(HEADER);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(at) = cut {
            bytes.truncate(at.index(bytes.len()));
        }
        if let Ok(state) = MachineState::decode(&seal(&bytes)) {
            for device in &state.devices {
                let _ = device.own.decode::<BlockState>();
                let _ = device.own.decode::<VsockState>();
                let _ = device.own.decode::<NetState>();
            }
        }
    }
}
