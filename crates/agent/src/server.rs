//! The loop: waits for whatever can happen, and lets each conversation do its
//! part.
//!
//! `poll`, not `epoll`: what is waited for is worked out anew from the state of
//! things each time, so the two cannot disagree; and for the few descriptors of
//! an ordinary guest one call to `poll` is cheaper than keeping a set up to date.

use crate::copy::{Copy, Ticket};
use crate::environment::Environment;
use crate::listener::Listener;
use crate::log;
use crate::machine::Machine;
use crate::main_program::MainProgram;
use crate::program::Program;
use crate::session::{Part, Session};
use crate::sys::signals;
use hyperfork_api::Identity;
use hyperfork_api::frame::CHUNK;
use hyperfork_api::guest::{Command, Failure, Reply, Request};
use hyperfork_api::secret::Secret;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, read};
use rustix::process::{Pid, WaitOptions, WaitStatus, wait};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Programs started by the host that may run at once: each takes four of the
/// 1 024 descriptors a process has.
const MAX_PROGRAMS: usize = 200;

/// How long no connection is accepted where there was no descriptor for one.
const ACCEPT_PAUSE: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 100_000_000,
};

/// The guest as the conversations see it.
pub(crate) struct Guest {
    machine: Box<dyn Machine>,
    environment: Environment,
    /// Variables that only the machine with this identity may have.
    secrets: Vec<(String, Secret)>,
    main: Option<MainProgram>,
    /// Who this machine is; `None` from boot until it is told.
    cid: Option<u32>,
    running_programs: usize,
    copies: Ticket,
    powering_off: bool,
}

/// How a conversation goes on.
pub(crate) enum Answer {
    /// It ends with this reply.
    Reply(Reply),
    /// It carries this program's streams.
    Run(Program),
    /// It carries the main program's output from this offset on.
    Follow(u64),
    /// It carries a copy; the ticket is given back when it is done.
    Copy(Copy, Ticket),
}

impl Guest {
    /// The main program, if one was started.
    pub(crate) fn main(&self) -> Option<&MainProgram> {
        self.main.as_ref()
    }

    /// Does what the host asks on a connection that was addressed to `cid`.
    ///
    /// # Errors
    /// The [`Failure`] to reply with.
    pub(crate) fn answer(&mut self, request: Request, cid: u32) -> Result<Answer, Failure> {
        match request {
            Request::Identify {
                identity,
                realtime_ns,
                shares,
                secrets,
            } => {
                let machine = &mut self.machine;
                check_cid(&identity, cid)?;
                machine.identify(&identity, realtime_ns, &shares, &secrets)?;
                self.cid = Some(cid);
                self.secrets = secrets.variables;
                return Ok(Answer::Reply(Reply::Identified {
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                }));
            }
            Request::PowerOff => {
                self.powering_off = true;
                return Ok(Answer::Reply(Reply::Ok));
            }
            _ => self.machine.follow_host(),
        }
        if request == Request::Ping {
            return Ok(Answer::Reply(Reply::Ok));
        }
        // A clone still has its parent's identity, but the host addresses it by
        // its own CID.
        if self.cid != Some(cid) {
            return Err(refused("this machine has not been told who it is yet"));
        }
        match request {
            Request::Exec(command) => self.start(&command).map(Answer::Run),
            Request::StartMain(command) => self.start_main(&command),
            Request::FollowMain { from } => match &self.main {
                Some(main) => Ok(Answer::Follow(from.unwrap_or(main.output().end()))),
                None => Err(no_main()),
            },
            Request::SignalMain(signal) => self.signal_main(signal),
            Request::CountMain => match &mut self.main {
                Some(main) => Ok(Answer::Reply(Reply::Counted(main.keep_all()))),
                None => Err(no_main()),
            },
            Request::CopyIn { path } => self.copy(Copy::In(path)),
            Request::CopyOut { path } => self.copy(Copy::Out(path)),
            Request::Ping | Request::Identify { .. } | Request::PowerOff => {
                Ok(Answer::Reply(Reply::Ok))
            }
        }
    }

    fn start(&mut self, command: &Command) -> Result<Program, Failure> {
        if self.running_programs >= MAX_PROGRAMS {
            return Err(refused(&format!(
                "{MAX_PROGRAMS} programs are running already"
            )));
        }
        let environment = self.environment.with_secrets(&self.secrets);
        let program = Program::start(command, &environment)?;
        self.running_programs += 1;
        Ok(program)
    }

    fn start_main(&mut self, command: &Command) -> Result<Answer, Failure> {
        if self.main.is_some() {
            return Err(refused("the main program was started already"));
        }
        if command.stdin {
            return Err(refused("the main program has no standard input"));
        }
        self.main = Some(MainProgram::new(self.start(command)?));
        Ok(Answer::Reply(Reply::Ok))
    }

    fn signal_main(&self, signal: i32) -> Result<Answer, Failure> {
        let main = self.main.as_ref().ok_or_else(no_main)?;
        match main.program.signal(signal) {
            Ok(()) => Ok(Answer::Reply(Reply::Ok)),
            Err(error) => Err(refused(&format!("signal {signal}: {error}"))),
        }
    }

    fn copy(&self, copy: Copy) -> Result<Answer, Failure> {
        match self.copies.another() {
            Some(ticket) => Ok(Answer::Copy(copy, ticket)),
            None => Err(refused("too many copies are under way")),
        }
    }
}

fn check_cid(identity: &Identity, cid: u32) -> Result<(), Failure> {
    if identity.cid == cid {
        return Ok(());
    }
    Err(refused(&format!(
        "the identity's CID is {}, but this machine was addressed as {cid}",
        identity.cid
    )))
}

fn refused(why: &str) -> Failure {
    Failure::Refused(why.to_owned())
}

fn no_main() -> Failure {
    refused("no main program was started")
}

/// All that is served.
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
            guest: Guest {
                machine,
                environment: Environment::inherited(),
                secrets: Vec::new(),
                main: None,
                cid: None,
                running_programs: 0,
                copies: Ticket::default(),
                powering_off: false,
            },
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

    /// Waits until something can be done, and tells what.
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
        // The last, which comes first below: before a clone is told who it is.
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

    /// Takes leave of every process that has ended: programs of the host's, and
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

    /// A mistake of ours costs one conversation, never PID 1.
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
