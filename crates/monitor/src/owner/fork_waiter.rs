//! Waiting for a fork's clones, on a thread of its own.

use crate::control::Responder;
use crate::fork::{ForkError, StartedFork};
use crate::task::{Forked, Task};
use hyperfork_api::control::Fork;
use hyperfork_api::{Error, ForkReport};
use hyperfork_sys::sched;
use std::sync::mpsc::Sender;

/// Waits for a fork, then answers its client and notifies the owner. Dropping it does both,
/// too: otherwise a panic of the waiting thread would leave the clones pending for ever.
pub(super) struct ForkWaiter {
    requested: u32,
    responder: Option<Responder<Fork>>,
    /// The owner's queue, until the owner has been notified.
    tasks: Option<Sender<Task>>,
}

impl ForkWaiter {
    pub(super) fn new(requested: u32, responder: Responder<Fork>, tasks: Sender<Task>) -> Self {
        Self {
            requested,
            responder: Some(responder),
            tasks: Some(tasks),
        }
    }

    /// Waits for the clones, answers, and cleans up.
    pub(super) fn finish(mut self, started: StartedFork) {
        let responder = self.responder.as_ref();
        let finished = started.finish(|| responder.is_none_or(Responder::is_awaited));
        let report = finished.report.as_ref();
        let clones = report.map_or_else(|_| Vec::new(), ForkReport::names);
        self.answer(report.cloned().map_err(Error::from));
        // The client, which has the report now, and the clones need the processors more.
        sched::use_low_weight();
        let Some(tasks) = self.tasks.take() else {
            return;
        };
        let requested = self.requested;
        let _ = tasks.send(Task::Forked(Forked { requested, clones }));
        if let Some((hint, fds)) = finished.clean_up() {
            let _ = tasks.send(Task::Preload(hint, fds));
        }
    }

    fn answer(&mut self, result: Result<ForkReport, Error>) {
        if let Some(responder) = self.responder.take() {
            responder.respond(result);
        }
    }
}

impl Drop for ForkWaiter {
    fn drop(&mut self) {
        self.answer(Err((&ForkError::GivenUp).into()));
        if let Some(tasks) = self.tasks.take() {
            let (requested, clones) = (self.requested, Vec::new());
            // The owner may have ended.
            let _ = tasks.send(Task::Forked(Forked { requested, clones }));
        }
    }
}
