//! Tests of requests that are preempted. Nothing here depends on time: pieces are counted, and a
//! backend waits for permits.

use super::super::base::Watch;
use super::super::disk::SECTOR;
use super::super::*;
use crate::bus::SharedBusDevice;
use crate::devices::confinement::FileAccess;
use crate::devices::virtio::testing::{Driver, Offered, RING_SIZE};
use crate::devices::worker::DeviceWorker;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// How long anything may take here that does not hang.
const TIMEOUT: Duration = Duration::from_secs(60);

const OK: u8 = VIRTIO_BLK_S_OK as u8;
/// Bytes of the disks here: several pieces, and a bit.
const SIZE: u64 = 5 * PIECE + 3 * SECTOR;

/// What is where at first.
fn content() -> Vec<u8> {
    let sectors = 0..SIZE / SECTOR;
    sectors
        .flat_map(|sector| [(sector % 251) as u8; SECTOR as usize])
        .collect()
}

fn base() -> Base {
    let file: File = tempfile::tempfile().unwrap();
    file.write_all_at(&content(), 0).unwrap();
    Base::raw(file).unwrap()
}

fn overlays(dir: &TempDir) -> Overlays {
    Overlays::in_directory(dir.path()).unwrap()
}

/// A driver whose device is preempted after every piece.
fn preempted(dir: &TempDir) -> Driver {
    let driver = Driver::start(Block::new(base(), false, &overlays(dir)));
    preempt(&driver);
    driver
}

fn preempt(driver: &Driver) {
    driver.lock().pause_by(Arc::new(AtomicBool::new(true)));
}

fn header(kind: u32, sector: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat()
}

fn segment(sector: u64, sectors: u32) -> Vec<u8> {
    [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &[0; 4]].concat()
}

fn fork(parent: &Driver, dir: &TempDir) -> Driver {
    let mut blobs = BlobWriter::default();
    let state = parent.lock().save(&mut blobs).unwrap();
    let block: BlockState = state.own.decode().unwrap();
    let clone = Block::restore(&block, blobs.reader(), &overlays(dir)).unwrap();
    let clone = parent.clone_into(clone, &state);
    preempt(&clone);
    clone
}

/// Calls the device until it has answered; returns the number of calls and the answer.
fn finish(driver: &mut Driver, offered: &Offered) -> (usize, u32, Vec<Vec<u8>>) {
    for calls in 1..100 {
        // It has asked for the call, or the thread would not make it.
        driver.lock().queue_event(0).read().unwrap();
        driver.lock().process_queue(0);
        if let Some((head, len)) = driver.take_used(0) {
            assert_eq!(head, offered.head);
            return (calls, len, driver.contents(offered));
        }
    }
    panic!("it never ends");
}

fn offer(driver: &mut Driver, readable: &[&[u8]], writable: &[u32]) -> Offered {
    let offered = driver.offer(0, readable, writable);
    driver.lock().queue_event(0).write(1).unwrap();
    offered
}

fn disk_content(driver: &mut Driver) -> Vec<u8> {
    let writable = [SIZE as u32, 1];
    let offered = offer(driver, &[&header(VIRTIO_BLK_T_IN, 0)], &writable);
    let (_, len, mut buffers) = finish(driver, &offered);
    assert_eq!((len, &buffers[1][..]), (SIZE as u32 + 1, &[OK][..]));
    buffers.swap_remove(0)
}

#[test]
fn a_preempted_read_goes_on_where_it_was_in_parent_and_clone() {
    let dir = TempDir::new().unwrap();
    let mut parent = preempted(&dir);
    let writable = [SIZE as u32 - 1000, 1000, 1];
    let offered = offer(&mut parent, &[&header(VIRTIO_BLK_T_IN, 0)], &writable);
    let mut clones = Vec::new();
    for _ in 0..3 {
        parent.lock().process_queue(0);
        assert_eq!(parent.take_used(0), None);
        clones.push(fork(&parent, &dir));
    }
    for (driver, left) in clones.iter_mut().chain([&mut parent]).zip([5, 4, 3, 3]) {
        driver.lock().queue_event(0).write(1).unwrap();
        let (calls, len, buffers) = finish(driver, &offered);
        assert_eq!((calls, len), (left, SIZE as u32 + 1));
        assert!(buffers[..2].concat() == content());
        assert_eq!(buffers[2], [OK]);
    }
}

