use super::*;
use crate::blobs::BlobWriter;
use crate::bus::SharedBusDevice;
use crate::devices::virtio::rng::Rng;
use crate::devices::virtio::testing::Driver;
use crate::devices::virtio::{Context, DeviceError, Notify, VirtioDevice, ring};
use hyperfork_state::Record;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// How long anything may take here that does not hang.
const TIMEOUT: Duration = Duration::from_secs(60);

fn start(devices: Devices, mode: Mode) -> io::Result<DeviceWorker> {
    let worker = DeviceWorker::spawn(FileAccess::None)?;
    worker.attach(devices, |why| panic!("{why}"))?;
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

/// Waits for the answer to a request.
fn wait_for_used(driver: &mut Driver) -> (u16, u32) {
    let deadline = Instant::now() + TIMEOUT;
    while Instant::now() < deadline {
        if let Some(used) = driver.take_used(0) {
            return used;
        }
        thread::sleep(Duration::from_micros(50));
    }
    panic!("no answer");
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
    let deadline = Instant::now() + TIMEOUT;
    while served < 20_000 {
        assert!(Instant::now() < deadline, "{served} served");
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
        assert!(worker.pause(TIMEOUT));
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
    assert!(worker.pause(TIMEOUT));
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
    assert!(worker.pause(TIMEOUT));
    assert!(worker.pause(TIMEOUT));
    for _ in 0..500 {
        worker.resume();
        assert!(worker.pause(TIMEOUT));
    }
    worker.resume();
    worker.resume();
    driver.offer(0, &[], &[8]);
    kick(&driver);
    wait_for_used(&mut driver);
    assert!(worker.pause(TIMEOUT));
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
    let deadline = Instant::now() + TIMEOUT;
    while panics.load(Ordering::Relaxed) == 0 {
        assert!(Instant::now() < deadline, "it has not panicked");
        thread::yield_now();
    }
    healthy.offer(0, &[], &[8]);
    kick(&healthy);
    wait_for_used(&mut healthy);
    assert!(worker.pause(TIMEOUT));
    let mut status = [0; 4];
    faulty.transport.read(0x70, &mut status);
    assert_eq!(status[0], 0x4f, "needs a reset");
}

/// Asks the thread to rest, which it has to do in time whatever has become of it.
fn pause_in_time(worker: &Arc<DeviceWorker>) {
    let (sender, done) = channel();
    let worker = worker.clone();
    thread::spawn(move || {
        let _ = sender.send(worker.pause(TIMEOUT));
    });
    let rests = done.recv_timeout(TIMEOUT).expect("a pause hangs");
    assert!(rests);
}

#[test]
fn a_device_thread_that_cannot_be_confined_is_an_error_with_its_cause_or_a_fault() {
    let worker = DeviceWorker::spawn_confined(|| Err(io::Error::other("no such filters")));
    let worker = Arc::new(worker.unwrap());
    let (sender, told) = channel();
    let driver = Driver::start(Rng);
    let attached = worker.attach(vec![driver.transport.clone()], move |why| {
        let _ = sender.send(why);
    });
    // It depends on which thread comes first.
    let why = match attached {
        Err(error) => error.to_string(),
        Ok(()) => told.recv_timeout(TIMEOUT).expect("a fault is told"),
    };
    assert!(why.contains("cannot be confined: no such filters"), "{why}");
    for _ in 0..3 {
        worker.resume();
        pause_in_time(&worker);
    }
}

#[test]
fn a_device_thread_that_dies_is_a_fault_told_at_once_and_no_pause_waits_for_it() {
    let (die, dies) = channel::<()>();
    // Its death can come at any time: here while it starts.
    let worker = DeviceWorker::spawn_confined(move || {
        let _ = dies.recv();
        panic!("a bug, on purpose")
    });
    let worker = Arc::new(worker.unwrap());
    let (sender, told) = channel();
    let driver = Driver::start(Rng);
    let attached = worker.attach(vec![driver.transport.clone()], move |why| {
        let _ = sender.send(why);
    });
    attached.unwrap();
    worker.resume();
    drop(die);
    let why = told.recv_timeout(TIMEOUT).expect("a fault is told");
    assert!(why.contains("panicked: a bug, on purpose"), "{why}");
    for _ in 0..3 {
        pause_in_time(&worker);
        worker.resume();
    }
}
