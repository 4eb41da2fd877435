use super::*;
use crate::bus::BusDevice;
use crate::devices::virtio::DeviceState;
use crate::devices::virtio::rng::{Rng, RngState};
use crate::devices::virtio::testing::*;
use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

/// Bytes of guest memory.
const MEMORY: u64 = 2 << 20;
const READY: u64 = 0x44;
const USED: (u64, u32) = (1, INTERRUPT_USED);
const NONE: (u64, u32) = (0, 0);

/// A driver that has not said anything yet.
fn fresh() -> Driver {
    let memory = crate::memory::region::zeroed(&[(GuestAddress(0), MEMORY as usize)]);
    let memory = Arc::new(memory);
    Driver::with(
        MmioTransport::new(Box::new(Rng), Lines::new(1).unwrap(), memory.clone()).unwrap(),
        memory,
    )
}

fn with_features(features: u64) -> Driver {
    let driver = fresh();
    driver.write(STATUS, ACKNOWLEDGE | DRIVER);
    driver.accept_features(features);
    driver.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    driver
}

fn negotiated() -> Driver {
    with_features(1 << 32)
}

#[test]
fn a_driver_finds_a_device_of_version_2() {
    let driver = fresh();
    assert_eq!(driver.read(0), 0x7472_6976);
    assert_eq!(driver.read(4), 2);
    assert_eq!(driver.read(8), 4, "an entropy source");
    driver.write(0x30, 0);
    assert_eq!(driver.read(0x34), 64);
    driver.write(0x30, 1);
    assert_eq!(driver.read(0x34), 0, "there is one ring only");
    assert_eq!(driver.read(0xb0), u32::MAX, "no shared memory");
}

#[test]
fn features_that_were_not_offered_are_not_agreed_upon() {
    let agreed = |features| with_features(features).read(STATUS) & FEATURES_OK != 0;
    assert!(agreed(1 << 32));
    assert!(agreed(1 << 32 | EVENT_IDX));
    assert!(!agreed(1 << 32 | 1 << 34), "packed rings");
    assert!(!agreed(EVENT_IDX), "a legacy driver");
}

#[test]
fn features_stay_as_agreed() {
    let driver = negotiated();
    driver.accept_features(u64::MAX);
    assert_eq!(driver.lock().registers.driver_features, 1 << 32);
}

