use super::*;
use crate::blobs::BlobWriter;
use crate::bus::BusDevice;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::Driver;
use crate::devices::virtio::{Context, DeviceError, Notify, VirtioDevice, ring};
use hyperfork_state::Record;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

fn start(devices: Devices, mode: Mode) -> io::Result<DeviceWorker> {
    let worker = DeviceWorker::spawn(Names::None)?;
    worker.attach(devices)?;
    if mode == Mode::Running {
        worker.resume();
    }
    Ok(worker)
}

/// Notifies the device as an ioeventfd does, when the ring's rules demand it.
fn kick(driver: &Driver) {
    if driver.must_notify(0, 1) {
        driver.lock().queue_event(0).write(1).unwrap();
    }
}

/// Waits for the answer to a request. It has to come, however long it takes.
fn wait_for_used(driver: &mut Driver) -> (u16, u32) {
    loop {
        if let Some(used) = driver.take_used(0) {
            return used;
        }
        thread::sleep(Duration::from_micros(50));
    }
}

#[test]
fn the_thread_serves_every_notified_request() {
    let mut driver = Driver::start(Rng);
    let _worker = start(vec![driver.transport.clone()], Mode::Running).unwrap();
    for _ in 0..2000 {
        let offered = driver.offer(0, &[], &[8]);
        kick(&driver);
        assert_eq!(wait_for_used(&mut driver), (offered.head, 8));
    }
}

#[test]
fn a_driver_that_keeps_the_ring_full_and_notifies_only_when_it_must_is_served_for_ever() {
    let mut driver = Driver::start(Rng);
    let _worker = start(vec![driver.transport.clone()], Mode::Running).unwrap();
    let mut outstanding = 0;
    let mut served = 0;
    while served < 20_000 {
        while outstanding < 16 {
            driver.offer(0, &[], &[1]);
            outstanding += 1;
            kick(&driver);
        }
        while driver.take_used(0).is_some() {
            outstanding -= 1;
            served += 1;
        }
        thread::yield_now();
    }
}

#[test]
fn nothing_is_touched_while_the_thread_rests_and_nothing_signalled_meanwhile_is_lost() {
    let mut driver = Driver::start(Rng);
    let worker = start(vec![driver.transport.clone()], Mode::Running).unwrap();
    for _ in 0..200 {
        worker.pause();
        driver.offer(0, &[], &[8]);
        kick(&driver);
        thread::yield_now();
        assert_eq!(driver.take_used(0), None);
        worker.resume();
        wait_for_used(&mut driver);
    }
}

#[test]
fn a_request_whose_notification_did_not_survive_the_fork_is_served_in_the_clone() {
    let mut parent = Driver::start(Rng);
    let worker = start(vec![parent.transport.clone()], Mode::Paused).unwrap();
    worker.pause();
    parent.offer(0, &[], &[8]);
    kick(&parent);
    let state = parent.lock().save(&mut BlobWriter::default()).unwrap();
    let mut clone = parent.clone_into(Rng, &state);
    let clone_worker = start(vec![clone.transport.clone()], Mode::Running).unwrap();
    wait_for_used(&mut clone);
    worker.resume();
    wait_for_used(&mut parent);
    drop(clone_worker);
}

#[test]
fn pausing_and_resuming_in_any_order_ends_as_last_asked() {
    let mut driver = Driver::start(Rng);
    let worker = start(vec![driver.transport.clone()], Mode::Paused).unwrap();
    worker.pause();
    worker.pause();
    for _ in 0..500 {
        worker.resume();
        worker.pause();
    }
    worker.resume();
    worker.resume();
    driver.offer(0, &[], &[8]);
    kick(&driver);
    wait_for_used(&mut driver);
    worker.pause();
}

/// Panics at the first request.
struct Faulty(Arc<AtomicU64>);

impl VirtioDevice for Faulty {
    fn device_id(&self) -> u32 {
        4
    }
    fn queue_sizes(&self) -> &'static [u16] {
        &[16]
    }
    fn features(&self) -> u64 {
        0
    }
    fn activate(&mut self, _: u64) {}
    fn reset(&mut self) {}
    fn process_queue(&mut self, index: usize, context: Context<'_>) -> Result<Notify, DeviceError> {
        ring::serve(context, index, |_| {
            self.0.fetch_add(1, Ordering::Relaxed);
            panic!("a bug, on purpose")
        })
    }
    fn save(&mut self, _: &mut BlobWriter) -> io::Result<Record> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[test]
fn a_device_that_panics_fails_alone() {
    let panics = Arc::new(AtomicU64::new(0));
    let mut faulty = Driver::start(Faulty(panics.clone()));
    let mut healthy = Driver::start(Rng);
    let devices = vec![faulty.transport.clone(), healthy.transport.clone()];
    let worker = start(devices, Mode::Running).unwrap();
    faulty.offer(0, &[], &[8]);
    kick(&faulty);
    while panics.load(Ordering::Relaxed) == 0 {
        thread::yield_now();
    }
    healthy.offer(0, &[], &[8]);
    kick(&healthy);
    wait_for_used(&mut healthy);
    worker.pause();
    let mut status = [0; 4];
    lock(&faulty.transport).read(0x70, &mut status);
    assert_eq!(status[0], 0x4f, "needs a reset");
}
