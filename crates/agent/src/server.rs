//! The agent's loop: waits for events of all kinds, and lets each conversation
//! handle its own.
//!
//! `poll`, not `epoll`: what is waited for is worked out anew from the state of
//! things each time, so the two cannot disagree; and for the few descriptors of
//! an ordinary guest one call to `poll` is cheaper than keeping a set up to date.

use crate::guest::Guest;
use crate::listener::Listener;
use crate::log;
use crate::machine::Machine;
use crate::session::{Part, Session};
use crate::sys::signals;
use hyperfork_api::frame::CHUNK;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How long no connection is accepted where there was no descriptor for one.
const ACCEPT_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The agent's listeners, conversations and machine.
pub(crate) struct Server {
    listeners: Vec<Listener>,
    signals: OwnedFd,
    sessions: Vec<Session>,
    guest: Guest,
    scratch: Vec<u8>,
    /// False for a moment after there was no descriptor for a connection.
    accepting: bool,
}

/// What a descriptor that is waited for belongs to.
#[derive(Debug, Clone, Copy)]
enum Token {
    Listener(usize),
    Signals,
    Machine,
    MainOutput(usize),
    Session(usize, Part),
}

impl Server {
    /// Serves these listeners on this machine. Blocks the signals it watches.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn new(listeners: Vec<Listener>, machine: Box<dyn Machine>) -> io::Result<Self> {
        Ok(Self {
            listeners,
            signals: signals::take()?,
            sessions: Vec::new(),
            guest: Guest::new(machine),
            scratch: vec![0; CHUNK],
            accepting: true,
        })
    }

    /// Serves for ever: PID 1 must not end, whatever happens.
    pub(crate) fn run(mut self) -> ! {
        loop {
            if catch_unwind(AssertUnwindSafe(|| self.turn())).is_err() {
                log::error(format_args!("going on after a panic"));
            }
        }
    }

    fn turn(&mut self) {
        let ready = match self.wait() {
            Ok(ready) => ready,
            Err(Errno::INTR) => return,
            Err(error) => return log::error(format_args!("poll: {error}")),
        };
        self.accepting = true;
        for (token, events) in ready {
            match token {
                Token::Listener(index) => self.accept(index),
                Token::Signals => self.on_signals(),
                Token::Machine => self.guest.machine.changed(),
                Token::MainOutput(index) => {
                    if let Some(main) = &mut self.guest.main {
                        main.keep_output(index, &mut self.scratch);
                    }
                }
                Token::Session(index, part) => {
                    self.guarded(index, |session, _, scratch| {
                        session.on_ready(part, events, scratch);
                    });
                }
            }
        }
        self.settle();
        self.guest.machine.settle();
        if std::mem::take(&mut self.guest.powering_off) {
            self.guest.machine.power_off();
        }
    }

    /// Waits until something can be done, and returns what.
    fn wait(&self) -> Result<Vec<(Token, PollFlags)>, Errno> {
        let mut tokens = vec![Token::Signals];
        let mut fds = vec![PollFd::new(&self.signals, PollFlags::IN)];
        if self.accepting {
            for (index, listener) in self.listeners.iter().enumerate() {
                tokens.push(Token::Listener(index));
                fds.push(PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN));
            }
        }
        if let Some(main) = &self.guest.main {
            for (index, output) in main.program.outputs().enumerate() {
                tokens.push(Token::MainOutput(index));
                fds.push(PollFd::from_borrowed_fd(output, PollFlags::IN));
            }
        }
        for (index, session) in self.sessions.iter().enumerate() {
            session.interests(|part, fd, events| {
                tokens.push(Token::Session(index, part));
                fds.push(PollFd::from_borrowed_fd(fd, events));
            });
        }
        // The last, which comes first below: before a clone gets its identity.
        if let Some(changes) = self.guest.machine.changes() {
            tokens.push(Token::Machine);
            fds.push(PollFd::from_borrowed_fd(changes, PollFlags::IN));
        }
        poll(&mut fds, (!self.accepting).then_some(&ACCEPT_PAUSE))?;
        let ready = tokens.into_iter().zip(fds.iter().map(PollFd::revents));
        // Later outputs first: reading one may end it and shift those after it.
        Ok(ready
            .filter(|(_, events)| !events.is_empty())
            .rev()
            .collect())
    }

    fn accept(&mut self, index: usize) {
        match self.listeners[index].accept() {
            Ok(Some(connection)) => {
                self.sessions.push(Session::new(connection));
                // The request has most likely come meanwhile: look at once,
                // instead of through `poll`.
                let newest = self.sessions.len() - 1;
                self.guarded(newest, |session, _, scratch| {
                    session.on_ready(Part::Connection, PollFlags::IN, scratch);
                });
            }
            Ok(None) => {}
            Err(error) => {
                log::error(format_args!("a connection could not be accepted: {error}"));
                self.accepting = false;
            }
        }
    }

    fn on_signals(&mut self) {
        let mut records = [0; 4 * signals::RECORD];
        let len = read(&self.signals, &mut records).unwrap_or(0);
        for signal in signals::numbers(&records[..len]) {
            if signal == libc::SIGCHLD {
                self.reap();
            } else {
                self.guest.powering_off = true;
            }
        }
    }

    /// Reaps every process that has ended: programs that the host started, and
    /// orphans.
    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            self.child_ended(pid, status);
        }
    }

    fn child_ended(&mut self, pid: Pid, status: WaitStatus) {
        if let Some(main) = &mut self.guest.main
            && main.program.pid() == pid
            && main.program.status().is_none()
        {
            main.program.ended(status);
        }
        for session in &mut self.sessions {
            session.child_ended(pid, status);
        }
    }

    /// Lets every conversation do what it can, and forgets those that are over.
    fn settle(&mut self) {
        if let Some(main) = &mut self.guest.main {
            main.settle(&mut self.scratch);
        }
        let identity = self.guest.cid;
        for index in 0..self.sessions.len() {
            self.guarded(index, Session::settle);
        }
        if self.guest.cid != identity
            && let Some(cid) = self.guest.cid
        {
            for session in &mut self.sessions {
                session.belong_to(cid);
            }
        }
        self.sessions.retain(|session| !session.is_over());
        let sessions = self.sessions.iter();
        let main = self.guest.main.as_ref();
        self.guest.running_programs = sessions.filter(|it| it.has_running_program()).count()
            + usize::from(main.is_some_and(|main| main.program.status().is_none()));
    }

    /// A bug of the agent's ends one conversation, never PID 1.
    fn guarded(&mut self, index: usize, step: impl FnOnce(&mut Session, &mut Guest, &mut [u8])) {
        let session = &mut self.sessions[index];
        let (guest, scratch) = (&mut self.guest, self.scratch.as_mut_slice());
        let result = catch_unwind(AssertUnwindSafe(|| step(session, guest, scratch)));
        if result.is_err() {
            log::error(format_args!("a conversation was given up after a panic"));
            session.disconnect();
        }
    }
}