#[test]
fn a_preempted_write_goes_on_where_it_was_each_on_its_own_disk() {
    let dir = TempDir::new().unwrap();
    let mut parent = preempted(&dir);
    let new: Vec<u8> = content().iter().map(|byte| byte ^ 0xff).collect();
    let sectors = 3..SIZE / SECTOR - 1;
    let bytes = (sectors.start * SECTOR) as usize..(sectors.end * SECTOR) as usize;
    let header = header(VIRTIO_BLK_T_OUT, sectors.start);
    let readable = [&header[..], &new[bytes.clone()]];
    let offered = offer(&mut parent, &readable, &[1]);
    parent.lock().process_queue(0);
    parent.lock().process_queue(0);
    assert_eq!(parent.take_used(0), None);
    let clone = fork(&parent, &dir);
    let mut expected = content();
    expected[bytes.clone()].copy_from_slice(&new[bytes]);
    for mut driver in [parent, clone] {
        driver.lock().queue_event(0).write(1).unwrap();
        let (calls, len, buffers) = finish(&mut driver, &offered);
        // The first piece was shorter, to end between two clusters.
        assert_eq!((calls, len, &buffers[0][..]), (4, 1, &[OK][..]));
        assert!(disk_content(&mut driver) == expected);
    }
}

#[test]
fn zeroing_and_discarding_go_on_where_they_were() {
    let dir = TempDir::new().unwrap();
    for kind in [VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_DISCARD] {
        let mut parent = preempted(&dir);
        let cleared = 8..8 * (SIZE / SECTOR / 8);
        let segment = segment(cleared.start, (cleared.end - cleared.start) as u32);
        let offered = offer(&mut parent, &[&header(kind, 0), &segment], &[1]);
        parent.lock().process_queue(0);
        let clone = fork(&parent, &dir);
        let mut expected = content();
        expected[(cleared.start * SECTOR) as usize..(cleared.end * SECTOR) as usize].fill(0);
        for mut driver in [parent, clone] {
            // A discard is done in one piece: it costs no data.
            let answered = driver.take_used(0).is_some();
            assert_eq!(answered, kind == VIRTIO_BLK_T_DISCARD);
            if !answered {
                driver.lock().queue_event(0).write(1).unwrap();
                let (_, _, buffers) = finish(&mut driver, &offered);
                assert_eq!(buffers[0], [OK]);
            }
            assert!(disk_content(&mut driver) == expected);
        }
    }
}

#[test]
fn a_driver_that_changes_a_request_under_way_gets_an_error_and_the_next_is_served() {
    let dir = TempDir::new().unwrap();
    let mut driver = preempted(&dir);
    let writable = [SIZE as u32, 1];
    let offered = offer(&mut driver, &[&header(VIRTIO_BLK_T_IN, 0)], &writable);
    driver.lock().process_queue(0);
    // Its data buffer is shorter now, and the status comes where it was.
    driver.shorten(&offered, 1, 512);
    let (calls, len, _) = finish(&mut driver, &offered);
    assert_eq!((calls, len), (1, 1));
    assert!(disk_content(&mut driver) == content());
}

#[test]
fn a_reset_driver_starts_anew() {
    let dir = TempDir::new().unwrap();
    let mut driver = preempted(&dir);
    let writable = [SIZE as u32, 1];
    offer(&mut driver, &[&header(VIRTIO_BLK_T_IN, 0)], &writable);
    driver.lock().process_queue(0);
    driver.write(0x70, 0);
    driver.start_again();
    assert!(disk_content(&mut driver) == content());
}

#[test]
fn a_state_with_a_request_under_way_that_its_disk_cannot_have_is_refused() {
    let dir = TempDir::new().unwrap();
    let mut driver = preempted(&dir);
    let writable = [SIZE as u32, 1];
    offer(&mut driver, &[&header(VIRTIO_BLK_T_IN, 0)], &writable);
    driver.lock().process_queue(0);
    let mut blobs = BlobWriter::default();
    let state = driver.lock().save(&mut blobs).unwrap();
    let mut block: BlockState = state.own.decode().unwrap();
    let restored = Block::restore(&block, blobs.reader(), &overlays(&dir));
    assert!(restored.is_ok());
    block.disk.len -= SECTOR;
    assert!(Block::restore(&block, blobs.reader(), &overlays(&dir)).is_err());
}

