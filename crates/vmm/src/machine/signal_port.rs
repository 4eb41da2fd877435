//! The signal port ([`hyperfork_api::signal`]), and the state of a fork that the guest has asked
//! for.
//!
//! ```text
//!          asked           begin            capture
//!   IDLE ─────────> ASKED ───────> FORKING ─────────> CAPTURED
//!    ^                │               │                  │
//!    └────────────────┴───────────────┴──────────────────┘ answer
//! ```
//!
//! The guest reads "pending" in all states but `IDLE`. A capture in the state `FORKING` is the one
//! for the guest's own request: its clones start in the state `CLONE`, still pending, until they
//! have their identity. Any other capture belongs to a fork that was requested from outside: the
//! request stays with the parent, and those clones read "interrupted".

use super::{Event, Events};
use crate::bus::{BusDevice, SharedBusDevice};
use hyperfork_api::signal::{ForkAnswer, ForkStatus, Message, Refusal};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The device behind the port.
pub(super) struct SignalPort {
    /// Which clone of its fork this machine is, from 1; 0 if it booted.
    index: u32,
    /// What the guest reads about the fork it asked for.
    status: ForkStatus,
    stage: Stage,
    events: Events,
}

/// How far a fork is that the guest has asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// No fork is under way.
    Idle,
    /// The owner has not begun it yet.
    Asked,
    /// The next capture is for it.
    Forking,
    /// Its clones are being started.
    Captured,
    /// This machine is a clone of it.
    Clone,
}

impl SignalPort {
    /// The port of clone `index`, or of a machine that boots (0), with the status
    /// that was [captured](GuestFork::capture).
    pub(super) fn new(index: u32, status: u32, events: Events) -> Self {
        let status = ForkStatus::decode(status).unwrap_or(ForkStatus::NONE);
        let stage = match status.answer {
            ForkAnswer::Pending => Stage::Clone,
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
        // One fork at a time: a caller in the guest that was not first reads the tag of another
        // request.
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

    /// The vCPUs' end of the port.
    pub(super) fn device(&self) -> Arc<dyn SharedBusDevice> {
        self.0.clone()
    }

    /// The next capture is for the fork that the guest asked for.
    pub fn begin(&self) {
        let mut port = self.port();
        if port.stage == Stage::Asked {
            port.stage = Stage::Forking;
        }
    }

    /// Called by a capture: the encoded [`ForkStatus`] that the clone's guest will read.
    pub(super) fn capture(&self) -> u32 {
        let mut port = self.port();
        let mut status = port.status;
        match port.stage {
            Stage::Idle => {}
            Stage::Forking => port.stage = Stage::Captured,
            Stage::Asked | Stage::Captured | Stage::Clone => {
                status.answer = ForkAnswer::Refused(Refusal::Interrupted);
            }
        }
        status.encode()
    }

    /// Tells the parent's guest that all clones run.
    pub fn complete(&self) {
        self.answer(ForkAnswer::Forked(0));
    }

    /// Tells the parent's guest that there is no clone.
    pub fn refuse(&self, why: Refusal) {
        self.answer(ForkAnswer::Refused(why));
    }

    /// Tells the clone's guest, which now has its identity, its index, if it waits for that.
    pub fn complete_in_clone(&self) {
        let mut port = self.port();
        if port.stage == Stage::Clone {
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
