use super::*;
use crate::blobs::BlobWriter;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::Driver;

/// The state of a device that has served a request.
fn device() -> DeviceState {
    let mut driver = Driver::start(Rng);
    driver.request(0, &[], &[8]);
    driver.lock().save(&mut BlobWriter::default()).unwrap()
}

#[test]
fn devices_that_have_the_rings_of_the_shape_are_taken() {
    assert_eq!(check_rings(&[], &[]), Ok(()));
    assert_eq!(check_rings(&[1, 1], &[device(), device()]), Ok(()));
}

#[test]
fn a_state_with_a_ring_missing_or_impossible_is_refused_by_name() {
    let refused = |change: fn(&mut DeviceState)| {
        let mut second = device();
        change(&mut second);
        check_rings(&[1, 1], &[device(), second])
    };
    assert_eq!(refused(|_| ()), Ok(()));
    let (slot, ring) = (1, 0);
    let missing = RingError::Count {
        slot,
        found: 0,
        said: 1,
    };
    assert_eq!(
        refused(|state| state.transport.queues.clear()),
        Err(missing)
    );
    let impossible = Err(RingError::Impossible { slot, ring });
    assert_eq!(
        refused(|state| state.transport.queues[0].size = 0),
        impossible
    );
    assert_eq!(
        refused(|state| state.transport.queues[0].size = 5),
        impossible
    );
    assert_eq!(
        refused(|state| state.transport.queues[0].size = 1 << 16),
        impossible
    );
    // More used than there ever was.
    assert_eq!(
        refused(|state| state.transport.queues[0].next_used += 1),
        impossible
    );
}
