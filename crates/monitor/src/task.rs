//! What the owner of a VM is told or asked, and how a machine's events come to be that.

use crate::control::Asked;
use hyperfork_api::guest::Failure;
use hyperfork_api::signal::Message;
use hyperfork_api::{Error, ForkReport, VmName};
use hyperfork_host::handover::VmEnd;
use hyperfork_host::pool::Pool;
use hyperfork_sys::fds::FdTable;
use hyperfork_vmm::machine::{Event, Events};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

/// What the owner is told or asked.
#[derive(Debug)]
pub(crate) enum Task {
    /// A request came over the control socket.
    Asked(Asked),
    /// Something happened in the machine.
    Machine(Event),
    /// The guest has said something.
    Said(Unheard),
    /// The guest has asked for so many clones, and what it had printed by then is logged.
    ForkForGuest(u32),
    /// The fork that the guest asked for is complete, or failed for this reason.
    GuestForked(Result<ForkReport, Error>),
    /// The guest knows who it is (and runs its main program), or will never.
    Identified(Result<(), NotReady>),
    /// The main program has ended; `None` when the agent cannot tell any more.
    MainEnded(Option<i32>),
    /// The launcher has let go of the VM, one way or the other.
    LetGo,
    /// The launcher is to know which pages the VM has written, when there is time.
    ReportTouched(VmEnd),
    /// A fork is complete, or has failed.
    Forked(Forked),
    /// What the clones of a fork have shown of what the next ones will be like.
    Preload(Vec<u8>, FdTable),
    /// There is a pool.
    Pool(Pool),
    /// The process was asked to end.
    Terminate,
}

/// What has become of a fork.
#[derive(Debug)]
pub(crate) struct Forked {
    /// How many clones were wanted.
    pub(crate) asked: u32,
    /// Those that live.
    pub(crate) born: Vec<VmName>,
}

/// Why a guest did not become ready.
#[derive(Debug)]
pub(crate) enum NotReady {
    /// For this reason.
    Failed(Error),
    /// Only its main program is missing.
    NoCommand(Failure),
}

/// The latest message of a kind that the owner has not heard yet. A guest can say
/// things faster than anybody hears them: were each a task, it could fill the host's
/// memory with them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unheard(Arc<Mutex<Option<Message>>>);

impl Unheard {
    /// Whether the owner has to be told that there is one.
    fn say(&self, message: Message) -> bool {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.replace(message).is_none()
    }

    /// Hears it.
    pub(crate) fn take(&self) -> Option<Message> {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        latest.take()
    }
}

/// Where a machine tells its owner what happens in it.
pub(crate) fn events(tasks: Sender<Task>) -> Events {
    let (done, ready) = (Unheard::default(), Unheard::default());
    Arc::new(move |event| {
        let said = match &event {
            Event::Message(message @ Message::Done(_)) => Some((*message, &done)),
            Event::Message(message @ Message::Ready(_)) => Some((*message, &ready)),
            // The port lets through one at a time.
            Event::Message(Message::Fork { .. }) => None,
            Event::FirstExit(_) | Event::Reset | Event::Fault(_) => None,
        };
        let task = match said {
            None => Task::Machine(event),
            Some((message, unheard)) if unheard.say(message) => Task::Said(unheard.clone()),
            Some(_) => return,
        };
        // Fails only at the very end, when nobody cares any more.
        let _ = tasks.send(task);
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn of_what_is_said_faster_than_it_is_heard_the_latest_of_each_kind_remains() {
        let (sender, tasks) = channel();
        let events = events(sender);
        for round in 0..1000 {
            events(Event::Message(Message::Ready(round)));
            events(Event::Message(Message::Done(round)));
        }
        let heard: Vec<_> = tasks
            .try_iter()
            .map(|task| match task {
                Task::Said(unheard) => unheard.take(),
                task => panic!("{task:?}"),
            })
            .collect();
        let latest = [Message::Ready(999), Message::Done(999)];
        assert_eq!(heard, latest.map(Some));
        events(Event::Message(Message::Done(1)));
        let Ok(Task::Said(unheard)) = tasks.try_recv() else {
            panic!("what is said afterwards is not heard");
        };
        assert_eq!(unheard.take(), Some(Message::Done(1)));
    }
}
