use super::*;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::Driver;
use crate::sys::fds::FdTable;
use hyperfork_api::Bytes;

/// A machine's shape with one vCPU and so many devices of one ring.
fn shape(devices: usize) -> Shape {
    Shape {
        cpus: 1,
        memory: Bytes::mib(64),
        rings: vec![1; devices],
        net: None,
        shares: false,
    }
}

/// The state of a device that has served a request.
fn device() -> TransportState {
    let mut driver = Driver::start(Rng);
    driver.request(0, &[], &[8]);
    driver.lock().save(&mut FdTable::default()).unwrap()
}

#[test]
fn a_state_that_has_what_it_says_is_one() {
    assert_eq!(check(&shape(0), 1, &[]), Ok(()));
    assert_eq!(check(&shape(2), 1, &[device(), device()]), Ok(()));
}

#[test]
fn a_state_with_vcpus_missing_or_too_many_is_refused_by_name() {
    for found in [0, 2] {
        let refused = StateError::Vcpus { found, said: 1 };
        assert_eq!(check(&shape(0), found, &[]), Err(refused));
    }
    let none = Shape {
        cpus: 0,
        ..shape(0)
    };
    assert_eq!(check(&none, 0, &[]), Err(StateError::NoVcpu));
}

#[test]
fn a_state_with_devices_missing_or_too_many_is_refused_by_name() {
    let devices = [device(), device()];
    for said in [1, 3] {
        let refused = StateError::Devices { found: 2, said };
        assert_eq!(check(&shape(said), 1, &devices), Err(refused));
    }
}

#[test]
fn a_state_with_a_ring_missing_or_impossible_is_refused_by_name() {
    let refused = |change: fn(&mut TransportState)| {
        let mut second = device();
        change(&mut second);
        check(&shape(2), 1, &[device(), second])
    };
    assert_eq!(refused(|_| ()), Ok(()));
    let (slot, ring) = (1, 0);
    let missing = StateError::Rings {
        slot,
        found: 0,
        said: 1,
    };
    assert_eq!(refused(|state| state.queues.clear()), Err(missing));
    let impossible = Err(StateError::Ring { slot, ring });
    assert_eq!(refused(|state| state.queues[0].size = 0), impossible);
    assert_eq!(refused(|state| state.queues[0].size = 5), impossible);
    assert_eq!(refused(|state| state.queues[0].size = 1 << 16), impossible);
    // More used than there ever was.
    assert_eq!(refused(|state| state.queues[0].next_used += 1), impossible);
}
