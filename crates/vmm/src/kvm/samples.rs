//! Sample states for tests, with a different value in every field.

use super::{Clocks, VcpuState, VmState};
use crate::sys::clock::Monotonic;
use hyperfork_state::Record;
use serde::de::DeserializeOwned;
use serde::de::value::{BytesDeserializer, Error};

/// One of KVM's structures, whose bytes count up from `first`.
fn structure<T: DeserializeOwned>(first: usize) -> T {
    let bytes: Vec<u8> = (first..first + size_of::<T>()).map(|it| it as u8).collect();
    T::deserialize(BytesDeserializer::<Error>::new(&bytes)).unwrap()
}

impl VmState {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            pic_master: structure(1),
            pic_slave: structure(2),
            ioapic: structure(3),
            pit: structure(4),
            clocks: Clocks {
                kvm_clock_ns: 5_000_000_000,
                host_tsc: 6_000_000_000_000,
                at: Monotonic::from_ns(7_000_000_000),
            },
        }
    }
}

impl VcpuState {
    /// For golden files: never changed.
    pub(crate) fn sample() -> Self {
        Self {
            regs: structure(1),
            sregs: structure(2),
            xsave: structure(3),
            xcrs: structure(4),
            debug_regs: structure(5),
            lapic: structure(6),
            msrs: vec![structure(7), structure(8)],
            tsc_offset: Some(9_000_000_000_000),
            events: structure(10),
            mp_state: structure(11),
        }
    }
}

#[test]
fn a_sample_is_read_as_it_was_written() {
    let record = Record::of(&VcpuState::sample());
    let read: VcpuState = record.decode().unwrap();
    assert_eq!(Record::of(&read), record);
    assert_eq!(read.regs, VcpuState::sample().regs);
}
