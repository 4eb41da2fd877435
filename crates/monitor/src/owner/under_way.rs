//! A fork whose clones are waited for on a thread of its own.

use crate::fork::{Begun, ForkError};
use crate::task::{Forked, Task};
use hyperfork_api::control::Reply;
use hyperfork_api::one_line;
use std::sync::mpsc::Sender;

/// What has to be told when the fork is over, however its thread ends: dropping it tells the
/// caller and the owner. Without that a panic would have the clones count as under way for ever.
pub(super) struct UnderWay {
    tasks: Sender<Task>,
    reply: Sender<Reply>,
    /// What is answered if the thread panics. (The one that starts it answers if it cannot.)
    answer: Option<Reply>,
    forked: Option<Forked>,
}

impl UnderWay {
    pub(super) fn new(asked: u32, tasks: Sender<Task>, reply: Sender<Reply>) -> Self {
        Self {
            tasks,
            reply,
            answer: None,
            forked: Some(Forked {
                asked,
                born: 0,
                preload: None,
            }),
        }
    }

    /// Waits for the clones, answers, and cleans up.
    pub(super) fn finish(mut self, begun: Begun) {
        self.answer = Some(Reply::Error(one_line(&ForkError::GivenUp)));
        let finished = begun.finish();
        let (answer, born) = match &finished.report {
            Ok(report) => (Reply::Forked(report.clone()), report.clones.len() as u32),
            Err(error) => (Reply::Error(one_line(error)), 0),
        };
        self.answer = None;
        let _ = self.reply.send(answer);
        if let Some(forked) = &mut self.forked {
            forked.born = born;
            forked.preload = finished.clean_up();
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(answer) = self.answer.take() {
            let _ = self.reply.send(answer);
        }
        if let Some(forked) = self.forked.take() {
            // The owner may have ended.
            let _ = self.tasks.send(Task::Forked(forked));
        }
    }
}