#[test]
fn a_driver_that_skips_the_features_is_not_ok() {
    let driver = fresh();
    driver.write(STATUS, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    assert_eq!(driver.read(STATUS), ACKNOWLEDGE | DRIVER);
}

#[test]
fn a_ring_that_the_specification_forbids_does_not_become_ready() {
    let becomes_ready = |size: u32, base: u64, high: u32| {
        let driver = negotiated();
        driver.set_up_ring(0, size, base);
        driver.write(0xa4, high);
        driver.write(READY, 1);
        driver.read(READY) == 1
    };
    assert!(becomes_ready(16, 0x1000, 0));
    assert!(becomes_ready(64, 0x1000, 0));
    for size in [0, 3, 65, 128, 1 << 16, u32::MAX] {
        assert!(!becomes_ready(size, 0x1000, 0), "{size} entries");
    }
    for base in [
        0x1004,
        0x1001,
        MEMORY - 0x800,
        MEMORY,
        1 << 40,
        u64::MAX - 0xfff,
    ] {
        assert!(!becomes_ready(16, base, 0), "at {base:#x}");
    }
    assert!(!becomes_ready(16, 0x1000, 1), "used ring at 4 GiB");
    assert!(
        !becomes_ready(16, u64::MAX - 0x3ff, 0),
        "available ring at 0"
    );
}

#[test]
fn a_ready_ring_cannot_be_moved() {
    let driver = negotiated();
    driver.set_up_ring(0, 16, 0x1000);
    driver.write(READY, 1);
    driver.set_up_ring(0, 8, 0x4000);
    let ring = driver.lock().ring_states()[0];
    assert_eq!((ring.size, ring.desc), (16, 0x1000));
}

#[test]
fn no_buffer_is_used_before_the_driver_is_ok() {
    let mut driver = negotiated();
    driver.set_up_ring(0, RING_SIZE.into(), ring_base(0));
    driver.write(READY, 1);
    driver.offer(0, &[], &[16]);
    driver.lock().process_queue(0);
    assert_eq!(driver.take_used(0), None);
    driver.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    driver.lock().process_queue(0);
    assert!(driver.take_used(0).is_some());
}

#[test]
fn a_driver_that_notifies_before_it_is_ok_is_not_forgotten() {
    let mut driver = negotiated();
    driver.set_up_ring(0, RING_SIZE.into(), ring_base(0));
    driver.write(READY, 1);
    driver.offer(0, &[], &[16]);
    driver.write(0x50, 0);
    driver.lock().take_queue_event(0);
    driver.lock().process_queue(0);
    driver.write(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(driver.lock().queue_event(0).read().unwrap(), 1);
}

#[test]
fn a_used_buffer_interrupts_and_the_driver_acknowledges() {
    let mut driver = Driver::start(Rng);
    driver.request(0, &[], &[16]);
    assert_eq!(driver.interrupts(), USED);
    driver.write(0x64, INTERRUPT_USED);
    assert_eq!(driver.interrupts(), NONE);
}

#[test]
fn a_driver_that_asks_for_a_later_entry_is_not_interrupted_before() {
    let mut driver = Driver::start(Rng);
    driver.set_used_event(0, 2);
    driver.request(0, &[], &[16]);
    driver.request(0, &[], &[16]);
    assert_eq!(driver.interrupts(), NONE);
    driver.request(0, &[], &[16]);
    assert_eq!(driver.interrupts(), USED);
}

#[test]
fn without_event_idx_every_used_buffer_interrupts() {
    let mut driver = Driver::start_without(Rng, EVENT_IDX);
    driver.set_used_event(0, 2);
    driver.request(0, &[], &[16]);
    assert_eq!(driver.interrupts(), USED);
}

#[test]
fn the_driver_has_to_notify_about_the_next_buffer_after_all_were_used() {
    let mut driver = Driver::start(Rng);
    for _ in 0..100 {
        driver.offer(0, &[], &[16]);
        assert!(driver.must_notify(0, 1));
        driver.lock().process_queue(0);
        assert!(driver.take_used(0).is_some());
        driver.lock().process_queue(0);
    }
}

#[test]
fn a_notification_by_register_reaches_the_ring_s_event() {
    let driver = Driver::start(Rng);
    driver.lock().take_queue_event(0);
    driver.write(0x50, 0);
    assert_eq!(driver.lock().queue_event(0).read().unwrap(), 1);
    driver.write(0x50, 1);
    driver.write(0x50, u32::MAX);
}

#[test]
fn an_impossible_available_index_needs_a_reset_and_a_reset_helps() {
    let mut driver = Driver::start(Rng);
    driver
        .memory
        .write_obj(17u16, GuestAddress(ring_base(0) + 0x402))
        .unwrap();
    driver.lock().process_queue(0);
    assert_ne!(driver.read(STATUS) & NEEDS_RESET, 0);
    assert_eq!(driver.interrupts(), (1, INTERRUPT_CONFIG));

    driver.offer(0, &[], &[16]);
    driver.lock().process_queue(0);
    assert_eq!(driver.take_used(0), None, "its rings are left alone");

    driver.write(STATUS, 0);
    assert_eq!(driver.read(STATUS), 0);
    assert_eq!(driver.read(0x60), 0);
    driver.write(0x30, 0);
    assert_eq!(driver.read(READY), 0);
}

#[test]
fn a_buffer_outside_of_memory_needs_a_reset() {
    let mut driver = Driver::start(Rng);
    driver.write_descriptor(0, 0, u64::MAX - 8, 16, 2, 0);
    driver.offer_head(0, 0);
    driver.lock().process_queue(0);
    assert_ne!(driver.read(STATUS) & NEEDS_RESET, 0);
}

#[test]
fn a_restored_device_goes_on_where_its_parent_stood_and_the_parent_does_too() {
    let mut parent = Driver::start(Rng);
    parent.request(0, &[], &[16]);
    // In the ring, but the device has not looked.
    let offered = parent.offer(0, &[], &[16]);
    let state = parent.lock().save(&mut FdTable::default()).unwrap();
    let mut clone = parent.clone_into(Rng::restore(&RngState), &state);
    assert_eq!(clone.read(STATUS), parent.read(STATUS));

    for driver in [&mut parent, &mut clone] {
        driver.lock().resume();
        assert_eq!(driver.take_used(0), Some((offered.head, 16)));
        driver.request(0, &[], &[16]);
    }
    assert_ne!(
        parent.contents(&offered),
        clone.contents(&offered),
        "each its own entropy"
    );
}

#[test]
fn an_interrupt_that_was_not_acknowledged_is_raised_again_in_the_clone() {
    let mut parent = Driver::start(Rng);
    parent.request(0, &[], &[16]);
    let state = parent.lock().save(&mut FdTable::default()).unwrap();
    let clone = parent.clone_into(Rng, &state);
    assert_eq!(clone.interrupts(), (0, INTERRUPT_USED));
    clone.lock().resume();
    assert_eq!(clone.interrupts(), USED);

    parent.write(0x64, INTERRUPT_USED);
    let state = parent.lock().save(&mut FdTable::default()).unwrap();
    let clone = parent.clone_into(Rng, &state);
    clone.lock().resume();
    assert_eq!(clone.interrupts(), NONE);
}

#[test]
fn a_state_crosses_a_process_unchanged() {
    let mut driver = Driver::start(Rng);
    driver.request(0, &[], &[16]);
    let state = driver.lock().save(&mut FdTable::default()).unwrap();
    let bytes = postcard::to_stdvec(&state).unwrap();
    let state: TransportState = postcard::from_bytes(&bytes).unwrap();
    assert!(matches!(state.device, DeviceState::Rng(_)));
    let mut clone = driver.clone_into(Rng, &state);
    clone.request(0, &[], &[16]);
}

#[test]
fn a_state_that_does_not_fit_is_refused() {
    let driver = Driver::start(Rng);
    let good = driver.lock().save(&mut FdTable::default()).unwrap();
    let refused = |change: fn(&mut TransportState)| {
        let mut state = good.clone();
        change(&mut state);
        let lines = Lines::new(1).unwrap();
        MmioTransport::restore(Box::new(Rng), lines, &state, driver.memory.clone()).is_err()
    };
    assert!(!refused(|_| ()));
    assert!(refused(|state| state.queues.clear()));
    assert!(refused(|state| state.queues[0].device = 1 << 40));
    assert!(refused(|state| state.queues[0].size = 5));
    assert!(refused(|state| state.registers.driver_features = u64::MAX));
}

proptest! {
    #[test]
    fn accesses_of_any_width_and_offset_are_harmless(
        accesses in prop::collection::vec((any::<u64>(), 0u64..0x400, 0usize..17, any::<[u8; 16]>()), 0..60),
    ) {
        let driver = Driver::start(Rng);
        for (anywhere, near, width, bytes) in accesses {
            for offset in [anywhere, near] {
                let mut data = bytes;
                driver.lock().write(offset, &data[..width]);
                driver.lock().read(offset, &mut data[..width]);
            }
        }
    }
}
