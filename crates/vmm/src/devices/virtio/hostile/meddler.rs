//! A second vCPU: it changes guest memory while the device reads it.

use crate::memory::GuestMemoryMmap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileMemory};

/// Rounds after which the processor is given to others.
const ROUNDS: u32 = 64;

/// One byte of guest memory that changes all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flip {
    pub(super) address: u64,
    /// What is there before and afterwards.
    pub(super) resting: u8,
    /// What is there every other moment in between.
    pub(super) other: u8,
}

/// The thread. It ends when this is dropped.
pub(super) struct Meddler {
    orders: Sender<Vec<Flip>>,
    rested: Receiver<()>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    wanted: AtomicBool,
    rounds: AtomicU32,
}

impl Meddler {
    pub(super) fn new(memory: Arc<GuestMemoryMmap>) -> Self {
        let (orders, ordered) = channel::<Vec<Flip>>();
        let (resting, rested) = channel();
        let shared = Arc::new(Shared::default());
        let own = shared.clone();
        thread::spawn(move || {
            for flips in ordered {
                own.meddle(&memory, &flips);
                if resting.send(()).is_err() {
                    return;
                }
            }
        });
        Self {
            orders,
            rested,
            shared,
        }
    }

    /// Does `work` while the bytes change. They are as before when it returns.
    pub(super) fn during(&self, flips: &[Flip], work: impl FnOnce()) {
        self.shared.rounds.store(0, Ordering::Relaxed);
        self.shared.wanted.store(true, Ordering::Release);
        self.orders.send(flips.to_vec()).expect("the thread lives");
        while self.shared.rounds.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        work();
        self.shared.wanted.store(false, Ordering::Release);
        self.rested.recv().expect("the thread lives");
    }
}

impl Shared {
    fn meddle(&self, memory: &GuestMemoryMmap, flips: &[Flip]) {
        // Looked up before, so that the loop does nothing but write.
        let slice = |flip: &Flip| memory.get_slice(GuestAddress(flip.address), 1).ok();
        let bytes: Vec<_> = flips
            .iter()
            .filter_map(|flip| Some((slice(flip)?, flip)))
            .collect();
        let places: Vec<_> = bytes
            .iter()
            .filter_map(|(byte, flip)| Some((byte.get_ref::<u8>(0).ok()?, flip)))
            .collect();
        loop {
            places
                .iter()
                .for_each(|(place, flip)| place.store(flip.other));
            // On a busy host the device waits for this very processor.
            if self.rounds.fetch_add(1, Ordering::Release) % ROUNDS == ROUNDS - 1 {
                thread::yield_now();
            }
            let rest = places.iter().rev();
            rest.for_each(|(place, flip)| place.store(flip.resting));
            // One round at least: it is waited for.
            if !self.wanted.load(Ordering::Acquire) {
                return;
            }
        }
    }
}