/// Permits a backend one access at a time.
struct Gate {
    accesses: Arc<AtomicUsize>,
    /// Gets a message for each access before it waits.
    begun: Receiver<()>,
    permits: Sender<()>,
}

impl Gate {
    /// A base that waits for a permit at each access.
    fn around(base: Base) -> (Self, Base) {
        let accesses = Arc::new(AtomicUsize::new(0));
        let (begin, begun) = channel();
        let (permits, permitted) = channel();
        let waiting = Mutex::new((begin, permitted));
        let count = accesses.clone();
        let watch = move || {
            count.fetch_add(1, Ordering::SeqCst);
            let (begin, permitted) = &*waiting.lock().unwrap();
            let _ = begin.send(());
            // Without a gate any more, all may go on.
            let _ = permitted.recv();
        };
        let gate = Self {
            accesses,
            begun,
            permits,
        };
        let watch = Watch(Arc::new(watch));
        (gate, Base::Watched(Box::new(base), watch))
    }

    fn await_access(&self) {
        self.begun.recv_timeout(TIMEOUT).expect("an access");
    }

    fn permit(&self) {
        self.permits.send(()).unwrap();
    }
}

/// Does it on a thread; it has to end in time.
fn in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, done) = channel();
    thread::spawn(move || drop(sender.send(work())));
    done.recv_timeout(TIMEOUT).expect("it hangs")
}

#[test]
fn a_pause_waits_for_one_piece_however_much_is_queued_and_nothing_is_done_twice() {
    let dir = TempDir::new().unwrap();
    let (gate, base) = Gate::around(base());
    let block = Block::new(base, false, &overlays(&dir));
    let handle = block.handle();
    let mut driver = Driver::start(block);
    let worker = DeviceWorker::spawn(FileAccess::None).unwrap();
    let attached = worker.attach(vec![driver.transport.clone()], |why| panic!("{why}"));
    attached.unwrap();
    let requests = usize::from(RING_SIZE) / 3;
    let writable = [SIZE as u32, 1];
    for _ in 0..requests {
        offer(&mut driver, &[&header(VIRTIO_BLK_T_IN, 0)], &writable);
    }
    worker.resume();

    let mut paused_at = Vec::new();
    for _ in 0..4 {
        // The thread is in the middle of a piece. What does not need the device does not wait.
        gate.await_access();
        let slot = driver.transport.clone();
        in_time(move || {
            let mut data = [0; 4];
            slot.read(0x60, &mut data);
            slot.write(0x64, &data);
            slot.read(0x70, &mut data);
        });
        let disk = handle.clone();
        assert_eq!(in_time(move || disk.usage().size), SIZE);
        // A pause needs the end of the piece, and nothing else.
        assert!(!worker.pause(Duration::ZERO));
        gate.permit();
        assert!(worker.pause(TIMEOUT));
        paused_at.push(gate.accesses.load(Ordering::SeqCst));
        worker.resume();
    }
    assert_eq!(paused_at, [1, 2, 3, 4]);

    // A thread that locks the device itself waits for the end of the piece, too.
    gate.await_access();
    let slot = driver.transport.clone();
    let (sender, read) = channel();
    let reader = thread::spawn(move || {
        let mut capacity = [0; 4];
        slot.read(0x100, &mut capacity);
        sender.send(u32::from_le_bytes(capacity)).unwrap();
    });
    while !driver.transport.is_wanted() {
        thread::yield_now();
    }
    gate.permit();
    let capacity = read.recv_timeout(TIMEOUT).expect("it waits for a batch");
    assert_eq!(u64::from(capacity), SIZE / SECTOR);
    reader.join().unwrap();

    // The rest is served to its end, and no piece is read twice.
    drop(gate.permits);
    for _ in 0..requests {
        let mut left = TIMEOUT.as_millis();
        while driver.take_used(0).is_none() {
            left = left.checked_sub(1).expect("no answer");
            thread::sleep(Duration::from_millis(1));
        }
    }
    let pieces = SIZE.div_ceil(PIECE) as usize;
    assert_eq!(gate.accesses.load(Ordering::SeqCst), requests * pieces);
    assert!(worker.pause(TIMEOUT));
}
