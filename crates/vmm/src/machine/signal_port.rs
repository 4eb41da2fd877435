//! The signal port ([`hyperfork_api::signal`]), and where a fork that the guest
//! has asked for stands.
//!
//! ```text
//!          asked           begin            capture
//!   IDLE ─────────> ASKED ───────> FORKING ─────────> CAPTURED
//!    ^                │               │                  │
//!    └────────────────┴───────────────┴──────────────────┘ answer
//! ```
//!
//! The guest reads "pending" in all states but `IDLE`. The capture that is made of
//! the state `FORKING` is the fork itself: a clone goes on as `BORN`, still
//! pending, until it has been told who it is. Any other capture is somebody else's
//! fork, and the request stays with the parent: its clones read "interrupted".

use super::{Event, Events};
use crate::bus::{BusDevice, SharedBusDevice};
use hyperfork_api::signal::{ForkAnswer, ForkStatus, Message, Refusal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The device.
pub(super) struct SignalPort {
    /// Which clone this is.
    index: u32,
    /// What the guest reads of the fork it asked for.
    status: ForkStatus,
    stage: Stage,
    events: Events,
}

/// How far the fork is that the guest has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// None is under way.
    Idle,
    /// The owner has yet to begin with it.
    Asked,
    /// The next capture is its.
    Forking,
    /// Its clones are coming to life.
    Captured,
    /// This machine is a clone of it.
    Born,
}

impl SignalPort {
    /// The port of clone `index`, or of a machine that boots (0), with the status
    /// that was [captured](GuestFork::capture).
    pub(super) fn new(index: u32, status: u32, events: Events) -> Self {
        let status = ForkStatus::decode(status).unwrap_or(ForkStatus::NONE);
        let stage = match status.answer {
            ForkAnswer::Pending => Stage::Born,
            _ => Stage::Idle,
        };
        Self {
            index,
            status,
            stage,
            events,
        }
    }

    fn ask(&mut self, tag: u32) -> bool {
        let free = self.stage == Stage::Idle;
        if free {
            self.stage = Stage::Asked;
            self.status = ForkStatus {
                answer: ForkAnswer::Pending,
                tag,
            };
        }
        free
    }

    fn answer(&mut self, answer: ForkAnswer) {
        self.stage = Stage::Idle;
        self.status.answer = answer;
    }
}

impl BusDevice for SignalPort {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let registers = [self.index, self.status.encode()].map(u32::to_le_bytes);
        let registers = registers.as_flattened();
        for (place, byte) in data.iter_mut().enumerate() {
            *byte = registers.get(offset as usize + place).copied().unwrap_or(0);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let (0, Ok(word)) = (offset, <[u8; 4]>::try_from(data)) else {
            return;
        };
        let Some(message) = Message::decode(u32::from_le_bytes(word)) else {
            return;
        };
        // One at a time, however often it is asked for: who was not first sees
        // another's tag.
        if let Message::Fork { tag, .. } = message
            && !self.ask(tag)
        {
            return;
        }
        (self.events)(Event::Message(message));
    }
}

/// The owner's and the capture's end of the port.
#[derive(Clone)]
pub struct GuestFork(Arc<Mutex<SignalPort>>);

impl GuestFork {
    pub(super) fn new(port: SignalPort) -> Self {
        Self(Arc::new(Mutex::new(port)))
    }

    /// The vCPUs' end.
    pub(super) fn device(&self) -> Arc<dyn SharedBusDevice> {
        self.0.clone()
    }

    /// The machine is about to be captured for the fork that its guest asked for.
    pub fn begin(&self) {
        let mut port = self.port();
        if port.stage == Stage::Asked {
            port.stage = Stage::Forking;
        }
    }

    /// The machine stands still and is captured: the [`ForkStatus`] that the clone's
    /// guest will read.
    pub(super) fn capture(&self) -> u32 {
        let mut port = self.port();
        let mut status = port.status;
        match port.stage {
            Stage::Idle => {}
            Stage::Forking => port.stage = Stage::Captured,
            Stage::Asked | Stage::Captured | Stage::Born => {
                status.answer = ForkAnswer::Refused(Refusal::Interrupted);
            }
        }
        status.encode()
    }

    /// Tells the guest of a parent that all clones live.
    pub fn complete(&self) {
        self.answer(ForkAnswer::Forked(0));
    }

    /// Tells the guest of a parent that there is no clone.
    pub fn refuse(&self, why: Refusal) {
        self.answer(ForkAnswer::Refused(why));
    }

    /// The clone knows who it is: if its guest waits for that, tells it its number.
    pub fn born(&self) {
        let mut port = self.port();
        if port.stage == Stage::Born {
            let index = port.index;
            port.answer(ForkAnswer::Forked(index));
        }
    }

    fn answer(&self, answer: ForkAnswer) {
        let mut port = self.port();
        if port.stage != Stage::Idle {
            port.answer(answer);
        }
    }

    fn port(&self) -> MutexGuard<'_, SignalPort> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
