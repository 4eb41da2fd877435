//! The messages to a VM's owner, and how a machine's events become such messages.

use crate::control::ControlRequest;
use hyperfork_api::guest::Failure;
use hyperfork_api::signal::Message;
use hyperfork_api::{Error, ForkReport, VmName};
use hyperfork_host::handover::VmEnd;
use hyperfork_host::pool::Pool;
use hyperfork_sys::fds::FdTable;
use hyperfork_vmm::machine::{Event, Events};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

/// A message to the owner.
#[derive(Debug)]
pub(crate) enum Task {
    /// A request came over the control socket.
    Request(ControlRequest),
    /// Something happened in the machine.
    Machine(Event),
    /// The guest has sent a message.
    GuestMessage(LatestMessage),
    /// The guest has asked for so many clones, and its output until then is in the log.
    ForkForGuest(u32),
    /// The fork that the guest asked for is complete, or has failed.
    GuestForked(Result<ForkReport, Error>),
    /// The guest has taken its identity (and runs its main program), or never will.
    Identified(Result<(), NotReady>),
    /// The main program has ended; `None` when the agent cannot be asked for its status.
    MainEnded(Option<i32>),
    /// The launcher has released or abandoned the VM.
    LauncherFinished,
    /// Report the pages that the VM has written to its launcher, when there is time.
    ReportTouched(VmEnd),
    /// A fork is complete, or has failed.
    Forked(Forked),
    /// The memory that the next clones of this VM will start from, for the pool to preload.
    Preload(Vec<u8>, FdTable),
    /// The pool is connected.
    Pool(Pool),
    /// A signal asks the process to end.
    Terminate,
}

/// The outcome of a fork.
#[derive(Debug)]
pub(crate) struct Forked {
    /// How many clones were requested.
    pub(crate) requested: u32,
    /// The clones that came to life.
    pub(crate) clones: Vec<VmName>,
}

/// Why a guest did not become ready.
#[derive(Debug)]
pub(crate) enum NotReady {
    /// The VM fails, for this reason.
    Failed(Error),
    /// It works, but its main program cannot be started.
    NoCommand(Failure),
}

/// The latest message of one kind that the owner has not handled yet. A guest can send
/// messages faster than the owner handles them: if each was a task, they could fill the
/// host's memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct LatestMessage(Arc<Mutex<Option<Message>>>);

impl LatestMessage {
    /// Replaces the message; returns true if there was none, so that the owner must be notified.
    fn replace(&self, message: Message) -> bool {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.replace(message).is_none()
    }

    /// Takes the message, to handle it.
    pub(crate) fn take(&self) -> Option<Message> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.take()
    }
}

/// The function by which a machine sends its events to its owner.
pub(crate) fn events(tasks: Sender<Task>) -> Events {
    let (done, ready) = (LatestMessage::default(), LatestMessage::default());
    Arc::new(move |event| {
        let coalesced = match &event {
            Event::Message(message @ Message::Done(_)) => Some((*message, &done)),
            Event::Message(message @ Message::Ready(_)) => Some((*message, &ready)),
            // The port lets through one at a time.
            Event::Message(Message::Fork { .. }) => None,
            Event::FirstExit(_) | Event::Reset | Event::Fault(_) => None,
        };
        let task = match coalesced {
            None => Task::Machine(event),
            Some((message, latest)) if latest.replace(message) => {
                Task::GuestMessage(latest.clone())
            }
            Some(_) => return,
        };
        // Fails only when the owner has ended.
        let _ = tasks.send(task);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn of_messages_sent_faster_than_they_are_handled_the_latest_of_each_kind_remains() {
        let (sender, tasks) = channel();
        let events = events(sender);
        for round in 0..1000 {
            events(Event::Message(Message::Ready(round)));
            events(Event::Message(Message::Done(round)));
        }
        let handled: Vec<_> = tasks
            .try_iter()
            .map(|task| match task {
                Task::GuestMessage(latest) => latest.take(),
                task => panic!("{task:?}"),
            })
            .collect();
        let latest = [Message::Ready(999), Message::Done(999)];
        assert_eq!(handled, latest.map(Some));
        events(Event::Message(Message::Done(1)));
        let Ok(Task::GuestMessage(latest)) = tasks.try_recv() else {
            panic!("a message sent afterwards is lost");
        };
        assert_eq!(latest.take(), Some(Message::Done(1)));
    }
}
