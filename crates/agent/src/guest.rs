//! Answers the host's requests.

use crate::copy::{Copy, Ticket};
use crate::environment::Environment;
use crate::machine::Machine;
use crate::main_program::MainProgram;
use crate::program::Program;
use hyperfork_api::Identity;
use hyperfork_api::guest::{Command, Failure, Reply, Request};
use hyperfork_api::secret::Secret;

/// Programs started by the host that may run at once: each takes four of the
/// 1 024 descriptors a process has.
const MAX_PROGRAMS: usize = 200;

/// The guest as the conversations see it.
pub(crate) struct Guest {
    pub(crate) machine: Box<dyn Machine>,
    environment: Environment,
    /// Variables that only the machine with this identity may have.
    secrets: Vec<(String, Secret)>,
    pub(crate) main: Option<MainProgram>,
    /// This machine's CID; `None` from boot until the host sends the identity.
    pub(crate) cid: Option<u32>,
    pub(crate) running_programs: usize,
    copies: Ticket,
    pub(crate) powering_off: bool,
}

/// How a conversation continues after its request.
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
    /// On this machine, before the first request.
    pub(crate) fn new(machine: Box<dyn Machine>) -> Self {
        Self {
            machine,
            environment: Environment::inherited(),
            secrets: Vec::new(),
            main: None,
            cid: None,
            running_programs: 0,
            copies: Ticket::default(),
            powering_off: false,
        }
    }

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
