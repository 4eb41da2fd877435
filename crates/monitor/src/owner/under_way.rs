//! A fork whose clones are waited for on a thread of its own.

use crate::control::Answer;
use crate::fork::{Begun, ForkError};
use crate::task::{Forked, Task};
use hyperfork_api::control::Fork;
use hyperfork_api::{Error, ForkReport};
use std::sync::mpsc::Sender;

/// What has to be told when the fork is over, however its thread ends: dropping it tells the
/// client and the owner. Without that a panic would have the clones count as under way for ever.
pub(super) struct UnderWay {
    asked: u32,
    answer: Option<Answer<Fork>>,
    /// Until the owner has been told.
    tasks: Option<Sender<Task>>,
}

impl UnderWay {
    pub(super) fn new(asked: u32, answer: Answer<Fork>, tasks: Sender<Task>) -> Self {
        Self {
            asked,
            answer: Some(answer),
            tasks: Some(tasks),
        }
    }

    /// Waits for the clones, answers, and cleans up.
    pub(super) fn finish(mut self, begun: Begun) {
        let finished = begun.finish();
        let report = finished.report.as_ref();
        let born = report.map_or_else(|_| Vec::new(), ForkReport::names);
        self.answer(report.cloned().map_err(Error::from));
        let Some(tasks) = self.tasks.take() else {
            return;
        };
        let asked = self.asked;
        let _ = tasks.send(Task::Forked(Forked { asked, born }));
        if let Some((hint, fds)) = finished.clean_up() {
            let _ = tasks.send(Task::Preload(hint, fds));
        }
    }

    fn answer(&mut self, result: Result<ForkReport, Error>) {
        if let Some(answer) = self.answer.take() {
            answer.give(result);
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.answer(Err((&ForkError::GivenUp).into()));
        if let Some(tasks) = self.tasks.take() {
            let (asked, born) = (self.asked, Vec::new());
            // The owner may have ended.
            let _ = tasks.send(Task::Forked(Forked { asked, born }));
        }
    }
}
